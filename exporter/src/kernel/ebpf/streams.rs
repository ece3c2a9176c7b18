//! The kernel's table of streams ([`exporter_ebpf::table`]), read where it is.
//!
//! Descriptors come in, keys and values go out, with the numbers of their slots; what is given up is
//! chosen elsewhere.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use exporter_ebpf::abi::{StreamKeyV4, StreamKeyV6, StreamSlot, StreamValue};
use exporter_ebpf::table::{self, Key as _, WAYS};

use super::keys::Family;
use super::mapping::{Access, Mapping};
use crate::prefetch::{self, AHEAD};

/// The mapped tables `TAGS` and `STREAMS`.
pub(super) struct Streams {
    tags: Mapping<[AtomicU32; WAYS]>,
    slots: Mapping<StreamSlot>,
}

impl Streams {
    /// Maps tables that have room for so many streams.
    pub(super) fn new(
        tags: BorrowedFd<'_>,
        slots: BorrowedFd<'_>,
        streams: u32,
    ) -> io::Result<Self> {
        let buckets = table::buckets(streams) as usize;
        let tags = Mapping::new(tags, buckets, Access::Write)?;
        let slots = Mapping::new(slots, buckets * WAYS, Access::Read)?;
        Ok(Self { tags, slots })
    }

    /// The numbers of the slots that have a stream, in their order.
    pub(super) fn numbers(&self, into: &mut Vec<u32>) {
        into.clear();
        into.extend(self.tagged(|tag| tag > table::TAKEN));
    }

    /// The numbers of the slots that are hidden; or being filled, which takes less than a microsecond.
    pub(super) fn hidden(&self) -> Vec<u32> {
        self.tagged(|tag| tag == table::TAKEN).collect()
    }

    /// Calls `each` with what is in these slots.
    pub(super) fn read(&self, numbers: &[u32], mut each: impl FnMut(Key, &StreamValue)) {
        for (at, &number) in numbers.iter().enumerate() {
            if let Some(&ahead) = numbers.get(at + AHEAD) {
                prefetch::value(self.slots.at(ahead as usize).cast_const());
            }
            let slot = self.slot(number);
            each(key(&slot), &slot.value);
        }
    }

    /// Hides a stream: no packet finds it any more, but some may have found it before.
    pub(super) fn hide(&self, number: u32) {
        self.tag(number).store(table::TAKEN, Ordering::Release);
    }

    /// What was counted in a slot that is hidden, and that no packet can be on its way to any more. It
    /// is free from now on. `None`: it is not hidden.
    pub(super) fn take(&self, number: u32) -> Option<(Key, StreamValue)> {
        let tag = self.tag(number);
        if tag.load(Ordering::Acquire) != table::TAKEN {
            return None;
        }
        let slot = self.slot(number);
        tag.store(table::FREE, Ordering::Release);
        Some((key(&slot), slot.value))
    }

    fn tagged(&self, want: impl Fn(u32) -> bool) -> impl Iterator<Item = u32> {
        let slots = 0..(self.tags.count() * WAYS) as u32;
        slots.filter(move |&number| want(self.tag(number).load(Ordering::Acquire)))
    }

    fn tag(&self, number: u32) -> &AtomicU32 {
        let (bucket, way) = (number as usize / WAYS, number as usize % WAYS);
        // SAFETY: mapped as long as `self` lives, and only accessed atomically.
        unsafe { &(*self.tags.at(bucket))[way] }
    }

    /// All of a slot at one moment, if a processor that is writing to it can be waited for.
    fn slot(&self, number: u32) -> StreamSlot {
        /// Times that it is looked at: more than one is rare, and a packet takes some ten nanoseconds.
        const TRIES: u32 = 64;
        let at = self.slots.at(number as usize).cast_const();
        for _ in 1..TRIES {
            let packets = self.packets(at);
            let is_written = self.is_locked(at);
            let slot = self.words(at);
            // Nobody was writing when the words were first read, nobody when they were last, and whoever
            // wrote between has counted a packet.
            if !is_written && !self.is_locked(at) && self.packets(at) == packets {
                return slot;
            }
            std::hint::spin_loop();
        }
        // Its writer was stopped by the machine that this one is a guest of, or packets come without a
        // pause: words of two moments, each of which is right.
        self.words(at)
    }

    fn is_locked(&self, at: *const StreamSlot) -> bool {
        // SAFETY: mapped and aligned.
        let is_locked = unsafe { (&raw const (*at).value.lock).read_volatile() } != 0;
        fence(Ordering::Acquire);
        is_locked
    }

    fn packets(&self, at: *const StreamSlot) -> u64 {
        // SAFETY: as above.
        let packets = unsafe { (&raw const (*at).value.total.packets).read_volatile() };
        fence(Ordering::Acquire);
        packets
    }

    /// Word by word, because the kernel writes meanwhile.
    fn words(&self, at: *const StreamSlot) -> StreamSlot {
        const WORDS: usize = size_of::<StreamSlot>() / 8;
        let from = at.cast::<u64>();
        // SAFETY: the slot is mapped and aligned, is so many words long, and any words make one.
        unsafe {
            let words: [u64; WORDS] = std::array::from_fn(|word| from.add(word).read_volatile());
            fence(Ordering::Acquire);
            std::mem::transmute(words)
        }
    }
}

/// A stream's key of either family.
pub(super) type Key = Family<StreamKeyV4, StreamKeyV6>;

fn key(slot: &StreamSlot) -> Key {
    let words = (&raw const slot.key).cast::<u32>();
    // SAFETY: the room for a key is as long as the longer one; integers, and any bits make one.
    unsafe {
        match slot.family {
            StreamKeyV4::FAMILY => Family::V4(words.cast::<StreamKeyV4>().read()),
            _ => Family::V6(words.cast::<StreamKeyV6>().read()),
        }
    }
}
