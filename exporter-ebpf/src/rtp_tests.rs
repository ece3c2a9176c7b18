//! Classes by example; sequence state against a model that remembers every number it has seen.

extern crate std;

use std::collections::BTreeSet;
use std::vec;
use std::vec::Vec;

use super::*;
use crate::random::Random;

fn content_of(payload: &[u8]) -> Content {
    classify(&Within { frame: Bytes::new(payload), offset: 0 }, payload.len() as u32)
}

fn padded(start: &[u8], length: usize) -> Vec<u8> {
    let mut payload = start.to_vec();
    payload.resize(length, 0);
    payload
}

#[test]
fn classes() {
    #[track_caller]
    fn check(start: &[u8], length: usize, expected: Kind) {
        assert_eq!(content_of(&padded(start, length)), expected.alone());
    }
    let cookie = [0x21, 0x12, 0xa4, 0x42];
    let stun = |kind: [u8; 2]| [&kind[..], &[0, 0], &cookie].concat();
    let stun_of = |length: u8| [&[0x01, 0x01, 0, length][..], &cookie].concat();
    check(&stun([0x00, 0x01]), 20, Kind::Stun);
    check(&stun([0x01, 0x01]), 20, Kind::StunSuccess);
    check(&stun([0x01, 0x11]), 20, Kind::Stun);
    check(&stun([0x00, 0x11]), 20, Kind::Stun);
    check(&stun([0x01, 0x01]), 19, Kind::Other);
    check(&[0x00, 0x01, 0, 0, 1, 2, 3, 4], 20, Kind::Other);
    check(&[16], 30, Kind::Other);
    check(&stun_of(8), 28, Kind::StunSuccess);
    check(&stun_of(12), 28, Kind::Other);
    check(&stun_of(7), 28, Kind::Other);
    check(&[20], 30, Kind::Other);
    check(&[63], 2, Kind::Other);
    check(&[64, 0], 30, Kind::Other);
    check(&[79], 30, Kind::Other);
    check(&[], 0, Kind::Other);
    check(&[0x80, 192], 8, Kind::Rtcp);
    check(&[0x81, 223], 64, Kind::Rtcp);
    check(&[0x80, 192], 3, Kind::BadRtp);
    check(&[0x80], 1, Kind::Other);
    check(&[0x80], 2, Kind::BadRtp);
    check(&[0x80, 96], 11, Kind::BadRtp);
    check(&[0x8f, 96], 12 + 59, Kind::BadRtp);
    check(&[0x90, 96], 15, Kind::BadRtp);
    check(&[0xc0, 96], 40, Kind::Other);
}

#[test]
fn dtls_is_what_has_its_version_and_length() {
    #[track_caller]
    fn check(lead: [u8; 3], told: u16, length: usize, expected: Kind) {
        let record = [&lead[..], &[0; 8], &told.to_be_bytes()].concat();
        assert_eq!(content_of(&padded(&record, length)), expected.alone(), "{lead:?} {told}");
    }
    for kind in [20, 21, 22, 23, 24, 26] {
        check([kind, 0xfe, 0xfd], 17, 30, Kind::Dtls);
    }
    for version in [[0xfe, 0xff], [0x01, 0x00]] {
        check([22, version[0], version[1]], 17, 30, Kind::Dtls);
    }
    // A datagram may hold several records.
    check([22, 0xfe, 0xfd], 4, 30, Kind::Dtls);
    // An alert is the shortest.
    check([21, 0xfe, 0xfd], 2, 15, Kind::Dtls);
    for (lead, told) in [
        ([19, 0xfe, 0xfd], 17),
        ([25, 0xfe, 0xfd], 17),
        ([27, 0xfe, 0xfd], 17),
        ([31, 0xfe, 0xfd], 17),
        // TLS 1.2, and a version that there is not.
        ([22, 3, 3], 17),
        ([22, 0xfe, 0xfe], 17),
        ([22, 0xfe, 0xfd], 18),
        ([22, 0xfe, 0xfd], 0),
    ] {
        check(lead, told, 30, Kind::Other);
    }
    check([22, 0xfe, 0xfd], 0, 12, Kind::Other);
}

#[test]
fn dtls_1_3_is_what_has_its_length() {
    let check = |header: &[u8], length, expected: Kind| {
        assert_eq!(content_of(&padded(header, length)), expected.alone(), "{header:?}");
    };
    check(&[0x24, 9, 0, 16], 20, Kind::Dtls);
    check(&[0x2f, 9, 9, 0, 16], 21, Kind::Dtls);
    check(&[0x2f, 9, 9, 0, 16], 60, Kind::Dtls);
    check(&[0x24, 9, 0, 17], 20, Kind::Other);
    check(&[0x2f, 9, 9, 0, 17], 21, Kind::Other);
    check(&[0x24, 9, 0, 15], 60, Kind::Other);
    // Without a length; with a connection ID.
    check(&[0x28, 9, 9, 0, 16], 21, Kind::Other);
    check(&[0x34, 9, 0, 16], 20, Kind::Other);
}

#[test]
fn rtp_header_is_read_and_must_fit() {
    let header = [0x80, 0x80 | 111, 0x12, 0x34, 1, 2, 3, 4, 0xde, 0xad, 0xbe, 0xef];
    let rtp =
        Rtp { ssrc: 0xdead_beef, sequence: 0x1234, timestamp: 0x0102_0304, payload_type: 111 };
    assert_eq!(content_of(&header), Content { kind: Kind::Rtp, rtp });

    let mut with_sources = padded(&header, 12 + 15 * 4);
    with_sources[0] = 0x8f;
    assert_eq!(content_of(&with_sources), Content { kind: Kind::Rtp, rtp });

    let mut with_extension = padded(&header, 12 + 4 + 4 + 8);
    with_extension[0] = 0x91;
    with_extension[16..20].copy_from_slice(&[0xbe, 0xde, 0, 2]);
    assert_eq!(content_of(&with_extension), Content { kind: Kind::Rtp, rtp });
    with_extension[19] = 3;
    assert_eq!(content_of(&with_extension), Kind::BadRtp.alone());
}

#[test]
fn what_cannot_be_read_is_not_guessed() {
    let frame = [0x90u8, 96, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7];
    for readable in 0..frame.len() {
        let payload = Within { frame: Bytes::new(&frame[..readable]), offset: 0 };
        assert_eq!(classify(&payload, 100).kind, Kind::Unreadable, "{readable} bytes");
    }
    let payload = Within { frame: Bytes::new(&frame), offset: 0 };
    assert_eq!(classify(&payload, 100).kind, Kind::Unreadable);
}

/// What a receiver that forgets nothing would say.
#[derive(Default)]
struct Model {
    /// Numbers of the current run, extended by distance to its highest; empty before the first.
    run: BTreeSet<i64>,
    base: i64,
    expected_prior: i64,
    packets: u64,
    received: u64,
    late: u64,
    duplicates: u64,
    restarts: u32,
    /// Last number that was far off.
    far: Option<u16>,
}

impl Model {
    fn packet(&mut self, sequence: u16) {
        self.packets += 1;
        let Some(&highest) = self.run.last() else {
            return self.start(sequence);
        };
        let distance = (sequence as i64 - highest).rem_euclid(65536);
        let extended = if distance < 3000 {
            highest + distance
        } else if 65536 - distance < 100 {
            highest + distance - 65536
        } else {
            if self.far.map(|far| far.wrapping_add(1)) == Some(sequence) {
                self.expected_prior += highest - self.base + 1;
                self.restarts += 1;
                self.start(sequence);
            } else {
                self.far = Some(sequence);
            }
            return;
        };
        self.received += 1;
        if highest - extended < 64 && self.run.contains(&extended) {
            self.duplicates += 1;
        } else if extended < highest {
            self.late += 1;
        }
        self.run.insert(extended);
    }

    fn start(&mut self, sequence: u16) {
        self.run = BTreeSet::from([sequence as i64]);
        self.base = sequence as i64;
        self.far = None;
        self.received += 1;
    }

    fn expected(&self) -> i64 {
        self.expected_prior + self.run.last().map_or(0, |highest| highest - self.base + 1)
    }
}

#[track_caller]
fn check(sequences: impl IntoIterator<Item = u16>) -> StreamValue {
    let mut stream = StreamValue::default();
    let mut model = Model::default();
    for (index, sequence) in sequences.into_iter().enumerate() {
        let rtp = Rtp { ssrc: 1, sequence, timestamp: index as u32, payload_type: 96 };
        count(&mut stream, &rtp, 100, index as u64);
        model.packet(sequence);
        let counted = (
            stream.total.packets,
            stream.total.bytes,
            received(&stream),
            expected(&stream) as i64,
            stream.out_of_order,
            stream.duplicates,
            stream.restarts,
        );
        let modelled = (
            model.packets,
            model.packets * 100,
            model.received,
            model.expected(),
            model.late,
            model.duplicates,
            model.restarts,
        );
        assert_eq!(counted, modelled, "after packet {index}, number {sequence}");
    }
    stream
}

#[test]
fn in_order_across_the_wrap() {
    let stream = check((0..200_000u32).map(|n| (n + 65_000) as u16));
    assert_eq!((expected(&stream), received(&stream)), (200_000, 200_000));
    assert_eq!(stream.max_seq - stream.base_seq, 199_999);
}

#[test]
fn loss_is_what_was_expected_and_did_not_come() {
    let stream = check((0..70_000u32).filter(|n| n % 10 != 3).map(|n| n as u16));
    assert_eq!(expected(&stream) - received(&stream), 7_000);
    let stream = check([10, 10 + 2999]);
    assert_eq!((expected(&stream), stream.restarts), (3000, 0));
}

#[test]
fn late_and_double() {
    let stream = check([1, 2, 4, 3, 3, 4, 5, 5]);
    assert_eq!((stream.out_of_order, stream.duplicates), (1, 3));
    let stream = check([65_534, 0, 65_535, 1]);
    assert_eq!((stream.out_of_order, expected(&stream)), (1, 4));
    // Late by 64 to 99: too old to know whether it is double.
    let stream = check([200, 136, 137, 137, 101, 101]);
    assert_eq!((stream.out_of_order, stream.duplicates), (4, 1));
}

#[test]
fn restarts_need_two_in_a_row() {
    let stream = check([1, 2, 30_000, 3]);
    assert_eq!((stream.restarts, stream.received, stream.total.packets), (0, 3, 4));
    let stream = check([1, 2, 30_000, 30_001, 30_002]);
    assert_eq!((stream.restarts, expected(&stream)), (1, 4));
    // Number 0 after a jump must not be taken for the confirmation of one.
    let stream = check([30_000, 0, 30_001]);
    assert_eq!(stream.restarts, 0);
    // The number before the wrap confirms with 0.
    let stream = check([30_000, 65_535, 0]);
    assert_eq!(stream.restarts, 1);
}

#[test]
fn random_sequences_agree_with_the_model() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..400 {
        let mut number = random.below(65_536) as u16;
        let mut sequences = vec![];
        for _ in 0..2_000 {
            match random.below(100) {
                0..=79 => number = number.wrapping_add(1),
                80..=84 => number = number.wrapping_add(random.below(70) as u16),
                85 => number = number.wrapping_add(random.below(4_000) as u16),
                86 => number = random.below(65_536) as u16,
                _ => {
                    sequences.push(number.wrapping_sub(random.below(120) as u16));
                    continue;
                }
            }
            sequences.push(number);
        }
        check(sequences);
    }
}
