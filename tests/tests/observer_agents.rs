//! Agents: whatever the server is written in and however it was built, the same is told in the same way.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use exporter_tests::observer_fixture::{Fixture, differences, node, script};
use exporter_tests::observer_watch::{Watch, options};
use exporter_tests::process::{Guard, TempDir};
use exporter_tests::sfu::{Build, VERSIONS};
use exporter_tests::{root_or_skip, skip, wait};
use mediasoup_exporter::observer::{AGENT_SCRIPT, Ground, Options};
use serde_json::json;

/// What every agent promises, by what a real observer makes of it.
fn conforms(server: &mut Fixture, kind: &str, version: &str) -> Result<()> {
    let socket = [server.socket().to_owned()];
    let mode = fs::metadata(&socket[0])?.permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "others may connect");
    tells_everything_and_each_change(server, &socket, kind, version)?;
    asks_as_often_as_wished(&socket)?;
    turns_the_fifth_away(server, &socket)?;
    wait::until("nobody is listened to any more", wait::LONG, || {
        Ok((server.census()?["registry"] == 0).then_some(()))
    })
}

fn tells_everything_and_each_change(
    server: &mut Fixture,
    socket: &[PathBuf],
    kind: &str,
    version: &str,
) -> Result<()> {
    let watch = Watch::start(options(socket))?;
    watch.synced()?;
    agree(&watch, server)?;
    let hello = watch.status().and_then(|status| status.hello).expect("it is up");
    assert_eq!((&*hello.kind, &*hello.mediasoup), (kind, version));
    for change in [
        json!({ "do": "open-peer", "room": "room-1", "peer": "late" }),
        json!({ "do": "pause", "producer": true }),
        json!({ "do": "close-peer", "room": "room-0", "peer": "room-0-peer-0" }),
        json!({ "do": "close-room", "room": "room-1" }),
    ] {
        server.ask(&change)?;
        agree(&watch, server).with_context(|| format!("after {change}"))?;
    }
    let objects = objects(&watch);
    let status =
        watch.until("a beat that counts what is there", |status| status.beat.objects == objects)?;
    assert_eq!((status.tally.bad_lines, status.tally.oversized_lines), (0, 0));
    assert_eq!((status.beat.failures, status.beat.dropped), (0, 0));
    watch.stop()?;
    // Whoever comes next is told all of it anew.
    let watch = Watch::start(options(socket))?;
    watch.synced()?;
    agree(&watch, server)?;
    watch.stop()
}

fn asks_as_often_as_wished(socket: &[PathBuf]) -> Result<()> {
    let never = Options { stats_interval: Duration::ZERO, ..options(socket) };
    let watch = Watch::start(never)?;
    let status = watch.until("a beat", |status| status.beat.objects > 0)?;
    assert_eq!(status.beat.requests, 0);
    watch.stop()?;
    // Far more often than the rate allows.
    let rate = 4;
    let hasty =
        Options { stats_interval: Duration::from_millis(10), stats_rate: rate, ..options(socket) };
    let begin = Instant::now();
    let watch = Watch::start(hasty)?;
    let enough = 3 * u64::from(rate);
    let asked = watch.until("requests", |status| status.beat.requests > enough)?.beat.requests;
    // What was saved up while nothing was asked may be asked for at once.
    let most = f64::from(rate) * (1.0 + begin.elapsed().as_secs_f64());
    assert!((asked as f64) <= most, "{asked} requests, {most} were allowed");
    watch.stop()
}

fn turns_the_fifth_away(server: &mut Fixture, socket: &[PathBuf]) -> Result<()> {
    let four = (0..4).map(|_| Watch::start(options(socket))).collect::<Result<Vec<_>>>()?;
    four.iter().try_for_each(Watch::synced)?;
    let fifth = Watch::start(options(socket))?;
    fifth.until("it is turned away", |status| !status.up && status.tally.attempts > 1)?;
    assert_eq!(fifth.status().expect("it has one source").tally.meetings, 0);
    drop(four);
    fifth.synced()?;
    agree(&fifth, server)?;
    fifth.stop()
}

fn agree(watch: &Watch, server: &mut Fixture) -> Result<()> {
    wait::until_equal("observer and server agree", wait::LONG, || {
        Ok((differences(&watch.seen(), &server.truth()?), Vec::new()))
    })
}

/// Workers, routers, transports, producers and consumers.
fn objects(watch: &Watch) -> u64 {
    let state = watch.state();
    let routers = state.transports.values().map(|transport| &transport.router);
    let routers = routers.collect::<std::collections::HashSet<_>>().len();
    let others = [state.transports.len(), state.producers.len(), state.consumers.len()];
    (state.workers.len() + routers + others.iter().sum::<usize>()) as u64
}

#[test]
fn the_agent_for_node() -> Result<()> {
    let mut tried = 0;
    for version in VERSIONS {
        let Some(scene) = Scene::new(version)? else { continue };
        let mut server = Fixture::start_with_agent(&scene.build, &scene.agent, &scene.socket)?;
        conforms(&mut server, "mediasoup", version)?;
        tried += 1;
    }
    ensure!(tried > 0 || VERSIONS.iter().all(|version| Build::find(version).is_none()));
    Ok(())
}

#[test]
fn an_agent_in_another_language() -> Result<()> {
    let folder = TempDir::new("agents")?;
    if Command::new("python3").arg("--version").output().is_err() {
        skip("no Python");
        return Ok(());
    }
    let mut server = Fixture::start_in_python(&folder.path().join("agent.sock"))?;
    conforms(&mut server, "an-sfu-in-python", "0.1")
}

#[test]
fn a_bundle_of_esbuild() -> Result<()> {
    bundled("esbuild", "cjs")
}

#[test]
fn a_bundle_of_esbuild_as_a_module() -> Result<()> {
    bundled("esbuild-module", "mjs")
}

#[test]
fn a_bundle_of_webpack() -> Result<()> {
    bundled("webpack", "cjs")
}

#[test]
fn a_bundle_of_bun() -> Result<()> {
    bundled("bun", "cjs")
}

/// One who is nobody special needs no flag: its workers say whose it is.
#[test]
fn the_agent_of_an_unprivileged_user_is_found() -> Result<()> {
    const USER: u32 = 4343;
    if !root_or_skip() {
        return Ok(());
    }
    let Some(scene) = Scene::any()? else { return Ok(()) };
    // As /tmp is.
    fs::set_permissions(scene.folder.path(), Permissions::from_mode(0o1777))?;
    let socket = scene.folder.path().join("mediasoup-exporter-agent-1.sock");
    let user = USER.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--clear-groups", "--reuid", &user, "--regid", &user]);
    // Where this checkout lies, it may read.
    command.args(["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search", "node"]);
    command.env("NODE_PATH", scene.build.dir().join("node_modules"));
    command.arg("--require").arg(&scene.agent).arg(script("server.js"));
    command.args(["agent", "", "1", "2"]).env("MEDIASOUP_EXPORTER_SOCKET", &socket);
    let mut server = Fixture::spawn(command, &socket)?;
    let folder = scene.folder.path().to_owned();
    let watch = Watch::start(Options { folder, ..options(&[]) })?;
    let status = wait::until("the agent to be listened to", wait::LONG, || {
        Ok(watch.statuses().into_iter().find(|status| status.up))
    })?;
    assert_eq!((&status.path, status.ground), (&socket, Ground::Worker));
    let truth = server.truth()?;
    let count = truth["transports"].as_array().context("transports")?.len();
    wait::until_equal("its transports to be told", wait::LONG, || {
        Ok((count, watch.state().transports.len()))
    })?;
    watch.stop()
}

#[test]
fn a_server_that_is_a_module() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    // Modules do not look where NODE_PATH says.
    symlink(scene.build.dir().join("node_modules"), scene.folder.path().join("node_modules"))?;
    let server = format!(
        "import {{ createRequire }} from 'node:module';\n\
         import * as mediasoup from 'mediasoup';\n\
         globalThis.mediasoup = mediasoup;\n\
         createRequire(import.meta.url)({:?});\n",
        script("server.js")
    );
    let file = scene.folder.path().join("server.mjs");
    fs::write(&file, server)?;
    // The agent is one itself, too, in a package whose files are.
    for (option, agent) in [("--require", "agent.cjs"), ("--import", "agent.mjs")] {
        let agent = scene.folder.path().join(agent);
        fs::write(&agent, AGENT_SCRIPT)?;
        let mut command = node(&scene.build);
        command.arg(option).arg(&agent).arg(&file);
        told(command, &scene)?;
    }
    Ok(())
}

/// A mediasoup whose events go no usual way is found where the server says that it is.
#[test]
fn a_server_that_says_where_its_mediasoup_is() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let server = format!(
        "const {{ observer }} = global.mediasoup = require('mediasoup');\n\
         observer.safeEmit = (event, it) => observer.listeners(event).forEach((f) => f(it));\n\
         globalThis[Symbol.for('mediasoup-exporter.attach')](global.mediasoup);\n\
         require({:?});\n",
        script("server.js")
    );
    let file = scene.folder.path().join("server.cjs");
    fs::write(&file, server)?;
    let mut command = node(&scene.build);
    command.arg("--require").arg(&scene.agent).arg(&file);
    told(command, &scene)
}

/// A loader compiles what is loaded, and has its own say in how.
#[test]
fn a_server_under_a_loader() -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let Some(bundlers) = bundlers() else { return Ok(()) };
    symlink(scene.build.dir().join("node_modules"), scene.folder.path().join("node_modules"))?;
    let server = format!(
        "import {{ createRequire }} from 'node:module';\n\
         import * as mediasoup from 'mediasoup';\n\
         (globalThis as {{ mediasoup?: typeof mediasoup }}).mediasoup = mediasoup;\n\
         createRequire(import.meta.url)({:?});\n",
        script("server.js")
    );
    let file = scene.folder.path().join("server.mts");
    fs::write(&file, server)?;
    let loader = bundlers.join("node_modules/tsx/dist/loader.mjs");
    let mut command = node(&scene.build);
    command.arg("--require").arg(&scene.agent).arg("--import").arg(loader).arg(&file);
    told(command, &scene)
}

fn bundlers() -> Option<PathBuf> {
    let bundlers = std::env::var_os("BUNDLERS").map(PathBuf::from);
    if bundlers.is_none() {
        skip("no bundlers");
    }
    bundlers
}

/// A server and mediasoup in one file: no module system knows of mediasoup.
fn bundled(how: &str, extension: &str) -> Result<()> {
    let Some(scene) = Scene::any()? else { return Ok(()) };
    let Some(bundlers) = bundlers() else { return Ok(()) };
    let bundle = scene.folder.path().join("server").with_extension(extension);
    let modules = [&bundlers, scene.build.dir()].map(|folder| folder.join("node_modules"));
    let mut command = Command::new("node");
    command.env("NODE_PATH", std::env::join_paths(modules)?);
    command.arg(script("bundle.js")).arg(how).arg(script("server.js")).arg(&bundle);
    let made = command.output().context("run the bundler")?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    // What it holds is not looked for elsewhere.
    let mut command = Command::new("node");
    let worker = "node_modules/mediasoup/worker/out/Release/mediasoup-worker";
    command.env("MEDIASOUP_WORKER_BIN", scene.build.dir().join(worker));
    command.arg("--require").arg(&scene.agent).arg(&bundle);
    told(command, &scene)
}

/// What a server that this command starts tells is true, and stays so.
fn told(mut command: Command, scene: &Scene) -> Result<()> {
    command.args(["agent", "", "1", "2"]).env("MEDIASOUP_EXPORTER_SOCKET", &scene.socket);
    let mut server = Fixture::spawn(command, &scene.socket)?;
    let watch = Watch::start(options(std::slice::from_ref(&scene.socket)))?;
    watch.synced()?;
    agree(&watch, &mut server)?;
    let hello = watch.status().and_then(|status| status.hello).expect("it is up");
    assert_eq!((&*hello.kind, &*hello.mediasoup), ("mediasoup", scene.version));
    server.ask(&json!({ "do": "open-peer", "room": "room-0", "peer": "late" }))?;
    agree(&watch, &mut server)?;
    watch.stop()
}

/// A process in which there is no mediasoup says so; one that only starts something like a worker, too.
#[test]
fn where_there_is_no_mediasoup_the_agent_says_so() -> Result<()> {
    let folder = TempDir::new("agents")?;
    let agent = folder.path().join("agent.cjs");
    fs::write(&agent, AGENT_SCRIPT)?;
    let idle = "process.stdin.resume();";
    let hidden = "const { spawn } = require('child_process');\n\
        spawn('cat', ['--', '--logLevel=error'], { env: { MEDIASOUP_VERSION: '3' } });\n\
        spawn('sh', ['-c', 'read line', '--logLevel=error'], \
            { env: { MEDIASOUP_VERSION: '3' }, stdio: 'pipe' });\n\
        process.stdin.resume();";
    for (script, remedy) in [(idle, "NODE_OPTIONS="), (hidden, "mediasoup-exporter.attach")] {
        let mut command = Command::new("node");
        command.arg("--require").arg(&agent).arg("-e").arg(script);
        command.env("MEDIASOUP_EXPORTER_SOCKET", folder.path().join("agent.sock"));
        let Ok(mut process) = Guard::spawn("a server without mediasoup", command) else {
            skip("no Node.js");
            return Ok(());
        };
        let stdin = process.stdin();
        wait::until("a warning with the remedy", wait::LONG, || {
            process.alive()?;
            Ok(process.log().contains(remedy).then_some(()))
        })?;
        assert_eq!(process.log().matches("Warning: mediasoup-exporter").count(), 1);
        drop(stdin);
    }
    Ok(())
}

/// mediasoup, the agent, and where it listens.
struct Scene {
    folder: TempDir,
    version: &'static str,
    build: Build,
    agent: PathBuf,
    socket: PathBuf,
}

impl Scene {
    fn new(version: &'static str) -> Result<Option<Self>> {
        let Some(build) = Build::find(version) else {
            skip(&format!("no mediasoup {version}"));
            return Ok(None);
        };
        let folder = TempDir::new("agents")?;
        let agent = folder.path().join("agent.cjs");
        fs::write(&agent, AGENT_SCRIPT)?;
        let socket = folder.path().join("agent.sock");
        Ok(Some(Self { folder, version, build, agent, socket }))
    }

    /// With the first mediasoup that there is.
    fn any() -> Result<Option<Self>> {
        let found = VERSIONS.into_iter().find(|version| Build::find(version).is_some());
        Self::new(found.unwrap_or(VERSIONS[0]))
    }
}
