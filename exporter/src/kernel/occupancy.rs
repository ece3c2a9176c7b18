//! The cells that admission works on, shared with the kernel as memory.
//!
//! The kernel adds to a cell when it inserts, userspace subtracts when it deletes: both atomically
//! on the same word, which an update through the system call could not do.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use exporter_ebpf::abi::{OCCUPANCIES, Occupancy};

/// The mapped table `OCCUPANCY` (BPF_F_MMAPABLE, Linux 5.5).
pub(super) struct Occupied {
    cells: NonNull<[AtomicU64; OCCUPANCIES]>,
}

// SAFETY: the cells are atomics, shared with the kernel anyway.
unsafe impl Send for Occupied {}

const LENGTH: usize = size_of::<[AtomicU64; OCCUPANCIES]>();

impl Occupied {
    pub(super) fn new(map: BorrowedFd<'_>) -> io::Result<Self> {
        // SAFETY: a new shared mapping at an address of the kernel's choice; it is unmapped in
        // drop only, and the table has OCCUPANCIES cells of eight bytes from its start on.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                LENGTH,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let cells = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { cells })
    }

    /// Entries now.
    pub(super) fn get(&self, cell: Occupancy) -> u64 {
        self.cell(cell).load(Ordering::Relaxed)
    }

    /// One entry was deleted.
    pub(super) fn give_back(&self, cell: Occupancy) {
        self.cell(cell).fetch_sub(1, Ordering::Relaxed);
    }

    fn cell(&self, cell: Occupancy) -> &AtomicU64 {
        // SAFETY: mapped as long as `self` lives, aligned to a page, and only accessed atomically.
        let cells = unsafe { self.cells.as_ref() };
        &cells[cell as usize]
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`; no reference outlives `self`.
        unsafe { libc::munmap(self.cells.as_ptr().cast(), LENGTH) };
    }
}
