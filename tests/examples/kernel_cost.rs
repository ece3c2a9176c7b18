//! Nanoseconds a packet of the kernel program, beside a program that does nothing and the least
//! that could be called counting: interleaved rounds of BPF_PROG_TEST_RUN, medians and spread.

use anyhow::Result;
use aya::programs::SchedClassifier;
use aya::{Ebpf, TestRun as _, TestRunOptions};
use exporter_tests::prog::{Constants, Frame, Program};

static BASELINE: &[u8] = aya::include_bytes_aligned!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../exporter-ebpf/prebuilt/baseline.o"
));

const ROUNDS: usize = 15;
const REPEAT: u32 = 1_000_000;

fn main() -> Result<()> {
    let mut baseline = Ebpf::load(BASELINE)?;
    for (_, program) in baseline.programs_mut() {
        let program: &mut SchedClassifier = program.try_into()?;
        program.load()?;
    }
    let constants = Constants { skip_seen: false, ..Constants::default() };
    let mut known = Program::load(&constants)?;
    println!("{:?}", known.verified()?);
    let v4 = udp_v4(0, 5000, 40_000);
    let vlan = udp_v4(1, 5000, 40_000);
    let v6 = udp_v6(5000, 40_000);
    let outside = udp_v4(0, 5000, 30_000);
    let key = exporter_ebpf::abi::FlowKeyV4 {
        remote: [203, 0, 113, 7],
        remote_port: 5000,
        local_port: 40_000,
        proto: 17,
        ..Default::default()
    };
    known.tell_v4(key)?;
    known.tell_v6(exporter_ebpf::abi::FlowKeyV6 {
        remote: [7; 16],
        remote_port: 5000,
        local_port: 40_000,
        proto: 17,
        ..Default::default()
    })?;
    let full = Program::load(&Constants { strangers: 0, ..constants })?;
    let mut full_local =
        Program::load(&Constants { strangers: 0, check_local: true, ..constants })?;
    full_local.set_local_v4([192, 0, 2, 1])?;
    let mut stun = udp_v4(0, 5000, 40_000);
    stun[42..50].copy_from_slice(&[0, 1, 0, 80, 0x21, 0x12, 0xa4, 0x42]);

    type Case<'a> = (&'a str, Box<dyn Fn() -> Result<u128> + 'a>);
    let base = |name: &'static str| {
        let program: &SchedClassifier = baseline.program(name).unwrap().try_into().unwrap();
        let v4 = &v4;
        move || -> Result<u128> {
            Ok(program
                .test_run(TestRunOptions {
                    data_in: Some(v4),
                    repeat: REPEAT,
                    ..Default::default()
                })?
                .duration
                .as_nanos())
        }
    };
    fn ours<'a>(
        program: &'a Program,
        name: &'static str,
        frame: &'a [u8],
    ) -> Box<dyn Fn() -> Result<u128> + 'a> {
        Box::new(move || Ok(program.repeat(name, Frame::from(frame), REPEAT)?.1.as_nanos()))
    }
    let cases: Vec<Case<'_>> = vec![
        ("empty", Box::new(base("empty"))),
        ("minimal", Box::new(base("minimal"))),
        ("known v4", ours(&known, "count_receive", &v4)),
        ("known v4 raw", ours(&known, "count_receive_raw", &v4[14..])),
        ("known v4 vlan", ours(&known, "count_receive", &vlan)),
        ("known v6", ours(&known, "count_receive", &v6)),
        ("outside", ours(&known, "count_receive", &outside)),
        ("stranger, full", ours(&full, "count_receive", &v4)),
        ("stranger, full, local", ours(&full_local, "count_receive", &v4)),
        ("known v4 stun", ours(&known, "count_receive", &stun)),
    ];
    let mut results = vec![vec![]; cases.len()];
    for _ in 0..ROUNDS {
        for (index, (_, case)) in cases.iter().enumerate() {
            results[index].push(case()?);
        }
    }
    for result in &mut results {
        result.sort();
    }
    let minimal = results[1][ROUNDS / 2] as f64;
    for ((name, _), result) in cases.iter().zip(&results) {
        let median = result[ROUNDS / 2];
        println!(
            "{name:24} {median:4} ns  ({}–{})  {:.2} x",
            result[0],
            result[ROUNDS - 1],
            median as f64 / minimal
        );
    }
    Ok(())
}

fn rtp() -> Vec<u8> {
    let mut rtp = vec![0x90, 96, 0, 1, 0, 0, 0, 1, 1, 2, 3, 4, 0xbe, 0xde, 0, 1, 0, 0, 0, 0];
    rtp.resize(1_100, 0);
    rtp
}

fn udp_v4(tags: usize, source: u16, destination: u16) -> Vec<u8> {
    let rtp = rtp();
    let mut frame = vec![0; 12];
    for _ in 0..tags {
        frame.extend([0x81, 0x00, 0, 5]);
    }
    frame.extend([0x08, 0x00, 0x45, 0]);
    frame.extend((28 + rtp.len() as u16).to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 17, 0, 0, 203, 0, 113, 7, 192, 0, 2, 1]);
    frame.extend(source.to_be_bytes());
    frame.extend(destination.to_be_bytes());
    frame.extend((8 + rtp.len() as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(rtp);
    frame
}

fn udp_v6(source: u16, destination: u16) -> Vec<u8> {
    let rtp = rtp();
    let mut frame = vec![0; 12];
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend((8 + rtp.len() as u16).to_be_bytes());
    frame.extend([17, 64]);
    frame.extend([7; 16]);
    frame.extend([8; 16]);
    frame.extend(source.to_be_bytes());
    frame.extend(destination.to_be_bytes());
    frame.extend((8 + rtp.len() as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(rtp);
    frame
}
