//! A record of calls that ended: one line of JSON for each connection and each stream, in files that other tools read.
//!
//! The history says what ended; what is said of it is made in `entry`, out of the labels' text and nothing else, so a
//! privacy policy holds here, too. `writer` is the thread that writes, `folder` the files. `read` is the other way
//! round: `mediasoup-exporter journal`.

mod entry;
mod folder;
pub mod read;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use foldhash::HashMap;

use crate::config;
use crate::history::{Ended, Past, PeerKey};
use crate::views::Verdict;

pub use entry::Entry;
use entry::{Context, End};
pub use writer::Tally;
use writer::Writer;

/// Peers whose verdicts are remembered at most.
const MOST_VERDICTS: usize = 100_000;
/// For how long what nobody's end tells of is remembered where there is little room, milliseconds: longer than what is
/// over waits for its line.
const REMEMBERED: u64 = 600_000;

/// What a peer's call was like: one for each cause.
#[derive(Debug)]
struct Seen {
    verdict: Verdict,
    /// When it was first and last found, milliseconds since the exporter began.
    first: u64,
    last: u64,
}

/// Writes what ended.
#[derive(Debug)]
pub struct Journal {
    host: String,
    writer: Writer,
    verdicts: HashMap<PeerKey, Vec<Seen>>,
    /// Transports of whose servers nothing is heard, and since when, milliseconds since the exporter began.
    lost: HashMap<Arc<str>, u64>,
}

impl Journal {
    /// Begins a file.
    ///
    /// # Errors
    /// The folder cannot be made, or nothing can be written to it.
    pub fn start(options: &config::Journal, host: &str) -> anyhow::Result<Self> {
        let writer = Writer::start(options)?;
        let (verdicts, lost) = Default::default();
        Ok(Self { host: host.to_owned(), writer, verdicts, lost })
    }

    /// Takes in who has a bad call now.
    pub fn look(&mut self, verdicts: &HashMap<PeerKey, Verdict>, now: u64) {
        for (peer, verdict) in verdicts {
            if self.verdicts.len() >= MOST_VERDICTS && !self.verdicts.contains_key(peer) {
                continue;
            }
            let seen = self.verdicts.entry(peer.clone()).or_default();
            match seen.iter_mut().find(|seen| seen.verdict.cause == verdict.cause) {
                Some(seen) => (seen.verdict, seen.last) = (verdict.clone(), now),
                None => seen.push(Seen { verdict: verdict.clone(), first: now, last: now }),
            }
        }
        if self.verdicts.len() > MOST_VERDICTS / 2 {
            self.verdicts.retain(|_, seen| seen.iter().any(|it| it.last + REMEMBERED > now));
        }
    }

    /// Nothing is heard of the servers of these transports any more.
    pub fn lose(&mut self, transports: Vec<Arc<str>>, now: u64) {
        if transports.is_empty() {
            return;
        }
        self.lost.retain(|_, since| *since + REMEMBERED > now);
        self.lost.extend(transports.into_iter().map(|transport| (transport, now)));
    }

    /// Writes what ended by now.
    pub fn write(&mut self, past: &Past, ended: &[Ended], at_the_end: bool) {
        let mut lines = Vec::new();
        for it in ended {
            let end = |transport: &str| match it.told {
                _ if at_the_end => End::ExporterEnded,
                true if self.lost.contains_key(transport) => End::ServerLost,
                true => End::Closed,
                false => End::Quiet,
            };
            let context = Context { host: &self.host, past, end: &end };
            let verdict = |room: &str, peer: &str| {
                let seen = self.verdicts.get(&(room.into(), peer.into()))?.iter();
                let then = seen.filter(|seen| seen.first <= it.last && it.first <= seen.last);
                let worst = then.max_by_key(|seen| (seen.verdict.cause.is_bad(), seen.last));
                worst.map(|seen| &seen.verdict)
            };
            lines.push(Entry::of(it, &context, verdict));
        }
        self.writer.write(&lines);
    }

    /// What became of the lines so far.
    pub fn tally(&self) -> Tally {
        self.writer.tally()
    }

    /// Waits until all is written, for this long at most.
    pub fn close(&mut self, patience: Duration) {
        self.writer.close(patience);
    }
}
