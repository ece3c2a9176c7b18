//! Interarrival jitter of one RTP stream (RFC 3550 §6.4.1, A.8), estimated from a sample of its
//! packets.
//!
//! RFC 3550 takes every two packets that arrive one after the other, and asks by how much the time
//! between them differs from what their timestamps say. Here only some pairs are taken, because
//! reading a clock of nanoseconds costs about as much as all else that is done for a packet:
//! - While a stream has had fewer than [`EAGER`] packets, every other pair. A.8's mean starts at zero
//!   and needs some 32 samples to get near its value.
//! - From then on one pair in 17.5 packets on average, after gaps of random length: video comes in
//!   frames, and a fixed gap could take the same places of each frame.
//!
//! A pair is no sample when more than a second lies between its packets, or when the difference is
//! more than a second: a pause, or a source that counts its timestamps anew. Packets that are not in
//! the stream's sequence are no part of a pair.

use crate::abi::{Clock, StreamValue};

/// Packets of a stream of which every other pair is a sample.
pub const EAGER: u64 = 64;
/// From a pair's second packet to the next pair's first there are 1 to 2^5 packets.
const GAP_BITS: u32 = 5;

/// The longest spacing and the largest difference that make a sample: nanoseconds, microseconds.
const LONGEST: u64 = 1_000_000_000;
const LARGEST: u64 = 1_000_000;

/// Whether the packet that was counted last has to be given to [`take`]. One comparison, which wraps
/// around with the packets' number, so that a value that was passed over is not waited for.
#[inline(always)]
pub fn is_due(stream: &StreamValue) -> bool {
    (stream.total.packets as u32).wrapping_sub(stream.next_sample) < 1 << 31
}

/// Takes the packet that was counted last, which is due and came at `now` nanoseconds of a clock
/// that is never set. Aggregates' packets may come at the same time.
#[inline(always)]
pub fn take(stream: &mut StreamValue, timestamp: u32, now: u64) {
    let packets = stream.total.packets;
    if stream.sample_arrival == 0 {
        // Odd, so that it is never taken for none.
        stream.sample_arrival = now | 1;
        stream.sample_timestamp = timestamp;
        stream.next_sample = after(packets, 1);
        return;
    }
    // Two processors' clocks may differ a little.
    let elapsed = now.saturating_sub(stream.sample_arrival);
    let advance = timestamp.wrapping_sub(stream.sample_timestamp) as i32;
    if elapsed <= LONGEST {
        let elapsed = elapsed / 1000;
        for clock in [Clock::Khz90, Clock::Khz48, Clock::Khz8] {
            update(&mut stream.jitter[clock as usize], elapsed, advance, clock);
        }
    }
    stream.sample_arrival = 0;
    stream.next_sample = after(packets, gap(packets, now));
}

/// A new run of sequence numbers: its first packet makes no pair with the last one before it.
#[inline(always)]
pub fn begin(stream: &mut StreamValue) {
    stream.sample_arrival = 0;
    stream.next_sample = stream.total.packets as u32;
}

/// A packet that is not in the sequence: neither it nor the one before it is half of a pair.
#[inline(always)]
pub fn skip(stream: &mut StreamValue) {
    stream.sample_arrival = 0;
    stream.next_sample = after(stream.total.packets, 1);
}

/// The packet that comes so many after the one of this number, in 32 bits, which a long stream uses up.
#[inline(always)]
fn after(packets: u64, count: u32) -> u32 {
    (packets as u32).wrapping_add(count)
}

/// The mean of RFC 3550 A.8, in its integer form: sixteenths, rounded.
#[inline(always)]
fn update(jitter: &mut u32, elapsed: u64, advance: i32, clock: Clock) {
    let media = microseconds(advance.unsigned_abs(), clock);
    let difference = if advance < 0 { elapsed + media } else { elapsed.abs_diff(media) };
    if difference <= LARGEST {
        *jitter = *jitter + difference as u32 - ((*jitter + 8) >> 4);
    }
}

#[inline(always)]
fn microseconds(ticks: u32, clock: Clock) -> u64 {
    let ticks = ticks as u64;
    match clock {
        Clock::Khz90 => ticks * 100 / 9,
        Clock::Khz48 => ticks * 125 / 6,
        Clock::Khz8 => ticks * 125,
    }
}

/// Packets until the next pair begins. The time's low bits are as good as random once they are spread
/// over the high ones; twice, because packets that come at equal distances would leave a pattern.
#[inline(always)]
fn gap(packets: u64, now: u64) -> u32 {
    /// 2^64 over the golden ratio.
    const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
    if packets < EAGER {
        return 1;
    }
    let once = now.wrapping_mul(SPREAD);
    let twice = (once ^ once >> 32).wrapping_mul(SPREAD);
    1 + (twice >> (64 - GAP_BITS)) as u32
}

#[cfg(test)]
#[path = "jitter_tests.rs"]
mod tests;
