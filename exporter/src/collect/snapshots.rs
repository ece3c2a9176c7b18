//! The snapshots that clients are reading: few at a time, however many clients there are and however
//! slowly they read.
//!
//! A snapshot costs a copy of the ledger's series once the ledger goes on, so there are [`MOST`] at most.
//! Who asks while some are still read shares the newest for up to [`SPACING`]; whoever has read for
//! [`PATIENCE`] loses his to who comes after him. Nobody else does.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::exposition::{Cursor, Selection, Snapshot};
use crate::web::{Text, Wanted, Withdrawn};

/// Snapshots that are read at a time.
const MOST: usize = 5;
/// For which nobody loses his.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two snapshots while others are being read; the first two may come at once. When the last is
/// taken, the first has been read for long enough.
const SPACING: Duration = PATIENCE.checked_div(MOST as u32 - 2).expect("it is not zero");

/// All that are being read, the oldest first.
#[derive(Default)]
pub(super) struct Snapshots {
    live: Vec<Live>,
}

struct Live {
    snapshot: Arc<Snapshot>,
    selection: Selection,
    taken: Instant,
    /// Each reader has a copy.
    readers: Arc<()>,
}

/// What is to be done for who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advice {
    /// A snapshot of a new reading, of these families.
    Take(Selection),
    /// The newest snapshot serves.
    Share,
}

impl Snapshots {
    /// Lets go of those that nobody reads any more, and tells whether there may be another.
    pub(super) fn advise(&mut self, wanted: Selection, now: Instant) -> Advice {
        self.tidy();
        let Some(newest) = self.live.last() else { return Advice::Take(wanted) };
        let age = |live: &Live| now.saturating_duration_since(live.taken);
        // The first two may be narrow: who comes then shares one that has everything.
        let is_soon = self.live.len() >= 2 && age(newest) < SPACING;
        let is_full = self.live.len() >= MOST && age(&self.live[0]) < PATIENCE;
        if newest.selection.covers(wanted) && (is_soon || is_full) {
            return Advice::Share;
        }
        if self.live.len() >= MOST {
            self.live.remove(0);
        }
        Advice::Take(Selection::ALL)
    }

    /// Lets go of those that nobody reads any more: here, so that no reader has to.
    pub(super) fn tidy(&mut self) {
        self.live.retain(|live| Arc::strong_count(&live.readers) > 1);
    }

    pub(super) fn add(&mut self, snapshot: Snapshot, selection: Selection, taken: Instant) {
        let readers = Arc::new(());
        self.live.push(Live { snapshot: Arc::new(snapshot), selection, taken, readers });
    }

    /// The newest was made of a reading taken then, and has these families.
    pub(super) fn newest_is(&self, taken: Instant, wanted: Selection) -> bool {
        self.live.last().is_some_and(|it| it.taken == taken && it.selection.covers(wanted))
    }

    /// A text of the newest.
    pub(super) fn lease(&self, wanted: Wanted) -> Option<Lease> {
        let Live { snapshot, readers, .. } = self.live.last()?;
        let cursor = Cursor::new(wanted.format, wanted.selection).with_tail(wanted.own);
        Some(Lease { snapshot: Arc::downgrade(snapshot), _reader: readers.clone(), cursor })
    }
}

/// A reader's hold on a snapshot.
pub(super) struct Lease {
    /// Held only while a piece is written: so a snapshot can be taken from whoever has stopped reading.
    snapshot: Weak<Snapshot>,
    _reader: Arc<()>,
    cursor: Cursor,
}

impl Text for Lease {
    fn next_piece(&mut self) -> Result<Option<Bytes>, Withdrawn> {
        let snapshot = self.snapshot.upgrade().ok_or(Withdrawn)?;
        Ok(snapshot.next_piece(&mut self.cursor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exposition::{Format, Tails};

    const KERNEL: Wanted = Wanted { format: Format::Text, selection: Selection::NONE, own: true };

    /// Takes one, if that is the advice.
    fn ask(snapshots: &mut Snapshots, wanted: Selection, now: Instant) -> (Advice, Lease) {
        let advice = snapshots.advise(wanted, now);
        if let Advice::Take(selection) = advice {
            let tails = Tails { text: "text".into(), ..Tails::default() };
            snapshots.add(Snapshot::of_tails(tails), selection, now);
        }
        (advice, snapshots.lease(KERNEL).unwrap())
    }

    #[test]
    fn readers_that_do_not_end_leave_room_for_others_and_no_one_is_cut_before_his_time() {
        let (mut snapshots, start) = (Snapshots::default(), Instant::now());
        let mut stuck = Vec::new();
        let mut ages = Vec::new();
        // Somebody stops reading each second.
        for second in 0..120 {
            let now = start + Duration::from_secs(second);
            let (advice, mut lease) = ask(&mut snapshots, Selection::ALL, now);
            ages.push(now - snapshots.live.last().unwrap().taken);
            assert!(snapshots.live.len() <= MOST);
            assert!(lease.next_piece().is_ok());
            assert!(matches!(advice, Advice::Share | Advice::Take(Selection::ALL)));
            stuck.push((now, lease));
            for (since, lease) in &stuck {
                let age = now - *since;
                // He may have shared one that others had read for a while.
                assert!(lease.snapshot.upgrade().is_some() || age >= PATIENCE - SPACING, "{age:?}");
            }
        }
        assert!(ages.iter().all(|age| *age <= SPACING), "{ages:?}");
        assert!(stuck[0].1.next_piece().is_err());
        drop(stuck);
        snapshots.tidy();
        assert!(snapshots.live.is_empty());
    }

    #[test]
    fn who_reads_at_once_gets_what_is_new_and_what_he_wants() {
        let (mut snapshots, now) = (Snapshots::default(), Instant::now());
        for second in 0..10 {
            let now = now + Duration::from_secs(second);
            let (advice, mut lease) = ask(&mut snapshots, Selection::kernel(), now);
            assert_eq!(advice, Advice::Take(Selection::kernel()));
            assert_eq!(lease.next_piece().unwrap().unwrap(), "text");
            assert!(lease.next_piece().unwrap().is_none());
        }
        // Two that are not read to the end.
        let (_, _first) = ask(&mut snapshots, Selection::kernel(), now);
        let (advice, _second) = ask(&mut snapshots, Selection::NONE, now);
        assert_eq!(advice, Advice::Take(Selection::ALL));
        let (advice, _third) = ask(&mut snapshots, Selection::ALL, now);
        assert_eq!(advice, Advice::Share);
    }
}
