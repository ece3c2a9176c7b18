//! Admission: who gets an entry in which table, who keeps it, and that nothing is lost on the way.

use exporter_ebpf::abi::{
    Class, Counter, Event, FlowKeyV4, FlowKeyV6, FlowValue, KNOWN, Occupancy, RECEIVE,
    RESERVED_SSRCS, SEND, StreamValue, Tend, UDP,
};
use exporter_ebpf::rtp::{self, Rtp};
use exporter_ebpf::table::WAYS;
use exporter_tests::packets::{
    self, Ends, LOCAL_V4, REMOTE_V4, REMOTE_V6, STUN_ERROR, STUN_REQUEST, STUN_SUCCESS, TCP,
    ethernet, stun,
};
use exporter_tests::prog::{Constants, Frame, Program};

const PORT: u16 = 5_000;
const SSRC: u32 = 77;

/// Loads the program, or says that the test is skipped.
fn load(constants: Constants) -> Option<Program> {
    exporter_tests::root_or_skip()
        .then(|| Program::load(&constants).expect("the kernel program loads"))
}

/// A flow's traffic, in both directions.
struct Talk<'a> {
    program: &'a Program,
    is_v6: bool,
    port: u16,
}

impl<'a> Talk<'a> {
    fn v4(program: &'a Program, port: u16) -> Self {
        Self { program, is_v6: false, port }
    }

    fn ends(&self, direction: u8) -> Ends {
        Ends { is_v6: self.is_v6, ..Ends::v4(direction, self.port) }
    }

    fn datagram(&self, direction: u8, payload: &[u8]) {
        let ends = self.ends(direction);
        run(self.program, direction, &ethernet(&[], &ends.ip(packets::UDP, &ends.udp(payload))));
    }

    fn segment(&self, direction: u8, payload: &[u8]) {
        let ends = self.ends(direction);
        run(self.program, direction, &ethernet(&[], &ends.ip(TCP, &ends.tcp(&[], payload))));
    }

    /// An RTP packet of 112 bytes.
    fn rtp(&self, direction: u8, ssrc: u32, sequence: u16) {
        self.datagram(direction, &packets::rtp(ssrc, sequence, 0, None, 100));
    }

    fn flow(&self) -> Option<FlowValue> {
        if self.is_v6 {
            let flows = self.program.flows_v6().expect("read");
            flows.values().find(|(key, _)| key.remote_port == self.port).map(|(_, flow)| *flow)
        } else {
            let flows = self.program.flows_v4().expect("read");
            flows.values().find(|(key, _)| key.remote_port == self.port).map(|(_, flow)| *flow)
        }
    }

    fn stream(&self, direction: u8, ssrc: u32) -> Option<StreamValue> {
        if self.is_v6 {
            let streams = self.program.streams_v6().expect("read");
            let mut ours = streams.values().filter(|(key, _)| {
                (key.flow.remote_port, key.flow.direction) == (self.port, direction)
            });
            ours.find(|(key, _)| key.ssrc == ssrc).map(|(_, stream)| *stream)
        } else {
            let streams = self.program.streams_v4().expect("read");
            let mut ours = streams.values().filter(|(key, _)| {
                (key.flow.remote_port, key.flow.direction) == (self.port, direction)
            });
            ours.find(|(key, _)| key.ssrc == ssrc).map(|(_, stream)| *stream)
        }
    }

    fn is_known(&self) -> bool {
        self.flow().expect("a flow").flags & KNOWN != 0
    }
}

fn run(program: &Program, direction: u8, frame: &[u8]) {
    let name = if direction == RECEIVE { "count_receive" } else { "count_send" };
    assert_eq!(program.run(name, Frame::from(frame)).expect("runs"), Some(-1));
}

fn told(port: u16) -> FlowKeyV4 {
    FlowKeyV4 {
        remote: REMOTE_V4,
        remote_port: port,
        local_port: 40_000,
        proto: UDP,
        ..FlowKeyV4::default()
    }
}

#[track_caller]
fn check_occupancy(program: &Program, expected: [(Occupancy, u64); 4]) {
    let occupancy = program.occupancy().expect("read");
    for (cell, entries) in expected {
        assert_eq!(occupancy[cell as usize], entries, "{cell:?}");
    }
}

fn occupied(flows: u64, streams: u64, strangers: u64, theirs: u64) -> [(Occupancy, u64); 4] {
    [
        (Occupancy::Flows, flows),
        (Occupancy::Streams, streams),
        (Occupancy::Strangers, strangers),
        (Occupancy::StrangerStreams, theirs),
    ]
}

#[test]
fn forged_strangers_neither_push_out_nor_block_a_caller() {
    let Some(mut program) = load(Constants::default()) else { return };
    program.tell_v4(told(PORT)).expect("told");
    program.tell_v4(told(PORT + 1)).expect("told");
    let mut forged = ethernet(&[], &{
        let ends = Ends::v4(RECEIVE, 1);
        ends.ip(packets::UDP, &ends.udp(&packets::rtp(SSRC, 1, 0, None, 100)))
    });
    for number in 0..20_000u16 {
        forged[26..28].copy_from_slice(&number.to_be_bytes());
        run(&program, RECEIVE, &forged);
        if number % 100 == 0 {
            Talk::v4(&program, PORT).rtp(RECEIVE, SSRC, number / 100);
        }
    }
    // One who comes while the strangers' table is full.
    let late = Talk::v4(&program, PORT + 1);
    late.rtp(RECEIVE, SSRC, 1);
    assert!(late.is_known());
    let caller = Talk::v4(&program, PORT).stream(RECEIVE, SSRC).expect("a stream");
    assert_eq!(caller.total, Counter { packets: 200, bytes: 200 * 112 });
    assert_eq!((rtp::expected(&caller), rtp::received(&caller)), (200, 200));
    check_occupancy(&program, occupied(2, 2, 100, 100));
    let full = program.event(Event::StrangersFull, RECEIVE).expect("read");
    assert_eq!(full, Counter { packets: 19_900, bytes: 19_900 * 112 });
}

#[test]
fn a_stranger_that_is_told_later_keeps_what_it_had() {
    let Some(mut program) = load(Constants::default()) else { return };
    for is_v6 in [false, true] {
        let talk = Talk { program: &program, is_v6, port: PORT };
        talk.rtp(RECEIVE, SSRC, 1);
        talk.datagram(RECEIVE, &stun(STUN_REQUEST, 8));
        assert!(!talk.is_known());
    }
    check_occupancy(&program, occupied(0, 0, 2, 2));
    program.tell_v4(told(PORT)).expect("told");
    let wide = FlowKeyV6 {
        remote: REMOTE_V6,
        remote_port: PORT,
        local_port: 40_000,
        proto: UDP,
        ..FlowKeyV6::default()
    };
    program.tell_v6(wide).expect("told");
    for is_v6 in [false, true] {
        let talk = Talk { program: &program, is_v6, port: PORT };
        talk.rtp(RECEIVE, SSRC, 2);
        talk.rtp(RECEIVE, SSRC, 4);
        assert!(talk.is_known());
        let stream = talk.stream(RECEIVE, SSRC).expect("a stream");
        assert_eq!(stream.flags, KNOWN);
        assert_eq!(stream.total, Counter { packets: 3, bytes: 3 * 112 });
        assert_eq!((rtp::expected(&stream), rtp::received(&stream)), (4, 3));
        let counts = talk.flow().expect("a flow").counts[usize::from(RECEIVE)];
        assert_eq!(counts[Class::Stun as usize], Counter { packets: 1, bytes: 28 });
        assert_eq!(counts[Class::Rtp as usize], Counter::default());
    }
    check_occupancy(&program, occupied(2, 2, 0, 0));
}

#[test]
fn both_sides_speaking_makes_a_flow_known() {
    let Some(program) = load(Constants::default()) else { return };
    let proofs: [(&str, Vec<u8>); 4] = [
        ("RTP", packets::rtp(1, 1, 0, None, 10)),
        ("RTCP", packets::beginning(&[0x81, 200], 28)),
        ("DTLS", packets::dtls(packets::DTLS_HANDSHAKE, packets::DTLS_1_2, 60, 60)),
        ("STUN success", stun(STUN_SUCCESS, 12)),
    ];
    for (index, (name, proof)) in proofs.iter().enumerate() {
        let talk = Talk::v4(&program, PORT + index as u16);
        talk.rtp(RECEIVE, SSRC, 1);
        assert!(!talk.is_known(), "{name}");
        talk.datagram(SEND, proof);
        assert!(talk.is_known(), "{name}");
        talk.rtp(RECEIVE, SSRC, 2);
        let stream = talk.stream(RECEIVE, SSRC).expect("a stream");
        assert_eq!((stream.flags, stream.total.packets), (KNOWN, 2), "{name}");
    }
    // Four flows, each with its received stream, one with a sent one too.
    check_occupancy(&program, occupied(4, 5, 0, 0));
    // The SFU may speak first.
    let talk = Talk::v4(&program, PORT + 10);
    talk.rtp(SEND, SSRC, 1);
    assert!(!talk.is_known());
    talk.datagram(RECEIVE, &stun(STUN_REQUEST, 8));
    assert!(talk.is_known());
}

#[test]
fn errors_and_empty_segments_prove_nothing() {
    let Some(program) = load(Constants::default()) else { return };
    let talk = Talk::v4(&program, PORT);
    for _ in 0..10 {
        talk.datagram(RECEIVE, &stun(STUN_REQUEST, 80));
        talk.datagram(SEND, &stun(STUN_ERROR, 12));
        talk.datagram(SEND, &stun(STUN_REQUEST, 12));
        talk.datagram(SEND, b"whatever");
        // DTLS and STUN by their first byte only.
        talk.datagram(SEND, &packets::beginning(&[22], 60));
        talk.datagram(SEND, &packets::dtls(packets::DTLS_HANDSHAKE, packets::DTLS_1_2, 61, 60));
        talk.datagram(SEND, &stun(STUN_SUCCESS, 12)[..28]);
    }
    assert!(!talk.is_known());
    let tcp = Talk::v4(&program, PORT + 1);
    tcp.segment(RECEIVE, b"");
    tcp.segment(SEND, b"");
    tcp.segment(RECEIVE, b"");
    assert!(!tcp.is_known());
    tcp.segment(RECEIVE, b"something");
    tcp.segment(SEND, b"");
    assert!(!tcp.is_known());
    // As an HTTP server would answer, whose port lies in the range.
    tcp.segment(SEND, b"something else, and more than a STUN header has");
    tcp.segment(SEND, &framed(&stun(STUN_ERROR, 12)));
    assert!(!tcp.is_known());
    tcp.segment(SEND, &framed(&stun(STUN_SUCCESS, 12)));
    assert!(tcp.is_known());
}

/// RFC 4571 §2.
fn framed(datagram: &[u8]) -> Vec<u8> {
    let length = u16::try_from(datagram.len()).expect("fits a frame");
    [&length.to_be_bytes()[..], datagram].concat()
}

#[test]
fn whom_the_host_answers_needs_no_strangers_place() {
    let Some(program) = load(Constants { strangers: 2, ..Constants::default() }) else { return };
    for forged in 0..4 {
        Talk::v4(&program, PORT + forged).datagram(RECEIVE, &stun(STUN_REQUEST, 80));
    }
    check_occupancy(&program, occupied(0, 0, 2, 0));
    let caller = Talk::v4(&program, PORT + 100);
    caller.datagram(RECEIVE, &stun(STUN_REQUEST, 80));
    caller.datagram(SEND, &stun(STUN_ERROR, 12));
    assert!(caller.flow().is_none());
    caller.datagram(SEND, &stun(STUN_SUCCESS, 12));
    assert!(caller.is_known());
    caller.rtp(RECEIVE, SSRC, 1);
    assert_eq!(caller.stream(RECEIVE, SSRC).expect("a stream").total.packets, 1);
    check_occupancy(&program, occupied(1, 1, 2, 0));
}

#[test]
fn a_flow_has_so_many_streams_and_no_more() {
    let Some(mut program) = load(Constants { ssrcs: 8, ..Constants::default() }) else { return };
    program.tell_v4(told(PORT)).expect("told");
    let talk = Talk::v4(&program, PORT);
    for ssrc in 0..20 {
        talk.rtp(RECEIVE, ssrc, 1);
        talk.rtp(RECEIVE, ssrc, 2);
    }
    assert_eq!(program.streams_v4().expect("read").len(), 8);
    let flow = talk.flow().expect("a flow");
    assert_eq!(flow.streams, 8);
    let refused = Counter { packets: 24, bytes: 24 * 112 };
    assert_eq!(flow.counts[usize::from(RECEIVE)][Class::Rtp as usize], refused);
    assert_eq!(program.event(Event::SsrcsFull, RECEIVE).expect("read"), refused);
    check_occupancy(&program, occupied(1, 8, 0, 0));

    // Userspace gives back what it deleted, and the kernel admits that many again.
    let mut key = FlowKeyV6::default();
    let words = FlowKeyV4 { local: LOCAL_V4, ..told(PORT) }.words();
    key = FlowKeyV6::from_words({
        let mut all = key.words();
        all[..4].copy_from_slice(&words);
        all
    });
    let tend = Tend { family: 4, streams: 3, key, ..Tend::default() };
    let first = program.tend(&tend).expect("tends");
    assert_eq!(talk.flow().expect("a flow").streams, 5);
    for ssrc in 30..40 {
        talk.rtp(RECEIVE, ssrc, 1);
    }
    assert_eq!(program.streams_v4().expect("read").len(), 11);
    let second = program.tend(&Tend::default()).expect("tends");
    assert!(second.wrapping_sub(first) < u32::MAX / 2, "the clock does not go back");
}

#[test]
fn full_tables_are_counted_by_cause() {
    let proven = [2, 3];
    let small =
        Constants { flows: 2, streams: 3, proven, stranger_streams: 1, ..Constants::default() };
    let Some(mut program) = load(small) else { return };
    for port in 0..4 {
        program.tell_v4(told(PORT + port)).expect("told");
    }
    let one = Counter { packets: 1, bytes: 112 };
    for port in 0..2 {
        Talk::v4(&program, PORT + port).rtp(RECEIVE, 1, 1);
    }
    Talk::v4(&program, PORT + 2).rtp(RECEIVE, 1, 1);
    assert_eq!(program.event(Event::FlowsFull, RECEIVE).expect("read"), one);
    assert!(Talk::v4(&program, PORT + 2).flow().is_none());

    let talk = Talk::v4(&program, PORT);
    talk.rtp(RECEIVE, 2, 1);
    talk.rtp(SEND, 3, 1);
    assert_eq!(program.event(Event::StreamsFull, SEND).expect("read"), one);
    let flow = talk.flow().expect("a flow");
    assert_eq!(flow.counts[usize::from(SEND)][Class::Rtp as usize], one);
    assert_eq!(flow.streams, 2);

    let stranger = Talk::v4(&program, PORT + 100);
    stranger.rtp(RECEIVE, 1, 1);
    stranger.rtp(RECEIVE, 2, 1);
    assert_eq!(program.event(Event::StrangerStreamsFull, RECEIVE).expect("read"), one);
    let flow = stranger.flow().expect("a flow");
    assert_eq!(flow.counts[usize::from(RECEIVE)][Class::Rtp as usize], one);
    check_occupancy(&program, occupied(2, 3, 1, 1));

    // A stranger that proves itself while there is no room stays one, and goes on being counted.
    stranger.rtp(SEND, 1, 1);
    assert!(!stranger.is_known());
    assert_eq!(program.event(Event::FlowsFull, SEND).expect("read"), one);
    stranger.rtp(RECEIVE, 1, 2);
    let stream = stranger.stream(RECEIVE, 1).expect("a stream");
    assert_eq!(stream.total, Counter { packets: 2, bytes: 224 });
    check_occupancy(&program, occupied(2, 3, 1, 1));
}

/// Those who only proved themselves fill their part of the tables; who is told finds room all the same.
#[test]
fn a_part_of_the_tables_is_kept_for_those_who_are_told() {
    let small = Constants { flows: 10, streams: 20, proven: [8, 16], ..Constants::default() };
    let Some(mut program) = load(small) else { return };
    for port in 0..10 {
        let talk = Talk::v4(&program, PORT + port);
        talk.rtp(RECEIVE, 1, 1);
        talk.rtp(SEND, 2, 1);
        assert_eq!(talk.is_known(), port < 8);
    }
    // A stream has a place of its flow's kind: each has brought one of two along when it became known.
    check_occupancy(&program, occupied(8, 8, 2, 12));
    for port in 0..8 {
        Talk::v4(&program, PORT + port).rtp(RECEIVE, 1, 2);
    }
    check_occupancy(&program, occupied(8, 16, 2, 4));
    Talk::v4(&program, PORT).rtp(RECEIVE, 3, 1);
    let one = Counter { packets: 1, bytes: 112 };
    assert_eq!(program.event(Event::StreamsFull, RECEIVE).expect("read"), one);
    for port in [100, 101, 102] {
        program.tell_v4(told(PORT + port)).expect("told");
        let talk = Talk::v4(&program, PORT + port);
        talk.rtp(RECEIVE, 1, 1);
        talk.rtp(SEND, 2, 1);
        assert_eq!(talk.flow().is_some_and(|_| talk.is_known()), port < 102);
    }
    check_occupancy(&program, occupied(10, 20, 2, 4));
    // One who had proved himself is told when there is no room, and then when there is.
    program.tell_v4(told(PORT + 8)).expect("told");
    let late = Talk::v4(&program, PORT + 8);
    late.rtp(RECEIVE, 1, 2);
    assert!(!late.is_known());
}

/// Who has his share gets no more; what he sends is counted where it can be.
#[test]
fn a_greedy_address_stays_a_stranger_until_a_server_tells_it() {
    let Some(mut program) = load(Constants { ssrcs: 100, ..Constants::default() }) else { return };
    program.hold_back_v4(REMOTE_V4).expect("held back");
    program.hold_back_v6(REMOTE_V6).expect("held back");
    for is_v6 in [false, true] {
        let talk = Talk { is_v6, ..Talk::v4(&program, PORT) };
        talk.rtp(RECEIVE, 1, 1);
        talk.rtp(SEND, 2, 1);
        talk.rtp(RECEIVE, 1, 2);
        assert!(!talk.is_known());
        assert_eq!(talk.stream(RECEIVE, 1).expect("a stream").total.packets, 2);
    }
    let refused = program.event(Event::ShareFull, SEND).expect("read").packets;
    assert_eq!(refused, 2);
    program.tell_v4(told(PORT)).expect("told");
    let talk = Talk::v4(&program, PORT);
    talk.rtp(RECEIVE, 1, 3);
    assert!(talk.is_known());
    // Its streams have room of their own, up to a number.
    for ssrc in 10..10 + RESERVED_SSRCS {
        talk.rtp(RECEIVE, ssrc, 1);
    }
    let flow = talk.flow().expect("a flow");
    assert_eq!(flow.streams, RESERVED_SSRCS);
    let refused = program.event(Event::ShareFull, RECEIVE).expect("read").packets;
    assert_eq!(flow.counts[usize::from(RECEIVE)][Class::Rtp as usize].packets, 2);
    assert_eq!(refused, 2 + 2, "strangers' packets, and two streams too many");
}

#[test]
fn streams_that_meet_in_one_bucket_are_told_apart() {
    let alike = Constants { seed: 0, ..Constants::default() };
    let Some(mut program) = load(alike) else { return };
    program.tell_v4(told(PORT)).expect("told");
    let talk = Talk::v4(&program, PORT);
    let streams = WAYS as u32 + 2;
    for sequence in 1..=3 {
        for ssrc in 1..=streams {
            talk.rtp(RECEIVE, ssrc, sequence);
        }
    }
    let three = Counter { packets: 3, bytes: 3 * 112 };
    for ssrc in 1..=streams {
        let counted = talk.stream(RECEIVE, ssrc).map(|stream| stream.total);
        assert_eq!(counted, (ssrc <= WAYS as u32).then_some(three));
    }
    let homeless = Counter { packets: 6, bytes: 6 * 112 };
    assert_eq!(program.event(Event::InsertFailed, RECEIVE).expect("read"), homeless);
    let flow = talk.flow().expect("a flow");
    assert_eq!(flow.counts[usize::from(RECEIVE)][Class::Rtp as usize], homeless);
    assert_eq!(flow.streams, WAYS as u32);
    check_occupancy(&program, occupied(1, WAYS as u64, 0, 0));
}

#[test]
fn a_stream_whose_lock_stays_taken_is_counted_in_its_flow() {
    let Some(mut program) = load(Constants::default()) else { return };
    program.tell_v4(told(PORT)).expect("told");
    program.lock_streams(true).expect("set");
    let talk = Talk::v4(&program, PORT);
    talk.rtp(RECEIVE, SSRC, 1);
    assert!(talk.stream(RECEIVE, SSRC).is_none());
    let one = Counter { packets: 1, bytes: 112 };
    assert_eq!(program.event(Event::InsertFailed, RECEIVE).expect("read"), one);
    let flow = talk.flow().expect("a flow");
    assert_eq!(flow.counts[usize::from(RECEIVE)][Class::Rtp as usize], one);
    assert_eq!(flow.streams, 0);
    check_occupancy(&program, occupied(1, 0, 0, 0));
    program.lock_streams(false).expect("set");
    let talk = Talk::v4(&program, PORT);
    talk.rtp(RECEIVE, SSRC, 2);
    assert_eq!(talk.stream(RECEIVE, SSRC).expect("a stream").total, one);
    assert_eq!(talk.flow().expect("a flow").streams, 1);
}

#[test]
fn what_is_not_local_is_passed_over() {
    let Some(mut program) = load(Constants { check_local: true, ..Constants::default() }) else {
        return;
    };
    let talk = Talk::v4(&program, PORT);
    talk.rtp(RECEIVE, SSRC, 1);
    assert!(talk.flow().is_none());
    let one = Counter { packets: 1, bytes: 112 };
    assert_eq!(program.event(Event::NotLocal, RECEIVE).expect("read"), one);
    program.set_local_v4(LOCAL_V4, 32).expect("set");
    let talk = Talk::v4(&program, PORT);
    talk.rtp(RECEIVE, SSRC, 2);
    assert_eq!(talk.stream(RECEIVE, SSRC).expect("a stream").total, one);
}

#[test]
fn a_frame_is_counted_once() {
    let Some(program) = load(Constants::default()) else { return };
    for (direction, name) in [(RECEIVE, "count_receive"), (SEND, "count_send")] {
        let ends = Ends::v4(direction, PORT);
        let media = packets::rtp(SSRC, 1, 0, None, 100);
        let frame = ethernet(&[], &ends.ip(packets::UDP, &ends.udp(&media)));
        // Repeated runs see the same frame, as the interfaces of a bridge do.
        program.repeat(name, Frame::from(&frame[..]), 4).expect("runs");
        let stream = Talk::v4(&program, PORT).stream(direction, SSRC).expect("a stream");
        assert_eq!(stream.total, Counter { packets: 1, bytes: 112 });
        let seen = program.event(Event::SeenBefore, direction).expect("read");
        assert_eq!(seen, Counter { packets: 3, bytes: 336 });
    }
}

#[test]
fn two_processors_lose_nothing() {
    const TIMES: u32 = 300_000;
    let constants = Constants { skip_seen: false, ..Constants::default() };
    let Some(mut program) = load(constants) else { return };
    program.tell_v4(told(PORT)).expect("told");
    let ends = Ends::v4(RECEIVE, PORT);
    let frame = |payload: &[u8]| ethernet(&[], &ends.ip(packets::UDP, &ends.udp(payload)));
    let media = frame(&packets::rtp(SSRC, 1, 0, None, 100));
    let control = frame(&packets::beginning(&[0x81, 200], 28));
    std::thread::scope(|scope| {
        for frame in [&media, &media, &control, &control] {
            let program = &program;
            scope.spawn(move || {
                program.repeat("count_receive", Frame::from(&frame[..]), TIMES).expect("runs")
            });
        }
    });
    let talk = Talk::v4(&program, PORT);
    let stream = talk.stream(RECEIVE, SSRC).expect("a stream");
    let packets = u64::from(TIMES) * 2;
    // Without memory for its stream, a packet counts for its flow.
    let counts = talk.flow().expect("a flow").counts[usize::from(RECEIVE)];
    let all = [stream.total, stream.contended, counts[Class::Rtp as usize]];
    assert_eq!(all.iter().map(|it| it.packets).sum::<u64>(), packets);
    assert_eq!(all.iter().map(|it| it.bytes).sum::<u64>(), packets * 112);
    assert_eq!(stream.received, stream.total.packets);
    assert_eq!(stream.duplicates, stream.total.packets - 1);
    assert_eq!(stream.lock, 0);
    let contended = program.event(Event::Contended, RECEIVE).expect("read");
    assert_eq!(contended, stream.contended);
    let expected = Counter { packets, bytes: packets * 28 };
    assert_eq!(counts[Class::Rtcp as usize], expected);
    check_occupancy(&program, occupied(1, 1, 0, 0));
}

#[test]
fn two_processors_agree_on_who_is_new() {
    let Some(program) = load(Constants { strangers: 500, ..Constants::default() }) else { return };
    std::thread::scope(|scope| {
        for direction in [RECEIVE, SEND, RECEIVE, SEND] {
            let program = &program;
            scope.spawn(move || {
                for port in 1..400 {
                    Talk::v4(program, port).rtp(direction, SSRC, 1);
                }
            });
        }
    });
    // Each stream was made known at the latest by the second packet after its flow was; whatever
    // the order was, room and entries agree.
    let flows = program.flows_v4().expect("read");
    assert_eq!(flows.len(), 399);
    assert!(flows.values().all(|(_, flow)| flow.flags & KNOWN != 0));
    let streams = program.streams_v4().expect("read");
    let known = streams.values().filter(|(_, stream)| stream.flags & KNOWN != 0).count() as u64;
    check_occupancy(&program, occupied(399, known, 0, streams.len() as u64 - known));
    let in_streams: u64 =
        streams.values().map(|(_, stream)| stream.total.packets + stream.contended.packets).sum();
    let in_flows: u64 = flows
        .values()
        .map(|(_, flow)| flow.counts.iter().map(|counts| counts[0].packets).sum::<u64>())
        .sum();
    assert_eq!(in_streams + in_flows, 4 * 399);
}

#[test]
fn the_kernel_keeps_sequences_as_the_host_does() {
    // The two would read different clocks.
    let constants = Constants { jitter: false, ..Constants::default() };
    let Some(mut program) = load(constants) else { return };
    program.tell_v4(told(PORT)).expect("told");
    let talk = Talk::v4(&program, PORT);
    let mut expected = StreamValue { bad_seq: rtp::NO_SEQUENCE, ..StreamValue::default() };
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut number = 65_000u16;
    for _ in 0..6_000 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        number = match random >> 57 {
            0..=99 => number.wrapping_add(1),
            100..=109 => number.wrapping_add((random >> 32) as u16 % 80),
            110..=112 => (random >> 32) as u16,
            _ => number,
        };
        let late = if random >> 57 > 112 { (random >> 32) as u16 % 110 } else { 0 };
        let sequence = number.wrapping_sub(late);
        talk.rtp(RECEIVE, SSRC, sequence);
        let header = Rtp { ssrc: SSRC, sequence, timestamp: 0x3c0, payload_type: 96 };
        rtp::count(&mut expected, &header, 112, 0);
    }
    let got = talk.stream(RECEIVE, SSRC).expect("a stream");
    assert!(expected.restarts > 0 && expected.duplicates > 0 && expected.out_of_order > 0);
    assert_eq!(StreamValue { last_seen: 0, flags: 0, ..got }, expected);
}
