//! Views of a call through a real mediasoup in which three suffer, each for another reason: what they count, what
//! they say, and what a browser makes of the pages.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use exporter_tests::browser::{self, Dom};
use exporter_tests::endpoint::Habits;
use exporter_tests::exporter::{self, Exporter};
use exporter_tests::peer::{Queues, Script, Track};
use exporter_tests::scene::{Role, Scene};
use exporter_tests::{cast, wait};
use serde_json::Value;

const ROOM: &str = "Lecture 7";

#[test]
fn three_suffer_and_views_say_why() -> Result<()> {
    let Some(build) = cast::newest() else { return Ok(()) };
    let mut scene = cast::open(&build)?;
    scene.room(ROOM, 1)?;
    let exporter = cast::exporter(&scene, &[], &[])?;
    for (seat, name) in (1..).zip(["Ada", "Bob", "Cyd", "Dan"]) {
        scene.enter(role(seat, name))?;
    }
    scene.introduce()?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        let playing = scope.spawn(|| scene.perform(&stop));
        let seen = wait::until("all three to be found", wait::LONG, || found(&exporter));
        stop.store(true, Ordering::Relaxed);
        playing.join().expect("a peer does not panic")?;
        seen
    })?;
    wait::until_equal("views to count what was sent", wait::LONG, || counts(&scene, &exporter))?;
    look(&scene, &exporter)?;
    in_a_terminal(&scene)?;
    exporter.stop()
}

/// Bob loses on the way here, Cyd on the way back; Dan falls silent after two seconds.
fn role(seat: u32, name: &str) -> Role {
    let script = Script {
        lose_one_of: (name == "Bob").then_some(9),
        silent_from: (name == "Dan").then_some(100),
        ..Script::default()
    };
    Role {
        room: ROOM.into(),
        router: 0,
        peer: name.to_lowercase(),
        name: name.into(),
        user_agent: "Tester/1.0".into(),
        ipv6: seat == 1,
        one_transport: false,
        produces: vec![vec![Track::opus(seat).with_script(script)]],
        habits: Habits { lose_one_of: (name == "Cyd").then_some(14), ..Habits::default() },
    }
}

fn rows(exporter: &Exporter, path: &str) -> Result<Vec<Value>> {
    let document: Value = serde_json::from_str(&exporter.get(path, &[])?.text()?)?;
    Ok(document["rows"].as_array().context("no rows")?.clone())
}

/// Whether each is judged rightly; and so says the metric.
fn found(exporter: &Exporter) -> Result<Option<()>> {
    let rows = rows(exporter, "/api/v1/peers")?;
    let verdict = |name: &str| {
        let row = rows.iter().find(|row| row["title"] == name);
        row.and_then(|row| row["verdict"].as_str()).unwrap_or_default().to_owned()
    };
    let verdicts = ["Ada", "Bob", "Cyd", "Dan"].map(verdict);
    let scrape = exporter.scrape()?;
    let metric = |peer: &str, verdict: &str| {
        let labels = [("room_id", ROOM), ("peer_id", peer), ("verdict", verdict)];
        scrape.sum("mediasoup_peer_verdict", &labels) == 1.0
    };
    let is_said = metric("bob", "uplink") && metric("cyd", "downlink") && metric("dan", "silent");
    let expected = ["", "uplink", "downlink", "silent, not muted"];
    Ok((verdicts == expected && is_said).then_some(()))
}

/// Packets by producer.
type Counted = BTreeMap<String, u64>;

/// What peers' sockets sent for each producer, and what views say.
fn counts(scene: &Scene, exporter: &Exporter) -> Result<(Counted, Counted)> {
    let mut peers = BTreeMap::new();
    for person in scene.people.values() {
        for made in &person.produced {
            let sent = person.sending.endpoint.sent();
            let packets = made.tracks.iter().filter_map(|track| sent.rtp.get(&track.ssrc));
            peers.insert(made.id.clone(), packets.map(|count| count.packets).sum());
        }
    }
    let rows = rows(exporter, "/api/v1/streams?for=1h")?;
    let producers = rows
        .iter()
        .filter(|row| row["subtitle"].as_str().is_some_and(|it| it.starts_with("producer")));
    let views = producers.map(|row| {
        let id = row["title"].as_str().unwrap_or_default().to_owned();
        (id, row["receive_packets"].as_u64().unwrap_or_default())
    });
    Ok((peers, views.collect()))
}

/// From the rooms to the peer with the bad uplink, by links alone, as somebody does who never saw the pages.
fn look(scene: &Scene, exporter: &Exporter) -> Result<()> {
    let visit = |path: &str| -> Result<Option<Dom>> {
        let dom =
            browser::visit(&scene.host, &format!("http://{}{path}", exporter::address()), 12)?;
        if let Some(dom) = &dom {
            ensure!(dom.complaints.is_empty(), "{path}: {:?}", dom.complaints);
        }
        Ok(dom)
    };
    let Some(rooms) = visit("/rooms?for=1h")? else { return Ok(()) };
    let Some(room) = visit(&rooms.link(ROOM)?)? else { return Ok(()) };
    ensure!(room.html.contains("Who sends to whom"), "{}", room.html);
    ensure!(
        room.html.contains("uplink") && room.html.contains("lost before this host"),
        "{}",
        room.html
    );
    let Some(bob) = visit(&room.link("Bob")?)? else { return Ok(()) };
    ensure!(bob.html.contains("producer audio") && bob.html.contains("<polyline"), "{}", bob.html);
    let Some(addresses) = visit(&rooms.link("Addresses")?)? else { return Ok(()) };
    ensure!(addresses.html.contains("Bob"), "{}", addresses.html);
    let of_bob = rows(exporter, "/api/v1/ips?for=1h&q=name:Bob")?;
    let address = of_bob.first().and_then(|row| row["key"].as_str()).context("no address")?;
    let Some(own) = visit(&addresses.link(address)?)? else { return Ok(()) };
    let parts = ["<h2>Transports</h2>", "<h2>Streams</h2>", "producer audio", "<figure>"];
    ensure!(parts.iter().all(|part| own.html.contains(part)), "{}", own.html);
    // The pages, their style and script, and what the script asked for again.
    let asked = exporter
        .scrape()?
        .sum("mediasoup_exporter_http_requests_total", &[("page", "view"), ("code", "200")]);
    ensure!(asked >= 16.0, "pages are not kept up to date: {asked} requests");
    Ok(())
}

/// The same, as a script has it.
fn in_a_terminal(scene: &Scene) -> Result<()> {
    let top = |arguments: &[&str]| -> Result<(bool, String)> {
        let mut command = scene.host.command(exporter::binary()?.to_str().context("a path")?);
        command.arg("top").args(["--url", &format!("http://{}", exporter::address())]);
        let output = command.args(["--for", "1h"]).args(arguments).output()?;
        Ok((output.status.success(), String::from_utf8(output.stdout)?))
    };
    let (is_well, table) = top(&["--once", "--sort", "name"])?;
    ensure!(is_well && table.lines().count() == 5, "{table}");
    ensure!(table.lines().nth(2).is_some_and(|line| line.starts_with("Bob")), "{table}");
    let (is_well, document) = top(&["--json", "--by", "room"])?;
    let document: Value = serde_json::from_str(&document)?;
    ensure!(is_well && document["rows"][0]["key"] == ROOM, "{document}");
    ensure!(!top(&["--once", "rome:lecture"])?.0, "a filter that means nothing is refused");
    let explain = |what: &str| -> Result<(bool, String)> {
        let mut command = scene.host.command(exporter::binary()?.to_str().context("a path")?);
        command.args(["explain", "--url", &format!("http://{}", exporter::address()), what]);
        let output = command.output()?;
        Ok((output.status.success(), String::from_utf8(output.stdout)?))
    };
    let (is_known, text) = explain("bob")?;
    ensure!(
        is_known && text.contains("Peers with `bob`") && text.contains("producer audio"),
        "{text}"
    );
    ensure!(!explain("nobody at all")?.0, "who is not there is not explained");
    Ok(())
}

#[test]
fn what_the_server_does_not_read_is_this_hosts_fault() -> Result<()> {
    let Some(build) = cast::newest() else { return Ok(()) };
    let mut scene = cast::open(&build)?;
    scene.room(ROOM, 1)?;
    let exporter = cast::exporter(&scene, &[], &[])?;
    for (seat, name) in (1..).zip(["Ada", "Eve"]) {
        let produces = vec![vec![Track::vp8(100 * seat, 1_500)]];
        scene.enter(Role { produces, ..role(seat, name) })?;
    }
    scene.introduce()?;
    let stop = AtomicBool::new(false);
    let stopped = Stopped(scene.sfu.workers().to_vec());
    let pid = scene.sfu.pid();
    thread::scope(|scope| -> Result<()> {
        let playing = scope.spawn(|| scene.perform(&stop));
        let seen = wait::until("the call to be seen", wait::LONG, || {
            let rows = rows(&exporter, "/api/v1/peers")?;
            let counted = |row: &Value| row["receive_packets"].as_u64() > Some(50);
            Ok((rows.iter().filter(|row| counted(row)).count() == 2).then_some(()))
        })
        .and_then(|()| stopped.signal(libc::SIGSTOP))
        .and_then(|()| {
            wait::until("this host to be blamed", wait::LONG, || {
                let rows = rows(&exporter, "/api/v1/peers")?;
                let is_blamed = |row: &&Value| row["verdict"] == "this host";
                let labels = [("verdict", "this_host"), ("room_id", ROOM)];
                let said = exporter.scrape()?.sum("mediasoup_peer_verdict", &labels);
                Ok((rows.iter().filter(is_blamed).count() == 2 && said == 2.0).then_some(()))
            })
        });
        stop.store(true, Ordering::Relaxed);
        playing.join().expect("a peer does not panic")?;
        seen
    })?;
    drop(stopped);
    // What sockets had no room for is what the kernel says, to the packet.
    wait::until_equal("all drops to be counted", wait::LONG, || {
        let drops = exporter.scrape()?.sum("mediasoup_socket_receive_drops_total", &[]);
        Ok((drops as u64, Queues::of(pid).dropped()?))
    })?;
    exporter.stop()
}

/// Workers that may be stopped; when this goes, they run.
struct Stopped(Vec<u32>);

impl Stopped {
    fn signal(&self, signal: i32) -> Result<()> {
        for pid in &self.0 {
            // SAFETY: kill takes two integers. The worker lives as long as its SFU does.
            let result = unsafe { libc::kill(i32::try_from(*pid)?, signal) };
            ensure!(result == 0, "signal worker {pid}: {}", std::io::Error::last_os_error());
        }
        Ok(())
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.signal(libc::SIGCONT);
    }
}

#[test]
fn pages_and_documents_are_for_who_may_read_metrics_and_can_be_off() -> Result<()> {
    let Some(build) = cast::newest() else { return Ok(()) };
    let scene = cast::open(&build)?;
    let token = scene.dir.path().join("token");
    std::fs::write(&token, "secret\n")?;
    let path = token.to_str().context("a path that is not UTF-8")?;
    let exporter = cast::exporter(&scene, &["--auth.token-file", path], &[])?;
    let paths = ["/rooms", "/api/v1/peers", "/api/v1/openapi.json", "/assets/views.css"];
    for path in paths {
        assert_eq!(exporter.get(path, &[])?.status, 401, "{path}");
        let response = exporter.get(path, &["Authorization: Bearer secret"])?;
        assert_eq!(response.status, 200, "{path}");
    }
    exporter.stop()?;
    let exporter = cast::exporter(&scene, &["--web.views=no"], &[])?;
    for path in paths {
        assert_eq!(exporter.get(path, &[])?.status, 404, "{path}");
    }
    assert!(!exporter.get("/", &[])?.text()?.contains("/rooms"));
    exporter.stop()
}
