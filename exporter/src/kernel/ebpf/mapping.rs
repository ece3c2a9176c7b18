//! A table's values as memory that is shared with the kernel (BPF_F_MMAPABLE, Linux 5.5).
//!
//! Both sides write whole words, atomically where both write the same word.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};

use memmap2::{MmapOptions, MmapRaw};

/// The values of an array map from the first on, which are as long as `T` (a multiple of eight bytes).
pub(super) struct Mapping<T> {
    memory: MmapRaw,
    count: usize,
    values: PhantomData<T>,
}

/// What is done with a table's memory.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Write,
}

impl<T> Mapping<T> {
    /// Maps so many values of a map that has at least as many.
    pub(super) fn new(map: BorrowedFd<'_>, count: usize, access: Access) -> io::Result<Self> {
        let mut options = MmapOptions::new();
        options.len(count * size_of::<T>());
        let memory = match access {
            Access::Read => options.map_raw_read_only(map.as_raw_fd()),
            Access::Write => options.map_raw(map.as_raw_fd()),
        }?;
        Ok(Self { memory, count, values: PhantomData })
    }

    /// How many.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Where a value is, which stays mapped as long as `self` lives.
    ///
    /// # Panics
    /// There is no such value.
    pub(super) fn at(&self, index: usize) -> *mut T {
        assert!(index < self.count, "value {index} of {}", self.count);
        // SAFETY: within the mapping.
        unsafe { self.memory.as_mut_ptr().cast::<T>().add(index) }
    }
}
