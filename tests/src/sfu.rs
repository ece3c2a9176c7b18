//! The SFU under test: Node with a real mediasoup, driven by lines of JSON (`tests/sfu/server.js`).

use std::io::{BufRead, BufReader, Error, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ChildStdin;
use std::sync::mpsc::{Receiver, channel};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value, json};

use crate::netns::Netns;
use crate::process::Guard;
use crate::wait;

/// The versions of mediasoup that the tests have workers of, oldest first.
pub const VERSIONS: [&str; 3] = ["3.12.16", "3.15.8", "3.27.1"];

/// A mediasoup with its worker, in a folder's `node_modules`.
#[derive(Clone, Debug)]
pub struct Build {
    dir: PathBuf,
}

impl Build {
    /// The build of this version: in the folder that `MEDIASOUP_3_12_16` (or another version's
    /// variable) names, or in the cache that `cargo xtask setup` fills.
    pub fn find(version: &str) -> Option<Self> {
        let variable = format!("MEDIASOUP_{}", version.replace('.', "_"));
        let dir = match std::env::var_os(variable) {
            Some(dir) => PathBuf::from(dir),
            None => cache()?.join(format!("mediasoup-{version}")),
        };
        dir.join(WORKER).is_file().then_some(Self { dir })
    }

    /// The folder that holds its `node_modules`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The worker's program.
    pub fn worker(&self) -> PathBuf {
        self.dir.join(WORKER)
    }
}

/// Below a build's folder.
const WORKER: &str = "node_modules/mediasoup/worker/out/Release/mediasoup-worker";

/// Where the observer console of an SFU with this folder is.
pub fn console_in(dir: &Path) -> PathBuf {
    dir.join("observer.sock")
}

/// The folder that `cargo xtask setup` fills.
pub fn cache() -> Option<PathBuf> {
    let under =
        |variable: &str, path: &str| Some(PathBuf::from(std::env::var_os(variable)?).join(path));
    under("MEDIASOUP_EXPORTER_CACHE", "")
        .or_else(|| under("XDG_CACHE_HOME", "mediasoup-exporter"))
        .or_else(|| under("HOME", ".cache/mediasoup-exporter"))
}

/// A running SFU.
#[derive(Debug)]
pub struct Sfu {
    process: Guard,
    stdin: ChildStdin,
    answers: Receiver<Value>,
    next: u64,
    workers: Vec<u32>,
    console: PathBuf,
}

/// A transport that was made for a peer.
#[derive(Clone, Debug)]
pub struct Transport {
    /// Peer that has it.
    pub peer: String,
    /// Its id.
    pub id: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Where it listens for RTCP, unless that is multiplexed.
    pub rtcp: Option<SocketAddr>,
    /// Process id of its worker.
    pub pid: u64,
}

/// How a plain transport is made.
#[derive(Clone, Copy, Debug)]
pub struct Plain {
    /// Address that it listens on.
    pub ip: IpAddr,
    /// It learns its far end from the first packet.
    pub comedia: bool,
    /// Which of its room's routers.
    pub router: usize,
}

/// A consumer that was made for a peer.
#[derive(Clone, Debug)]
pub struct Consumer {
    /// Its id.
    pub id: String,
    /// Its SSRC.
    pub ssrc: u32,
    /// The SSRC of its retransmissions.
    pub rtx: Option<u32>,
    /// `simple` or `simulcast`.
    pub kind: String,
}

impl Sfu {
    /// Starts it in `host` with so many workers; its observer console is in `dir`.
    pub fn start(build: &Build, host: &Netns, dir: &Path, workers: usize) -> Result<Self> {
        Self::start_with(build, host, dir, &[("WORKERS", &workers.to_string())])
    }

    /// Starts it with variables of one's own, those of `sfu/server.js` or mediasoup's.
    pub fn start_with(
        build: &Build,
        host: &Netns,
        dir: &Path,
        variables: &[(&str, &str)],
    ) -> Result<Self> {
        let console = console_in(dir);
        let mut command = host.command("node");
        command
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("sfu/server.js"))
            .env("MEDIASOUP_DIR", &build.dir)
            .env("OBSERVER_SOCKET", &console)
            .envs(variables.iter().copied());
        let mut process = Guard::spawn("the SFU", command)?;
        let stdin = process.stdin().context("the SFU's stdin")?;
        let stdout = process.stdout().context("the SFU's stdout")?;
        let (sender, answers) = channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(stdout).lines().map_while(Result::ok);
            let parsed = lines.filter_map(|line| serde_json::from_str(&line).ok());
            let _ = parsed.map(|answer| sender.send(answer)).take_while(Result::is_ok).count();
        });
        let mut sfu = Self { process, stdin, answers, next: 1, workers: Vec::new(), console };
        let ready = sfu.answer().context("the SFU did not get ready")?;
        let pids = ready["workers"].as_array().into_iter().flatten();
        sfu.workers = pids.filter_map(|pid| pid.as_u64()?.try_into().ok()).collect();
        Ok(sfu)
    }

    /// Process id of Node.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Process ids of the workers.
    pub fn workers(&self) -> &[u32] {
        &self.workers
    }

    /// Path of the observer console.
    pub fn console(&self) -> &Path {
        &self.console
    }

    /// One command and its answer.
    pub fn call(&mut self, command: &str, fields: Value) -> Result<Value> {
        let id = self.next;
        self.next += 1;
        let mut request = Map::from_iter([("id".into(), json!(id)), ("do".into(), json!(command))]);
        if let Value::Object(fields) = fields {
            request.extend(fields);
        }
        writeln!(self.stdin, "{}", Value::Object(request)).context("write to the SFU")?;
        let mut answer = self.answer()?;
        if answer["id"] != json!(id) {
            bail!("the SFU answered {answer} instead of request {id}");
        }
        match answer["error"].as_str() {
            Some(error) => Err(anyhow!("{command}: {error}")),
            None => Ok(answer["ok"].take()),
        }
    }

    /// Opens a room with so many routers, each on a worker of its own while there are enough.
    pub fn room(&mut self, room: &str, routers: usize) -> Result<()> {
        self.call("room", json!({ "room": room, "routers": routers })).map(drop)
    }

    /// A peer joins a room.
    pub fn join(&mut self, room: &str, peer: &str, name: &str, user_agent: &str) -> Result<()> {
        let fields = json!({
            "room": room, "peer": peer, "displayName": name, "userAgent": user_agent });
        self.call("join", fields).map(drop)
    }

    /// A peer leaves; its transports close.
    pub fn leave(&mut self, peer: &str) -> Result<()> {
        self.call("leave", json!({ "peer": peer })).map(drop)
    }

    /// A plain transport for a peer.
    pub fn plain(&mut self, peer: &str, plain: Plain) -> Result<Transport> {
        let Plain { ip, comedia, router } = plain;
        let fields = json!({ "peer": peer, "ip": ip, "comedia": comedia, "router": router });
        let made = self.call("plain", fields)?;
        transport(peer, ip, &made)
    }

    /// A WebRTC transport for a peer, and a connectivity check that makes it select the tuple that
    /// it comes from.
    pub fn webrtc(&mut self, peer: &str, ip: IpAddr) -> Result<(Transport, Vec<u8>)> {
        let made = self.call("webrtc", json!({ "peer": peer, "ip": ip }))?;
        let check = text(&made["check"])?;
        let byte = |at| u8::from_str_radix(&check[at..at + 2], 16);
        let check = (0..check.len()).step_by(2).map(byte).collect::<Result<_, _>>()?;
        Ok((transport(peer, ip, &made)?, check))
    }

    /// Tells a plain transport where its far end is.
    pub fn connect(&mut self, transport: &Transport, far: SocketAddr) -> Result<()> {
        let fields = json!({ "peer": transport.peer, "transport": transport.id,
            "ip": far.ip(), "port": far.port() });
        self.call("connect", fields).map(drop)
    }

    /// A producer on a transport; returns its id. `encodings` as in `sfu/media.js`; those that are
    /// recognised by RID need `mid`.
    pub fn produce(
        &mut self,
        transport: &Transport,
        kind: &str,
        mid: Option<&str>,
        encodings: &Value,
    ) -> Result<String> {
        let fields = json!({ "peer": transport.peer, "transport": transport.id, "kind": kind,
            "mid": mid, "encodings": encodings });
        text(&self.call("produce", fields)?["id"])
    }

    /// A consumer of `producer` on a transport; `more` holds further fields for `sfu/media.js`.
    pub fn consume(
        &mut self,
        transport: &Transport,
        producer: &str,
        more: &Value,
    ) -> Result<Consumer> {
        let mut fields = json!({ "peer": transport.peer, "transport": transport.id,
            "producer": producer });
        if let (Some(fields), Some(more)) = (fields.as_object_mut(), more.as_object()) {
            fields.extend(more.clone());
        }
        let made = self.call("consume", fields)?;
        let ssrc = |name: &str| made[name].as_u64().and_then(|ssrc| u32::try_from(ssrc).ok());
        Ok(Consumer {
            id: text(&made["id"])?,
            ssrc: ssrc("ssrc").context("a consumer without an SSRC")?,
            rtx: ssrc("rtx"),
            kind: text(&made["type"])?,
        })
    }

    /// Stops its workers until the guard is dropped: while they run they send reports and are sent
    /// others, so that two counts are never of the same moment. What is on its way still arrives.
    pub fn quiet(&self) -> Result<Quiet<'_>> {
        let quiet = Quiet(self);
        quiet.signal(libc::SIGSTOP)?;
        Ok(quiet)
    }

    /// Statistics of every transport, producer and consumer.
    pub fn stats(&mut self) -> Result<Value> {
        self.call("stats", json!({}))
    }

    fn answer(&mut self) -> Result<Value> {
        self.answers.recv_timeout(wait::LONG).map_err(|_| {
            anyhow!("no answer from the SFU within {:?}:\n{}", wait::LONG, self.process.log())
        })
    }
}

/// An SFU whose workers are stopped. They do not answer either: while this lives, the borrow keeps
/// everybody from asking.
#[derive(Debug)]
pub struct Quiet<'a>(&'a Sfu);

impl Quiet<'_> {
    fn signal(&self, signal: i32) -> Result<()> {
        for &pid in self.0.workers() {
            let pid = i32::try_from(pid)?;
            // SAFETY: kill takes two integers. The SFU ends when a worker does, so the id of an SFU
            // that answers is its worker's.
            if unsafe { libc::kill(pid, signal) } != 0 {
                return Err(Error::last_os_error()).context("signal a worker");
            }
        }
        Ok(())
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.signal(libc::SIGCONT) {
            eprintln!("{error:#}");
        }
    }
}

fn transport(peer: &str, ip: IpAddr, made: &Value) -> Result<Transport> {
    let port = |name: &str| made[name].as_u64().and_then(|port| u16::try_from(port).ok());
    Ok(Transport {
        peer: peer.to_owned(),
        id: text(&made["id"])?,
        address: SocketAddr::new(ip, port("port").context("a transport without a port")?),
        rtcp: port("rtcpPort").map(|port| SocketAddr::new(ip, port)),
        pid: made["pid"].as_u64().context("a transport without a worker")?,
    })
}

fn text(value: &Value) -> Result<String> {
    value.as_str().map(str::to_owned).with_context(|| format!("{value} is no text"))
}
