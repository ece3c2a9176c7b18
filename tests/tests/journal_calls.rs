//! The journal of calls through a real mediasoup: every packet is in a line, a crash loses no line that was written, and
//! a full disk is told and survived.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use exporter_tests::endpoint::Counts;
use exporter_tests::exporter::{self, Exporter};
use exporter_tests::process::TempDir;
use exporter_tests::scene::{Person, Scene};
use exporter_tests::{cast, wait};
use serde_json::Value;

/// Packets and bytes by SSRC, received and sent.
type Streams = BTreeMap<(u32, bool), (u64, u64)>;

#[test]
fn every_packet_of_who_left_is_in_a_line_that_a_crash_spares() -> Result<()> {
    let Some(build) = cast::newest() else { return Ok(()) };
    let mut scene = cast::enter(&build)?;
    let folder = TempDir::new("journal")?;
    let flags = ["--journal", text(folder.path())?];
    let exporter = cast::exporter(&scene, &flags, &[])?;
    cast::play(&mut scene, 200)?;
    known(&exporter)?;
    let bob = leave(&mut scene, "bob")?;
    let expected = streams(&bob);
    ensure!(expected.len() > 4, "Bob sends and receives");
    wait::until("the lines of who left", wait::LONG, || {
        let lines = lines(folder.path(), "bob")?;
        Ok((lines.iter().filter(|it| it["what"] == "connection").count() >= 2).then_some(()))
    })?;
    exporter.kill()?;
    let written = lines(folder.path(), "bob")?;
    assert_eq!(of_streams(&written), expected);
    for line in &written {
        assert_eq!(line["how"], "closed", "{line}");
        assert_eq!(line["room_id"], cast::ATRIUM, "{line}");
    }
    assert_eq!(connections(&written), all_packets(&bob));
    // Another process begins another file, and what goes on when it ends is said to.
    let before = streams_of_all(&scene);
    let exporter = cast::exporter(&scene, &flags, &[])?;
    cast::play(&mut scene, 100)?;
    told(&exporter, &scene)?;
    let mut expected = streams_of_all(&scene);
    for (stream, (packets, bytes)) in before {
        if let Some(now) = expected.get_mut(&stream) {
            *now = (now.0 - packets, now.1 - bytes);
        }
    }
    expected.retain(|_, (packets, _)| *packets > 0);
    exporter.stop()?;
    let mut of_all = Streams::new();
    for peer in scene.people.keys() {
        let mut lines = lines(folder.path(), peer)?;
        lines.retain(|line| line["how"] == "exporter_ended");
        of_all.extend(of_streams(&lines));
    }
    assert_eq!(of_all, expected);
    by_command(&scene, folder.path(), written.len())
}

/// The lines as an operator asks for them.
fn by_command(scene: &Scene, folder: &Path, of_bob: usize) -> Result<()> {
    let journal = |arguments: &[&str]| -> Result<(bool, String)> {
        let mut command = scene.host.command(text(&exporter::binary()?)?);
        command.arg("journal").arg("--dir").arg(folder).args(arguments);
        let output = command.output()?;
        Ok((output.status.success(), String::from_utf8(output.stdout)?))
    };
    let (is_well, lines) = journal(&["--json", "peer:bob"])?;
    ensure!(is_well && lines.lines().count() == of_bob, "{lines}");
    let (is_well, table) = journal(&["peer:bob", "kind:audio"])?;
    ensure!(is_well && table.starts_with("ENDED") && table.contains("bob of atrium"), "{table}");
    ensure!(journal(&["--since", "1m", "--until", "2020-01-01T00:00Z"])?.1.is_empty(), "no line");
    ensure!(!journal(&["rome:atrium"])?.0, "a filter that means nothing is refused");
    ensure!(!journal(&["--since", "yesterday"])?.0, "nor is a time");
    Ok(())
}

#[test]
fn a_full_disk_is_told_and_survived() -> Result<()> {
    let Some(build) = cast::newest() else { return Ok(()) };
    let mut scene = cast::enter(&build)?;
    let disk = Disk::mount(256 << 10)?;
    let exporter = cast::exporter(&scene, &["--journal", text(disk.0.path())?], &[])?;
    cast::play(&mut scene, 50)?;
    known(&exporter)?;
    // All that there is.
    let filler = disk.0.path().join("filler");
    let _ = fs::write(&filler, vec![0; 1 << 20]);
    leave(&mut scene, "bob")?;
    let events = |event: &str| -> Result<f64> {
        Ok(exporter.scrape()?.sum("mediasoup_exporter_internal_events_total", &[("event", event)]))
    };
    wait::until("lost lines to be counted", wait::LONG, || {
        Ok((events("journal_lost")? > 0.0).then_some(()))
    })?;
    ensure!(exporter.log().contains("No space left"), "{}", exporter.log());
    let lost = events("journal_lost")?;
    fs::remove_file(&filler)?;
    leave(&mut scene, "cyd")?;
    wait::until("lines to be written again", wait::LONG, || {
        Ok((events("journal_written")? > 0.0).then_some(()))
    })?;
    exporter.stop()?;
    let all = text_of(disk.0.path())?;
    ensure!(all.ends_with('\n') && !all.contains("\"bob\"") && all.contains("\"cyd\""), "{all}");
    for line in all.lines() {
        serde_json::from_str::<Value>(line).with_context(|| line.to_owned())?;
    }
    ensure!(lost >= 2.0, "{lost}");
    Ok(())
}

#[test]
fn a_folder_that_cannot_be_is_refused_by_name() -> Result<()> {
    let Some(build) = cast::newest() else { return Ok(()) };
    let scene = cast::open(&build)?;
    let mut command = scene.host.command(text(&exporter::binary()?)?);
    command.args(["--observer", "/nowhere", "--journal", "/proc/none/journal"]);
    let output = command.output()?;
    let error = String::from_utf8(output.stderr)?;
    ensure!(!output.status.success() && error.contains("--journal /proc/none/journal"), "{error}");
    Ok(())
}

/// Waits until a step of the history has everybody: who comes and leaves within one has no name.
fn known(exporter: &Exporter) -> Result<()> {
    wait::until("a step that knows everybody", wait::LONG, || {
        let peers = exporter.get("/api/v1/peers?limit=50", &[])?.text()?;
        Ok(["ada", "bob", "cyd", "dan", "eve"].iter().all(|it| peers.contains(it)).then_some(()))
    })
}

/// Waits until the server has told whose each consumer is: a stream that ends before that is nobody's.
fn told(exporter: &Exporter, scene: &Scene) -> Result<()> {
    wait::until("the owner of each consumer", wait::LONG, || {
        let scrape = exporter.scrape()?;
        let mut consumers = scene.people.iter().flat_map(|(peer, person)| {
            person.consumed.iter().map(move |it| (peer.as_str(), it.consumer.id.as_str()))
        });
        let is_told = |(peer, id)| {
            let labels = [("id", id), ("peer_id", peer)];
            scrape.find("mediasoup_consumer_info", &labels).next().is_some()
        };
        Ok(consumers.all(is_told).then_some(()))
    })
}

fn leave(scene: &mut Scene, peer: &str) -> Result<Person> {
    let person = scene.people.remove(peer).context("nobody of that name")?;
    scene.sfu.leave(peer)?;
    // What others consumed of the one who left is gone, too.
    for other in scene.people.values_mut() {
        other.consumed.retain(|it| person.produced.iter().all(|made| made.id != it.producer));
    }
    Ok(person)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is not UTF-8")
}

fn text_of(folder: &Path) -> Result<String> {
    let files = fs::read_dir(folder)?.collect::<std::io::Result<Vec<_>>>()?;
    let mut files: Vec<_> = files.into_iter().map(|file| file.path()).collect();
    files.sort();
    files.retain(|file| file.extension().is_some_and(|it| it == "jsonl"));
    let texts = files.iter().map(fs::read_to_string);
    Ok(texts.collect::<std::io::Result<Vec<_>>>()?.concat())
}

/// A peer's lines.
fn lines(folder: &Path, peer: &str) -> Result<Vec<Value>> {
    let all = text_of(folder)?;
    let lines: Vec<Value> = all.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    // What comes through a pipe from another worker is counted there once more.
    let is_own = |line: &Value| line["peer_id"] == peer && line["transport"] != "pipe";
    Ok(lines.into_iter().filter(is_own).collect())
}

/// What lines say of streams.
fn of_streams(lines: &[Value]) -> Streams {
    let number = |line: &Value, name: &str| line[name].as_u64().unwrap_or_default();
    let mut streams = Streams::new();
    for line in lines.iter().filter(|line| line["what"] == "stream") {
        let ssrc = number(line, "ssrc") as u32;
        for (is_sent, side) in [(false, "receive"), (true, "send")] {
            let packets = number(line, &format!("{side}_packets"));
            if packets > 0 {
                let sum = streams.entry((ssrc, is_sent)).or_default();
                *sum = (sum.0 + packets, sum.1 + number(line, &format!("{side}_bytes")));
            }
        }
    }
    streams
}

/// Packets of connections, received and sent.
fn connections(lines: &[Value]) -> (u64, u64) {
    let lines = lines.iter().filter(|line| line["what"] == "connection");
    let number = |line: &Value, name: &str| line[name].as_u64().unwrap_or_default();
    lines.fold((0, 0), |(received, sent), line| {
        (received + number(line, "receive_packets"), sent + number(line, "send_packets"))
    })
}

/// What a peer's sockets counted.
fn streams(person: &Person) -> Streams {
    let mut streams = Streams::new();
    let mut add = |counts: Counts, is_sent: bool| {
        for (ssrc, count) in counts.rtp {
            let sum = streams.entry((ssrc, is_sent)).or_default();
            *sum = (sum.0 + count.packets, sum.1 + count.bytes);
        }
    };
    for channel in person.channels() {
        add(channel.endpoint.sent(), false);
        add(channel.endpoint.received(), true);
    }
    streams
}

fn streams_of_all(scene: &Scene) -> Streams {
    scene.people.values().flat_map(streams).collect()
}

fn all_packets(person: &Person) -> (u64, u64) {
    person.channels().fold((0, 0), |(received, sent), channel| {
        let counts = (channel.endpoint.sent().total(), channel.endpoint.received().total());
        (received + counts.0.packets, sent + counts.1.packets)
    })
}

/// A file system of its own size.
struct Disk(TempDir);

impl Disk {
    fn mount(bytes: u64) -> Result<Self> {
        let folder = TempDir::new("disk")?;
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"]).arg(folder.path());
        ensure!(command.status()?.success(), "mount a tmpfs at {}", folder.path().display());
        Ok(Self(folder))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}
