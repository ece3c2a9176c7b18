//! Aggregates of datagrams (UDP GRO and GSO): every datagram has an RTP header of its own, perhaps
//! of another stream, so each is looked at and counted as the packet that it is.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{bpf_loop, bpf_skb_load_bytes};
use exporter_ebpf::abi::Class;
use exporter_ebpf::packet::Packet;
use exporter_ebpf::rtp::{self, Content, Payload};

use super::admit::{self, Arrival};
use super::tables::Family;

/// Datagrams of one aggregate that are looked at. Linux makes at most 128 (UDP_MAX_SEGMENTS).
const MAX_DATAGRAMS: u32 = 128;

/// What stays the same while an aggregate is walked, and whether all of it was counted.
struct Walk<F: Family> {
    skb: *mut __sk_buff,
    arrival: Arrival<F>,
    payload: u32,
    length: u32,
    size: u32,
    is_counted: bool,
}

/// Counts an aggregate of datagrams of `size` bytes, the last one perhaps shorter. False: this host
/// has no part in it.
#[inline(never)]
pub fn datagrams<const W: usize>(
    skb: *mut __sk_buff,
    packet: &Packet<W>,
    direction: u8,
    size: u32,
) -> bool
where
    Packet<W>: Family,
{
    let mut walk = Walk {
        skb,
        arrival: Arrival::new(packet, direction, 1, 0),
        payload: packet.payload as u32,
        length: packet.length,
        size,
        is_counted: false,
    };
    let count = packet.length.div_ceil(size.max(1));
    let callback = datagram::<W> as unsafe extern "C" fn(u32, *mut Walk<Packet<W>>) -> i64;
    // SAFETY: the callback takes what it is given here, and does not outlive this call.
    unsafe {
        bpf_loop(
            count.min(MAX_DATAGRAMS),
            callback as *mut core::ffi::c_void,
            (&raw mut walk).cast(),
            0,
        );
    }
    if count > MAX_DATAGRAMS {
        walk.arrival.packets = count - MAX_DATAGRAMS;
        walk.arrival.bytes = packet.length.saturating_sub(MAX_DATAGRAMS * size);
        walk.is_counted = admit::plain(&walk.arrival, Class::Other as u32, false);
    }
    walk.is_counted
}

/// Called by the kernel for each datagram. 1 ends the walk.
unsafe extern "C" fn datagram<const W: usize>(index: u32, walk: *mut Walk<Packet<W>>) -> i64
where
    Packet<W>: Family,
{
    // SAFETY: the caller's frame.
    let walk = unsafe { &mut *walk };
    let begin = index * walk.size;
    let bytes = walk.length.wrapping_sub(begin).min(walk.size);
    let payload = Loaded { skb: walk.skb, offset: walk.payload + begin };
    walk.arrival.bytes = bytes;
    let content = rtp::classify(&payload, bytes).unwrap_or(Content::Other);
    walk.is_counted = match &content {
        Content::Rtp(rtp) => admit::rtp(&walk.arrival, rtp),
        content => admit::content(&walk.arrival, content),
    };
    !walk.is_counted as i64
}

/// A payload that need not be readable in place.
struct Loaded {
    skb: *mut __sk_buff,
    offset: u32,
}

impl Payload for Loaded {
    #[inline(always)]
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        let mut words = [0; N];
        self.load(offset, &mut words).then_some(words)
    }

    #[inline(always)]
    fn byte(&self, offset: usize) -> Option<u8> {
        let mut byte = 0;
        self.load(offset, &mut byte).then_some(byte)
    }
}

impl Loaded {
    #[inline(always)]
    fn load<T>(&self, offset: usize, into: &mut T) -> bool {
        let size = size_of::<T>() as u32;
        let into = core::ptr::from_mut(into).cast();
        // SAFETY: the kernel writes `size` bytes or none.
        unsafe { bpf_skb_load_bytes(self.skb.cast(), self.offset + offset as u32, into, size) == 0 }
    }
}
