//! The table of streams: open addressing in two arrays, so that a packet's way to its stream is short
//! and userspace reads all streams one after the other, in memory that it shares.
//!
//! - `TAGS` has a bucket of [`WAYS`] words for every [`WAYS`] slots: 0 for a free slot, 1 for one that is
//!   being filled or given up, else some bits of the key's hash.
//! - `STREAMS` has the slots, in the same order: a key and what was counted for it.
//!
//! A key has two buckets, and the fuller they are, the more evenly both are used; what does not fit into
//! either has no place. The hash is keyed with random numbers, so that nobody can choose addresses, ports
//! and SSRCs that meet in one bucket.
//!
//! Only the kernel puts streams in, one processor at a time for each lock. Only userspace gives them up:
//! it marks the tag, waits until no packet can still be on its way to the slot, and frees the tag. So a
//! slot never has another key while somebody may write to it.
//!
//! Everything here works on memory that a [`Memory`] lends: maps in the kernel, vectors in tests.

use crate::abi::{StreamKeyV4, StreamKeyV6, StreamSlot, StreamValue};

/// Slots of a bucket.
pub const WAYS: usize = 8;
/// The tags of a bucket.
pub type Bucket = [u32; WAYS];

/// A free slot's tag.
pub const FREE: u32 = 0;
/// The tag of a slot that is being filled or given up.
pub const TAKEN: u32 = 1;

/// Numbers that key the hash: one, and one for each word of the longest key.
pub const SEEDS: usize = 1 + StreamKeyV6::WORDS;
/// Locks for putting streams in, by the key's first bucket. A power of two.
pub const LOCKS: u32 = 1024;

/// A key's first bucket is taken while it has more free ways than this, however many the second has: nine
/// look-ups in ten then end in the first, and yet both are full for nobody.
const SPARE: u32 = 3;

/// Buckets for so many streams: of five ways two stay free, and some more for a small table, whose buckets
/// are filled less evenly. So everybody finds a place in a table that fills up; in one that stays full while
/// streams come and go, one newcomer in 100,000 does not (tests show both).
pub const fn buckets(streams: u32) -> u32 {
    let slots = streams as u64 * 5 / 3;
    slots.div_ceil(WAYS as u64) as u32 + 16
}

/// The table's memory. Numbers of buckets and slots that are too large have none.
pub trait Memory {
    /// The tags of a bucket.
    fn bucket(&self, number: u32) -> Option<*mut Bucket>;
    /// A slot: bucket · [`WAYS`] + way.
    fn slot(&self, number: u32) -> Option<*mut StreamSlot>;
    /// Buckets.
    fn buckets(&self) -> u32;
    /// One of the [`SEEDS`].
    fn seed(&self, number: usize) -> u64;
    /// The number itself. The kernel's verifier forgets what it knew of it, so that it follows the ways
    /// that lead here once and not for each number; of `unknown` it must know nothing.
    #[inline(always)]
    fn forget(&self, number: u32, _unknown: u32) -> u32 {
        number
    }
}

/// A table that streams can be put into.
pub trait Shared: Memory {
    /// Takes a lock, or gives up.
    fn lock(&self, number: u32) -> bool;
    /// Frees a lock that was taken.
    fn unlock(&self, number: u32);
    /// Changes a free tag to [`TAKEN`], atomically, unless somebody else was faster.
    ///
    /// # Safety
    /// `tag` is one of a bucket's.
    unsafe fn claim(&self, tag: *mut u32) -> bool;
    /// Writes a tag after everything that was written before.
    ///
    /// # Safety
    /// As [`Shared::claim`].
    unsafe fn publish(&self, tag: *mut u32, value: u32);
}

/// A stream's key, as words.
pub trait Key: Copy {
    /// How many words it has.
    const WORDS: usize;
    /// 4 or 6; keys of different families are different whatever their words are.
    const FAMILY: u32;

    /// One of its words.
    fn word(&self, at: usize) -> u32;
}

macro_rules! key {
    ($key:ty, $family:literal) => {
        impl Key for $key {
            const WORDS: usize = size_of::<Self>() / 4;
            const FAMILY: u32 = $family;

            #[inline(always)]
            fn word(&self, at: usize) -> u32 {
                debug_assert!(at < Self::WORDS);
                // SAFETY: a key is words without padding, and callers stay within it.
                unsafe { core::ptr::from_ref(self).cast::<u32>().add(at).read() }
            }
        }
    };
}

key!(StreamKeyV4, 4);
key!(StreamKeyV6, 6);

/// Where a key may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    first: u32,
    second: u32,
    tag: u32,
}

/// Multilinear hashing (Lemire and Kaser, "Strongly universal string hashing is fast", 2014): for two
/// different keys, the upper halves of the sums are the same for one choice of the seeds in 2^32. A sum
/// keeps the pattern of keys that follow each other, which one more multiplication breaks.
#[inline(always)]
fn place<K: Key>(memory: &impl Memory, key: &K) -> Place {
    let mut sum = memory.seed(0);
    for at in 0..K::WORDS {
        sum = sum.wrapping_add(memory.seed(1 + at).wrapping_mul(key.word(at) as u64));
    }
    // The odd number of MurmurHash3's finalizer.
    let mixed = (sum ^ sum >> 32).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let (upper, buckets) = ((mixed >> 32) as u32, memory.buckets());
    Place {
        first: scale(upper, buckets),
        second: scale(upper.rotate_left(16), buckets),
        // Neither FREE nor TAKEN.
        tag: mixed as u32 | 2,
    }
}

/// A number below `bound`, evenly.
#[inline(always)]
fn scale(number: u32, bound: u32) -> u32 {
    ((number as u64 * bound as u64) >> 32) as u32
}

/// The stream of a key, unless another key with the same tag stands before it: then, and if it is not
/// there, `None`.
///
/// # Safety
/// What `memory` lends is a table's.
#[inline(always)]
pub unsafe fn find_quickly<K: Key>(memory: &impl Memory, key: &K) -> Option<*mut StreamSlot> {
    let place = place(memory, key);
    // SAFETY: the caller's.
    unsafe {
        let mut number = first_with(memory, place.first, place.tag);
        if number == NOWHERE {
            number = first_with(memory, place.second, place.tag);
        }
        let slot = memory.slot(memory.forget(number, place.tag))?;
        is(slot, key).then_some(slot)
    }
}

/// No slot's number.
const NOWHERE: u32 = u32::MAX;

#[inline(always)]
unsafe fn first_with(memory: &impl Memory, number: u32, tag: u32) -> u32 {
    let Some(bucket) = memory.bucket(number) else { return NOWHERE };
    for way in 0..WAYS {
        // SAFETY: the caller's, and the way is within the bucket.
        if unsafe { (&raw const (*bucket)[way]).read_volatile() } == tag {
            return number * WAYS as u32 + way as u32;
        }
    }
    NOWHERE
}

/// The number of a key's slot.
///
/// # Safety
/// As [`find_quickly`].
#[inline(always)]
pub unsafe fn find<K: Key>(memory: &impl Memory, key: &K) -> Option<u32> {
    // SAFETY: the caller's.
    unsafe { find_at(memory, key, place(memory, key)) }
}

#[inline(always)]
unsafe fn find_at<K: Key>(memory: &impl Memory, key: &K, place: Place) -> Option<u32> {
    // One loop for both buckets, which the compiler does not unroll: it is seldom run.
    let mut at = 0;
    while at < 2 * WAYS {
        let number = if at < WAYS { place.first } else { place.second };
        let bucket = memory.bucket(number)?;
        let way = at % WAYS;
        // SAFETY: the caller's, and the way is within the bucket.
        unsafe {
            if (&raw const (*bucket)[way]).read_volatile() == place.tag {
                let number = memory.forget(number * WAYS as u32 + way as u32, place.tag);
                if is(memory.slot(number)?, key) {
                    return Some(number);
                }
            }
        }
        at += 1;
    }
    None
}

/// Whether the slot is this key's.
#[inline(always)]
unsafe fn is<K: Key>(slot: *const StreamSlot, key: &K) -> bool {
    // SAFETY: the caller's; a key is no longer than its room.
    unsafe {
        let mut difference = (*slot).family ^ K::FAMILY;
        for at in 0..K::WORDS {
            difference |= (*slot).key[at] ^ key.word(at);
        }
        difference == 0
    }
}

/// How putting a stream in ended: with the number of its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It is new.
    New(u32),
    /// Another processor was faster.
    Exists(u32),
    /// There is no place, or others hold the lock for too long.
    Failed,
}

/// Puts a stream in that begins as `value`, if there is none.
///
/// # Safety
/// As [`find_quickly`].
#[inline(always)]
pub unsafe fn insert<K: Key>(memory: &impl Shared, key: &K, value: &StreamValue) -> Inserted {
    let place = place(memory, key);
    let lock = place.first & (LOCKS - 1);
    if !memory.lock(lock) {
        return Inserted::Failed;
    }
    // SAFETY: the caller's.
    let inserted = unsafe {
        match find_at(memory, key, place) {
            Some(number) => Inserted::Exists(number),
            None => insert_new(memory, key, value, place),
        }
    };
    memory.unlock(lock);
    inserted
}

#[inline(always)]
unsafe fn insert_new<K: Key>(
    memory: &impl Shared,
    key: &K,
    value: &StreamValue,
    place: Place,
) -> Inserted {
    // SAFETY: the caller's.
    let (first, second) =
        unsafe { (free(memory, place.first, place.tag), free(memory, place.second, place.tag)) };
    let goes_first = first > SPARE || first >= second;
    let [preferred, other] =
        if goes_first { [place.first, place.second] } else { [place.second, place.first] };
    let mut at = 0;
    while at < 2 * WAYS {
        let number = if at < WAYS { preferred } else { other };
        let Some(bucket) = memory.bucket(number) else { return Inserted::Failed };
        let way = at % WAYS;
        // SAFETY: the caller's, and the way is within the bucket. Who claims a tag owns its slot
        // until it publishes the tag.
        unsafe {
            let tag = &raw mut (*bucket)[way];
            if tag.read_volatile() == FREE && memory.claim(tag) {
                let number = memory.forget(number * WAYS as u32 + way as u32, place.tag);
                let Some(slot) = memory.slot(number) else {
                    return Inserted::Failed;
                };
                fill(slot, key, value);
                memory.publish(tag, place.tag);
                return Inserted::New(number);
            }
        }
        at += 1;
    }
    Inserted::Failed
}

#[inline(always)]
unsafe fn free(memory: &impl Memory, number: u32, unknown: u32) -> u32 {
    let Some(bucket) = memory.bucket(number) else { return 0 };
    let mut free = 0;
    for way in 0..WAYS {
        // SAFETY: the caller's, and the way is within the bucket.
        free += (unsafe { (&raw const (*bucket)[way]).read_volatile() } == FREE) as u32;
        free = memory.forget(free, unknown);
    }
    free
}

#[inline(always)]
unsafe fn fill<K: Key>(slot: *mut StreamSlot, key: &K, value: &StreamValue) {
    // SAFETY: the caller's; a key is no longer than its room.
    unsafe {
        (&raw mut (*slot).value).write(*value);
        for at in 0..K::WORDS {
            (&raw mut (*slot).key[at]).write(key.word(at));
        }
        (&raw mut (*slot).family).write(K::FAMILY);
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
