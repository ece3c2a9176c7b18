//! A bounded table of series, each known by its labels.
//!
//! Labels that are equal are one series: Prometheus refuses a scrape that has a series twice, so two
//! objects whose labels a policy made equal must share one. A series that nothing touches any more
//! stays for [`GRACE`] ticks, so that every scraper sees its last values, and is then removed.

use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use foldhash::HashMap;
use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::labels::Tick;
use crate::ledger::lendable::Lendable;
use crate::prefetch;

/// Ticks that a series stays after its object closed: two scrapes.
pub(crate) const GRACE: Tick = 2;

/// Names a series; one that was removed is never found again under an old name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SeriesId {
    index: u32,
    generation: u32,
}

/// One series, or one group of series that share their labels.
#[derive(Clone, Debug)]
pub(crate) struct Series<L, T> {
    pub(crate) labels: L,
    pub(crate) values: T,
    /// More than one meter has counted into it.
    pub(crate) shared: bool,
    seen: Tick,
}

impl<L, T> Series<L, T> {
    /// Something still stands behind this series.
    pub(crate) fn touch(&mut self, now: Tick) {
        self.seen = now;
    }

    /// Something stood behind it then, or since.
    pub(crate) fn is_seen(&self, tick: Tick) -> bool {
        self.seen >= tick
    }
}

#[derive(Clone, Debug)]
struct Slot<L, T> {
    generation: u32,
    /// The slot that was asked for after this one the last time; see [`Table::follow`].
    next: u32,
    series: Option<Series<L, T>>,
}

/// All series that have one kind of labels and values.
#[derive(Debug)]
pub(crate) struct Table<L, T> {
    slots: Lendable<Slot<L, T>>,
    free: Vec<u32>,
    /// Slots by their series' labels, which are kept once: 100,000 streams have labels to spare.
    by_labels: HashTable<u32>,
    hasher: RandomState,
    resting: HashMap<L, Tick>,
}

impl<L, T> Default for Table<L, T> {
    fn default() -> Self {
        let (slots, free, by_labels, hasher, resting) = Default::default();
        Self { slots, free, by_labels, hasher, resting }
    }
}

impl<L: Clone + Eq + Hash, T: Clone> Table<L, T> {
    /// The series of these labels.
    pub(crate) fn find(&self, labels: &L) -> Option<SeriesId> {
        let hash = self.hasher.hash_one(labels);
        let index = *self.by_labels.find(hash, |index| self.has(*index, labels))?;
        Some(self.id(index))
    }

    /// As [`Table::find`], for someone who asks for the same series in the same order every time, and
    /// who gives the one that he asked for before: mostly it is known already which one comes next.
    pub(crate) fn follow(&mut self, before: Option<SeriesId>, labels: &L) -> Option<SeriesId> {
        let next = before.map_or(0, |before| self.slots.as_slice()[before.index as usize].next);
        if self.has(next, labels) {
            return Some(self.id(next));
        }
        let found = self.find(labels)?;
        if let Some(before) = before {
            self.slots.own()[before.index as usize].next = found.index;
        }
        Some(found)
    }

    /// The series of these labels, which from now on is shared.
    pub(crate) fn join(&mut self, labels: &L) -> Option<SeriesId> {
        let id = self.find(labels)?;
        self.get_mut(id)?.shared = true;
        Some(id)
    }

    /// A new series; these labels must have none.
    pub(crate) fn open(&mut self, labels: L, values: T, now: Tick) -> SeriesId {
        let hash = self.hasher.hash_one(&labels);
        let series = Some(Series { labels, values, shared: false, seen: now });
        let index = match self.free.pop() {
            Some(index) => {
                self.slots.own()[index as usize].series = series;
                index
            }
            None => {
                let slots = self.slots.own();
                slots.push(Slot { generation: 0, next: 0, series });
                slots.len() as u32 - 1
            }
        };
        let Self { slots, by_labels, hasher, .. } = self;
        by_labels.insert_unique(hash, index, |index| hash_of(slots.as_slice(), hasher, *index));
        self.id(index)
    }

    pub(crate) fn get(&self, id: SeriesId) -> Option<&Series<L, T>> {
        let slot = &self.slots.as_slice()[id.index as usize];
        slot.series.as_ref().filter(|_| slot.generation == id.generation)
    }

    pub(crate) fn get_mut(&mut self, id: SeriesId) -> Option<&mut Series<L, T>> {
        let slot = &mut self.slots.own()[id.index as usize];
        slot.series.as_mut().filter(|_| slot.generation == id.generation)
    }

    /// Removes a series at once, because what it counted goes elsewhere. Its labels then rest for the
    /// grace: were they used again in the same moment, a scraper would see a total that fell.
    pub(crate) fn vacate(&mut self, id: SeriesId, now: Tick) -> Option<T> {
        let labels = self.get_mut(id)?.labels.clone();
        self.resting.insert(labels, now);
        self.take(id.index)
    }

    /// Removes a series at once if only one meter has ever had it; false when others may still. For
    /// what is no total: its labels need no rest.
    pub(crate) fn remove_unshared(&mut self, id: SeriesId) -> bool {
        self.get(id).is_some_and(|series| !series.shared) && self.take(id.index).is_some()
    }

    /// These labels cannot be used for now.
    pub(crate) fn rests(&self, labels: &L) -> bool {
        !self.resting.is_empty() && self.resting.contains_key(labels)
    }

    /// Removes the series that nothing has touched for longer than `grace`, unless `keep` says that
    /// their object lives. Each that goes is handed to `gone`.
    pub(crate) fn retire(
        &mut self,
        now: Tick,
        grace: Tick,
        keep: impl Fn(&T) -> bool,
        mut gone: impl FnMut(T),
    ) {
        self.resting.retain(|_, since| now.saturating_sub(*since) < GRACE);
        for index in 0..self.slots.as_slice().len() {
            let Some(series) = &mut self.slots.own()[index].series else { continue };
            if now.saturating_sub(series.seen) <= grace {
                continue;
            }
            if keep(&series.values) {
                series.seen = now;
            } else if let Some(values) = self.take(index as u32) {
                gone(values);
            }
        }
    }

    /// As it is now, for who writes texts.
    pub(crate) fn lend(&mut self) -> Rows<L, T> {
        Rows { slots: self.slots.lend() }
    }

    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Series<L, T>> {
        self.slots.as_slice().iter().filter_map(|slot| slot.series.as_ref())
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Series<L, T>> {
        self.slots.own().iter_mut().filter_map(|slot| slot.series.as_mut())
    }

    fn take(&mut self, index: u32) -> Option<T> {
        let slot = &mut self.slots.own()[index as usize];
        let series = slot.series.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index);
        let hash = self.hasher.hash_one(&series.labels);
        if let Ok(entry) = self.by_labels.find_entry(hash, |other| *other == index) {
            entry.remove();
        }
        Some(series.values)
    }

    fn has(&self, index: u32, labels: &L) -> bool {
        let slot = self.slots.as_slice().get(index as usize);
        slot.and_then(|slot| slot.series.as_ref()).is_some_and(|series| series.labels == *labels)
    }

    fn id(&self, index: u32) -> SeriesId {
        SeriesId { index, generation: self.slots.as_slice()[index as usize].generation }
    }
}

/// A table's series as they were when it lent them.
#[derive(Clone, Debug)]
pub(crate) struct Rows<L, T> {
    slots: Arc<Vec<Slot<L, T>>>,
}

impl<L, T> Default for Rows<L, T> {
    fn default() -> Self {
        Self { slots: Arc::default() }
    }
}

impl<L, T> Rows<L, T> {
    /// From a place on, with the places: a reader can stop and go on.
    pub(crate) fn from(&self, start: usize) -> impl Iterator<Item = (usize, &Series<L, T>)> {
        self.slots
            .iter()
            .enumerate()
            .skip(start)
            .filter_map(|(index, slot)| slot.series.as_ref().map(|series| (index, series)))
    }

    /// Asks for what is at a place, which will be read.
    pub(crate) fn prefetch(&self, place: usize) {
        prefetch::value(self.slots.as_ptr().wrapping_add(place));
    }

    /// What is at a place, if anything.
    pub(crate) fn at(&self, place: usize) -> Option<&Series<L, T>> {
        self.slots.get(place)?.series.as_ref()
    }
}

fn hash_of<L: Hash, T>(slots: &[Slot<L, T>], hasher: &RandomState, index: u32) -> u64 {
    let series = slots[index as usize].series.as_ref();
    series.map_or(0, |series| hasher.hash_one(&series.labels))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_that_nothing_touches_goes_after_its_grace() {
        let mut table: Table<&str, u64> = Table::default();
        let old = table.open("a", 1, 10);
        let kept = table.open("b", 2, 10);
        let live = table.open("c", 3, 10);
        for now in 11..=12 {
            table.get_mut(live).unwrap().touch(now);
            table.retire(now, GRACE, |_| false, |_| panic!("too early"));
        }
        let mut gone = Vec::new();
        table.get_mut(live).unwrap().touch(13);
        table.retire(13, GRACE, |value| *value == 2, |value| gone.push(value));
        assert_eq!(gone, [1]);
        assert!(table.get_mut(old).is_none());
        assert!(table.get_mut(kept).is_some());
        let again = table.open("a", 9, 14);
        assert_ne!(again, old, "an old name does not find the new series in the same place");
        assert!(table.get_mut(old).is_none());
        assert_eq!(table.join(&"a"), Some(again));
        assert!(table.get_mut(again).unwrap().shared);
        assert_eq!(table.lend().from(0).map(|(_, s)| s.values).collect::<Vec<_>>(), [9, 2, 3]);
    }
}
