//! What to listen to, where servers' sockets are, and where goes what they tell.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;

use crate::host::workers::Workers;
use crate::state::{Event, SourceId};

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
pub(super) const AGENT_SOCKETS: (&str, &str) = ("mediasoup-exporter-agent-", ".sock");

/// What to listen to, and how patiently.
#[derive(Clone, Debug)]
pub struct Options {
    /// Look for the known sockets, and agents' ones, as they appear.
    pub search: bool,
    /// Sockets to listen to besides, or patterns of them, whoever listens there.
    pub sockets: Vec<PathBuf>,
    /// Who looks for workers: their ancestors are servers.
    pub workers: Arc<Workers>,
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
    /// Where what servers tell is read, if that is not where sockets are opened.
    pub readers: Option<Handle>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            search: true,
            sockets: Vec::new(),
            workers: Arc::default(),
            stats_interval: Duration::from_secs(15),
            stats_rate: 200,
            grace: Duration::from_secs(60),
            silence: Duration::from_secs(16),
            patience: Duration::from_secs(5),
            look: Duration::from_secs(5),
            retry: (Duration::from_millis(500), Duration::from_secs(30)),
            folder: PathBuf::from("/tmp"),
            readers: None,
        }
    }
}

/// Takes what one reading of a socket brought.
pub(super) type Sink = Arc<dyn Fn(SourceId, Vec<Event>) -> BoxFuture<'static, ()> + Send + Sync>;
