//! One habit of the C library's allocator, changed.
//!
//! glibc maps large blocks from the kernel and gives them back when they are freed, but takes each that is
//! freed as a sign that such blocks come again, and from then on cuts them, up to 32 MB, out of its heap,
//! where those that have grown leave holes. A ledger's vectors grow once; the holes stay. With 100,000 streams
//! they are a tenth of the memory (`cargo xtask bench --only scrape`).

/// Blocks from this size on always come from the kernel, and go back to it.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 4 << 20;

/// Says so to the allocator. To be called once, before anything large is made.
pub fn keep_no_holes() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it changes a number of the allocator's, under its lock. That it might not be taken harms
    // nothing.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}
