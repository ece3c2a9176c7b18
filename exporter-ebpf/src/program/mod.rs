//! Maps, constants and entry points, nothing else; but for the table of streams, which has its own.

mod admit;
mod aggregate;
mod atomic;
mod count;
mod streams;
mod tables;
mod tend;

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::{Array, HashMap, PerCpuArray};
use aya_ebpf::programs::TcContext;
use exporter_ebpf::abi::{
    Counter, DIRECTIONS, EVENTS as EVENT_KINDS, FlowKeyV4, FlowKeyV6, FlowValue, OCCUPANCIES,
    RECEIVE, SEND, ToldKeyV4, ToldKeyV6,
};
use exporter_ebpf::table::SEEDS;

use self::count::{ETHERNET, RAW};

/// First counted local port.
#[unsafe(no_mangle)]
static PORT_MIN: Global<u16> = Global::new(10_000);
/// Last counted local port.
#[unsafe(no_mangle)]
static PORT_MAX: Global<u16> = Global::new(59_999);
/// 1: only what `LOCAL_*` holds counts as this host's address.
#[unsafe(no_mangle)]
static CHECK_LOCAL: Global<u32> = Global::new(0);
/// 0: count a packet again that another interface has counted (for measuring with repeated runs).
#[unsafe(no_mangle)]
static SKIP_SEEN: Global<u32> = Global::new(1);
/// 0: keep no interarrival jitter.
#[unsafe(no_mangle)]
static JITTER: Global<u32> = Global::new(1);
/// Bounds of admission; see [`exporter_ebpf::abi::Occupancy`].
#[unsafe(no_mangle)]
static MAX_FLOWS: Global<u64> = Global::new(65_536);
#[unsafe(no_mangle)]
static MAX_STREAMS: Global<u64> = Global::new(262_144);
#[unsafe(no_mangle)]
static MAX_STRANGERS: Global<u64> = Global::new(8_192);
#[unsafe(no_mangle)]
static MAX_STRANGER_STREAMS: Global<u64> = Global::new(8_192);
/// Streams that one flow may have.
#[unsafe(no_mangle)]
static MAX_SSRCS: Global<u32> = Global::new(1_024);

// The sizes are placeholders: userspace sets those that follow from the bounds. Flows are not
// preallocated, so their bound costs memory only when it is used.
#[map]
static FLOWS_V4: HashMap<FlowKeyV4, FlowValue> =
    HashMap::with_max_entries(65_536 + 8_192, BPF_F_NO_PREALLOC);
#[map]
static FLOWS_V6: HashMap<FlowKeyV6, FlowValue> =
    HashMap::with_max_entries(65_536 + 8_192, BPF_F_NO_PREALLOC);
// Of no use to the programs: whoever pins the tables finds here what the streams' table is keyed with.
#[map]
static KEPT_SEEDS: Array<[u64; SEEDS]> = Array::with_max_entries(1, 0);
#[map]
static TOLD_V4: HashMap<ToldKeyV4, u8> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);
#[map]
static TOLD_V6: HashMap<ToldKeyV6, u8> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);
#[map]
static LOCAL_V4: HashMap<[u8; 4], u8> = HashMap::with_max_entries(1_024, BPF_F_NO_PREALLOC);
#[map]
static LOCAL_V6: HashMap<[u8; 16], u8> = HashMap::with_max_entries(1_024, BPF_F_NO_PREALLOC);
#[map]
static EVENTS: PerCpuArray<Counter> =
    PerCpuArray::with_max_entries((EVENT_KINDS * DIRECTIONS) as u32, 0);
// Mapped into userspace, so that it can give room back with an atomic subtraction of its own.
#[map]
static OCCUPANCY: Array<u64> = Array::with_max_entries(OCCUPANCIES as u32, BPF_F_MMAPABLE);

/// TCX_NEXT, which to clsact is TC_ACT_UNSPEC: whoever comes next decides.
const NEXT: i32 = -1;

/// Towards this host, on an interface with Ethernet headers.
#[classifier]
#[inline(always)]
pub fn count_receive(ctx: TcContext) -> i32 {
    count::frame::<ETHERNET, RECEIVE>(ctx.skb.skb);
    NEXT
}

/// From this host, on an interface with Ethernet headers.
#[classifier]
#[inline(always)]
pub fn count_send(ctx: TcContext) -> i32 {
    count::frame::<ETHERNET, SEND>(ctx.skb.skb);
    NEXT
}

/// Towards this host, on an interface without link headers.
#[classifier]
#[inline(always)]
pub fn count_receive_raw(ctx: TcContext) -> i32 {
    count::frame::<RAW, RECEIVE>(ctx.skb.skb);
    NEXT
}

/// From this host, on an interface without link headers.
#[classifier]
#[inline(always)]
pub fn count_send_raw(ctx: TcContext) -> i32 {
    count::frame::<RAW, SEND>(ctx.skb.skb);
    NEXT
}

/// Never attached: userspace runs it with a [`exporter_ebpf::abi::Tend`] as its data.
#[classifier]
pub fn tend(ctx: TcContext) -> i32 {
    tend::tend(ctx.skb.skb)
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
