//! Small states and readings for the tests of the pure modules.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::model::{
    Consumer, Counter, Direction, Encoding, Flow, MediaKind, Peer, PeerKey, Producer, Proto,
    RoomKey, ServerTuple, SourceId, Stream, Transport, TransportKind, Tuple,
};
use crate::state::State;

/// Bytes of each packet that a fixture counts.
pub(crate) const PACKET: u64 = 100;

pub(crate) fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address with a port")
}

pub(crate) fn tuple(local: &str, remote: &str) -> Tuple {
    Tuple::new(Proto::Udp, address(local), address(remote))
}

/// So many packets.
pub(crate) fn packets(packets: u64) -> Counter {
    Counter { packets, bytes: packets * PACKET }
}

/// A known flow that received so many STUN packets.
pub(crate) fn flow(tuple: Tuple, stun: u64) -> Flow {
    let mut counts = [[Counter::default(); 5]; 2];
    counts[0][2] = packets(stun);
    Flow { tuple, known: true, idle_seconds: 0, ended: false, streams: 0, counts }
}

/// A known stream of so many packets in sequence.
pub(crate) fn stream(tuple: Tuple, direction: Direction, ssrc: u32, count: u64) -> Stream {
    Stream {
        tuple,
        direction,
        ssrc,
        known: true,
        idle_seconds: 0,
        ended: false,
        payload_type: 96,
        total: packets(count),
        received: count,
        expected: count,
        out_of_order: 0,
        duplicates: 0,
        restarts: 0,
        jitter: [1, 2, 3].map(|millis| millis * 16_000),
    }
}

/// Who tells all of it.
pub(crate) const SOURCE: SourceId = SourceId(0);

/// A state with one room `r1` and one peer `alice`.
pub(crate) struct Told {
    pub(crate) state: State,
}

impl Default for Told {
    fn default() -> Self {
        let mut state = State::default();
        state.put_router("router".into(), SOURCE, 42, None);
        state.put_room(room("r1"), [].into(), ["router".into()].into());
        state.put_peer(Peer {
            id: "alice".into(),
            source: SOURCE,
            room: Some("r1".into()),
            display_name: "Alice".into(),
            user_agent: "Browser/1".into(),
        });
        Self { state }
    }
}

impl Told {
    pub(crate) fn transport(&mut self, id: &str, remote: &str, local_port: u16) {
        self.state.put_transport(transport(id, Some(remote), local_port));
    }

    pub(crate) fn producer(&mut self, id: &str, transport: &str, ssrcs: &[(u32, Option<u32>)]) {
        self.state.put_producer(producer(id, transport, ssrcs));
    }

    pub(crate) fn consumer(&mut self, id: &str, transport: &str, ssrcs: &[(u32, Option<u32>)]) {
        self.state.put_consumer(consumer(id, transport, ssrcs));
    }
}

pub(crate) fn room(id: &str) -> RoomKey {
    RoomKey { source: SOURCE, id: id.into() }
}

pub(crate) fn peer(id: &str) -> PeerKey {
    PeerKey { source: SOURCE, id: id.into() }
}

pub(crate) fn transport(id: &str, remote: Option<&str>, local_port: u16) -> Transport {
    Transport {
        id: id.into(),
        source: SOURCE,
        kind: TransportKind::WebRtc,
        router: "router".into(),
        owner: Some(peer("alice")),
        tuples: vec![ServerTuple {
            proto: Proto::Udp,
            local_address: "sfu.example".into(),
            local_port,
            remote: remote.map(address),
        }],
        ice_state: Some("completed".into()),
        dtls_state: Some("connected".into()),
    }
}

pub(crate) fn encodings(ssrcs: &[(u32, Option<u32>)]) -> Vec<Encoding> {
    let encoding = |(ssrc, rtx): &(u32, Option<u32>)| Encoding {
        ssrc: Some(*ssrc),
        rtx: *rtx,
        rid: None::<Arc<str>>,
        score: Some(10),
        stats: None,
    };
    ssrcs.iter().map(encoding).collect()
}

pub(crate) fn producer(id: &str, transport: &str, ssrcs: &[(u32, Option<u32>)]) -> Producer {
    Producer {
        id: id.into(),
        source: SOURCE,
        transport: transport.into(),
        owner: None,
        announced: None,
        kind: MediaKind::Video,
        codec: "VP8".into(),
        encodings: encodings(ssrcs),
        paused: false,
    }
}

pub(crate) fn consumer(id: &str, transport: &str, ssrcs: &[(u32, Option<u32>)]) -> Consumer {
    Consumer {
        id: id.into(),
        source: SOURCE,
        producer: "p1".into(),
        transport: transport.into(),
        owner: None,
        kind: MediaKind::Video,
        codec: "VP8".into(),
        encodings: encodings(ssrcs),
        score: Some(9),
        producer_score: Some(10),
        spatial_layer: Some(1),
        temporal_layer: Some(2),
        paused: false,
        producer_paused: false,
    }
}
