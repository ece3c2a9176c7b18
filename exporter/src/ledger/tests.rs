//! What the ledger promises, read from the text that it becomes.

use std::collections::HashMap;

use crate::exposition::strict::Scraped;
use crate::exposition::written::scraped;
use crate::exposition::{Format, Scrape, Selection};
use crate::fixture::{self, PACKET, Told};
use crate::labels::random::Random;
use crate::labels::{AddressPolicy, Geo, Labels, NamePolicy, Policy, Renewal};
use crate::ledger::totals::{Counts, StreamTotals, add, add_all};
use crate::ledger::{Ledger, Settings, Update};
use crate::model::Direction::{Receive, Send};
use crate::model::{
    Clock, Consumer, Counter, Direction, MediaKind, PROBATION_SSRC, Peer, PeerKey, Reading,
    RoomKey, SourceId, Stream, StreamStats, Transport, Tuple,
};
use crate::state::State;

const SENT: &str = "mediasoup_stream_send_bytes_total";
const RECEIVED: &str = "mediasoup_stream_receive_bytes_total";
const JITTER: &str = "mediasoup_stream_send_jitter_seconds";
const CONNECTION: &str = "mediasoup_connection_send_bytes_total";
const CONNECTION_IN: &str = "mediasoup_connection_receive_bytes_total";
const TRAILED: &str = "mediasoup_trailing_send_bytes_total";
const TRAILED_IN: &str = "mediasoup_trailing_receive_bytes_total";
const COVERAGE: &str = "mediasoup_join_coverage_ratio";

/// A scrape and what it is fed.
struct Bench {
    scrape: Scrape,
    told: Told,
    reading: Reading,
    tick: u64,
}

impl Bench {
    fn new(settings: Settings, address: AddressPolicy) -> Self {
        let policy = Policy { address, ..Policy::default() };
        Self {
            scrape: Scrape::new(settings, policy, Geo::none()),
            told: Told::default(),
            reading: Reading::default(),
            tick: 0,
        }
    }

    fn plain() -> Self {
        Self::new(Settings::default(), AddressPolicy::None)
    }

    /// One scrape; what ended is gone from the next reading.
    fn scrape(&mut self) -> Scraped {
        self.tick += 1;
        self.scrape.update_for(
            Update {
                tick: self.tick,
                reading: Some(&self.reading),
                state: &self.told.state,
                sockets: None,
            },
            Selection::ALL,
        );
        self.reading.streams.retain(|stream| !stream.ended);
        self.reading.flows.retain(|flow| !flow.ended);
        text(&mut self.scrape)
    }

    fn put(&mut self, tuple: Tuple, direction: Direction, ssrc: u32, count: u64) {
        let new = fixture::stream(tuple, direction, ssrc, count);
        let same =
            |old: &&mut Stream| (old.tuple, old.direction, old.ssrc) == (tuple, direction, ssrc);
        match self.reading.streams.iter_mut().find(same) {
            Some(old) => *old = new,
            None => self.reading.streams.push(new),
        }
    }
}

fn text(scrape: &mut Scrape) -> Scraped {
    scraped(scrape, Format::Text)
}

fn bytes(packets: u64) -> Option<f64> {
    Some((packets * PACKET) as f64)
}

fn one() -> Tuple {
    fixture::tuple("10.0.0.1:40000", "192.0.2.1:1000")
}

fn two() -> Tuple {
    fixture::tuple("10.0.0.1:40000", "192.0.2.2:2000")
}

#[test]
fn a_claim_in_time_gets_everything() {
    let mut bench = Bench::plain();
    bench.put(one(), Send, 31, 5);
    let scraped = bench.scrape();
    assert_eq!(scraped.sum(SENT), 0.0, "held back");
    bench.told.transport("t1", "192.0.2.1:1000", 40_000);
    bench.put(one(), Send, 31, 7);
    let scraped = bench.scrape();
    assert_eq!(scraped.value(CONNECTION, &[("transport_id", "t1")]), bytes(7));
    assert_eq!(scraped.sum(SENT), 0.0, "its consumer may still be told");
    bench.told.consumer("c1", "t1", &[(31, None)]);
    bench.put(one(), Send, 31, 9);
    let scraped = bench.scrape();
    assert_eq!(scraped.value(SENT, &[]), bytes(9));
    assert_eq!(scraped.value(SENT, &[("id", "c1"), ("role", "media")]), bytes(9));
    assert_eq!(scraped.value(CONNECTION, &[]), bytes(9));
}

#[test]
fn a_late_claim_moves_everything_at_once() {
    let mut bench = Bench::plain();
    bench.put(one(), Send, 31, 5);
    for _ in 0..5 {
        bench.scrape();
    }
    let scraped = bench.scrape();
    assert_eq!(scraped.value(SENT, &[("id", ""), ("transport_id", "")]), bytes(5));
    assert_eq!(scraped.value(CONNECTION, &[("transport_id", "")]), bytes(5));
    bench.told.transport("t1", "192.0.2.1:1000", 40_000);
    bench.told.consumer("c1", "t1", &[(31, None)]);
    bench.put(one(), Send, 31, 6);
    let scraped = bench.scrape();
    assert_eq!(scraped.value(SENT, &[]), bytes(6), "one series, with all bytes");
    assert_eq!(scraped.value(SENT, &[("id", "c1")]), bytes(6));
    assert_eq!(scraped.value(CONNECTION, &[]), bytes(6));
}

#[test]
fn bytes_that_were_counted_together_stay_together() {
    let mut bench = Bench::plain();
    bench.put(one(), Send, 31, 5);
    bench.put(two(), Send, 31, 50);
    for _ in 0..4 {
        bench.scrape();
    }
    bench.told.transport("t1", "192.0.2.1:1000", 40_000);
    bench.told.consumer("c1", "t1", &[(31, None)]);
    bench.put(one(), Send, 31, 6);
    bench.put(two(), Send, 31, 51);
    let scraped = bench.scrape();
    assert_eq!(scraped.value(SENT, &[("id", "")]), bytes(56), "never falls");
    assert_eq!(scraped.value(SENT, &[("id", "c1")]), bytes(1));
    assert_eq!(scraped.value(CONNECTION, &[("transport_id", "t1")]), bytes(6), "was alone");
}

#[test]
fn series_stay_two_scrapes_after_their_object_closed() {
    let mut bench = Bench::plain();
    bench.told.transport("t1", "192.0.2.1:1000", 40_000);
    bench.told.consumer("c1", "t1", &[(31, None)]);
    let mut consumer = fixture::consumer("c1", "t1", &[(31, None)]);
    consumer.encodings[0].stats = Some(StreamStats { byte_count: 7, ..StreamStats::default() });
    bench.told.state.put_consumer(consumer);
    bench.put(one(), Send, 31, 5);
    bench.scrape();
    bench.told.state.remove_consumer(&"c1".into());
    bench.told.state.remove_transport(&"t1".into());
    bench.put(one(), Send, 31, 6);
    for _ in 0..2 {
        let scraped = bench.scrape();
        assert_eq!(scraped.value(SENT, &[("id", "c1")]), bytes(6), "what came after is still his");
        assert_eq!(scraped.value(CONNECTION, &[("transport_id", "t1")]), bytes(6));
        let contract = "mediasoup_consumer_byte_count_bytes";
        assert_eq!(scraped.value(contract, &[("id", "c1")]), Some(7.0));
        assert_eq!(scraped.value("mediasoup_consumer_score", &[]), None, "who closed has no score");
    }
    for _ in 0..4 {
        let scraped = bench.scrape();
        assert_eq!(scraped.value(SENT, &[]), None);
        assert_eq!(scraped.value(CONNECTION, &[]), None);
        assert_eq!(scraped.value("mediasoup_consumer_byte_count_bytes", &[]), None);
    }
    bench.put(one(), Send, 31, 8);
    for _ in 0..3 {
        let scraped = bench.scrape();
        assert_eq!([scraped.value(SENT, &[]), scraped.value(CONNECTION, &[])], [None; 2]);
        assert_eq!(scraped.value(TRAILED, &[("class", "rtp")]), bytes(2), "once");
        assert_eq!(scraped.value(COVERAGE, &[]), Some(1.0));
    }
    bench.told.state.pass(1000);
    bench.put(one(), Send, 31, 11);
    for _ in 0..2 {
        assert_eq!(bench.scrape().value(SENT, &[]), None, "may be claimed again");
    }
    let scraped = bench.scrape();
    assert_eq!(scraped.value(SENT, &[("id", "")]), bytes(3), "nobody's, and not twice");
    assert_eq!(scraped.value(CONNECTION, &[("transport_id", "")]), bytes(3));
    assert_eq!(scraped.value(TRAILED, &[("class", "rtp")]), bytes(2));
    assert_eq!(scraped.value(COVERAGE, &[]), Some(8.0 / 11.0));
}

#[test]
fn a_stay_between_two_readings_has_an_owner() {
    // A connection that was told so late that the kernel did not know it is no stranger either.
    for known in [true, false] {
        let mut bench = Bench::plain();
        bench.scrape();
        bench.told.transport("t1", "192.0.2.1:1000", 40_000);
        bench.told.producer("p1", "t1", &[(11, Some(12))]);
        bench.told.state.remove_producer(&("t1".into(), "p1".into()));
        bench.told.state.remove_transport(&"t1".into());
        bench.reading.flows.push(fixture::flow(one(), 2));
        for (ssrc, count) in [(11, 5), (12, 3), (99, 1)] {
            bench.put(one(), Receive, ssrc, count);
        }
        bench.reading.flows[0].known = known;
        bench.reading.streams.iter_mut().for_each(|stream| stream.known = known);
        for _ in 0..3 {
            let scraped = bench.scrape();
            for (id, role, count) in [("p1", "media", 5), ("p1", "rtx", 3), ("", "", 1)] {
                let labels = [("transport_id", "t1"), ("id", id), ("role", role)];
                assert_eq!(scraped.value(RECEIVED, &labels), bytes(count));
            }
            let family = "mediasoup_connection_receive_bytes_total";
            assert_eq!(
                scraped.value(family, &[("transport_id", "t1"), ("class", "rtp")]),
                bytes(9)
            );
            assert_eq!(scraped.value(COVERAGE, &[]), Some(1.0));
            assert_eq!(scraped.sum("mediasoup_stranger_flows"), 0.0);
        }
        let scraped = bench.scrape();
        assert_eq!(scraped.sum(RECEIVED), 0.0, "its series go as others do");
        assert_eq!(bench.scrape.fill().series, 2, "a room and a peer");
        assert_eq!(scraped.value(COVERAGE, &[]), Some(1.0), "though the tables hold it still");
    }
}

#[test]
fn a_call_that_everybody_leaves_is_covered() {
    let mut bench = Bench::plain();
    for call in 0..3 {
        for number in 1..9 {
            let (id, remote) = (format!("t{call}-{number}"), format!("192.0.2.{number}:{call}1"));
            bench.told.transport(&id, &remote, 40_000);
            bench.put(fixture::tuple("10.0.0.1:40000", &remote), Send, 31, 5);
        }
        assert_eq!(bench.scrape().value(COVERAGE, &[]), Some(1.0));
        for number in 1..9 {
            bench.told.state.remove_transport(&format!("t{call}-{number}").as_str().into());
            let remote = format!("192.0.2.{number}:{call}1");
            bench.put(fixture::tuple("10.0.0.1:40000", &remote), Send, 31, 6);
        }
        assert_eq!(bench.scrape().value(COVERAGE, &[]), Some(1.0));
    }
}

/// Each connection whose packets come is known to have some, whoever is told first.
#[test]
fn connections_whose_packets_come_are_seen() {
    let mut bench = Bench::plain();
    let unseen = |bench: &mut Bench| {
        bench.scrape();
        bench.told.state.seen(bench.scrape.take_seen());
        bench.told.state.pass(bench.tick * 1000);
        bench.told.state.unseen(|_| true, |_| true).others.count
    };
    bench.put(one(), Send, 31, 5);
    assert_eq!(unseen(&mut bench), 0);
    bench.told.transport("t1", "192.0.2.1:1000", 40_000);
    bench.told.transport("t2", "192.0.2.2:2000", 40_000);
    assert_eq!(unseen(&mut bench), 1, "t2");
    bench.reading.flows.push(fixture::flow(two(), 1));
    bench.reading.flows[0].known = false;
    assert_eq!(unseen(&mut bench), 0);
    // Told anew, with another claim on the same connection.
    bench.told.state.remove_transport(&"t1".into());
    assert_eq!(unseen(&mut bench), 0);
    bench.told.transport("t1", "192.0.2.1:1000", 40_000);
    assert_eq!(unseen(&mut bench), 0);
}

/// A server whose connection is lost for good says nothing of what goes on.
#[test]
fn what_a_source_that_is_forgotten_had_is_covered_until_it_grows() {
    use crate::state::{Event, TransportState, TransportTold};
    let mut bench = Bench::plain();
    let fixture::Told { state } = &mut bench.told;
    let Transport { id, router, kind, tuples, .. } =
        fixture::transport("t1", Some("192.0.2.1:1000"), 40_000);
    let told = TransportState { tuples, ..TransportState::default() };
    state.apply(SourceId(7), Event::Transport(TransportTold { id, router, kind, state: told }));
    bench.put(one(), Send, 31, 6);
    assert_eq!(bench.scrape().value(COVERAGE, &[]), Some(1.0));
    bench.told.state.apply(SourceId(7), Event::Forget);
    assert_eq!(bench.scrape().value(COVERAGE, &[]), Some(1.0));
    bench.put(one(), Send, 31, 8);
    assert_eq!(bench.scrape().value(COVERAGE, &[]), Some(0.75));
}

/// Stays of two seconds, ten in each second, read every ten seconds; the tables keep flows for 120 s.
#[test]
fn short_stays_leave_no_series_standing() {
    const STAYS: u64 = 100;
    const RESTS: u64 = 12;
    let mut bench = Bench::plain();
    let tuple = |stay: u64| {
        let remote = format!("192.0.{}.{}:1000", stay / 250, stay % 250);
        fixture::tuple("10.0.0.1:40000", &remote)
    };
    for reading in 0..30 {
        for stay in reading * STAYS..(reading + 1) * STAYS {
            let (id, remote) = (format!("t{stay}"), tuple(stay).remote.to_string());
            bench.told.transport(&id, &remote, 40_000);
            bench.told.producer(&format!("p{stay}"), &id, &[(11, None)]);
            bench
                .told
                .state
                .remove_producer(&(id.as_str().into(), format!("p{stay}").as_str().into()));
            bench.told.state.remove_transport(&id.as_str().into());
            bench.reading.streams.push(fixture::stream(tuple(stay), Receive, 11, 5));
        }
        // Some trail.
        for stream in bench.reading.streams.iter_mut().step_by(7) {
            add(&mut stream.total, fixture::packets(1));
        }
        for stream in bench.reading.streams.iter_mut() {
            let stay: u64 = reading * STAYS;
            let [.., b, c] = match stream.tuple.remote.ip() {
                std::net::IpAddr::V4(ip) => ip.octets(),
                std::net::IpAddr::V6(_) => unreachable!("all are IPv4"),
            };
            stream.ended = u64::from(b) * 250 + u64::from(c) + RESTS * STAYS < stay;
        }
        let scraped = bench.scrape();
        bench.told.state.pass(reading * 10);
        assert_eq!(scraped.find(RECEIVED, &[("transport_id", "")]).len(), 0);
        assert!(scraped.find(RECEIVED, &[]).len() as u64 <= 3 * STAYS);
        // A stream has eight series, its connection's class four.
        assert!(bench.scrape.fill().series <= 3 * STAYS * 12 + 2);
        assert_eq!(scraped.value(COVERAGE, &[]), Some(1.0));
    }
    let trailed = bench.scrape().value(TRAILED_IN, &[("class", "rtp")]);
    assert!(trailed.is_some_and(|bytes| bytes > 0.0));
}

#[test]
fn a_silent_stream_stays_while_its_owner_lives() {
    let mut bench = Bench::plain();
    bench.told.transport("t1", "192.0.2.1:1000", 40_000);
    bench.told.consumer("c1", "t1", &[(31, None)]);
    bench.put(one(), Send, 31, 5);
    bench.scrape();
    bench.reading.streams[0].ended = true;
    for _ in 0..10 {
        let scraped = bench.scrape();
        assert_eq!(scraped.value(SENT, &[("id", "c1")]), bytes(5));
        assert_eq!(scraped.value(CONNECTION, &[("transport_id", "t1")]), bytes(5));
    }
    bench.put(one(), Send, 31, 2);
    let scraped = bench.scrape();
    assert_eq!(scraped.value(SENT, &[("id", "c1")]), bytes(7), "it began again from zero");
    assert_eq!(scraped.value(CONNECTION, &[("transport_id", "t1")]), bytes(7));
}

#[test]
fn an_ssrc_that_is_used_again_belongs_to_the_next() {
    let mut bench = Bench::plain();
    bench.told.transport("t1", "192.0.2.1:1000", 40_000);
    bench.told.producer("p1", "t1", &[(11, None)]);
    bench.put(one(), Receive, 11, 5);
    bench.scrape();
    bench.told.state.remove_producer(&("t1".into(), "p1".into()));
    bench.told.producer("p2", "t1", &[(11, None)]);
    bench.put(one(), Receive, 11, 8);
    let scraped = bench.scrape();
    assert_eq!(scraped.value(RECEIVED, &[("id", "p1")]), bytes(5));
    assert_eq!(scraped.value(RECEIVED, &[("id", "p2")]), bytes(3));
}

#[test]
fn a_stranger_that_becomes_known_takes_all_along() {
    const STRANGERS: &str = "mediasoup_stranger_receive_bytes_total";
    let mut bench = Bench::plain();
    for tuple in [one(), two()] {
        let mut flow = fixture::flow(tuple, 3);
        flow.known = false;
        bench.reading.flows.push(flow);
        bench.put(tuple, Receive, 11, 4);
    }
    bench.reading.streams.iter_mut().for_each(|stream| stream.known = false);
    let scraped = bench.scrape();
    assert_eq!(scraped.value("mediasoup_stranger_pending_bytes", &[]), bytes(14));
    assert_eq!(scraped.value("mediasoup_stranger_flows", &[]), Some(2.0));
    assert_eq!(scraped.sum(STRANGERS), 0.0);
    // The flow is marked before its streams are.
    bench.reading.flows[0].known = true;
    for end in [false, true] {
        bench.reading.flows[1].ended = end;
        bench.reading.streams[1].ended = end;
        let scraped = bench.scrape();
        let (class, count) = (("class", "rtp"), if end { 4 } else { 0 });
        assert_eq!(scraped.value(STRANGERS, &[class]), bytes(count));
        let count = if end { 3 } else { 0 };
        assert_eq!(scraped.value(STRANGERS, &[("class", "stun")]), bytes(count));
    }
    let scraped = bench.scrape();
    assert_eq!(scraped.sum("mediasoup_connection_receive_bytes_total"), bytes(7).unwrap());
    assert_eq!(scraped.sum(RECEIVED), bytes(4).unwrap());
    assert_eq!(scraped.value("mediasoup_stranger_pending_bytes", &[]), Some(0.0));
    assert_eq!(scraped.sum(STRANGERS), bytes(7).unwrap(), "and nothing twice");
}

#[test]
fn what_has_no_room_is_counted_and_admitted_later() {
    let settings = Settings { max_series: 24, hold: 0, ..Settings::default() };
    let mut bench = Bench::new(settings, AddressPolicy::None);
    bench.told.state.remove_transport(&"none".into());
    bench.put(one(), Send, 31, 5);
    // A room, a peer, a connection's class and two streams: 1 + 1 + 4 + 16.
    bench.put(one(), Send, 32, 5);
    bench.scrape();
    bench.put(one(), Send, 33, 5);
    let scraped = bench.scrape();
    assert_eq!(scraped.find(SENT, &[]).len(), 2, "newcomers wait");
    assert_eq!(scraped.value(SENT, &[("ssrc", "31")]), bytes(5));
    let fill = bench.scrape.fill();
    assert_eq!((fill.series, fill.refused, fill.refused_total), (22, 8, 8));
    assert_eq!(scraped.value(CONNECTION, &[]), bytes(15), "its connection has counted it");
    bench.reading.streams[0].ended = true;
    for _ in 0..3 {
        bench.put(one(), Send, 33, 6);
        bench.scrape();
    }
    let scraped = bench.scrape();
    assert_eq!(scraped.value(SENT, &[("ssrc", "33")]), bytes(6), "with all that it counted");
    assert_eq!(bench.scrape.fill().refused, 0);
}

#[test]
fn jitter_is_told_by_the_codecs_clock() {
    let check = |kind: MediaKind, codec: &str, jitter: bool, expected: Option<f64>| {
        let settings = Settings { jitter, ..Settings::default() };
        let mut bench = Bench::new(settings, AddressPolicy::None);
        bench.told.transport("t1", "192.0.2.1:1000", 40_000);
        let consumer = fixture::consumer("c1", "t1", &[(31, Some(32))]);
        bench.told.state.put_consumer(Consumer { kind, codec: codec.into(), ..consumer });
        for ssrc in [31, 32, PROBATION_SSRC] {
            bench.put(one(), Send, ssrc, 5);
        }
        let scraped = bench.scrape();
        assert_eq!(scraped.value(JITTER, &[("role", "media")]), expected, "{codec}");
        assert_eq!(scraped.value(JITTER, &[("role", "rtx")]), expected, "{codec}");
        assert_eq!(scraped.value(JITTER, &[("role", "probation")]), None, "{codec}");
        assert_eq!(scraped.types.contains_key(JITTER), expected.is_some(), "{codec}");
    };
    check(MediaKind::Video, "H264", true, Some(0.001));
    check(MediaKind::Audio, "opus", true, Some(0.002));
    check(MediaKind::Audio, "pcmu", true, Some(0.003));
    check(MediaKind::Audio, "SILK", true, None);
    check(MediaKind::Video, "H264", false, None);
}

#[test]
fn jitter_is_that_of_the_last_packets() {
    let mut bench = Bench::plain();
    bench.put(one(), Send, 31, 5);
    for _ in 0..4 {
        bench.scrape();
    }
    assert_eq!(bench.scrape().value(JITTER, &[]), None, "nobody's");
    bench.told.transport("t1", "192.0.2.1:1000", 40_000);
    bench.told.consumer("c1", "t1", &[(31, None)]);
    assert_eq!(bench.scrape().value(JITTER, &[("id", "c1")]), Some(0.001));
    bench.put(one(), Send, 31, 6);
    bench.reading.streams[0].jitter[Clock::Khz90 as usize] = 80_000;
    assert_eq!(bench.scrape().value(JITTER, &[]), Some(0.005));
    // The transport moves to another connection; the old one says nothing any more.
    bench.told.transport("t1", "192.0.2.2:2000", 40_000);
    bench.put(two(), Send, 31, 5);
    assert_eq!(bench.scrape().value(JITTER, &[]), Some(0.001));
    assert_eq!(bench.scrape().value(JITTER, &[]), Some(0.001));
    bench.reading.streams.clear();
    assert_eq!(bench.scrape().value(JITTER, &[]), Some(0.001), "it stays as long as its series");
}

#[test]
fn the_nameless_are_bounded_and_the_named_are_not() {
    let settings = Settings {
        unclaimed_connections: [1; 2],
        unclaimed_streams: [1; 2],
        hold: 0,
        ..Settings::default()
    };
    let mut bench = Bench::new(settings, AddressPolicy::None);
    for (tuple, ssrc) in [(one(), 31), (two(), 32)] {
        bench.put(tuple, Send, ssrc, 5);
    }
    let scraped = bench.scrape();
    assert_eq!([scraped.find(SENT, &[]).len(), scraped.find(CONNECTION, &[]).len()], [1, 1]);
    for (id, remote, ssrc) in [("t1", "192.0.2.1:1000", 31), ("t2", "192.0.2.2:2000", 32)] {
        bench.told.transport(id, remote, 40_000);
        bench.told.consumer(&format!("c{ssrc}"), id, &[(ssrc, None)]);
    }
    let scraped = bench.scrape();
    assert_eq!([scraped.sum(SENT), scraped.sum(CONNECTION)], [bytes(10).unwrap(); 2]);
}

/// Whatever one participant sends, whose packets the server answers, he adds a few series.
#[test]
fn a_crowd_that_nobody_claims_is_a_few_series_and_one_figure() {
    let mut bench = Bench::new(Settings { hold: 1, ..Settings::default() }, AddressPolicy::None);
    bench.told.transport("t1", "192.0.2.1:1000", 40_000);
    bench.told.consumer("c1", "t1", &[(31, None)]);
    bench.put(one(), Send, 31, 5);
    let before = bench.scrape().samples.len();
    for port in 0..200 {
        let tuple = fixture::tuple("10.0.0.1:40000", &format!("198.51.100.1:{}", 2000 + port));
        bench.reading.flows.push(fixture::flow(tuple, 0));
        for ssrc in 0..10 {
            bench.put(tuple, Receive, 10 * port as u32 + ssrc, 1 + port);
        }
    }
    // On the connection that is told, too.
    for ssrc in 1000..1500 {
        bench.put(one(), Receive, ssrc, 1);
    }
    for _ in 0..4 {
        bench.scrape();
    }
    let scraped = bench.scrape();
    assert!(
        scraped.samples.len() < before + 16 * 4 + 64 * 8,
        "{} after {before}",
        scraped.samples.len()
    );
    assert_eq!(scraped.value("mediasoup_unclaimed_connections", &[]), Some(184.0));
    assert_eq!(scraped.value("mediasoup_unclaimed_streams", &[]), Some(2500.0 - 64.0));
    let pending = (0..184).map(|port| 10 * (1 + port) * PACKET).sum::<u64>();
    assert_eq!(scraped.value("mediasoup_unclaimed_pending_bytes", &[]), Some(pending as f64));
    let shown = scraped.find(CONNECTION_IN, &[("transport_id", "")]);
    assert_eq!(shown.len(), 16, "those with the most traffic");
    assert!(shown.iter().all(|(_, value)| value.parse::<u64>().unwrap() >= 10 * 185 * PACKET));
    // Whoever is told gets all of his.
    bench.told.transport("t2", "198.51.100.1:2003", 40_000);
    bench.told.producer("p2", "t2", &[(37, None)]);
    let scraped = bench.scrape();
    assert_eq!(scraped.value(CONNECTION_IN, &[("transport_id", "t2")]), bytes(10 * 4));
    assert_eq!(scraped.value(RECEIVED, &[("id", "p2")]), bytes(4));
    // The others end.
    let told: Vec<Tuple> = vec![one()];
    for flow in &mut bench.reading.flows {
        flow.ended = !told.contains(&flow.tuple);
    }
    for stream in &mut bench.reading.streams {
        stream.ended = !told.contains(&stream.tuple);
    }
    let scraped = bench.scrape();
    let ended = scraped.value("mediasoup_unclaimed_receive_bytes_total", &[("class", "rtp")]);
    assert_eq!(ended, Some((pending - 10 * 4 * PACKET) as f64));
    assert_eq!(scraped.value("mediasoup_unclaimed_connections", &[]), Some(0.0));
}

#[test]
fn without_a_reading_everything_stays() {
    let mut bench = Bench::plain();
    bench.told.transport("t1", "192.0.2.1:1000", 40_000);
    bench.told.consumer("c1", "t1", &[(31, None)]);
    bench.put(one(), Send, 31, 5);
    bench.scrape();
    for _ in 0..9 {
        bench.tick += 1;
        let (tick, state) = (bench.tick, &bench.told.state);
        bench
            .scrape
            .update_for(Update { tick, reading: None, state, sockets: None }, Selection::ALL);
        assert_eq!(text(&mut bench.scrape).value(SENT, &[("id", "c1")]), bytes(5));
    }
    bench.put(one(), Send, 31, 6);
    assert_eq!(bench.scrape().value(SENT, &[("id", "c1")]), bytes(6));
}

#[test]
fn a_name_that_changes_takes_the_byte_count_along() {
    const COUNT: &str = "mediasoup_producer_byte_count_bytes";
    let mut bench = Bench::plain();
    bench.told.transport("t1", "192.0.2.1:1000", 40_000);
    let mut producer = fixture::producer("p1", "t1", &[(11, None)]);
    producer.encodings[0].stats = Some(StreamStats { byte_count: 7, ..StreamStats::default() });
    bench.told.state.put_producer(producer);
    let scraped = bench.scrape();
    assert_eq!(scraped.value(COUNT, &[("display_name", "Alice"), ("room_id", "r1")]), Some(7.0));
    let mut peer = bench.told.state.peers[&fixture::peer("alice")].clone();
    peer.display_name = "Bob".into();
    bench.told.state.put_peer(peer);
    let scraped = bench.scrape();
    assert_eq!(scraped.value(COUNT, &[]), Some(7.0));
    assert_eq!(scraped.value(COUNT, &[("display_name", "Bob")]), Some(7.0));
}

#[test]
fn a_session_is_no_room_and_who_waits_in_a_lobby_is_in_none() {
    let mut bench = Bench::plain();
    let (rooms, peers, info) = ("edumeet_rooms", "edumeet_peers", "mediasoup_transport_info");
    let other = bench.scrape().value(rooms, &[]).unwrap_or_default();
    let node = SourceId(1);
    let server = SourceId(2);
    let state = &mut bench.told.state;
    state.put_router("R".into(), node, 0, Some("session".into()));
    for (id, owner) in [("in", "joined"), ("waits", "guest")] {
        let owner = Some(PeerKey { source: server, id: owner.into() });
        let transport = fixture::transport(id, None, 40_010);
        state.put_transport(Transport { source: node, router: "R".into(), owner, ..transport });
    }
    // Alone, a media node has sessions.
    let scraped = bench.scrape();
    assert_eq!(scraped.value(rooms, &[]), Some(other));
    assert!(scraped.find(peers, &[("room_id", "session")]).is_empty());
    assert_eq!(scraped.find(info, &[("room_id", "session")]).len(), 2);
    // Its room server knows the room, and both people; one has joined.
    let state = &mut bench.told.state;
    let room = RoomKey { source: server, id: "0/blue".into() };
    state.put_room(room, ["session".into()].into(), Box::default());
    for (id, room) in [("joined", Some("0/blue".into())), ("guest", None)] {
        let (display_name, user_agent) = ("".into(), "".into());
        state.put_peer(Peer { id: id.into(), source: server, room, display_name, user_agent });
    }
    let scraped = bench.scrape();
    assert_eq!(scraped.value(rooms, &[]), Some(other + 1.0));
    assert_eq!(scraped.value(peers, &[("room_id", "0/blue")]), Some(1.0));
    assert_eq!(scraped.find(info, &[("room_id", "0/blue")]).len(), 2);
}

#[test]
fn what_reads_the_same_is_one_series() {
    let mut bench = Bench::plain();
    let other = SourceId(1);
    let peer = |source, id: &str, room: &str| Peer {
        id: id.into(),
        source,
        room: Some(room.into()),
        display_name: "Bob".into(),
        user_agent: "".into(),
    };
    // Two servers have a room of the same name, and a peer of the same id in it; and two names differ
    // only in what no label shows.
    for source in [fixture::SOURCE, other] {
        let key = RoomKey { source, id: "lobby".into() };
        bench.told.state.put_room(key, Box::default(), Box::default());
        bench.told.state.put_peer(peer(source, "bob", "lobby"));
    }
    bench.told.state.put_peer(peer(other, "carol", "lobby"));
    for room in ["evil\u{1}", "evil\u{2}"] {
        bench.told.state.put_peer(peer(other, &format!("mallory of {room}"), room));
    }
    let scraped = bench.scrape();
    let peers = "edumeet_peers";
    assert_eq!(scraped.value(peers, &[("room_id", "lobby")]), Some(3.0));
    assert_eq!(scraped.value(peers, &[("room_id", "evil\u{fffd}")]), Some(2.0));
    // r1, two lobbies, two evil ones.
    assert_eq!(scraped.value("edumeet_rooms", &[]), Some(5.0));
    assert_eq!(scraped.find("mediasoup_peer_info", &[("peer_id", "bob")]).len(), 1);
    assert_eq!(scraped.find("mediasoup_peer_info", &[("room_id", "evil\u{fffd}")]).len(), 1);
    // One ends, the other stays.
    bench.told.state.remove_room(&RoomKey { source: other, id: "lobby".into() });
    for id in ["bob", "carol"] {
        bench.told.state.remove_peer(&PeerKey { source: other, id: id.into() });
    }
    let scraped = bench.scrape();
    assert_eq!(scraped.value(peers, &[("room_id", "lobby")]), Some(1.0));
    assert_eq!(scraped.value("edumeet_rooms", &[]), Some(4.0));
    assert_eq!(scraped.find("mediasoup_peer_info", &[("peer_id", "bob")]).len(), 1);
    assert_eq!(scraped.find("mediasoup_peer_info", &[("peer_id", "carol")]).len(), 0);
    // What is shown now makes room for itself only.
    bench.told.state.put_peer(peer(fixture::SOURCE, "bob", "r1"));
    let scraped = bench.scrape();
    let bobs = scraped.find("mediasoup_peer_info", &[("peer_id", "bob")]);
    assert_eq!(bobs.len(), 1);
    assert_eq!(bobs[0].0["room_id"], "r1");
}

/// A pseudonym joins the families as the name did, and names that are dropped make one series.
#[test]
fn people_are_shown_by_their_pseudonyms_or_not_at_all() {
    let scraped = |people: NamePolicy| {
        let mut bench = Bench::new(Settings::default(), AddressPolicy::None);
        let policy = Policy { people, ..Policy::default() };
        bench.scrape = Scrape::new(Settings::default(), policy, Geo::none());
        for (name, transport) in [("carol", "t1"), ("dave", "t2")] {
            bench.told.state.put_peer(Peer {
                id: name.into(),
                source: fixture::SOURCE,
                room: Some("seminar".into()),
                display_name: format!("{name} surname").into(),
                user_agent: "Netscape".into(),
            });
            let owner = Some(PeerKey { source: fixture::SOURCE, id: name.into() });
            let told = fixture::transport(transport, Some("192.0.2.1:1000"), 40_000);
            bench.told.state.put_transport(Transport { owner, ..told });
        }
        bench.scrape();
        bench.scrape()
    };
    let shown = scraped(NamePolicy::pseudonym(&[7; 32]));
    let every = shown.samples.keys().flat_map(|(_, labels)| labels.values());
    let words = ["carol", "dave", "seminar", "surname", "Netscape"];
    for value in every {
        assert!(!words.iter().any(|word| value.contains(word)), "{value}");
    }
    let infos = shown.find("mediasoup_peer_info", &[]);
    let infos: Vec<_> = infos
        .iter()
        .filter(|(labels, _)| {
            let room = [("room_id", &*labels["room_id"])];
            shown.value("edumeet_peers", &room) == Some(2.0)
        })
        .collect();
    assert_eq!(infos.len(), 2);
    for (labels, _) in &infos {
        let owner = [("peer_id", &*labels["peer_id"]), ("room_id", &*labels["room_id"])];
        assert_eq!(shown.find("mediasoup_transport_info", &owner[..1]).len(), 1);
        assert_eq!(shown.value("edumeet_peers", &owner[1..]), Some(2.0));
    }
    assert_eq!(infos[0].0["user_agent"], infos[1].0["user_agent"]);
    let dropped = scraped(NamePolicy::Drop);
    assert_eq!(dropped.find("mediasoup_peer_info", &[]).len(), 1);
    assert!(dropped.find("mediasoup_peer_info", &[("peer_id", ""), ("room_id", "")]).len() == 1);
    assert_eq!(dropped.find("mediasoup_transport_info", &[("peer_id", "")]).len(), 2);
}

/// When the key changes, who is there keeps his pseudonym, with all that he has counted; who comes has another.
#[test]
fn another_key_is_for_those_who_come() {
    let (first, second) = (NamePolicy::pseudonym(&[1; 32]), NamePolicy::pseudonym(&[2; 32]));
    let mut bench = Bench::new(Settings::default(), AddressPolicy::None);
    let policy = Policy { people: first, ..Policy::default() };
    bench.scrape = Scrape::new(Settings::default(), policy, Geo::none());
    bench.told.state.put_room(fixture::room("empty"), [].into(), [].into());
    bench.told.transport("t1", "192.0.2.1:1000", 40_000);
    bench.told.producer("p1", "t1", &[(11, None)]);
    let told = |bench: &mut Bench, byte_count| {
        let mut producer = fixture::producer("p1", "t1", &[(11, None)]);
        producer.encodings[0].stats = Some(StreamStats { byte_count, ..StreamStats::default() });
        bench.told.state.put_producer(producer);
    };
    told(&mut bench, 1000);
    bench.scrape();
    let before = bench.scrape();
    bench.scrape.renew(Renewal::Keys(None, Some(second)));
    // Something of his changes, so that his labels are made anew.
    let mut transport = fixture::transport("t1", Some("192.0.2.1:1000"), 40_000);
    transport.ice_state = Some("disconnected".into());
    bench.told.state.put_transport(transport);
    told(&mut bench, 1500);
    bench.told.state.put_peer(Peer {
        id: "bob".into(),
        source: fixture::SOURCE,
        room: Some("r1".into()),
        display_name: "Bob".into(),
        user_agent: "Browser/1".into(),
    });
    let after = bench.scrape();
    let contract = "mediasoup_producer_byte_count_bytes";
    let series = |scraped: &Scraped| {
        let found = scraped.find(contract, &[]);
        assert_eq!(found.len(), 1);
        (found[0].0.clone(), found[0].1.to_owned())
    };
    let (labels, bytes) = series(&before);
    assert_eq!(bytes, "1000");
    assert_eq!(series(&after), (labels.clone(), "1500".to_owned()));
    let room = [("room_id", labels["room_id"].as_str())];
    assert_eq!(after.value("edumeet_peers", &room), Some(2.0), "the room that both are in");
    let infos = after.find("mediasoup_peer_info", &room);
    assert_eq!(infos.len(), 2);
    assert!(infos.iter().all(|(info, _)| info["user_agent"] == infos[0].0["user_agent"]));
    // Nobody is in it who would tell that both are one room.
    let names = |scraped: &Scraped| -> Vec<String> {
        let rooms = scraped.find("edumeet_peers", &[]);
        let empty = rooms.iter().filter(|(_, peers)| *peers == "0");
        empty.map(|(labels, _)| labels["room_id"].clone()).collect()
    };
    assert_eq!((names(&before).len(), names(&after).len()), (1, 1));
    assert_ne!(names(&before), names(&after));
    // He goes and comes again.
    bench.told.state.remove_peer(&fixture::peer("alice"));
    bench.told.state.remove_transport(&"t1".into());
    for _ in 0..20 {
        bench.scrape();
    }
    bench.told.state.put_peer(Peer {
        id: "alice".into(),
        source: fixture::SOURCE,
        room: Some("r1".into()),
        display_name: "Alice".into(),
        user_agent: "Browser/1".into(),
    });
    let again = bench.scrape();
    assert!(again.find("mediasoup_peer_info", &[("peer_id", &labels["peer_id"])]).is_empty());
    assert_eq!(again.find("mediasoup_peer_info", &room).len(), 2);
}

#[test]
fn sums_of_told_numbers_stop_at_their_ends() {
    let mut bench = Bench::plain();
    bench.told.transport("t1", "192.0.2.1:1000", 40_000);
    let encodings: Vec<(u32, Option<u32>)> = (1..=8).map(|ssrc| (ssrc, None)).collect();
    for (id, packets_lost) in [("c1", i64::MAX), ("c2", i64::MIN)] {
        let mut consumer = fixture::consumer(id, "t1", &encodings);
        for encoding in &mut consumer.encodings {
            let byte_count = u64::MAX;
            encoding.stats =
                Some(StreamStats { byte_count, packets_lost, ..StreamStats::default() });
        }
        bench.told.state.put_consumer(consumer);
    }
    for _ in 0..2 {
        let scraped = bench.scrape();
        for (id, expected) in [("c1", i64::MAX), ("c2", i64::MIN)] {
            let lost = scraped.value("mediasoup_consumer_packets_lost", &[("id", id)]);
            assert_eq!(lost, Some(expected as f64));
            let bytes = scraped.value("mediasoup_consumer_byte_count_bytes", &[("id", id)]);
            assert_eq!(bytes, Some(u64::MAX as f64));
        }
    }
}

#[test]
fn quiet_series_are_merged() {
    const COUNT: &str = "mediasoup_producer_byte_count_bytes";
    let settings = Settings { quiet: true, ..Settings::default() };
    let mut bench = Bench::new(settings, AddressPolicy::None);
    bench.told.transport("t1", "192.0.2.1:1000", 40_000);
    for (id, byte_count, score) in [("p1", 7, 3), ("p2", 5, 8)] {
        let mut producer = fixture::producer(id, "t1", &[(byte_count as u32, None)]);
        producer.encodings[0].stats = Some(StreamStats { byte_count, ..StreamStats::default() });
        producer.encodings[0].score = Some(score);
        bench.told.state.put_producer(producer);
    }
    let blank = [("id", ""), ("transport_id", "")];
    let scraped = bench.scrape();
    assert_eq!(scraped.value(COUNT, &blank), Some(12.0));
    assert_eq!(scraped.value("mediasoup_producer_score", &blank), Some(8.0), "the highest");
    bench.told.state.remove_producer(&("t1".into(), "p2".into()));
    let scraped = bench.scrape();
    assert_eq!(scraped.value(COUNT, &blank), Some(12.0), "does not fall");
    assert_eq!(scraped.value("mediasoup_producer_score", &blank), Some(3.0));
}

/// A world that does what it likes: streams come, grow, end and come again; transports and consumers
/// are told late, closed, and replaced.
struct Chance {
    random: Random,
    reading: Reading,
    state: State,
    seconds: u64,
}

impl Chance {
    fn step(&mut self) {
        self.reading.streams.retain(|stream| !stream.ended);
        self.reading.flows.retain(|flow| !flow.ended);
        for _ in 0..self.random.below(6) {
            let tuple = self.tuple();
            let known = self.random.below(8) > 0;
            if !self.reading.flows.iter().any(|flow| flow.tuple == tuple) {
                let mut flow = fixture::flow(tuple, 0);
                flow.known = known;
                self.reading.flows.push(flow);
            }
            let direction = if self.random.below(2) == 0 { Receive } else { Send };
            let ssrc = 1230 + self.random.below(6) as u32;
            let same =
                |old: &Stream| (old.tuple, old.direction, old.ssrc) == (tuple, direction, ssrc);
            if !self.reading.streams.iter().any(same) {
                self.reading.streams.push(fixture::stream(tuple, direction, ssrc, 0));
            }
        }
        self.grow();
        self.tell();
    }

    fn tuple(&mut self) -> Tuple {
        let number = self.random.below(6);
        fixture::tuple("10.0.0.1:40000", &format!("192.0.2.{number}:{}", 1000 + number))
    }

    fn grow(&mut self) {
        let Self { random, reading, .. } = self;
        for flow in &mut reading.flows {
            for counter in flow.counts.iter_mut().flatten() {
                add(counter, fixture::packets(random.below(3)));
            }
            flow.known |= random.below(3) == 0;
            flow.ended = random.below(12) == 0;
        }
        for stream in &mut reading.streams {
            let grown = random.below(4);
            add(&mut stream.total, fixture::packets(grown));
            stream.received += grown;
            stream.expected += grown;
            // A stream may end with its flow, before it, and some readings after it.
            let gone = !reading.flows.iter().any(|f| f.tuple == stream.tuple && !f.ended);
            stream.ended = random.below(if gone { 2 } else { 12 }) == 0;
            stream.known = true;
        }
    }

    fn tell(&mut self) {
        let id = format!("t{}", self.random.below(8));
        let id = id.as_str();
        match self.random.below(6) {
            0 => {
                let remote = self.tuple().remote.to_string();
                self.state.put_transport(fixture::transport(id, Some(&remote), 40_000));
            }
            1 => self.state.remove_transport(&id.into()),
            2 | 3 => {
                let ssrc = 1230 + self.random.below(6) as u32;
                let name = format!("{id}-{}", self.random.below(3));
                self.state.put_consumer(fixture::consumer(&name, id, &[(ssrc, None)]));
                self.state.put_producer(fixture::producer(&name, id, &[(ssrc, None)]));
            }
            4 => {
                let name = format!("{id}-{}", self.random.below(3));
                self.state.remove_consumer(&name.as_str().into());
                self.state.remove_producer(&(id.into(), name.as_str().into()));
            }
            _ => {
                self.seconds += self.random.below(100);
                self.state.pass(self.seconds);
            }
        }
    }
}

fn run(seed: u64, address: AddressPolicy, settings: Settings) {
    let mut chance = Chance {
        random: Random(seed),
        reading: Reading::default(),
        state: State::default(),
        seconds: 0,
    };
    let max_series = settings.max_series;
    let mut ledger = Ledger::new(settings);
    let mut labels = Labels::new(Policy { address, ..Policy::default() }, Geo::none());
    let mut before: HashMap<String, u64> = HashMap::new();
    // All that streams and flows counted, in what ended and in what lives.
    let mut ended: (Counts, StreamTotals) = Default::default();
    for tick in 0..300 {
        chance.step();
        let (reading, state) = (Some(&chance.reading), &chance.state);
        ledger.update(Update { tick, reading, state, sockets: None }, true, &mut labels);
        let mut fed = ended;
        let live = |reading: &Reading, fed: &mut (Counts, StreamTotals), only_ended: bool| {
            for flow in reading.flows.iter().filter(|flow| flow.ended || !only_ended) {
                add_all(&mut fed.0, &flow.counts);
            }
            for stream in reading.streams.iter().filter(|stream| stream.ended || !only_ended) {
                add(&mut fed.0[stream.direction as usize][0], stream.total);
                fed.1.add(stream.into());
            }
        };
        live(&chance.reading, &mut fed, false);
        live(&chance.reading, &mut ended, true);
        if max_series == u64::MAX {
            let (mut flows, mut streams) = ledger.packets.counted();
            add_all(&mut flows, &ledger.packets.retired.0);
            streams.add(ledger.packets.retired.1);
            add_all(&mut flows, &ledger.packets.strangers.resolved);
            add_all(&mut flows, &ledger.packets.trailed);
            add_all(&mut flows, &ledger.packets.unclaimed.crowd.resolved);
            let pending = Counter { packets: 0, bytes: ledger.packets.strangers.pending_bytes };
            let sum = |counts: &Counts| counts.iter().flatten().map(|c| c.bytes).sum::<u64>();
            assert_eq!(sum(&flows) + pending.bytes, sum(&fed.0), "seed {seed} tick {tick}");
            // Every flow here that has a stream is known.
            assert_eq!(streams, fed.1, "seed {seed} tick {tick}");
        }
        let now = totals(&ledger);
        for (labels, value) in &now {
            let old = before.get(labels).copied().unwrap_or(0);
            assert!(*value >= old, "{labels}: {value} after {old}; seed {seed} tick {tick}");
        }
        before = now;
        assert!(ledger.fill().series <= max_series);
    }
}

fn totals(ledger: &Ledger) -> HashMap<String, u64> {
    let mut all = HashMap::new();
    for (direction, table) in ledger.packets.stream_series.iter().enumerate() {
        for series in table.iter() {
            let name = format!("{direction}{}", series.labels.parts().concat());
            assert!(all.insert(name, series.values.totals.total.bytes).is_none());
        }
    }
    for connection in ledger.packets.connections.iter() {
        for (index, counter) in connection.values.counts.iter().flatten().enumerate() {
            let name = format!("{index}{}", connection.labels);
            assert!(all.insert(name, counter.bytes).is_none());
        }
    }
    all
}

#[test]
fn whatever_happens_nothing_is_lost_or_counted_twice_or_falls() {
    for seed in 1..8 {
        for hold in [0, 2] {
            let settings = Settings { max_series: u64::MAX, hold, ..Settings::default() };
            run(seed, AddressPolicy::None, settings.clone());
            run(seed, AddressPolicy::truncate(24, 48).unwrap(), settings.clone());
            run(seed, AddressPolicy::Drop, settings.clone());
            let few =
                Settings { unclaimed_connections: [9, 1], unclaimed_streams: [9, 1], ..settings };
            run(seed, AddressPolicy::None, few);
        }
        let settings = Settings { max_series: 60, ..Settings::default() };
        run(seed, AddressPolicy::Drop, settings);
    }
}
