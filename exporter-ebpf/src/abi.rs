//! Keys and values of the kernel's tables, byte for byte.
//!
//! Every padding byte is a named field that is always zero, because the kernel hashes and compares
//! flows' keys as bytes. All integers are in host order, addresses in network order. A value's counters
//! never decrease; userspace reads a flow's word by word, so a packet in flight may show in one word of
//! the value and not yet in the next.
//!
//! Keys are aligned to words and written as words: a processor that hashes a word which was stored
//! in pieces waits for the pieces.

/// Changes whenever a table's layout or meaning does.
pub const LAYOUT_VERSION: u32 = 5;

/// IPPROTO_UDP.
pub const UDP: u8 = 17;
/// IPPROTO_TCP.
pub const TCP: u8 = 6;

/// Towards this host: the local end is the packet's destination.
pub const RECEIVE: u8 = 0;
/// From this host: the local end is the packet's source.
pub const SEND: u8 = 1;
/// Number of directions; indexes [`FlowValue::counts`].
pub const DIRECTIONS: usize = 2;

/// What a datagram carries (RFC 7983 §7, RFC 5761 §4). Indexes [`FlowValue::counts`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// RTP or SRTP: first byte 128–191, second byte outside 192–223.
    Rtp = 0,
    /// RTCP or SRTCP: first byte 128–191, second byte 192–223.
    Rtcp = 1,
    /// STUN: first byte 0–3, the magic cookie 0x2112A442 at byte 4, and a length that fits (RFC 8489 §5).
    Stun = 2,
    /// DTLS: first byte 20–63, and a version and a length that are DTLS's (RFC 6347 §4.1, RFC 9147 §4).
    Dtls = 3,
    /// Anything else, ICE-TCP's byte stream among it.
    Other = 4,
}

/// Number of [`Class`]es.
pub const CLASSES: usize = 5;

/// The RTP clocks that mediasoup's codecs have: jitter cannot be told without one, and only userspace
/// knows which is a stream's. Indexes [`StreamValue::jitter`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Clock {
    /// 90 kHz: all video (RFC 3551 §5).
    Khz90 = 0,
    /// 48 kHz: Opus (RFC 7587 §4.1).
    Khz48 = 1,
    /// 8 kHz: PCMU, PCMA, G.722 and others (RFC 3551 §4.5).
    Khz8 = 2,
}

/// Number of [`Clock`]s.
pub const CLOCKS: usize = 3;

/// Packets and their bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets; a GRO or GSO aggregate counts as the packets that it stands for.
    pub packets: u64,
    /// Bytes above UDP or TCP: datagram payload (SRTP tag included), or segment payload.
    pub bytes: u64,
}

/// One UDP or TCP conversation over IPv4, or, in the streams' key, one direction of it.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKeyV4 {
    /// The far side's address.
    pub remote: [u8; 4],
    /// This side's address.
    pub local: [u8; 4],
    /// The far side's port.
    pub remote_port: u16,
    /// This side's port.
    pub local_port: u16,
    /// [`UDP`] or [`TCP`].
    pub proto: u8,
    /// [`RECEIVE`] or [`SEND`] within a stream's key; 0 in a flow's key.
    pub direction: u8,
    /// Zero.
    pub pad: [u8; 2],
}

/// As [`FlowKeyV4`], over IPv6.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKeyV6 {
    /// The far side's address.
    pub remote: [u8; 16],
    /// This side's address.
    pub local: [u8; 16],
    /// The far side's port.
    pub remote_port: u16,
    /// This side's port.
    pub local_port: u16,
    /// [`UDP`] or [`TCP`].
    pub proto: u8,
    /// [`RECEIVE`] or [`SEND`] within a stream's key; 0 in a flow's key.
    pub direction: u8,
    /// Zero.
    pub pad: [u8; 2],
}

macro_rules! words {
    ($key:ty, $words:literal) => {
        impl $key {
            /// From words: remote and local address in network order, then what [`ends`] gives.
            #[inline(always)]
            pub const fn from_words(words: [u32; $words]) -> Self {
                // SAFETY: integers on both sides, as many bytes, no padding.
                unsafe { core::mem::transmute(words) }
            }

            /// The inverse of [`Self::from_words`].
            #[inline(always)]
            pub const fn words(self) -> [u32; $words] {
                // SAFETY: as above.
                unsafe { core::mem::transmute(self) }
            }

            /// As the flows' table has it.
            #[inline(always)]
            pub fn without_direction(mut self) -> Self {
                // SAFETY: the key's last word, within it and aligned.
                unsafe {
                    let last = (&raw mut self).cast::<u32>().add($words - 1);
                    *last &= u32::from_ne_bytes([0xff, 0, 0xff, 0xff]);
                }
                self
            }
        }
    };
}

words!(FlowKeyV4, 4);
words!(FlowKeyV6, 10);

/// Ports, protocol and direction, as the two words that end a flow's key.
#[inline(always)]
pub const fn ends(remote_port: u16, local_port: u16, proto: u8, direction: u8) -> [u32; 2] {
    let ([a, b], [c, d]) = (remote_port.to_ne_bytes(), local_port.to_ne_bytes());
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([proto, direction, 0, 0])]
}

/// The key of a flow that the observer told, in the table `TOLD_V4`: a flow's key with `local` zero,
/// because a server may announce another local address than the one that packets carry.
pub type ToldKeyV4 = FlowKeyV4;
/// As [`ToldKeyV4`], over IPv6.
pub type ToldKeyV6 = FlowKeyV6;

/// One RTP stream in one direction of a flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StreamKeyV4 {
    /// The flow, with its direction set.
    pub flow: FlowKeyV4,
    /// RTP synchronisation source (RFC 3550 §5.1).
    pub ssrc: u32,
}

/// As [`StreamKeyV4`], over IPv6.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct StreamKeyV6 {
    /// The flow, with its direction set.
    pub flow: FlowKeyV6,
    /// RTP synchronisation source (RFC 3550 §5.1).
    pub ssrc: u32,
}

/// The flow is known: the observer told it, or both sides proved it. Set once, never cleared.
/// In a stream's flags it means that the stream's flow is.
pub const KNOWN: u32 = 1 << 0;
/// The far side sent something.
pub const SEEN_RECEIVE: u32 = 1 << 1;
/// This side sent what it sends to no stranger: RTP, RTCP, DTLS, or a STUN success response (over TCP
/// in a frame, RFC 4571). An SFU answers forged STUN requests with STUN errors, so those prove
/// nothing; nor does other TCP payload, which may be any server's.
pub const PROVED_SEND: u32 = 1 << 2;

/// What one flow carried, apart from RTP that has a [`StreamValue`] of its own: a flow's RTP is
/// `counts[_][Class::Rtp]` plus the sum over its streams.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowValue {
    /// [`KNOWN`], [`SEEN_RECEIVE`], [`PROVED_SEND`].
    pub flags: u32,
    /// Streams that the flow has in the stream table, both directions together.
    pub streams: u32,
    /// Kernel jiffies (`bpf_jiffies64`) of the last packet that touched this value.
    pub last_seen: u64,
    /// By direction, then by class.
    pub counts: [[Counter; CLASSES]; DIRECTIONS],
}

/// What one SSRC carried in one direction of a flow, with its sequence state (RFC 3550 A.1, A.3) and
/// its jitter (A.8).
///
/// The first cache line holds what every packet writes or tests. It is written under `lock`; a packet that
/// finds the lock taken for too long adds itself atomically to `contended` and leaves the sequence
/// state alone, so packets and bytes stay exact.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamValue {
    /// 0 free, 1 taken.
    pub lock: u32,
    /// [`KNOWN`].
    pub flags: u32,
    /// Packets and RTP bytes (header, CSRCs, extensions, payload, padding, and the SRTP tag where
    /// there is one), without those in `contended`.
    pub total: Counter,
    /// Jiffies of the last packet.
    pub last_seen: u64,
    /// Packets that RFC 3550 A.1 accepts as part of the sequence, duplicates included.
    pub received: u64,
    /// Highest extended sequence number (cycles · 65536 + sequence) of the current run.
    pub max_seq: u64,
    /// Bit n is set when extended sequence number `max_seq − n` was received.
    pub window: u64,
    /// Payload type (0–127) of the last packet.
    pub payload_type: u32,
    /// The packet, as the low half of `total.packets`, from which on jitter wants the clock read.
    pub next_sample: u32,
    // -- 64 bytes --
    /// Extended sequence number of the current run's first packet.
    pub base_seq: u64,
    /// Packets expected in the runs before the current one (a run ends when the source restarts its
    /// sequence): expected = `expected_prior` + `max_seq` − `base_seq` + 1.
    pub expected_prior: u64,
    /// Packets that arrived after one with a higher sequence number, duplicates not included.
    pub out_of_order: u64,
    /// Packets whose sequence number had been received within the last 64.
    pub duplicates: u64,
    /// Runs begun after the first.
    pub restarts: u32,
    /// The sequence number that would confirm a restart (RFC 3550 A.1 `bad_seq`), or 65537.
    pub bad_seq: u32,
    /// When the packet came whose successor makes a sample of jitter: nanoseconds, 0 for none.
    pub sample_arrival: u64,
    /// Its RTP timestamp.
    pub sample_timestamp: u32,
    /// Interarrival jitter (RFC 3550 A.8) if the stream's clock were this [`Clock`]: sixteenths of a
    /// microsecond, at most a second; see [`crate::jitter`].
    pub jitter: [u32; CLOCKS],
    /// Packets that found the lock taken; their bytes.
    pub contended: Counter,
}

/// Words of the longest key of a stream.
pub const KEY_WORDS: usize = size_of::<StreamKeyV6>() / 4;

/// A slot of the table `STREAMS`; see [`crate::table`]. Three cache lines.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamSlot {
    /// What was counted.
    pub value: StreamValue,
    /// A [`StreamKeyV4`], which leaves the rest as it was, or a [`StreamKeyV6`].
    pub key: [u32; KEY_WORDS],
    /// 4 or 6: which of them.
    pub family: u32,
}

/// Causes and sums that belong to no flow. Indexes the per-CPU array `EVENTS` of [`Counter`], one
/// for each event and direction: index = event · [`DIRECTIONS`] + direction.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Too short for the headers it announces.
    Truncated = 0,
    /// Impossible header length or version.
    Malformed = 1,
    /// More IPv6 extension headers than are followed.
    TooManyExtensions = 2,
    /// A fragment but the first: it has no ports. Bytes of IP payload.
    LaterFragment = 3,
    /// The local address is none that is counted here (`LOCAL_*`): forwarded traffic.
    NotLocal = 4,
    /// Seen before on another interface of this host.
    SeenBefore = 5,
    /// No room for another known flow: a new one is counted here only; a stranger's that would have
    /// become known stays a stranger's, and is counted there too.
    FlowsFull = 6,
    /// No room for another known stream: a new one is counted in its flow's RTP; a stranger's stays
    /// one.
    StreamsFull = 7,
    /// No room for another stranger's flow: counted here only, on every interface that it passes,
    /// and perhaps [`Event::NotLocal`] (where there is no room, nobody looks).
    StrangersFull = 8,
    /// No room for another stranger's stream: counted in its flow's RTP.
    StrangerStreamsFull = 9,
    /// The flow has its share of SSRCs: counted in its flow's RTP.
    SsrcsFull = 10,
    /// The kernel had no memory for a new flow, or the map's own limit was hit; or a new stream found
    /// both of its buckets full, or their lock taken for too long: counted in its flow's RTP.
    InsertFailed = 11,
    /// A stream's lock stayed taken: counted in `contended`, not in its sequence state.
    Contended = 12,
    /// An RTP header that does not fit its datagram: counted in its flow as [`Class::Other`].
    BadRtp = 13,
    /// The local port is looked at, but in the local address' network namespace no worker's socket has it
    /// ([`PortKey`]): another program's traffic.
    NotOwned = 14,
    /// The far side's address has as much room as one may have that no server told (`GREEDY_*`): a flow that
    /// would have become known stays a stranger's, a new stream is counted in its flow's RTP.
    ShareFull = 15,
}

impl Event {
    /// In the order of their numbers.
    pub const ALL: [Self; EVENTS] = [
        Self::Truncated,
        Self::Malformed,
        Self::TooManyExtensions,
        Self::LaterFragment,
        Self::NotLocal,
        Self::SeenBefore,
        Self::FlowsFull,
        Self::StreamsFull,
        Self::StrangersFull,
        Self::StrangerStreamsFull,
        Self::SsrcsFull,
        Self::InsertFailed,
        Self::Contended,
        Self::BadRtp,
        Self::NotOwned,
        Self::ShareFull,
    ];
}

/// Number of [`Event`]s.
pub const EVENTS: usize = 16;

/// Occupancy that admission works on, in the shared array `OCCUPANCY` of u64 (one table for both
/// address families). The kernel adds, userspace takes back what it deletes.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Occupancy {
    /// Known flows.
    Flows = 0,
    /// Known flows' streams.
    Streams = 1,
    /// Strangers' flows.
    Strangers = 2,
    /// Strangers' streams.
    StrangerStreams = 3,
}

/// Addresses that the tables `GREEDY_*` hold, each.
pub const MOST_GREEDY: u32 = 1024;

/// Streams of a told flow, of both directions, that have room in what is kept for those who are told; further
/// ones have it with those whom only their traffic proved.
pub const RESERVED_SSRCS: u32 = 64;

/// Number of [`Occupancy`] cells.
pub const OCCUPANCIES: usize = 4;

/// Where the number stands in `skb->tc_index` that says which exporter counted a frame: six bits, never 0.
pub const TAG_SHIFT: u32 = 8;
/// The largest such number.
pub const MOST_TAG: u8 = 63;

/// A local end that a socket is bound to. Key of the table `OWNED_PORTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PortKey {
    /// Cookie of the network namespace (SO_NETNS_COOKIE).
    pub namespace: u64,
    /// The address, IPv4 as IPv4-mapped IPv6. All zero: every address of both families, unless `v6_only`.
    pub address: [u32; 4],
    /// The port, in host order.
    pub port: u16,
    /// [`UDP`] or [`TCP`].
    pub proto: u8,
    /// 1: an address that is all zero stands for IPv6's only (IPV6_V6ONLY). 0 with every other address.
    pub v6_only: u8,
    /// Zero.
    pub pad: [u8; 4],
}

/// The third word of an IPv4-mapped IPv6 address, in network order; the first two are zero.
pub const MAPPED: u32 = 0x0000_ffff_u32.to_be();

impl PortKey {
    /// Of UDP and TCP over IPv4; the address in network order.
    #[inline(always)]
    pub const fn v4(namespace: u64, address: u32, proto: u8, port: u16) -> Self {
        Self::v6(namespace, [0, 0, MAPPED, address], proto, port)
    }

    /// Of UDP and TCP over IPv6; the address in network order.
    #[inline(always)]
    pub const fn v6(namespace: u64, address: [u32; 4], proto: u8, port: u16) -> Self {
        Self { namespace, address, port, proto, v6_only: 0, pad: [0; 4] }
    }
}

/// Sockets that can have one local end at once (SO_REUSEPORT) and be told apart there.
pub const SHARERS: usize = 8;

/// Who has a local end: cookies of workers' sockets, 0 for none. Value of the table `OWNED_PORTS`.
pub type Sharers = [u64; SHARERS];

/// A worker's socket that is bound. Value of the table `OWNED_SOCKETS`, by the socket's cookie.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct OwnedSocket {
    /// Where it is bound.
    pub end: PortKey,
    /// Process that bound it, or that was found to have it.
    pub process: u32,
    /// 1: in the room of processes that userspace knows for workers. 0: in that of those which only call
    /// themselves so.
    pub is_verified: u32,
}

/// A process that userspace knows for a worker. Value of the table `SFU_PROCESSES`, by its number.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SfuProcess {
    /// Sockets that it may own.
    pub quota: u32,
    /// Sockets that it owns.
    pub sockets: u32,
}

/// Bytes of a process' name (TASK_COMM_LEN), the rest zero.
pub type Comm = [u8; 16];

/// A process of whose sockets nobody needs to hear, under the name that the binding thread has: it may
/// become another program. Key of the table `NOBODIES`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Nobody {
    /// The thread's name.
    pub comm: Comm,
    /// The process.
    pub process: u32,
}

/// How a worker's thread calls itself, as far as a name goes.
pub const WORKER_COMM: &[u8; 15] = b"mediasoup-worke";

/// What happened to a socket.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Happened {
    /// A worker bound it: it is owned.
    Owned = 0,
    /// Somebody bound it of whom nothing is known.
    Bound = 1,
    /// It was owned, and has been closed.
    Released = 2,
    /// A worker bound it, and there was no room for it.
    Refused = 3,
}

/// A socket that was bound or closed: what goes through the ring `BINDS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bind {
    /// The socket.
    pub cookie: u64,
    /// What it is bound to, and by whom.
    pub socket: OwnedSocket,
    /// The thread's name.
    pub comm: Comm,
    /// A [`Happened`].
    pub happened: u32,
    /// Zero.
    pub pad: u32,
}

/// Sums over workers' sockets, in the shared array `OWNERSHIP` of u64.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ownership {
    /// Owned sockets of processes that userspace knows for workers.
    Verified = 0,
    /// Owned sockets of processes that only call themselves so.
    Claimed = 1,
    /// What the ring had no room for.
    Lost = 2,
    /// A worker's sockets that were turned away for want of room.
    Refused = 3,
}

/// Number of [`Ownership`] cells.
pub const OWNERSHIPS: usize = 4;

/// What userspace asks of the program `own`, which no interface ever runs: the data of a
/// BPF_PROG_TEST_RUN, whose return value is 1 if it was done.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// Zero. A test run wants room for an Ethernet header.
    pub ethernet: [u8; 16],
    /// An [`Order`].
    pub order: u32,
    /// Of [`Order::Open`]: the word's number.
    pub word: u32,
    /// Of [`Order::Open`]: the bits. Of [`Order::Admit`]: the quota.
    pub bits: u32,
    /// Zero.
    pub pad: u32,
    /// The socket.
    pub cookie: u64,
    /// What it is bound to, and by whom.
    pub socket: OwnedSocket,
}

/// An order of [`Own`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// The socket is a worker's. Not done: there is no room.
    Own = 0,
    /// It is not, or not any more.
    Disown = 1,
    /// The process of a claimed socket is known for a worker: it moves to the verified ones' room.
    Verify = 2,
    /// The packets of the port need not be looked at any more, unless somebody owns it.
    Close = 3,
    /// Forget the end in `OWNED_PORTS`, unless somebody owns it, as its last socket's release did if it could.
    Forget = 4,
    /// Have packets of these ports looked at, whoever owns them ([`crate::ports::place`]).
    Open = 5,
    /// The process is a worker, and may own so many sockets.
    Admit = 6,
    /// An owned socket takes its place at its end, if one of the [`SHARERS`] is free. Not done: it is not owned.
    Join = 7,
}

/// What userspace asks of the program `tend`, which no interface ever runs: the data of a
/// BPF_PROG_TEST_RUN. The run's return value is the low half of the kernel's jiffies.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tend {
    /// Zero. A test run wants room for an Ethernet header.
    pub ethernet: [u8; 16],
    /// 4 or 6: take `streams` off [`FlowValue::streams`] of the flow. 0: tell the time only.
    pub family: u32,
    /// How many streams of the flow userspace deleted.
    pub streams: u32,
    /// The flow; a [`FlowKeyV4`] fills the first 16 bytes.
    pub key: FlowKeyV6,
}

const _: () = {
    use core::mem::{align_of, offset_of, size_of};
    assert!(size_of::<FlowKeyV4>() == 16 && align_of::<FlowKeyV4>() == 4);
    assert!(size_of::<FlowKeyV6>() == 40 && align_of::<FlowKeyV6>() == 4);
    assert!(size_of::<StreamKeyV4>() == 20 && align_of::<StreamKeyV4>() == 4);
    assert!(size_of::<StreamKeyV6>() == 44 && align_of::<StreamKeyV6>() == 4);
    assert!(size_of::<Counter>() == 16);
    assert!(size_of::<FlowValue>() == 176 && align_of::<FlowValue>() == 8);
    assert!(size_of::<StreamValue>() == 144 && align_of::<StreamValue>() == 8);
    assert!(offset_of!(StreamValue, base_seq) == 64);
    assert!(size_of::<StreamSlot>() == 192 && offset_of!(StreamSlot, value) == 0);
    assert!(size_of::<Tend>() == 64 && align_of::<Tend>() == 4);
    assert!(size_of::<PortKey>() == 32 && align_of::<PortKey>() == 8);
    assert!(size_of::<OwnedSocket>() == 40);
    assert!(size_of::<Bind>() == 72);
    assert!(size_of::<Own>() == 80 && offset_of!(Own, socket) == 40);
};
