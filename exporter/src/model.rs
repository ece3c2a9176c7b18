//! The words that all other modules speak: identifiers, addresses, and what was counted.
//!
//! Only plain values live here: no I/O, no clock, no policy.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use exporter_ebpf::abi::CLOCKS;

/// The scrape's number. Where nobody asks a clock, time passes as ticks that the caller counts.
pub type Tick = u64;

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Eq, PartialOrd, Ord)]
        pub struct $name(pub Arc<str>);

        // The state keeps equal texts once (`texts`), so that mostly the pointers decide and
        // the text need not be fetched from memory.
        impl PartialEq for $name {
            #[inline]
            fn eq(&self, other: &Self) -> bool {
                Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
            }
        }

        impl Hash for $name {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.0.hash(state);
            }
        }

        impl $name {
            /// The identifier as text, unescaped, as the server told it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

identifier!(
    /// A room's name as users know it (edumeet 4: `tenantId/roomId`), or the router's room session
    /// where nothing better is known.
    RoomId
);
identifier!(
    /// A participant's id, unique within one server.
    PeerId
);
identifier!(
    /// mediasoup `transport.id`, a UUID.
    TransportId
);
identifier!(
    /// mediasoup `producer.id`, a UUID; `pipeToRouter` gives the piped copy the same id.
    ProducerId
);
identifier!(
    /// mediasoup `consumer.id`, a UUID.
    ConsumerId
);

/// One server that tells: an observer socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId(pub u32);

/// mediasoup `router.id`, a UUID.
pub type RouterId = Arc<str>;

/// A room: two servers may have rooms of the same name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomKey {
    /// Who told it.
    pub source: SourceId,
    /// Its name.
    pub id: RoomId,
}

/// A participant: two servers may have peers of the same id.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerKey {
    /// Who told it.
    pub source: SourceId,
    /// Its id.
    pub id: PeerId,
}

/// Transport protocol of a tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Proto {
    /// UDP.
    Udp,
    /// TCP (ICE-TCP, RFC 6544).
    Tcp,
}

impl Proto {
    /// `udp` or `tcp`, as mediasoup writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        }
    }
}

/// Seen from the SFU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// From the far side to the SFU.
    Receive,
    /// From the SFU to the far side.
    Send,
}

/// What a datagram carries; see [`exporter_ebpf::abi::Class`].
pub use exporter_ebpf::abi::Class;

/// An RTP clock; see [`exporter_ebpf::abi::Clock`].
pub use exporter_ebpf::abi::Clock;

/// Packets and bytes; see [`exporter_ebpf::abi::Counter`].
pub use exporter_ebpf::abi::Counter;

/// A 5-tuple. IPv4-mapped IPv6 addresses never occur here: use [`Tuple::new`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tuple {
    /// UDP or TCP.
    pub proto: Proto,
    /// The SFU's end.
    pub local: SocketAddr,
    /// The far end.
    pub remote: SocketAddr,
}

impl Tuple {
    /// A tuple with IPv4-mapped addresses turned into IPv4.
    pub fn new(proto: Proto, local: SocketAddr, remote: SocketAddr) -> Self {
        Self { proto, local: canonical(local), remote: canonical(remote) }
    }

    /// What kernel and server agree on.
    pub fn join_key(&self) -> JoinKey {
        JoinKey { proto: self.proto, local_port: self.local.port(), remote: self.remote }
    }
}

/// The part of a tuple that the kernel and the server agree on: the server may announce another
/// local address than the one that packets carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JoinKey {
    /// UDP or TCP.
    pub proto: Proto,
    /// The SFU's port.
    pub local_port: u16,
    /// The far end, never IPv4-mapped.
    pub remote: SocketAddr,
}

/// The address without IPv4-mapping, flow label and scope.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(canonical_ip(address.ip()), address.port())
}

/// The address, as IPv4 where it is IPv4-mapped IPv6 (RFC 4291 §2.5.5.2).
pub fn canonical_ip(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// One reading of what was counted, from the kernel or the packet-capture fallback. Counters are
/// totals since the tables were made (pinned tables outlive the exporter).
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Flows, in no order; each tuple once.
    pub flows: Vec<Flow>,
    /// Streams, in no order; each (tuple, direction, SSRC) once.
    pub streams: Vec<Stream>,
    /// By [`exporter_ebpf::abi::Event`], then by [`Direction`].
    pub events: Vec<[Counter; 2]>,
    /// Entries and bounds of each table.
    pub tables: Vec<TableFill>,
}

/// One flow's counters.
#[derive(Clone, Debug)]
pub struct Flow {
    /// The 5-tuple.
    pub tuple: Tuple,
    /// Told by the observer, or proven by traffic in both directions; false: a stranger.
    pub known: bool,
    /// Seconds since the last packet that touched the flow's own counters.
    pub idle_seconds: u32,
    /// The table let go of this flow with this reading; these are its last values, and the same
    /// tuple begins again from zero.
    pub ended: bool,
    /// Streams that it has in the table, both directions together.
    pub streams: u32,
    /// By [`Direction`], then by [`Class`]. Streams' RTP is *not* in here: a flow's RTP is this plus
    /// the sum over its streams.
    pub counts: [[Counter; 5]; 2],
}

/// One SSRC in one direction of a flow.
#[derive(Clone, Debug)]
pub struct Stream {
    /// The 5-tuple.
    pub tuple: Tuple,
    /// Receive: a producer's stream. Send: a consumer's.
    pub direction: Direction,
    /// RTP synchronisation source.
    pub ssrc: u32,
    /// Whose room it takes: its flow was known when it was made, or when its last packet came. False
    /// in a known flow: it has said nothing since.
    pub known: bool,
    /// Seconds since the last packet.
    pub idle_seconds: u32,
    /// As in [`Flow::ended`].
    pub ended: bool,
    /// RTP payload type of the last packet, 0–127.
    pub payload_type: u8,
    /// All packets and their RTP bytes (header to padding, and the SRTP tag where there is one).
    pub total: Counter,
    /// Packets within the sequence (RFC 3550 A.1), duplicates included.
    pub received: u64,
    /// Packets expected from the sequence numbers (RFC 3550 A.3).
    pub expected: u64,
    /// Packets that came after one with a higher sequence number.
    pub out_of_order: u64,
    /// Packets whose number had come within the last 64.
    pub duplicates: u64,
    /// Times the source began a new sequence.
    pub restarts: u32,
    /// Interarrival jitter by [`Clock`], of which one is the stream's: sixteenths of a microsecond
    /// (RFC 3550 A.8). Zero where none is kept.
    pub jitter: [u32; CLOCKS],
}

/// How full a bounded table is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableFill {
    /// `flows`, `streams`, `stranger_flows`, `stranger_streams`, …
    pub table: &'static str,
    /// Entries now.
    pub entries: u64,
    /// Entries at most.
    pub capacity: u64,
}

/// One socket in the SFU's port range, as the kernel's socket diagnosis tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketStats {
    /// UDP or TCP.
    pub proto: Proto,
    /// Its own end.
    pub local: SocketAddr,
    /// Its far end; `None` for UDP sockets, which are not connected, and for listening ones.
    pub remote: Option<SocketAddr>,
    /// Datagrams that the kernel threw away because the socket was full, since it was opened.
    pub drops: u64,
    /// Memory that waits to be read (`sk_rmem_alloc`).
    pub receive_queue_bytes: u64,
    /// Memory that waits to be sent (`sk_wmem_alloc`).
    pub send_queue_bytes: u64,
    /// TCP only.
    pub tcp: Option<TcpStats>,
}

/// What the kernel's `tcp_info` tells of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpStats {
    /// Smoothed round trip time, microseconds.
    pub round_trip_time_us: u32,
    /// Segments sent again since the connection was opened.
    pub retransmits: u64,
}

/// What the host does to packets, and what the workers take of it; counts of the kernel's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostLoad {
    /// The SFU's workers.
    pub workers: Vec<WorkerLoad>,
    /// Processors that are online.
    pub processors: Vec<ProcessorLoad>,
    /// Of IPv4, then of IPv6; `None` where it cannot be read or is not there.
    pub udp: [Option<UdpLoad>; 2],
    /// Interfaces that are counted on.
    pub interfaces: Vec<InterfaceLoad>,
}

/// What a worker has taken of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerLoad {
    /// Its process, by the host's number.
    pub pid: u32,
    /// Processor time since it began, in its own code and in the kernel; the kernel tells ticks, mostly of
    /// 10 ms.
    pub processor_micros: u64,
    /// Memory that is not swapped out.
    pub resident_bytes: u64,
}

/// What one processor did with what came in (`softnet_stat`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessorLoad {
    /// Its number.
    pub number: u64,
    /// Packets that it took from interfaces.
    pub packets: u64,
    /// Packets that it dropped, because its queue was full (`net.core.netdev_max_backlog`).
    pub dropped: u64,
    /// Times that it had to stop with packets left over (`net.core.netdev_budget`).
    pub squeezed: u64,
}

/// Datagrams that UDP did not deliver or send: for want of room in the receiving socket, in the sending
/// one, of memory, for a wrong checksum, and because nobody has the port. `None`: the kernel has no such
/// count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpLoad(pub [Option<u64>; 5]);

/// Packets that an interface lost, in each direction: errors, drops, overruns (`/proc/net/dev`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceLoad {
    /// Its name.
    pub name: String,
    /// What came in.
    pub receive: [u64; 3],
    /// What was to go out.
    pub send: [u64; 3],
}

/// Audio or video.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MediaKind {
    /// `audio`
    Audio,
    /// `video`
    Video,
}

impl MediaKind {
    /// `audio` or `video`, as mediasoup writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Audio => "audio",
            Self::Video => "video",
        }
    }

    /// The clock of a codec by its MIME subtype, where that says it: some audio codecs of mediasoup's
    /// (SILK, ISAC, CN) have several.
    pub fn clock(self, codec: &str) -> Option<Clock> {
        let is_any = |names: &[&str]| names.iter().any(|name| name.eq_ignore_ascii_case(codec));
        match self {
            Self::Video => Some(Clock::Khz90),
            Self::Audio if is_any(&["opus", "multiopus"]) => Some(Clock::Khz48),
            Self::Audio if is_any(&["PCMU", "PCMA", "G722", "iLBC"]) => Some(Clock::Khz8),
            Self::Audio => None,
        }
    }
}

/// Kind of a mediasoup transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TransportKind {
    /// WebRtcTransport, with ports of its own or on a WebRtcServer.
    WebRtc,
    /// PlainTransport (PlainRtpTransport before 3.5).
    Plain,
    /// PipeTransport, between routers.
    Pipe,
    /// DirectTransport: no network.
    Direct,
}

/// A transport as the server tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct Transport {
    /// Its id.
    pub id: TransportId,
    /// Who told it.
    pub source: SourceId,
    /// Its kind.
    pub kind: TransportKind,
    /// Its router, empty where that is not known. It says the room and the worker's process id.
    pub router: RouterId,
    /// Peer that owns it, where a server tells it.
    pub owner: Option<PeerKey>,
    /// RTP tuple, and RTCP tuple where it is another; empty before ICE has selected one.
    pub tuples: Vec<ServerTuple>,
    /// `new`, `connected`, `completed`, `disconnected`, `closed`; WebRtcTransport only.
    pub ice_state: Option<Arc<str>>,
    /// `new`, `connecting`, `connected`, `failed`, `closed`; WebRtcTransport only.
    pub dtls_state: Option<Arc<str>>,
}

/// A tuple as the server tells it: the local address may be announced, or a host name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTuple {
    /// UDP or TCP.
    pub proto: Proto,
    /// `ip` or name, without the port, exactly as told (never joined on).
    pub local_address: Arc<str>,
    /// The SFU's port.
    pub local_port: u16,
    /// The far end, never IPv4-mapped; `None` while a plain transport waits for its first packet.
    pub remote: Option<SocketAddr>,
}

impl ServerTuple {
    /// What kernel and server agree on.
    pub fn join_key(&self) -> Option<JoinKey> {
        self.remote.map(|remote| JoinKey { proto: self.proto, local_port: self.local_port, remote })
    }
}

/// One encoding of a producer or consumer: an SSRC, and the SSRC that repeats it (RFC 4588).
#[derive(Clone, Debug, PartialEq)]
pub struct Encoding {
    /// Media SSRC; `None` while a RID's SSRC is not yet known.
    pub ssrc: Option<u32>,
    /// RTX SSRC.
    pub rtx: Option<u32>,
    /// Simulcast RID (RFC 8852).
    pub rid: Option<Arc<str>>,
    /// mediasoup's score of this encoding, 0–10.
    pub score: Option<u8>,
    /// Last `getStats` entry of this encoding.
    pub stats: Option<StreamStats>,
}

/// What only the worker knows (mediasoup `RtpStreamRecv`/`RtpStreamSend` stats).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StreamStats {
    /// RTP header and payload without the SRTP tag; a producer's includes repaired RTX, a
    /// consumer's excludes RTX and probation.
    pub byte_count: u64,
    /// Lost packets; negative when duplicates outnumber losses (RFC 3550 A.3).
    pub packets_lost: i64,
    /// Loss that the far side reported in its last receiver report, 0–255 (RFC 3550 §6.4.1).
    pub fraction_lost: u8,
    /// Milliseconds.
    pub round_trip_time: Option<f64>,
    /// By [`Repair`], since the encoding began; `None`: the server does not tell.
    pub repairs: Option<Repairs>,
}

/// What was done about what is missing, as mediasoup's `getStats` counts it (the names in brackets).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Packets that were received and thrown away (`packetsDiscarded`).
    Discarded = 0,
    /// Packets that were sent again: to mediasoup for a producer, by it for a consumer (`packetsRetransmitted`).
    Retransmitted = 1,
    /// Lost packets that came after all (`packetsRepaired`).
    Repaired = 2,
    /// Packets that the receiver asked for again (`nackPacketCount`; RFC 4585 §6.2.1).
    Nacked = 3,
    /// Key frames that the receiver asked for (`pliCount` and `firCount`; RFC 4585 §6.3.1, RFC 5104 §4.3.1).
    KeyFrames = 4,
}

/// Counts by [`Repair`].
pub type Repairs = [u64; 5];

/// A producer as the server tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct Producer {
    /// Its id.
    pub id: ProducerId,
    /// Who told it.
    pub source: SourceId,
    /// The transport that receives it.
    pub transport: TransportId,
    /// Peer that sends it, where a server tells it.
    pub owner: Option<PeerKey>,
    /// Peer that its own `appData` names.
    pub announced: Option<PeerId>,
    /// Audio or video.
    pub kind: MediaKind,
    /// MIME subtype as mediasoup sends it: `opus`, `VP8`.
    pub codec: Arc<str>,
    /// By SSRC or RID; one for a producer without simulcast.
    pub encodings: Vec<Encoding>,
    /// Paused by the server's own wish.
    pub paused: bool,
}

/// A consumer as the server tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct Consumer {
    /// Its id.
    pub id: ConsumerId,
    /// Who told it.
    pub source: SourceId,
    /// What it consumes.
    pub producer: ProducerId,
    /// The transport that sends it.
    pub transport: TransportId,
    /// Peer that receives it, where a server tells it.
    pub owner: Option<PeerKey>,
    /// Audio or video.
    pub kind: MediaKind,
    /// MIME subtype as mediasoup sends it.
    pub codec: Arc<str>,
    /// Usually one; several for a pipe consumer of a simulcast producer.
    pub encodings: Vec<Encoding>,
    /// mediasoup's score of the consumer, 0–10.
    pub score: Option<u8>,
    /// mediasoup's score of the producer's encoding that is being sent, 0–10.
    pub producer_score: Option<u8>,
    /// Current spatial layer, where there is one.
    pub spatial_layer: Option<u8>,
    /// Current temporal layer, where there is one.
    pub temporal_layer: Option<u8>,
    /// Paused itself.
    pub paused: bool,
    /// Its producer is paused.
    pub producer_paused: bool,
}

/// A participant as the server tells it. All strings are strangers' input.
#[derive(Clone, Debug, PartialEq)]
pub struct Peer {
    /// Its id.
    pub id: PeerId,
    /// Who told it.
    pub source: SourceId,
    /// The room it is in.
    pub room: Option<RoomId>,
    /// The name that it chose.
    pub display_name: Arc<str>,
    /// Its browser's User-Agent header.
    pub user_agent: Arc<str>,
}

impl Peer {
    /// What it is known by.
    pub fn key(&self) -> PeerKey {
        PeerKey { source: self.source, id: self.id.clone() }
    }
}

/// SSRC of mediasoup's bandwidth probation packets.
pub const PROBATION_SSRC: u32 = 1234;
