//! A made-up SFU: rooms of peers, each with a transport, one stream that is received and four that
//! are sent; as servers tell it, and as the kernel counts it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use mediasoup_exporter::model::{
    Consumer, Direction, Encoding, MediaKind, Peer, PeerKey, Producer, Proto, Reading, RoomKey,
    ServerTuple, SourceId, StreamStats, Transport, TransportKind, Tuple,
};
use mediasoup_exporter::state::State;

/// Of each transport: one is received, the others are sent.
const STREAMS: usize = 5;
/// Who tells all of it.
const SOURCE: SourceId = SourceId(0);
/// Transports in a room.
const ROOM: usize = 50;

/// The SFU.
pub struct World {
    /// What its server tells.
    pub state: State,
    /// Its connections.
    pub tuples: Vec<Tuple>,
    /// Its streams, each with its connection's place, in no order.
    pub ssrcs: Vec<(usize, Direction, u32)>,
}

impl World {
    /// With so many streams.
    pub fn new(streams: usize) -> Self {
        let transports = streams / STREAMS;
        let mut state = State::default();
        let (mut tuples, mut ssrcs) = (Vec::new(), Vec::new());
        for number in 0..transports {
            let room = format!("tenant/room-{}", number / ROOM);
            let router = uuid(9, number / ROOM);
            if number.is_multiple_of(ROOM) {
                state.put_router((&*router).into(), SOURCE, 4242, None);
                let key = RoomKey { source: SOURCE, id: (&*room).into() };
                state.put_room(key, [].into(), [(&*router).into()].into());
            }
            let peer = uuid(1, number);
            let owner = Some(PeerKey { source: SOURCE, id: (&*peer).into() });
            state.put_peer(Peer {
                id: (&*peer).into(),
                source: SOURCE,
                room: Some((&*room).into()),
                display_name: format!("Participant {number}").into(),
                user_agent: "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like \
                             Gecko) Chrome/126.0.0.0 Safari/537.36"
                    .into(),
            });
            let remote = SocketAddr::new(
                IpAddr::V4(Ipv4Addr::from_bits(0xc633_0000 + (number / 60_000) as u32 + 1)),
                1024 + (number % 60_000) as u16,
            );
            let port = 40_000 + (number % 10_000) as u16;
            let local = SocketAddr::from(([203, 0, 113, 5], port));
            let transport = uuid(2, number);
            state.put_transport(Transport {
                id: (&*transport).into(),
                source: SOURCE,
                kind: TransportKind::WebRtc,
                router: (&*router).into(),
                owner: owner.clone(),
                tuples: vec![ServerTuple {
                    proto: Proto::Udp,
                    local_address: "203.0.113.5".into(),
                    local_port: port,
                    remote: Some(remote),
                }],
                ice_state: Some("completed".into()),
                dtls_state: Some("connected".into()),
            });
            tuples.push(Tuple::new(Proto::Udp, local, remote));
            for stream in 0..STREAMS {
                let ssrc = (number * STREAMS + stream + 10_000) as u32;
                let encodings = vec![Encoding {
                    ssrc: Some(ssrc),
                    rtx: None,
                    rid: None,
                    score: Some(10),
                    stats: Some(StreamStats {
                        byte_count: 123_456,
                        round_trip_time: Some(12.5),
                        ..StreamStats::default()
                    }),
                }];
                if stream == 0 {
                    ssrcs.push((number, Direction::Receive, ssrc));
                    state.put_producer(Producer {
                        id: (&*uuid(3, number)).into(),
                        source: SOURCE,
                        transport: (&*transport).into(),
                        owner: owner.clone(),
                        announced: None,
                        kind: MediaKind::Video,
                        codec: "VP8".into(),
                        encodings,
                        paused: false,
                    });
                } else {
                    ssrcs.push((number, Direction::Send, ssrc));
                    state.put_consumer(Consumer {
                        source: SOURCE,
                        id: (&*uuid(3 + stream, number)).into(),
                        producer: (&*uuid(3, number.saturating_sub(stream))).into(),
                        transport: (&*transport).into(),
                        owner: owner.clone(),
                        kind: MediaKind::Video,
                        codec: "VP8".into(),
                        encodings,
                        score: Some(10),
                        producer_score: Some(10),
                        spatial_layer: Some(2),
                        temporal_layer: Some(2),
                        paused: false,
                        producer_paused: false,
                    });
                }
            }
        }
        // Tables are read in the order of their hashes.
        let mut seed = 1_u64;
        for at in (1..ssrcs.len()).rev() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ssrcs.swap(at, (seed >> 33) as usize % (at + 1));
        }
        Self { state, tuples, ssrcs }
    }

    /// Lets go of what only filling the tables needs.
    pub fn forget_plan(&mut self) {
        (self.tuples, self.ssrcs) = Default::default();
    }

    /// Traffic since an earlier reading.
    pub fn grow(reading: &mut Reading, rounds: u64) {
        for stream in &mut reading.streams {
            stream.total.packets += 50 * rounds;
            stream.total.bytes += 50_000 * rounds;
            stream.received += 50 * rounds;
            stream.expected += 50 * rounds;
        }
    }
}

fn uuid(kind: usize, number: usize) -> String {
    format!("{kind:08x}-77aa-4bbb-8ccc-{number:012x}")
}
