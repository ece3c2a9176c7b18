//! What the history promises, with a ledger that is fed step by step.

use std::collections::BTreeMap;

use super::*;
use crate::exposition::{Scrape, Selection};
use crate::fixture::{self, Told, tuple};
use crate::labels::{AddressPolicy, Geo, Policy};
use crate::ledger::{self, Update};
use crate::model::{Direction, Peer, Reading, StreamStats, Tuple};

/// A step's length, milliseconds.
pub(crate) const STEP: u64 = 5_000;

const SPANS: Spans = Spans { fold: 12, short: 120, long: 350 };

/// A meeting in one room, and the history of it.
pub(crate) struct Meeting {
    pub(crate) scrape: Scrape,
    pub(crate) told: Told,
    pub(crate) reading: Reading,
    pub(crate) history: History,
    pub(crate) now: u64,
    tick: u64,
}

impl Meeting {
    pub(crate) fn new(address: AddressPolicy) -> Self {
        let policy = Policy { address, ..Policy::default() };
        let mut meeting = Self {
            scrape: Scrape::new(ledger::Settings::default(), policy, Geo::none()),
            told: Told::default(),
            reading: Reading::default(),
            history: History::new(Settings { spans: SPANS, room: 1 << 20, keeps_lives: true }),
            now: 0,
            tick: 0,
        };
        meeting.record();
        meeting
    }

    /// A peer of whom nothing else is told.
    pub(crate) fn arrive(&mut self, name: &str, room: &str) {
        self.told.state.put_peer(Peer {
            id: name.into(),
            source: fixture::SOURCE,
            room: Some(room.into()),
            display_name: name.to_uppercase().into(),
            user_agent: "".into(),
        });
    }

    /// The peer leaves, and nothing of it stays.
    pub(crate) fn leave(&mut self, name: &str) {
        self.told.state.remove_peer(&fixture::peer(name));
    }

    /// A peer with a transport at this address.
    pub(crate) fn join(&mut self, name: &str, address: &str) -> Tuple {
        self.arrive(name, "r1");
        let mut transport = fixture::transport(&format!("t-{name}"), Some(address), 40_000);
        transport.owner = Some(fixture::peer(name));
        self.told.state.put_transport(transport);
        let tuple = tuple("192.0.2.1:40000", address);
        self.reading.flows.push(fixture::flow(tuple, 1));
        tuple
    }

    /// The peer sends a stream.
    pub(crate) fn produce(&mut self, name: &str, tuple: Tuple, ssrc: u32) {
        self.told.producer(&format!("p-{name}"), &format!("t-{name}"), &[(ssrc, None)]);
        self.reading.streams.push(fixture::stream(tuple, Direction::Receive, ssrc, 0));
    }

    /// The peer is sent what another sends.
    pub(crate) fn consume(&mut self, name: &str, of: &str, tuple: Tuple, ssrc: u32) {
        let (id, transport) = (format!("c-{name}-{of}"), format!("t-{name}"));
        let mut consumer = fixture::consumer(&id, &transport, &[(ssrc, None)]);
        consumer.producer = (*format!("p-{of}")).into();
        self.told.state.put_consumer(consumer);
        self.reading.streams.push(fixture::stream(tuple, Direction::Send, ssrc, 0));
    }

    /// So many packets more of a stream, of which some were lost before.
    pub(crate) fn send(&mut self, ssrc: u32, packets: u64, lost: u64) {
        let streams = &mut self.reading.streams;
        let stream = streams.iter_mut().find(|stream| stream.ssrc == ssrc).unwrap();
        stream.total.packets += packets;
        stream.total.bytes += packets * fixture::PACKET;
        stream.received += packets;
        stream.expected += packets + lost;
    }

    /// The peer's client reports that of another's packets so many more were lost.
    pub(crate) fn report(&mut self, name: &str, of: &str, ssrc: u32, lost: i64) {
        let id = format!("c-{name}-{of}");
        let (known, _) = self.told.state.consumers.iter().find(|(it, _)| *it.0 == *id).unwrap();
        let mut consumer = self.told.state.consumers[&known.clone()].clone();
        let before = consumer.encodings[0].stats.map_or(0, |stats| stats.packets_lost);
        consumer.encodings = fixture::encodings(&[(ssrc, None)]);
        consumer.encodings[0].stats = Some(StreamStats {
            byte_count: 0,
            packets_lost: before + lost,
            fraction_lost: 0,
            round_trip_time: Some(70.0),
            repairs: None,
        });
        self.told.state.put_consumer(consumer);
    }

    /// A step ends.
    pub(crate) fn step(&mut self) {
        self.now += STEP;
        for flow in &mut self.reading.flows {
            flow.counts[0][2].packets += 1;
            flow.counts[0][2].bytes += fixture::PACKET;
        }
        self.record();
    }

    fn record(&mut self) {
        self.tick += 1;
        let (reading, state) = (Some(&self.reading), &self.told.state);
        let update = Update { tick: self.tick, reading, state, sockets: None };
        self.scrape.update_for(update, Selection::ALL);
        self.history.record(self.scrape.ledger(), self.now);
    }

    /// All that happened, by who it happened to: packets, bytes and lost packets.
    fn sums(&self) -> BTreeMap<String, (u64, u64, i64)> {
        let past = self.history.lend(0);
        let mut sums: BTreeMap<String, (u64, u64, i64)> = BTreeMap::new();
        for (_, number, _, sample) in past.stretch(0..self.now).samples() {
            let track = past.track(number).unwrap();
            let whose = match &track.whose {
                Whose::Stream { ssrc, .. } => format!("{ssrc}"),
                Whose::Connection(connection) => format!("{} {:?}", connection.remote, track.side),
            };
            let sum = sums.entry(whose).or_default();
            *sum = (sum.0 + sample.packets, sum.1 + sample.bytes, sum.2 + sample.lost);
        }
        sums
    }
}

#[test]
fn every_packet_is_in_the_step_in_which_it_was_counted() {
    let mut meeting = Meeting::new(AddressPolicy::None);
    let alice = meeting.join("alice", "203.0.113.1:5000");
    meeting.produce("alice", alice, 1);
    let mut expected = (0, 0);
    for step in 0..20 {
        let (packets, lost) = (step * 7 % 5, step % 2);
        meeting.send(1, packets, if packets > 0 { lost } else { 0 });
        expected = (expected.0 + packets, expected.1 + if packets > 0 { lost as i64 } else { 0 });
        meeting.step();
    }
    let sums = meeting.sums();
    assert_eq!(sums["1"], (expected.0, expected.0 * 100, expected.1));
    // The connection's STUN comes on top: one packet in each step, and one before.
    let all = expected.0 + 21;
    assert_eq!(sums["203.0.113.1:5000 Received"], (all, all * 100, 0));
    let past = meeting.history.lend(0);
    let steps: Vec<_> = past.stretch(40_000..60_000).steps().collect();
    assert_eq!(steps, [(40_000, 5_000), (45_000, 5_000), (50_000, 5_000), (55_000, 5_000)]);
}

#[test]
fn every_time_ends_with_the_last_step_and_has_nothing_twice() {
    let mut meeting = Meeting::new(AddressPolicy::None);
    let alice = meeting.join("alice", "203.0.113.1:5000");
    meeting.produce("alice", alice, 1);
    for step in 1..=200 {
        meeting.send(1, 1, 0);
        meeting.step();
        let past = meeting.history.lend(0);
        for span in [30, 60, 600, 3_600] {
            let stretch = past.stretch(meeting.now.saturating_sub(span * 1_000)..meeting.now);
            let steps: Vec<_> = stretch.steps().collect();
            let (start, length) = *steps.last().unwrap();
            assert_eq!(start + length, meeting.now, "{step} {span}");
            assert!(steps.windows(2).all(|pair| pair[0].0 + pair[0].1 == pair[1].0), "{steps:?}");
            let is_stream =
                |number: u32| matches!(past.track(number).unwrap().whose, Whose::Stream { .. });
            let streams = stretch.samples().filter(|(_, number, _, _)| is_stream(*number));
            let packets: u64 = streams.map(|(_, _, _, sample)| sample.packets).sum();
            let expected = step.min(span / 5);
            // A long step lies within a time if most of it does.
            assert!(packets.abs_diff(expected) <= if span > 600 { 6 } else { 0 }, "{step} {span}");
        }
    }
}

#[test]
fn what_was_counted_before_the_first_step_is_in_none() {
    let mut meeting = Meeting::new(AddressPolicy::None);
    let tuple = tuple("192.0.2.1:40000", "203.0.113.1:5000");
    let mut reading = Reading::default();
    reading.streams.push(fixture::stream(tuple, Direction::Receive, 1, 1_000));
    meeting.told.transport("t1", "203.0.113.1:5000", 40_000);
    meeting.told.producer("p1", "t1", &[(1, None)]);
    meeting.reading = reading;
    meeting.history = History::new(Settings { spans: SPANS, room: 1 << 20, keeps_lives: false });
    meeting.record();
    meeting.send(1, 3, 0);
    meeting.step();
    assert_eq!(meeting.sums()["1"], (3, 300, 0));
}

#[test]
fn a_table_that_was_made_anew_begins_again() {
    let mut meeting = Meeting::new(AddressPolicy::None);
    let alice = meeting.join("alice", "203.0.113.1:5000");
    meeting.produce("alice", alice, 1);
    meeting.send(1, 50, 0);
    meeting.step();
    meeting.reading.streams[0] = fixture::stream(alice, Direction::Receive, 1, 20);
    meeting.step();
    assert_eq!(meeting.sums()["1"].0, 70);
}

#[test]
fn who_has_gone_stays_until_the_last_step_of_his_time_falls_out() {
    let mut meeting = Meeting::new(AddressPolicy::None);
    meeting.history = History::new(Settings {
        spans: Spans { fold: 2, short: 4, long: 5 },
        room: 1 << 20,
        keeps_lives: false,
    });
    let alice = meeting.join("alice", "203.0.113.1:5000");
    meeting.produce("alice", alice, 1);
    meeting.step();
    meeting.send(1, 5, 0);
    meeting.step();
    meeting.reading.streams.clear();
    meeting.reading.flows.clear();
    meeting.told.state.remove_producer(&("t-alice".into(), "p-alice".into()));
    meeting.told.state.remove_transport(&"t-alice".into());
    meeting.step();
    assert!(meeting.sums().contains_key("1") && meeting.history.tracks() > 0);
    let facts = meeting.history.lend(0).facts;
    assert_eq!(facts.stations["t-alice"].transport.peer, "alice".into());
    assert!(!facts.stations["t-alice"].open);
    (0..20).for_each(|_| meeting.step());
    assert_eq!(meeting.history.tracks(), 0);
    let facts = meeting.history.lend(0).facts;
    assert!(facts.stations.is_empty() && facts.subjects.is_empty(), "{facts:?}");
    // Numbers of those who went are given again.
    let bob = meeting.join("bob", "203.0.113.2:5000");
    meeting.produce("bob", bob, 2);
    meeting.send(2, 5, 0);
    meeting.step();
    meeting.step();
    assert_eq!(meeting.sums()["2"].0, 5);
}

#[test]
fn a_reader_keeps_what_he_was_lent() {
    let mut meeting = Meeting::new(AddressPolicy::None);
    let alice = meeting.join("alice", "203.0.113.1:5000");
    meeting.produce("alice", alice, 1);
    meeting.send(1, 5, 0);
    meeting.step();
    let past = meeting.history.lend(7);
    let count = |past: &Past| past.stretch(0..u64::MAX).samples().count();
    let before = count(&past);
    meeting.send(1, 5, 0);
    meeting.step();
    assert_eq!((count(&past), past.epoch), (before, 7));
    assert!(count(&meeting.history.lend(7)) > before);
}

#[test]
fn nothing_that_a_policy_hides_gets_here() {
    let mut meeting = Meeting::new(AddressPolicy::truncate(24, 48).unwrap());
    let alice = meeting.join("alice", "203.0.113.77:5000");
    meeting.produce("alice", alice, 1);
    for _ in 0..3 {
        meeting.send(1, 5, 0);
        meeting.step();
    }
    let text = format!("{:?}", meeting.history);
    assert!(!text.contains("203.0.113.77") && text.contains("203.0.113.0/24"));
}

#[test]
fn memory_stays_within_its_bound_and_the_past_becomes_shorter() {
    let mut meeting = Meeting::new(AddressPolicy::None);
    let room = 300 << 10;
    meeting.history = History::new(Settings { spans: SPANS, room, keeps_lives: false });
    for peer in 0..100 {
        let tuple = meeting.join(&format!("peer{peer}"), &format!("203.0.113.{peer}:5000"));
        for stream in 0..10 {
            let ssrc = peer * 10 + stream;
            meeting.reading.streams.push(fixture::stream(tuple, Direction::Receive, ssrc, 0));
        }
    }
    for _ in 0..60 {
        for stream in &mut meeting.reading.streams {
            stream.total.packets += 1;
            stream.total.bytes += 100;
        }
        meeting.step();
        assert!(meeting.history.bytes() <= 2 * room);
    }
    assert!(meeting.history.reach() < 60 * STEP && meeting.history.reach() > 5 * STEP);
}

#[test]
fn those_who_come_and_go_take_no_more_than_the_room_either() {
    let mut meeting = Meeting::new(AddressPolicy::None);
    let room = 200 << 10;
    meeting.history = History::new(Settings { spans: SPANS, room, keeps_lives: false });
    meeting.step();
    for round in 0..200_u32 {
        for visitor in 0..20 {
            let name = format!("v{round}-{visitor}");
            let tuple = meeting.join(&name, &format!("203.0.{visitor}.7:{}", 5000 + round));
            meeting.produce(&name, tuple, 1 + round * 20 + visitor);
            meeting.send(1 + round * 20 + visitor, 1, 0);
        }
        meeting.step();
        for visitor in 0..20 {
            let name = format!("v{round}-{visitor}");
            let key = ((*format!("t-{name}")).into(), (*format!("p-{name}")).into());
            meeting.told.state.remove_producer(&key);
            meeting.told.state.remove_transport(&key.0);
            meeting.told.state.remove_peer(&fixture::peer(&name));
        }
        meeting.reading.flows.clear();
        meeting.reading.streams.clear();
        let bytes = meeting.history.bytes();
        assert!(bytes <= 2 * room, "{round}: {bytes}");
    }
    assert!(meeting.history.tracks() < 800, "{}", meeting.history.tracks());
    assert_eq!(meeting.history.refused(), 0);
}
