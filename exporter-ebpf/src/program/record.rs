//! Adds a packet to its stream's entry, under the entry's lock.

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_ns};
use exporter_ebpf::abi::{Event, StreamValue};
use exporter_ebpf::jitter;
use exporter_ebpf::rtp::{self, Rtp};

use super::atomic::{add, try_lock, unlock};
use super::maps::JITTER;
use super::tables::event;

/// An RTP header in one register, to hand it to a function: the SSRC is in the key.
#[inline(always)]
pub fn pack(rtp: &Rtp) -> u64 {
    (rtp.timestamp as u64) << 32 | (rtp.payload_type as u64) << 16 | rtp.sequence as u64
}

/// The inverse of [`pack`].
#[inline(always)]
pub fn unpack(packed: u64) -> Rtp {
    Rtp {
        ssrc: 0,
        sequence: packed as u16,
        timestamp: (packed >> 32) as u32,
        payload_type: (packed >> 16) as u8,
    }
}

/// Adds one packet to its stream, and to `contended` if the lock stays taken.
#[inline(always)]
pub fn record(stream: *mut StreamValue, rtp: &Rtp, bytes: u32, direction: u8) {
    // SAFETY: the table's value; the lock makes this processor its only writer, but for the lock
    // itself and `contended`, which `rtp::count` leaves alone.
    unsafe {
        let lock = &raw mut (*stream).lock;
        if !try_lock(lock) && !spin(stream) {
            contended(stream, bytes, direction as u32);
            return;
        }
        rtp::count(&mut *stream, rtp, bytes, bpf_jiffies64());
        if jitter::is_due(&*stream) && JITTER.load() != 0 {
            sample(stream, rtp.timestamp);
        }
        unlock(lock);
    }
}

/// Two packets in 17.5 come here, because a clock of nanoseconds costs as much as all else.
#[inline(never)]
fn sample(stream: *mut StreamValue, timestamp: u32) {
    // SAFETY: the table's value, locked by the caller; and a helper without arguments.
    unsafe { jitter::take(&mut *stream, timestamp, bpf_ktime_get_ns()) };
}

/// Tries before a packet gives up: the lock is held for some ten nanoseconds, a sample's for twice
/// as long.
const TRIES: u32 = 16;

#[inline(never)]
fn spin(stream: *mut StreamValue) -> bool {
    for _ in 0..TRIES {
        // SAFETY: the table's value.
        if unsafe { try_lock(&raw mut (*stream).lock) } {
            return true;
        }
    }
    false
}

#[inline(never)]
fn contended(stream: *mut StreamValue, bytes: u32, direction: u32) {
    // SAFETY: the table's value.
    unsafe {
        add(&raw mut (*stream).contended.packets, 1);
        add(&raw mut (*stream).contended.bytes, bytes as u64);
    }
    event(Event::Contended as u32, direction, 1, bytes);
}
