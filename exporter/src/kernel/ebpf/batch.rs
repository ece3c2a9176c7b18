//! Reads a whole hash map in few system calls (batch look-ups, Linux 5.6).
//!
//! Buffers live from reading to reading and are bounded; what the elements mean is not known here.

use std::io;
use std::os::fd::BorrowedFd;

use super::sys::{self, Plain};

/// Elements asked for at once: large enough that system calls do not matter, small enough for the
/// cache (4,096 flows are 790 kB).
const START: usize = 4096;
/// A bucket with more elements than this is not believed.
const LIMIT: usize = 1 << 20;

/// Buffers for one kind of table.
pub(super) struct Reader<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
}

impl<K: Plain, V: Plain> Reader<K, V> {
    pub(super) fn new() -> Self {
        Self { keys: Vec::new(), values: Vec::new() }
    }

    /// Calls `each` for every element of `map`, at most `most` of them.
    pub(super) fn read(
        &mut self,
        map: BorrowedFd<'_>,
        most: usize,
        mut each: impl FnMut(&K, &V),
    ) -> io::Result<()> {
        self.grow(START.min(most.max(1)));
        let mut position = None;
        let mut read = 0;
        loop {
            let page = sys::look_up_batch(map, &mut position, &mut self.keys, &mut self.values);
            let page = match page {
                Ok(page) => page,
                // One bucket holds more than the buffer: nothing was written, ask again with more.
                Err(error)
                    if error.raw_os_error() == Some(libc::ENOSPC) && self.keys.len() < LIMIT =>
                {
                    self.grow(self.keys.len() * 2);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let count = page.count.min(most - read);
            for (key, value) in self.keys[..count].iter().zip(&self.values) {
                each(key, value);
            }
            read += count;
            if page.last || read >= most {
                return Ok(());
            }
        }
    }

    fn grow(&mut self, to: usize) {
        if self.keys.len() < to {
            self.keys.resize(to, K::default());
            self.values.resize(to, V::default());
        }
    }
}
