//! Servers that restart, hang, talk nonsense or do not let the script come: each costs its `up`
//! until it is back, and no server is worse off for having been observed.

use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use exporter_tests::observer_fixture::{Fixture, differences};
use exporter_tests::observer_watch::{Watch, options};
use exporter_tests::process::{Guard, TempDir};
use exporter_tests::sfu::{Build, VERSIONS};
use exporter_tests::{exporter, root_or_skip, skip, wait};
use mediasoup_exporter::model::{Proto, Tuple};
use mediasoup_exporter::observer::{AGENT_SCRIPT, Options};
use serde_json::json;

/// A server whose console sockets have no listener for errors.
const FRAGILE: &str = "edumeet4-media-node";

fn build() -> Option<Build> {
    let build = VERSIONS.iter().find_map(|version| Build::find(version));
    if build.is_none() {
        skip("no mediasoup");
    }
    build
}

fn agree(watch: &Watch, server: &mut Fixture) -> Result<()> {
    wait::until_equal("observer and server agree", wait::LONG, || {
        Ok((differences(&watch.seen(), &server.truth()?), Vec::new()))
    })
}

#[test]
fn a_server_that_restarts_is_found_again() -> Result<()> {
    let Some(build) = build() else { return Ok(()) };
    let folder = TempDir::new("observer")?;
    let socket = folder.path().join("console.sock");
    let watch = Watch::start(options(std::slice::from_ref(&socket)))?;
    watch.until("no server yet", |status| !status.up && status.tally.attempts > 1)?;
    let mut server = Fixture::start("edumeet3", &build, &socket, 2, 1)?;
    watch.synced()?;
    agree(&watch, &mut server)?;
    server.signal(libc::SIGKILL)?;
    drop(server);
    watch.until("it is away", |status| !status.up)?;
    wait::until("what it told goes after the grace", wait::LONG, || {
        let state = watch.state();
        Ok((state.transports.is_empty() && state.told().is_empty()).then_some(()))
    })?;
    // A busy server may have been met more than once.
    let before = watch.status().expect("it has one source").tally.meetings;
    let mut server = Fixture::start("edumeet3", &build, &socket, 1, 2)?;
    watch.until("it is back", |status| status.up && status.tally.meetings > before)?;
    agree(&watch, &mut server)
}

#[test]
fn a_server_that_hangs_while_it_tells_is_down_until_it_goes_on() -> Result<()> {
    let Some(build) = build() else { return Ok(()) };
    let folder = TempDir::new("observer")?;
    let socket = folder.path().join("console.sock");
    let mut server = Fixture::start(FRAGILE, &build, &socket, 1, 1)?;
    let patient = Options {
        silence: Duration::from_secs(7),
        patience: Duration::from_millis(300),
        ..options(&[socket])
    };
    let watch = Watch::start(patient)?;
    watch.synced()?;
    // A busy server may have needed several.
    let before = watch.status().expect("it has one source").tally.attempts;
    server.signal(libc::SIGSTOP)?;
    watch.until("it counts as down", |status| !status.up)?;
    // One console is opened and waited for, not one for each attempt.
    let status = watch.until("its console does not answer", |status| {
        status.error.as_deref().is_some_and(|error| error.contains("does not answer"))
    })?;
    assert_eq!(status.tally.attempts, before + 1);
    server.signal(libc::SIGCONT)?;
    watch.until("it goes on", |status| status.up)?;
    agree(&watch, &mut server)?;
    wait::until("no other connection is left", wait::LONG, || {
        Ok((server.census()?["consoles"] == 1).then_some(()))
    })?;
    server.alive()
}

#[test]
fn an_exporter_that_ends_at_any_moment_leaves_a_fragile_server_alive() -> Result<()> {
    let Some(build) = build() else { return Ok(()) };
    let folder = TempDir::new("observer")?;
    let socket = folder.path().join("console.sock");
    let mut server = Fixture::start(FRAGILE, &build, &socket, 1, 1)?;
    let before = server.census()?;
    for moment in 0..20 {
        let watch = Watch::start(options(std::slice::from_ref(&socket)))?;
        thread::sleep(Duration::from_millis(moment * 8));
        watch.stop()?;
        server.alive()?;
    }
    // Two at a time do not disturb each other.
    let first = Watch::start(options(std::slice::from_ref(&socket)))?;
    let second = Watch::start(options(&[socket]))?;
    first.synced()?;
    second.synced()?;
    first.stop()?;
    agree(&second, &mut server)?;
    second.stop()?;
    wait::until_equal("nothing stays", wait::LONG, || Ok((server.census()?, before.clone())))
}

#[test]
fn too_many_exporters_are_turned_away() -> Result<()> {
    let Some(build) = build() else { return Ok(()) };
    let folder = TempDir::new("observer")?;
    let socket = folder.path().join("console.sock");
    let mut server = Fixture::start("edumeet3", &build, &socket, 1, 1)?;
    let watches: Vec<Watch> = (0..4)
        .map(|_| Watch::start(options(std::slice::from_ref(&socket))))
        .collect::<Result<_>>()?;
    watches.iter().try_for_each(Watch::synced)?;
    let fifth = Watch::start(options(&[socket]))?;
    fifth.until("it is turned away", |status| !status.up && status.tally.attempts > 1)?;
    assert_eq!(fifth.status().expect("it has one source").tally.meetings, 0);
    drop(watches);
    fifth.synced()?;
    agree(&fifth, &mut server)
}

#[test]
fn the_agent_tells_the_same_as_a_console() -> Result<()> {
    for version in VERSIONS {
        let Some(build) = Build::find(version) else {
            skip(&format!("no mediasoup {version}"));
            continue;
        };
        let folder = TempDir::new("observer")?;
        let script = folder.path().join("agent.js");
        fs::write(&script, AGENT_SCRIPT)?;
        let socket = folder.path().join("agent.sock");
        let mut server = Fixture::start_with_agent(&build, &script, &socket)?;
        let mode = fs::metadata(&socket)?.permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let watch = Watch::start(options(std::slice::from_ref(&socket)))?;
        watch.synced()?;
        agree(&watch, &mut server)?;
        let hello = watch.status().and_then(|status| status.hello).expect("it is up");
        assert_eq!((&*hello.kind, &*hello.mediasoup), ("mediasoup", version));
        server.ask(&json!({ "do": "close-peer", "room": "room-0", "peer": "room-0-peer-0" }))?;
        agree(&watch, &mut server)?;
        watch.stop()?;
        let again = Watch::start(options(&[socket]))?;
        again.synced()?;
        agree(&again, &mut server)?;
        again.stop()?;
        wait::until("nothing stays", wait::LONG, || {
            Ok((server.census()?["registry"] == 0).then_some(()))
        })?;
    }
    Ok(())
}

#[test]
fn statistics_come_at_their_interval_and_not_without() -> Result<()> {
    let Some(build) = build() else { return Ok(()) };
    let folder = TempDir::new("observer")?;
    let socket = folder.path().join("console.sock");
    let _server = Fixture::start("edumeet3", &build, &socket, 1, 2)?;
    let watch = Watch::start(options(std::slice::from_ref(&socket)))?;
    wait::until("every encoding that was heard has statistics", wait::LONG, || {
        let state = watch.state();
        let heard = state.producers.values().flat_map(|p| &p.encodings).filter(|e| e.rid.is_some());
        let known = heard.filter(|e| e.stats.is_some_and(|stats| stats.byte_count > 0)).count();
        Ok((known == 6).then_some(()))
    })?;
    watch.stop()?;
    let off = Options { stats_interval: Duration::ZERO, ..options(&[socket]) };
    let watch = Watch::start(off)?;
    watch.synced()?;
    let asked = watch.until("a sign of life", |status| status.beat.objects > 0)?.beat.requests;
    watch.until("another one", |status| status.tally.lines > 0 && status.beat.objects > 0)?;
    // Only the first telling asks: each transport once, where mediasoup hides what is on it.
    let transports = watch.state().transports.len() as u64;
    assert!(asked <= transports + 2, "{asked} requests for {transports} transports");
    assert!(
        watch.state().producers.values().all(|p| p.encodings.iter().all(|e| e.stats.is_none()))
    );
    Ok(())
}

/// A plain transport is connected without an event, so the script has to look; who has gone by then had a far end
/// all the same.
#[test]
fn a_visit_that_is_over_at_once_is_told_with_its_far_end() -> Result<()> {
    const PORT: u16 = 9;
    let Some(build) = build() else { return Ok(()) };
    let folder = TempDir::new("observer")?;
    let socket = folder.path().join("console.sock");
    let mut server = Fixture::start("edumeet3", &build, &socket, 1, 1)?;
    let watch = Watch::start(options(&[socket]))?;
    watch.synced()?;
    let visit = server.ask(&json!({ "do": "visit", "room": "room-0", "port": PORT }))?;
    let port = visit["port"].as_u64().and_then(|port| u16::try_from(port).ok());
    let port = port.with_context(|| visit.to_string())?;
    let ends = [port, PORT].map(|port| (Ipv4Addr::LOCALHOST, port).into());
    let tuple = Tuple::new(Proto::Udp, ends[0], ends[1]);
    wait::until("the visit to be known, as one that is over", wait::LONG, || {
        Ok(watch.state().holder(&tuple).is_some_and(|holder| holder.closed).then_some(()))
    })?;
    watch.stop()
}

/// Simulcast by RID: only statistics name the SSRCs of retransmissions, and nobody waits an hour for them.
#[test]
fn retransmissions_have_an_owner_before_the_interval_is_over() -> Result<()> {
    let Some(build) = build() else { return Ok(()) };
    let folder = TempDir::new("observer")?;
    let socket = folder.path().join("console.sock");
    let mut server = Fixture::start("edumeet3", &build, &socket, 1, 1)?;
    let hourly = Duration::from_secs(3600);
    let watch = Watch::start(Options { stats_interval: hourly, ..options(&[socket]) })?;
    watch.synced()?;
    agree(&watch, &mut server)?;
    // Of who comes later the scores are heard first.
    server.ask(&json!({ "do": "open-peer", "room": "room-0", "peer": "late" }))?;
    agree(&watch, &mut server)?;
    watch.stop()
}

#[test]
fn mediasoup_3_6_leads_from_worker_to_stream_without_asking_the_worker() -> Result<()> {
    let folder = TempDir::new("observer")?;
    let socket = folder.path().join("console.sock");
    let Ok(mut server) = Fixture::start_old(&socket) else {
        skip("no Node.js");
        return Ok(());
    };
    let watch = Watch::start(options(&[socket]))?;
    watch.synced()?;
    let seen = |remote: Option<&str>| {
        json!({
            "workers": [4242], "rooms": [], "peers": [],
            "transports": [{ "id": "T", "kind": "plain", "pid": 4242, "room": null, "peer": "p",
                "tuples": [{ "port": 40000, "proto": "udp", "remote": remote }] }],
            "producers": [{ "id": "P", "transport": "T", "room": null, "peer": "p",
                "kind": "audio", "codec": "opus", "paused": false,
                "encodings": [{ "ssrc": 1, "rid": null, "rtx": null }] }],
            "consumers": [{ "id": "C", "producer": "P", "transport": "T", "room": null,
                "peer": "p", "kind": "audio", "paused": false, "producerPaused": false,
                "score": 7, "encodings": [{ "ssrc": 2, "rid": null, "rtx": null }] }],
        })
    };
    assert_eq!(watch.seen(), seen(None));
    // The tuple of a plain transport that is connected by hand changes without an event.
    server.ask(&json!({ "do": "connect" }))?;
    wait::until_equal("the far end", wait::LONG, || {
        Ok((watch.seen(), seen(Some("203.0.113.9:9"))))
    })?;
    // A request that came too late for its object is no failure.
    let before = watch.until("a sign of life", |status| status.beat.objects > 0)?.beat.objects;
    server.ask(&json!({ "do": "lose" }))?;
    let after = watch.until("one without it", |status| status.beat.objects + 1 == before)?;
    assert!(watch.state().consumers.is_empty());
    assert_eq!(after.beat.failures, 0);
    Ok(())
}

#[test]
fn a_server_of_another_user_is_observed() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let folder = TempDir::new("observer")?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777))?;
    let socket = folder.path().join("console.sock");
    let mut node = Command::new("node");
    node.uid(65534).gid(65534);
    let Ok(_server) = Fixture::start_old_with(node, &socket) else {
        skip("another user cannot run Node.js with this checkout");
        return Ok(());
    };
    assert_eq!(fs::metadata(&socket)?.uid(), 65534);
    let watch = Watch::start(options(&[socket]))?;
    watch.synced()?;
    assert_eq!(watch.state().producers.len(), 1);
    Ok(())
}

/// Neither its file system nor its network is the exporter's: the console's connection is enough.
#[test]
fn a_server_with_a_file_system_and_a_network_of_its_own_is_observed() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let folder = TempDir::new("observer")?;
    let mut unshare = Command::new("unshare");
    let hide = "mount -t tmpfs none \"$0\" && exec node \"$@\"";
    unshare.args(["--mount", "--net", "sh", "-c", hide]).arg(folder.path());
    let inside = folder.path().join("console.sock");
    let Ok(server) = Fixture::start_old_with(unshare, &inside) else {
        skip("no mount namespaces");
        return Ok(());
    };
    assert!(!inside.exists());
    let outside = Path::new("/proc").join(server.pid().to_string()).join("root");
    let there = outside.join(folder.path().strip_prefix("/")?);
    let watch = Watch::start(options(&[there.join("console.sock")]))?;
    watch.synced()?;
    assert_eq!(watch.state().producers.len(), 1);
    let names: Vec<_> = fs::read_dir(&there)?.map(|it| it.map(|it| it.file_name())).collect();
    assert_eq!(names.len(), 1, "nothing was made there: {names:?}");
    Ok(())
}

#[test]
fn a_repl_that_does_not_hand_over_is_told_apart() -> Result<()> {
    let folder = TempDir::new("observer")?;
    let socket = folder.path().join("console.sock");
    let mut node = Command::new("node");
    node.arg("--require").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("observer/frozen.js"));
    let Ok(mut server) = Fixture::start_old_with(node, &socket) else {
        skip("no Node.js");
        return Ok(());
    };
    let watch = Watch::start(options(&[socket]))?;
    let status = watch.until("the reason, again and again", |status| {
        status.tally.attempts > 3 && status.error.is_some()
    })?;
    let error = status.error.expect("it has one");
    assert!(error.contains("does not hand over") && error.contains("--print-agent"), "{error}");
    watch.stop()?;
    server.alive()
}

/// Where nothing else holds a server's event loop, the exporter does not hold it either.
#[test]
fn a_server_that_has_nothing_left_to_do_ends() -> Result<()> {
    let folder = TempDir::new("observer")?;
    let socket = folder.path().join("console.sock");
    let Ok(mut server) = Fixture::start_old(&socket) else {
        skip("no Node.js");
        return Ok(());
    };
    let watch = Watch::start(options(&[socket]))?;
    watch.synced()?;
    server.ask(&json!({ "do": "rest" }))?;
    wait::until("its end", wait::LONG, || Ok(server.alive().is_err().then_some(())))?;
    watch.until("it is away", |status| !status.up).map(drop)
}

/// What a getter of the server's throws, whatever it is, is told and counted, and ends nothing.
#[test]
fn what_the_script_runs_into_does_not_end_the_server() -> Result<()> {
    let folder = TempDir::new("observer")?;
    let socket = folder.path().join("console.sock");
    let Ok(mut server) = Fixture::start_old(&socket) else {
        skip("no Node.js");
        return Ok(());
    };
    let watch = Watch::start(options(&[socket]))?;
    watch.synced()?;
    server.ask(&json!({ "do": "poison" }))?;
    let status = watch.until("the failure is counted", |status| status.beat.failures > 0)?;
    assert!(status.up);
    assert_eq!((status.tally.bad_lines, status.tally.meetings), (0, 1));
    server.alive()
}

/// An exporter that is killed while it listens takes no server with it.
#[test]
fn an_exporter_that_is_killed_leaves_a_fragile_server_alive() -> Result<()> {
    let Some(build) = build() else { return Ok(()) };
    let folder = TempDir::new("observer")?;
    let socket = folder.path().join("console.sock");
    let mut server = Fixture::start(FRAGILE, &build, &socket, 2, 2)?;
    let before = server.census()?;
    for _ in 0..10 {
        let mut command = Command::new(exporter::binary()?);
        command.args(["--source", "none", "--listen", "127.0.0.1:0"]);
        command.args(["--observer.stats-interval", "10ms", "--observer"]).arg(&socket);
        let mut killed = Guard::spawn("mediasoup-exporter", command)?;
        wait::until("it listens", wait::LONG, || {
            killed.alive()?;
            Ok((server.census()?["registry"] == 1).then_some(()))
        })?;
        killed.signal(libc::SIGKILL)?;
        // There is something to tell at once.
        for producer in [true, false] {
            server.ask(&json!({ "do": "pause", "producer": producer }))?;
        }
        wait::until_equal("nothing stays", wait::LONG, || Ok((server.census()?, before.clone())))?;
    }
    server.alive()
}

/// A socket on which a fake server says something to each visitor and then waits.
fn speaker(path: &Path, words: impl Fn(usize) -> Vec<u8> + Send + 'static) -> Result<()> {
    let listener = UnixListener::bind(path)?;
    thread::spawn(move || {
        let mut held = Vec::new();
        for (visit, stream) in listener.incoming().enumerate() {
            let Ok(mut stream) = stream else { return };
            let _ = stream.write_all(&words(visit));
            held.push(stream);
        }
    });
    Ok(())
}

fn fake(name: &str, folder: &TempDir, words: &'static [u8]) -> Result<(PathBuf, Watch)> {
    let path = folder.path().join(name);
    speaker(&path, move |_| words.to_vec())?;
    let hasty = Options {
        silence: Duration::from_millis(300),
        patience: Duration::from_millis(100),
        ..options(std::slice::from_ref(&path))
    };
    Ok((path, Watch::start(hasty)?))
}

#[test]
fn nonsense_and_half_lines_cost_nothing_but_up() -> Result<()> {
    let folder = TempDir::new("observer")?;
    // Half a line, and then silence.
    let (_, half) = fake("half", &folder, br#"{"t":"hello","v":1,"kind":"fake"#)?;
    half.until("it is given up again and again", |s| !s.up && s.tally.attempts > 2)?;
    assert_eq!(half.status().expect("one source").tally.meetings, 0);
    // Lines that are none, between lines that are.
    let words = b"{\"t\":\"hello\",\"v\":1,\"kind\":\"fake\"}\n{nonsense\n\xff\xfe\n[]\n{\"t\":\"new\"}\n{\"t\":\"worker\",\"id\":7}\n";
    let (_, nonsense) = fake("nonsense", &folder, words)?;
    // Its silence ends each meeting, so there may have been several.
    nonsense.until("all lines count", |s| {
        s.tally.meetings > 0 && s.tally.bad_lines == 4 * s.tally.meetings
    })?;
    assert!(nonsense.state().workers.iter().any(|(_, pid)| *pid == 7));
    // A script of another time.
    let (_, other) = fake("other", &folder, b"{\"t\":\"hello\",\"v\":99,\"kind\":\"fake\"}\n")?;
    let status = other.until("it is refused", |s| s.error.is_some())?;
    assert!(status.error.expect("it has one").contains("--print-agent"));
    // A prompt that never comes is waited for on one connection.
    let (_, mute) = fake("mute", &folder, b"\x1b[32mwelcome\x1b[39m\r\n")?;
    mute.until("it counts as down", |s| s.error.is_some())?;
    assert_eq!(mute.status().expect("one source").tally.attempts, 1);
    Ok(())
}

#[test]
fn endless_output_and_endless_lines_fill_no_memory() -> Result<()> {
    let folder = TempDir::new("observer")?;
    let path = folder.path().join("endless");
    speaker(&path, |visit| match visit {
        // No console, and no line either.
        0 => vec![b'x'; 4 << 20],
        _ => {
            let mut words = b"{\"t\":\"hello\",\"v\":1,\"kind\":\"fake\"}\n".to_vec();
            words.extend(vec![b'y'; 4 << 20]);
            words.extend(b"\n{\"t\":\"worker\",\"id\":7}\n");
            words
        }
    })?;
    let watch = Watch::start(options(&[path]))?;
    let status = watch.until("the line is skipped", |s| s.tally.oversized_lines >= 1)?;
    assert!(status.tally.attempts >= 2);
    wait::until("the next line counts", wait::LONG, || {
        Ok(watch.state().workers.iter().any(|(_, pid)| *pid == 7).then_some(()))
    })
}
