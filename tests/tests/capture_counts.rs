//! Packet capture counts what eBPF counts, of the same traffic; and both keep jitter, or neither.

use anyhow::Result;
use exporter_tests::pair::{Pair, counted, options, start, start_with};
use exporter_tests::rtp::Packet;
use exporter_tests::{root_or_skip, wait};
use mediasoup_exporter::kernel::{Method, MethodChoice, Options};
use mediasoup_exporter::model::Direction::{Receive, Send};
use mediasoup_exporter::model::{Clock, Flow, Reading, Stream};

#[test]
fn capture_and_ebpf_count_the_same() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let pair = Pair::new()?;
    let captured = start(&pair.sfu, &["sfu0"], MethodChoice::Capture)?;
    let counting = start(&pair.sfu, &["sfu0"], MethodChoice::Ebpf)?;
    assert_eq!(captured.method(), Method::Capture);
    for (local, remote) in [("10.77.0.1:40000", "10.77.0.2"), ("[fd77::1]:40000", "fd77::2")] {
        let mut talk = pair.connect(local, remote)?;
        for round in 0..5 {
            talk.say(Receive, 100 + round, 60, 20 + 200 * round as usize)?;
            talk.say(Send, 200 + round, 40, 1200)?;
        }
        // Neither RTP nor anything else that is known, and DTLS by its first byte.
        talk.peer.send(&[0xff; 33])?;
        talk.peer.send(&[22; 44])?;
        talk.sfu.send(&[22; 55])?;
        for _ in 0..2 {
            talk.sfu.recv(&mut [0; 100])?;
        }
    }
    wait::until_equal("capture to count what eBPF counts", wait::LONG, || {
        Ok((rows(&captured.read()?), rows(&counting.read()?)))
    })?;
    assert_eq!(counted(&captured.read()?, Receive, 104).0, 120);
    assert_eq!(captured.status().capture_lost, Some(0));
    Ok(())
}

#[test]
fn jitter_is_kept_unless_it_is_off() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let pair = Pair::new()?;
    for method in [MethodChoice::Capture, MethodChoice::Ebpf] {
        for jitter in [true, false] {
            let interfaces = vec!["sfu0".to_owned()];
            let counting =
                start_with(&pair.sfu, Options { interfaces, method, jitter, ..options() })?;
            let talk = pair.connect("10.77.0.1:40000", "10.77.0.2")?;
            for number in 0..200_u16 {
                // Timestamps half a second apart, of packets that come at once.
                let packet = Packet {
                    sequence: number,
                    timestamp: u32::from(number) * 45_000,
                    ssrc: 7,
                    ..Packet::default()
                };
                talk.peer.send(&packet.to_bytes())?;
                talk.sfu.recv(&mut [0; 100])?;
            }
            let reading = wait::until("all packets to be counted", wait::LONG, || {
                let reading = counting.read()?;
                Ok((counted(&reading, Receive, 7).0 == 200).then_some(reading))
            })?;
            let millis = reading.streams[0].jitter[Clock::Khz90 as usize] / 16_000;
            let expected = if jitter { 200..=500 } else { 0..=0 };
            assert!(expected.contains(&millis), "{method:?}, {jitter}: {millis} ms");
        }
    }
    Ok(())
}

/// Everything but what depends on when it is read, and on the order of the directions: capture hears
/// each with a socket of its own, so a stream may take a stranger's room with one method and a known
/// one's with the other.
fn rows(reading: &Reading) -> (Vec<String>, Vec<String>) {
    let flow = |flow: &Flow| format!("{:?} {} {:?}", flow.tuple, flow.known, flow.counts);
    let stream = |stream: &Stream| {
        let Stream { tuple, direction, ssrc, payload_type, total, .. } = stream;
        let Stream { received, expected, out_of_order, duplicates, restarts, .. } = stream;
        let sequence = (received, expected, out_of_order, duplicates, restarts);
        format!("{tuple:?} {direction:?} {ssrc} {payload_type} {total:?} {sequence:?}")
    };
    let mut rows: (Vec<String>, Vec<String>) =
        (reading.flows.iter().map(flow).collect(), reading.streams.iter().map(stream).collect());
    rows.0.sort();
    rows.1.sort();
    rows
}
