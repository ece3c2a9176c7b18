//! Listens to mediasoup servers: finds their observer sockets, brings the script in or meets the one
//! that is there, and passes on what they tell.
//!
//! Sockets come in, [`Event`]s go out. What the events mean is `state`'s business; nothing here
//! keeps objects. A server that is away, hangs or talks nonsense costs its `up` and nothing else.

mod backoff;
mod console;
mod leftovers;
mod lines;
mod place;
pub mod protocol;
mod screen;
mod session;
mod status;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::state::{Event, SourceId};

use self::status::Source;
pub use self::status::{Status, Tally};

/// The script: typed into consoles by this exporter, or loaded with `node --require`.
pub const AGENT_SCRIPT: &str = include_str!("agent.js");

/// Where unmodified servers have their consoles: edumeet 3, edumeet 4's media node and room server,
/// mediasoup-demo.
pub const KNOWN_SOCKETS: [&str; 4] = [
    "/tmp/edumeet-server.sock",
    "/tmp/edumeet-media-node.sock",
    "/tmp/edumeet-room-server.sock",
    "/tmp/mediasoup-demo.sock",
];

/// How the names of agents' sockets begin and end, in the same folder.
const AGENT_SOCKETS: (&str, &str) = ("mediasoup-exporter-agent-", ".sock");

/// Sockets that are followed at most.
const MAX_SOURCES: usize = 64;

/// What to listen to, and how patiently.
#[derive(Clone, Debug)]
pub struct Options {
    /// Sockets to listen to; none: the known ones, and agents' ones, as they appear.
    pub sockets: Vec<PathBuf>,
    /// How often each stream is asked for its statistics; zero: never.
    pub stats_interval: Duration,
    /// Requests a second that the script makes to workers at most.
    pub stats_rate: u32,
    /// How long what a server told outlives the connection to it.
    pub grace: Duration,
    /// How long a server may be silent before it counts as down. The script speaks every 5 s.
    pub silence: Duration,
    /// How long a console may take for each of its answers before its server counts as down.
    pub patience: Duration,
    /// How often to look whether a socket has appeared.
    pub look: Duration,
    /// First and longest wait between attempts.
    pub retry: (Duration, Duration),
    /// Folder in which known sockets, and agents' ones, are looked for.
    pub folder: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sockets: Vec::new(),
            stats_interval: Duration::from_secs(15),
            stats_rate: 200,
            grace: Duration::from_secs(60),
            silence: Duration::from_secs(16),
            patience: Duration::from_secs(5),
            look: Duration::from_secs(5),
            retry: (Duration::from_millis(500), Duration::from_secs(30)),
            folder: PathBuf::from("/tmp"),
        }
    }
}

/// All sources, for whoever reports on them.
#[derive(Debug)]
pub struct Observer {
    options: Options,
    /// Few entries, locked for the length of a copy; tasks hold their own `Arc`.
    sources: Mutex<BTreeMap<PathBuf, Arc<Source>>>,
}

impl Observer {
    /// An observer that does not listen yet.
    pub fn new(options: Options) -> Arc<Self> {
        Arc::new(Self { options, sources: Mutex::default() })
    }

    /// How each source is, in the order of their paths.
    pub fn statuses(&self) -> Vec<Status> {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.iter().map(|(path, source)| source.status(path)).collect()
    }

    /// Listens until `shutdown` is true. The sink is called with what one reading of a socket
    /// brought, in order; that socket is read again when it has taken that.
    pub async fn run<S, F>(self: Arc<Self>, sink: S, mut shutdown: watch::Receiver<bool>)
    where
        S: Fn(SourceId, Vec<Event>) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let sink: Sink = Arc::new(move |source, events| -> BoxFuture<'static, ()> {
            Box::pin(sink(source, events))
        });
        let mut tasks = JoinSet::new();
        leftovers::remove(&self.options.folder).await;
        loop {
            for path in self.new_sockets() {
                let Some(source) = self.add(&path) else { continue };
                let follower = Follower {
                    path,
                    options: self.options.clone(),
                    source,
                    sink: sink.clone(),
                    shutdown: shutdown.clone(),
                };
                tasks.spawn(follower.follow());
            }
            tokio::select! {
                () = sleep(self.options.look) => {}
                _ = shutdown.wait_for(|shutdown| *shutdown) => break,
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Given sockets at once, whether they exist or not; known ones when they exist.
    fn new_sockets(&self) -> Vec<PathBuf> {
        let wanted = if self.options.sockets.is_empty() {
            existing_sockets(&self.options.folder)
        } else {
            self.options.sockets.clone()
        };
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.into_iter().filter(|path| !sources.contains_key(path)).collect()
    }

    fn add(&self, path: &Path) -> Option<Arc<Source>> {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if sources.len() >= MAX_SOURCES {
            // Agents' sockets carry process ids: those of ended processes make room.
            sources.retain(|path, source| place::is_socket(path) || !source.ended());
        }
        if sources.len() >= MAX_SOURCES {
            tracing::debug!(path = %path.display(), "too many observer sockets: not followed");
            return None;
        }
        let source = Arc::new(Source::new());
        sources.insert(path.to_owned(), source.clone());
        Some(source)
    }
}

type Sink = Arc<dyn Fn(SourceId, Vec<Event>) -> BoxFuture<'static, ()> + Send + Sync>;

/// Links are none, wherever they lead.
fn existing_sockets(folder: &Path) -> Vec<PathBuf> {
    let known = KNOWN_SOCKETS.iter().filter_map(|path| Path::new(path).file_name());
    let agents = fs::read_dir(folder).into_iter().flatten().flatten();
    let agents = agents.map(|entry| entry.file_name()).filter(|name| is_agents(name));
    let names = known.map(OsStr::to_owned).chain(agents);
    names.map(|name| folder.join(name)).filter(|path| place::is_socket(path)).collect()
}

fn is_agents(name: &OsStr) -> bool {
    let (beginning, end) = AGENT_SOCKETS;
    name.to_str().is_some_and(|name| name.starts_with(beginning) && name.ends_with(end))
}

/// Follows one socket for as long as the exporter runs.
struct Follower {
    path: PathBuf,
    options: Options,
    source: Arc<Source>,
    sink: Sink,
    shutdown: watch::Receiver<bool>,
}

impl Follower {
    async fn follow(mut self) {
        let mut failures = 0;
        // What was told goes after the grace, once, however long the server stays away.
        let mut forget_at = None;
        while !*self.shutdown.borrow() {
            let met = self.source.meetings();
            let error = self.attempt(&mut forget_at).await;
            if *self.shutdown.borrow() {
                break;
            }
            if self.source.meetings() > met {
                failures = 0;
                forget_at = Some(Instant::now() + self.options.grace);
            }
            self.source.down(&error);
            let wait = if is_absent(&error) {
                self.options.look
            } else {
                self.report(&error);
                let wait = backoff::wait(self.options.retry, failures, backoff::jitter());
                failures += 1;
                wait
            };
            self.pause(wait, &mut forget_at).await;
            if forget_at.is_none() && is_absent(&error) && self.is_agents() {
                // The process is gone for good: another one has another name.
                self.source.end();
                return;
            }
        }
    }

    /// One attempt from connecting to losing the connection.
    async fn attempt(&self, forget_at: &mut Option<Instant>) -> anyhow::Error {
        let mut shutdown = self.shutdown.clone();
        let attempt =
            session::run(&self.path, &self.options, &self.source, &self.sink, &self.shutdown);
        tokio::pin!(attempt);
        let met = self.source.meetings();
        loop {
            let forget = *forget_at;
            tokio::select! {
                ended = &mut attempt => return ended,
                () = sleep_until(forget.unwrap_or_else(Instant::now)), if forget.is_some() => {
                    *forget_at = None;
                    if self.source.meetings() == met {
                        self.forget().await;
                    }
                }
                // A console is left properly within the attempt; nothing else needs longer.
                () = ended_long(&mut shutdown) => return anyhow::anyhow!("the exporter ends"),
            }
        }
    }

    async fn pause(&mut self, wait: Duration, forget_at: &mut Option<Instant>) {
        let until = Instant::now() + wait;
        loop {
            let forget = forget_at.filter(|at| *at < until);
            tokio::select! {
                () = sleep_until(forget.unwrap_or(until)) => {}
                _ = self.shutdown.wait_for(|shutdown| *shutdown) => return,
            }
            if forget.is_none() {
                return;
            }
            *forget_at = None;
            self.forget().await;
        }
    }

    async fn forget(&self) {
        (self.sink)(self.source.id(), vec![Event::Forget]).await;
    }

    /// Each new reason once at warning level, so that a long outage does not fill the log.
    fn report(&self, error: &anyhow::Error) {
        let path = self.path.display();
        if self.source.is_new_error(error) {
            tracing::warn!("observer {path}: {error:#}");
        } else {
            tracing::debug!("observer {path}: {error:#}");
        }
    }

    fn is_agents(&self) -> bool {
        self.options.sockets.is_empty() && self.path.file_name().is_some_and(is_agents)
    }
}

/// Completes a while after shutdown has become true.
async fn ended_long(shutdown: &mut watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|shutdown| *shutdown).await;
    sleep(Duration::from_millis(800)).await;
}

/// No socket there, or nobody behind it: a server that is not running.
fn is_absent(error: &anyhow::Error) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    error
        .downcast_ref::<session::Unreachable>()
        .is_some_and(|error| matches!(error.0.kind(), ConnectionRefused | NotFound))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// mediasoup 3.6 runs on Node.js 12, which knows no syntax younger than 2019's.
    #[test]
    fn the_scripts_are_ascii_and_have_no_young_syntax() {
        for script in [AGENT_SCRIPT, console::LOADER] {
            assert!(script.is_ascii() && !script.contains('\0'));
            for young in ["?.", "??", "||=", "&&=", "catch {", "#", "replaceAll", "import("] {
                assert!(!script.contains(young), "{young}");
            }
        }
    }
}
