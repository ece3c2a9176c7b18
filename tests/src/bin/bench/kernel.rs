//! Nanoseconds a packet of the kernel program, beside a program that does nothing and the least
//! that could be called counting, by BPF_PROG_TEST_RUN.

use anyhow::{Context as _, Result};
use aya::programs::SchedClassifier;
use aya::{Ebpf, TestRun as _, TestRunOptions};
use exporter_ebpf::abi::{FlowKeyV4, FlowKeyV6};
use exporter_tests::prog::{Constants, Frame, Program};

use crate::Effort;
use crate::figures::{Case, Figure, Spread, Target, interleaved};

static BASELINE: &[u8] = aya::include_bytes_aligned!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../exporter-ebpf/prebuilt/baseline.o"
));

/// Runs of one sample.
const REPEAT: u32 = 1_000_000;
const PART: &str = "kernel";
const EMPTY: &str = "empty program";
const MINIMAL: &str = "minimal counter";

/// Measures.
pub fn measure(effort: Effort) -> Result<Vec<Figure>> {
    let repeat = if effort.quick { REPEAT / 10 } else { REPEAT };
    let baseline = baseline()?;
    let constants = Constants { skip_seen: false, ..Constants::default() };
    let mut known = Program::load(&constants)?;
    tell(&mut known)?;
    let mut without_jitter = Program::load(&Constants { jitter: false, ..constants })?;
    tell(&mut without_jitter)?;
    let full = Program::load(&Constants { strangers: 0, ..constants })?;
    let strict = Constants { strangers: 0, check_local: true, ..constants };
    let mut full_local = Program::load(&strict)?;
    full_local.set_local_v4([192, 0, 2, 1], 32)?;
    let (v4, v6) = (udp_v4(0, 40_000), udp_v6(40_000));
    let (vlan, outside) = (udp_v4(1, 40_000), udp_v4(0, 30_000));
    let mut stun = v4.clone();
    stun[42..50].copy_from_slice(&[0, 1, 0, 80, 0x21, 0x12, 0xa4, 0x42]);

    let ours = |program, frame| case(program, frame, repeat);
    let mut cases: Vec<Case<'_>> = vec![
        bare(&baseline, "empty", &v4, repeat)?,
        bare(&baseline, "minimal", &v4, repeat)?,
        ours(&known, &v4),
        ours(&without_jitter, &v4),
        ours(&known, &v6),
        ours(&known, &vlan),
        ours(&known, &outside),
        ours(&full, &v4),
        ours(&full_local, &v4),
        ours(&known, &stun),
    ];
    let results = interleaved(effort.rounds, &mut cases)?;
    Ok(figures(&results))
}

fn figures(results: &[Spread]) -> Vec<Figure> {
    let (empty, minimal) = (results[0], results[1]);
    let rows = [
        ("RTP of a known IPv4 stream, with jitter", Target::Times(2.0)),
        ("the same, without jitter", Target::Times(1.5)),
        ("RTP of a known IPv6 stream", Target::Times(1.8)),
        ("RTP of a known IPv4 stream, one VLAN tag in the data", Target::Times(1.8)),
        ("outside the port range", Target::Above(3.0)),
        ("a stranger's RTP, strangers' table full", Target::Times(2.5)),
        ("the same, local addresses checked", Target::Times(2.5)),
        ("STUN of a known flow", Target::None),
    ];
    rows.into_iter()
        .zip(&results[2..])
        .map(|((name, target), &spread)| {
            let figure = Figure::new(PART, name, "ns").measured(spread).target(target);
            match target {
                Target::Above(_) => figure.beside(EMPTY, empty),
                _ => figure.beside(MINIMAL, minimal),
            }
        })
        .collect()
}

fn baseline() -> Result<Ebpf> {
    let mut baseline = Ebpf::load(BASELINE).context("load the baseline's programs")?;
    for (_, program) in baseline.programs_mut() {
        let program: &mut SchedClassifier = program.try_into()?;
        program.load()?;
    }
    Ok(baseline)
}

fn tell(program: &mut Program) -> Result<()> {
    let (remote_port, local_port, proto) = (5000, 40_000, 17);
    let remote = [203, 0, 113, 7];
    program.tell_v4(FlowKeyV4 { remote, remote_port, local_port, proto, ..Default::default() })?;
    let remote = [7; 16];
    program.tell_v6(FlowKeyV6 { remote, remote_port, local_port, proto, ..Default::default() })
}

fn bare<'a>(programs: &'a Ebpf, name: &str, frame: &'a [u8], repeat: u32) -> Result<Case<'a>> {
    let program: &SchedClassifier =
        programs.program(name).with_context(|| format!("no program `{name}`"))?.try_into()?;
    Ok(Box::new(move || {
        let options = TestRunOptions { data_in: Some(frame), repeat, ..Default::default() };
        Ok(program.test_run(options)?.duration.as_nanos() as f64)
    }))
}

fn case<'a>(program: &'a Program, frame: &'a [u8], repeat: u32) -> Case<'a> {
    Box::new(move || {
        let (_, mean) = program.repeat("count_receive", Frame::from(frame), repeat)?;
        Ok(mean.as_nanos() as f64)
    })
}

fn rtp() -> Vec<u8> {
    let mut rtp = vec![0x90, 96, 0, 1, 0, 0, 0, 1, 1, 2, 3, 4, 0xbe, 0xde, 0, 1, 0, 0, 0, 0];
    rtp.resize(1_100, 0);
    rtp
}

fn udp(destination: u16) -> Vec<u8> {
    let rtp = rtp();
    let mut datagram = Vec::new();
    for field in [5000, destination, 8 + rtp.len() as u16, 0] {
        datagram.extend(field.to_be_bytes());
    }
    datagram.extend(rtp);
    datagram
}

fn udp_v4(tags: usize, destination: u16) -> Vec<u8> {
    let udp = udp(destination);
    let mut frame = vec![0; 12];
    for _ in 0..tags {
        frame.extend([0x81, 0x00, 0, 5]);
    }
    frame.extend([0x08, 0x00, 0x45, 0]);
    frame.extend((20 + udp.len() as u16).to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 17, 0, 0, 203, 0, 113, 7, 192, 0, 2, 1]);
    frame.extend(udp);
    frame
}

fn udp_v6(destination: u16) -> Vec<u8> {
    let udp = udp(destination);
    let mut frame = vec![0; 12];
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend((udp.len() as u16).to_be_bytes());
    frame.extend([17, 64]);
    frame.extend([7; 16]);
    frame.extend([8; 16]);
    frame.extend(udp);
    frame
}
