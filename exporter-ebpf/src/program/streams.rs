//! The table of streams ([`exporter_ebpf::table`]) in maps of the kernel, and those maps.

use core::arch::asm;

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use exporter_ebpf::abi::{KNOWN, StreamKeyV4, StreamKeyV6, StreamSlot, StreamValue};
use exporter_ebpf::rtp::NO_SEQUENCE;
use exporter_ebpf::table::{self, Bucket, Inserted, Key, Memory, Shared};

use super::atomic::{claim, publish, try_lock, unlock};
/// How many buckets there are, and what the hash is keyed with.
#[unsafe(no_mangle)]
static BUCKETS: Global<u32> = Global::new(1);
#[unsafe(no_mangle)]
static SEEDS: Global<[u64; table::SEEDS]> = Global::new([1; table::SEEDS]);

// The sizes are placeholders: userspace sets them. It maps tags and slots, and reads streams there.
#[map]
static TAGS: Array<Bucket> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static STREAMS: Array<StreamSlot> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
static LOCKS: Array<u32> = Array::with_max_entries(table::LOCKS, 0);

/// The maps.
struct Maps;

impl Memory for Maps {
    #[inline(always)]
    fn bucket(&self, number: u32) -> Option<*mut Bucket> {
        TAGS.get_ptr_mut(number)
    }

    #[inline(always)]
    fn slot(&self, number: u32) -> Option<*mut StreamSlot> {
        STREAMS.get_ptr_mut(number)
    }

    #[inline(always)]
    fn buckets(&self) -> u32 {
        BUCKETS.load()
    }

    #[inline(always)]
    fn seed(&self, number: usize) -> u64 {
        let seeds = (&raw const SEEDS).cast::<u64>();
        // SAFETY: callers stay within the seeds. Volatile, because userspace sets them.
        unsafe { seeds.add(number).read_volatile() }
    }

    #[inline(always)]
    fn forget(&self, number: u32, unknown: u32) -> u32 {
        let mut number = u64::from(number);
        // SAFETY: what is done is undone.
        unsafe {
            asm!("{0} ^= {1}", "{0} ^= {1}", inout(reg) number, in(reg) u64::from(unknown));
        }
        number as u32
    }
}

/// Tries before a packet gives up: hundreds of times as long as the lock is held, unless the machine
/// that this one is a guest of stopped its holder.
const TRIES: u32 = 128;

impl Shared for Maps {
    #[inline(always)]
    fn lock(&self, number: u32) -> bool {
        let Some(lock) = LOCKS.get_ptr_mut(number) else { return false };
        for _ in 0..TRIES {
            // SAFETY: the map's value.
            if unsafe { try_lock(lock) } {
                return true;
            }
        }
        false
    }

    #[inline(always)]
    fn unlock(&self, number: u32) {
        if let Some(lock) = LOCKS.get_ptr_mut(number) {
            // SAFETY: the map's value.
            unsafe { unlock(lock) };
        }
    }

    #[inline(always)]
    unsafe fn claim(&self, tag: *mut u32) -> bool {
        // SAFETY: the caller's.
        unsafe { claim(tag) }
    }

    #[inline(always)]
    unsafe fn publish(&self, tag: *mut u32, value: u32) {
        // SAFETY: the caller's.
        unsafe { publish(tag, value) };
    }
}

/// The stream of almost every key that has one.
#[inline(always)]
pub fn find_quickly<K: Key>(key: &K) -> Option<*mut StreamValue> {
    // SAFETY: the maps are a table.
    unsafe { table::find_quickly(&Maps, key) }.map(value)
}

/// The stream of a key.
#[inline(always)]
pub fn at(number: u32) -> Option<*mut StreamValue> {
    Maps.slot(number).map(value)
}

#[inline(always)]
fn value(slot: *mut StreamSlot) -> *mut StreamValue {
    slot.cast()
}

/// No slot's number.
pub const NOWHERE: u32 = u32::MAX;
/// Set in what [`Entrances::insert`] answers when the stream is new.
pub const IS_NEW: u64 = 1 << 32;

/// Streams begin as one of these.
static STRANGER: StreamValue = empty(0);
static KNOWN_ONE: StreamValue = empty(KNOWN);

const fn empty(flags: u32) -> StreamValue {
    // SAFETY: integers only.
    let zero: StreamValue = unsafe { core::mem::zeroed() };
    StreamValue { flags, bad_seq: NO_SEQUENCE, ..zero }
}

#[inline(always)]
fn find<K: Key>(key: &K) -> u32 {
    // SAFETY: the maps are a table.
    unsafe { table::find(&Maps, key) }.unwrap_or(NOWHERE)
}

#[inline(always)]
fn insert<K: Key>(key: &K, is_known: u32) -> u64 {
    let value = if is_known != 0 { &KNOWN_ONE } else { &STRANGER };
    // SAFETY: as above.
    match unsafe { table::insert(&Maps, key, value) } {
        Inserted::New(number) => IS_NEW | number as u64,
        Inserted::Exists(number) => number as u64,
        Inserted::Failed => NOWHERE as u64,
    }
}

/// As functions that other objects could call, too: those the verifier goes through once, knowing nothing
/// of their arguments, instead of once for each way that leads to them (Linux 5.13 for pointers to
/// structures). It wants the pointer tested, and a number for an answer.
macro_rules! entrances {
    ($key:ty, $find:ident, $insert:ident) => {
        #[inline(never)]
        #[unsafe(no_mangle)]
        pub extern "C" fn $find(key: *const $key) -> u32 {
            // SAFETY: null, or the caller's key.
            unsafe { key.as_ref() }.map_or(NOWHERE, find)
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        pub extern "C" fn $insert(key: *const $key, is_known: u32) -> u64 {
            // SAFETY: as above.
            unsafe { key.as_ref() }.map_or(NOWHERE as u64, |key| insert(key, is_known))
        }

        impl Entrances for $key {
            #[inline(always)]
            fn find(&self) -> u32 {
                $find(self)
            }

            #[inline(always)]
            fn insert(&self, is_known: bool) -> u64 {
                $insert(self, is_known as u32)
            }
        }
    };
}

/// A key that the table is asked for.
pub trait Entrances: Key {
    /// The number of its slot, or [`NOWHERE`].
    fn find(&self) -> u32;
    /// The number of its slot, which is made if there is none, with [`IS_NEW`] then; or [`NOWHERE`].
    fn insert(&self, is_known: bool) -> u64;
}

entrances!(StreamKeyV4, find_stream_v4, insert_stream_v4);
entrances!(StreamKeyV6, find_stream_v6, insert_stream_v6);
