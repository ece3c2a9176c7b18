//! The scrape: one thread that takes readings, in order, for everyone who asks, and takes in what servers
//! tell.
//!
//! Orders come in through a bounded queue, snapshots go out to who asked, who writes his text from them
//! himself. Because one thread owns the books, what servers told among them, they need no locks, and
//! nobody else ever waits for one; because it writes for nobody, no client can hold it up. Orders that wait
//! together share a reading.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::collect::snapshots::{Advice, Snapshots};
use crate::exposition::{Selection, Snapshot};
use crate::history::Past;
use crate::labels::Renewal;
use crate::model::JoinKey;
use crate::state::{Event, Ownership, SourceId};
use crate::web::{Busy, Waiting, Wanted};

/// Scrapes that wait at most; more than connections cannot be.
const SCRAPES: usize = 1024;
/// Names that wait at most.
const NAMES: usize = 1024;
/// Readings of observers' sockets that wait at most, of all servers together. Whoever brings another
/// waits for his turn, and reads no more meanwhile: so a server that tells faster than it is taken in
/// fills its own socket.
const READINGS: usize = 16;
/// Orders that are looked at before anything is done for those who wait. All that were there at some
/// moment are among them.
const ROUND: usize = SCRAPES + NAMES + READINGS + 2;

/// What the scrape thread owns.
pub trait Books: Send + 'static {
    /// Takes in what a server told.
    fn tell(&mut self, source: SourceId, events: Vec<Event>);
    /// Takes in what the host says of processes and ports.
    fn observe(&mut self, ownership: Arc<dyn Ownership>);
    /// Takes in what a file that changed is now.
    fn renew(&mut self, renewal: Renewal);
    /// The connections that servers know.
    fn connections(&mut self) -> Connections;
    /// Looks how the sources are. What they told before this is told to the books before a reading is
    /// taken, so that nothing is missing of a source that is shown to have told all.
    fn look(&mut self);
    /// Takes a reading and books what these families need.
    fn refresh(&mut self, occasion: Occasion, selection: Selection);
    /// What texts of these families are written from, as of the last reading.
    fn snapshot(&mut self, selection: Selection) -> Snapshot;
    /// A step of the history ends with the last reading.
    fn record(&mut self);
    /// What is kept of the past.
    fn past(&mut self) -> Past;
    /// Nothing comes after this.
    fn end(&mut self);
    /// A reverse look-up's answer.
    fn learn(&mut self, ip: IpAddr, name: Option<Arc<str>>);
    /// Scrapes that were given another's reading, so far.
    fn shared(&mut self, scrapes: u64);
}

/// The connections that servers know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// Those that are believed.
    pub told: HashSet<JoinKey>,
    /// How many are not, because the host does not say that a worker of the server's owns the port: it
    /// may only not know yet.
    pub refused: usize,
}

/// Why a reading is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// Someone scrapes.
    Scrape,
    /// Nobody does, for now.
    Idle,
}

/// When a reading was taken, and for which families.
struct Taken {
    at: Instant,
    selection: Selection,
}

/// How often readings are taken.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Scrapes share a reading that is younger and has what they want.
    pub share: Duration,
    /// Without scrapes, a reading is taken so often: tables must be tended, and what they let go of
    /// must be booked.
    pub idle: Duration,
    /// How long a step of the history is; `None`: none is kept.
    pub step: Option<Duration>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { share: Duration::from_millis(200), idle: Duration::from_secs(10), step: None }
    }
}

enum Order {
    Scrape(Wanted, Waiting, OwnedSemaphorePermit),
    Name(IpAddr, Option<Arc<str>>, OwnedSemaphorePermit),
    Told(SourceId, Vec<Event>, OwnedSemaphorePermit),
    Observed(Arc<dyn Ownership>),
    Renewed(Renewal),
    Connections(oneshot::Sender<Connections>),
    Past(oneshot::Sender<Past>),
    Answer(oneshot::Sender<()>),
    End,
}

/// Where orders go. When all copies are gone, or at [`Orders::end`], the thread ends.
#[derive(Clone)]
pub struct Orders {
    /// Nothing that waits is waited for any more.
    ended: Arc<AtomicBool>,
    queue: Sender<Order>,
    /// Each kind of order has places of its own, so that none takes another's; each carries the right to
    /// its place until it has been dealt with.
    scrapes: Arc<Semaphore>,
    names: Arc<Semaphore>,
    readings: Arc<Semaphore>,
}

impl Orders {
    fn new() -> (Self, Receiver<Order>) {
        let (queue, orders) = mpsc::channel();
        let places = |count| Arc::new(Semaphore::new(count));
        let (scrapes, names, readings) = (places(SCRAPES), places(NAMES), places(READINGS));
        (Self { ended: Arc::default(), queue, scrapes, names, readings }, orders)
    }

    /// The thread ends after the order that it is at.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
        // It may be waiting for an order.
        let _ = self.queue.send(Order::End);
    }

    /// Orders a scrape.
    pub fn scrape(&self, wanted: Wanted, waiting: Waiting) -> Result<(), Busy> {
        let place = self.scrapes.clone().try_acquire_owned().map_err(|_| Busy)?;
        self.queue.send(Order::Scrape(wanted, waiting, place)).map_err(|_| Busy)
    }

    /// Tells a name. It is lost when there is no place, and asked for again later.
    pub fn name(&self, ip: IpAddr, name: Option<Arc<str>>) {
        if let Ok(place) = self.names.clone().try_acquire_owned() {
            let _ = self.queue.send(Order::Name(ip, name, place));
        }
    }

    /// Passes on what a server told, in order, once there is a place for it.
    pub async fn tell(&self, source: SourceId, events: Vec<Event>) {
        if let Ok(place) = self.readings.clone().acquire_owned().await {
            let _ = self.queue.send(Order::Told(source, events, place));
        }
    }

    /// Passes on what the host says of processes and ports.
    pub fn observe(&self, ownership: Arc<dyn Ownership>) {
        let _ = self.queue.send(Order::Observed(ownership));
    }

    /// Passes on what a file that changed is now.
    pub fn renew(&self, renewal: Renewal) {
        let _ = self.queue.send(Order::Renewed(renewal));
    }

    /// The connections that servers know, after all that was told before; `None` at the end.
    pub async fn connections(&self) -> Option<Connections> {
        let (answer, connections) = oneshot::channel();
        self.queue.send(Order::Connections(answer)).ok()?;
        connections.await.ok()
    }

    /// What is kept of the past; `None` at the end.
    pub async fn past(&self) -> Option<Past> {
        let (answer, past) = oneshot::channel();
        self.queue.send(Order::Past(answer)).ok()?;
        past.await.ok()
    }

    /// Whether the thread answers; it does in its turn, however long that takes.
    pub async fn answers(&self) -> bool {
        let (answer, answered) = oneshot::channel();
        self.queue.send(Order::Answer(answer)).is_ok() && answered.await.is_ok()
    }
}

/// Starts the thread; the first reading is taken at once.
pub fn start(books: impl Books, pace: Pace) -> std::io::Result<(Orders, JoinHandle<()>)> {
    let (sender, orders) = Orders::new();
    let thread = std::thread::Builder::new().name("scrape".into());
    let queue = Queue { orders, ended: sender.ended.clone() };
    let thread = thread.spawn(move || work(books, pace, &queue))?;
    Ok((sender, thread))
}

/// The other end of [`Orders`].
struct Queue {
    orders: Receiver<Order>,
    ended: Arc<AtomicBool>,
}

impl Queue {
    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// The next order, or none within that time; `None` when there will be no more.
    fn next(&self, time: Duration) -> Option<Option<Order>> {
        match self.orders.recv_timeout(time) {
            Ok(order) => Some(Some(order)),
            Err(RecvTimeoutError::Timeout) => Some(None),
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }

    /// What waits, until the end.
    fn waiting(&self) -> impl Iterator<Item = Order> {
        self.orders.try_iter().take_while(|_| !self.has_ended())
    }
}

fn work(books: impl Books, pace: Pace, queue: &Queue) {
    let mut desk = Desk::open(books, pace);
    while let Some(first) = queue.next(desk.rest()) {
        let mut waiting = Vec::new();
        hear(&mut desk.books, first.into_iter().chain(queue.waiting()), &mut waiting);
        if queue.has_ended() {
            break;
        }
        desk.step();
        // Servers that tell without end must not keep the tables from being tended.
        if !waiting.is_empty() || desk.is_due() {
            desk.serve(waiting, queue);
        }
    }
    desk.books.end();
}

/// The books, and what they last gave out.
struct Desk<B> {
    books: B,
    pace: Pace,
    taken: Taken,
    /// When the step of the history that goes on is to end.
    step_ends: Instant,
    snapshots: Snapshots,
    shared: u64,
}

impl<B: Books> Desk<B> {
    fn open(mut books: B, pace: Pace) -> Self {
        books.look();
        let taken = take(&mut books, Occasion::Idle, Selection::ALL);
        let mut desk = Self {
            books,
            pace,
            step_ends: taken.at,
            taken,
            snapshots: Snapshots::default(),
            shared: 0,
        };
        desk.step();
        desk
    }

    /// Until a reading is due, whoever asks.
    fn rest(&self) -> Duration {
        let idle = self.until_idle();
        match self.pace.step {
            Some(_) => idle.min(self.step_ends.saturating_duration_since(Instant::now())),
            None => idle,
        }
    }

    fn until_idle(&self) -> Duration {
        self.pace.idle.saturating_sub(self.taken.at.elapsed())
    }

    fn is_due(&self) -> bool {
        self.until_idle().is_zero()
    }

    /// Ends the step of the history if it is time for that.
    fn step(&mut self) {
        let now = Instant::now();
        let Some(step) = self.pace.step.filter(|_| now >= self.step_ends) else { return };
        if !self.taken.serves(Selection::ALL, self.pace.share) {
            self.books.look();
            self.taken = take(&mut self.books, Occasion::Idle, Selection::ALL);
        }
        self.books.record();
        // A step that came late does not make others late, and steps that were missed are one long one.
        self.step_ends += step;
        if self.step_ends <= now {
            self.step_ends = now + step;
        }
    }

    fn serve(&mut self, mut waiting: Vec<(Wanted, Waiting)>, queue: &Queue) {
        self.snapshots.tidy();
        let is_due = self.is_due();
        let is_young = !is_due && self.taken.serves(wanted_of(&waiting), self.pace.share);
        if !is_young {
            self.books.look();
            hear(&mut self.books, queue.waiting(), &mut waiting);
        }
        let wanted = wanted_of(&waiting);
        let advice = match waiting.is_empty() {
            true => Advice::Share,
            false if is_young && self.snapshots.newest_is(self.taken.at, wanted) => Advice::Share,
            false => self.snapshots.advise(wanted, Instant::now()),
        };
        let readings = match advice {
            Advice::Take(selection) => {
                if !is_young {
                    let selection = if is_due { Selection::ALL } else { selection };
                    self.taken = take(&mut self.books, Occasion::Scrape, selection);
                }
                self.snapshots.add(self.books.snapshot(selection), selection, self.taken.at);
                u64::from(!is_young)
            }
            Advice::Share if is_due => {
                self.taken = take(&mut self.books, Occasion::Idle, Selection::ALL);
                0
            }
            Advice::Share => 0,
        };
        self.shared += (waiting.len() as u64).saturating_sub(readings);
        self.books.shared(self.shared);
        for (wanted, waiting) in waiting {
            if let Some(lease) = self.snapshots.lease(wanted) {
                // Who asked may be gone.
                let _ = waiting.send(Box::new(lease));
            }
        }
    }
}

/// Deals with orders that need no reading, and gathers those that do.
fn hear(
    books: &mut impl Books,
    orders: impl Iterator<Item = Order>,
    waiting: &mut Vec<(Wanted, Waiting)>,
) {
    // New ones may come for as long as these are dealt with, and each reading that is takes its time.
    let mut readings = 0;
    for order in orders.take(ROUND) {
        match order {
            Order::Name(ip, name, _place) => books.learn(ip, name),
            Order::Scrape(wanted, text, _place) => waiting.push((wanted, text)),
            Order::Told(source, events, _place) => {
                books.tell(source, events);
                readings += 1;
                if readings == READINGS {
                    return;
                }
            }
            Order::Observed(ownership) => books.observe(ownership),
            Order::Renewed(renewal) => books.renew(renewal),
            // Who asked may be gone.
            Order::Connections(answer) => drop(answer.send(books.connections())),
            Order::Past(answer) => drop(answer.send(books.past())),
            Order::Answer(answer) => drop(answer.send(())),
            Order::End => {}
        }
    }
}

fn wanted_of(waiting: &[(Wanted, Waiting)]) -> Selection {
    waiting.iter().fold(Selection::NONE, |all, (it, _)| all.or(it.selection))
}

impl Taken {
    /// It is younger than `share` and has what is wanted.
    fn serves(&self, wanted: Selection, share: Duration) -> bool {
        self.at.elapsed() < share && self.selection.covers(wanted)
    }
}

fn take(books: &mut impl Books, occasion: Occasion, selection: Selection) -> Taken {
    books.refresh(occasion, selection);
    Taken { at: Instant::now(), selection }
}

#[cfg(test)]
mod tests;
