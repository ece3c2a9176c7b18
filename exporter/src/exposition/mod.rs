//! A ledger comes in, the text of a scrape goes out, in pieces.
//!
//! [`Scrape`] is what the rest of the program holds: labels and ledger together, changed by one update
//! for each reading. It lends [`Snapshot`]s, which are written as often as anyone asks, at whatever pace.

pub mod families;
pub mod foreign;
pub mod reference;
mod rows;
mod snapshot;
#[cfg(test)]
pub(crate) mod strict;
#[cfg(test)]
mod tests;
pub mod text;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use crate::exposition::families::Group;
use crate::labels::{Geo, Labels, Policy, Renewal, TextCounts};
use crate::ledger::{Extent, Fill, Ledger, Settings, Update};
use crate::model::JoinKey;

pub use snapshot::{Cursor, Snapshot, Tails};
pub use text::Format;

/// Bytes of a piece at most.
pub const PIECE: usize = 64 * 1024;
/// A piece ends with the line that passes this mark. What is between the two is more than the longest
/// line: label values are limited to fewer characters than that (`labels::text::limit`).
const MARK: usize = PIECE - 16 * 1024;

/// Everything that a scrape is made of.
pub struct Scrape {
    labels: Labels,
    ledger: Ledger,
}

/// Which families are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection(u8);

impl Scrape {
    /// Nothing is known yet.
    pub fn new(settings: Settings, policy: Policy, geo: Geo) -> Self {
        Self { labels: Labels::new(policy, geo), ledger: Ledger::new(settings) }
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

    /// Peers in rooms, as the metrics have them.
    pub fn peers(&self) -> u64 {
        self.ledger.peers()
    }

    /// The series of these families as they are now. Lent, not copied: a copy is made only of what the
    /// next update changes while somebody still has it.
    pub fn snapshot(&mut self, selection: Selection, tails: Tails) -> Snapshot {
        Snapshot::new(self.ledger.lend(selection.into()), tails)
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

impl Selection {
    /// Every family.
    pub const ALL: Self = Self(u8::MAX);

    /// No family.
    pub const NONE: Self = Self(0);

    /// What was counted on the wire.
    pub fn kernel() -> Self {
        [Group::Connections, Group::Streams, Group::Strangers].into_iter().collect()
    }

    /// Names of groups, `kernel` and `all` among them, separated by commas; the error is the name
    /// that means nothing.
    pub fn parse(names: &str) -> Result<Self, &str> {
        let mut selection = Self::NONE;
        for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let group = Group::ALL.into_iter().find(|group| group.name() == name);
            selection.0 |= match (name, group) {
                ("all", _) => Self::ALL.0,
                ("kernel", _) => Self::kernel().0,
                (_, Some(group)) => 1 << group as u8,
                (_, None) => return Err(name),
            };
        }
        Ok(if selection == Self::NONE { Self::ALL } else { selection })
    }

    /// The families of both.
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// All families of the other are among these.
    pub fn covers(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    fn has(self, group: Group) -> bool {
        self.0 & 1 << group as u8 != 0
    }
}

impl FromIterator<Group> for Selection {
    fn from_iter<I: IntoIterator<Item = Group>>(groups: I) -> Self {
        Self(groups.into_iter().fold(0, |bits, group| bits | 1 << group as u8))
    }
}
