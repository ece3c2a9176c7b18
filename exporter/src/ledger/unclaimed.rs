//! Who is shown of those that nobody claims.
//!
//! Where no server tells, nobody is claimed, and all are shown that fit. Where servers tell, a connection that
//! none of them claims, or a stream without an owner, is somebody's who sends what he likes: of these a
//! few are shown, those with the most traffic, and the rest is one figure, whatever they send.

use crate::ledger::totals::{Counts, add_all};

/// Places for those that nobody claims.
#[derive(Debug)]
pub(crate) struct Unclaimed {
    pub(crate) connections: Places,
    pub(crate) streams: Places,
    /// What those without a place are and were.
    pub(crate) crowd: Crowd,
    /// Servers tell, so that being claimed by none means something.
    servers_tell: bool,
}

/// Traffic of those without a series of their own, where servers tell.
#[derive(Clone, Debug, Default)]
pub(crate) struct Crowd {
    /// Of flows that have ended.
    pub(crate) resolved: Counts,
    /// Bytes of flows that have not.
    pub(crate) pending_bytes: u64,
    /// Flows that have not ended.
    pub(crate) connections: u64,
    /// Streams that have not ended.
    pub(crate) streams: u64,
}

/// Places of one kind.
#[derive(Debug)]
pub(crate) struct Places {
    /// Without and with servers that tell.
    most: [usize; 2],
    /// Those that there are now.
    places: usize,
    taken: usize,
    /// Bytes of each that waited in this update.
    waiting: Vec<u64>,
    /// Whoever has less must wait: as many as there are free places had more in the update before.
    bar: u64,
}

impl Unclaimed {
    /// So many places of each kind, without and with servers that tell.
    pub(crate) fn new(connections: [usize; 2], streams: [usize; 2]) -> Self {
        let places = |most: [usize; 2]| Places {
            most,
            places: most[0],
            taken: 0,
            waiting: Vec::new(),
            bar: 0,
        };
        let (connections, streams) = (places(connections), places(streams));
        Self { connections, streams, crowd: Crowd::default(), servers_tell: false }
    }

    /// A new update begins.
    pub(crate) fn begin(&mut self, servers_tell: bool) {
        self.servers_tell = servers_tell;
        self.connections.begin(servers_tell);
        self.streams.begin(servers_tell);
        let resolved = self.crowd.resolved;
        self.crowd = Crowd { resolved, ..Crowd::default() };
    }

    /// Those without a place are a crowd, rather than cut off by a bound.
    pub(crate) fn are_a_crowd(&self) -> bool {
        self.servers_tell
    }

    /// A flow that ended without having been claimed or shown.
    pub(crate) fn resolve(&mut self, counts: &Counts) {
        add_all(&mut self.crowd.resolved, counts);
    }
}

impl Places {
    fn begin(&mut self, servers_tell: bool) {
        self.places = self.most[usize::from(servers_tell)];
        let free = self.places.saturating_sub(self.taken);
        self.bar = match free {
            _ if !servers_tell || self.waiting.len() <= free => 0,
            0 => u64::MAX,
            free => *self.waiting.select_nth_unstable_by(free - 1, |one, other| other.cmp(one)).1,
        };
        self.waiting.clear();
    }

    /// Somebody with so many bytes has no series yet.
    pub(crate) fn wait(&mut self, bytes: u64) {
        self.waiting.push(bytes);
    }

    /// There is a place for somebody with so many bytes; if not, he waits.
    pub(crate) fn has_room(&mut self, bytes: u64) -> bool {
        let fits = self.taken < self.places && bytes >= self.bar;
        if !fits {
            self.wait(bytes);
        }
        fits
    }

    /// Takes the place, if there is one.
    pub(crate) fn take(&mut self, bytes: u64) -> bool {
        let fits = self.has_room(bytes);
        self.taken += usize::from(fits);
        fits
    }

    pub(crate) fn give_back(&mut self) {
        self.taken -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_with_the_most_traffic_get_the_places() {
        let mut unclaimed = Unclaimed::new([100, 3], [100, 3]);
        unclaimed.begin(true);
        (0..50).for_each(|bytes| unclaimed.streams.wait(bytes));
        unclaimed.begin(true);
        let shown: Vec<u64> = (0..50).filter(|bytes| unclaimed.streams.take(*bytes)).collect();
        assert_eq!(shown, [47, 48, 49]);
        unclaimed.begin(true);
        assert!(!unclaimed.streams.take(1000), "who is shown stays");
        shown.iter().for_each(|_| unclaimed.streams.give_back());
        // Places that nobody else asks for go to whoever comes.
        unclaimed.begin(true);
        unclaimed.begin(true);
        assert!(unclaimed.streams.take(1) && unclaimed.connections.take(0));
    }

    #[test]
    fn without_servers_who_comes_first_is_shown() {
        let mut unclaimed = Unclaimed::new([2, 0], [2, 0]);
        for _ in 0..3 {
            unclaimed.begin(false);
            let places = &mut unclaimed.connections;
            assert_eq!([5, 1, 9].map(|bytes| places.take(bytes)), [true, true, false]);
            places.give_back();
            places.give_back();
        }
        unclaimed.begin(true);
        assert!(!unclaimed.connections.take(u64::MAX));
    }
}
