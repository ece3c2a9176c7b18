//! Interarrival jitter in the kernel: that samples are taken, and of what. Timestamps that run far
//! ahead of the clock make the differences, so no test waits and none depends on the clock's value.

use exporter_ebpf::abi::{Clock, FlowKeyV4, RECEIVE, StreamValue, UDP};
use exporter_tests::packets::{self, Ends, REMOTE_V4, ethernet};
use exporter_tests::prog::{Constants, Frame, Program};

const PORT: u16 = 5_000;
const SSRC: u32 = 77;
/// In the units of the table.
const MICROSECONDS: u32 = 16;

#[test]
fn timestamps_half_a_second_apart_that_come_at_once() {
    let Some(program) = load(Constants::default()) else { return };
    for number in 0..200_u16 {
        packet(&program, number, u32::from(number) * 45_000);
    }
    let [video, opus, telephone] = stream(&program).jitter.map(|jitter| jitter / MICROSECONDS);
    assert!((200_000..=500_000).contains(&video), "{video}");
    assert!((500_000..=937_500).contains(&opus), "{opus}");
    assert_eq!(telephone, 0, "5.6 seconds apart are no sample");
}

#[test]
fn a_stream_of_many_packets_is_sampled_for_ever() {
    let Some(program) = load(Constants::default()) else { return };
    packet(&program, 1, 0);
    let frame = frame(1, 0);
    program.repeat("count_receive", Frame::from(&frame[..]), 10_000).expect("runs");
    let before = stream(&program);
    // The next pair begins within so many packets.
    assert!(before.next_sample.wrapping_sub(before.total.packets as u32) <= 32);
    for number in 2..400_u16 {
        packet(&program, number, u32::from(number) * 45_000);
    }
    let after = stream(&program);
    assert!(after.jitter[Clock::Khz90 as usize] > before.jitter[Clock::Khz90 as usize]);
}

#[test]
fn it_can_be_switched_off() {
    let constants = Constants { jitter: false, ..Constants::default() };
    let Some(program) = load(constants) else { return };
    for number in 0..50_u16 {
        packet(&program, number, u32::from(number) * 45_000);
    }
    let stream = stream(&program);
    assert_eq!((stream.total.packets, stream.sample_arrival, stream.jitter), (50, 0, [0; 3]));
}

/// The program, which counts a frame as often as it is run; or says that the test is skipped.
fn load(constants: Constants) -> Option<Program> {
    exporter_tests::root_or_skip().then(|| {
        let constants = Constants { skip_seen: false, ..constants };
        let mut program = Program::load(&constants).expect("the kernel program loads");
        let ends = Ends::v4(RECEIVE, PORT);
        let told = FlowKeyV4 {
            remote: REMOTE_V4,
            remote_port: ends.remote_port,
            local_port: ends.local_port,
            proto: UDP,
            ..FlowKeyV4::default()
        };
        program.tell_v4(told).expect("told");
        program
    })
}

fn packet(program: &Program, sequence: u16, timestamp: u32) {
    let frame = frame(sequence, timestamp);
    program.run("count_receive", Frame::from(&frame[..])).expect("runs");
}

fn frame(sequence: u16, timestamp: u32) -> Vec<u8> {
    let mut rtp = packets::rtp(SSRC, sequence, 0, None, 100);
    rtp[4..8].copy_from_slice(&timestamp.to_be_bytes());
    let ends = Ends::v4(RECEIVE, PORT);
    ethernet(&[], &ends.ip(packets::UDP, &ends.udp(&rtp)))
}

fn stream(program: &Program) -> StreamValue {
    let streams = program.streams_v4().expect("read");
    let (_, stream) = streams.values().find(|(key, _)| key.ssrc == SSRC).expect("a stream");
    *stream
}
