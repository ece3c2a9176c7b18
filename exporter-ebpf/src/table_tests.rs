//! The table in a vector: everybody finds a place, and keeps it.

extern crate std;

use std::cell::UnsafeCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::vec::Vec;

use super::*;
use crate::abi::{FlowKeyV4, FlowKeyV6, KNOWN, LAYOUT_VERSION};
use crate::random::Random;

/// Memory as the kernel's maps lend it.
struct Vectors {
    tags: Vec<UnsafeCell<Bucket>>,
    slots: Vec<UnsafeCell<StreamSlot>>,
    locks: Vec<AtomicU32>,
    seeds: [u64; SEEDS],
}

// SAFETY: threads do with it what processors do with the maps.
unsafe impl Sync for Vectors {}

impl Vectors {
    fn new(streams: u32, random: &mut Random) -> Self {
        let buckets = buckets(streams) as usize;
        let seed =
            |_| random.below(1 << 31) << 33 ^ random.below(1 << 31) << 13 ^ random.below(1 << 13);
        Self {
            tags: (0..buckets).map(|_| UnsafeCell::default()).collect(),
            slots: (0..buckets * WAYS).map(|_| UnsafeCell::default()).collect(),
            locks: (0..LOCKS).map(|_| AtomicU32::new(0)).collect(),
            seeds: core::array::from_fn(seed),
        }
    }

    fn insert(&self, key: &impl Key) -> Inserted {
        let value = StreamValue { flags: KNOWN, ..StreamValue::default() };
        // SAFETY: the vectors are a table.
        unsafe { insert(self, key, &value) }
    }

    /// The slot's number, whichever way it is looked for.
    fn find(&self, key: &impl Key) -> Option<u32> {
        // SAFETY: as above.
        let (found, quickly) = unsafe { (find(self, key), find_quickly(self, key)) };
        let start = self.slots.as_ptr().cast::<StreamSlot>();
        // SAFETY: both in one vector.
        let quickly = quickly.map(|slot| unsafe { slot.cast_const().offset_from(start) } as u32);
        assert!(quickly.is_none() || quickly == found, "{quickly:?} and {found:?}");
        found
    }

    /// As userspace gives up.
    fn remove(&self, number: u32) {
        let (bucket, way) = (number as usize / WAYS, number as usize % WAYS);
        // SAFETY: the tag, of which nobody else has a reference.
        unsafe { (*self.tags[bucket].get())[way] = FREE };
    }

    fn tags(&self) -> impl Iterator<Item = u32> {
        // SAFETY: nobody writes meanwhile.
        self.tags.iter().flat_map(|bucket| unsafe { *bucket.get() })
    }
}

impl Memory for Vectors {
    fn bucket(&self, number: u32) -> Option<*mut Bucket> {
        self.tags.get(number as usize).map(UnsafeCell::get)
    }

    fn slot(&self, number: u32) -> Option<*mut StreamSlot> {
        self.slots.get(number as usize).map(UnsafeCell::get)
    }

    fn buckets(&self) -> u32 {
        self.tags.len() as u32
    }

    fn seed(&self, number: usize) -> u64 {
        self.seeds[number]
    }
}

impl Shared for Vectors {
    fn lock(&self, number: u32) -> bool {
        while self.locks[number as usize].swap(1, Ordering::AcqRel) != 0 {
            std::thread::yield_now();
        }
        true
    }

    fn unlock(&self, number: u32) {
        self.locks[number as usize].store(0, Ordering::Release);
    }

    unsafe fn claim(&self, tag: *mut u32) -> bool {
        // SAFETY: the caller's.
        let tag = unsafe { AtomicU32::from_ptr(tag) };
        tag.compare_exchange(FREE, TAKEN, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    unsafe fn publish(&self, tag: *mut u32, value: u32) {
        // SAFETY: the caller's.
        unsafe { AtomicU32::from_ptr(tag) }.store(value, Ordering::Release);
    }
}

/// As SFUs have them: few local ports, each far end's streams numbered or at random.
fn key(number: u32, is_random: bool) -> StreamKeyV4 {
    let mut random = Random(u64::from(number) + 1);
    let flow = FlowKeyV4 {
        remote: (0xcb00_7100 + number / 5).to_be_bytes(),
        local: [192, 0, 2, 1],
        remote_port: if is_random { random.below(60_000) as u16 } else { 5000 },
        local_port: 40_000 + (number % 8) as u16,
        proto: 17,
        direction: (number % 2) as u8,
        pad: [0; 2],
    };
    StreamKeyV4 { flow, ssrc: if is_random { random.below(1 << 32) as u32 } else { number } }
}

#[test]
fn everybody_finds_a_place() {
    let mut random = Random(7);
    let mut check = |streams: u32, tables: u32| {
        for table in 0..tables {
            let memory = Vectors::new(streams, &mut random);
            for number in 0..streams {
                let key = key(number, table.is_multiple_of(2));
                let inserted = memory.insert(&key);
                assert!(
                    matches!(inserted, Inserted::New(_)),
                    "{number} of {streams}: {inserted:?}"
                );
            }
        }
    };
    for streams in [1, 2, 8, 20, 100] {
        check(streams, 200);
    }
    check(4_200, 40);
    // The default bounds.
    check(131_072, 2);
}

/// What is pinned was put in by an older build: places change with the layout's version only.
#[test]
fn places_stay_what_they_are() {
    let memory = Vectors::new(1_000, &mut Random(12));
    let wide = StreamKeyV6 { flow: FlowKeyV6 { remote: [7; 16], ..FlowKeyV6::default() }, ssrc: 9 };
    assert_eq!((LAYOUT_VERSION, memory.buckets()), (5, 225));
    let narrow = place(&memory, &key(5, false));
    assert_eq!(narrow, Place { first: 193, second: 210, tag: 2_569_749_618 });
    assert_eq!(place(&memory, &wide), Place { first: 88, second: 44, tag: 622889355 });
}

/// In a table that is always as full as it may be, one newcomer in 100,000 finds both buckets full.
#[test]
fn who_comes_when_another_goes_mostly_finds_a_place() {
    const STREAMS: u32 = 4_000;
    const NEWCOMERS: u32 = 400_000;
    let mut random = Random(13);
    let memory = Vectors::new(STREAMS, &mut random);
    let mut slots = Vec::new();
    let mut homeless = 0;
    for number in 0..STREAMS + NEWCOMERS {
        if slots.len() == STREAMS as usize {
            memory.remove(slots.swap_remove(random.below(u64::from(STREAMS)) as usize));
        }
        match memory.insert(&key(number, true)) {
            Inserted::New(slot) => slots.push(slot),
            inserted => {
                assert_eq!(inserted, Inserted::Failed);
                homeless += 1;
            }
        }
    }
    assert!(homeless <= NEWCOMERS / 10_000, "{homeless} of {NEWCOMERS}");
}

#[test]
fn who_is_in_is_found_and_nobody_else() {
    const MOST: u32 = 300;
    let mut random = Random(8);
    let memory = Vectors::new(MOST, &mut random);
    let mut model: HashMap<u32, u32> = HashMap::new();
    for _ in 0..100_000 {
        let number = random.below(2 * u64::from(MOST)) as u32;
        let key = key(number, number.is_multiple_of(3));
        let there = model.get(&number).copied();
        assert_eq!(memory.find(&key), there);
        match there {
            Some(slot) if random.below(2) == 0 => {
                memory.remove(slot);
                model.remove(&number);
            }
            Some(slot) => assert_eq!(memory.insert(&key), Inserted::Exists(slot)),
            None if model.len() < MOST as usize => {
                let Inserted::New(slot) = memory.insert(&key) else { panic!("no place") };
                assert!(model.values().all(|&other| other != slot));
                model.insert(number, slot);
            }
            None => {}
        }
    }
    assert_eq!(memory.tags().filter(|&tag| tag != FREE).count(), model.len());
}

#[test]
fn a_full_pair_of_buckets_has_no_place() {
    let mut random = Random(9);
    let mut memory = Vectors::new(1, &mut random);
    memory.tags.truncate(1);
    let inserted: Vec<_> =
        (0..WAYS as u32 + 1).map(|number| memory.insert(&key(number, true))).collect();
    assert_eq!(inserted[WAYS - 1], Inserted::New(WAYS as u32 - 1));
    assert_eq!(inserted[WAYS], Inserted::Failed);
    assert_eq!(memory.insert(&key(3, true)), Inserted::Exists(3));
    memory.remove(5);
    assert_eq!(memory.insert(&key(WAYS as u32, true)), Inserted::New(5));
}

#[test]
fn keys_with_one_tag_are_told_apart() {
    // Every key has the same place.
    let seeds = [0; SEEDS];
    let memory = Vectors { seeds, ..Vectors::new(1, &mut Random(10)) };
    let (one, other) = (key(1, false), key(2, false));
    let wide = StreamKeyV6 { flow: FlowKeyV6::default(), ssrc: 0 };
    let narrow = StreamKeyV4::default();
    assert_eq!(memory.insert(&one), Inserted::New(0));
    assert_eq!(memory.insert(&wide), Inserted::New(1));
    assert_eq!((memory.find(&other), memory.find(&narrow)), (None, None));
    assert_eq!(memory.insert(&other), Inserted::New(2));
    // A slot that another family had before.
    memory.remove(1);
    assert_eq!(memory.insert(&narrow), Inserted::New(1));
    assert_eq!((memory.find(&one), memory.find(&other)), (Some(0), Some(2)));
    assert_eq!((memory.find(&narrow), memory.find(&wide)), (Some(1), None));
}

#[test]
fn processors_agree_on_who_is_new() {
    const KEYS: u32 = 2_000;
    for round in 0..5 {
        let memory = Vectors::new(KEYS, &mut Random(11 + round));
        let insert = |reversed: bool| {
            let each = |number: u32| memory.insert(&key(number, true));
            let numbers = 0..KEYS;
            let inserted: Vec<_> = match reversed {
                false => numbers.map(each).collect(),
                true => numbers.rev().map(each).collect(),
            };
            inserted.into_iter().filter(|it| matches!(it, Inserted::New(_))).count()
        };
        let new: usize = std::thread::scope(|scope| {
            let threads =
                [false, false, true, true].map(|reversed| scope.spawn(move || insert(reversed)));
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!(new, KEYS as usize);
        assert_eq!(memory.tags().filter(|&tag| tag > TAKEN).count(), KEYS as usize);
        assert!((0..KEYS).all(|number| memory.find(&key(number, true)).is_some()));
    }
}
