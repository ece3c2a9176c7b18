//! All open connections, so that the one whose end harms least can be found when room is needed.
//!
//! Order comes from a counter instead of a clock: what matters is who was active before whom.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::task::AbortHandle;

use crate::web::limits::{Ended, Limits};

/// One connection, as far as choosing goes.
pub(super) struct Connection {
    id: u64,
    /// A request is being answered.
    busy: AtomicBool,
    /// When it last did something.
    active: AtomicU64,
    /// Bytes that wait for the client.
    buffered: AtomicUsize,
    all: Arc<Shared>,
}

/// A connection, and how to end it once its task runs.
type Entry = (Arc<Connection>, Option<AbortHandle>);

#[derive(Default)]
struct Shared {
    ticks: AtomicU64,
    buffered: AtomicUsize,
}

/// The connections of one server. Locked only when one opens or closes, or a scrape begins.
pub(super) struct Connections {
    limits: Limits,
    shared: Arc<Shared>,
    open: Mutex<HashMap<u64, Entry>>,
}

impl Connections {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, shared: Arc::default(), open: Mutex::default() }
    }

    /// Room for one more: ends the connection that has waited longest without a request. `Err` when
    /// all are being answered.
    pub(super) fn make_room(&self) -> Result<Option<Ended>, Ended> {
        let mut open = self.open.lock().expect("no code under this lock panics");
        if open.len() < self.limits.connections {
            return Ok(None);
        }
        let idle = open.values().filter(|(connection, abort)| {
            abort.is_some() && !connection.busy.load(Ordering::Relaxed)
        });
        let oldest = idle.min_by_key(|(connection, _)| connection.active.load(Ordering::Relaxed));
        let Some(id) = oldest.map(|(connection, _)| connection.id) else {
            return Err(Ended::Refused);
        };
        end(&mut open, id);
        Ok(Some(Ended::Idle))
    }

    /// Ends responses, the most slowly taken first, until what waits is within the budget. How many.
    pub(super) fn free_memory(&self) -> usize {
        let mut count = 0;
        while self.shared.buffered.load(Ordering::Relaxed) > self.limits.buffered {
            let mut open = self.open.lock().expect("no code under this lock panics");
            let holding = open.values().filter(|(connection, abort)| {
                abort.is_some() && connection.buffered.load(Ordering::Relaxed) > 0
            });
            let slowest =
                holding.min_by_key(|(connection, _)| connection.active.load(Ordering::Relaxed));
            let Some(id) = slowest.map(|(connection, _)| connection.id) else { break };
            // Its bytes leave the sum only when its task is dropped, soon: count them as gone.
            if let Some((connection, _)) = open.get(&id) {
                let held = connection.buffered.swap(0, Ordering::Relaxed);
                self.shared.buffered.fetch_sub(held, Ordering::Relaxed);
            }
            end(&mut open, id);
            count += 1;
        }
        count
    }

    pub(super) fn open(&self) -> Arc<Connection> {
        let id = self.shared.ticks.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(Connection {
            id,
            busy: AtomicBool::new(false),
            active: AtomicU64::new(id),
            buffered: AtomicUsize::new(0),
            all: self.shared.clone(),
        });
        let mut open = self.open.lock().expect("no code under this lock panics");
        open.insert(id, (connection.clone(), None));
        connection
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

fn end(open: &mut HashMap<u64, Entry>, id: u64) {
    if let Some((_, Some(abort))) = open.remove(&id) {
        abort.abort();
    }
}

impl Connection {
    #[cfg(test)]
    pub(super) fn alone() -> Arc<Self> {
        Connections::new(Limits::default()).open()
    }

    /// A request is there.
    pub(super) fn work(&self) {
        self.busy.store(true, Ordering::Relaxed);
        self.progress();
    }

    /// Its response is done.
    pub(super) fn rest(&self) {
        self.busy.store(false, Ordering::Relaxed);
        self.progress();
    }

    pub(super) fn progress(&self) {
        self.active.store(self.all.ticks.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }

    pub(super) fn buffer(&self, bytes: usize) {
        self.buffered.fetch_add(bytes, Ordering::Relaxed);
        self.all.buffered.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes back what it still holds at most: [`Connections::free_memory`] may have been first.
    pub(super) fn unbuffer(&self, bytes: usize) {
        let mut taken = 0;
        let _ = self.buffered.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
            taken = held.min(bytes);
            Some(held - taken)
        });
        self.all.buffered.fetch_sub(taken, Ordering::Relaxed);
    }
}
