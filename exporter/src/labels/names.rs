//! Remembers reverse names, and decides once for each connection whether it shows one.
//!
//! The look-ups themselves are made elsewhere: it takes [`NameCache::wanted`] and answers with
//! [`NameCache::put`]. A connection that is new asks [`NameCache::decide`]; while the answer is on its
//! way the connection waits, at most `patience` ticks, and is then shown by number for all its life.
//! The cache is bounded: the least recently wanted entry goes first, and when every entry is still
//! on its way, newcomers are shown by number at once.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::HashMap;

use crate::model::{Tick, canonical_ip};

/// Whether a new connection shows a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Not decided yet: do not show the connection.
    Wait,
    /// The number.
    Number,
    /// The name.
    Name(Arc<str>),
}

/// Reverse names by address.
#[derive(Debug)]
pub struct NameCache {
    entries: HashMap<IpAddr, Entry>,
    wanted: VecDeque<IpAddr>,
    capacity: usize,
    lifetime: Tick,
    refused: u64,
}

#[derive(Debug)]
struct Entry {
    answer: Option<Option<Arc<str>>>,
    /// When it was asked for, and then when it was answered.
    since: Tick,
    used: Tick,
}

impl NameCache {
    /// A cache of at most `capacity` addresses; answers are asked for again after `lifetime` ticks.
    pub fn new(capacity: usize, lifetime: Tick) -> Self {
        let (entries, wanted) = Default::default();
        Self { entries, wanted, capacity: capacity.max(1), lifetime, refused: 0 }
    }

    /// What a connection that was first seen at `first` shows, if it must be known at `now`.
    pub fn decide(&mut self, ip: IpAddr, first: Tick, now: Tick, patience: Tick) -> Decision {
        let ip = canonical_ip(ip);
        let expired = |entry: &Entry, lifetime| {
            entry.answer.is_some() && now.saturating_sub(entry.since) > lifetime
        };
        if self.entries.get(&ip).is_some_and(|entry| expired(entry, self.lifetime)) {
            self.entries.remove(&ip);
        }
        if let Some(entry) = self.entries.get_mut(&ip) {
            entry.used = now;
            match &entry.answer {
                Some(Some(name)) => return Decision::Name(name.clone()),
                Some(None) => return Decision::Number,
                None => {}
            }
        } else if !self.want(ip, now) {
            return Decision::Number;
        }
        if now.saturating_sub(first) < patience { Decision::Wait } else { Decision::Number }
    }

    /// Addresses that nobody looks up yet, at most `count`; each is given out once.
    pub fn wanted(&mut self, count: usize) -> Vec<IpAddr> {
        let count = count.min(self.wanted.len());
        self.wanted.drain(..count).collect()
    }

    /// The answer for an address: its name, or that it has none. Answers to what is not (any more)
    /// asked are ignored.
    pub fn put(&mut self, ip: IpAddr, name: Option<Arc<str>>, now: Tick) {
        if let Some(entry) = self.entries.get_mut(&canonical_ip(ip)) {
            entry.answer = Some(name.filter(|name| !name.is_empty()));
            entry.since = now;
        }
    }

    /// Addresses held, and how often there was no room for one.
    pub fn fill(&self) -> (usize, u64) {
        (self.entries.len(), self.refused)
    }

    fn want(&mut self, ip: IpAddr, now: Tick) -> bool {
        if self.entries.len() >= self.capacity && !self.evict(now) {
            self.refused += 1;
            return false;
        }
        self.entries.insert(ip, Entry { answer: None, since: now, used: now });
        self.wanted.push_back(ip);
        true
    }

    /// Lets go of the least recently used eighth of the answers, so that the search for them is paid
    /// seldom. An unanswered question goes only when it is so old that its answer must be lost.
    fn evict(&mut self, now: Tick) -> bool {
        let goes = |entry: &Entry| {
            entry.answer.is_some() || now.saturating_sub(entry.since) > self.lifetime
        };
        let mut ages: Vec<(Tick, IpAddr)> = self
            .entries
            .iter()
            .filter(|(_, entry)| goes(entry))
            .map(|(ip, entry)| (entry.used, *ip))
            .collect();
        ages.sort_unstable();
        ages.truncate((self.capacity / 8).max(1));
        for (_, ip) in &ages {
            self.entries.remove(ip);
        }
        !ages.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([198, 51, 100, last])
    }

    #[test]
    fn a_connection_waits_once_and_not_for_ever() {
        let mut names = NameCache::new(8, 100);
        assert_eq!(names.decide(ip(1), 5, 5, 2), Decision::Wait);
        assert_eq!(names.wanted(9), [ip(1)]);
        assert_eq!(names.wanted(9), [] as [IpAddr; 0]);
        assert_eq!(names.decide(ip(1), 5, 6, 2), Decision::Wait);
        assert_eq!(names.decide(ip(1), 5, 7, 2), Decision::Number);
        names.put(ip(1), Some("host.example".into()), 7);
        assert_eq!(names.decide(ip(1), 8, 8, 2), Decision::Name("host.example".into()));
        assert_eq!(names.decide(ip(2), 8, 8, 0), Decision::Number);
    }

    #[test]
    fn having_no_name_is_an_answer() {
        let mut names = NameCache::new(8, 100);
        names.decide(ip(1), 0, 0, 2);
        names.put(ip(1), None, 0);
        assert_eq!(names.decide(ip(1), 0, 0, 2), Decision::Number);
        names.decide(ip(2), 0, 0, 2);
        names.put(ip(2), Some("".into()), 0);
        assert_eq!(names.decide(ip(2), 0, 0, 2), Decision::Number);
        names.put(ip(3), Some("unasked.example".into()), 0);
        assert_eq!(names.fill(), (2, 0));
    }

    #[test]
    fn answers_age() {
        let mut names = NameCache::new(8, 10);
        names.decide(ip(1), 0, 0, 2);
        names.put(ip(1), Some("old.example".into()), 1);
        assert_eq!(names.wanted(9).len(), 1);
        assert_eq!(names.decide(ip(1), 11, 11, 2), Decision::Name("old.example".into()));
        assert_eq!(names.decide(ip(1), 12, 12, 2), Decision::Wait);
        assert_eq!(names.wanted(9), [ip(1)]);
    }

    #[test]
    fn the_cache_is_bounded() {
        let mut names = NameCache::new(2, 100);
        assert_eq!(names.decide(ip(1), 0, 0, 2), Decision::Wait);
        assert_eq!(names.decide(ip(2), 0, 0, 2), Decision::Wait);
        assert_eq!(names.decide(ip(3), 0, 0, 2), Decision::Number, "all are on their way");
        assert_eq!(names.fill(), (2, 1));
        names.put(ip(1), Some("one.example".into()), 1);
        assert_eq!(names.decide(ip(3), 1, 1, 2), Decision::Wait, "an answer made room");
        assert_eq!(names.fill(), (2, 1));
    }
}
