use super::*;
use crate::model::{MediaKind, Proto, RoomKey, ServerTuple, StreamStats, TransportKind};

impl State {
    /// The live transport that has the tuple, wherever its packets come.
    fn transport_by_tuple(&self, key: &JoinKey) -> Option<&Transport> {
        let holder = self.tuples.holder(key, None).filter(|claim| claim.closed.is_none())?;
        self.transports.get(&holder.transport)
    }
}

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

/// Room and peer of a consumer, as a scrape puts them together.
fn where_is(state: &State, consumer: &str) -> (Option<RoomKey>, Option<PeerKey>) {
    let consumer = &state.consumers[consumer];
    let place = state.place(&state.transports[&consumer.transport]);
    let peer = consumer.owner.clone().or(place.peer.clone());
    (state.room_or_session_at(&place, peer.as_ref()).map(RoomRef::to_key), peer)
}

/// Room and peer of the consumer C after these events, in whatever order they come.
fn check_place(events: &[(SourceId, Event)], room: Option<&str>, peer: Option<&str>) {
    for turn in 0..events.len() {
        let mut events = events.to_vec();
        events.rotate_left(turn);
        for events in [events.clone(), events.into_iter().rev().collect()] {
            let state = told(&events);
            let (found, owner) = where_is(&state, "C");
            assert_eq!(found.as_ref().map(|room| room.id.as_str()), room, "{events:?}");
            assert_eq!(owner.as_ref().map(|peer| peer.id.as_str()), peer, "{events:?}");
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
    let session = RoomKey { source: A, id: "S".into() };
    assert_eq!(where_is(&state, "C"), (Some(session), None));
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
    let (owner, _) = state.owner(&"pipe".into(), Direction::Receive, 2).unwrap();
    assert!(matches!(owner, Owner::Closed(_)));
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
    assert_eq!(state.refused(Reason::Full, Kind::Transport), 1);
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
    assert_eq!(state.take_lost(), ["T".into()]);
    let text = format!("{state:?}");
    state.settle();
    assert_eq!(state.bytes(), 0);
    for id in ["\"R\"", "\"S\"", "\"T\"", "\"P\"", "\"C\"", "\"p\"", "named"] {
        assert!(!text.contains(id), "{id} in {text}");
    }
}

const STRANGER: Standing = Standing { uid: 4242, vouched: false };

/// A host whose processes and ports are these: source, worker, port.
#[derive(Debug, Default)]
struct Host(Vec<(SourceId, u32, u16)>);

impl Ownership for Host {
    fn worker(&self, source: SourceId, pid: u32) -> Option<Option<u32>> {
        let at = self.0.iter().position(|(of, worker, _)| (*of, *worker) == (source, pid));
        Some(at.map(|at| at as u32 + 1000))
    }

    fn bound(&self, process: u32, _: Proto, port: u16) -> Option<Bound> {
        let (source, worker, _) = self.0[process as usize - 1000];
        let owns = self.0.contains(&(source, worker, port));
        Some(owns.then(|| [0, 0, 0, 0].into()).into_iter().collect())
    }

    fn is_local(&self, _: IpAddr) -> Option<bool> {
        Some(true)
    }
}

fn score(consumer: &str, score: u8) -> Event {
    Event::ConsumerState {
        id: consumer.into(),
        state: ConsumerState { score: Some(score), ..ConsumerState::default() },
    }
}

/// The room of A's consumer C as A and B, who are these, tell it.
fn room_as_told_by(
    a: Standing,
    b: Standing,
    events: &[(SourceId, Event)],
) -> (Option<String>, u64) {
    let met = [(A, Event::Met(a)), (B, Event::Met(b))];
    let basis = [
        (A, router("R", Some("S"))),
        (A, transport("T", "R", "203.0.113.1:1")),
        (A, consumer("C", "T", 1)),
    ];
    let state = told(&[met.as_slice(), events, basis.as_slice()].concat());
    let room = where_is(&state, "C").0.map(|room| room.id.as_str().to_owned());
    (room, state.refused(Reason::Standing, Kind::Owner))
}

#[test]
fn what_another_source_told_is_neither_overwritten_nor_deleted() {
    let mut state = told(&[
        (A, router("R", Some("S"))),
        (A, room("named", &[], &["R"])),
        (A, transport("T", "R", "203.0.113.1:1")),
        (A, producer("P", "T", vec![encoding(Some(1), None)])),
        (A, consumer("C", "T", 2)),
        (A, score("C", 7)),
    ]);
    let stats = EncodingStats { ssrc: 2, rtx: None, rid: None, stats: StreamStats::default() };
    for event in [
        router("R", Some("other")),
        transport("T", "R2", "203.0.113.9:9"),
        Event::TransportState { id: "T".into(), state: TransportState::default() },
        producer("P", "T", vec![encoding(Some(9), None)]),
        producer("Q", "T", vec![encoding(Some(2), None)]),
        consumer("C", "T", 9),
        consumer("C", "elsewhere", 9),
        consumer("D", "T", 2),
        score("C", 0),
        Event::ConsumerStats { id: "C".into(), stats: vec![stats] },
        Event::ProducerState {
            id: "P".into(),
            transport: "T".into(),
            state: ProducerState { paused: true, ..ProducerState::default() },
        },
        Event::Gone(Gone::Router("R".into())),
        Event::Gone(Gone::Consumer("C".into())),
        Event::Gone(Gone::Producer("T".into(), "P".into())),
        Event::Gone(Gone::Transport("T".into())),
        hello(),
        Event::Synced,
        Event::Forget,
    ] {
        state.apply(B, event);
    }
    let refused = [Kind::Router, Kind::Transport, Kind::Producer, Kind::Consumer]
        .map(|kind| state.refused(Reason::Foreign, kind));
    assert_eq!(refused, [2, 3, 4, 6]);
    let consumer = &state.consumers["C"];
    assert_eq!((consumer.score, consumer.encodings[0].ssrc), (Some(7), Some(2)));
    assert_eq!(where_is(&state, "C").0, Some(RoomKey { source: A, id: "named".into() }));
    assert!(!state.producers.values().next().unwrap().paused);
    assert!(state.owner(&"T".into(), Direction::Send, 2).is_some());
    assert_eq!(state.told().len(), 1);
    // A room, a peer and a worker of the same name are others.
    for event in [room("named", &[], &["R"]), peer("p", Some("named")), Event::Worker { pid: 7 }] {
        state.apply(A, event.clone());
        state.apply(B, event);
    }
    assert_eq!((state.rooms().len(), state.peers.len(), state.workers.len()), (2, 2, 2));
    state.apply(B, Event::Gone(Gone::Room("named".into())));
    state.apply(B, Event::Gone(Gone::Peer("p".into())));
    state.apply(B, Event::Gone(Gone::Worker(7)));
    assert_eq!((state.rooms().len(), state.peers.len(), state.workers.len()), (1, 1, 1));
    assert_eq!(where_is(&state, "C").0, Some(RoomKey { source: A, id: "named".into() }));
}

#[test]
fn what_was_put_on_a_transport_before_its_teller_told_it_goes() {
    let mut state =
        told(&[(B, consumer("fake", "T", 1)), (A, transport("T", "R", "203.0.113.1:1"))]);
    assert!(state.consumers.is_empty());
    state.apply(A, consumer("C", "T", 1));
    assert_eq!(state.consumers.len(), 1);
}

#[test]
fn a_source_speaks_for_others_only_if_it_may() {
    let by_session = [(B, room("named", &["S"], &[]))];
    let by_router = [(B, room("named", &[], &["R"]))];
    let by_owner =
        [(B, peer("p", Some("of the peer"))), (B, own("p", Owned::Transport("T".into())))];
    let other = Standing { uid: 4243, vouched: false };
    for (a, b, holds) in [
        (STRANGER, STRANGER, true),
        (STRANGER, Standing::VOUCHED, true),
        (Standing::VOUCHED, STRANGER, false),
        (STRANGER, other, false),
    ] {
        for (events, named) in [
            (by_session.as_slice(), "named"),
            (by_router.as_slice(), "named"),
            (by_owner.as_slice(), "of the peer"),
        ] {
            let expected = if holds { named } else { "S" };
            let (found, refused) = room_as_told_by(a, b, events);
            assert_eq!(found.as_deref(), Some(expected), "{a:?} {b:?} {events:?}");
            assert_eq!(refused, u64::from(!holds && named != "named"));
        }
    }
    // The own word goes first, and a stranger's claim takes no place from who may.
    let events = [(B, room("theirs", &["S"], &[])), (A, room("ours", &["S"], &[]))];
    let (found, _) = room_as_told_by(Standing::VOUCHED, Standing::VOUCHED, &events);
    assert_eq!(found.as_deref(), Some("ours"));
    // Whom a source may speak for is known anew when it is met again.
    let mut state = told(&[
        (A, Event::Met(Standing::VOUCHED)),
        (B, Event::Met(STRANGER)),
        (A, transport("T", "R", "203.0.113.1:1")),
        (B, own("p", Owned::Transport("T".into()))),
    ]);
    assert_eq!(state.transports["T"].owner, None);
    assert_eq!(state.refused(Reason::Standing, Kind::Owner), 1);
    state.apply(B, Event::Met(Standing::VOUCHED));
    assert!(state.transports["T"].owner.is_some());
}

#[test]
fn a_tuple_belongs_to_the_source_whose_worker_owns_the_port() {
    let mut state = State::default();
    let holder = |state: &mut State| {
        state.settle();
        let key = *state.told().iter().next()?;
        state.transport_by_tuple(&key).map(|transport| transport.id.as_str().to_owned())
    };
    let host = |owners: &[(SourceId, u32, u16)]| Arc::new(Host(owners.to_vec()));
    for source in [A, B] {
        state.apply(source, Event::Met(STRANGER));
    }
    // Not known whose the port is: a stranger's word opens nothing.
    state.apply(B, Event::Router { id: "RB".into(), pid: 8, session: None });
    state.apply(B, transport("TB", "RB", "203.0.113.1:1"));
    assert_eq!(holder(&mut state), None);
    assert_eq!(state.refused_tuples(), Refused { port: 1, foreign: 0 });
    state.observe(host(&[(A, 7, 40_000), (B, 8, 40_001)]));
    assert_eq!(holder(&mut state), None);
    state.apply(A, router("RA", None));
    state.apply(A, transport("TA", "RA", "203.0.113.1:1"));
    assert_eq!(holder(&mut state).as_deref(), Some("TA"));
    assert_eq!(state.refused(Reason::Port, Kind::Connection), 1);
    // Naming another's process is of no use.
    state.apply(B, Event::Router { id: "RB".into(), pid: 7, session: None });
    assert_eq!(holder(&mut state).as_deref(), Some("TA"));
    assert_eq!(state.place(&state.transports["TB"]).pid, 0);
    // The port goes to another worker, and comes back.
    state.observe(host(&[(A, 7, 40_001), (B, 7, 40_000)]));
    assert_eq!(holder(&mut state).as_deref(), Some("TB"));
    for _ in 0..2 {
        state.observe(host(&[(A, 7, 40_000), (B, 7, 40_000)]));
        assert_eq!(holder(&mut state).as_deref(), Some("TB"), "both have it: who came first");
    }
    let revision = state.revision();
    state.observe(host(&[(A, 7, 40_000), (B, 7, 40_000)]));
    assert_eq!(holder(&mut state).as_deref(), Some("TB"));
    assert_eq!(state.revision(), revision, "nothing new");
    assert_eq!(state.refused_tuples(), Refused { port: 0, foreign: 1 });
    state.apply(B, Event::Gone(Gone::Transport("TB".into())));
    assert_eq!(holder(&mut state).as_deref(), Some("TA"), "takes over");
    assert_eq!(state.refused_tuples(), Refused::default());
}

#[test]
fn a_tuple_that_two_believed_sources_tell_stays_with_the_first() {
    let mut state = told(&[
        (A, transport("TA", "R", "203.0.113.1:1")),
        (B, transport("TB", "R", "203.0.113.1:1")),
        (A, transport("TA2", "R", "203.0.113.1:1")),
        (A, transport("TA", "R", "203.0.113.1:1")),
    ]);
    let key = *state.told().iter().next().unwrap();
    let holder = |state: &State| state.transport_by_tuple(&key).map(|it| it.id.clone());
    assert_eq!(holder(&state), Some("TA".into()), "told last of the first one's");
    assert_eq!(state.refused_tuples(), Refused { port: 0, foreign: 1 });
    assert_eq!(state.refused(Reason::Foreign, Kind::Connection), 1);
    state.apply(A, Event::Gone(Gone::Transport("TA".into())));
    assert_eq!(holder(&state), Some("TA2".into()));
    state.apply(A, Event::Forget);
    assert_eq!(holder(&state), Some("TB".into()));
    for number in 0..1000 {
        state.apply(B, transport(&number.to_string(), "R", "203.0.113.1:1"));
    }
    assert_eq!(holder(&state), Some("999".into()), "claims are bounded, and the newest holds");
}

/// Workers' sockets: source, worker, address.
#[derive(Debug)]
struct Sockets(Vec<(SourceId, u32, &'static str)>);

impl Ownership for Sockets {
    fn worker(&self, _: SourceId, pid: u32) -> Option<Option<u32>> {
        Some(self.0.iter().any(|it| it.1 == pid).then_some(pid))
    }

    fn bound(&self, process: u32, _: Proto, _: u16) -> Option<Bound> {
        let own = self.0.iter().filter(|it| it.1 == process);
        Some(own.map(|it| it.2.parse().unwrap()).collect())
    }

    fn is_local(&self, address: IpAddr) -> Option<bool> {
        Some(address == IpAddr::from([192, 0, 2, 1]))
    }
}

#[test]
fn a_socket_at_an_address_that_is_not_the_hosts_is_said() {
    for (address, expected) in
        [("192.0.2.1", (0, 1)), ("198.51.100.7", (1, 0)), ("0.0.0.0", (0, 1))]
    {
        let mut state = State::default();
        state.observe(Arc::new(Sockets(vec![(A, 7, address)])));
        at(A, "T", 7, "192.0.2.1")
            .into_iter()
            .for_each(|(source, event)| state.apply(source, event));
        state.settle();
        state.pass(100);
        let Unseen { port, address: foreign, others } = state.unseen(|_| true, |_| true);
        assert_eq!(
            (foreign.count, others.count, port.count),
            (expected.0, expected.1, 0),
            "{address}"
        );
    }
}

fn at(source: SourceId, id: &str, worker: u32, address: &str) -> [(SourceId, Event); 2] {
    let router = format!("R{id}");
    let Event::Transport(mut told) = transport(id, &router, "203.0.113.1:1") else {
        unreachable!("what it is")
    };
    told.state.tuples[0].local_address = address.into();
    let router = Event::Router { id: router.as_str().into(), pid: worker, session: None };
    [(source, router), (source, Event::Transport(told))]
}

/// Who has the tuple for packets at these addresses.
fn holders<'a>(state: &'a State, addresses: &[&str]) -> Vec<&'a str> {
    let holder = |address: &&str| {
        let local = std::net::SocketAddr::new(address.parse().unwrap(), 40_000);
        let tuple = Tuple::new(Proto::Udp, local, ([203, 0, 113, 1], 1).into());
        state.holder(&tuple).map_or("", |holder| holder.transport.as_str())
    };
    addresses.iter().map(holder).collect()
}

const ADDRESSES: [&str; 3] = ["10.0.0.1", "10.0.0.2", "10.0.0.3"];

#[test]
fn two_workers_have_the_same_port_at_two_addresses() {
    let check = |sockets: Option<[&'static str; 2]>, told: [&str; 2], expected: [&str; 2]| {
        for second in [A, B] {
            let events = [at(A, "T", 7, told[0]), at(second, "U", 8, told[1])].concat();
            let mut state = State::default();
            if let Some([one, two]) = sockets {
                state.observe(Arc::new(Sockets(vec![(A, 7, one), (second, 8, two)])));
            }
            events.into_iter().for_each(|(source, event)| state.apply(source, event));
            state.settle();
            assert_eq!(
                holders(&state, &ADDRESSES[..2]),
                expected,
                "{sockets:?} {told:?} {second:?}"
            );
            assert_eq!(state.refused_tuples(), Refused::default());
            assert_eq!(state.told().len(), 1, "the kernel knows it whatever the address");
        }
    };
    let both = ["10.0.0.1", "10.0.0.2"];
    // The host knows where they are bound, whatever they announce.
    check(Some(both), both, ["T", "U"]);
    check(Some(both), ["198.51.100.1", "sfu.example"], ["T", "U"]);
    check(Some(both), ["sfu.example", "sfu.example"], ["T", "U"]);
    check(Some(both), ["10.0.0.2", "10.0.0.1"], ["T", "U"]);
    // Or it does not.
    check(None, both, ["T", "U"]);
}

#[test]
fn a_claim_that_is_alone_holds_at_every_address() {
    for told in ["10.0.0.1", "198.51.100.1", "sfu.example", "", "0.0.0.0", "2001:db8::1"] {
        for bound in ["0.0.0.0", "::", "10.0.0.2"] {
            let mut state = State::default();
            state.observe(Arc::new(Sockets(vec![(A, 7, bound)])));
            at(A, "T", 7, told).into_iter().for_each(|(source, event)| state.apply(source, event));
            assert_eq!(holders(&state, &ADDRESSES), ["T"; 3], "{told} {bound}");
        }
    }
}

/// Whoever runs a worker of his own at another address of the host takes nothing by telling more.
#[test]
fn a_told_address_takes_no_tuple_from_another_source() {
    for theirs in ["127.0.0.1", "::"] {
        let mut state = State::default();
        state.observe(Arc::new(Sockets(vec![(A, 7, "0.0.0.0"), (B, 8, theirs)])));
        for (source, event) in [at(A, "T", 7, "sfu.example"), at(B, "U", 8, "10.0.0.1")].concat() {
            state.apply(source, event);
        }
        assert_eq!(holders(&state, &ADDRESSES), ["T"; 3], "{theirs}");
    }
}

#[test]
fn what_closed_is_its_own_for_a_while() {
    let mut state = told(&[
        (A, transport("T", "R", "203.0.113.1:1")),
        (A, producer("P", "T", vec![encoding(Some(1), None)])),
        (A, consumer("C", "T", 2)),
    ]);
    let tuple =
        Tuple::new(Proto::Udp, ([10, 0, 0, 1], 40_000).into(), ([203, 0, 113, 1], 1).into());
    let closed = |state: &State| {
        let holder = state.holder(&tuple)?;
        Some((holder.transport.as_str().to_owned(), holder.closed))
    };
    let owner = |state: &State, direction, ssrc| match state.owner(&"T".into(), direction, ssrc) {
        Some((Owner::Closed(ClosedOwner { id, role, clock, .. }), _)) => {
            Some((id.to_string(), *role, *clock))
        }
        Some(other) => unreachable!("{other:?} lives"),
        None => None,
    };
    let p = Some(("P".to_owned(), StreamRole::Media, Some(Clock::Khz90)));
    state.pass(100);
    assert_eq!(closed(&state), Some(("T".into(), false)));
    let revision = state.revision();
    state.apply(A, Event::Gone(Gone::Transport("T".into())));
    assert!(state.revision() > revision);
    assert_eq!(state.told().len(), 0, "the kernel is told no more");
    state.pass(100 + closed::KEPT);
    assert_eq!(closed(&state), Some(("T".into(), true)));
    assert_eq!(owner(&state, Direction::Receive, 1), p);
    assert!(owner(&state, Direction::Send, 2).is_some());
    let revision = state.revision();
    state.pass(101 + closed::KEPT);
    assert!(state.revision() > revision);
    assert_eq!(closed(&state), None);
    assert_eq!(owner(&state, Direction::Receive, 1), None);
    // Whoever has it next has it alone, and one that is told again is as it was.
    for (id, expected) in [("U", "U"), ("T", "T")] {
        state.apply(A, transport("T", "R", "203.0.113.1:1"));
        state.apply(A, Event::Gone(Gone::Transport("T".into())));
        state.apply(A, transport(id, "R", "203.0.113.1:1"));
        assert_eq!(closed(&state), Some((expected.into(), false)));
        state.pass(2000);
        assert_eq!(closed(&state), Some((expected.into(), false)));
        state.apply(A, Event::Gone(Gone::Transport("U".into())));
    }
    // Of a source that nothing more is heard of, nobody knows what closed.
    state.apply(A, Event::Forget);
    assert_eq!(closed(&state).filter(|it| it.0 == "T"), None);
}

#[test]
fn told_connections_without_packets_are_said() {
    let mut state = told(&[
        (A, router("R", None)),
        (A, transport("T", "R", "203.0.113.1:1")),
        (A, transport("U", "R", "203.0.113.2:1")),
    ]);
    for (id, kind) in [("plain", TransportKind::Plain), ("pipe", TransportKind::Pipe)] {
        let Event::Transport(told) = transport(id, "R", "203.0.113.3:1") else {
            unreachable!("what it is")
        };
        state.apply(A, Event::Transport(TransportTold { kind, ..told }));
    }
    let unseen = |state: &State| state.unseen(|_| true, |_| true);
    let figures = |state: &State| (unseen(state).port.count, unseen(state).others.count);
    state.pass(9);
    assert_eq!(figures(&state), (0, 0), "it may be on its way");
    state.pass(10);
    assert_eq!(figures(&state), (0, 2), "nothing is to be expected on the others yet");
    let tuple =
        Tuple::new(Proto::Udp, ([10, 0, 0, 1], 40_000).into(), ([203, 0, 113, 2], 1).into());
    let claim = state.holder(&tuple).unwrap().claim;
    state.seen([claim]);
    assert_eq!(
        state.unseen(|port| port != 40_000, |_| true),
        Unseen::default(),
        "these are not counted"
    );
    assert_eq!(unseen(&state).others, UnseenOf { count: 1, first: Some("T".into()) });
    state.apply(A, consumer("C", "pipe", 5));
    assert_eq!(figures(&state), (0, 2));
    // A telling that changes nothing, or the host's word, makes no new connection of what was seen.
    state.apply(A, transport("U", "R", "203.0.113.2:1"));
    state.observe(Arc::new(Host(vec![(A, 7, 40_001)])));
    state.settle();
    state.pass(100);
    assert_eq!(figures(&state), (2, 0));
    let of_ended = state.unseen(|_| true, |source| source != A);
    assert_eq!(of_ended, Unseen::default(), "a server that ended has no worker any more");
    for id in ["T", "pipe"] {
        state.apply(A, Event::Gone(Gone::Transport(id.into())));
    }
    assert_eq!(figures(&state), (0, 0));
    state.apply(A, transport("V", "R", "203.0.113.4:1"));
    state.apply(A, Event::Forget);
    state.pass(200);
    assert_eq!(figures(&state), (0, 0));
    assert!(state.tuples.unseen(u64::MAX).next().is_none());
}

#[test]
fn what_closed_is_bounded_for_each_source() {
    let mut state = State::with_bounds(Bounds { closed: 10, ..Bounds::default() });
    let tuple = |number: u16| {
        let remote = ([203, 0, 113, 1], number).into();
        Tuple::new(Proto::Udp, ([10, 0, 0, 1], 40_000).into(), remote)
    };
    for number in 1..=100 {
        let id = number.to_string();
        state.apply(A, transport(&id, "R", &tuple(number).remote.to_string()));
        state.apply(A, consumer(&id, &id, number.into()));
        state.apply(A, Event::Gone(Gone::Transport(id.as_str().into())));
    }
    let kept = (1..=100).filter(|number| state.holder(&tuple(*number)).is_some());
    assert_eq!(kept.collect::<Vec<_>>(), (91..=100).collect::<Vec<_>>());
    let kept = (1..=100u32).filter(|number| {
        let id = number.to_string();
        state.owner(&id.as_str().into(), Direction::Send, *number).is_some()
    });
    assert_eq!(kept.count(), 40);
    assert_eq!(state.refused(Reason::Full, Kind::Closed), 90 + 60);
    assert_eq!(state.bytes(), 0);
    state.pass(1000);
    assert!((1..=100).all(|number| state.holder(&tuple(number)).is_none()));
}

#[test]
fn one_source_takes_at_most_half_of_the_room() {
    let bounds = Bounds { transports: 10, ..Bounds::default() };
    let mut state = State::with_bounds(bounds);
    for source in [1, 2, 3] {
        for number in 0..20 {
            let id = format!("{source}-{number}");
            let remote = format!("203.0.113.{source}:{}", number + 1);
            state.apply(SourceId(source), transport(&id, "R", &remote));
        }
    }
    let of = |source| state.transports.values().filter(|it| it.source == SourceId(source)).count();
    assert_eq!([1, 2, 3].map(of), [10, 10, 0]);
    assert_eq!(state.refused(Reason::Full, Kind::Transport), 40);
    // Bytes are bounded, too, and given back.
    let mut state = State::with_bounds(Bounds { bytes: 20_000, ..Bounds::default() });
    for round in 0..3 {
        for number in 0..1000 {
            state.apply(A, peer(&number.to_string(), Some(&"x".repeat(500))));
        }
        assert!((10..30).contains(&state.peers.len()), "{} in round {round}", state.peers.len());
        state.apply(B, peer("p", None));
        assert!(state.peers.contains_key(&PeerKey { source: B, id: "p".into() }));
        state.apply(A, Event::Forget);
        state.apply(B, Event::Forget);
        assert_eq!((state.peers.len(), state.bytes()), (0, 0));
    }
}

#[test]
fn a_user_has_one_share_however_many_servers() {
    let bounds = Bounds { transports: 10, closed: 2, ..Bounds::default() };
    let mut state = State::with_bounds(bounds);
    let sources = [(1, 1000), (2, 1000), (3, 2000), (4, 3000), (5, 0)];
    for (source, uid) in sources {
        state.apply(SourceId(source), Event::Met(Standing { uid, vouched: uid == 0 }));
    }
    let fill = |state: &mut State, source: u32| {
        for number in 0..20 {
            let id = format!("{source}-{number}");
            state.apply(
                SourceId(source),
                transport(&id, "R", &format!("203.0.113.{source}:{number}")),
            );
        }
        state.transports.values().filter(|it| it.source == SourceId(source)).count()
    };
    let told: Vec<_> = sources.iter().map(|(source, _)| fill(&mut state, *source)).collect();
    // The second of one user finds nothing left, nor does a third user; whom somebody answers for does.
    assert_eq!(told, [10, 0, 10, 0, 10]);
    // What one gives back is the other's; and a user who is believed for more has a share of his own.
    state.apply(SourceId(1), Event::Forget);
    assert_eq!(fill(&mut state, 2), 10);
    state.apply(SourceId(2), Event::Met(Standing { uid: 1000, vouched: true }));
    assert_eq!(fill(&mut state, 4), 10);
    for (source, _) in sources {
        state.apply(SourceId(source), Event::Forget);
    }
    assert_eq!((state.transports.len(), state.bytes()), (0, 0));
}

#[test]
fn whom_somebody_answers_for_has_its_ids_whoever_told_them_first() {
    let mut state = State::default();
    let (squatter, server) = (A, B);
    state.apply(squatter, Event::Met(Standing { uid: 1000, vouched: false }));
    state.apply(server, Event::Met(Standing { uid: 33, vouched: true }));
    let tell = |state: &mut State, source| {
        for event in [
            router("R", None),
            transport("T", "R", "203.0.113.1:1"),
            producer("P", "T", vec![encoding(Some(1), None)]),
            consumer("C", "T", 2),
        ] {
            state.apply(source, event);
        }
    };
    let tellers = |state: &State| {
        let transport = state.transports.values().map(|it| it.source);
        let producer = state.producers.values().map(|it| it.source);
        let consumer = state.consumers.values().map(|it| it.source);
        transport.chain(producer).chain(consumer).collect::<Vec<_>>()
    };
    tell(&mut state, squatter);
    tell(&mut state, server);
    assert_eq!(tellers(&state), [server; 3]);
    let refused = |state: &State| {
        Kind::ALL.iter().map(|kind| state.refused(Reason::Foreign, *kind)).sum::<u64>()
    };
    assert_eq!(refused(&state), 2, "the router, and the transport with all that was on it");
    tell(&mut state, squatter);
    assert_eq!((tellers(&state), refused(&state)), (vec![server; 3], 6));
    state.apply(squatter, Event::Forget);
    assert_eq!(tellers(&state), [server; 3]);
    state.apply(server, Event::Forget);
    assert_eq!((tellers(&state), state.bytes()), (vec![], 0));
}

#[test]
fn lists_within_an_object_are_bounded_and_what_goes_over_is_counted() {
    let names: Vec<String> = (0..100).map(|number| format!("S{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let many = |ssrcs: std::ops::Range<u32>| ssrcs.map(|it| encoding(Some(it), None)).collect();
    let mut state = told(&[
        (A, room("r", &names, &names)),
        (A, transport("T", "R", "203.0.113.1:1")),
        (A, producer("P", "T", many(0..64))),
    ]);
    let Event::Consumer(one) = consumer("C", "T", 1) else { unreachable!("what it is") };
    state.apply(A, Event::Consumer(ConsumerTold { encodings: many(100..164), ..one }));
    assert_eq!(state.refused(Reason::Full, Kind::Link), 2 * (100 - 64));
    assert_eq!(state.refused(Reason::Full, Kind::Encoding), 2 * (64 - 8));
    let score = |ssrc| Score { ssrc, rid: None, score: 1 };
    state.apply(
        A,
        Event::ProducerState {
            id: "P".into(),
            transport: "T".into(),
            state: ProducerState { scores: (0..20).map(score).collect(), paused: false },
        },
    );
    assert_eq!(state.refused(Reason::Full, Kind::Encoding), 2 * (64 - 8) + 12);
    assert_eq!(state.producers.values().next().unwrap().encodings.len(), 8);
    let tuple = |port| ServerTuple {
        proto: Proto::Udp,
        local_address: "".into(),
        local_port: port,
        remote: Some(([203, 0, 113, 1], 1).into()),
    };
    let tuples = (0..100).map(tuple).collect();
    let tuples = TransportState { tuples, ..TransportState::default() };
    state.apply(A, Event::TransportState { id: "T".into(), state: tuples });
    assert_eq!((state.told().len(), state.refused(Reason::Full, Kind::Connection)), (4, 96));
}

/// As many lines of a router as two sources once needed to keep the exporter from answering for 16 s.
#[test]
fn a_line_costs_the_same_however_many_objects_it_concerns() {
    const TRANSPORTS: u64 = 20_000;
    let mut state = State::default();
    for (source, id) in [(A, "RA"), (B, "RB")] {
        state.apply(source, router(id, Some("S")));
        for number in 0..TRANSPORTS {
            let remote = format!("203.0.113.{}:{}", source.0, number + 1);
            state.apply(source, transport(&format!("{id}-{number}"), id, &remote));
            state.apply(source, consumer(&format!("{id}-{number}"), &format!("{id}-{number}"), 1));
        }
    }
    state.settle();
    let before = state.settled;
    for line in 0..3000 {
        for (source, id) in [(A, "RA"), (B, "RB")] {
            let (pid, session) = (7 + line % 2, Some(format!("S{line}").into()));
            state.apply(source, Event::Router { id: id.into(), pid, session });
            state.apply(source, room("r", &[&format!("S{line}")], &[id]));
            state.apply(source, peer("p", Some(&format!("r{line}"))));
            state.apply(source, hello());
            state.apply(source, Event::Beat(Beat::default()));
        }
    }
    assert_eq!(state.settled, before, "nothing was looked at again");
    state.settle();
    assert!(state.settled - before <= 2 * (TRANSPORTS + 1), "each once for all lines together");
    assert!(state.unsettled.is_empty());
}

#[test]
fn greetings_cost_nothing_however_many() {
    let mut state = State::default();
    for number in 0..1000 {
        state.apply(A, peer(&number.to_string(), None));
    }
    // A telling that is never finished takes nothing away, and one that is takes away once.
    for _ in 0..10_000 {
        state.apply(A, hello());
    }
    assert_eq!(state.peers.len(), 1000);
    for _ in 0..10_000 {
        state.apply(A, Event::Synced);
        state.apply(A, hello());
    }
    assert_eq!((state.peers.len(), state.bytes()), (0, 0));
}

#[test]
fn how_far_transports_came_is_counted_when_they_close() {
    let told = |id: &str, kind, ice: &str, dtls: &str| {
        Event::Transport(TransportTold {
            id: id.into(),
            router: "r".into(),
            kind,
            state: states(ice, dtls),
        })
    };
    fn states(ice: &str, dtls: &str) -> TransportState {
        TransportState { tuples: vec![], ice: Some(ice.into()), dtls: Some(dtls.into()) }
    }
    let now =
        |id: &str, ice, dtls| Event::TransportState { id: id.into(), state: states(ice, dtls) };
    let gone = |id: &str| Event::Gone(Gone::Transport(id.into()));
    let mut state = State::default();
    state.apply(A, hello());
    for id in ["never", "ice", "dtls", "cut", "lost"] {
        state.apply(A, told(id, TransportKind::WebRtc, "new", "new"));
    }
    state.apply(A, told("plain", TransportKind::Plain, "completed", "connected"));
    // Failed before anybody was told of it.
    state.apply(A, told("late", TransportKind::WebRtc, "disconnected", "failed"));
    for event in [
        now("ice", "completed", "connecting"),
        now("ice", "completed", "failed"),
        now("dtls", "completed", "connected"),
        // What it came to is not forgotten when it closes.
        now("dtls", "closed", "closed"),
        now("cut", "completed", "connected"),
        now("cut", "disconnected", "connected"),
    ] {
        state.apply(A, event);
    }
    // Another server's word on it is nothing.
    state.apply(B, hello());
    state.apply(B, now("never", "completed", "connected"));
    state.apply(B, gone("never"));
    assert_eq!(Rung::ALL.map(|rung| state.ladder().closed(rung)), [0; 3]);
    assert_eq!(Stage::ALL.map(|stage| state.ladder().failures(stage)), [1, 1]);
    for id in ["never", "ice", "dtls", "cut", "late", "plain", "nobody"] {
        state.apply(A, gone(id));
        state.apply(A, gone(id));
    }
    let closed = Rung::ALL.map(|rung| state.ladder().closed(rung));
    assert_eq!(closed, [1, 2, 2]);
    // Nothing more is heard of the server: nobody knows whether its transports closed.
    state.apply(A, Event::Forget);
    assert_eq!(Rung::ALL.map(|rung| state.ladder().closed(rung)), closed);
}
