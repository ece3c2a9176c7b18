//! The kernel's table of streams ([`exporter_ebpf::table`]), read where it is.
//!
//! Descriptors come in, keys and values go out, with the numbers of their slots; what is given up is
//! chosen elsewhere.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use exporter_ebpf::abi::{StreamKeyV4, StreamKeyV6, StreamSlot, StreamValue};
use exporter_ebpf::table::{self, Key as _, WAYS};

use super::keys::Family;
use super::mapping::{Access, Mapping};
use super::sys;
use crate::prefetch::{self, AHEAD};

/// The mapped tables `TAGS` and `STREAMS`.
pub(super) struct Streams {
    tags: Mapping<AtomicU32>,
    slots: Mapping<StreamSlot>,
}

impl Streams {
    /// Maps tables that have room for so many streams. What an exporter that died had begun to give
    /// up is free afterwards.
    pub(super) fn new(
        tags: BorrowedFd<'_>,
        slots: BorrowedFd<'_>,
        streams: u32,
    ) -> io::Result<Self> {
        let count = table::buckets(streams) as usize * WAYS;
        let tags = Mapping::new(tags, count, Access::Write)?;
        let slots = Mapping::new(slots, count, Access::Read)?;
        let streams = Self { tags, slots };
        streams.free_leftovers();
        Ok(streams)
    }

    /// The numbers of the slots that have a stream, in their order.
    pub(super) fn numbers(&self, into: &mut Vec<u32>) {
        into.clear();
        let taken = |number: &usize| self.tag(*number).load(Ordering::Acquire) > table::TAKEN;
        into.extend((0..self.tags.count()).filter(taken).map(|number| number as u32));
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

    /// Lets go of streams: no packet finds them any more.
    pub(super) fn give_up(&self, numbers: impl Iterator<Item = u32>) {
        for number in numbers {
            self.tag(number as usize).store(table::TAKEN, Ordering::Release);
        }
        // Packets that found them before.
        sys::wait_for_programs();
    }

    /// What was counted in a slot that was given up, which is free from now on.
    pub(super) fn take(&self, number: u32) -> StreamValue {
        let value = self.slot(number).value;
        self.tag(number as usize).store(table::FREE, Ordering::Release);
        value
    }

    /// A tag that stays taken is nobody's: the kernel fills a slot in less than a microsecond.
    fn free_leftovers(&self) {
        let is_taken = |number: &usize| self.tag(*number).load(Ordering::Acquire) == table::TAKEN;
        let taken: Vec<usize> = (0..self.tags.count()).filter(is_taken).collect();
        if taken.is_empty() {
            return;
        }
        sys::wait_for_programs();
        for number in taken.into_iter().filter(is_taken) {
            self.tag(number).store(table::FREE, Ordering::Release);
        }
    }

    fn tag(&self, number: usize) -> &AtomicU32 {
        // SAFETY: mapped as long as `self` lives, and only accessed atomically.
        unsafe { &*self.tags.at(number) }
    }

    /// Word by word, because the kernel writes meanwhile.
    fn slot(&self, number: u32) -> StreamSlot {
        const WORDS: usize = size_of::<StreamSlot>() / 8;
        let from = self.slots.at(number as usize).cast::<u64>().cast_const();
        // SAFETY: the slot is mapped and aligned, is so many words long, and any words make one.
        unsafe {
            let words: [u64; WORDS] = std::array::from_fn(|word| from.add(word).read_volatile());
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
