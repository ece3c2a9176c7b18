//! Which tables a packet's family has, and the bounds that admission works on.

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::generated::bpf_map_update_elem;
use aya_ebpf::maps::HashMap;
use aya_ebpf::maps::lpm_trie::Key;
use aya_log_ebpf::warn;
use exporter_ebpf::abi::{
    DIRECTIONS, Event, FlowKeyV4, FlowKeyV6, FlowValue, KNOWN, Occupancy, StreamKeyV4, StreamKeyV6,
};
use exporter_ebpf::packet::Packet;

use super::atomic::{add, fetch_add, fetch_or};
use super::maps::*;
use super::owned;
use super::streams::Entrances;

/// Keys and tables of one address family. A flow's key is made once and lent to whatever needs it:
/// in a walk along an aggregate the stack is almost used up.
pub trait Family: Copy {
    /// Key of the flows' table.
    type Flow;
    /// Key of the streams' table.
    type Stream: Entrances;

    /// The stream's key, which also names its flow and its direction.
    fn key(&self, direction: u8, ssrc: u32) -> Self::Stream;
    /// The direction of a stream.
    fn direction_of(key: &Self::Stream) -> u8;
    /// Makes it the key of another stream of its flow.
    fn set_ssrc(key: &mut Self::Stream, ssrc: u32);
    /// The flow of a stream.
    fn flow_of(key: &Self::Stream) -> Self::Flow;

    /// The flow's value.
    fn find_flow(key: &Self::Flow) -> Option<*mut FlowValue>;
    /// Puts a value that begins like `value`, if there is none. False: there is one, the map is full,
    /// or the kernel has no memory.
    fn insert_flow(key: &Self::Flow, value: &'static FlowValue) -> bool;
    /// The observer told the flow of this stream, whose key is made over for a moment.
    fn is_told(stream: &Self::Stream, flow: &mut Self::Flow) -> bool;
    /// The stream's far side has as much as one may have that nobody told.
    fn is_greedy(stream: &Self::Stream) -> bool;
    /// Cookie of the network namespace that has the stream's local address, if it is this host's.
    fn namespace(stream: &Self::Stream) -> Option<u64>;
    /// A worker's socket has the stream's local end, in this namespace.
    fn is_owned(stream: &Self::Stream, namespace: u64) -> bool;
}

#[inline(always)]
fn insert<K, V>(map: &HashMap<K, V>, key: &K, value: &'static V) -> bool {
    let map = core::ptr::from_ref(map).cast_mut().cast();
    let (key, value) = (core::ptr::from_ref(key).cast(), core::ptr::from_ref(value).cast());
    // SAFETY: a map's definition stands at its address, and key and value have the map's types.
    unsafe { bpf_map_update_elem(map, key, value, BPF_NOEXIST as u64) == 0 }
}

macro_rules! family {
    ($words:literal, $flow:ident, $stream:ident, $flows:ident, $told:ident, $greedy:ident,
     $locals:ident, $address:ident, $owned:ident) => {
        impl Family for Packet<$words> {
            type Flow = $flow;
            type Stream = $stream;

            #[inline(always)]
            fn key(&self, direction: u8, ssrc: u32) -> $stream {
                $stream { flow: self.flow(direction), ssrc }
            }

            #[inline(always)]
            fn direction_of(key: &$stream) -> u8 {
                key.flow.direction
            }

            #[inline(always)]
            fn set_ssrc(key: &mut $stream, ssrc: u32) {
                key.ssrc = ssrc;
            }

            #[inline(always)]
            fn flow_of(key: &$stream) -> $flow {
                key.flow.without_direction()
            }

            #[inline(always)]
            fn find_flow(key: &$flow) -> Option<*mut FlowValue> {
                $flows.get_ptr_mut(key)
            }

            #[inline(always)]
            fn insert_flow(key: &$flow, value: &'static FlowValue) -> bool {
                insert(&$flows, key, value)
            }

            #[inline(always)]
            fn is_told(stream: &$stream, flow: &mut $flow) -> bool {
                let local = (&raw mut flow.local).cast::<u32>();
                for word in 0..$words {
                    // SAFETY: within the address, aligned as the key is. Volatile, because the
                    // compiler would make of it a call of memset.
                    unsafe { local.add(word).write_volatile(0) };
                }
                let is_told = $told.get_ptr(&*flow).is_some();
                flow.local = stream.flow.local;
                is_told
            }

            #[inline(always)]
            fn is_greedy(stream: &$stream) -> bool {
                // Of its own: older kernels take no key from memory that a function was lent.
                let words = stream.flow.words();
                let remote: [u32; $words] = core::array::from_fn(|at| words[at]);
                $greedy.get_ptr(&remote).is_some()
            }

            #[inline(always)]
            fn namespace(stream: &$stream) -> Option<u64> {
                // Of its own: older kernels take no key from memory that a function was lent.
                let key = Key::new(32 * $words, $address(stream.flow.words()));
                $locals.get(key).copied()
            }

            #[inline(always)]
            fn is_owned(stream: &$stream, namespace: u64) -> bool {
                let flow = &stream.flow;
                owned::$owned(namespace, &$address(flow.words()), flow.proto, flow.local_port)
            }
        }
    };
}

family!(1, FlowKeyV4, StreamKeyV4, FLOWS_V4, TOLD_V4, GREEDY_V4, LOCAL_V4, local_v4, is_owned_v4);
family!(4, FlowKeyV6, StreamKeyV6, FLOWS_V6, TOLD_V6, GREEDY_V6, LOCAL_V6, local_v6, is_owned_v6);

/// A flow's local address, in network order.
#[inline(always)]
fn local_v4([_, local, ..]: [u32; 4]) -> u32 {
    local
}

/// As [`local_v4`].
#[inline(always)]
fn local_v6([_, _, _, _, a, b, c, d, ..]: [u32; 10]) -> [u32; 4] {
    [a, b, c, d]
}

/// Why somebody has room in the tables.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// For no reason.
    Stranger,
    /// Both sides have spoken.
    Proven,
    /// A server told him.
    Told,
}

/// What has a bound.
#[derive(Clone, Copy)]
pub struct Quota {
    cell: Occupancy,
    bound: u64,
}

impl Quota {
    /// Of flows.
    #[inline(always)]
    pub fn flows(standing: Standing) -> Self {
        let (cell, bound) = match standing {
            Standing::Told => (Occupancy::Flows, MAX_FLOWS.load()),
            Standing::Proven => (Occupancy::Flows, MAX_PROVEN_FLOWS.load()),
            Standing::Stranger => (Occupancy::Strangers, MAX_STRANGERS.load()),
        };
        Self { cell, bound }
    }

    /// Of streams.
    #[inline(always)]
    pub fn streams(standing: Standing) -> Self {
        let (cell, bound) = match standing {
            Standing::Told => (Occupancy::Streams, MAX_STREAMS.load()),
            Standing::Proven => (Occupancy::Streams, MAX_PROVEN_STREAMS.load()),
            Standing::Stranger => (Occupancy::StrangerStreams, MAX_STRANGER_STREAMS.load()),
        };
        Self { cell, bound }
    }

    /// Whether there is room, at this moment.
    #[inline(always)]
    pub fn has_room(self) -> bool {
        match OCCUPANCY.get_ptr(self.cell as u32) {
            // SAFETY: the cell is a map's value.
            Some(cell) => unsafe { cell.read_volatile() < self.bound },
            None => false,
        }
    }

    /// Takes room for one. A full table is not written to: whoever floods it with forged addresses
    /// must not make processors fight for its cache line.
    #[inline(always)]
    pub fn take(self) -> bool {
        let Some(cell) = OCCUPANCY.get_ptr_mut(self.cell as u32) else { return false };
        // SAFETY: the cell is a map's value.
        unsafe {
            if cell.read_volatile() >= self.bound {
                return false;
            }
            if fetch_add(cell, 1) >= self.bound {
                add(cell, 1u64.wrapping_neg());
                return false;
            }
        }
        true
    }

    /// Gives room for one back.
    #[inline(always)]
    pub fn give_back(self) {
        if let Some(cell) = OCCUPANCY.get_ptr_mut(self.cell as u32) {
            // SAFETY: the cell is a map's value.
            unsafe { add(cell, 1u64.wrapping_neg()) };
        }
    }
}

/// Marks a stranger's entry as known, in place, and moves its room. False: there is none.
///
/// # Safety
/// `flags` points to a map's value whose room was taken from `from`.
#[inline(always)]
pub unsafe fn promote(flags: *mut u32, from: Quota, to: Quota) -> bool {
    if !to.take() {
        return false;
    }
    // SAFETY: the caller's.
    let was_known = unsafe { fetch_or(flags, KNOWN) } & KNOWN != 0;
    // Another processor may have been faster; then it has moved the room.
    if was_known {
        to.give_back()
    } else {
        from.give_back()
    }
    true
}

/// Counts an event. Per processor, so no atomics.
#[inline(never)]
pub fn event(event: u32, direction: u32, packets: u32, bytes: u32) {
    let Some(counter) = EVENTS.get_ptr_mut(event * DIRECTIONS as u32 + direction) else { return };
    // SAFETY: only this processor writes this value, and nothing interrupts it doing so.
    unsafe {
        if (*counter).packets == 0 && 1 << event & FULL_EVENTS != 0 {
            fetch_or(&raw mut FULL, 1 << event);
        }
        (*counter).packets += packets as u64;
        (*counter).bytes += bytes as u64;
    }
}

/// Bits of the events that mean a full table.
const FULL_EVENTS: u32 = 1 << Event::FlowsFull as u32
    | 1 << Event::StreamsFull as u32
    | 1 << Event::StrangersFull as u32
    | 1 << Event::StrangerStreamsFull as u32;

/// Those that have happened, and those that have been told.
static mut FULL: u32 = 0;
static mut ANNOUNCED: u32 = 0;

/// Says once for each table that it is full. Called from the outermost function only, because
/// making a message takes more stack than is left further in.
#[inline(always)]
pub fn tell_if_full() {
    // SAFETY: words that are written atomically.
    let news =
        unsafe { (&raw const FULL).read_volatile() & !(&raw const ANNOUNCED).read_volatile() };
    if news != 0 {
        tell_full(news);
    }
}

#[inline(never)]
fn tell_full(news: u32) {
    // SAFETY: as above.
    let news = news & !unsafe { fetch_or(&raw mut ANNOUNCED, news) };
    if news & (1 << Event::FlowsFull as u32 | 1 << Event::StreamsFull as u32) != 0 {
        warn!((), "a table of known flows or streams is full");
    }
    if news & (1 << Event::StrangersFull as u32 | 1 << Event::StrangerStreamsFull as u32) != 0 {
        warn!((), "a table of strangers is full");
    }
}
