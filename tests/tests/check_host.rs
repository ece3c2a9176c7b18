//! `mediasoup-exporter check` beside a real mediasoup: what is right is said, what is wrong is named with its remedy.

use std::net::UdpSocket;
use std::os::unix::process::CommandExt;
use std::process::Output;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use aya::programs::SchedClassifier;
use aya::programs::tc::TcAttachType;
use exporter_tests::exporter::{Exporter, binary};
use exporter_tests::netns::{Netns, veth};
use exporter_tests::process::TempDir;
use exporter_tests::sfu::{self, Sfu};
use exporter_tests::{cast, prog, root_or_skip, wait};
use serde_json::{Value, json};

const SFU: &str = "10.85.0.1";
const PEER: &str = "10.85.0.2";

/// An SFU's host and a peer's.
struct Hosts {
    sfu: Arc<Netns>,
    peer: Netns,
    dir: TempDir,
}

/// What a check said.
struct Told {
    status: i32,
    rows: Vec<Value>,
}

impl Hosts {
    fn new() -> Result<Self> {
        let (sfu, peer) = (Arc::new(Netns::new("check")?), Netns::new("peer")?);
        veth(&sfu, "eth0", &peer, "eth0")?;
        sfu.address("eth0", SFU.parse()?, 24)?;
        peer.address("eth0", PEER.parse()?, 24)?;
        Ok(Self { sfu, peer, dir: TempDir::new("check")? })
    }

    fn run(&self, flags: &[&str], prepare: impl Fn(&mut std::process::Command)) -> Result<Output> {
        let program = binary()?;
        let mut command = self.sfu.command(program.to_str().context("a path that is not UTF-8")?);
        command.arg("check").args(flags);
        prepare(&mut command);
        Ok(command.output()?)
    }

    fn check(&self, flags: &[&str]) -> Result<Told> {
        let output = self.run(&[&["--json"], flags].concat(), |_| {})?;
        let document: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        let status = output.status.code().context("it was ended by a signal")?;
        ensure!(document["well"] == (status == 0), "{document}: {status}");
        let rows = document["findings"].as_array().context("no findings")?.clone();
        Ok(Told { status, rows })
    }
}

impl Told {
    /// Levels and texts of a subject's rows.
    fn of(&self, subject: &str) -> Vec<(&str, &str)> {
        let rows = self.rows.iter().filter(|row| row["subject"] == subject);
        rows.map(|row| (row["level"].as_str().unwrap_or(""), row["text"].as_str().unwrap_or("")))
            .collect()
    }

    fn remedies(&self, subject: &str) -> String {
        let rows = self.rows.iter().filter(|row| row["subject"] == subject);
        rows.filter_map(|row| row["remedy"].as_str()).collect::<Vec<_>>().join("\n")
    }
}

#[test]
fn a_host_where_all_is_right_and_what_goes_wrong_there() -> Result<()> {
    let Some(build) = cast::newest() else { return Ok(()) };
    let hosts = Hosts::new()?;
    let console = sfu::console_in(hosts.dir.path());
    let console = console.to_str().context("a path that is not UTF-8")?;
    let exporter = Exporter::start(&hosts.sfu, &["--numeric", "--observer", console], &[])?;
    let mut sfu = Sfu::start(&build, &hosts.sfu, hosts.dir.path(), 1)?;
    sfu.room("room", 1)?;
    sfu.join("room", "ann", "Ann", "")?;
    let made = sfu.call("plain", json!({ "peer": "ann", "ip": SFU, "comedia": true }))?;
    let port: u16 = made["port"].as_u64().context("a port")?.try_into()?;
    wait::until("the server to be heard", wait::LONG, || {
        Ok((exporter.scrape()?.sum("edumeet_rooms", &[]) == 1.0).then_some(()))
    })?;

    let told = hosts.check(&["--observer", console])?;
    assert_eq!(told.status, 0, "{:?}", told.rows);
    for subject in ["kernel", "rights", "interfaces", "buffers", "exporter"] {
        ensure!(told.of(subject).iter().all(|(level, _)| *level == "ok"), "{:?}", told.of(subject));
    }
    ensure!(told.of("interfaces")[0].1.contains("eth0"), "{:?}", told.of("interfaces"));
    let worker = sfu.workers()[0].to_string();
    ensure!(told.of("workers").iter().any(|(_, text)| text.starts_with(&worker)), "{worker}");
    ensure!(told.of("hooks")[0].1.contains("no other program"), "{:?}", told.of("hooks"));

    // For people the same rows.
    let output = hosts.run(&["--observer", console], |_| {})?;
    let text = String::from_utf8(output.stdout)?;
    for row in &told.rows {
        let subject = row["subject"].as_str().context("a subject")?;
        ensure!(text.lines().any(|line| line.split_whitespace().nth(1) == Some(subject)), "{text}");
    }

    // A path where nobody listens; ports that are not the workers'.
    let told = hosts.check(&["--observer", "/nowhere.sock", "--ports", "1-2"])?;
    assert_eq!(told.status, 1);
    ensure!(told.of("servers").iter().any(|(level, _)| *level == "fault"), "{:?}", told.rows);
    ensure!(told.remedies("workers").contains("--ports"), "{:?}", told.rows);

    // The worker stands still, and its socket overflows.
    let quiet = sfu.quiet()?;
    let peer = hosts.peer.run_in(|| UdpSocket::bind((PEER, 0)))?;
    for _ in 0..2_000 {
        peer.send_to(&[0x80; 1_000], (SFU, port))?;
    }
    let told = hosts.check(&["--observer", console])?;
    let strict = hosts.check(&["--observer", console, "--strict"])?;
    drop(quiet);
    let [(level, text)] = told.of("buffers")[..] else { panic!("{:?}", told.rows) };
    ensure!(level == "warning" && text.contains(&format!("{SFU}:{port}")), "{text}");
    ensure!(told.remedies("buffers").contains("rmem_default"), "{:?}", told.rows);
    assert_eq!((told.status, strict.status), (0, 1));
    exporter.stop()
}

#[test]
fn other_programs_are_named_and_what_is_missing_too() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let hosts = Hosts::new()?;
    let mut object = aya::EbpfLoader::new().load(prog::OBJECT)?;
    let program: &mut SchedClassifier =
        object.program_mut("tend").context("a program")?.try_into()?;
    program.load()?;
    let link = hosts.sfu.run_in(|| program.attach("eth0", TcAttachType::Ingress))?;
    let told = hosts.check(&["--interface", "eth0"])?;
    program.detach(link)?;
    // Before Linux 6.6 there is no TCX.
    let [(level, text)] = told.of("hooks")[..] else { panic!("{:?}", told.rows) };
    ensure!(level == "skipped" || text.contains("tend (eth0 in)"), "{text}");
    // Nobody serves here.
    assert_eq!(told.of("exporter")[0].0, "skipped");
    let none = hosts.check(&["--interface", "nowhere0"])?;
    ensure!(none.status == 1 && none.of("interfaces")[0].0 == "fault", "{:?}", none.rows);

    // Without rights it sees less, and says so.
    let output = hosts.run(&["--json"], |command| {
        command.uid(65534).gid(65534);
    });
    // Another user may not be able to reach the program.
    if let Ok(output) = output
        && let Ok(document) = serde_json::from_slice::<Value>(&output.stdout)
    {
        let rights = document["findings"].as_array().into_iter().flatten();
        let rights = rights.filter(|row| row["subject"] == "rights");
        ensure!(rights.clone().all(|row| row["level"] == "warning"), "{document}");
        ensure!(rights.count() == 1, "{document}");
    }
    let output = hosts.run(&["--interface", "a,b"], |_| {})?;
    assert_eq!(output.status.code(), Some(2));
    Ok(())
}
