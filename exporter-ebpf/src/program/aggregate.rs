//! Aggregates of datagrams (UDP GRO and GSO): every datagram has an RTP header of its own, perhaps
//! of another stream, so each is looked at and counted as the packet that it is.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_probe_read_kernel_buf;
use aya_ebpf::helpers::generated::{bpf_loop, bpf_skb_load_bytes};
use exporter_ebpf::abi::RECEIVE;
use exporter_ebpf::packet::Plain;
use exporter_ebpf::rtp::{self, Kind, Payload};

use super::admit::{Admit, sort};
use super::maps::{GSO_TYPE, SKB_END, SKB_HEAD};
use super::record::pack;

/// Datagrams of one aggregate that are looked at. Linux makes at most 128 (UDP_MAX_SEGMENTS).
const MAX_DATAGRAMS: u32 = 128;

/// What stays the same while an aggregate is walked, but for the key's SSRC and the outcome.
#[repr(C)]
struct Walk<F: Admit> {
    skb: *mut __sk_buff,
    key: *mut F::Stream,
    payload: u32,
    length: u32,
    size: u32,
    is_counted: u32,
}

/// Counts an aggregate of datagrams of `size` bytes, the last one perhaps shorter, that begin at
/// `payload`, or the one datagram that it is. False: perhaps this host has no part in it.
#[inline(never)]
pub fn datagrams<F: Admit>(
    skb: *mut __sk_buff,
    key: &mut F::Stream,
    payload: u32,
    length: u32,
    size: u32,
) -> bool {
    // Whoever calls has no room on the stack to ask.
    let size = if is_one_datagram(skb) { length } else { size };
    let mut walk = Walk::<F> { skb, key, payload, length, size, is_counted: 0 };
    let count = length.div_ceil(size.max(1));
    let callback: unsafe extern "C" fn(u32, *mut Walk<F>) -> i64 = datagram::<F>;
    // SAFETY: the callback takes what it is given here, and does not outlive this call.
    unsafe {
        let callback = callback as *mut core::ffi::c_void;
        bpf_loop(count.min(MAX_DATAGRAMS), callback, (&raw mut walk).cast(), 0);
    }
    if count > MAX_DATAGRAMS {
        let bytes = length.saturating_sub(MAX_DATAGRAMS * size);
        let rest = count - MAX_DATAGRAMS;
        walk.is_counted |= F::admit_plain(key, rest, bytes, sort(Kind::Other, false)) as u32;
    }
    walk.is_counted != 0
}

/// It is one datagram that is to be cut into IP fragments (UFO, which guests still send by tap and virtio), and not many
/// that were put together. No context tells that; the kernel's own frame does, to which the context points.
#[inline(never)]
fn is_one_datagram(skb: *mut __sk_buff) -> bool {
    /// SKB_GSO_UDP (include/linux/skbuff.h) since Linux 4.16.
    const UFO: u32 = 1 << 16;
    if GSO_TYPE.load() == 0 {
        return false;
    }
    let read = |at: *const u8| {
        let mut bytes = [0_u8; 8];
        // SAFETY: the helper reads nothing that is not there.
        let read = unsafe { bpf_probe_read_kernel_buf(at, &mut bytes) };
        read.map(|()| u64::from_ne_bytes(bytes)).unwrap_or(0)
    };
    let at = |offset: u32| skb.cast_const().cast::<u8>().wrapping_add(offset as usize);
    let (head, end) = (read(at(SKB_HEAD.load())), read(at(SKB_END.load())) as u32);
    let shared = head.wrapping_add(u64::from(end)).wrapping_add(u64::from(GSO_TYPE.load()));
    read(shared as *const u8) as u32 & UFO != 0
}

/// Called by the kernel for each datagram. 0 goes on.
unsafe extern "C" fn datagram<F: Admit>(index: u32, walk: *mut Walk<F>) -> i64 {
    // SAFETY: the caller's frame, and the key in its caller's.
    let (walk, key) = unsafe { (&mut *walk, &mut *(*walk).key) };
    let begin = index * walk.size;
    let bytes = walk.length.wrapping_sub(begin).min(walk.size);
    let content = rtp::classify(&Loaded { skb: walk.skb, offset: walk.payload + begin }, bytes);
    let is_counted = if content.kind == Kind::Rtp {
        F::set_ssrc(key, content.rtp.ssrc);
        F::admit_rtp(key, pack(&content.rtp), bytes)
    } else {
        let speaks = F::direction_of(key) == RECEIVE || content.kind.is_proof();
        F::admit_plain(key, 1, bytes, sort(content.kind, speaks))
    };
    walk.is_counted |= is_counted as u32;
    0
}

/// A payload that need not be readable in place.
pub struct Loaded {
    /// The frame's buffer.
    pub skb: *mut __sk_buff,
    /// Where in the frame the payload begins.
    pub offset: u32,
}

impl Payload for Loaded {
    #[inline(always)]
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        self.load(offset)
    }

    #[inline(always)]
    fn lead(&self) -> Option<[u8; 2]> {
        self.load(0)
    }
}

impl Loaded {
    #[inline(always)]
    fn load<T: Plain>(&self, offset: usize) -> Option<T> {
        let mut into = MaybeUninit::<T>::uninit();
        let (offset, size) = (self.offset + offset as u32, size_of::<T>() as u32);
        // SAFETY: the kernel writes all bytes, or tells that it did not; and any bytes make a `T`.
        unsafe {
            let is_there =
                bpf_skb_load_bytes(self.skb.cast(), offset, into.as_mut_ptr().cast(), size);
            (is_there == 0).then(|| into.assume_init())
        }
    }
}
