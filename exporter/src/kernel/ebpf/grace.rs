//! Waits until no program can still be using what was taken out of its sight.
//!
//! Linux lets whoever replaces a map within a map know that no program uses the old one any more
//! (`maybe_wait_bpf_programs` in kernel/bpf/syscall.c, an RCU grace period; since Linux 4.19): a map that no
//! program knows is replaced here by itself, for the sake of that.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::sys;

/// The map, and the map within it.
pub(super) struct Grace {
    outer: OwnedFd,
    inner: OwnedFd,
}

impl Grace {
    /// Needs CAP_BPF; waiting needs no right.
    pub(super) fn new() -> io::Result<Self> {
        let inner = sys::make_array()?;
        let outer = sys::make_array_of(inner.as_fd())?;
        Ok(Self { outer, inner })
    }

    /// Returns when every program that was running when this was called has ended, on all processors:
    /// some milliseconds later.
    pub(super) fn wait(&self) -> io::Result<()> {
        sys::put_map(self.outer.as_fd(), 0, self.inner.as_fd())
    }
}
