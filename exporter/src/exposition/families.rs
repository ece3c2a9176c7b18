//! Every family that is exported: its name, its meaning, and where its samples are.
//!
//! The order here is the order in a scrape. `docs/metrics.md` is made from this.

use crate::exposition::rows;
use crate::exposition::text::{Head, Lines, MetricType, Micros};
use crate::ledger::View;
use crate::model::Repair;

/// Families that are switched on and off together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    /// The replaced exporter's families.
    Contract,
    /// What people read: rooms, peers, transports, producers, consumers.
    Info,
    /// What servers say of producers and consumers, beyond the contract.
    Objects,
    /// 5-tuples, as counted on the wire.
    Connections,
    /// SSRCs, as counted on the wire.
    Streams,
    /// Unknown far ends, in aggregate, and how much of the known traffic found its owner.
    Strangers,
    /// The SFU's sockets.
    Sockets,
    /// Peers with a bad call, and where it goes wrong.
    Verdicts,
    /// What the host does to packets, and what the workers take of it.
    Host,
}

/// Where a family's values come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The servers' observer sockets: state that costs no worker request.
    Observer,
    /// mediasoup's `getStats`, asked for at the stats interval.
    Stats,
    /// Packets counted by the kernel, or by packet capture.
    Packets,
    /// The kernel's socket diagnosis.
    Sockets,
    /// The history: all of these over the last minute.
    History,
    /// The kernel's own counts, in /proc.
    Host,
}

/// One family.
pub struct Family {
    /// In the text format.
    pub name: &'static str,
    /// What its value means.
    pub kind: MetricType,
    /// Base unit; empty where there is none.
    pub unit: &'static str,
    /// One sentence for the HELP line.
    pub help: &'static str,
    /// Labels in their order.
    pub labels: &'static [&'static str],
    /// What it is switched on and off with.
    pub group: Group,
    /// Where its values come from.
    pub origin: Origin,
    /// Writes samples from a place on; `Some` is the place to go on from when the buffer was full.
    pub(crate) rows: fn(&View, usize, &mut Lines<'_>) -> Option<usize>,
}

impl Family {
    /// What stands before its samples.
    pub(crate) fn head(&self) -> Head {
        let Self { name, kind, unit, help, .. } = *self;
        Head { name, kind, unit, help }
    }
}

impl Group {
    /// All, in the order of their first family.
    pub const ALL: [Self; 9] = [
        Self::Contract,
        Self::Info,
        Self::Objects,
        Self::Connections,
        Self::Streams,
        Self::Strangers,
        Self::Sockets,
        Self::Verdicts,
        Self::Host,
    ];

    /// As a request names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Contract => "contract",
            Self::Info => "info",
            Self::Objects => "objects",
            Self::Connections => "connections",
            Self::Streams => "streams",
            Self::Strangers => "strangers",
            Self::Sockets => "sockets",
            Self::Verdicts => "verdicts",
            Self::Host => "host",
        }
    }
}

const CONTRACT: &[&str] = &[
    "pid",
    "room_id",
    "peer_id",
    "display_name",
    "user_agent",
    "transport_id",
    "proto",
    "local_addr",
    "remote_addr",
    "id",
    "kind",
    "codec",
    "type",
];
const OBJECT: &[&str] = &["transport_id", "id"];
const CONNECTION: &[&str] = &["transport_id", "proto", "local_addr", "remote_addr", "class"];
const STREAM: &[&str] = &["transport_id", "id", "ssrc", "role"];
const SOCKET: &[&str] = &["proto", "local_addr", "remote_addr"];

/// A counter of those who have no series of their own, by class; `counts[0]` is what they sent.
macro_rules! of_classes {
    ($name:literal, $unit:literal, $help:literal, |$view:ident| $sum:expr,
     counts[$direction:literal].$what:ident) => {
        Family {
            name: $name,
            kind: MetricType::Counter,
            unit: $unit,
            help: $help,
            labels: &["class"],
            group: Group::Strangers,
            origin: Origin::Packets,
            rows: |$view, _, lines| {
                rows::by_class($sum, lines, |counts, class| counts[$direction][class].$what)
            },
        }
    };
}

/// A counter of what was done about losses, of each producer or consumer (`$objects`), in packets or requests.
macro_rules! of_repairs {
    ($name:literal, $help:literal, $objects:ident, $repair:ident) => {
        Family {
            name: $name,
            kind: MetricType::Counter,
            unit: "",
            help: $help,
            labels: OBJECT,
            group: Group::Objects,
            origin: Origin::Stats,
            rows: |view, start, lines| {
                rows::$objects(view, start, lines, |object| object.totals.repaired(Repair::$repair))
            },
        }
    };
}

/// All families.
pub static FAMILIES: &[Family] = &[
    Family {
        name: "edumeet_rooms",
        kind: MetricType::Gauge,
        unit: "",
        help: "Rooms that the servers have open; of two servers' rooms of one name, each. Sessions of \
               edumeet 4's media node are none: its room server tells the rooms.",
        labels: &[],
        group: Group::Contract,
        origin: Origin::Observer,
        rows: rows::rooms,
    },
    Family {
        name: "edumeet_peers",
        kind: MetricType::Gauge,
        unit: "",
        help: "Peers that are in a room, not in its lobby; of several servers' rooms whose names read the \
               same, in all of them.",
        labels: &["room_id"],
        group: Group::Contract,
        origin: Origin::Observer,
        rows: rows::peers,
    },
    Family {
        name: "mediasoup_producer_byte_count_bytes",
        kind: MetricType::Counter,
        unit: "bytes",
        help: "RTP header and payload bytes that mediasoup received for a producer, without SRTP tags, \
               repaired RTX included; sum of its encodings.",
        labels: CONTRACT,
        group: Group::Contract,
        origin: Origin::Stats,
        rows: |view, start, lines| rows::contract(view, 0, start, lines, |it| it.bytes),
    },
    Family {
        name: "mediasoup_consumer_byte_count_bytes",
        kind: MetricType::Counter,
        unit: "bytes",
        help: "RTP header and payload bytes that mediasoup sent for a consumer, without SRTP tags, RTX \
               and bandwidth probation; sum of its encodings.",
        labels: CONTRACT,
        group: Group::Contract,
        origin: Origin::Stats,
        rows: |view, start, lines| rows::contract(view, 1, start, lines, |it| it.bytes),
    },
    Family {
        name: "mediasoup_producer_score",
        kind: MetricType::Gauge,
        unit: "",
        help: "mediasoup's score of a producer, 0 to 10; the highest of its encodings, and of the \
               producers whose labels are equal.",
        labels: CONTRACT,
        group: Group::Contract,
        origin: Origin::Observer,
        rows: |view, start, lines| rows::contract(view, 0, start, lines, |it| it.score),
    },
    Family {
        name: "mediasoup_consumer_score",
        kind: MetricType::Gauge,
        unit: "",
        help: "mediasoup's score of a consumer, 0 to 10; the highest of the consumers whose labels are \
               equal.",
        labels: CONTRACT,
        group: Group::Contract,
        origin: Origin::Observer,
        rows: |view, start, lines| rows::contract(view, 1, start, lines, |it| it.score),
    },
    Family {
        name: "mediasoup_peer_info",
        kind: MetricType::Info,
        unit: "",
        help: "A participant, as it calls itself; once, however many read the same.",
        labels: &["peer_id", "room_id", "display_name", "user_agent"],
        group: Group::Info,
        origin: Origin::Observer,
        rows: rows::peer_info,
    },
    Family {
        name: "mediasoup_transport_info",
        kind: MetricType::Info,
        unit: "",
        help: "A transport and its RTP tuple as the server tells it: the local address may be an \
               announced one. country, city, asn and as_org are there when a database was given.",
        labels: &[
            "transport_id",
            "kind",
            "pid",
            "room_id",
            "peer_id",
            "proto",
            "local_addr",
            "remote_addr",
            "ice_state",
            "dtls_state",
            "country",
            "city",
            "asn",
            "as_org",
        ],
        group: Group::Info,
        origin: Origin::Observer,
        rows: rows::transport_info,
    },
    Family {
        name: "mediasoup_producer_info",
        kind: MetricType::Info,
        unit: "",
        help: "A producer: whose it is and what it sends.",
        labels: &["transport_id", "id", "peer_id", "room_id", "kind", "codec"],
        group: Group::Info,
        origin: Origin::Observer,
        rows: rows::producer_info,
    },
    Family {
        name: "mediasoup_consumer_info",
        kind: MetricType::Info,
        unit: "",
        help: "A consumer: whose it is and what it receives.",
        labels: &["transport_id", "id", "peer_id", "room_id", "kind", "codec", "producer_id"],
        group: Group::Info,
        origin: Origin::Observer,
        rows: rows::consumer_info,
    },
    Family {
        name: "mediasoup_transports_closed_total",
        kind: MetricType::Counter,
        unit: "",
        help: "WebRTC transports that closed, by how far their servers had told that they came: nothing (ICE \
               never had a pair), ice (DTLS was never connected) or dtls (media could flow). Those of a server \
               that ended, or that is heard no more, are not known to have closed.",
        labels: &["reached"],
        group: Group::Objects,
        origin: Origin::Observer,
        rows: rows::closed_transports,
    },
    Family {
        name: "mediasoup_transport_failures_total",
        kind: MetricType::Counter,
        unit: "",
        help: "How often WebRTC transports failed while they lived: ice (mediasoup lost the pair: iceState \
               disconnected) or dtls (the handshake failed).",
        labels: &["stage"],
        group: Group::Objects,
        origin: Origin::Observer,
        rows: rows::transport_failures,
    },
    Family {
        name: "mediasoup_producer_paused",
        kind: MetricType::Gauge,
        unit: "",
        help: "1 while the producer is paused.",
        labels: OBJECT,
        group: Group::Objects,
        origin: Origin::Observer,
        rows: |view, start, lines| {
            rows::producers(view, start, lines, |object| Some(object.gauges.paused))
        },
    },
    Family {
        name: "mediasoup_producer_packets_lost",
        kind: MetricType::Gauge,
        unit: "",
        help: "Packets that mediasoup missed of a producer (RFC 3550 A.3); negative when duplicates \
               outnumber losses.",
        labels: OBJECT,
        group: Group::Objects,
        origin: Origin::Stats,
        rows: |view, start, lines| {
            rows::producers(view, start, lines, |object| object.gauges.packets_lost)
        },
    },
    of_repairs!(
        "mediasoup_producer_packets_discarded_total",
        "Packets of a producer that reached mediasoup and were thrown away there, as it counts them \
               (packetsDiscarded).",
        producers,
        Discarded
    ),
    of_repairs!(
        "mediasoup_producer_packets_retransmitted_total",
        "Packets of a producer that came once more, by RTX or with the sequence number that they had \
               (packetsRetransmitted).",
        producers,
        Retransmitted
    ),
    of_repairs!(
        "mediasoup_producer_packets_repaired_total",
        "Packets that mediasoup missed of a producer and that came after all (packetsRepaired).",
        producers,
        Repaired
    ),
    of_repairs!(
        "mediasoup_producer_nacked_packets_total",
        "Packets of a producer that mediasoup asked the sender for again, each time that it asked \
               (nackPacketCount).",
        producers,
        Nacked
    ),
    of_repairs!(
        "mediasoup_producer_key_frame_requests_total",
        "Key frames that mediasoup asked the sender of a producer for, by PLI or FIR.",
        producers,
        KeyFrames
    ),
    Family {
        name: "mediasoup_consumer_paused",
        kind: MetricType::Gauge,
        unit: "",
        help: "1 while the consumer or its producer is paused.",
        labels: OBJECT,
        group: Group::Objects,
        origin: Origin::Observer,
        rows: |view, start, lines| {
            rows::consumers(view, start, lines, |object| Some(object.gauges.paused))
        },
    },
    Family {
        name: "mediasoup_consumer_spatial_layer",
        kind: MetricType::Gauge,
        unit: "",
        help: "Spatial layer that is sent to a consumer.",
        labels: OBJECT,
        group: Group::Objects,
        origin: Origin::Observer,
        rows: |view, start, lines| {
            rows::consumers(view, start, lines, |object| object.gauges.spatial_layer)
        },
    },
    Family {
        name: "mediasoup_consumer_temporal_layer",
        kind: MetricType::Gauge,
        unit: "",
        help: "Temporal layer that is sent to a consumer.",
        labels: OBJECT,
        group: Group::Objects,
        origin: Origin::Observer,
        rows: |view, start, lines| {
            rows::consumers(view, start, lines, |object| object.gauges.temporal_layer)
        },
    },
    Family {
        name: "mediasoup_consumer_round_trip_time_seconds",
        kind: MetricType::Gauge,
        unit: "seconds",
        help: "Round trip time to the far side, from its receiver reports; the longest of the \
               consumer's encodings.",
        labels: OBJECT,
        group: Group::Objects,
        origin: Origin::Stats,
        rows: |view, start, lines| {
            rows::consumers(view, start, lines, |object| {
                object.gauges.round_trip_time.map(crate::exposition::text::Micros)
            })
        },
    },
    Family {
        name: "mediasoup_consumer_fraction_lost_ratio",
        kind: MetricType::Gauge,
        unit: "ratio",
        help: "Share of packets that the far side missed between its last two receiver reports \
               (RFC 3550 6.4.1); the highest of the consumer's encodings.",
        labels: OBJECT,
        group: Group::Objects,
        origin: Origin::Stats,
        rows: |view, start, lines| {
            rows::consumers(view, start, lines, |object| {
                object.gauges.fraction_lost.map(crate::exposition::text::Fraction256)
            })
        },
    },
    Family {
        name: "mediasoup_consumer_packets_lost",
        kind: MetricType::Gauge,
        unit: "",
        help: "Packets that the far side missed of a consumer, from its receiver reports; negative \
               when duplicates outnumber losses.",
        labels: OBJECT,
        group: Group::Objects,
        origin: Origin::Stats,
        rows: |view, start, lines| {
            rows::consumers(view, start, lines, |object| object.gauges.packets_lost)
        },
    },
    of_repairs!(
        "mediasoup_consumer_packets_retransmitted_total",
        "Packets that mediasoup sent the far side of a consumer once more (packetsRetransmitted).",
        consumers,
        Retransmitted
    ),
    of_repairs!(
        "mediasoup_consumer_nacked_packets_total",
        "Packets of a consumer that the far side asked for again, each time that it asked \
               (nackPacketCount).",
        consumers,
        Nacked
    ),
    of_repairs!(
        "mediasoup_consumer_key_frame_requests_total",
        "Key frames that the far side of a consumer asked for, by PLI or FIR.",
        consumers,
        KeyFrames
    ),
    Family {
        name: "mediasoup_connection_receive_bytes_total",
        kind: MetricType::Counter,
        unit: "bytes",
        help: "Bytes above UDP or TCP that the far side sent: datagram payload, SRTP tags included, \
               by what it carries (RFC 7983). IP, UDP and TCP headers are not counted.",
        labels: CONNECTION,
        group: Group::Connections,
        origin: Origin::Packets,
        rows: |view, start, lines| {
            rows::connections(view, start, lines, |counts, class| counts[0][class].bytes)
        },
    },
    Family {
        name: "mediasoup_connection_receive_packets_total",
        kind: MetricType::Counter,
        unit: "",
        help: "Packets that the far side sent; an aggregate counts as the packets that it stands for, \
               TCP as segments.",
        labels: CONNECTION,
        group: Group::Connections,
        origin: Origin::Packets,
        rows: |view, start, lines| {
            rows::connections(view, start, lines, |counts, class| counts[0][class].packets)
        },
    },
    Family {
        name: "mediasoup_connection_send_bytes_total",
        kind: MetricType::Counter,
        unit: "bytes",
        help: "Bytes above UDP or TCP that the SFU sent: datagram payload, SRTP tags included, by what \
               it carries (RFC 7983). IP, UDP and TCP headers are not counted.",
        labels: CONNECTION,
        group: Group::Connections,
        origin: Origin::Packets,
        rows: |view, start, lines| {
            rows::connections(view, start, lines, |counts, class| counts[1][class].bytes)
        },
    },
    Family {
        name: "mediasoup_connection_send_packets_total",
        kind: MetricType::Counter,
        unit: "",
        help: "Packets that the SFU sent; an aggregate counts as the packets that it stands for, TCP \
               as segments.",
        labels: CONNECTION,
        group: Group::Connections,
        origin: Origin::Packets,
        rows: |view, start, lines| {
            rows::connections(view, start, lines, |counts, class| counts[1][class].packets)
        },
    },
    Family {
        name: "mediasoup_stream_receive_bytes_total",
        kind: MetricType::Counter,
        unit: "bytes",
        help: "RTP bytes that arrived with this SSRC: header, CSRCs, extensions, payload and padding, \
               and the SRTP tag where there is one.",
        labels: STREAM,
        group: Group::Streams,
        origin: Origin::Packets,
        rows: |view, start, lines| rows::streams(view, 0, start, lines, |t| t.total.bytes),
    },
    Family {
        name: "mediasoup_stream_receive_packets_total",
        kind: MetricType::Counter,
        unit: "",
        help: "RTP packets that arrived with this SSRC.",
        labels: STREAM,
        group: Group::Streams,
        origin: Origin::Packets,
        rows: |view, start, lines| rows::streams(view, 0, start, lines, |t| t.total.packets),
    },
    Family {
        name: "mediasoup_stream_receive_packets_expected_total",
        kind: MetricType::Counter,
        unit: "",
        help: "RTP packets that the sequence numbers announced (RFC 3550 A.3).",
        labels: STREAM,
        group: Group::Streams,
        origin: Origin::Packets,
        rows: |view, start, lines| rows::streams(view, 0, start, lines, |t| t.expected),
    },
    Family {
        name: "mediasoup_stream_receive_packets_lost",
        kind: MetricType::Gauge,
        unit: "",
        help: "Expected packets that did not arrive here (RFC 3550 A.3); negative when duplicates \
               outnumber losses.",
        labels: STREAM,
        group: Group::Streams,
        origin: Origin::Packets,
        rows: |view, start, lines| rows::streams(view, 0, start, lines, |t| t.lost()),
    },
    Family {
        name: "mediasoup_stream_receive_out_of_order_packets_total",
        kind: MetricType::Counter,
        unit: "",
        help: "RTP packets that arrived after one with a higher sequence number.",
        labels: STREAM,
        group: Group::Streams,
        origin: Origin::Packets,
        rows: |view, start, lines| rows::streams(view, 0, start, lines, |t| t.out_of_order),
    },
    Family {
        name: "mediasoup_stream_receive_duplicate_packets_total",
        kind: MetricType::Counter,
        unit: "",
        help: "RTP packets whose sequence number had arrived within the last 64.",
        labels: STREAM,
        group: Group::Streams,
        origin: Origin::Packets,
        rows: |view, start, lines| rows::streams(view, 0, start, lines, |t| t.duplicates),
    },
    Family {
        name: "mediasoup_stream_receive_sequence_restarts_total",
        kind: MetricType::Counter,
        unit: "",
        help: "Times that the source began a new sequence (RFC 3550 A.1).",
        labels: STREAM,
        group: Group::Streams,
        origin: Origin::Packets,
        rows: |view, start, lines| rows::streams(view, 0, start, lines, |t| t.restarts),
    },
    Family {
        name: "mediasoup_stream_receive_jitter_seconds",
        kind: MetricType::Gauge,
        unit: "seconds",
        help: "Interarrival jitter of what arrived, where it is counted (RFC 3550 A.8, by the clock of \
               the owner's codec); estimated from a sample of the packets.",
        labels: STREAM,
        group: Group::Streams,
        origin: Origin::Packets,
        rows: |view, start, lines| rows::jitter(view, 0, start, lines),
    },
    Family {
        name: "mediasoup_stream_send_bytes_total",
        kind: MetricType::Counter,
        unit: "bytes",
        help: "RTP bytes that left with this SSRC: header, CSRCs, extensions, payload and padding, and \
               the SRTP tag where there is one.",
        labels: STREAM,
        group: Group::Streams,
        origin: Origin::Packets,
        rows: |view, start, lines| rows::streams(view, 1, start, lines, |t| t.total.bytes),
    },
    Family {
        name: "mediasoup_stream_send_packets_total",
        kind: MetricType::Counter,
        unit: "",
        help: "RTP packets that left with this SSRC.",
        labels: STREAM,
        group: Group::Streams,
        origin: Origin::Packets,
        rows: |view, start, lines| rows::streams(view, 1, start, lines, |t| t.total.packets),
    },
    Family {
        name: "mediasoup_stream_send_packets_expected_total",
        kind: MetricType::Counter,
        unit: "",
        help: "RTP packets that the sequence numbers of what left announced (RFC 3550 A.3).",
        labels: STREAM,
        group: Group::Streams,
        origin: Origin::Packets,
        rows: |view, start, lines| rows::streams(view, 1, start, lines, |t| t.expected),
    },
    Family {
        name: "mediasoup_stream_send_packets_lost",
        kind: MetricType::Gauge,
        unit: "",
        help: "Gaps in the sequence numbers of what left (RFC 3550 A.3): what the SFU itself did not \
               send; negative when duplicates outnumber gaps.",
        labels: STREAM,
        group: Group::Streams,
        origin: Origin::Packets,
        rows: |view, start, lines| rows::streams(view, 1, start, lines, |t| t.lost()),
    },
    Family {
        name: "mediasoup_stream_send_out_of_order_packets_total",
        kind: MetricType::Counter,
        unit: "",
        help: "RTP packets that left after one with a higher sequence number.",
        labels: STREAM,
        group: Group::Streams,
        origin: Origin::Packets,
        rows: |view, start, lines| rows::streams(view, 1, start, lines, |t| t.out_of_order),
    },
    Family {
        name: "mediasoup_stream_send_duplicate_packets_total",
        kind: MetricType::Counter,
        unit: "",
        help: "RTP packets whose sequence number had left within the last 64.",
        labels: STREAM,
        group: Group::Streams,
        origin: Origin::Packets,
        rows: |view, start, lines| rows::streams(view, 1, start, lines, |t| t.duplicates),
    },
    Family {
        name: "mediasoup_stream_send_sequence_restarts_total",
        kind: MetricType::Counter,
        unit: "",
        help: "Times that the SFU began a new sequence (RFC 3550 A.1).",
        labels: STREAM,
        group: Group::Streams,
        origin: Origin::Packets,
        rows: |view, start, lines| rows::streams(view, 1, start, lines, |t| t.restarts),
    },
    Family {
        name: "mediasoup_stream_send_jitter_seconds",
        kind: MetricType::Gauge,
        unit: "seconds",
        help: "Interarrival jitter of what left, where it is counted (RFC 3550 A.8, by the clock of the \
               owner's codec); estimated from a sample of the packets.",
        labels: STREAM,
        group: Group::Streams,
        origin: Origin::Packets,
        rows: |view, start, lines| rows::jitter(view, 1, start, lines),
    },
    Family {
        name: "mediasoup_join_coverage_ratio",
        kind: MetricType::Gauge,
        unit: "ratio",
        help: "Of the bytes of known flows that the tables hold now, the share of those that came while \
               a transport claimed their flow, or until some minutes after it closed.",
        labels: &[],
        group: Group::Strangers,
        origin: Origin::Packets,
        rows: rows::coverage,
    },
    of_classes!(
        "mediasoup_trailing_receive_bytes_total",
        "bytes",
        "Bytes above UDP or TCP from far ends whose transport had closed, and whose own series had \
             gone by then.",
        |view| &view.trailed,
        counts[0].bytes
    ),
    of_classes!(
        "mediasoup_trailing_receive_packets_total",
        "",
        "Packets from far ends whose transport had closed, and whose own series had \
             gone by then.",
        |view| &view.trailed,
        counts[0].packets
    ),
    of_classes!(
        "mediasoup_trailing_send_bytes_total",
        "bytes",
        "Bytes above UDP or TCP to far ends whose transport had closed, and whose own series had \
             gone by then.",
        |view| &view.trailed,
        counts[1].bytes
    ),
    of_classes!(
        "mediasoup_trailing_send_packets_total",
        "",
        "Packets to far ends whose transport had closed, and whose own series had \
             gone by then.",
        |view| &view.trailed,
        counts[1].packets
    ),
    of_classes!(
        "mediasoup_stranger_receive_bytes_total",
        "bytes",
        "Bytes above UDP or TCP from far ends that nobody told and no traffic proved; counted \
             when their flow has ended.",
        |view| &view.strangers.resolved,
        counts[0].bytes
    ),
    of_classes!(
        "mediasoup_stranger_receive_packets_total",
        "",
        "Packets from far ends that nobody told and no traffic proved; counted when their flow \
             has ended.",
        |view| &view.strangers.resolved,
        counts[0].packets
    ),
    of_classes!(
        "mediasoup_stranger_send_bytes_total",
        "bytes",
        "Bytes above UDP or TCP to far ends that nobody told and no traffic proved; counted when \
             their flow has ended.",
        |view| &view.strangers.resolved,
        counts[1].bytes
    ),
    of_classes!(
        "mediasoup_stranger_send_packets_total",
        "",
        "Packets to far ends that nobody told and no traffic proved; counted when their flow has \
             ended.",
        |view| &view.strangers.resolved,
        counts[1].packets
    ),
    Family {
        name: "mediasoup_stranger_pending_bytes",
        kind: MetricType::Gauge,
        unit: "bytes",
        help: "Bytes of strangers' flows that have not ended: they count for their owner if the flow \
               becomes known, and else for the strangers.",
        labels: &[],
        group: Group::Strangers,
        origin: Origin::Packets,
        rows: |view, _, lines| rows::one(view.strangers.pending_bytes, lines),
    },
    Family {
        name: "mediasoup_stranger_flows",
        kind: MetricType::Gauge,
        unit: "",
        help: "Strangers' flows that have not ended.",
        labels: &[],
        group: Group::Strangers,
        origin: Origin::Packets,
        rows: |view, _, lines| rows::one(view.strangers.flows, lines),
    },
    of_classes!(
        "mediasoup_unclaimed_receive_bytes_total",
        "bytes",
        "Bytes above UDP or TCP from far ends that proved themselves by traffic, but that no server told and that had \
             no series of their own; counted when their flow has ended.",
        |view| &view.crowd.resolved,
        counts[0].bytes
    ),
    of_classes!(
        "mediasoup_unclaimed_receive_packets_total",
        "",
        "Packets from far ends that proved themselves by traffic, but that no server told and that had \
             no series of their own; counted when their flow has ended.",
        |view| &view.crowd.resolved,
        counts[0].packets
    ),
    of_classes!(
        "mediasoup_unclaimed_send_bytes_total",
        "bytes",
        "Bytes above UDP or TCP to far ends that proved themselves by traffic, but that no server told and that had \
             no series of their own; counted when their flow has ended.",
        |view| &view.crowd.resolved,
        counts[1].bytes
    ),
    of_classes!(
        "mediasoup_unclaimed_send_packets_total",
        "",
        "Packets to far ends that proved themselves by traffic, but that no server told and that had \
             no series of their own; counted when their flow has ended.",
        |view| &view.crowd.resolved,
        counts[1].packets
    ),
    Family {
        name: "mediasoup_unclaimed_pending_bytes",
        kind: MetricType::Gauge,
        unit: "bytes",
        help: "Bytes of such flows that have not ended: they count for their owner if a server tells one, \
               and else for the unclaimed.",
        labels: &[],
        group: Group::Strangers,
        origin: Origin::Packets,
        rows: |view, _, lines| rows::one(view.crowd.pending_bytes, lines),
    },
    Family {
        name: "mediasoup_unclaimed_connections",
        kind: MetricType::Gauge,
        unit: "",
        help: "Such flows that have not ended. Where no server tells any connection there are none: each has \
               series of its own.",
        labels: &[],
        group: Group::Strangers,
        origin: Origin::Packets,
        rows: |view, _, lines| rows::one(view.crowd.connections, lines),
    },
    Family {
        name: "mediasoup_unclaimed_streams",
        kind: MetricType::Gauge,
        unit: "",
        help: "Streams that no server told and that have no series of their own, though servers tell \
               connections. What they carry is in their connection's totals.",
        labels: &[],
        group: Group::Strangers,
        origin: Origin::Packets,
        rows: |view, _, lines| rows::one(view.crowd.streams, lines),
    },
    Family {
        name: "mediasoup_socket_receive_drops_total",
        kind: MetricType::Counter,
        unit: "",
        help: "Packets that the kernel threw away because the SFU's socket was full.",
        labels: SOCKET,
        group: Group::Sockets,
        origin: Origin::Sockets,
        rows: |view, start, lines| rows::sockets(view, start, lines, |s| Some(s.drops)),
    },
    Family {
        name: "mediasoup_socket_receive_queue_bytes",
        kind: MetricType::Gauge,
        unit: "bytes",
        help: "Memory that waits for the SFU to read it, the kernel's overhead included.",
        labels: SOCKET,
        group: Group::Sockets,
        origin: Origin::Sockets,
        rows: |view, start, lines| rows::sockets(view, start, lines, |s| Some(s.receive_queue)),
    },
    Family {
        name: "mediasoup_socket_send_queue_bytes",
        kind: MetricType::Gauge,
        unit: "bytes",
        help: "Memory that waits to leave the SFU's socket, the kernel's overhead included.",
        labels: SOCKET,
        group: Group::Sockets,
        origin: Origin::Sockets,
        rows: |view, start, lines| rows::sockets(view, start, lines, |s| Some(s.send_queue)),
    },
    Family {
        name: "mediasoup_socket_tcp_retransmits_total",
        kind: MetricType::Counter,
        unit: "",
        help: "TCP segments that were sent again.",
        labels: SOCKET,
        group: Group::Sockets,
        origin: Origin::Sockets,
        rows: |view, start, lines| rows::sockets(view, start, lines, |s| s.retransmits),
    },
    Family {
        name: "mediasoup_socket_tcp_round_trip_time_seconds",
        kind: MetricType::Gauge,
        unit: "seconds",
        help: "TCP's smoothed round trip time; the longest of the connections whose labels are equal.",
        labels: SOCKET,
        group: Group::Sockets,
        origin: Origin::Sockets,
        rows: |view, start, lines| {
            rows::sockets(view, start, lines, |s| {
                s.round_trip_time.map(crate::exposition::text::Micros)
            })
        },
    },
    Family {
        name: "mediasoup_peer_verdict",
        kind: MetricType::Gauge,
        unit: "",
        help: "1 for each peer that has a bad call in the last minute, by where it goes wrong: \
               never_connected, nothing_arrives, this_host, uplink, downlink, silent or low_score. Peers that do well \
               have no series.",
        labels: &["room_id", "peer_id", "verdict"],
        group: Group::Verdicts,
        origin: Origin::History,
        rows: rows::verdicts,
    },
    Family {
        name: "mediasoup_worker_cpu_seconds_total",
        kind: MetricType::Counter,
        unit: "seconds",
        help: "Processor time that a worker has taken, in its own code and in the kernel, in the kernel's ticks \
               (mostly 10 ms).",
        labels: &["pid"],
        group: Group::Host,
        origin: Origin::Host,
        rows: |view, start, lines| {
            rows::workers(view, start, lines, |it| Micros(it.processor_micros))
        },
    },
    Family {
        name: "mediasoup_worker_resident_memory_bytes",
        kind: MetricType::Gauge,
        unit: "bytes",
        help: "Memory of a worker that is not swapped out.",
        labels: &["pid"],
        group: Group::Host,
        origin: Origin::Host,
        rows: |view, start, lines| rows::workers(view, start, lines, |it| it.resident_bytes),
    },
    Family {
        name: "mediasoup_host_softnet_packets_total",
        kind: MetricType::Counter,
        unit: "",
        help: "Packets that a processor took from interfaces, of all network namespaces.",
        labels: &["cpu"],
        group: Group::Host,
        origin: Origin::Host,
        rows: |view, start, lines| rows::processors(view, start, lines, |it| it.packets),
    },
    Family {
        name: "mediasoup_host_softnet_dropped_total",
        kind: MetricType::Counter,
        unit: "",
        help: "Packets that a processor dropped because its queue was full (net.core.netdev_max_backlog), before \
               they are counted here.",
        labels: &["cpu"],
        group: Group::Host,
        origin: Origin::Host,
        rows: |view, start, lines| rows::processors(view, start, lines, |it| it.dropped),
    },
    Family {
        name: "mediasoup_host_softnet_squeezed_total",
        kind: MetricType::Counter,
        unit: "",
        help: "Times that a processor had to stop with packets left over (net.core.netdev_budget): they wait, and are \
               lost where the interface's ring overflows.",
        labels: &["cpu"],
        group: Group::Host,
        origin: Origin::Host,
        rows: |view, start, lines| rows::processors(view, start, lines, |it| it.squeezed),
    },
    Family {
        name: "mediasoup_host_udp_dropped_total",
        kind: MetricType::Counter,
        unit: "",
        help: "Datagrams of the exporter's network namespace that UDP did not deliver or send, of all programs: \
               receive_buffer and send_buffer (a socket was full), memory (net.ipv4.udp_mem), checksum, and no_port \
               (nobody has the port). They were counted here when they came by an interface.",
        labels: &["version", "reason"],
        group: Group::Host,
        origin: Origin::Host,
        rows: rows::udp_drops,
    },
    Family {
        name: "mediasoup_host_interface_dropped_total",
        kind: MetricType::Counter,
        unit: "",
        help: "Packets that an interface lost on which packets are counted, as its driver and the kernel say, by \
               direction: error, drop (missed ones among them) and overrun. An interface's own are lost before they are \
               counted here, or after.",
        labels: &["interface", "direction", "reason"],
        group: Group::Host,
        origin: Origin::Host,
        rows: rows::interface_drops,
    },
];
