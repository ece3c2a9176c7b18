//! What closed a moment ago: packets that were counted before anybody asked, and those that trail after
//! a closing, still have an owner.
//!
//! Keys come in as their objects close, with the time as the caller counts it; they go out when they are
//! due. Each share has a space of its own, in which the oldest gives way.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use foldhash::HashMap;

use super::role::StreamRole;
use super::sources::{SHARES, Share};
use crate::model::{Clock, Direction, TransportId};

/// Seconds for which what closed is remembered: longer than tables keep a flow that rests.
pub(super) const KEPT: u64 = 150;
/// Streams that are remembered for each connection, at most and on average.
const STREAMS: usize = 4;

/// Keys in the order in which they closed.
#[derive(Debug)]
pub(super) struct Fading<K> {
    by_share: BTreeMap<Share, VecDeque<Entry<K>>>,
    stamps: u64,
    /// By [`Share::kind`].
    lengths: [usize; 2],
}

#[derive(Debug)]
struct Entry<K> {
    key: K,
    stamp: u64,
    since: u64,
}

/// What became of a key.
#[derive(Debug)]
pub(super) struct Kept<K> {
    /// It is remembered, by this stamp.
    pub(super) stamp: Option<u64>,
    /// This one is no more, for want of room.
    pub(super) evicted: Option<(K, u64)>,
}

/// The last owner of an SSRC.
#[derive(Debug)]
pub struct ClosedOwner {
    /// The producer's or consumer's id.
    pub id: Arc<str>,
    /// What the stream was to it.
    pub role: StreamRole,
    /// Of its codec.
    pub clock: Option<Clock>,
    stamp: u64,
}

/// A stream of a transport.
pub(super) type StreamKey = (TransportId, Direction, u32);

/// SSRCs whose owners closed.
#[derive(Debug, Default)]
pub(super) struct Streams {
    by_key: HashMap<StreamKey, ClosedOwner>,
    order: Fading<StreamKey>,
}

impl<K> Default for Fading<K> {
    fn default() -> Self {
        Self { by_share: BTreeMap::new(), stamps: 0, lengths: [0; 2] }
    }
}

impl<K> Fading<K> {
    /// Remembers a key. A share may have `most`, and all of its kind [`SHARES`] times as many.
    pub(super) fn keep(&mut self, share: Share, key: K, since: u64, most: usize) -> Kept<K> {
        let length = &mut self.lengths[share.kind()];
        let is_full = *length >= SHARES * most;
        let keys = self.by_share.entry(share).or_default();
        let evicted = match keys.len() >= most || is_full {
            true => keys.pop_front().map(|old| (old.key, old.stamp)),
            false => None,
        };
        if is_full && evicted.is_none() {
            self.by_share.remove(&share);
            return Kept { stamp: None, evicted };
        }
        self.stamps += 1;
        keys.push_back(Entry { key, stamp: self.stamps, since });
        *length += usize::from(evicted.is_none());
        Kept { stamp: Some(self.stamps), evicted }
    }

    /// One that closed before this time, with its stamp.
    pub(super) fn next_due(&mut self, before: u64) -> Option<(K, u64)> {
        let due = |keys: &VecDeque<Entry<K>>| keys.front().is_some_and(|it| it.since < before);
        let share = *self.by_share.iter().find(|(_, keys)| due(keys))?.0;
        let keys = self.by_share.get_mut(&share)?;
        let Entry { key, stamp, since: _ } = keys.pop_front()?;
        if keys.is_empty() {
            self.by_share.remove(&share);
        }
        self.lengths[share.kind()] -= 1;
        Some((key, stamp))
    }
}

impl Streams {
    pub(super) fn get(&self, key: &StreamKey) -> Option<&ClosedOwner> {
        self.by_key.get(key)
    }

    /// An owner closes; false when another one had to be forgotten for it, or it is itself.
    pub(super) fn keep(
        &mut self,
        share: Share,
        key: StreamKey,
        owner: (Arc<str>, StreamRole, Option<Clock>),
        since: u64,
        most: usize,
    ) -> bool {
        let Kept { stamp, evicted } = self.order.keep(share, key.clone(), since, STREAMS * most);
        let has_room = stamp.is_some() && evicted.is_none();
        if let Some((key, stamp)) = evicted {
            self.forget(&key, stamp);
        }
        if let Some(stamp) = stamp {
            let (id, role, clock) = owner;
            self.by_key.insert(key, ClosedOwner { id, role, clock, stamp });
        }
        has_room
    }

    /// Forgets one that closed before this time, and names its transport.
    pub(super) fn expire(&mut self, before: u64) -> Option<TransportId> {
        let (key, stamp) = self.order.next_due(before)?;
        self.forget(&key, stamp);
        if self.by_key.is_empty() {
            self.by_key.shrink_to_fit();
        }
        Some(key.0)
    }

    fn forget(&mut self, key: &StreamKey, stamp: u64) {
        // It may have had another owner since, who closed, too.
        if self.by_key.get(key).is_some_and(|owner| owner.stamp == stamp) {
            self.by_key.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Share = Share::User(1);
    const B: Share = Share::User(2);
    const C: Share = Share::User(3);

    #[test]
    fn a_share_forgets_its_own_oldest() {
        let mut fading = Fading::default();
        let mut keep = |share, key| {
            let Kept { stamp, evicted } = fading.keep(share, key, 0, 2);
            (stamp.is_some(), evicted.map(|it| it.0))
        };
        assert_eq!(
            [1, 2, 3].map(|key| keep(A, key)),
            [(true, None), (true, None), (true, Some(1))]
        );
        assert_eq!(
            [4, 5, 6].map(|key| keep(B, key)),
            [(true, None), (true, None), (true, Some(4))]
        );
        assert_eq!(keep(C, 7), (false, None), "all users together have no more");
        let vouched = Share::Vouched(crate::model::SourceId(1));
        assert_eq!(keep(vouched, 8), (true, None), "users take nothing from the host's own");
        assert_eq!(fading.lengths, [1, 4]);
        let mut due: Vec<_> = std::iter::from_fn(|| fading.next_due(1)).map(|it| it.0).collect();
        due.sort_unstable();
        assert_eq!(due, [2, 3, 5, 6, 8]);
        assert_eq!((fading.lengths, fading.by_share.len()), ([0, 0], 0));
    }

    #[test]
    fn only_what_is_due_goes() {
        let mut fading = Fading::default();
        for since in [5, 7] {
            fading.keep(A, since, since, 9);
        }
        assert_eq!(fading.next_due(5).map(|it| it.0), None);
        assert_eq!(fading.next_due(6).map(|it| it.0), Some(5));
        assert_eq!(fading.next_due(6).map(|it| it.0), None);
    }
}
