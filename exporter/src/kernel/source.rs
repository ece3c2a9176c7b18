//! What `main` holds: one source of counts, chosen by what this process may do.
//!
//! eBPF if it can be had, else packet capture, else nothing: each step down is told once, with the
//! right that is missing and how to give it. Counting itself is done in `ebpf` and `capture`.

use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::Limits;
use super::attach::Mechanism;
use super::capture::CaptureSource;
use super::ebpf::EbpfSource;
use super::evict::Lifetimes;
use super::links::Changes;
use super::survey::Status;
use crate::model::{JoinKey, Reading};
use crate::workers;

/// What to count, where, and how much to hold.
#[derive(Clone, Debug)]
pub struct Options {
    /// Patterns of interface names; none: see [`super::interfaces::choose`].
    pub interfaces: Vec<String>,
    /// Local ports.
    pub ports: RangeInclusive<u16>,
    /// Where counts come from.
    pub source: SourceChoice,
    /// Table sizes.
    pub limits: Limits,
    /// How long what rests is held.
    pub lifetimes: Lifetimes,
    /// Addresses that count as local besides this host's and its workers'.
    pub local: Vec<IpAddr>,
    /// Count whatever the local address is, forwarded traffic too.
    pub every_address: bool,
    /// Keep interarrival jitter.
    pub jitter: bool,
    /// How programs are attached.
    pub mechanism: Mechanism,
    /// Directory below a bpffs where the tables are pinned, so that they outlive the exporter.
    pub pin: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            ports: workers::DEFAULT_PORTS,
            source: SourceChoice::Auto,
            limits: Limits::default(),
            lifetimes: Lifetimes::default(),
            local: Vec::new(),
            every_address: false,
            jitter: true,
            mechanism: Mechanism::Auto,
            pin: None,
        }
    }
}

/// What was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceChoice {
    /// The best that this process may do.
    #[default]
    Auto,
    /// eBPF or an error.
    Ebpf,
    /// Packet capture or an error.
    Capture,
    /// No counting.
    None,
}

/// What counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Programs in the kernel.
    Ebpf,
    /// Captured packets.
    Capture,
    /// Nothing: only what servers tell.
    None,
}

impl Source {
    /// `ebpf`, `capture` or `none`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ebpf => "ebpf",
            Self::Capture => "capture",
            Self::None => "none",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A better source could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepDown {
    /// The better source.
    pub from: Source,
    /// What is tried instead.
    pub to: Source,
    /// Why, what is missing, and how to give it, in one line.
    pub why: String,
}

/// A running source. Dropping it detaches everything.
pub struct Counting {
    engine: Engine,
    step_downs: Vec<StepDown>,
    /// Taken by [`Counting::follow`].
    changes: Mutex<Option<Changes>>,
    /// Asks [`Counting::follow`] to look before its time.
    soon: Notify,
}

enum Engine {
    Ebpf(Box<EbpfSource>),
    Capture(Box<CaptureSource>),
    None,
}

/// Workers are looked for, and interfaces that failed are tried again, this often at least.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Changes come in bursts (a link, its addresses, its routes).
const BURST: Duration = Duration::from_millis(50);
/// Between two looks that [`Counting::look_soon`] asks for: each reads the workers' `/proc` folders.
const PAUSE: Duration = Duration::from_secs(1);

impl Counting {
    /// Starts the source that is asked for, or the best there is. Must run before privileges are
    /// dropped; needs no runtime.
    pub fn start(options: &Options) -> anyhow::Result<Self> {
        let mut step_downs = Vec::new();
        let engine = start_engine(options, &mut step_downs)?;
        let changes = match Changes::new() {
            Ok(changes) => Some(changes),
            Err(error) => {
                tracing::warn!("listen for interface changes: {error}; looking every 10 s instead");
                None
            }
        };
        Ok(Self { engine, step_downs, changes: Mutex::new(changes), soon: Notify::new() })
    }

    /// What counts.
    pub fn source(&self) -> Source {
        match self.engine {
            Engine::Ebpf(_) => Source::Ebpf,
            Engine::Capture(_) => Source::Capture,
            Engine::None => Source::None,
        }
    }

    /// Better sources that could not be used.
    pub fn step_downs(&self) -> &[StepDown] {
        &self.step_downs
    }

    /// Where it counts, and what failed.
    pub fn status(&self) -> Status {
        match &self.engine {
            Engine::Ebpf(source) => source.status(),
            Engine::Capture(source) => source.status(),
            Engine::None => Status::default(),
        }
    }

    /// Everything counted so far. What the tables let go of is in here once, with `ended` set, so
    /// whoever reads must not throw a reading away.
    pub fn read(&self) -> anyhow::Result<Reading> {
        match &self.engine {
            Engine::Ebpf(source) => source.read(),
            Engine::Capture(source) => Ok(source.read()),
            Engine::None => Ok(Reading::default()),
        }
    }

    /// Replaces the set of connections that the observer tells: their flows are known.
    pub fn tell(&self, told: &HashSet<JoinKey>) -> anyhow::Result<()> {
        match &self.engine {
            Engine::Ebpf(source) => source.tell(told),
            Engine::Capture(source) => {
                source.tell(told);
                Ok(())
            }
            Engine::None => Ok(()),
        }
    }

    /// Looks at interfaces, addresses and workers again, now.
    pub fn refresh(&self) -> anyhow::Result<()> {
        match &self.engine {
            Engine::Ebpf(source) => source.refresh(),
            Engine::Capture(source) => source.refresh(),
            Engine::None => Ok(()),
        }
    }

    /// Asks [`Counting::follow`] to look for interfaces and workers again soon: a server has new
    /// connections, perhaps on an interface that nobody listened on before.
    pub fn look_soon(&self) {
        self.soon.notify_one();
    }

    /// Follows interfaces and addresses as they come and go, until `shutdown`.
    pub async fn follow(self: Arc<Self>, shutdown: impl Future<Output = ()>) {
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut listening = changes.and_then(|changes| match changes.listen() {
            Ok(listening) => Some(listening),
            Err(error) => {
                tracing::warn!("listen for interface changes: {error}");
                None
            }
        });
        tokio::pin!(shutdown);
        let mut pause_ends = tokio::time::Instant::now();
        loop {
            let changed = async {
                match &mut listening {
                    Some(listening) => listening.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = &mut shutdown => return,
                () = tokio::time::sleep(LOOK_AGAIN) => {}
                () = async {
                    tokio::time::sleep_until(pause_ends).await;
                    self.soon.notified().await;
                } => {}
                result = changed => {
                    if let Err(error) = result {
                        tracing::warn!("listen for interface changes: {error}");
                        listening = None;
                    }
                    tokio::time::sleep(BURST).await;
                    if let Some(listening) = &mut listening {
                        listening.skip();
                    }
                }
            }
            pause_ends = tokio::time::Instant::now() + PAUSE;
            let this = Arc::clone(&self);
            let refreshed = tokio::task::spawn_blocking(move || this.refresh()).await;
            match refreshed {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!("follow interfaces: {error:#}"),
                Err(error) => tracing::error!("follow interfaces: {error}"),
            }
        }
    }
}

fn start_engine(options: &Options, step_downs: &mut Vec<StepDown>) -> anyhow::Result<Engine> {
    match options.source {
        SourceChoice::None => Ok(Engine::None),
        SourceChoice::Ebpf => {
            let started = EbpfSource::start(options).map(|source| Engine::Ebpf(Box::new(source)));
            started.map_err(|error| explained(Source::Ebpf, error))
        }
        SourceChoice::Capture => {
            let started =
                CaptureSource::start(options).map(|source| Engine::Capture(Box::new(source)));
            started.map_err(|error| explained(Source::Capture, error))
        }
        SourceChoice::Auto => {
            match EbpfSource::start(options) {
                Ok(source) => return Ok(Engine::Ebpf(Box::new(source))),
                Err(error) => step_downs.push(step_down(Source::Ebpf, Source::Capture, &error)),
            }
            match CaptureSource::start(options) {
                Ok(source) => return Ok(Engine::Capture(Box::new(source))),
                Err(error) => step_downs.push(step_down(Source::Capture, Source::None, &error)),
            }
            Ok(Engine::None)
        }
    }
}

fn step_down(from: Source, to: Source, error: &anyhow::Error) -> StepDown {
    let next = match to {
        Source::Ebpf => "counting by eBPF",
        Source::Capture => "counting captured packets instead, at a higher cost",
        Source::None => "nothing is counted, only what servers tell is exported",
    };
    let why = format!("{} ({error:#}); {next}", reason(from, error));
    tracing::warn!("{why}");
    StepDown { from, to, why }
}

fn explained(source: Source, error: anyhow::Error) -> anyhow::Error {
    let reason = reason(source, &error);
    error.context(reason)
}

fn reason(source: Source, error: &anyhow::Error) -> String {
    let name = if source == Source::Ebpf { "eBPF" } else { "packet capture" };
    match is_permission(error) {
        true => format!("{name} is not permitted: {}", remedy(source)),
        false => format!("{name} does not work here"),
    }
}

/// Which right is missing, and how to give it.
fn remedy(source: Source) -> String {
    let rights: &[&str] = match source {
        Source::Ebpf => &["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"],
        Source::Capture => &["CAP_NET_RAW"],
        Source::None => &[],
    };
    let path = std::env::current_exe().unwrap_or_else(|_| "mediasoup-exporter".into());
    format!(
        "it needs {}: run as root, or `setcap {}+ep {}`, or `AmbientCapabilities={}` in the systemd \
         unit",
        rights.join(", "),
        rights.join(",").to_lowercase(),
        path.display(),
        rights.join(" "),
    )
}

/// EPERM; or EACCES, the verifier's word for a program that it refuses, which it says of ours where
/// CAP_PERFMON is missing: without it no program may handle packet addresses as numbers.
fn is_permission(error: &anyhow::Error) -> bool {
    let trusted = caps::has_cap(None, caps::CapSet::Effective, caps::Capability::CAP_PERFMON);
    let trusted = trusted.unwrap_or(false);
    error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).any(|error| {
        match error.raw_os_error() {
            Some(libc::EPERM) => true,
            Some(libc::EACCES) => !trusted,
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_down_names_the_right_and_the_remedy() {
        let error = anyhow::Error::new(io::Error::from_raw_os_error(libc::EPERM)).context("load");
        let told = step_down(Source::Ebpf, Source::Capture, &error).why;
        for part in [
            "CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN",
            "setcap cap_bpf,cap_perfmon,cap_net_admin+ep",
            "systemd",
        ] {
            assert!(told.contains(part), "{told}");
        }
        let error = anyhow::anyhow!("no such thing");
        let told = step_down(Source::Capture, Source::None, &error).why;
        assert!(!told.contains("setcap"), "{told}");
    }
}
