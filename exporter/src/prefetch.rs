//! Asks the processor for memory that will be needed soon, where many small pieces of it are visited
//! in an order that it cannot guess. A hint: nothing but time depends on it.

/// Pieces to look ahead: far enough for memory to answer, near enough to be still in the cache then.
pub(crate) const AHEAD: usize = 6;

/// Bytes that come at once.
const LINE: usize = 64;
/// Longer texts follow by themselves, once they are being read.
const MOST: usize = 4 * LINE;

/// A text that will be read.
#[inline]
pub(crate) fn text(text: &str) {
    lines(text.as_ptr(), text.len().min(MOST));
}

/// A value that will be read.
#[inline]
pub(crate) fn value<T>(value: *const T) {
    lines(value.cast(), size_of::<T>());
}

#[inline]
fn lines(start: *const u8, length: usize) {
    for offset in (0..length).step_by(LINE) {
        line(start.wrapping_add(offset));
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn line(address: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a hint; it reads nothing, whatever the address is.
    unsafe { _mm_prefetch(address.cast(), _MM_HINT_T0) };
}

/// Rust has no stable way to say it.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn line(_address: *const u8) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_takes_anything() {
        text("");
        text(&"long ".repeat(1000));
        value(&());
        value(&[0_u64; 100]);
    }
}
