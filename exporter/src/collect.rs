//! The scrape: one thread that takes readings and writes texts, in order, for everyone who asks.
//!
//! Orders come in through a bounded queue, chunks of text go out into each order's sink. Because one
//! thread owns the books, they need no locks; because sinks never make it wait, no client can hold it
//! up. Orders that wait together share a reading, and those that want the same share the text.

mod books;
mod site;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;

pub use books::{Ledgers, Parts};
pub use site::{Board, Site};

use crate::exposition::Selection;
use crate::web::{Busy, Sink, Wanted};

/// Orders that wait at most; more scrapes than connections cannot be.
const QUEUE: usize = 1024;

/// What the scrape thread owns.
pub trait Books: Send + 'static {
    /// Takes a reading and books what these families need.
    fn refresh(&mut self, occasion: Occasion, selection: Selection);
    /// Writes what is wanted, chunk by chunk; the function says whether anyone still listens.
    fn write(&mut self, wanted: Wanted, out: &mut dyn FnMut(Bytes) -> bool);
    /// A reverse look-up's answer.
    fn learn(&mut self, ip: IpAddr, name: Option<Arc<str>>);
    /// Scrapes that were given another's reading or text, so far.
    fn shared(&mut self, scrapes: u64);
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
}

impl Default for Pace {
    fn default() -> Self {
        Self { share: Duration::from_millis(200), idle: Duration::from_secs(10) }
    }
}

enum Order {
    Scrape(Wanted, Sink),
    Name(IpAddr, Option<Arc<str>>),
}

/// Where orders go. When all copies are gone, the thread ends.
#[derive(Clone)]
pub struct Orders(SyncSender<Order>);

impl Orders {
    /// Orders a scrape.
    pub fn scrape(&self, wanted: Wanted, sink: Sink) -> Result<(), Busy> {
        self.0.try_send(Order::Scrape(wanted, sink)).map_err(|_| Busy)
    }

    /// Tells a name. It is lost when the queue is full, and asked for again later.
    pub fn name(&self, ip: IpAddr, name: Option<Arc<str>>) {
        let _ = self.0.try_send(Order::Name(ip, name));
    }
}

/// Starts the thread; the first reading is taken at once.
pub fn start(books: impl Books, pace: Pace) -> std::io::Result<(Orders, JoinHandle<()>)> {
    let (sender, orders) = sync_channel(QUEUE);
    let thread = std::thread::Builder::new().name("scrape".into());
    let thread = thread.spawn(move || work(books, pace, &orders))?;
    Ok((Orders(sender), thread))
}

fn work(mut books: impl Books, pace: Pace, orders: &Receiver<Order>) {
    let mut shared = 0;
    let mut taken = take(&mut books, Occasion::Idle, Selection::ALL);
    loop {
        let first = match orders.recv_timeout(pace.idle.saturating_sub(taken.at.elapsed())) {
            Ok(order) => order,
            Err(RecvTimeoutError::Timeout) => {
                taken = take(&mut books, Occasion::Idle, Selection::ALL);
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let mut waiting: Vec<(Wanted, Vec<Sink>)> = Vec::new();
        for order in std::iter::once(first).chain(orders.try_iter()) {
            match order {
                Order::Name(ip, name) => books.learn(ip, name),
                Order::Scrape(wanted, sink) => join(&mut waiting, wanted, sink),
            }
        }
        let scrapes: usize = waiting.iter().map(|(_, sinks)| sinks.len()).sum();
        if scrapes == 0 {
            continue;
        }
        let selection = waiting.iter().fold(Selection::NONE, |all, (it, _)| all.or(it.selection));
        let fresh = !taken.serves(selection, pace.share);
        shared += scrapes as u64 - u64::from(fresh);
        books.shared(shared);
        if fresh {
            taken = take(&mut books, Occasion::Scrape, selection);
        }
        for (wanted, sinks) in waiting {
            deliver(&mut books, wanted, sinks);
        }
    }
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

fn join(waiting: &mut Vec<(Wanted, Vec<Sink>)>, wanted: Wanted, sink: Sink) {
    match waiting.iter_mut().find(|(other, _)| *other == wanted) {
        Some((_, sinks)) => sinks.push(sink),
        None => waiting.push((wanted, vec![sink])),
    }
}

/// Writes one text for all who want the same. Chunks are shared, not copied.
fn deliver(books: &mut impl Books, wanted: Wanted, mut sinks: Vec<Sink>) {
    books.write(wanted, &mut |chunk| {
        sinks.retain(|sink| sink.push(chunk.clone()));
        !sinks.is_empty()
    });
    sinks.into_iter().for_each(Sink::finish);
}

#[cfg(test)]
mod tests;
