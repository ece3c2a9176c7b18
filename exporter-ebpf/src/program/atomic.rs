//! Atomic operations on map values: the instructions of the kernel's ISA v3 (Linux 5.12).

use core::intrinsics::{
    AtomicOrdering, atomic_and, atomic_cxchg, atomic_or, atomic_xadd, atomic_xchg,
};

use exporter_ebpf::table::{FREE, TAKEN};

/// Adds, without telling what was there.
///
/// # Safety
/// `cell` points to a counter in a map's value.
#[inline(always)]
pub unsafe fn add(cell: *mut u64, value: u64) {
    // SAFETY: the caller's.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(cell, value) };
}

/// Adds (or, with a wrapped negative, subtracts) and tells what was there.
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub unsafe fn fetch_add(cell: *mut u64, value: u64) -> u64 {
    // SAFETY: the caller's.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::AcqRel }>(cell, value) }
}

/// As [`fetch_add`].
///
/// # Safety
/// As [`add`].
#[inline(always)]
pub unsafe fn fetch_add_u32(cell: *mut u32, value: u32) -> u32 {
    // SAFETY: the caller's.
    unsafe { atomic_xadd::<u32, u32, { AtomicOrdering::AcqRel }>(cell, value) }
}

/// Sets bits and tells what was there.
///
/// # Safety
/// `cell` points to flags in a map's value.
#[inline(always)]
pub unsafe fn fetch_or(cell: *mut u32, bits: u32) -> u32 {
    // SAFETY: the caller's.
    unsafe { atomic_or::<u32, u32, { AtomicOrdering::AcqRel }>(cell, bits) }
}

/// Leaves only these bits.
///
/// # Safety
/// As [`fetch_or`].
#[inline(always)]
pub unsafe fn fetch_and(cell: *mut u32, bits: u32) -> u32 {
    // SAFETY: the caller's.
    unsafe { atomic_and::<u32, u32, { AtomicOrdering::AcqRel }>(cell, bits) }
}

/// Puts `new` where `old` is; false if something else is there.
///
/// # Safety
/// `cell` points to a word in a map's value.
#[inline(always)]
pub unsafe fn replace(cell: *mut u64, old: u64, new: u64) -> bool {
    // SAFETY: the caller's.
    unsafe {
        atomic_cxchg::<u64, { AtomicOrdering::AcqRel }, { AtomicOrdering::Acquire }>(cell, old, new)
            .1
    }
}

/// As [`replace`].
///
/// # Safety
/// As [`replace`].
#[inline(always)]
pub unsafe fn replace_u32(cell: *mut u32, old: u32, new: u32) -> bool {
    // SAFETY: the caller's.
    unsafe {
        atomic_cxchg::<u32, { AtomicOrdering::AcqRel }, { AtomicOrdering::Acquire }>(cell, old, new)
            .1
    }
}

/// Puts `new` there, and tells what was.
///
/// # Safety
/// As [`replace`].
#[inline(always)]
pub unsafe fn exchange(cell: *mut u32, new: u32) -> u32 {
    // SAFETY: the caller's.
    unsafe { atomic_xchg::<u32, { AtomicOrdering::AcqRel }>(cell, new) }
}

/// Takes a lock if it is free.
///
/// # Safety
/// `lock` points to a lock in a map's value.
#[inline(always)]
pub unsafe fn try_lock(lock: *mut u32) -> bool {
    // SAFETY: the caller's.
    unsafe { atomic_xchg::<u32, { AtomicOrdering::AcqRel }>(lock, 1) == 0 }
}

/// Frees a lock that this packet has taken. An exchange, because a plain store is a release on some
/// processors only; where it would be enough (x86), it was measured to be no faster.
///
/// # Safety
/// As [`try_lock`].
#[inline(always)]
pub unsafe fn unlock(lock: *mut u32) {
    // SAFETY: the caller's.
    unsafe { atomic_xchg::<u32, { AtomicOrdering::AcqRel }>(lock, 0) };
}

/// Changes a free tag of the table of streams to a taken one, unless another processor was faster.
///
/// # Safety
/// `tag` points to a tag in a map's value.
#[inline(always)]
pub unsafe fn claim(tag: *mut u32) -> bool {
    // SAFETY: the caller's.
    unsafe { replace_u32(tag, FREE, TAKEN) }
}

/// Writes a tag after everything that was written before it: an exchange, see [`unlock`].
///
/// # Safety
/// As [`claim`].
#[inline(always)]
pub unsafe fn publish(tag: *mut u32, value: u32) {
    // SAFETY: the caller's.
    unsafe { atomic_xchg::<u32, { AtomicOrdering::AcqRel }>(tag, value) };
}
