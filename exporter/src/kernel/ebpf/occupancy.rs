//! The cells that admission works on, shared with the kernel as memory.
//!
//! The kernel adds to a cell when it inserts, userspace subtracts when it deletes: both atomically
//! on the same word, which an update through the system call could not do.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use exporter_ebpf::abi::{OCCUPANCIES, Occupancy};

use super::mapping::{Access, Mapping};

/// The mapped table `OCCUPANCY`.
pub(super) struct Occupied(Mapping<AtomicU64>);

impl Occupied {
    pub(super) fn new(map: BorrowedFd<'_>) -> io::Result<Self> {
        Mapping::new(map, OCCUPANCIES, Access::Write).map(Self)
    }

    /// Entries now.
    pub(super) fn get(&self, cell: Occupancy) -> u64 {
        self.cell(cell).load(Ordering::Relaxed)
    }

    /// One entry was deleted.
    pub(super) fn give_back(&self, cell: Occupancy) {
        self.cell(cell).fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes off what no entry accounts for.
    pub(super) fn take_off(&self, cell: Occupancy, surplus: u64) {
        self.cell(cell).fetch_sub(surplus, Ordering::Relaxed);
    }

    fn cell(&self, cell: Occupancy) -> &AtomicU64 {
        // SAFETY: mapped as long as `self` lives, and only accessed atomically.
        unsafe { &*self.0.at(cell as usize) }
    }
}

/// Readings after which a surplus that each of them saw is believed.
const READINGS: u32 = 16;

/// Looks for room that nobody occupies.
///
/// An entry that changes from stranger to known in the very moment in which it is deleted, or an
/// exporter that dies between deleting and giving back, leaves a cell too high. What packets in
/// flight add passes; a surplus that stays over many readings does not.
#[derive(Debug, Default)]
pub(super) struct Surplus {
    least: [u64; OCCUPANCIES],
    readings: u32,
}

impl Surplus {
    /// Takes what the cells say and what a reading counted; from time to time hands back by how much
    /// each cell is too high.
    pub(super) fn compare(
        &mut self,
        cells: [u64; OCCUPANCIES],
        counted: [u64; OCCUPANCIES],
    ) -> Option<[u64; OCCUPANCIES]> {
        for ((least, cell), counted) in self.least.iter_mut().zip(cells).zip(counted) {
            let surplus = cell.saturating_sub(counted);
            *least = if self.readings == 0 { surplus } else { surplus.min(*least) };
        }
        self.readings += 1;
        if self.readings < READINGS {
            return None;
        }
        self.readings = 0;
        Some(self.least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_surplus_that_stays_is_believed() {
        let mut surplus = Surplus::default();
        for reading in 1..READINGS {
            // The first cell is always 2 too high, the second sometimes, the third too low.
            let cells = [7, 5 + u64::from(reading % 3), 1, 0];
            assert_eq!(surplus.compare(cells, [5, 5, 3, 0]), None);
        }
        assert_eq!(surplus.compare([8, 5, 1, 0], [5, 5, 3, 0]), Some([2, 0, 0, 0]));
        assert_eq!(surplus.compare([5, 5, 1, 0], [5, 5, 3, 0]), None);
    }
}
