//! Browsers as peers: headless Chromium, each in a network namespace of its own, with a page that
//! sends and receives by mediasoup-client (`tests/webrtc/page.js`, `tests/sfu/pages.js`).

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

use crate::netns::Netns;
use crate::process::{Guard, TempDir};
use crate::scene::Scene;
use crate::sfu::Sfu;
use crate::{sfu, skip};

const CHROMIUM: &str = "chromium";

/// What works in a namespace without a display, a sandbox or a way out: the network is for the SFU
/// alone, so nothing of the browser's own may want it.
const FLAGS: &[&str] = &[
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--mute-audio",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    "--autoplay-policy=no-user-gesture-required",
    // Its statistics are to name the address that the SFU sees.
    "--disable-features=WebRtcHideLocalIpsWithMdns",
];

/// Where the SFU serves the page.
#[derive(Debug)]
pub struct Site {
    origin: String,
}

impl Site {
    /// Bundles the page and has the SFU serve it; `None`, and a word about why, where that cannot be.
    pub fn open(scene: &mut Scene) -> Result<Option<Self>> {
        let Some(packages) = packages() else {
            skip("the page's packages are not there: run `cargo xtask setup`");
            return Ok(None);
        };
        if Command::new(CHROMIUM).arg("--version").output().is_err() {
            skip("there is no chromium: run `cargo xtask setup`");
            return Ok(None);
        }
        let bundle = bundle(&packages, scene.dir.path())?;
        let ip = scene.address(false);
        let site = scene.sfu.call("site", json!({ "ip": ip, "bundle": bundle }))?;
        Ok(Some(Self { origin: format!("http://{ip}:{}", site["port"]) }))
    }
}

/// The folder that `cargo xtask setup` keeps the page's packages in.
fn packages() -> Option<PathBuf> {
    let folder = match std::env::var_os("WEBRTC_PAGE") {
        Some(folder) => PathBuf::from(folder),
        None => sfu::cache()?.join("webrtc-page"),
    };
    folder.join("node_modules").is_dir().then_some(folder)
}

fn bundle(packages: &Path, folder: &Path) -> Result<PathBuf> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("webrtc/page.js");
    let bundle = folder.join("page.js");
    let mut esbuild = Command::new(packages.join("node_modules/.bin/esbuild"));
    esbuild.arg(page).args(["--bundle", "--log-level=warning"]);
    esbuild.arg(format!("--outfile={}", bundle.display()));
    let output = esbuild.env("NODE_PATH", packages.join("node_modules")).output()?;
    ensure!(output.status.success(), "esbuild: {}", String::from_utf8_lossy(&output.stderr));
    Ok(bundle)
}

/// Mounts a file system of its own on the folder `$0`, which goes with the mount namespace, so that
/// nothing is left of a profile however the browser ends; then becomes it.
const START: &str = r#"mount -t tmpfs profile "$0" && exec "$@""#;

/// A browser with one page, which is a peer of a room. It ends when this is dropped.
#[derive(Debug)]
pub struct Browser {
    process: Guard,
    peer: String,
    ip: IpAddr,
    host: Netns,
    _profile: TempDir,
}

impl Browser {
    /// A peer joins `room` with a browser on a host of its own.
    pub fn open(scene: &mut Scene, site: &Site, room: &str, peer: &str) -> Result<Self> {
        let (host, ip) = scene.new_host(false)?;
        scene.sfu.join(room, peer, peer, CHROMIUM)?;
        let profile = TempDir::new("chromium")?;
        // In a PID namespace of its own, whose end is the end of all its processes.
        let mut command = host.command("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", START]);
        command
            .arg(profile.path())
            .arg(CHROMIUM)
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", profile.path().display()));
        command.arg(format!("--unsafely-treat-insecure-origin-as-secure={}", site.origin));
        command.arg(format!("{}/?peer={peer}", site.origin));
        command.env("HOME", profile.path());
        let process = Guard::spawn("chromium", command)?;
        Ok(Self { process, peer: peer.to_owned(), ip, host, _profile: profile })
    }

    /// Its address.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// Where it lives.
    pub fn host(&self) -> &Netns {
        &self.host
    }

    /// Has the page carry out an order (`tests/webrtc/page.js`).
    pub fn order(&mut self, sfu: &mut Sfu, order: &str, fields: Value) -> Result<Value> {
        let mut all = Map::from_iter([
            ("peer".to_owned(), json!(self.peer)),
            ("order".to_owned(), json!(order)),
        ]);
        if let Value::Object(fields) = fields {
            all.extend(fields);
        }
        self.process.alive()?;
        let done = sfu.call("page", Value::Object(all));
        done.with_context(|| format!("{order} in {}'s page:\n{}", self.peer, self.process.log()))
    }

    /// Kills the process that runs the page, as the kernel does when memory is short; the rest of the
    /// browser goes on.
    pub fn kill_page(&self) -> Result<()> {
        let renderers = descendants(self.process.pid())?.into_iter().filter(|&pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains("--type=renderer")
        });
        let mut killed = 0;
        for pid in renderers {
            // SAFETY: kill takes two integers. What descends from a process that we have not reaped
            // was found a moment ago; its own parent reaps it when it has ended.
            killed += u32::from(unsafe { libc::kill(i32::try_from(pid)?, libc::SIGKILL) } == 0);
        }
        if killed == 0 {
            bail!("no process runs {}'s page", self.peer);
        }
        Ok(())
    }
}

/// A page as a browser has it in the end.
#[derive(Debug)]
pub struct Dom {
    /// All of it, as HTML.
    pub html: String,
    /// What the browser complained about.
    pub complaints: Vec<String>,
}

impl Dom {
    /// Where the link leads that has this text; the first of them.
    pub fn link(&self, text: &str) -> Result<String> {
        let found = self.html.match_indices(&format!(">{text}</a>")).find_map(|(end, _)| {
            let start = self.html[..end].rfind("<a ")?;
            let (_, href) = self.html[start..end].split_once("href=\"")?;
            Some(href.split('"').next()?.replace("&amp;", "&"))
        });
        found.with_context(|| format!("no link `{text}` in\n{}", self.html))
    }
}

/// Opens a page in a browser on this host and lets so many seconds pass for its scripts; `None`, and a word about
/// why, where there is no browser.
pub fn visit(host: &Netns, url: &str, seconds: u32) -> Result<Option<Dom>> {
    if Command::new(CHROMIUM).arg("--version").output().is_err() {
        skip("there is no chromium: run `cargo xtask setup`");
        return Ok(None);
    }
    let profile = TempDir::new("chromium")?;
    let mut command = host.command("timeout");
    command.args(["--kill-after=5", "90", CHROMIUM]).args(FLAGS);
    command.arg(format!("--user-data-dir={}", profile.path().display()));
    command.arg(format!("--virtual-time-budget={}", seconds * 1000));
    command.args(["--enable-logging=stderr", "--dump-dom", url]).env("HOME", profile.path());
    let output = command.output().context("run chromium")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let log = String::from_utf8_lossy(&output.stderr);
    let complaints = log.lines().filter(|line| line.contains("CONSOLE"));
    let complaints = complaints.map(str::to_owned).collect();
    Ok(Some(Dom { html: String::from_utf8(output.stdout)?, complaints }))
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It has nothing to put in order, and may take its time for that.
        let _ended = self.process.signal(libc::SIGKILL);
    }
}

/// Children of a process, and theirs.
fn descendants(pid: u32) -> Result<Vec<u32>> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        next += 1;
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|it| it.parse::<u32>().ok()));
        }
    }
    Ok(found)
}
