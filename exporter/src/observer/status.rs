//! How a source is: what its task writes, and what metrics and pages read.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::state::{Beat, Hello, SourceId};

/// How one source is.
#[derive(Clone, Debug)]
pub struct Status {
    /// Its socket.
    pub path: PathBuf,
    /// What its events are told under.
    pub id: SourceId,
    /// Its script speaks.
    pub up: bool,
    /// What it said of itself last.
    pub hello: Option<Hello>,
    /// How long ago it was heard last.
    pub last_heard: Option<Duration>,
    /// How long its last first telling took, from connecting until all was told.
    pub sync: Option<Duration>,
    /// Why it is down.
    pub error: Option<String>,
    /// What was counted.
    pub tally: Tally,
    /// Its last sign of life.
    pub beat: Beat,
}

/// Totals of one source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Attempts to connect.
    pub attempts: u64,
    /// Attempts that met the script.
    pub meetings: u64,
    /// Bytes read from the script.
    pub bytes: u64,
    /// Lines that were understood.
    pub lines: u64,
    /// Lines that were not.
    pub bad_lines: u64,
    /// Lines beyond the bound.
    pub oversized_lines: u64,
}

/// One source, shared between its task and its readers. Counters are single writes and need no
/// lock; the rest changes a few times in a connection's life.
#[derive(Debug)]
pub(super) struct Source {
    id: SourceId,
    up: AtomicBool,
    ended: AtomicBool,
    pub(super) attempts: AtomicU64,
    pub(super) meetings: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) lines: AtomicU64,
    pub(super) bad_lines: AtomicU64,
    pub(super) oversized_lines: AtomicU64,
    slow: Mutex<Slow>,
}

#[derive(Debug, Default)]
struct Slow {
    hello: Option<Hello>,
    last_heard: Option<Instant>,
    sync: Option<Duration>,
    error: Option<String>,
    reported: Option<String>,
    beat: Beat,
}

impl Source {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self {
            id: SourceId(NEXT.fetch_add(1, Relaxed)),
            up: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            attempts: AtomicU64::new(0),
            meetings: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            lines: AtomicU64::new(0),
            bad_lines: AtomicU64::new(0),
            oversized_lines: AtomicU64::new(0),
            slow: Mutex::default(),
        }
    }

    pub(super) fn status(&self, path: &Path) -> Status {
        let slow = self.slow();
        Status {
            path: path.to_owned(),
            id: self.id,
            up: self.up.load(Relaxed),
            hello: slow.hello.clone(),
            last_heard: slow.last_heard.map(|at| at.elapsed()),
            sync: slow.sync,
            error: slow.error.clone(),
            tally: Tally {
                attempts: self.attempts.load(Relaxed),
                meetings: self.meetings.load(Relaxed),
                bytes: self.bytes.load(Relaxed),
                lines: self.lines.load(Relaxed),
                bad_lines: self.bad_lines.load(Relaxed),
                oversized_lines: self.oversized_lines.load(Relaxed),
            },
            beat: slow.beat,
        }
    }

    pub(super) fn id(&self) -> SourceId {
        self.id
    }

    pub(super) fn meetings(&self) -> u64 {
        self.meetings.load(Relaxed)
    }

    pub(super) fn met(&self, hello: &Hello) {
        self.meetings.fetch_add(1, Relaxed);
        let mut slow = self.slow();
        slow.hello = Some(hello.clone());
        slow.error = None;
        slow.reported = None;
        drop(slow);
        self.up.store(true, Relaxed);
    }

    pub(super) fn heard(&self) {
        self.slow().last_heard = Some(Instant::now());
    }

    pub(super) fn synced(&self, took: Duration) {
        self.slow().sync = Some(took);
    }

    pub(super) fn beat(&self, beat: Beat) {
        self.slow().beat = beat;
    }

    /// The server does not answer, but is not given up.
    pub(super) fn stalled(&self, what: &str) {
        self.up.store(false, Relaxed);
        self.slow().error = Some(what.to_owned());
    }

    pub(super) fn down(&self, error: &anyhow::Error) {
        self.up.store(false, Relaxed);
        self.slow().error = Some(format!("{error:#}"));
    }

    /// Whether this reason was not reported last.
    pub(super) fn is_new_error(&self, error: &anyhow::Error) -> bool {
        let text = Some(format!("{error:#}"));
        let mut slow = self.slow();
        let is_new = slow.reported != text;
        slow.reported = text;
        is_new
    }

    pub(super) fn end(&self) {
        self.ended.store(true, Relaxed);
    }

    pub(super) fn ended(&self) -> bool {
        self.ended.load(Relaxed)
    }

    fn slow(&self) -> std::sync::MutexGuard<'_, Slow> {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
