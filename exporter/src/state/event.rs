//! What a server tells, decoded and bounded: the only way into [`State`](super::State) from outside.
//!
//! Plain values; the line protocol that carries them is none of this file's business.

use std::sync::Arc;

use crate::model::{
    ConsumerId, Encoding, MediaKind, PeerId, ProducerId, RoomId, ServerTuple, StreamStats,
    TransportId, TransportKind,
};

pub use crate::model::{RouterId, SourceId};

/// What a server told, or what became of the connection to it.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Who a source is, before it tells anything. Told once for each connection to it.
    Met(Standing),
    /// A connection begins: the server tells everything anew.
    Hello(Hello),
    /// All that existed when the connection began has been told; what was not is no more.
    Synced,
    /// A worker exists.
    Worker {
        /// Process id.
        pid: u32,
    },
    /// A router exists.
    Router {
        /// Its id.
        id: RouterId,
        /// Process id of its worker, 0 while that is not known.
        pid: u32,
        /// Room session that it serves (edumeet 4 media node).
        session: Option<Arc<str>>,
    },
    /// A transport exists.
    Transport(TransportTold),
    /// A transport's tuples or states are now these.
    TransportState {
        /// Its id.
        id: TransportId,
        /// What they are.
        state: TransportState,
    },
    /// A producer exists.
    Producer(ProducerTold),
    /// A producer's scores or pause are now these.
    ProducerState {
        /// Its id.
        id: ProducerId,
        /// Its transport: piped producers share their id.
        transport: TransportId,
        /// What they are.
        state: ProducerState,
    },
    /// A consumer exists.
    Consumer(ConsumerTold),
    /// A consumer's score, layers or pause are now these.
    ConsumerState {
        /// Its id.
        id: ConsumerId,
        /// What they are.
        state: ConsumerState,
    },
    /// Statistics of a producer's encodings.
    ProducerStats {
        /// Its id.
        id: ProducerId,
        /// Its transport.
        transport: TransportId,
        /// By encoding.
        stats: Vec<EncodingStats>,
    },
    /// Statistics of a consumer's encodings.
    ConsumerStats {
        /// Its id.
        id: ConsumerId,
        /// By encoding.
        stats: Vec<EncodingStats>,
    },
    /// A room exists, or its sessions or routers changed.
    Room {
        /// Its name.
        id: RoomId,
        /// Sessions that belong to it (edumeet 4).
        sessions: Vec<Arc<str>>,
        /// Routers that belong to it (edumeet 3, mediasoup-demo).
        routers: Vec<RouterId>,
    },
    /// A peer exists, or what is known of it changed.
    Peer {
        /// Its id.
        id: PeerId,
        /// Its room.
        room: Option<RoomId>,
        /// The name that it chose.
        display_name: Arc<str>,
        /// Its browser.
        user_agent: Arc<str>,
    },
    /// These objects belong to a peer.
    Own {
        /// Its id.
        peer: PeerId,
        /// What belongs to it.
        objects: Vec<Owned>,
    },
    /// These objects belong to no peer any more.
    Disown(Vec<Owned>),
    /// An object exists no more.
    Gone(Gone),
    /// A sign of life.
    Beat(Beat),
    /// Something failed inside the server's script.
    Failed {
        /// The operation.
        op: Arc<str>,
        /// What it said.
        message: Arc<str>,
    },
    /// The source has been away for longer than its grace: forget what it told.
    Forget,
}

/// Whom a source may speak for, as the host knows it: nothing of this is the source's own word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The user that its process runs as.
    pub uid: u32,
    /// Named by the operator, or run by root or by the exporter's own user.
    pub vouched: bool,
}

impl Standing {
    /// Of a source that was met without a word on who it is: the caller answers for it.
    pub const VOUCHED: Self = Self { uid: 0, vouched: true };

    /// Whether what one tells of the other's objects holds. Whoever runs a server may say what its
    /// objects mean, and so may the operator.
    pub fn may_speak_for(self, other: Self) -> bool {
        self.vouched || self.uid == other.uid
    }
}

/// Who speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Version of the line protocol.
    pub version: u32,
    /// `edumeet3`, `edumeet4-media-node`, `edumeet4-room-server`, `mediasoup-demo-js`,
    /// `mediasoup-demo-ts`, `mediasoup` or `unknown`.
    pub kind: Arc<str>,
    /// mediasoup's version, empty where it could not be found.
    pub mediasoup: Arc<str>,
    /// Node.js' version.
    pub node: Arc<str>,
    /// The server's process id, in its own namespace.
    pub pid: u32,
}

/// A new transport.
#[derive(Clone, Debug, PartialEq)]
pub struct TransportTold {
    /// Its id.
    pub id: TransportId,
    /// Its router, empty where that is not known.
    pub router: RouterId,
    /// Its kind.
    pub kind: TransportKind,
    /// Tuples and states.
    pub state: TransportState,
}

/// What changes in a transport's life.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TransportState {
    /// As [`Transport::tuples`](crate::model::Transport::tuples).
    pub tuples: Vec<ServerTuple>,
    /// ICE state.
    pub ice: Option<Arc<str>>,
    /// DTLS state.
    pub dtls: Option<Arc<str>>,
}

/// A new producer.
#[derive(Clone, Debug, PartialEq)]
pub struct ProducerTold {
    /// Its id.
    pub id: ProducerId,
    /// Its transport.
    pub transport: TransportId,
    /// Audio or video.
    pub kind: MediaKind,
    /// MIME subtype.
    pub codec: Arc<str>,
    /// `appData.peerId`, where there is one.
    pub peer: Option<PeerId>,
    /// As signalled: without scores and statistics.
    pub encodings: Vec<Encoding>,
    /// Scores and pause.
    pub state: ProducerState,
}

/// What changes in a producer's life.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProducerState {
    /// By SSRC; the only place that tells the SSRCs of RIDs.
    pub scores: Vec<Score>,
    /// Paused.
    pub paused: bool,
}

/// Score of one SSRC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Score {
    /// Media SSRC.
    pub ssrc: u32,
    /// RID, where the encoding has one.
    pub rid: Option<Arc<str>>,
    /// 0–10.
    pub score: u8,
}

/// A new consumer.
#[derive(Clone, Debug, PartialEq)]
pub struct ConsumerTold {
    /// Its id.
    pub id: ConsumerId,
    /// What it consumes.
    pub producer: ProducerId,
    /// Its transport.
    pub transport: TransportId,
    /// Audio or video.
    pub kind: MediaKind,
    /// MIME subtype.
    pub codec: Arc<str>,
    /// As signalled: without scores and statistics.
    pub encodings: Vec<Encoding>,
    /// Score, layers and pause.
    pub state: ConsumerState,
}

/// What changes in a consumer's life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConsumerState {
    /// Its own score, 0–10.
    pub score: Option<u8>,
    /// Its producer's score, 0–10.
    pub producer_score: Option<u8>,
    /// Current spatial and temporal layer.
    pub layers: Option<(u8, u8)>,
    /// Paused itself.
    pub paused: bool,
    /// Its producer is paused.
    pub producer_paused: bool,
}

/// Statistics of one encoding.
#[derive(Clone, Debug, PartialEq)]
pub struct EncodingStats {
    /// Media SSRC.
    pub ssrc: u32,
    /// RTX SSRC, once there has been RTX.
    pub rtx: Option<u32>,
    /// RID, where the encoding has one.
    pub rid: Option<Arc<str>>,
    /// The figures.
    pub stats: StreamStats,
}

/// Something that a peer can own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Owned {
    /// A transport.
    Transport(TransportId),
    /// A producer, on whichever transport.
    Producer(ProducerId),
    /// A consumer.
    Consumer(ConsumerId),
}

/// Something that exists no more.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Gone {
    /// A worker.
    Worker(u32),
    /// A router.
    Router(RouterId),
    /// A transport.
    Transport(TransportId),
    /// A producer.
    Producer(TransportId, ProducerId),
    /// A consumer.
    Consumer(ConsumerId),
    /// A room.
    Room(RoomId),
    /// A peer.
    Peer(PeerId),
}

/// A sign of life, with what the script counted.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Beat {
    /// Objects that it follows.
    pub objects: u64,
    /// Requests that it made to workers, in all.
    pub requests: u64,
    /// Objects that it could not follow because of its bound, in all.
    pub dropped: u64,
    /// Errors, in all.
    pub failures: u64,
    /// The longest time that it held the event loop since the last beat, in milliseconds.
    pub slice_ms: f64,
}
