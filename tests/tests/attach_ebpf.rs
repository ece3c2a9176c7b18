//! Attaching to interfaces of a real kernel: everything is counted once, others' programs go on
//! running, and nothing is left behind.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use exporter_ebpf::abi::Event;
use exporter_tests::netns::Netns;
use exporter_tests::pair::{Pair, counted, options, start_with};
use exporter_tests::{bpf, prog, root_or_skip, skip};
use mediasoup_exporter::kernel::{Counting, Mechanism, MethodChoice, Options};
use mediasoup_exporter::model::Direction::{Receive, Send};
use mediasoup_exporter::model::Reading;

/// `sfu0` leads into another network namespace, so both programs are on either side of it.
const EACH_SIDE: usize = 2;

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

/// Three exporters with ports of their own: neither ends the chain for the others, nor are its marks
/// theirs.
#[test]
fn programs_behind_ours_go_on_running() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let pair = Pair::new()?;
    // The kernel runs clsact's filters behind all of TCX; TCX puts the last in front.
    let ports = [40_000..=40_299_u16, 40_300..=40_599, 40_600..=40_999];
    let mechanisms = [Mechanism::Clsact, Mechanism::Auto, Mechanism::Auto];
    let countings: Vec<Counting> = ports
        .iter()
        .zip(mechanisms)
        .map(|(ports, mechanism)| {
            let (ports, interfaces) = (ports.clone(), vec!["sfu0".to_owned()]);
            let method = MethodChoice::Ebpf;
            let options =
                Options { ports: Some(ports), interfaces, mechanism, method, ..options() };
            start_with(&pair.sfu, options)
        })
        .collect::<Result<_>>()?;
    for (at, ports) in ports.iter().enumerate() {
        let mut talk = pair.connect(&format!("10.77.0.1:{}", ports.start()), "10.77.0.2")?;
        talk.say(Receive, 1, 30, 100)?;
        talk.say(Send, 2, 20, 100)?;
        for (of, counting) in countings.iter().enumerate() {
            let reading = counting.read()?;
            let found = (counted(&reading, Receive, 1).0, counted(&reading, Send, 2).0);
            assert_eq!(found, if of <= at { (30, 20) } else { (0, 0) }, "{of} after {at}");
            assert_eq!(seen_before(&reading), [0, 0]);
        }
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
    ensure!(shown.contains("mediasoup-exporter:") && shown.contains(":count_send"), "{shown}");
    // Whoever still reads does not keep them there.
    counting.detach();
    let shown = tc(&pair.sfu, "filter show dev sfu0 egress")?;
    ensure!(!shown.contains("mediasoup-exporter:"), "{shown}");
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
fn what_a_killed_exporter_left_is_replaced() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let pair = Pair::new()?;
    let mut first = counting_process(&pair.sfu)?;
    // As long as it lives it is not disturbed, and says who it is.
    let refusal = start_by(&pair.sfu, Mechanism::Clsact).err().context("the second started")?;
    let (refusal, pid) = (format!("{refusal:#}"), format!("process {}, since 20", first.id()));
    ensure!(refusal.contains(&pid) && refusal.contains("--ports"), "{refusal}");
    first.kill()?;
    first.wait()?;
    let shown = tc(&pair.sfu, "filter show dev sfu0 ingress")?;
    ensure!(shown.contains("mediasoup-exporter:"), "nothing was left: {shown}");
    let counting = start_by(&pair.sfu, Mechanism::Clsact)?;
    for side in ["ingress", "egress"] {
        let shown = tc(&pair.sfu, &format!("filter show dev sfu0 {side}"))?;
        assert_eq!(shown.matches("mediasoup-exporter:").count(), EACH_SIDE, "{shown}");
    }
    let mut talk = pair.connect("10.77.0.1:40000", "10.77.0.2")?;
    talk.say(Receive, 1, 10, 100)?;
    assert_eq!(counted(&counting.read()?, Receive, 1).0, 10);
    Ok(())
}

/// Set in a process of [`counting_process`].
const CHILD: &str = "MEX_ATTACH_CHILD";

/// A process of its own that counts by clsact, once it has said so.
fn counting_process(host: &Netns) -> Result<Child> {
    let test = std::env::current_exe()?;
    let mut command = host.command(test.to_str().context("a path that is not UTF-8")?);
    command.args(["--exact", "counts_until_it_is_killed", "--nocapture"]).env(CHILD, "yes");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let stdout = child.stdout.take().context("no stdout")?;
    let mut lines = BufReader::new(stdout).lines();
    let said = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("it counts")));
    said.context("the process did not start to count")??;
    Ok(child)
}

/// No test but the other end of one.
#[test]
fn counts_until_it_is_killed() -> Result<()> {
    if std::env::var_os(CHILD).is_none() {
        return Ok(());
    }
    let interfaces = vec!["sfu0".to_owned()];
    let (mechanism, method) = (Mechanism::Clsact, MethodChoice::Ebpf);
    let _counting = Counting::start(&Options { interfaces, mechanism, method, ..options() })?;
    println!("it counts");
    std::io::stdin().read_line(&mut String::new())?;
    Ok(())
}

/// A name that anybody can take says nothing, whoever says it.
#[test]
fn a_stranger_keeps_no_exporter_from_starting() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let pair = Pair::new()?;
    const PROGRAM: &str = "import os, socket, sys
os.setgid(65534); os.setuid(65534)
s = socket.socket(socket.AF_UNIX)
s.bind('\\0mediasoup-exporter/2/1/1/9/owned')
s.listen(1)
print('it listens', flush=True)
sys.stdin.read()";
    let mut stranger = pair.sfu.command("python3");
    stranger.args(["-c", PROGRAM]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut stranger = stranger.spawn()?;
    let mut line = String::new();
    BufReader::new(stranger.stdout.take().context("no stdout")?).read_line(&mut line)?;
    let started = start_by(&pair.sfu, Mechanism::Auto);
    let root = start_by(&pair.sfu, Mechanism::Auto).map(drop);
    stranger.kill()?;
    stranger.wait()?;
    ensure!(line.contains("it listens"), "{line}");
    assert_eq!(started?.status().interfaces, ["sfu0"]);
    ensure!(root.is_err(), "two exporters count the same");
    Ok(())
}

#[test]
fn a_filter_with_a_priority_of_its_own_is_behind_ours() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let pair = Pair::new()?;
    tc(&pair.sfu, "qdisc add dev sfu0 clsact")?;
    // All of them end the chain with what they match, which is everything.
    let all = "bpf direct-action bytecode 1,6_0_0_0";
    tc(&pair.sfu, &format!("filter add dev sfu0 ingress pref 1 {all}"))?;
    tc(&pair.sfu, &format!("filter add dev sfu0 ingress pref 7 {all}"))?;
    let counting = start_by(&pair.sfu, Mechanism::Clsact)?;
    assert_eq!(counting.status().behind.len(), 0);
    let mut talk = pair.connect("10.77.0.1:40000", "10.77.0.2")?;
    talk.say(Receive, 1, 10, 100)?;
    assert_eq!(counted(&counting.read()?, Receive, 1).0, 10);
    Ok(())
}

#[test]
fn a_filter_in_front_of_ours_is_told() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let pair = Pair::new()?;
    let counting = start_by(&pair.sfu, Mechanism::Clsact)?;
    // The newest of one priority comes first.
    tc(&pair.sfu, "filter add dev sfu0 ingress pref 1 bpf direct-action bytecode 1,6_0_0_0")?;
    pair.sfu.run_in(|| counting.refresh())?;
    let told = counting.status().behind;
    ensure!(told["sfu0"].contains("ingress filter of kind bpf with pref 1"), "{told:?}");
    tc(&pair.sfu, "filter del dev sfu0 ingress pref 1 handle 1 bpf")?;
    pair.sfu.run_in(|| counting.refresh())?;
    assert_eq!(counting.status().behind.len(), 0);
    Ok(())
}

#[test]
fn an_ingress_qdisc_is_not_taken_for_clsact() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let pair = Pair::new()?;
    tc(&pair.sfu, "qdisc add dev sfu0 ingress")?;
    let counting = start_by(&pair.sfu, Mechanism::Clsact).err();
    // Half an interface is none, but for the moment it is all there is.
    let refusal = format!("{:#}", counting.context("nothing is counted, and it started")?);
    ensure!(refusal.contains("egress cannot be counted beside the qdisc `ingress`"), "{refusal}");
    let shown = tc(&pair.sfu, "filter show dev sfu0 ingress")?;
    ensure!(!shown.contains("mediasoup-exporter"), "it was left: {shown}");

    let counting = {
        let interfaces = vec!["sfu0".to_owned(), "lo".to_owned()];
        let (mechanism, method) = (Mechanism::Clsact, MethodChoice::Ebpf);
        start_with(&pair.sfu, Options { interfaces, mechanism, method, ..options() })?
    };
    let status = counting.status();
    assert_eq!(status.interfaces, ["lo"]);
    ensure!(status.failing["sfu0"].contains("clsact"), "{status:?}");
    let shown = tc(&pair.sfu, "filter show dev sfu0 ingress")?;
    // Those for egress have not landed here.
    assert_eq!(shown.matches("mediasoup-exporter:").count(), EACH_SIDE, "{shown}");
    // The remedy that was told.
    tc(&pair.sfu, "qdisc del dev sfu0 ingress")?;
    tc(&pair.sfu, "qdisc add dev sfu0 clsact")?;
    pair.sfu.run_in(|| counting.refresh())?;
    assert_eq!(counting.status().interfaces, ["lo", "sfu0"]);
    assert_eq!(counting.status().failing.len(), 0);
    Ok(())
}

#[test]
fn what_another_tool_removed_is_attached_again() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let pair = Pair::new()?;
    let counting = start_by(&pair.sfu, Mechanism::Clsact)?;
    for removal in ["qdisc del dev sfu0 clsact", "filter del dev sfu0 egress"] {
        tc(&pair.sfu, removal)?;
        pair.sfu.run_in(|| counting.refresh())?;
        assert_eq!(counting.status().interfaces, ["sfu0"], "{removal}");
        for side in ["ingress", "egress"] {
            let shown = tc(&pair.sfu, &format!("filter show dev sfu0 {side}"))?;
            assert_eq!(
                shown.matches("mediasoup-exporter:").count(),
                EACH_SIDE,
                "{removal}: {shown}"
            );
        }
    }
    Ok(())
}

/// A program of somebody else's, put in front of ours, could end the chain.
#[test]
fn a_tcx_program_in_front_of_ours_is_told() -> Result<()> {
    let Some((pair, counting)) = with_tcx()? else { return Ok(()) };
    let mut object = aya::EbpfLoader::new().load(prog::OBJECT)?;
    let program: &mut SchedClassifier =
        object.program_mut("tend").context("a program")?.try_into()?;
    program.load()?;
    let first = TcAttachOptions::TcxOrder(LinkOrder::first());
    let side = TcAttachType::Ingress;
    let link = pair.sfu.run_in(|| program.attach_with_options("sfu0", side, first))?;
    pair.sfu.run_in(|| counting.refresh())?;
    let told = counting.status().behind;
    ensure!(told["sfu0"].contains("the TCX program with id"), "{told:?}");
    program.detach(link)?;
    pair.sfu.run_in(|| counting.refresh())?;
    assert_eq!(counting.status().behind.len(), 0);
    Ok(())
}

#[test]
fn links_that_were_detached_by_force_are_attached_again() -> Result<()> {
    let Some((pair, counting)) = with_tcx()? else { return Ok(()) };
    let chain = || pair.sfu.run_in(|| SchedClassifier::query_tcx("sfu0", TcAttachType::Egress));
    let ours: Vec<u32> = chain()?.1.iter().map(|it| it.id()).collect();
    assert_eq!(ours.len(), EACH_SIDE);
    bpf::detach_by_force(|link| ours.contains(&link.program_id()))?;
    ensure!(chain()?.1.is_empty(), "they are still there");
    pair.sfu.run_in(|| counting.refresh())?;
    assert_eq!(chain()?.1.len(), EACH_SIDE);
    assert_eq!(counting.status().interfaces, ["sfu0"]);
    let mut talk = pair.connect("10.77.0.1:40000", "10.77.0.2")?;
    talk.say(Send, 1, 10, 100)?;
    assert_eq!(counted(&counting.read()?, Send, 1).0, 10);
    Ok(())
}

/// Counting by TCX, where the kernel has it.
fn with_tcx() -> Result<Option<(Pair, Counting)>> {
    if !root_or_skip() {
        return Ok(None);
    }
    let pair = Pair::new()?;
    let counting = start_by(&pair.sfu, Mechanism::Auto)?;
    let side = TcAttachType::Ingress;
    let has_tcx = pair.sfu.run_in(|| SchedClassifier::query_tcx("sfu0", side)).is_ok();
    if !has_tcx {
        skip("this kernel has no TCX (Linux 6.6)");
    }
    Ok(has_tcx.then_some((pair, counting)))
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
