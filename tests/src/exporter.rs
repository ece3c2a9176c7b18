//! The exporter under test, as its own process beside the SFU.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};

use crate::http::{self, Response};
use crate::netns::Netns;
use crate::process::Guard;
use crate::scrape::Scrape;
use crate::wait;

/// The exporter's default port, in a namespace where nobody else has it.
pub const PORT: u16 = 8889;

/// Python that opens a socket at an address and a port, and passes it on as systemd does (sd_listen_fds(3)); what is
/// run then begins with the third argument.
pub const PASS_SOCKET: &str = "
import os, socket, sys
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind((sys.argv[1], int(sys.argv[2])))
listener.listen()
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))
";

/// A running exporter.
#[derive(Debug)]
pub struct Exporter {
    process: Guard,
    host: Arc<Netns>,
}

impl Exporter {
    /// Starts it in `host` with these flags and variables, and waits until it is ready.
    pub fn start(host: &Arc<Netns>, flags: &[&str], variables: &[(&str, &str)]) -> Result<Self> {
        Self::start_binary(&binary()?, host, flags, variables)
    }

    /// As [`Exporter::start`], with a binary of one's own.
    pub fn start_binary(
        binary: &Path,
        host: &Arc<Netns>,
        flags: &[&str],
        variables: &[(&str, &str)],
    ) -> Result<Self> {
        let mut command = host.command(binary.to_str().context("a path that is not UTF-8")?);
        for variable in ["PROM_PORT", "PROM_DEIDENTIFY", "PROM_NUMERIC", "PROM_QUIET", "DEBUG"] {
            command.env_remove(variable);
        }
        command.args(flags).envs(variables.iter().copied());
        let mut process = Guard::spawn("mediasoup-exporter", command)?;
        process.log_stdout();
        let mut exporter = Self { process, host: Arc::clone(host) };
        exporter.ready().context("the exporter did not get ready")?;
        Ok(exporter)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What it logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// GET a path.
    pub fn get(&self, path: &str, headers: &[&str]) -> Result<Response> {
        http::get(&self.host, address(), path, headers)
    }

    /// The text of `/metrics`.
    pub fn metrics(&self) -> Result<String> {
        self.get("/metrics", &[])?.text()
    }

    /// `/metrics`, read strictly.
    pub fn scrape(&self) -> Result<Scrape> {
        Scrape::parse(&self.metrics()?).context("read /metrics")
    }

    /// Bytes of memory that it has, the kernel's tables that are mapped into it among them.
    pub fn resident(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let line = line.context("no VmRSS")?.trim_end_matches("kB").trim();
        Ok(line.parse::<u64>()? << 10)
    }

    /// Ends it as a service manager does, and checks that it ends well and leaves no program attached
    /// to any interface. How long that takes says more of the machine than of the exporter.
    pub fn stop(self) -> Result<()> {
        let Self { process, host } = self;
        let status = process.stop(wait::LONG)?;
        ensure!(status.success(), "the exporter ended with {status}");
        let left = attached(&host)?;
        ensure!(left.is_empty(), "programs stayed attached: {left:?}");
        Ok(())
    }

    /// Ends it as a service manager does; what is pinned stays.
    pub fn end(self) -> Result<()> {
        let status = self.process.stop(wait::LONG)?;
        ensure!(status.success(), "the exporter ended with {status}");
        Ok(())
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) -> Result<()> {
        self.process.signal(signal)
    }

    /// Kills it, as a crash would.
    pub fn kill(mut self) -> Result<()> {
        self.process.signal(libc::SIGKILL)?;
        self.process.wait(wait::LONG).map(drop)
    }

    fn ready(&mut self) -> Result<()> {
        wait::until("/-/ready", wait::LONG, || {
            self.process.alive()?;
            let ready = http::get(&self.host, address(), "/-/ready", &[]);
            Ok(ready.ok().filter(|it| it.status == 200).map(drop))
        })
    }
}

/// Where it serves.
pub fn address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, PORT).into()
}

/// The binary that `MEDIASOUP_EXPORTER_BIN` names, or else one that Cargo builds now for the same
/// profile as the running test.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("MEDIASOUP_EXPORTER_BIN") {
        return Ok(path.into());
    }
    let test = std::env::current_exe()?;
    let folder = test.parent().and_then(|deps| deps.parent()).context("no target folder")?;
    let profile = if folder.ends_with("release") { &["--release"][..] } else { &[] };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--package", "mediasoup-exporter"]).args(profile);
    build.current_dir(env!("CARGO_MANIFEST_DIR"));
    ensure!(build.status()?.success(), "{build:?} failed");
    Ok(folder.join("mediasoup-exporter"))
}

/// Programs at the interfaces of `host`, by TCX or by a clsact filter.
pub fn attached(host: &Netns) -> Result<Vec<String>> {
    let links = host.command("ip").args(["-o", "link"]).output()?;
    let links = String::from_utf8(links.stdout)?;
    let names = links.lines().filter_map(|line| line.split([':', '@']).nth(1));
    let mut attached = Vec::new();
    for name in names.map(str::trim) {
        for hook in ["ingress", "egress"] {
            let shown = host.command("tc").args(["filter", "show", "dev", name, hook]).output()?;
            let shown = String::from_utf8(shown.stdout)?;
            attached.extend(shown.lines().map(|line| format!("{name} {hook}: {line}")));
        }
        attached.extend(host.run_in(|| tcx(name))?);
    }
    Ok(attached)
}

fn tcx(interface: &str) -> Result<Vec<String>> {
    use aya::programs::SchedClassifier;
    use aya::programs::tc::TcAttachType;
    let mut found = Vec::new();
    for kind in [TcAttachType::Ingress, TcAttachType::Egress] {
        // Before Linux 6.6 there is no TCX to ask about, and so nothing attached by it.
        let Ok((_, programs)) = SchedClassifier::query_tcx(interface, kind) else { continue };
        let named = programs.iter().map(|it| it.name_as_str().unwrap_or_default().to_owned());
        found.extend(named.map(|name| format!("{interface} {kind:?}: {name}")));
    }
    Ok(found)
}
