//! Captures of a call through a real mediasoup: all packets of whom was asked for, once, and nobody else's; within
//! their bounds, and not for everybody.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fs, thread};

use anyhow::{Context, Result, ensure};
use exporter_tests::captured::{Capture, Captured};
use exporter_tests::endpoint::{Endpoint, Habits};
use exporter_tests::exporter::{self, Exporter};
use exporter_tests::peer::Track;
use exporter_tests::process::Guard;
use exporter_tests::scene::{BRIDGE, Person, Role, Scene};
use exporter_tests::{cast, skip, wait};
use serde_json::Value;

const ROOM: &str = "Lecture 7";
/// Media time of a performance: 2 seconds.
const TICKS: u64 = 100;

fn role(seat: u32, name: &str) -> Role {
    Role {
        room: ROOM.into(),
        router: 0,
        peer: name.to_lowercase(),
        name: name.into(),
        user_agent: "Tester/1.0".into(),
        ipv6: seat == 2,
        one_transport: false,
        produces: vec![vec![Track::opus(seat)]],
        habits: Habits::default(),
    }
}

/// Ada, Bob and Cyd, who have been heard, and an exporter that knows them.
fn open(flags: &[&str]) -> Result<Option<(Scene, Exporter)>> {
    let Some(build) = cast::newest() else { return Ok(None) };
    let mut scene = cast::open(&build)?;
    scene.room(ROOM, 1)?;
    let exporter = cast::exporter(&scene, flags, &[])?;
    for (seat, name) in (1..).zip(["Ada", "Bob", "Cyd"]) {
        scene.enter(role(seat, name))?;
    }
    scene.introduce()?;
    cast::play(&mut scene, TICKS)?;
    know(&exporter, 3 * 3)?;
    Ok(Some((scene, exporter)))
}

/// Waits until so many streams are known.
fn know(exporter: &Exporter, streams: usize) -> Result<()> {
    wait::until("streams to be known", wait::LONG, || {
        let body = exporter.get("/api/v1/transports?traffic=yes&q=proto:udp", &[])?.text()?;
        let document: Value = serde_json::from_str(&body)?;
        let rows = document["rows"].as_array().context("no rows")?;
        let known = rows.iter().map(|row| {
            let streams = row["traffic"]["streams"].as_array();
            let ends = row["traffic"]["connections"].as_array();
            streams.filter(|_| ends.is_some_and(|ends| !ends.is_empty())).map_or(0, Vec::len)
        });
        Ok((known.sum::<usize>() >= streams).then_some(()))
    })
}

fn command(scene: &Scene, arguments: &[&str]) -> Result<Command> {
    let mut command = scene.host.command(exporter::binary()?.to_str().context("a path")?);
    command.args(["capture", "--url", &format!("http://{}", exporter::address())]);
    command.args(arguments);
    Ok(command)
}

fn run(scene: &Scene, arguments: &[&str]) -> Result<(bool, String)> {
    said(command(scene, arguments)?.output()?)
}

fn said(output: Output) -> Result<(bool, String)> {
    Ok((output.status.success(), String::from_utf8(output.stderr)?))
}

fn file(scene: &Scene, name: &str) -> Result<(PathBuf, String)> {
    let path = scene.dir.path().join(name);
    let text = path.to_str().context("a path that is not UTF-8")?.to_owned();
    Ok((path, text))
}

/// A capture that has begun.
fn start(scene: &Scene, arguments: &[&str]) -> Result<Guard> {
    let mut capture = Guard::spawn("capture", command(scene, arguments)?)?;
    wait::until("the capture to begin", wait::LONG, || {
        capture.alive()?;
        Ok(capture.log().contains("capturing").then_some(()))
    })?;
    Ok(capture)
}

/// Ends it as Ctrl-C does; what it said.
fn interrupt(mut capture: Guard) -> Result<String> {
    capture.signal(libc::SIGINT)?;
    let status = capture.wait(wait::LONG)?;
    ensure!(status.success(), "{status}: {}", capture.log());
    wait::until("its last words", wait::LONG, || {
        Ok(Some(capture.log()).filter(|log| log.contains("end: ")))
    })
}

/// RTP packets by SSRC.
type Counted = BTreeMap<u32, u64>;

/// What a person's sockets sent and received.
fn counts(person: &Person) -> [Counted; 2] {
    let sent = person.sending.endpoint.sent().rtp;
    let received = person.receiving().endpoint.received().rtp;
    [sent, received].map(|it| it.into_iter().map(|(ssrc, it)| (ssrc, it.packets)).collect())
}

fn grown(before: &Counted, after: &Counted) -> Counted {
    let growth =
        |(ssrc, now): (&u32, &u64)| (*ssrc, now - before.get(ssrc).copied().unwrap_or_default());
    after.iter().map(growth).filter(|(_, packets)| *packets > 0).collect()
}

#[test]
fn every_packet_of_a_peer_is_captured_once_and_nobody_elses() -> Result<()> {
    let Some((mut scene, exporter)) = open(&[])? else { return Ok(()) };
    for name in ["ada", "bob"] {
        let (path, text) = file(&scene, &format!("{name}.pcapng"))?;
        let capture = start(&scene, &["--peer", name, "--for", "10m", "--write", &text])?;
        let before = counts(&scene.people[name]);
        cast::play(&mut scene, TICKS)?;
        let after = counts(&scene.people[name]);
        let says = interrupt(capture)?;
        ensure!(says.contains("lost by the kernel: 0; end: interrupted"), "{says}");
        let capture = Capture::read(&path)?;
        ensure!(says.contains(&format!("{} packets", capture.packets.len())), "{says}");
        let grown = [grown(&before[0], &after[0]), grown(&before[1], &after[1])];
        check_packets(&scene.people[name], &capture, grown)?;
        let version = capture.about.iter().any(|it| it.starts_with("mediasoup-exporter "));
        let choice = format!("--peer \"{name}\", headers only");
        let choice = capture.about.iter().any(|it| it.contains("host=") && it.contains(&choice));
        ensure!(version && choice, "{:?}", capture.about);
    }
    exporter.stop()
}

/// `[sent, received]`: by whom the capture is of.
fn check_packets(person: &Person, capture: &Capture, [sent, received]: [Counted; 2]) -> Result<()> {
    let ends = person.channels().map(|channel| channel.pair()).collect::<Result<Vec<_>>>()?;
    let (mut seen, mut captured) = (BTreeMap::new(), [Counted::new(), Counted::new()]);
    for packet in &capture.packets {
        let Captured { comment, inbound, source, destination, payload, .. } = packet;
        let (local, remote) =
            if *inbound { (*destination, *source) } else { (*source, *destination) };
        ensure!(ends.contains(&(local, remote)), "whose is this? {packet:?}");
        ensure!(packet.interface == BRIDGE, "{packet:?}");
        let whose = format!("room=\"{ROOM}\" peer=\"{}\" name=\"", person.role.peer);
        let way = if *inbound { " received" } else { " sent" };
        ensure!(comment.starts_with(&whose) && comment.ends_with(way), "{comment}");
        let Some((ssrc, sequence)) = packet.rtp() else {
            ensure!(payload.len() <= 20, "more than a header: {packet:?}");
            continue;
        };
        let extension = match payload[0] & 0x10 {
            0 => 0,
            _ => 4 + 4 * usize::from(u16::from_be_bytes([payload[14], payload[15]])),
        };
        ensure!(payload.len() == 12 + extension, "more than a header: {packet:?}");
        ensure!(packet.length > payload.len(), "{packet:?}");
        let id = match inbound {
            true => person.produced.iter().map(|it| format!("producer=\"{}\"", it.id)).next(),
            false => {
                let mut consumed = person.consumed.iter();
                let consumed = consumed.find(|it| it.consumer.ssrc == ssrc);
                consumed.map(|it| format!("consumer=\"{}\"", it.consumer.id))
            }
        };
        let id = id.with_context(|| format!("whose stream is this? {packet:?}"))?;
        ensure!(comment.contains(&id) && comment.contains(&format!("ssrc={ssrc} ")), "{comment}");
        *seen.entry((*inbound, ssrc, sequence)).or_insert(0) += 1;
        *captured[usize::from(!inbound)].entry(ssrc).or_default() += 1;
    }
    ensure!(seen.values().all(|times| *times == 1), "twice: {seen:?}");
    ensure!(!sent.is_empty() && received.len() == 2, "nothing was sent");
    assert_eq!(captured, [sent, received]);
    Ok(())
}

#[test]
fn who_comes_later_is_captured_too_and_bounds_end_it() -> Result<()> {
    let Some((mut scene, exporter)) = open(&[])? else { return Ok(()) };
    let (path, text) = file(&scene, "room.pcapng")?;
    let capture = start(&scene, &["--room", ROOM, "--for", "10m", "--write", &text])?;
    scene.enter(role(4, "Dan"))?;
    scene.introduce()?;
    let stop = AtomicBool::new(false);
    let (binary, host, folder) =
        (exporter::binary()?, scene.host.clone(), scene.dir.path().to_owned());
    let bounded = |arguments: &[&str], name: &str| -> Result<(Capture, u64, String)> {
        let mut command = host.command(binary.to_str().context("a path")?);
        command.args(["capture", "--url", &format!("http://{}", exporter::address())]);
        command.args(["--room", ROOM, "--write"]).arg(folder.join(name)).args(arguments);
        let (is_well, says) = said(command.output()?)?;
        ensure!(is_well, "{says}");
        let path = folder.join(name);
        Ok((Capture::read(&path)?, path.metadata()?.len(), says))
    };
    thread::scope(|scope| -> Result<()> {
        let playing = scope.spawn(|| scene.perform(&stop));
        let seen = (|| {
            wait::until("Dan to be captured", wait::LONG, || {
                let bytes = fs::read(&path)?;
                let word = b"peer=\"dan\"";
                Ok(bytes.windows(word.len()).any(|it| it == word).then_some(()))
            })?;
            let (few, _, says) = bounded(&["--for", "2s", "--max-rate", "10"], "rate.pcapng")?;
            ensure!(
                (10..=30).contains(&few.packets.len()) && says.contains("end: --for"),
                "{says}"
            );
            let accepted: u64 = few.statistics.iter().map(|(_, it)| it[1]).sum();
            let delivered: u64 = few.statistics.iter().map(|(_, it)| it[0]).sum();
            ensure!(delivered == few.packets.len() as u64 && accepted > delivered, "{few:?}");
            let left = format!("left out by --max-rate: {}", accepted - delivered);
            ensure!(says.contains(&left), "{says}");
            let left = format!("{} left out by --max-rate", accepted - delivered);
            ensure!(few.statistics.iter().any(|(says, _)| *says == left), "{few:?}");
            let (small, size, says) = bounded(&["--max-bytes", "20k"], "bytes.pcapng")?;
            ensure!(size <= 20_000 && size > 15_000 && !small.packets.is_empty(), "{size}");
            ensure!(says.contains("end: --max-bytes"), "{says}");
            let (whole, _, _) = bounded(&["--for", "1s", "--payload"], "payload.pcapng")?;
            let is_whole = |it: &Captured| it.length == it.payload.len();
            ensure!(!whole.packets.is_empty() && whole.packets.iter().all(is_whole), "{whole:?}");
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        playing.join().expect("a peer does not panic")?;
        seen
    })?;
    interrupt(capture)?;
    let capture = Capture::read(&path)?;
    let names = ["ada", "bob", "cyd", "dan"].map(|name| format!("peer=\"{name}\""));
    let has = |name: &String| capture.packets.iter().any(|it| it.comment.contains(name));
    ensure!(names.iter().all(has));
    exporter.stop()
}

#[test]
fn one_stream_goes_to_whoever_reads_along() -> Result<()> {
    let Some((mut scene, exporter)) = open(&[])? else { return Ok(()) };
    let ssrc = scene.people["bob"].produced[0].tracks[0].ssrc;
    let mut capture = start(&scene, &["--ssrc", &ssrc.to_string(), "--for", "10m", "--stdout"])?;
    let mut stdout = capture.stdout().context("stdout is piped")?;
    let reading = thread::spawn(move || {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut stdout, &mut bytes).map(|_| bytes)
    });
    let before = counts(&scene.people["bob"])[0].clone();
    cast::play(&mut scene, TICKS)?;
    let sent = grown(&before, &counts(&scene.people["bob"])[0])[&ssrc];
    interrupt(capture)?;
    let bytes = reading.join().expect("a reader does not panic")?;
    let capture = Capture::parse(&bytes)?;
    let is_bobs = |it: &Captured| it.inbound && it.rtp().is_some_and(|(it, _)| it == ssrc);
    ensure!(capture.packets.iter().all(is_bobs), "{:?}", capture.packets);
    ensure!(capture.packets.len() as u64 == sent, "{} of {sent}", capture.packets.len());
    // A reader that has had enough is no failure.
    let mut capture = start(&scene, &["--room", ROOM, "--for", "10m", "--stdout"])?;
    drop(capture.stdout());
    scene.play(TICKS)?;
    ensure!(capture.wait(wait::LONG)?.success(), "{}", capture.log());
    exporter.stop()
}

/// Going out, then coming in: `lo` shows each packet twice.
#[test]
fn what_stays_on_the_host_is_captured_once() -> Result<()> {
    let Some((mut scene, exporter)) = open(&[])? else { return Ok(()) };
    scene.sfu.join(ROOM, "lou", "Lou", "")?;
    let (transport, check) = scene.sfu.webrtc("lou", scene.address(false))?;
    let mut lou = Endpoint::open(&scene.host, scene.address(false))?;
    lou.talk_to(transport.address, Habits::default())?;
    let talk = |times: u64| -> Result<()> {
        let before = lou.received().stun.packets;
        (0..times).try_for_each(|_| lou.send(&check))?;
        wait::until_equal("the SFU to answer", wait::LONG, || {
            Ok((lou.received().stun.packets, before + times))
        })
    };
    talk(1)?;
    wait::until("Lou to be known", wait::LONG, || {
        let body = exporter.get("/api/v1/transports?traffic=yes&q=peer:lou", &[])?.text()?;
        let document: Value = serde_json::from_str(&body)?;
        let ends = document["rows"][0]["traffic"]["connections"].as_array().map_or(0, Vec::len);
        Ok((ends > 0).then_some(()))
    })?;
    let (path, text) = file(&scene, "lou.pcapng")?;
    let capture = start(&scene, &["--peer", "Lou", "--for", "10m", "--write", &text])?;
    talk(10)?;
    interrupt(capture)?;
    let capture = Capture::read(&path)?;
    let is_lous = |it: &&Captured| it.interface == "lo" && it.comment.contains("peer=\"lou\"");
    let inbound = capture.packets.iter().filter(is_lous).filter(|it| it.inbound).count();
    ensure!((inbound, capture.packets.len()) == (10, 20), "{:?}", capture.packets);
    exporter.stop()
}

#[test]
fn what_cannot_or_may_not_be_captured_is_refused_with_the_reason() -> Result<()> {
    let Some((mut scene, exporter)) = open(&["--deidentify", "truncate"])? else { return Ok(()) };
    let (path, text) = file(&scene, "refused.pcapng")?;
    let check = |scene: &Scene, arguments: &[&str], words: &[&str]| -> Result<()> {
        let (is_well, says) = run(scene, arguments)?;
        ensure!(!is_well && words.iter().all(|word| says.contains(word)), "{arguments:?}: {says}");
        ensure!(!path.exists(), "{arguments:?}: there is a file");
        Ok(())
    };
    let bob = ["--peer", "bob", "--write", &text, "--for", "10m"];
    check(&scene, &bob, &["addresses", "--deidentify", "--despite-deidentification"])?;
    // What is hidden is not found out: RTP alone is told apart.
    let capture = start(&scene, &[&bob[..], &["--despite-deidentification"]].concat())?;
    let before = counts(&scene.people["bob"]);
    cast::play(&mut scene, TICKS)?;
    let after = counts(&scene.people["bob"]);
    interrupt(capture)?;
    let capture = Capture::read(&path)?;
    ensure!(capture.packets.iter().all(|it| it.rtp().is_some()));
    let grown = [grown(&before[0], &after[0]), grown(&before[1], &after[1])];
    check_packets(&scene.people["bob"], &capture, grown)?;
    let (is_well, says) = run(&scene, &[&bob[..], &["--despite-deidentification"]].concat())?;
    ensure!(!is_well && says.contains("there already") && says.contains("--force"), "{says}");
    fs::remove_file(&path)?;
    exporter.stop()?;
    check(&scene, &bob, &["--url"])?;
    let exporter = cast::exporter(&scene, &[], &[])?;
    scene.play(TICKS)?;
    know(&exporter, 3 * 3)?;
    check(&scene, &["--peer", "nobody at all", "--write", &text], &["--peer \"nobody at all\""])?;
    if Command::new("setpriv").arg("--version").output().is_err() {
        skip("without rights: setpriv is not installed");
        return exporter.stop();
    }
    let mut command = scene.host.command("setpriv");
    command.arg("--bounding-set=-net_raw").arg(exporter::binary()?).arg("capture");
    command.args(["--url", &format!("http://{}", exporter::address())]).args(bob);
    let (is_well, says) = said(command.output()?)?;
    ensure!(!is_well && says.contains("CAP_NET_RAW") && !path.exists(), "{says}");
    // One right is enough, whoever has it.
    let mut command = scene.host.command("setpriv");
    command.args(["--reuid", "61234", "--regid", "61234", "--clear-groups", "--no-new-privs"]);
    command.args(
        ["inh-caps", "ambient-caps", "bounding-set"].map(|it| format!("--{it}=-all,+net_raw")),
    );
    command.arg(exporter::binary()?).args(["capture", "--room", ROOM, "--for", "1s", "--stdout"]);
    command.args(["--url", &format!("http://{}", exporter::address())]);
    let output = command.output()?;
    let about = Capture::parse(&output.stdout)?.about;
    ensure!(output.status.success() && !about.is_empty(), "{:?}", said(output)?);
    exporter.stop()
}
