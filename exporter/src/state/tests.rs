use super::*;
use crate::model::{MediaKind, Proto, ServerTuple, StreamStats, TransportKind};

const A: SourceId = SourceId(1);
const B: SourceId = SourceId(2);

fn hello() -> Event {
    Event::Hello(Hello {
        version: 1,
        kind: "test".into(),
        mediasoup: "".into(),
        node: "".into(),
        pid: 1,
    })
}

fn router(id: &str, session: Option<&str>) -> Event {
    Event::Router { id: id.into(), pid: 7, session: session.map(Into::into) }
}

fn transport(id: &str, router: &str, remote: &str) -> Event {
    let tuples = vec![ServerTuple {
        proto: Proto::Udp,
        local_address: "192.0.2.1".into(),
        local_port: 40000,
        remote: Some(remote.parse().unwrap()),
    }];
    Event::Transport(TransportTold {
        id: id.into(),
        router: router.into(),
        kind: TransportKind::WebRtc,
        state: TransportState { tuples, ..TransportState::default() },
    })
}

fn encoding(ssrc: Option<u32>, rid: Option<&str>) -> Encoding {
    Encoding { ssrc, rtx: None, rid: rid.map(Into::into), score: None, stats: None }
}

fn producer(id: &str, transport: &str, encodings: Vec<Encoding>) -> Event {
    Event::Producer(ProducerTold {
        id: id.into(),
        transport: transport.into(),
        kind: MediaKind::Video,
        codec: "VP8".into(),
        peer: None,
        encodings,
        state: ProducerState::default(),
    })
}

fn consumer(id: &str, transport: &str, ssrc: u32) -> Event {
    Event::Consumer(ConsumerTold {
        id: id.into(),
        producer: "P".into(),
        transport: transport.into(),
        kind: MediaKind::Video,
        codec: "VP8".into(),
        encodings: vec![encoding(Some(ssrc), None)],
        state: ConsumerState::default(),
    })
}

fn peer(id: &str, room: Option<&str>) -> Event {
    Event::Peer {
        id: id.into(),
        room: room.map(Into::into),
        display_name: "".into(),
        user_agent: "".into(),
    }
}

fn room(id: &str, sessions: &[&str], routers: &[&str]) -> Event {
    let texts = |texts: &[&str]| texts.iter().map(|text| (*text).into()).collect();
    Event::Room { id: id.into(), sessions: texts(sessions), routers: texts(routers) }
}

fn own(peer: &str, object: Owned) -> Event {
    Event::Own { peer: peer.into(), objects: vec![object] }
}

fn told(events: &[(SourceId, Event)]) -> State {
    let mut state = State::default();
    events.iter().for_each(|(source, event)| state.apply(*source, event.clone()));
    state
}

/// Room and peer of the consumer C after these events, in whatever order they come.
fn check_place(events: &[(SourceId, Event)], room: Option<&str>, peer: Option<&str>) {
    for turn in 0..events.len() {
        let mut events = events.to_vec();
        events.rotate_left(turn);
        for events in [events.clone(), events.into_iter().rev().collect()] {
            let state = told(&events);
            let consumer = &state.consumers["C"];
            assert_eq!(consumer.room.as_ref().map(RoomId::as_str), room, "{events:?}");
            assert_eq!(consumer.peer.as_ref().map(PeerId::as_str), peer, "{events:?}");
        }
    }
}

#[test]
fn rooms_and_peers_are_found_in_whatever_order_they_are_told() {
    let basis = [
        (A, router("R", Some("S"))),
        (A, transport("T", "R", "203.0.113.1:1")),
        (A, consumer("C", "T", 1)),
    ];
    let with = |more: &[(SourceId, Event)]| [basis.as_slice(), more].concat();
    check_place(&with(&[]), Some("S"), None);
    check_place(&with(&[(B, room("named", &["S"], &[]))]), Some("named"), None);
    check_place(&with(&[(B, room("named", &[], &["R"]))]), Some("named"), None);
    let owned = Owned::Transport("T".into());
    check_place(&with(&[(B, own("p", owned.clone()))]), Some("S"), Some("p"));
    check_place(
        &with(&[(B, own("p", owned)), (B, peer("p", Some("of the peer")))]),
        Some("of the peer"),
        Some("p"),
    );
    check_place(
        &with(&[
            (B, own("p", Owned::Consumer("C".into()))),
            (B, peer("p", Some("other"))),
            (B, room("named", &["S"], &[])),
        ]),
        Some("named"),
        Some("p"),
    );
}

#[test]
fn what_becomes_unknown_is_unknown_again() {
    let mut state = told(&[
        (A, router("R", Some("S"))),
        (A, transport("T", "R", "203.0.113.1:1")),
        (A, consumer("C", "T", 1)),
        (B, room("named", &["S"], &[])),
        (B, own("p", Owned::Consumer("C".into()))),
    ]);
    state.apply(B, Event::Gone(Gone::Room("named".into())));
    state.apply(B, Event::Disown(vec![Owned::Consumer("C".into())]));
    let consumer = &state.consumers["C"];
    assert_eq!((consumer.room.clone(), consumer.peer.clone()), (Some("S".into()), None));
    // Only whoever told something can take it back.
    state.apply(B, Event::Gone(Gone::Consumer("C".into())));
    assert_eq!(state.consumers.len(), 1);
    state.apply(A, Event::Gone(Gone::Transport("T".into())));
    assert!(state.consumers.is_empty() && state.told().is_empty());
}

#[test]
fn a_reconnect_replaces_all_at_its_end_and_an_absence_after_its_grace() {
    let mut state = told(&[
        (A, hello()),
        (A, transport("old", "R", "203.0.113.1:1")),
        (A, transport("kept", "R", "203.0.113.1:2")),
        (A, Event::Synced),
        (B, transport("other", "R", "203.0.113.1:3")),
    ]);
    state.apply(A, hello());
    state.apply(A, transport("kept", "R", "203.0.113.1:2"));
    assert_eq!(state.transports.len(), 3);
    state.apply(A, Event::Synced);
    assert!(!state.transports.contains_key("old"));
    assert_eq!(state.told().len(), 2);
    state.apply(A, Event::Forget);
    assert_eq!(state.transports.keys().collect::<Vec<_>>(), [&TransportId::from("other")]);
}

#[test]
fn rids_are_told_by_their_scores_and_statistics() {
    let mut state = told(&[
        (A, transport("T", "R", "203.0.113.1:1")),
        (A, producer("P", "T", vec![encoding(None, Some("lo")), encoding(None, Some("hi"))])),
    ]);
    let owner = |state: &State, ssrc| {
        let owner = state.owner(&"T".into(), Direction::Receive, ssrc);
        owner.map(|(_, role)| role)
    };
    let score = |ssrc, rid: &str| Event::ProducerState {
        id: "P".into(),
        transport: "T".into(),
        state: ProducerState {
            scores: vec![Score { ssrc, rid: Some(rid.into()), score: 5 }],
            paused: false,
        },
    };
    assert_eq!(owner(&state, 11), None);
    state.apply(A, score(11, "hi"));
    assert_eq!(owner(&state, 11), Some(StreamRole::Media));
    state.apply(
        A,
        Event::ProducerStats {
            id: "P".into(),
            transport: "T".into(),
            stats: vec![EncodingStats {
                ssrc: 11,
                rtx: Some(12),
                rid: Some("hi".into()),
                stats: StreamStats { byte_count: 100, ..StreamStats::default() },
            }],
        },
    );
    assert_eq!(owner(&state, 12), Some(StreamRole::Rtx));
    // A sender that begins anew has another SSRC under the same RID.
    state.apply(A, score(21, "hi"));
    assert_eq!((owner(&state, 11), owner(&state, 12)), (None, None));
    assert_eq!(owner(&state, 21), Some(StreamRole::Media));
    let encodings = &state.producers.values().next().unwrap().encodings;
    assert_eq!((encodings.len(), encodings[1].stats), (2, None));
}

#[test]
fn told_again_keeps_statistics() {
    let stats = StreamStats { byte_count: 100, ..StreamStats::default() };
    let told_stats = EncodingStats { ssrc: 1, rtx: None, rid: None, stats };
    let state = told(&[
        (A, consumer("C", "T", 1)),
        (A, Event::ConsumerStats { id: "C".into(), stats: vec![told_stats] }),
        (A, hello()),
        (A, consumer("C", "T", 1)),
    ]);
    assert_eq!(state.consumers["C"].encodings[0].stats, Some(stats));
}

#[test]
fn a_piped_producer_shares_its_id_and_nothing_else() {
    let mut state = told(&[
        (A, transport("T", "R", "203.0.113.1:1")),
        (A, transport("pipe", "R2", "127.0.0.1:2")),
        (A, producer("P", "T", vec![encoding(Some(1), None)])),
        (A, producer("P", "pipe", vec![encoding(Some(2), None)])),
    ]);
    state.apply(A, Event::Gone(Gone::Producer("pipe".into(), "P".into())));
    assert_eq!(state.producers.len(), 1);
    assert!(state.owner(&"T".into(), Direction::Receive, 1).is_some());
    assert!(state.owner(&"pipe".into(), Direction::Receive, 2).is_none());
}

#[test]
fn a_tuple_or_ssrc_that_changed_hands_stays_with_its_new_owner() {
    let mut state = told(&[
        (A, transport("T", "R", "203.0.113.1:1")),
        (A, transport("U", "R", "203.0.113.1:1")),
        (A, consumer("C", "U", 1)),
        (A, consumer("D", "U", 1)),
    ]);
    state.apply(A, Event::Gone(Gone::Transport("T".into())));
    state.apply(A, Event::Gone(Gone::Consumer("C".into())));
    assert_eq!(state.told().len(), 1);
    assert!(state.owner(&"U".into(), Direction::Send, 1).is_some());
}

#[test]
fn bounds_turn_away_what_is_new_and_count_it() {
    let mut state = State::with_bounds(Bounds { transports: 2, ..Bounds::default() });
    for id in ["1", "2", "3", "1"] {
        state.apply(A, transport(id, "R", &format!("203.0.113.1:{id}")));
    }
    assert_eq!(state.transports.len(), 2);
    assert_eq!(state.dropped()["transports"], 1);
}

#[test]
fn rooms_and_their_peers_are_counted() {
    let state = told(&[
        (A, room("full", &[], &["R"])),
        (A, room("empty", &[], &[])),
        (A, peer("p", Some("full"))),
        (A, peer("q", Some("full"))),
        (A, peer("lost", None)),
        (A, router("S", Some("session"))),
        (A, transport("T", "S", "203.0.113.1:1")),
    ]);
    let mut counts: Vec<_> =
        state.peers_by_room().into_iter().map(|(room, n)| (room.as_str().to_owned(), n)).collect();
    counts.sort_unstable();
    assert_eq!(counts, [("empty".into(), 0), ("full".into(), 2), ("session".into(), 0)]);
}

/// All that a state holds for one room's worth of objects goes with its source.
#[test]
fn nothing_is_left_of_a_forgotten_source() {
    let mut state = told(&[
        (A, hello()),
        (A, router("R", Some("S"))),
        (A, room("named", &["S"], &["R"])),
        (A, peer("p", Some("named"))),
        (A, own("p", Owned::Transport("T".into()))),
        (A, transport("T", "R", "203.0.113.1:1")),
        (A, producer("P", "T", vec![encoding(Some(1), None)])),
        (A, consumer("C", "T", 2)),
        (A, Event::Worker { pid: 7 }),
    ]);
    // Not among the others: as long as they live, somebody holds their texts.
    state.apply(A, Event::Forget);
    let text = format!("{state:?}");
    for id in ["\"R\"", "\"S\"", "\"T\"", "\"P\"", "\"C\"", "\"p\"", "named"] {
        assert!(!text.contains(id), "{id} in {text}");
    }
}
