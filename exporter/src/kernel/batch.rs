//! Reads a whole table in few system calls: batch look-ups where the kernel has them (Linux 5.6), one
//! key after the other elsewhere.
//!
//! Buffers live from reading to reading and are bounded; what the elements mean is not known here.

use std::io;
use std::os::fd::BorrowedFd;

use super::sys::{self, Plain};

/// Elements asked for at once: large enough that system calls do not matter, small enough for the
/// cache (4,096 streams are 660 kB).
const START: usize = 4096;
/// A bucket with more elements than this is not believed.
const LIMIT: usize = 1 << 20;

/// Buffers for one kind of table.
pub(super) struct Reader<K, V> {
    keys: Vec<K>,
    values: Vec<V>,
    batches: bool,
}

impl<K: Plain, V: Plain> Reader<K, V> {
    pub(super) fn new() -> Self {
        Self { keys: Vec::new(), values: Vec::new(), batches: true }
    }

    /// Calls `each` for every element of `map`, at most `most` of them.
    pub(super) fn read(
        &mut self,
        map: BorrowedFd<'_>,
        most: usize,
        mut each: impl FnMut(&K, &V),
    ) -> io::Result<()> {
        if self.batches {
            match self.read_batches(map, most, &mut each) {
                Err(Failed { error, nothing_read: true }) if sys::unsupported(&error) => {
                    self.batches = false;
                }
                result => return result.map_err(|failed| failed.error),
            }
        }
        read_singly(map, most, each)
    }

    fn read_batches(
        &mut self,
        map: BorrowedFd<'_>,
        most: usize,
        each: &mut impl FnMut(&K, &V),
    ) -> Result<(), Failed> {
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
                Err(error) => return Err(Failed { error, nothing_read: read == 0 }),
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

struct Failed {
    error: io::Error,
    nothing_read: bool,
}

fn read_singly<K: Plain, V: Plain>(
    map: BorrowedFd<'_>,
    most: usize,
    mut each: impl FnMut(&K, &V),
) -> io::Result<()> {
    let mut key = sys::next_key::<K>(map, None)?;
    let mut value = [V::default()];
    for _ in 0..most {
        let Some(current) = key else { break };
        if sys::look_up(map, &current, &mut value)? {
            each(&current, &value[0]);
        }
        key = sys::next_key(map, Some(&current))?;
    }
    Ok(())
}
