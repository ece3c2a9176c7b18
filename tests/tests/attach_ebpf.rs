//! Attaching to interfaces of a real kernel: everything is counted once, others' programs go on
//! running, and nothing is left behind.

use std::process::Command;

use anyhow::{Result, ensure};
use aya::programs::{SchedClassifier, TcAttachType};
use exporter_ebpf::abi::Event;
use exporter_tests::netns::Netns;
use exporter_tests::pair::{Pair, counted, options, start, start_with};
use exporter_tests::root_or_skip;
use mediasoup_exporter::kernel::{Counting, Mechanism, MethodChoice, Options};
use mediasoup_exporter::model::Direction::{Receive, Send};
use mediasoup_exporter::model::Reading;

#[test]
fn tcx_counts_both_directions_and_families() -> Result<()> {
    counts_everything(Mechanism::Auto)
}

#[test]
fn clsact_counts_both_directions_and_families() -> Result<()> {
    counts_everything(Mechanism::Clsact)
}

fn counts_everything(mechanism: Mechanism) -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let pair = Pair::new()?;
    let counting = start_by(&pair.sfu, mechanism)?;
    for (local, remote) in [("10.77.0.1:40000", "10.77.0.2"), ("[fd77::1]:40000", "fd77::2")] {
        let mut talk = pair.connect(local, remote)?;
        let received = talk.say(Receive, 11, 100, 800)?;
        let sent = talk.say(Send, 22, 50, 1100)?;
        let reading = counting.read()?;
        let peer = talk.peer.local_addr()?;
        let flow = reading.flows.iter().find(|flow| flow.tuple.remote == peer).unwrap();
        assert!(flow.known, "proven by RTP in both directions");
        assert_eq!(flow.tuple.local.to_string(), local);
        let stream = |direction| {
            let streams = &reading.streams;
            let found = |stream: &&mediasoup_exporter::model::Stream| {
                stream.tuple == flow.tuple && stream.direction == direction
            };
            streams.iter().find(found).map(|stream| (stream.total, stream.expected)).unwrap()
        };
        assert_eq!((stream(Receive).0.packets, stream(Receive).0.bytes), (100, received));
        assert_eq!((stream(Send).0.packets, stream(Send).0.bytes), (50, sent));
        assert_eq!((stream(Receive).1, stream(Send).1), (100, 50));
    }
    Ok(())
}

#[test]
fn programs_behind_ours_go_on_running() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let pair = Pair::new()?;
    // The kernel runs clsact's filters behind all of TCX.
    let filter = start_by(&pair.sfu, Mechanism::Clsact)?;
    let behind = start(&pair.sfu, &["sfu0"], MethodChoice::Ebpf)?;
    // Attaches in front of the first two, which then find every packet counted already.
    let before = start(&pair.sfu, &["sfu0"], MethodChoice::Ebpf)?;
    let mut talk = pair.connect("10.77.0.1:40000", "10.77.0.2")?;
    talk.say(Receive, 1, 30, 100)?;
    talk.say(Send, 2, 20, 100)?;
    let before = before.read()?;
    assert_eq!((counted(&before, Receive, 1).0, counted(&before, Send, 2).0), (30, 20));
    for later in [behind.read()?, filter.read()?] {
        assert!(later.streams.is_empty());
        assert_eq!(seen_before(&later), [30, 20]);
    }
    Ok(())
}

#[test]
fn detaching_leaves_nothing() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let pair = Pair::new()?;
    drop(start_by(&pair.sfu, Mechanism::Auto)?);
    let left = pair.sfu.run_in(|| SchedClassifier::query_tcx("sfu0", TcAttachType::Ingress))?;
    assert!(left.1.is_empty(), "TCX programs are left");

    let counting = start_by(&pair.sfu, Mechanism::Clsact)?;
    let shown = tc(&pair.sfu, "filter show dev sfu0 egress")?;
    ensure!(shown.contains("mediasoup-exporter:count_send"), "{shown}");
    drop(counting);
    let shown = tc(&pair.sfu, "qdisc show dev sfu0")?;
    ensure!(!shown.contains("clsact"), "our qdisc is left: {shown}");
    Ok(())
}

#[test]
fn others_qdisc_and_filters_stay() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let pair = Pair::new()?;
    tc(&pair.sfu, "qdisc add dev sfu0 clsact")?;
    drop(start_by(&pair.sfu, Mechanism::Clsact)?);
    ensure!(tc(&pair.sfu, "qdisc show dev sfu0")?.contains("clsact"), "their qdisc is gone");

    tc(&pair.sfu, "qdisc del dev sfu0 clsact")?;
    let counting = start_by(&pair.sfu, Mechanism::Clsact)?;
    // A classic filter that matches nothing; the underscores are its blanks.
    tc(&pair.sfu, "filter add dev sfu0 egress bpf bytecode 1,6_0_0_0")?;
    drop(counting);
    let shown = tc(&pair.sfu, "filter show dev sfu0 egress")?;
    ensure!(shown.contains("bytecode"), "their filter is gone: {shown}");
    ensure!(!shown.contains("mediasoup-exporter"), "our filter is left: {shown}");
    Ok(())
}

#[test]
fn what_a_crashed_run_left_is_replaced() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let pair = Pair::new()?;
    // Never dropped, as if the process had been killed.
    std::mem::forget(start_by(&pair.sfu, Mechanism::Clsact)?);
    let counting = start_by(&pair.sfu, Mechanism::Clsact)?;
    for side in ["ingress", "egress"] {
        let shown = tc(&pair.sfu, &format!("filter show dev sfu0 {side}"))?;
        assert_eq!(shown.matches("mediasoup-exporter:").count(), 1, "{shown}");
    }
    let mut talk = pair.connect("10.77.0.1:40000", "10.77.0.2")?;
    talk.say(Receive, 1, 10, 100)?;
    assert_eq!(counted(&counting.read()?, Receive, 1).0, 10);
    Ok(())
}

fn start_by(host: &Netns, mechanism: Mechanism) -> Result<Counting> {
    let interfaces = vec!["sfu0".to_owned()];
    start_with(host, Options { interfaces, mechanism, method: MethodChoice::Ebpf, ..options() })
}

fn seen_before(reading: &Reading) -> [u64; 2] {
    reading.events[Event::SeenBefore as usize].map(|counter| counter.packets)
}

fn tc(host: &Netns, arguments: &str) -> Result<String> {
    let words = arguments.split_whitespace().map(|word| word.replace('_', " "));
    let output = Command::new("tc").args(["-n", host.name()]).args(words).output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "tc {arguments}: {errors}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
