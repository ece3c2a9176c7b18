//! One line of the observer protocol into an [`Event`], every field checked and cut to its bound.
//!
//! Pure. What is not JSON of a known shape is [`Unreadable`]; the caller counts it and goes on.
//! The lines are described in `docs/observer-protocol.md`.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{self, Deserializer};

use crate::labels::text::limit;
use crate::model::{
    ConsumerId, Encoding, MediaKind, PeerId, ProducerId, Proto, Repairs, RoomId, ServerTuple,
    StreamStats, TransportId, TransportKind, canonical,
};
use crate::state::{
    Beat, ConsumerState, ConsumerTold, EncodingStats, Event, Gone, Hello, Owned, ProducerState,
    ProducerTold, Score, TransportState, TransportTold,
};

/// The version of the protocol that this exporter speaks.
pub const VERSION: u32 = 1;

/// Bytes of a line at most, without its end; longer ones are skipped.
pub const MAX_LINE: usize = 64 * 1024;

/// Bytes of a room's name or a peer's id at most; one with a longer one is refused. The script cuts
/// room names at 256 characters.
const MAX_ID: usize = 1024;

/// Bytes of an id of mediasoup's at most. Its ids are UUIDs and become labels as they are, so they must
/// fit there whole, or two of them could read the same.
const MAX_OBJECT_ID: usize = limit::ID;

/// Bytes that are kept of a name, a user agent and other texts.
const MAX_TEXT: usize = 256;

/// Why a line was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Not JSON, or not a line that the protocol knows.
    #[error("unreadable line: {0}")]
    Shape(String),
    /// A line of a newer protocol.
    #[error("unknown kind of line")]
    Unknown,
}

/// Reads one line.
pub fn decode(line: &[u8]) -> Result<Event, Unreadable> {
    let line =
        serde_json::from_slice(line).map_err(|error| Unreadable::Shape(error.to_string()))?;
    event(line)
}

#[derive(Deserialize)]
#[serde(tag = "t", rename_all = "kebab-case")]
enum Line {
    Hello(HelloLine),
    Synced,
    Worker {
        id: Int,
    },
    Router {
        id: Id,
        pid: Int,
        session: Option<Text>,
    },
    Transport(TransportLine),
    TransportState(TransportStateLine),
    Producer(ProducerLine),
    ProducerState(ProducerStateLine),
    Consumer(ConsumerLine),
    ConsumerState(ConsumerStateLine),
    Stats(StatsLine),
    Room {
        id: Id,
        sessions: Option<Vec<Id>>,
        routers: Option<Vec<Id>>,
    },
    Peer {
        id: Id,
        room: Option<Id>,
        name: Option<Text>,
        agent: Option<Text>,
    },
    Own {
        peer: Id,
        what: What,
        ids: Vec<Id>,
    },
    Disown {
        what: What,
        ids: Vec<Id>,
    },
    Gone {
        what: What,
        id: Id,
        transport: Option<Id>,
    },
    Beat(BeatLine),
    Error {
        op: Option<Text>,
        message: Option<Text>,
    },
    #[serde(other)]
    Unknown,
}

#[derive(Deserialize)]
struct HelloLine {
    v: Int,
    kind: Option<Text>,
    mediasoup: Option<Text>,
    node: Option<Text>,
    pid: Option<Int>,
}

#[derive(Deserialize)]
struct TransportLine {
    id: ObjectId,
    router: Option<Text>,
    kind: Text,
    #[serde(default)]
    tuples: Vec<TupleLine>,
    ice: Option<Text>,
    dtls: Option<Text>,
}

#[derive(Deserialize)]
struct TransportStateLine {
    id: ObjectId,
    #[serde(default)]
    tuples: Vec<TupleLine>,
    ice: Option<Text>,
    dtls: Option<Text>,
}

#[derive(Deserialize)]
struct TupleLine {
    proto: Option<Text>,
    local: Option<Text>,
    port: Option<u16>,
    remote: Option<Text>,
    rport: Option<u16>,
}

#[derive(Deserialize)]
struct ProducerLine {
    id: ObjectId,
    transport: ObjectId,
    kind: Kind,
    codec: Option<Text>,
    peer: Option<Id>,
    #[serde(default)]
    enc: Vec<EncodingLine>,
    #[serde(default)]
    score: Vec<ScoreLine>,
    #[serde(default)]
    paused: bool,
}

#[derive(Deserialize)]
struct ProducerStateLine {
    id: ObjectId,
    transport: ObjectId,
    #[serde(default)]
    score: Vec<ScoreLine>,
    #[serde(default)]
    paused: bool,
}

#[derive(Deserialize)]
struct EncodingLine {
    ssrc: Option<u32>,
    rid: Option<Text>,
    rtx: Option<u32>,
}

#[derive(Deserialize)]
struct ScoreLine {
    ssrc: Option<u32>,
    rid: Option<Text>,
    score: Option<Int>,
}

#[derive(Deserialize)]
struct ConsumerLine {
    id: ObjectId,
    transport: ObjectId,
    producer: ObjectId,
    kind: Kind,
    codec: Option<Text>,
    #[serde(default)]
    enc: Vec<EncodingLine>,
    #[serde(flatten)]
    state: ConsumerDynamics,
}

#[derive(Deserialize)]
struct ConsumerStateLine {
    id: ObjectId,
    #[serde(flatten)]
    state: ConsumerDynamics,
}

#[derive(Deserialize)]
struct ConsumerDynamics {
    score: Option<Int>,
    pscore: Option<Int>,
    layers: Option<(Int, Int)>,
    #[serde(default)]
    paused: bool,
    #[serde(default)]
    ppaused: bool,
}

#[derive(Deserialize)]
struct StatsLine {
    what: What,
    id: Id,
    transport: Option<Id>,
    of: Vec<EncodingStatsLine>,
}

#[derive(Deserialize)]
struct EncodingStatsLine {
    ssrc: Option<u32>,
    rtx: Option<u32>,
    rid: Option<Text>,
    bytes: Option<Int>,
    lost: Option<Int>,
    fraction: Option<Int>,
    rtt: Option<f64>,
    discarded: Option<Int>,
    resent: Option<Int>,
    repaired: Option<Int>,
    nacked: Option<Int>,
    keyframes: Option<Int>,
}

#[derive(Deserialize)]
struct BeatLine {
    objects: Option<Int>,
    requests: Option<Int>,
    dropped: Option<Int>,
    failures: Option<Int>,
    slice: Option<f64>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum What {
    Worker,
    Router,
    Transport,
    Producer,
    Consumer,
    Room,
    Peer,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Audio,
    Video,
}

fn event(line: Line) -> Result<Event, Unreadable> {
    Ok(match line {
        Line::Hello(line) => Event::Hello(hello(line)),
        Line::Synced => Event::Synced,
        Line::Worker { id } => Event::Worker { pid: id.clamped() },
        Line::Router { id, pid, session } => {
            Event::Router { id: id.0, pid: pid.clamped(), session: session.and_then(Text::filled) }
        }
        Line::Transport(line) => Event::Transport(TransportTold {
            id: TransportId(line.id.0),
            router: line.router.unwrap_or_default().0,
            kind: transport_kind(&line.kind.0)?,
            state: transport_state(line.tuples, line.ice, line.dtls),
        }),
        Line::TransportState(line) => Event::TransportState {
            id: TransportId(line.id.0),
            state: transport_state(line.tuples, line.ice, line.dtls),
        },
        Line::Producer(line) => Event::Producer(producer(line)),
        Line::ProducerState(line) => Event::ProducerState {
            id: ProducerId(line.id.0),
            transport: TransportId(line.transport.0),
            state: producer_state(line.score, line.paused),
        },
        Line::Consumer(line) => Event::Consumer(consumer(line)),
        Line::ConsumerState(line) => {
            Event::ConsumerState { id: ConsumerId(line.id.0), state: consumer_state(&line.state) }
        }
        Line::Stats(line) => stats(line)?,
        Line::Room { id, sessions, routers } => Event::Room {
            id: RoomId(id.0),
            sessions: ids(sessions.unwrap_or_default()).collect(),
            routers: ids(routers.unwrap_or_default()).collect(),
        },
        Line::Peer { id, room, name, agent } => Event::Peer {
            id: PeerId(id.0),
            room: room.map(|room| RoomId(room.0)),
            display_name: name.unwrap_or_default().0,
            user_agent: agent.unwrap_or_default().0,
        },
        Line::Own { peer, what, ids } => {
            Event::Own { peer: PeerId(peer.0), objects: owned(what, ids)? }
        }
        Line::Disown { what, ids } => Event::Disown(owned(what, ids)?),
        Line::Gone { what, id, transport } => Event::Gone(gone(what, id, transport)?),
        Line::Beat(line) => Event::Beat(beat(&line)),
        Line::Error { op, message } => {
            Event::Failed { op: op.unwrap_or_default().0, message: message.unwrap_or_default().0 }
        }
        Line::Unknown => return Err(Unreadable::Unknown),
    })
}

fn hello(line: HelloLine) -> Hello {
    Hello {
        version: line.v.clamped(),
        kind: line.kind.unwrap_or_default().0,
        mediasoup: line.mediasoup.unwrap_or_default().0,
        node: line.node.unwrap_or_default().0,
        pid: line.pid.map_or(0, Int::clamped),
    }
}

fn transport_kind(kind: &str) -> Result<TransportKind, Unreadable> {
    match kind {
        "webrtc" => Ok(TransportKind::WebRtc),
        "plain" => Ok(TransportKind::Plain),
        "pipe" => Ok(TransportKind::Pipe),
        "direct" => Ok(TransportKind::Direct),
        _ => Err(shape("unknown kind of transport")),
    }
}

fn transport_state(
    tuples: Vec<TupleLine>,
    ice: Option<Text>,
    dtls: Option<Text>,
) -> TransportState {
    TransportState {
        tuples: tuples.into_iter().filter_map(tuple).collect(),
        ice: ice.and_then(Text::filled),
        dtls: dtls.and_then(Text::filled),
    }
}

fn tuple(line: TupleLine) -> Option<ServerTuple> {
    let proto = match line.proto.as_ref().map(|proto| &*proto.0) {
        Some("tcp") => Proto::Tcp,
        _ => Proto::Udp,
    };
    let remote = line.remote.and_then(|remote| remote.0.parse::<IpAddr>().ok());
    let remote = remote.zip(line.rport.filter(|port| *port != 0));
    Some(ServerTuple {
        proto,
        local_address: line.local.unwrap_or_default().0,
        local_port: line.port?,
        remote: remote.map(|(ip, port)| canonical((ip, port).into())),
    })
}

fn producer(line: ProducerLine) -> ProducerTold {
    ProducerTold {
        id: ProducerId(line.id.0),
        transport: TransportId(line.transport.0),
        kind: line.kind.into(),
        codec: line.codec.unwrap_or_default().0,
        peer: line.peer.map(|peer| PeerId(peer.0)),
        encodings: encodings(line.enc),
        state: producer_state(line.score, line.paused),
    }
}

fn producer_state(scores: Vec<ScoreLine>, paused: bool) -> ProducerState {
    let scores = scores.into_iter().filter_map(|line| {
        let score = line.score.map_or(0, Int::clamped::<u8>).min(10);
        Some(Score { ssrc: line.ssrc?, rid: line.rid.and_then(Text::filled), score })
    });
    ProducerState { scores: scores.collect(), paused }
}

fn consumer(line: ConsumerLine) -> ConsumerTold {
    ConsumerTold {
        id: ConsumerId(line.id.0),
        producer: ProducerId(line.producer.0),
        transport: TransportId(line.transport.0),
        kind: line.kind.into(),
        codec: line.codec.unwrap_or_default().0,
        encodings: encodings(line.enc),
        state: consumer_state(&line.state),
    }
}

fn consumer_state(line: &ConsumerDynamics) -> ConsumerState {
    let score = |score: Option<Int>| score.map(|score| score.clamped::<u8>().min(10));
    ConsumerState {
        score: score(line.score),
        producer_score: score(line.pscore),
        layers: line.layers.map(|(spatial, temporal)| (spatial.clamped(), temporal.clamped())),
        paused: line.paused,
        producer_paused: line.ppaused,
    }
}

fn encodings(lines: Vec<EncodingLine>) -> Vec<Encoding> {
    let encoding = |line: EncodingLine| Encoding {
        ssrc: line.ssrc,
        rtx: line.rtx,
        rid: line.rid.and_then(Text::filled),
        score: None,
        stats: None,
    };
    lines.into_iter().map(encoding).collect()
}

fn stats(line: StatsLine) -> Result<Event, Unreadable> {
    let stats = line.of.into_iter().filter_map(encoding_stats).collect();
    match (line.what, line.transport) {
        (What::Producer, Some(transport)) => Ok(Event::ProducerStats {
            id: ProducerId(line.id.0),
            transport: TransportId(transport.0),
            stats,
        }),
        (What::Consumer, _) => Ok(Event::ConsumerStats { id: ConsumerId(line.id.0), stats }),
        _ => Err(shape("statistics of neither producer nor consumer")),
    }
}

fn encoding_stats(line: EncodingStatsLine) -> Option<EncodingStats> {
    let repairs = [line.discarded, line.resent, line.repaired, line.nacked, line.keyframes]
        .map(|count| count.map(Int::clamped));
    let is_told = repairs.iter().any(Option::is_some);
    let repairs: Repairs = repairs.map(Option::unwrap_or_default);
    Some(EncodingStats {
        ssrc: line.ssrc?,
        rtx: line.rtx,
        rid: line.rid.and_then(Text::filled),
        stats: StreamStats {
            byte_count: line.bytes.map_or(0, Int::clamped),
            packets_lost: line.lost.map_or(0, |lost| lost.0),
            fraction_lost: line.fraction.map_or(0, Int::clamped),
            round_trip_time: line.rtt.filter(|rtt| rtt.is_finite() && *rtt > 0.0),
            repairs: is_told.then_some(repairs),
        },
    })
}

fn owned(what: What, objects: Vec<Id>) -> Result<Vec<Owned>, Unreadable> {
    let of = match what {
        What::Transport => |id| Owned::Transport(TransportId(id)),
        What::Producer => |id| Owned::Producer(ProducerId(id)),
        What::Consumer => |id| Owned::Consumer(ConsumerId(id)),
        _ => return Err(shape("an owner of what cannot be owned")),
    };
    Ok(ids(objects).map(of).collect())
}

fn gone(what: What, id: Id, transport: Option<Id>) -> Result<Gone, Unreadable> {
    Ok(match what {
        What::Worker => Gone::Worker(id.0.parse().map_err(|_| shape("a worker without its pid"))?),
        What::Router => Gone::Router(id.0),
        What::Transport => Gone::Transport(TransportId(id.0)),
        What::Producer => {
            let transport = transport.ok_or_else(|| shape("a producer without its transport"))?;
            Gone::Producer(TransportId(transport.0), ProducerId(id.0))
        }
        What::Consumer => Gone::Consumer(ConsumerId(id.0)),
        What::Room => Gone::Room(RoomId(id.0)),
        What::Peer => Gone::Peer(PeerId(id.0)),
    })
}

fn beat(line: &BeatLine) -> Beat {
    let count = |count: Option<Int>| count.map_or(0, Int::clamped::<u64>);
    Beat {
        objects: count(line.objects),
        requests: count(line.requests),
        dropped: count(line.dropped),
        failures: count(line.failures),
        slice_ms: line.slice.filter(|slice| slice.is_finite()).unwrap_or_default(),
    }
}

fn shape(what: &str) -> Unreadable {
    Unreadable::Shape(what.to_owned())
}

fn ids(ids: Vec<Id>) -> impl Iterator<Item = Arc<str>> {
    ids.into_iter().map(|id| id.0)
}

impl From<Kind> for MediaKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Audio => Self::Audio,
            Kind::Video => Self::Video,
        }
    }
}

/// An identifier: never empty, never longer than its bound. Numbers (pids) are taken as text.
struct Id(Arc<str>);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Id;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an identifier of 1 to 1024 bytes")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Id, E> {
                if text.is_empty() || text.len() > MAX_ID {
                    return Err(E::invalid_length(text.len(), &self));
                }
                Ok(Id(text.into()))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Id, E> {
                Ok(Id(number.to_string().into()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// An identifier of mediasoup's: printable ASCII that fits into a label.
struct ObjectId(Arc<str>);

impl<'de> Deserialize<'de> for ObjectId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Id(id) = Id::deserialize(deserializer)?;
        if id.len() > MAX_OBJECT_ID || !id.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(de::Error::custom("no identifier of mediasoup's"));
        }
        Ok(Self(id))
    }
}

/// A text, cut to its bound at a character's end.
#[derive(Default)]
struct Text(Arc<str>);

impl Text {
    fn filled(self) -> Option<Arc<str>> {
        (!self.0.is_empty()).then_some(self.0)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Text;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a text")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text[..text.floor_char_boundary(MAX_TEXT)].into()))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

/// A whole number. JavaScript writes large ones, and computed ones, as floats.
#[derive(Clone, Copy)]
struct Int(i64);

impl Int {
    /// The number, or the bound of the type that it does not fit.
    fn clamped<T: TryFrom<i64> + Bounded>(self) -> T {
        T::try_from(self.0).unwrap_or(if self.0 < 0 { T::LEAST } else { T::MOST })
    }
}

trait Bounded {
    const LEAST: Self;
    const MOST: Self;
}

impl Bounded for u8 {
    const LEAST: Self = u8::MIN;
    const MOST: Self = u8::MAX;
}

impl Bounded for u32 {
    const LEAST: Self = u32::MIN;
    const MOST: Self = u32::MAX;
}

impl Bounded for u64 {
    const LEAST: Self = u64::MIN;
    const MOST: Self = u64::MAX;
}

impl<'de> Deserialize<'de> for Int {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Int;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number")
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Int, E> {
                Ok(Int(i64::try_from(number).unwrap_or(i64::MAX)))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Int, E> {
                Ok(Int(number))
            }
            #[expect(clippy::cast_possible_truncation, reason = "the cast saturates")]
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<Int, E> {
                Ok(Int(number as i64))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests;
