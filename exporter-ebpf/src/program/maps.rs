//! Maps and constants, nothing else; but for the table of streams, which has its own.

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use exporter_ebpf::abi::{
    Counter, DIRECTIONS, EVENTS as EVENT_KINDS, FlowKeyV4, FlowKeyV6, FlowValue, MOST_GREEDY,
    Nobody, OCCUPANCIES, OWNERSHIPS, OwnedSocket, PortKey, SfuProcess, Sharers, ToldKeyV4,
    ToldKeyV6,
};
use exporter_ebpf::ports::NUMBERS;
use exporter_ebpf::table::SEEDS;

/// 1: only what `LOCAL_*` holds counts as this host's address.
#[unsafe(no_mangle)]
pub static CHECK_LOCAL: Global<u32> = Global::new(0);
/// 1: of the ports that are looked at, only those that a worker's socket has are counted.
#[unsafe(no_mangle)]
pub static CHECK_OWNED: Global<u32> = Global::new(0);
/// 0: count a packet again that another interface has counted (for measuring with repeated runs).
#[unsafe(no_mangle)]
pub static SKIP_SEEN: Global<u32> = Global::new(1);
/// Whose marks are this exporter's, in the bits of `skb->tc_index` that say so: another's are as good as none.
#[unsafe(no_mangle)]
pub static TAG: Global<u32> = Global::new(0x100);
/// Where `sk_buff::head`, `sk_buff::end` and `skb_shared_info::gso_type` are on this kernel; 0: not known.
#[unsafe(no_mangle)]
pub static SKB_HEAD: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static SKB_END: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub static GSO_TYPE: Global<u32> = Global::new(0);
/// 0: keep no interarrival jitter.
#[unsafe(no_mangle)]
pub static JITTER: Global<u32> = Global::new(1);
/// Bounds of admission; see [`exporter_ebpf::abi::Occupancy`].
#[unsafe(no_mangle)]
pub static MAX_FLOWS: Global<u64> = Global::new(65_536);
#[unsafe(no_mangle)]
pub static MAX_STREAMS: Global<u64> = Global::new(262_144);
/// The part of these that those may fill whom nobody told: the rest is kept for those whom a server tells.
#[unsafe(no_mangle)]
pub static MAX_PROVEN_FLOWS: Global<u64> = Global::new(65_536);
#[unsafe(no_mangle)]
pub static MAX_PROVEN_STREAMS: Global<u64> = Global::new(262_144);
#[unsafe(no_mangle)]
pub static MAX_STRANGERS: Global<u64> = Global::new(8_192);
#[unsafe(no_mangle)]
pub static MAX_STRANGER_STREAMS: Global<u64> = Global::new(8_192);
/// Streams that one flow may have.
#[unsafe(no_mangle)]
pub static MAX_SSRCS: Global<u32> = Global::new(1_024);

// The sizes are placeholders: userspace sets those that follow from the bounds. Flows are not
// preallocated, so their bound costs memory only when it is used.
#[map]
pub static FLOWS_V4: HashMap<FlowKeyV4, FlowValue> =
    HashMap::with_max_entries(65_536 + 8_192, BPF_F_NO_PREALLOC);
#[map]
pub static FLOWS_V6: HashMap<FlowKeyV6, FlowValue> =
    HashMap::with_max_entries(65_536 + 8_192, BPF_F_NO_PREALLOC);
// Of no use to the programs: whoever pins the tables finds here what the streams' table is keyed with.
#[map]
pub static KEPT_SEEDS: Array<[u64; SEEDS]> = Array::with_max_entries(1, 0);
#[map]
pub static TOLD_V4: HashMap<ToldKeyV4, u8> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);
#[map]
pub static TOLD_V6: HashMap<ToldKeyV6, u8> = HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);
// Far sides' addresses that have as much of that part as one may have, in network order.
#[map]
pub static GREEDY_V4: HashMap<[u32; 1], u8> =
    HashMap::with_max_entries(MOST_GREEDY, BPF_F_NO_PREALLOC);
#[map]
pub static GREEDY_V6: HashMap<[u32; 4], u8> =
    HashMap::with_max_entries(MOST_GREEDY, BPF_F_NO_PREALLOC);
// Cookies of the network namespaces that have these addresses.
#[map]
pub static LOCAL_V4: LpmTrie<u32, u64> = LpmTrie::with_max_entries(1_024, BPF_F_NO_PREALLOC);
#[map]
pub static LOCAL_V6: LpmTrie<[u32; 4], u64> = LpmTrie::with_max_entries(1_024, BPF_F_NO_PREALLOC);
#[map]
pub static EVENTS: PerCpuArray<Counter> =
    PerCpuArray::with_max_entries((EVENT_KINDS * DIRECTIONS) as u32, 0);
// Mapped into userspace, so that it can give room back with an atomic subtraction of its own.
#[map]
pub static OCCUPANCY: Array<u64> = Array::with_max_entries(OCCUPANCIES as u32, BPF_F_MMAPABLE);

/// Owned sockets of processes that userspace knows for workers; and of those that only call themselves so.
#[unsafe(no_mangle)]
pub static MAX_VERIFIED: Global<u64> = Global::new(1 << 18);
#[unsafe(no_mangle)]
pub static MAX_CLAIMED: Global<u64> = Global::new(1 << 10);

#[map]
pub static OWNED_SOCKETS: HashMap<u64, OwnedSocket> =
    HashMap::with_max_entries(1 << 18, BPF_F_NO_PREALLOC);
#[map]
pub static OWNED_PORTS: HashMap<PortKey, Sharers> =
    HashMap::with_max_entries(1 << 18, BPF_F_NO_PREALLOC);
// How many owned sockets have a port (`ports::number`), in whatever namespace and at whatever address.
#[map]
pub static PORT_SOCKETS: Array<u32> = Array::with_max_entries(NUMBERS, 0);
#[map]
pub static SFU_PROCESSES: HashMap<u32, SfuProcess> =
    HashMap::with_max_entries(4_096, BPF_F_NO_PREALLOC);
#[map]
pub static NOBODIES: LruHashMap<Nobody, u8> = LruHashMap::with_max_entries(8_192, 0);
// How often a process bound a socket of which userspace has not decided yet who it is.
#[map]
pub static UNDECIDED: LruHashMap<u32, u32> = LruHashMap::with_max_entries(4_096, 0);
#[map]
pub static BINDS: RingBuf = RingBuf::with_byte_size(1 << 19, 0);
#[map]
pub static OWNERSHIP: Array<u64> = Array::with_max_entries(OWNERSHIPS as u32, BPF_F_MMAPABLE);
