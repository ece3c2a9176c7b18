//! Asks the processor for memory that will be needed soon, where many small pieces of it are visited
//! in an order that it cannot guess. A hint: nothing but time depends on it.

/// Pieces to look ahead: far enough for memory to answer, near enough to be still in the cache then.
pub(crate) const AHEAD: usize = 6;

/// Bytes that come at once.
const LINE: usize = 64;
/// Longer pieces follow by themselves, once they are being read.
const MOST: usize = 4 * LINE;

/// A text that will be read.
#[inline]
pub(crate) fn text(text: &str) {
    let start = text.as_ptr();
    for offset in (0..text.len().min(MOST)).step_by(LINE) {
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
    fn a_hint_takes_any_piece() {
        text("");
        text(&"long ".repeat(1000));
    }
}
