//! Decides the text of every label that strangers can influence: addresses, names, places, and text.
//!
//! Typed values come in, text that may be shown goes out. [`Labels`] remembers how each connection is
//! shown, so that its label stays the same for all its life, whatever the resolver learns later.

pub mod address;
pub mod block;
pub mod geo;
pub mod names;
pub mod people;
#[cfg(test)]
pub(crate) mod random;
pub mod text;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use foldhash::HashMap;
use ipnet::IpNet;

use crate::model::{JoinKey, canonical_ip};
use crate::texts::Texts;

pub use address::AddressPolicy;
pub use geo::{Database, Geo};
pub use names::NameCache;
pub use people::{Held, NamePolicy, Shown, Word, key_of_period};
pub use text::TextCounts;

use block::Block;
use names::Decision;
use people::Words;

pub use crate::model::Tick;

/// What may be shown of the far side.
#[derive(Debug)]
pub struct Policy {
    /// How its address is shown.
    pub address: AddressPolicy,
    /// Networks whose addresses are shown as they are, whatever `address` says.
    pub exempt: Vec<IpNet>,
    /// [`AddressPolicy::Truncate`] keeps no more than the announced network, where a database knows it.
    pub announced: bool,
    /// How the words of people are shown.
    pub people: NamePolicy,
    /// Whether its reverse name stands in for its number. Without effect unless the address policy is
    /// [`AddressPolicy::None`]: a name tells as much as an address.
    pub names: bool,
    /// Ticks that a new connection waits for its name before it is shown by number.
    pub patience: Tick,
}

impl Policy {
    /// The far end as it may be shown.
    fn show(&self, remote: SocketAddr, geo: &Geo) -> String {
        let ip = canonical_ip(remote.ip());
        if self.exempt.iter().any(|network| network.contains(&ip)) {
            return AddressPolicy::None.show(remote);
        }
        let announced = self.announced.then(|| geo.announced(ip)).flatten();
        match self.address.up_to(announced) {
            Some(coarser) => coarser.show(remote),
            None => self.address.show(remote),
        }
    }
}

impl Default for Policy {
    /// Everything is shown, by number.
    fn default() -> Self {
        let (exempt, people) = Default::default();
        let (announced, names) = (false, false);
        Self { address: AddressPolicy::None, exempt, announced, people, names, patience: 1 }
    }
}

/// Addresses that the name cache holds at most.
const NAMES: usize = 65_536;
/// Ticks after which a name is asked for again: an hour of scrapes every 15 seconds.
const NAME_LIFETIME: Tick = 240;
/// Connections that nobody holds any more are looked for when so many ticks have passed.
const SWEEP: Tick = 16;

/// The decisions that were made, and what is needed for the next.
pub struct Labels {
    policy: Policy,
    geo: Geo,
    names: NameCache,
    words: Words,
    connections: HashMap<JoinKey, Connection>,
    now: Tick,
    swept: Tick,
    beginnings: Texts,
    /// How often text had to be changed.
    pub text: TextCounts,
}

/// What a file that changed is now.
pub enum Renewal {
    /// The geographic database that was named as this one of all.
    Database(usize, geo::Database),
    /// How addresses and words are shown by another key, those of the two that are shown by one.
    Keys(Option<AddressPolicy>, Option<NamePolicy>),
}

enum Connection {
    /// First asked for at this tick.
    Waits(Tick),
    /// Alive as long as someone else holds the text.
    Shown(Arc<str>),
}

impl Labels {
    /// No decisions yet.
    pub fn new(policy: Policy, geo: Geo) -> Self {
        let (connections, now, swept, beginnings, text) = Default::default();
        let names = NameCache::new(NAMES, NAME_LIFETIME);
        let words = Words::new(policy.people.clone());
        Self { policy, geo, names, words, connections, now, swept, beginnings, text }
    }

    /// Time passes; forgets connections that nobody shows any more.
    pub fn advance(&mut self, now: Tick) {
        self.now = now;
        if now >= self.swept + SWEEP {
            self.swept = now;
            self.words.forget_unused();
            self.connections.retain(|_, connection| match connection {
                Connection::Waits(since) => now - *since < SWEEP,
                Connection::Shown(text) => Arc::strong_count(text) > 1,
            });
        }
    }

    /// How the far end of this connection is shown; `None` while that is not decided. Whoever shows
    /// it keeps the text: that is what keeps the connection alive here.
    pub fn remote(&mut self, key: &JoinKey) -> Option<Arc<str>> {
        let first = match self.connections.get(key) {
            Some(Connection::Shown(text)) => return Some(text.clone()),
            Some(Connection::Waits(since)) => *since,
            None => self.now,
        };
        match self.decide(key.remote, first) {
            Some(text) => {
                let text: Arc<str> = text.into();
                self.connections.insert(*key, Connection::Shown(text.clone()));
                Some(text)
            }
            None => {
                self.connections.insert(*key, Connection::Waits(first));
                None
            }
        }
    }

    /// As [`Labels::remote`], for a connection that cannot wait: it has ended.
    pub fn remote_now(&mut self, key: &JoinKey) -> Arc<str> {
        self.remote(key).unwrap_or_else(|| {
            let text: Arc<str> = self.policy.show(key.remote, &self.geo).into();
            self.connections.insert(*key, Connection::Shown(text.clone()));
            text
        })
    }

    fn decide(&mut self, remote: SocketAddr, first: Tick) -> Option<String> {
        if !self.shows_names() {
            return Some(self.policy.show(remote, &self.geo));
        }
        match self.names.decide(remote.ip(), first, self.now, self.policy.patience) {
            Decision::Wait => None,
            Decision::Number => Some(self.policy.show(remote, &self.geo)),
            Decision::Name(name) => {
                let name = text::clean(&name, text::limit::HOST_NAME, &mut self.text);
                Some(format!("{name}:{}", remote.port()))
            }
        }
    }

    fn shows_names(&self) -> bool {
        self.policy.names && self.policy.address.shows_addresses()
    }

    /// A word of somebody's as it may be shown. It stays like that as long as somebody holds it.
    pub fn word<'a>(&mut self, word: Word, text: &'a str) -> Shown<'a> {
        self.words.show(word, text, &mut self.text)
    }

    /// How often the key of words has changed.
    pub fn round(&self) -> u64 {
        self.words.round()
    }

    /// Whether a word of an earlier round may be shown by the key of this one: nobody but the asker holds it.
    pub fn take_back(&mut self, word: Word, text: &str, held: &Held, round: u64) -> bool {
        self.words.take_back(word, text, held, round)
    }

    /// `{transport_id="…",id="…"`, with which the labels of an object begin, and those of each of its
    /// streams.
    pub fn object(&mut self, transport: &str, id: &str) -> Arc<str> {
        let counts = &mut self.text;
        let mut text = Block::open()
            .label("transport_id", &text::clean(transport, text::limit::ID, counts))
            .label("id", &text::clean(id, text::limit::ID, counts))
            .finish();
        self.beginnings.share(&mut text);
        text
    }

    /// What follows from a file that is another one now. Who is shown stays as he is shown; others are
    /// shown by the new one.
    pub fn renew(&mut self, renewal: Renewal) {
        match renewal {
            Renewal::Database(at, database) => self.geo.replace(at, database),
            Renewal::Keys(address, people) => {
                if let Some(address) = address {
                    self.policy.address = address;
                }
                if let Some(people) = people {
                    self.words.renew(people);
                }
            }
        }
    }

    /// Where the address is; `None` when there is no database at all.
    pub fn locate(&self, remote: Option<SocketAddr>) -> Option<geo::Location> {
        let known = || remote.map(|remote| self.geo.locate(remote)).unwrap_or_default();
        (!self.geo.is_empty()).then(known)
    }

    /// Addresses to look up, at most `count`; none where names are not shown.
    pub fn wanted_names(&mut self, count: usize) -> Vec<IpAddr> {
        self.names.wanted(count)
    }

    /// A look-up's answer.
    pub fn put_name(&mut self, ip: IpAddr, name: Option<Arc<str>>) {
        self.names.put(ip, name, self.now);
    }

    /// Asks for a name before its connection is first shown, so that it need not wait.
    pub fn expect(&mut self, key: &JoinKey) {
        if self.shows_names() {
            self.remote(key);
        }
    }

    /// Names held, and names refused for want of room.
    pub fn name_fill(&self) -> (usize, u64) {
        self.names.fill()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Proto;

    fn key(port: u16) -> JoinKey {
        JoinKey {
            proto: Proto::Udp,
            local_port: 40_000,
            remote: SocketAddr::from(([192, 0, 2, 1], port)),
        }
    }

    fn labels(address: AddressPolicy, names: bool) -> Labels {
        Labels::new(Policy { address, names, patience: 2, ..Policy::default() }, Geo::none())
    }

    #[test]
    fn a_connection_keeps_its_label() {
        let mut labels = labels(AddressPolicy::None, true);
        assert_eq!(labels.remote(&key(1)), None);
        labels.advance(2);
        let shown = labels.remote(&key(1)).unwrap();
        assert_eq!(&*shown, "192.0.2.1:1");
        labels.put_name("192.0.2.1".parse().unwrap(), Some("host.example".into()));
        labels.advance(100);
        assert_eq!(labels.remote(&key(1)), Some(shown), "its label never changes");
        assert_eq!(labels.remote(&key(2)).as_deref(), Some("host.example:2"), "another may");
    }

    #[test]
    fn a_connection_that_nobody_shows_is_forgotten() {
        let mut labels = labels(AddressPolicy::None, true);
        labels.remote(&key(1));
        labels.advance(2);
        drop(labels.remote(&key(1)));
        labels.put_name("192.0.2.1".parse().unwrap(), Some("host.example".into()));
        labels.advance(50);
        assert_eq!(labels.remote(&key(1)).as_deref(), Some("host.example:1"));
    }

    #[test]
    fn exempt_networks_stay_readable() {
        let exempt = vec!["192.0.2.0/25".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        let policy = Policy { address: AddressPolicy::Drop, exempt, ..Policy::default() };
        let check = |remote: &str, expected: &str| {
            assert_eq!(policy.show(remote.parse().unwrap(), &Geo::none()), expected, "{remote}");
        };
        check("192.0.2.1:5", "192.0.2.1:5");
        check("[::ffff:192.0.2.1]:5", "192.0.2.1:5");
        check("192.0.2.128:5", "");
        check("[2001:db8::1]:5", "[2001:db8::1]:5");
        check("[2001:db9::1]:5", "");
    }

    #[test]
    fn names_never_pass_a_policy() {
        for policy in [
            AddressPolicy::truncate(24, 48).unwrap(),
            AddressPolicy::Legacy,
            AddressPolicy::Drop,
            AddressPolicy::pseudonym(
                [5; 31].iter().copied().chain([1]).collect::<Vec<u8>>().try_into().unwrap(),
            )
            .unwrap(),
        ] {
            let mut labels = labels(policy, true);
            assert!(labels.remote(&key(1)).is_some(), "there is nothing to wait for");
            labels.expect(&key(2));
            assert!(labels.wanted_names(9).is_empty(), "no address goes to a resolver");
        }
        let mut numeric = labels(AddressPolicy::None, false);
        assert_eq!(numeric.remote(&key(1)).as_deref(), Some("192.0.2.1:1"));
        assert!(numeric.wanted_names(9).is_empty());
    }
}
