//! A ledger comes in, the text of a scrape goes out, in pieces.
//!
//! [`Scrape`] is what the rest of the program holds: labels and ledger together, changed by one update
//! for each reading. It lends [`Snapshot`]s, which are written as often as anyone asks, at whatever pace.

pub mod families;
pub mod foreign;
#[cfg(test)]
mod hostile_tests;
pub mod reference;
mod rows;
mod selection;
mod snapshot;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod strict;
#[cfg(test)]
mod tests;
pub mod text;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod written;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::labels::{Geo, Labels, Policy, Renewal, TextCounts};
use crate::ledger::{Extent, Fill, Ledger, Settings, Update, View};
use crate::model::{HostLoad, JoinKey};

pub use selection::Selection;
pub use snapshot::{Cursor, PIECE, Snapshot, Tails};
pub use text::Format;

/// Everything that a scrape is made of.
pub struct Scrape {
    labels: Labels,
    ledger: Ledger,
    verdicts: Arc<[Arc<str>]>,
    load: Arc<HostLoad>,
}

impl Scrape {
    /// Nothing is known yet.
    pub fn new(settings: Settings, policy: Policy, geo: Geo) -> Self {
        let (labels, ledger) = (Labels::new(policy, geo), Ledger::new(settings));
        Self { labels, ledger, verdicts: Arc::default(), load: Arc::default() }
    }

    /// Takes in what is new for these families. Rooms, peers, transports, producers and consumers cost
    /// most of an update; who asks for what was counted on the wire only need not pay for them.
    pub fn update_for(&mut self, update: Update<'_>, selection: Selection) {
        self.ledger.update(update, Extent::from(selection).objects, &mut self.labels);
    }

    /// Takes in what a file that changed is now.
    pub fn renew(&mut self, renewal: Renewal) {
        self.labels.renew(renewal);
    }

    /// What everything is written from.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Peers in rooms, as the metrics have them.
    pub fn peers(&self) -> u64 {
        self.ledger.peers()
    }

    /// The series of these families as they are now. Lent, not copied: a copy is made only of what the
    /// next update changes while somebody still has it.
    pub fn snapshot(&mut self, selection: Selection, tails: Tails) -> Snapshot {
        let view = self.ledger.lend(selection.into());
        let (verdicts, load) = (self.verdicts.clone(), self.load.clone());
        Snapshot::new(View { verdicts, load, ..view }, tails)
    }

    /// Who has a bad call now: labels of `mediasoup_peer_verdict`, each once.
    pub fn judge(&mut self, verdicts: Vec<Arc<str>>) {
        self.verdicts = verdicts.into();
    }

    /// What the host does to packets now.
    pub fn put_load(&mut self, load: HostLoad) {
        self.load = load.into();
    }

    /// Claims of the servers' whose packets were met for the first time since this was last asked.
    pub fn take_seen(&mut self) -> Vec<u64> {
        self.ledger.take_seen()
    }

    /// How full the ledger is.
    pub fn fill(&self) -> Fill {
        self.ledger.fill()
    }

    /// How often text had to be changed to become a label.
    pub fn text_counts(&self) -> TextCounts {
        self.labels.text
    }

    /// Reverse names that are held, and how often there was no room for one.
    pub fn name_fill(&self) -> (usize, u64) {
        self.labels.name_fill()
    }

    /// Asks for the names of a connection that is about to be shown.
    pub fn expect(&mut self, connection: &JoinKey) {
        self.labels.expect(connection);
    }

    /// Addresses whose names are to be looked up, at most `count`, each once.
    pub fn wanted_names(&mut self, count: usize) -> Vec<IpAddr> {
        self.labels.wanted_names(count)
    }

    /// The answer of a look-up.
    pub fn put_name(&mut self, ip: IpAddr, name: Option<Arc<str>>) {
        self.labels.put_name(ip, name);
    }
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scrape").field("fill", &self.fill()).finish_non_exhaustive()
    }
}
