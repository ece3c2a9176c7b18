//! How a source is: what its task writes, and what metrics and pages read.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::trust::{Ground, Party};
use crate::state::{Beat, Hello, SourceId};

/// How one source is.
#[derive(Clone, Debug)]
pub struct Status {
    /// Its socket.
    pub path: PathBuf,
    /// What its events are told under.
    pub id: SourceId,
    /// Why it is believed.
    pub ground: Ground,
    /// Its process, as this process sees it.
    pub pid: Option<u32>,
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

/// Whether something is worth a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// It is.
    Is,
    /// It was said already, or there was too much of late.
    IsNone,
}

/// A server that is not believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its socket.
    pub path: PathBuf,
    /// Its user.
    pub uid: u32,
    /// Why.
    pub why: &'static str,
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
    /// The last look found somebody there.
    listed: AtomicBool,
    ended: AtomicBool,
    disbelieved: AtomicBool,
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
    warnings: Warnings,
    beat: Beat,
    ground: Option<Ground>,
    party: Option<Party>,
}

impl Source {
    pub(super) fn new(ground: Ground, party: Option<Party>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self {
            id: SourceId(NEXT.fetch_add(1, Relaxed)),
            up: AtomicBool::new(false),
            listed: AtomicBool::new(true),
            ended: AtomicBool::new(false),
            disbelieved: AtomicBool::new(false),
            attempts: AtomicU64::new(0),
            meetings: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            lines: AtomicU64::new(0),
            bad_lines: AtomicU64::new(0),
            oversized_lines: AtomicU64::new(0),
            slow: Mutex::new(Slow { ground: Some(ground), party, ..Slow::default() }),
        }
    }

    pub(super) fn status(&self, path: &Path) -> Status {
        let slow = self.slow();
        Status {
            path: path.to_owned(),
            id: self.id,
            ground: slow.ground.unwrap_or(Ground::ServersUser),
            pid: slow.party.and_then(|party| party.pid),
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

    /// It said who it is.
    pub(super) fn met(&self, hello: &Hello) -> News {
        self.meetings.fetch_add(1, Relaxed);
        let mut slow = self.slow();
        let is_new = slow.hello.as_ref() != Some(hello) && slow.warnings.take(Instant::now());
        slow.hello = Some(hello.clone());
        slow.error = None;
        slow.reported = None;
        drop(slow);
        self.up.store(true, Relaxed);
        if is_new { News::Is } else { News::IsNone }
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

    /// Whether this reason was not reported last, and there were not too many of late.
    pub(super) fn may_warn_of(&self, error: &anyhow::Error) -> bool {
        let text = Some(format!("{error:#}"));
        let mut slow = self.slow();
        let is_new = slow.reported != text;
        slow.reported = text;
        is_new && slow.warnings.take(Instant::now())
    }

    /// Why it is believed: as it was found, and since it was connected to, by who listens there.
    pub(super) fn ground(&self) -> Ground {
        self.slow().ground.unwrap_or(Ground::ServersUser)
    }

    /// Who listened when it was connected to last, or was found.
    pub(super) fn party(&self) -> Option<Party> {
        self.slow().party
    }

    pub(super) fn believed(&self, party: Party, ground: Ground) {
        let mut slow = self.slow();
        (slow.party, slow.ground) = (Some(party), Some(ground));
    }

    /// Who listens there is not believed.
    pub(super) fn disbelieve(&self) {
        self.disbelieved.store(true, Relaxed);
        self.end();
    }

    pub(super) fn is_disbelieved(&self) -> bool {
        self.disbelieved.load(Relaxed)
    }

    pub(super) fn is_up(&self) -> bool {
        self.up.load(Relaxed)
    }

    pub(super) fn listed(&self, listed: bool) {
        self.listed.store(listed, Relaxed);
    }

    pub(super) fn is_listed(&self) -> bool {
        self.listed.load(Relaxed)
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

/// Warnings that one server may cause: some at once, and then one in each while.
#[derive(Debug)]
pub(super) struct Warnings {
    left: u32,
    since: Option<Instant>,
}

impl Default for Warnings {
    fn default() -> Self {
        Self { left: Self::MOST, since: None }
    }
}

impl Warnings {
    const MOST: u32 = 8;
    const WHILE: Duration = Duration::from_secs(60);

    pub(super) fn take(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let whiles = (now.duration_since(since).as_secs() / Self::WHILE.as_secs()) as u32;
        if whiles > 0 {
            self.left = self.left.saturating_add(whiles).min(Self::MOST);
            self.since = Some(now);
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_few_and_come_back_one_by_one() {
        let (mut warnings, start) = (Warnings::default(), Instant::now());
        let mut taken = |seconds| {
            let now = start + Duration::from_secs(seconds);
            (0..100).filter(|_| warnings.take(now)).count()
        };
        assert_eq!((taken(0), taken(59), taken(60), taken(61)), (8, 0, 1, 0));
        assert_eq!((taken(240), taken(100_000)), (3, 8));
    }
}
