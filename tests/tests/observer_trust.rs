//! Whom the observer believes when nobody names a socket: servers of users who are nobody special, found
//! wherever they run; and not whoever can make a socket.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Result, ensure};
use exporter_tests::exporter::Exporter;
use exporter_tests::netns::Netns;
use exporter_tests::observer_fixture::Fixture;
use exporter_tests::observer_watch::{Watch, options};
use exporter_tests::process::{Guard, TempDir};
use exporter_tests::sfu::{Build, VERSIONS};
use exporter_tests::{root_or_skip, skip, wait};
use mediasoup_exporter::observer::{Ground, Options, Status};

/// Users who are nobody special.
const SERVER: u32 = 4343;
const STRANGER: u32 = 4242;

const CONSOLES: [(&str, &str); 4] = [
    ("edumeet3", "edumeet-server.sock"),
    ("edumeet4-media-node", "edumeet-media-node.sock"),
    ("mediasoup-demo-js", "mediasoup-demo.sock"),
    ("mediasoup-demo-ts", "mediasoup-demo.sock"),
];

/// A folder as /tmp is, and whatever mediasoup there is.
fn scene() -> Result<Option<(TempDir, Build)>> {
    if !root_or_skip() {
        return Ok(None);
    }
    let Some(build) = VERSIONS.iter().rev().find_map(|version| Build::find(version)) else {
        skip("no mediasoup");
        return Ok(None);
    };
    let folder = TempDir::new("trust")?;
    fs::set_permissions(folder.path(), Permissions::from_mode(0o1777))?;
    Ok(Some((folder, build)))
}

fn looking_in(folder: &Path) -> Options {
    Options { folder: folder.to_owned(), ..options(&[]) }
}

fn up(watch: &Watch, path: &Path) -> Result<Status> {
    wait::until("the server is listened to", wait::LONG, || {
        let statuses = watch.statuses();
        Ok(statuses.into_iter().find(|status| status.up && status.path == path))
    })
}

#[test]
fn servers_of_unprivileged_users_need_no_flag() -> Result<()> {
    let Some((folder, build)) = scene()? else { return Ok(()) };
    for (kind, name) in CONSOLES {
        let socket = folder.path().join(name);
        let server = Fixture::start_as(SERVER, &[], kind, &build, &socket)?;
        let watch = Watch::start(looking_in(folder.path()))?;
        let status = up(&watch, &socket)?;
        assert_eq!((status.ground, status.pid), (Ground::Worker, Some(server.pid())), "{kind}");
        assert_eq!(watch.refusals().1, 0, "{kind}");
        watch.stop()?;
        server.kill()?;
        fs::remove_file(&socket)?;
    }
    Ok(())
}

#[test]
fn a_room_server_is_believed_beside_its_media_node() -> Result<()> {
    let Some((folder, build)) = scene()? else { return Ok(()) };
    let [media, rooms] = ["edumeet-media-node.sock", "edumeet-room-server.sock"]
        .map(|name| folder.path().join(name));
    let watch = Watch::start(looking_in(folder.path()))?;
    let _rooms = Fixture::start_as(SERVER, &[], "edumeet4-room-server", &build, &rooms)?;
    wait::until("alone it is not believed", wait::LONG, || {
        Ok((watch.refusals().1 == 1).then_some(()))
    })?;
    assert!(watch.statuses().is_empty());
    let _media = Fixture::start_as(SERVER, &[], "edumeet4-media-node", &build, &media)?;
    assert_eq!(up(&watch, &media)?.ground, Ground::Worker);
    assert_eq!(up(&watch, &rooms)?.ground, Ground::ServersUser);
    watch.stop()
}

#[test]
fn whoever_only_made_a_socket_is_not_even_connected_to() -> Result<()> {
    let Some((folder, build)) = scene()? else { return Ok(()) };
    // More than there is room for, the best name among them.
    let names = (0..300).map(|n| format!("mediasoup-exporter-agent-{n}.sock"));
    let names: Vec<String> = names.chain(["edumeet-server.sock".to_owned()]).collect();
    let mut stranger = stranger(folder.path(), &names)?;
    let watch = Watch::start(looking_in(folder.path()))?;
    wait::until("the strangers are seen", wait::LONG, || {
        stranger.alive()?;
        Ok((watch.refusals().1 == names.len()).then_some(()))
    })?;
    let socket = folder.path().join("mediasoup-demo.sock");
    let _server = Fixture::start_as(SERVER, &[], "mediasoup-demo-ts", &build, &socket)?;
    up(&watch, &socket)?;
    let (shown, _) = watch.refusals();
    assert!(shown.iter().all(|refusal| refusal.uid == STRANGER), "{shown:?}");
    assert_eq!(watch.statuses().len(), 1);
    watch.stop()?;
    ensure!(!stranger.log().contains("somebody came"), "{}", stranger.log());
    Ok(())
}

/// Listens under these names as a user who has no server, and says so when somebody comes.
fn stranger(folder: &Path, names: &[String]) -> Result<Guard> {
    let script = "import os, select, socket, sys\n\
        os.chdir(sys.argv[1])\n\
        made = [socket.socket(socket.AF_UNIX) for _ in sys.argv[2:]]\n\
        for one, name in zip(made, sys.argv[2:]):\n  one.bind(os.path.join(sys.argv[1], name)); one.listen()\n\
        select.select(made, [], [])\n\
        print('somebody came', flush=True)\n";
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", script]).arg(folder).args(names).uid(STRANGER).gid(STRANGER);
    let mut guard = Guard::spawn("the stranger", command)?;
    guard.log_stdout();
    Ok(guard)
}

#[test]
fn a_server_with_a_file_system_of_its_own_is_found() -> Result<()> {
    let Some((folder, build)) = scene()? else { return Ok(()) };
    let socket = folder.path().join("edumeet-media-node.sock");
    // As a container on the host's network: a /tmp of its own, and its own numbers of processes.
    let mount =
        format!("mount -t tmpfs -o mode=1777 tmpfs {} && exec \"$@\"", folder.path().display());
    let container =
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c"];
    let container: Vec<&str> = container.into_iter().chain([mount.as_str(), "sh"]).collect();
    let watch = Watch::start(looking_in(folder.path()))?;
    for _restart in 0..2 {
        let server = Fixture::start_as(SERVER, &container, "edumeet4-media-node", &build, &socket)?;
        let status = wait::until("the server in the container speaks", wait::LONG, || {
            Ok(watch.statuses().into_iter().find(|status| status.up))
        })?;
        let pid = status.pid.expect("it was found by its process");
        let path = PathBuf::from(format!("/proc/{pid}/root{}", socket.display()));
        assert_eq!((status.path, status.ground), (path, Ground::Worker));
        assert!(!socket.exists(), "the host does not see it");
        server.kill()?;
        wait::until("what ended for good goes", wait::LONG, || {
            Ok(watch.statuses().is_empty().then_some(()))
        })?;
    }
    watch.stop()
}

#[test]
fn what_the_operator_names_is_listened_to_beside_what_is_found() -> Result<()> {
    let Some((folder, build)) = scene()? else { return Ok(()) };
    // One whom nobody would believe, under a name that nobody knows.
    let elsewhere = folder.path().join("unknown-name.sock");
    let known = folder.path().join("mediasoup-demo.sock");
    let _one = Fixture::start_as(STRANGER, &[], "edumeet4-room-server", &build, &elsewhere)?;
    let _other = Fixture::start_as(SERVER, &[], "mediasoup-demo-js", &build, &known)?;
    let named = vec![elsewhere.clone(), known.clone()];
    for (search, sockets, count) in
        [(true, &named[..1], 2), (false, &named[..1], 1), (true, &named, 2)]
    {
        let options = Options { search, sockets: sockets.to_vec(), ..looking_in(folder.path()) };
        let watch = Watch::start(options)?;
        assert_eq!(up(&watch, &elsewhere)?.ground, Ground::Named);
        if search {
            let ground = if count == sockets.len() { Ground::Named } else { Ground::Worker };
            assert_eq!(up(&watch, &known)?.ground, ground);
        }
        assert_eq!(watch.statuses().len(), count);
        watch.stop()?;
    }
    Ok(())
}

#[test]
fn names_behind_which_nobody_is_are_said() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let folder = TempDir::new("nobody")?;
    let [absent, pattern] = ["absent.sock", "none-*.sock"].map(|name| folder.path().join(name));
    let host = Arc::new(Netns::new("nobody")?);
    let [one, other] = [&absent, &pattern].map(|path| path.display().to_string());
    let exporter = Exporter::start(&host, &["--observer", &one, "--observer", &other], &[])?;
    let words =
        [format!("observer {one}: nobody listens there"), format!("{other}: no socket matches")];
    wait::until("both to be said", wait::LONG, || {
        let log = exporter.log();
        Ok(words.iter().all(|it| log.matches(it.as_str()).count() == 1).then_some(()))
    })?;
    let scrape = exporter.scrape()?;
    for path in [&one, &other] {
        let source = format!("observer:{path}");
        let labels = [("source", source.as_str())];
        let up: Vec<f64> =
            scrape.find("mediasoup_exporter_source_up", &labels).map(|it| it.value).collect();
        assert_eq!(up, [0.0], "{path}");
    }
    let page = exporter.get("/", &["Accept: text/html"])?.text()?;
    ensure!(page.contains("no socket matches") && page.contains(&one), "{page}");
    exporter.stop()
}

#[test]
fn a_path_that_is_used_again_is_followed_again() -> Result<()> {
    let Some((folder, build)) = scene()? else { return Ok(()) };
    let socket = folder.path().join("mediasoup-demo.sock");
    let watch = Watch::start(looking_in(folder.path()))?;
    for _restart in 0..2 {
        let server = Fixture::start_as(SERVER, &[], "mediasoup-demo-js", &build, &socket)?;
        assert_eq!(up(&watch, &socket)?.pid, Some(server.pid()));
        server.kill()?;
        // Its file stays, as it does after SIGKILL.
        wait::until("what ended for good goes", wait::LONG, || {
            Ok(watch.statuses().is_empty().then_some(()))
        })?;
        assert!(socket.exists());
    }
    watch.stop()
}

#[test]
fn a_worker_of_whom_nobody_tells_is_noticed() -> Result<()> {
    let Some((folder, build)) = scene()? else { return Ok(()) };
    let watch = Watch::start(looking_in(folder.path()))?;
    let elsewhere = folder.path().join("unknown-name.sock");
    let server = Fixture::start_as(SERVER, &[], "mediasoup-demo-js", &build, &elsewhere)?;
    wait::until("its worker is noticed", wait::LONG, || {
        let parents = watch.unobserved().into_iter().filter_map(parent_of);
        Ok(parents.into_iter().any(|pid| pid == server.pid()).then_some(()))
    })?;
    watch.stop()
}

/// A server that says hello again and again, each time another one, and forges lines.
const BABBLER: &str = r#"
import json, os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1]); listener.listen()
while True:
    one, _ = listener.accept()
    try:
        for number in range(20000):
            said = {'t': 'hello', 'v': 1, 'kind': 'mediasoup', 'node': 'v20', 'pid': os.getpid(),
                    'mediasoup': f'3.{number}\n2026-01-01T00:00:00Z ERROR forged\x1b[31m'}
            one.sendall((json.dumps(said) + '\n').encode())
            said = {'t': 'error', 'op': f'forged\nop {number}', 'message': 'm'}
            one.sendall((json.dumps(said) + '\n').encode())
        print('said all', flush=True)
    except OSError:
        pass
    one.close()
"#;

#[test]
fn a_servers_words_in_the_log_are_few_and_stay_on_their_line() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let folder = TempDir::new("babbler")?;
    let socket = folder.path().join("babbler.sock");
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", BABBLER]).arg(&socket);
    let mut babbler = Guard::spawn("the babbler", command)?;
    babbler.log_stdout();
    wait::until("the babbler's socket", wait::LONG, || Ok(socket.exists().then_some(())))?;
    let host = Arc::new(Netns::new("babbler")?);
    let observer = socket.display().to_string();
    let exporter = Exporter::start(&host, &["--observer", &observer], &[])?;
    // It comes back after each telling.
    wait::until("three tellings", wait::LONG, || {
        babbler.alive()?;
        Ok((babbler.log().matches("said all").count() >= 3).then_some(()))
    })?;
    wait::until("repeated hellos are counted", wait::LONG, || {
        let text = exporter.metrics()?;
        let name = "mediasoup_exporter_internal_events_total{event=\"observer_bad_lines\"} ";
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.parse::<f64>().ok());
        Ok(line.filter(|lines| *lines >= 2.0 * 19_999.0).map(drop))
    })?;
    let log = exporter.log();
    let of_babbler = log.lines().filter(|line| line.contains("mediasoup 3.")).count();
    ensure!((1..=8).contains(&of_babbler), "{log}");
    ensure!(log.lines().all(|line| !line.starts_with("2026-01-01")), "a line was forged: {log}");
    ensure!(!log.contains('\u{1b}'), "a control character: {log}");
    exporter.stop()
}

fn parent_of(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())
}
