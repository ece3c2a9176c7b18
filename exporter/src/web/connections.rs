//! All open connections, so that there is always room for one more: the one whose end harms least goes,
//! and where none may go, a few places are left for who only asks whether the exporter lives.
//!
//! Order comes from a counter instead of a clock: what matters is who was active before whom. A clock says only who has
//! had the time to ask for something.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;

use crate::web::limits::{Ended, Limits};

/// One connection, as far as choosing goes.
pub(super) struct Connection {
    id: u64,
    pub(super) client: IpAddr,
    /// It has none of the places that answer everything.
    pub(super) reserved: bool,
    /// A request is being answered.
    busy: AtomicBool,
    /// When it last did something, in order.
    active: AtomicU64,
    /// When it was opened.
    opened: Instant,
    asked: AtomicBool,
    ticks: Arc<AtomicU64>,
}

/// A connection, and how to end it once its task runs.
type Entry = (Arc<Connection>, Option<AbortHandle>);

/// The connections of one server. Locked only when one opens or closes.
pub(super) struct Connections {
    limits: Limits,
    ticks: Arc<AtomicU64>,
    open: Mutex<HashMap<u64, Entry>>,
}

impl Connections {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, ticks: Arc::default(), open: Mutex::default() }
    }

    /// A place for one more, and why another connection was ended for it. Without a free place, the one
    /// that has waited longest for a request goes; where all are being answered, or had no time to ask yet, the
    /// newcomer gets a reserved place. Whoever has as many as one may have loses his own.
    pub(super) fn open(&self, client: IpAddr) -> (Arc<Connection>, Option<Ended>) {
        let mut open = self.open.lock().expect("no code under this lock panics");
        let (mut places, mut of_client) = (0, 0);
        for (connection, _) in open.values().filter(|(it, _)| !it.reserved) {
            places += 1;
            of_client += usize::from(connection.client == client);
        }
        let is_greedy = of_client >= self.limits.connections_of_client;
        let (reserved, ended) = match places < self.limits.connections && !is_greedy {
            true => (false, None),
            false => {
                let is_idle = |it: &Connection| {
                    let is_theirs = !is_greedy || it.client == client;
                    !it.reserved && is_theirs && it.is_idle(self.limits.first)
                };
                match end_oldest(&mut open, is_idle) {
                    true => (false, Some(Ended::Idle)),
                    false => (true, self.make_reserved_room(&mut open)),
                }
            }
        };
        let id = self.ticks.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(Connection {
            id,
            client,
            reserved,
            busy: AtomicBool::new(false),
            active: AtomicU64::new(id),
            opened: Instant::now(),
            asked: AtomicBool::new(false),
            ticks: self.ticks.clone(),
        });
        open.insert(id, (connection.clone(), None));
        (connection, ended)
    }

    fn make_reserved_room(&self, open: &mut HashMap<u64, Entry>) -> Option<Ended> {
        let reserved = open.values().filter(|(connection, _)| connection.reserved).count();
        let is_full = reserved >= self.limits.reserve;
        (is_full && end_oldest(open, |it| it.reserved)).then_some(Ended::Refused)
    }

    /// From now on it can be ended.
    pub(super) fn running(&self, connection: &Connection, abort: AbortHandle) {
        let mut open = self.open.lock().expect("no code under this lock panics");
        if let Some(entry) = open.get_mut(&connection.id) {
            entry.1 = Some(abort);
        }
    }

    pub(super) fn close(&self, connection: &Connection) {
        self.open.lock().expect("no code under this lock panics").remove(&connection.id);
    }
}

/// Ends the one of these that did something the longest ago; false when there is none.
fn end_oldest(open: &mut HashMap<u64, Entry>, among: impl Fn(&Connection) -> bool) -> bool {
    let candidates = open.values().filter(|(it, abort)| abort.is_some() && among(it));
    let oldest = candidates.min_by_key(|(it, _)| it.active.load(Ordering::Relaxed));
    let Some(id) = oldest.map(|(connection, _)| connection.id) else { return false };
    if let Some((_, Some(abort))) = open.remove(&id) {
        abort.abort();
    }
    true
}

impl Connection {
    /// It waits for a request: for the next one, or for its first, for which there was time.
    fn is_idle(&self, first: Duration) -> bool {
        let had_time = || self.asked.load(Ordering::Relaxed) || self.opened.elapsed() >= first;
        !self.busy.load(Ordering::Relaxed) && had_time()
    }

    /// A request is there.
    pub(super) fn work(&self) {
        self.asked.store(true, Ordering::Relaxed);
        self.busy.store(true, Ordering::Relaxed);
        self.progress();
    }

    /// Its response is done.
    pub(super) fn rest(&self) {
        self.busy.store(false, Ordering::Relaxed);
        self.progress();
    }

    pub(super) fn progress(&self) {
        self.active.store(self.ticks.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }
}
