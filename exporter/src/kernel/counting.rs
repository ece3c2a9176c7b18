//! What `main` holds: one way of counting, chosen by what this process may do.
//!
//! eBPF if it can be had, else packet capture, else nothing: each step down is told once, with the
//! right that is missing and how to give it. Counting itself is done in `engine` and `capture`.

use std::collections::HashSet;
use std::fmt;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::capture::CaptureEngine;
use super::engine::EbpfEngine;
use super::options::{MethodChoice, Options};
use super::status::{Knowledge, Status};
use crate::host::claim::Claim;
use crate::host::ownership::Ownership;
use crate::host::pace::Pace;
use crate::host::rtnetlink::Changes;
use crate::model::{JoinKey, Reading};

/// What counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Programs in the kernel.
    Ebpf,
    /// Captured packets.
    Capture,
    /// Nothing: only what servers tell.
    None,
}

impl Method {
    /// `ebpf`, `capture` or `none`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ebpf => "ebpf",
            Self::Capture => "capture",
            Self::None => "none",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A better method could not be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepDown {
    /// The better one.
    pub from: Method,
    /// What is tried instead.
    pub to: Method,
    /// Why, what is missing, and how to give it, in one line.
    pub why: String,
}

/// Counting as it runs. Dropping it detaches everything.
pub struct Counting {
    engine: Engine,
    ownership: Arc<Ownership>,
    step_downs: Vec<StepDown>,
    /// Taken by [`Counting::follow`].
    changes: Mutex<Option<Changes>>,
    /// Asks [`Counting::follow`] to look before its time.
    soon: Notify,
    /// The same for sockets only.
    sockets_soon: Notify,
}

enum Engine {
    Ebpf(Box<EbpfEngine>),
    Capture(Box<CaptureEngine>),
    None,
}

/// Workers are looked for, and interfaces that failed are tried again, this often at least.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Between two looks that [`Counting::look_soon`] asks for: each reads the workers' `/proc` folders.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two looks at sockets only.
const CALM: Duration = Duration::from_millis(20);

impl Counting {
    /// Starts the method that is asked for, or the best there is. Must run before privileges are
    /// dropped; needs no runtime.
    pub fn start(options: &Options) -> anyhow::Result<Self> {
        let mut step_downs = Vec::new();
        let ownership = match options.ports {
            Some(_) => Arc::new(Ownership::unknown()),
            None => Arc::default(),
        };
        let engine = start_engine(options, &ownership, &mut step_downs)?;
        let changes = match Changes::new() {
            Ok(changes) => Some(changes),
            Err(error) => {
                tracing::warn!("listen for interface changes: {error}; looking every 10 s instead");
                None
            }
        };
        let (changes, soon, sockets_soon) = (Mutex::new(changes), Notify::new(), Notify::new());
        Ok(Self { engine, ownership, step_downs, changes, soon, sockets_soon })
    }

    /// What counts.
    pub fn method(&self) -> Method {
        match self.engine {
            Engine::Ebpf(_) => Method::Ebpf,
            Engine::Capture(_) => Method::Capture,
            Engine::None => Method::None,
        }
    }

    /// Who has which local port.
    pub fn ownership(&self) -> &Arc<Ownership> {
        &self.ownership
    }

    /// Better methods that could not be used.
    pub fn step_downs(&self) -> &[StepDown] {
        &self.step_downs
    }

    /// Where it counts, and what failed.
    pub fn status(&self) -> Status {
        match &self.engine {
            Engine::Ebpf(engine) => engine.status(),
            Engine::Capture(engine) => engine.status(),
            Engine::None => Status::default(),
        }
    }

    /// Everything counted so far. What the tables let go of is in here once, with `ended` set, so
    /// whoever reads must not throw a reading away.
    pub fn read(&self) -> anyhow::Result<Reading> {
        match &self.engine {
            Engine::Ebpf(engine) => engine.read(),
            Engine::Capture(engine) => Ok(engine.read()),
            Engine::None => Ok(Reading::default()),
        }
    }

    /// Replaces the set of connections that the observer tells: their flows are known.
    pub fn tell(&self, told: &HashSet<JoinKey>) -> anyhow::Result<()> {
        match &self.engine {
            Engine::Ebpf(engine) => engine.tell(told),
            Engine::Capture(engine) => {
                engine.tell(told);
                Ok(())
            }
            Engine::None => Ok(()),
        }
    }

    /// Ends what would outlive this program, whoever else still reads: programs on interfaces.
    pub fn detach(&self) {
        if let Engine::Ebpf(engine) = &self.engine {
            engine.detach();
        }
    }

    /// Looks at interfaces, addresses and workers again, now.
    pub fn refresh(&self) -> anyhow::Result<()> {
        match &self.engine {
            Engine::Ebpf(engine) => engine.refresh(),
            Engine::Capture(engine) => engine.refresh(),
            Engine::None => Ok(()),
        }
    }

    /// Takes in which sockets were bound and closed since.
    pub fn hear(&self) -> anyhow::Result<()> {
        if let Engine::Ebpf(engine) = &self.engine
            && engine.hear()?
        {
            // What is local there is not known yet.
            self.soon.notify_one();
        }
        Ok(())
    }

    /// Looks for the SFU's sockets, where nobody sees them being bound.
    fn look_for_sockets(&self) -> anyhow::Result<()> {
        match &self.engine {
            Engine::Ebpf(engine) => engine.look_for_sockets(),
            Engine::Capture(engine) => engine.look_for_sockets(),
            Engine::None => Ok(()),
        }
    }

    /// Asks [`Counting::follow`] to look for interfaces and workers again soon: a server has new
    /// connections, perhaps on an interface that nobody listened on before.
    pub fn look_soon(&self) {
        self.soon.notify_one();
        self.sockets_soon.notify_one();
    }

    /// Follows interfaces, addresses and the SFU's sockets as they come and go, until `shutdown`.
    pub async fn follow(self: Arc<Self>, shutdown: impl Future<Output = ()>) {
        tokio::select! {
            () = shutdown => {}
            () = self.clone().follow_host() => {}
            () = self.clone().follow_sockets() => {}
        }
    }

    async fn follow_host(self: Arc<Self>) {
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut listening = changes.and_then(|changes| match changes.listen() {
            Ok(listening) => Some(listening),
            Err(error) => {
                tracing::warn!("listen for interface changes: {error}");
                None
            }
        });
        let mut pause_ends = tokio::time::Instant::now();
        let mut pace = Pace::new();
        loop {
            let changed = async {
                match &mut listening {
                    Some(listening) => listening.changed().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
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
                    tokio::time::sleep(pace.pause(Instant::now())).await;
                    if let Some(listening) = &mut listening {
                        listening.skip();
                    }
                }
            }
            pause_ends = tokio::time::Instant::now() + PAUSE;
            self.blocking("follow interfaces", Self::refresh).await;
            pace.looked(Instant::now());
        }
    }

    async fn follow_sockets(self: Arc<Self>) {
        if self.method() == Method::None || self.status().owned.by == Knowledge::Flag {
            return std::future::pending().await;
        }
        let binds = match &self.engine {
            Engine::Ebpf(engine) => engine.binds(),
            Engine::Capture(_) | Engine::None => Ok(None),
        };
        let registered = |binds| {
            // SAFETY: an owned descriptor, which stays the same open ring until it is dropped.
            unsafe { AsyncFd::register_with_interest(binds, Interest::READABLE) }
                .map_err(io::Error::from)
        };
        let binds = binds.and_then(|binds| binds.map(registered).transpose());
        let binds = binds.unwrap_or_else(|error| {
            tracing::warn!("listen for sockets being bound: {error}; looking each second instead");
            None
        });
        loop {
            match &binds {
                Some(binds) => {
                    // What was too much to be looked into at once is looked at when a second has passed.
                    if let Ok(Ok(mut guard)) = tokio::time::timeout(PAUSE, binds.readable()).await {
                        guard.clear_ready();
                    }
                    self.blocking("follow sockets", Self::hear).await;
                }
                None => {
                    let _ = tokio::time::timeout(PAUSE, self.sockets_soon.notified()).await;
                    self.blocking("follow sockets", Self::look_for_sockets).await;
                }
            }
            tokio::time::sleep(CALM).await;
        }
    }

    async fn blocking(self: &Arc<Self>, what: &str, work: fn(&Self) -> anyhow::Result<()>) {
        let this = Arc::clone(self);
        match tokio::task::spawn_blocking(move || work(&this)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("{what}: {error:#}"),
            Err(error) => tracing::error!("{what}: {error}"),
        }
    }
}

fn start_engine(
    options: &Options,
    ownership: &Arc<Ownership>,
    step_downs: &mut Vec<StepDown>,
) -> anyhow::Result<Engine> {
    // Captured packets carry no marks, so only eBPF claims ports.
    let claim = || Claim::new(options.ports.as_ref());
    let ebpf =
        |claim| EbpfEngine::start(options, ownership, claim).map(|it| Engine::Ebpf(Box::new(it)));
    let capture =
        || CaptureEngine::start(options, ownership).map(|it| Engine::Capture(Box::new(it)));
    match options.method {
        MethodChoice::None => Ok(Engine::None),
        MethodChoice::Ebpf => ebpf(claim()?).map_err(|error| explained(Method::Ebpf, error)),
        MethodChoice::Capture => capture().map_err(|error| explained(Method::Capture, error)),
        MethodChoice::Auto => {
            match ebpf(claim()?) {
                Ok(engine) => return Ok(engine),
                Err(error) => step_downs.push(step_down(Method::Ebpf, Method::Capture, &error)),
            }
            match capture() {
                Ok(engine) => return Ok(engine),
                Err(error) => step_downs.push(step_down(Method::Capture, Method::None, &error)),
            }
            Ok(Engine::None)
        }
    }
}

fn step_down(from: Method, to: Method, error: &anyhow::Error) -> StepDown {
    let next = match to {
        Method::Ebpf => "counting by eBPF",
        Method::Capture => "counting captured packets instead, at a higher cost",
        Method::None => "nothing is counted, only what servers tell is exported",
    };
    let why = format!("{} ({error:#}); {next}", reason(from, error));
    tracing::warn!("{why}");
    StepDown { from, to, why }
}

fn explained(method: Method, error: anyhow::Error) -> anyhow::Error {
    let reason = reason(method, &error);
    error.context(reason)
}

fn reason(method: Method, error: &anyhow::Error) -> String {
    let name = if method == Method::Ebpf { "eBPF" } else { "packet capture" };
    match is_permission(error) {
        true => format!("{name} is not permitted: {}", remedy(method)),
        false => format!("{name} does not work here"),
    }
}

/// Which right is missing, and how to give it.
fn remedy(method: Method) -> String {
    let rights: &[&str] = match method {
        Method::Ebpf => &["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN"],
        Method::Capture => &["CAP_NET_RAW"],
        Method::None => &[],
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
        let told = step_down(Method::Ebpf, Method::Capture, &error).why;
        for part in [
            "CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN",
            "setcap cap_bpf,cap_perfmon,cap_net_admin+ep",
            "systemd",
        ] {
            assert!(told.contains(part), "{told}");
        }
        let error = anyhow::anyhow!("no such thing");
        let told = step_down(Method::Capture, Method::None, &error).why;
        assert!(!told.contains("setcap"), "{told}");
    }
}
