//! A whole scrape, in both formats.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::exposition::families::{FAMILIES, Group};
use crate::exposition::strict::read;
use crate::exposition::text::MetricType;
use crate::exposition::written::text;
use crate::exposition::{Cursor, Format, PIECE, Scrape, Selection, Tails, foreign};
use crate::fixture::{self, Told};
use crate::labels::block::Block;
use crate::labels::{AddressPolicy, Geo, Policy, Tick};
use crate::ledger::{Settings, Update};
use crate::model::Direction::{Receive, Send};
use crate::model::{
    HostLoad, InterfaceLoad, Peer, ProcessorLoad, Proto, Reading, SocketStats, StreamStats,
    TcpStats, UdpLoad, WorkerLoad,
};

/// Something of everything: two peers, of whom one has a hostile name, a simulcast producer, RTX and
/// probation, a connection and a stream that nobody claims, and a stranger.
struct World {
    told: Told,
    reading: Reading,
    sockets: Vec<SocketStats>,
}

impl World {
    fn new() -> Self {
        let mut told = Told::default();
        told.state.put_peer(Peer {
            id: "mallory".into(),
            source: fixture::SOURCE,
            room: Some("tenant/r2".into()),
            display_name: "\"} 1\n# EOF\\".into(),
            user_agent: "Browser/2 \u{202e}(\u{1f600})".into(),
        });
        told.transport("t1", "192.0.2.1:1000", 40_000);
        let mut plain = fixture::transport("t2", Some("[2001:db8::2]:2000"), 40_001);
        plain.kind = crate::model::TransportKind::Plain;
        told.state.put_router("router-2".into(), fixture::SOURCE, 42, None);
        told.state.put_room(fixture::room("tenant/r2"), [].into(), ["router-2".into()].into());
        (plain.router, plain.owner) = ("router-2".into(), Some(fixture::peer("mallory")));
        (plain.ice_state, plain.dtls_state) = (None, None);
        plain.tuples[0].local_address = "2001:db8::5".into();
        told.state.put_transport(plain);
        told.state.put_transport(fixture::transport("t3", None, 40_002));
        let mut producer = fixture::producer("p1", "t1", &[(11, Some(12)), (21, Some(22))]);
        producer.encodings[1].score = Some(6);
        for (encoding, byte_count) in producer.encodings.iter_mut().zip([1000, 2000]) {
            encoding.stats = Some(StreamStats {
                byte_count,
                packets_lost: -1,
                repairs: Some([1, 2, 3, 4, 5]),
                ..StreamStats::default()
            });
        }
        told.state.put_producer(producer);
        let mut consumer = fixture::consumer("c1", "t2", &[(31, Some(32))]);
        consumer.encodings[0].stats = Some(StreamStats {
            byte_count: 3000,
            packets_lost: 4,
            fraction_lost: 64,
            round_trip_time: Some(12.5),
            repairs: Some([0, 6, 0, 7, 8]),
        });
        told.state.put_consumer(consumer);
        Self { told, reading: reading(), sockets: sockets() }
    }

    fn scrape(&self, settings: Settings, address: AddressPolicy) -> Scrape {
        let policy = Policy { address, ..Policy::default() };
        let mut scrape = Scrape::new(settings, policy, Geo::none());
        for tick in 0..4 {
            self.update(&mut scrape, tick);
        }
        let block = Block::open().label("room_id", "r1").label("peer_id", "alice");
        scrape.put_load(load());
        scrape.judge(vec![block.label("verdict", "uplink").close()]);
        scrape
    }

    fn update(&self, scrape: &mut Scrape, tick: Tick) {
        let (reading, sockets) = (Some(&self.reading), Some(&*self.sockets));
        let update = Update { tick, reading, state: &self.told.state, sockets };
        scrape.update_for(update, Selection::ALL);
    }
}

fn reading() -> Reading {
    let one = fixture::tuple("10.0.0.1:40000", "192.0.2.1:1000");
    let two = fixture::tuple("[2001:db8::5]:40001", "[2001:db8::2]:2000");
    let unclaimed = fixture::tuple("10.0.0.1:40003", "192.0.2.3:3000");
    let stranger = fixture::tuple("10.0.0.1:40004", "198.51.100.66:6666");
    let mut reading = Reading::default();
    for tuple in [one, two, unclaimed] {
        reading.flows.push(fixture::flow(tuple, 2));
    }
    reading.flows.push(fixture::flow(stranger, 9));
    reading.flows[3].known = false;
    for (tuple, direction, ssrc, packets) in [
        (one, Receive, 11, 10),
        (one, Receive, 12, 1),
        (one, Receive, 21, 20),
        (one, Receive, 99, 3),
        (two, Send, 31, 30),
        (two, Send, 32, 2),
        (two, Send, 1234, 5),
        (unclaimed, Receive, 77, 4),
    ] {
        reading.streams.push(fixture::stream(tuple, direction, ssrc, packets));
    }
    reading.streams[0].expected = 12;
    reading.streams[2].received = 21;
    reading.streams[2].duplicates = 1;
    reading
}

fn load() -> HostLoad {
    HostLoad {
        workers: vec![WorkerLoad { pid: 42, processor_micros: 1_250_000, resident_bytes: 4096 }],
        processors: vec![ProcessorLoad { number: 1, packets: 9, dropped: 2, squeezed: 1 }],
        udp: [Some(UdpLoad([Some(5), Some(0), None, Some(1), Some(2)])), None],
        interfaces: vec![InterfaceLoad {
            name: "a\"\\b".into(),
            receive: [1, 2, 3],
            send: [4, 5, 6],
        }],
    }
}

fn sockets() -> Vec<SocketStats> {
    let udp = SocketStats {
        proto: Proto::Udp,
        local: fixture::address("0.0.0.0:40000"),
        remote: None,
        drops: 3,
        receive_queue_bytes: 768,
        send_queue_bytes: 0,
        tcp: None,
    };
    let tcp = SocketStats {
        proto: Proto::Tcp,
        local: fixture::address("10.0.0.1:40005"),
        remote: Some(fixture::address("192.0.2.1:1001")),
        tcp: Some(TcpStats { round_trip_time_us: 20_500, retransmits: 2 }),
        ..udp.clone()
    };
    vec![udp, tcp]
}

/// Compares with a committed file, or writes it when `BLESS` is set.
fn check_file(path: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("BLESS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, found).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "{} is not up to date; run: BLESS=1 cargo test -p mediasoup-exporter exposition",
        path.display()
    );
}

#[test]
fn a_whole_scrape_is_as_it_was() {
    let mut scrape = World::new().scrape(Settings::default(), AddressPolicy::None);
    // A table keeps its order; the servers' objects come out of hash maps.
    let mut sorted = |format| {
        let mut families: Vec<Vec<String>> = Vec::new();
        for line in text(&mut scrape, format, Selection::ALL).lines() {
            if line.starts_with("# HELP") || line == "# EOF" {
                families.push(Vec::new());
            }
            families.last_mut().unwrap().push(line.to_owned());
        }
        families
            .iter_mut()
            .for_each(|family| family.sort_by_key(|l| (!l.starts_with('#'), l.clone())));
        families.concat().join("\n") + "\n"
    };
    check_file("src/exposition/golden/scrape.txt", &sorted(Format::Text));
    check_file("src/exposition/golden/scrape.openmetrics", &sorted(Format::OpenMetrics));
}

#[test]
fn both_formats_say_the_same() {
    let mut scrape = World::new().scrape(Settings::default(), AddressPolicy::None);
    let plain = read(&text(&mut scrape, Format::Text, Selection::ALL), Format::Text).unwrap();
    let open = text(&mut scrape, Format::OpenMetrics, Selection::ALL);
    let open = read(&open, Format::OpenMetrics).unwrap();
    assert_eq!(plain.samples.len(), open.samples.len());
    let values = |scraped: &crate::exposition::strict::Scraped| {
        let mut values: Vec<String> = scraped.samples.values().cloned().collect();
        values.sort();
        values
    };
    assert_eq!(values(&plain), values(&open));
    let contract = "mediasoup_producer_byte_count_bytes";
    assert_eq!(plain.value(contract, &[("id", "p1")]), Some(3000.0));
    assert_eq!(open.value(contract, &[("id", "p1")]), Some(3000.0));
    assert_eq!(plain.types[contract], "counter");
    assert_eq!(open.types[contract], "unknown");
    assert_eq!(open.types["mediasoup_stream_receive_bytes"], "counter");
    assert_eq!(open.types["mediasoup_peer"], "info");
    assert_eq!(plain.types["mediasoup_peer_info"], "gauge");
}

#[test]
fn each_family_has_its_labels() {
    let mut scrape = World::new().scrape(Settings::default(), AddressPolicy::None);
    let plain = text(&mut scrape, Format::Text, Selection::ALL);
    read(&plain, Format::Text).unwrap();
    for family in FAMILIES {
        let line = plain
            .lines()
            .find(|line| {
                line.strip_prefix(family.name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            })
            .unwrap_or_else(|| panic!("{} has no sample", family.name));
        let mut rest = line.strip_prefix(family.name).unwrap();
        // Their order is the definition's; the places' labels need a database.
        for label in family.labels.iter().filter(|label| !GEO.contains(label)) {
            let at = rest
                .find(&format!("{{{label}=\""))
                .or_else(|| rest.find(&format!(",{label}=\"")))
                .unwrap_or_else(|| panic!("{} lacks {label}, or has it too early", family.name));
            rest = &rest[at..];
        }
        let labels = line.matches("=\"").count();
        let expected = family.labels.iter().filter(|label| !GEO.contains(label)).count();
        assert_eq!(labels, expected, "{line}");
        assert_eq!(family.name.ends_with("_info"), family.kind == MetricType::Info);
    }
}

const GEO: [&str; 4] = ["country", "city", "asn", "as_org"];

#[test]
fn no_mode_lets_an_address_through() {
    let key = *b"0123456789abcdefghijklmnopqrstuv";
    for policy in [
        AddressPolicy::truncate(24, 48).unwrap(),
        AddressPolicy::pseudonym(key).unwrap(),
        AddressPolicy::Drop,
        AddressPolicy::Legacy,
    ] {
        let name = format!("{policy:?}");
        let mut scrape = World::new().scrape(Settings::default(), policy);
        let plain = text(&mut scrape, Format::Text, Selection::ALL);
        read(&plain, Format::Text).unwrap();
        for secret in
            ["192.0.2.1\"", "192.0.2.3\"", "2001:db8::2", ":1000", ":1001", ":2000", ":3000"]
        {
            assert!(!plain.contains(secret), "{name}: {secret}");
        }
        assert!(!plain.contains("198.51.100"), "a stranger has no label in any mode");
        assert!(plain.contains("local_addr=\"10.0.0.1:40003\""), "the SFU's own end stays");
    }
}

#[test]
fn hostile_text_stays_within_its_label() {
    let mut scrape = World::new().scrape(Settings::default(), AddressPolicy::None);
    let plain = read(&text(&mut scrape, Format::Text, Selection::ALL), Format::Text).unwrap();
    let [(labels, _)] = plain.find("mediasoup_peer_info", &[("peer_id", "mallory")])[..] else {
        panic!("one series")
    };
    assert_eq!(labels["display_name"], "\"} 1\u{fffd}# EOF\\");
    assert_eq!(labels["user_agent"], "Browser/2 \u{fffd}(\u{1f600})");
    assert_eq!(scrape.text_counts().replaced, 2);
}

#[test]
fn a_scrape_comes_in_pieces_and_each_series_once() {
    let mut told = Told::default();
    told.transport("t1", "192.0.2.1:1000", 40_000);
    let tuple = fixture::tuple("10.0.0.1:40000", "192.0.2.1:1000");
    let mut reading = Reading::default();
    for ssrc in 0..3000 {
        told.consumer(&format!("consumer-{ssrc}"), "t1", &[(ssrc, None)]);
        reading.streams.push(fixture::stream(tuple, Send, ssrc, 1));
    }
    let world = World { told, reading, sockets: Vec::new() };
    let mut scrape = world.scrape(Settings::default(), AddressPolicy::None);
    for format in [Format::Text, Format::OpenMetrics] {
        let text = text(&mut scrape, format, Selection::ALL);
        assert!(text.len() > 20 * PIECE);
        let scraped = read(&text, format).unwrap();
        assert_eq!(scraped.find("mediasoup_stream_send_packets_lost", &[]).len(), 3000);
    }
}

#[test]
fn the_tail_comes_before_the_end() {
    let mut scrape = World::new().scrape(Settings::default(), AddressPolicy::None);
    let registry = prometheus::Registry::new();
    let label = prometheus::opts!("mediasoup_exporter_up", "A \"source\"\nis up.");
    let gauge = prometheus::IntGaugeVec::new(label, &["source"]).unwrap();
    gauge.with_label_values(&["a\"b"]).set(1);
    registry.register(Box::new(gauge)).unwrap();
    let counter = prometheus::IntCounter::new("mediasoup_exporter_reads_total", "Reads.").unwrap();
    counter.inc_by(7);
    registry.register(Box::new(counter)).unwrap();
    let options = prometheus::HistogramOpts::new("mediasoup_exporter_seconds", "Time.");
    let histogram = prometheus::Histogram::with_opts(options.buckets(vec![1.0, 2.5])).unwrap();
    histogram.observe(2.0);
    registry.register(Box::new(histogram)).unwrap();
    for format in [Format::Text, Format::OpenMetrics] {
        let mut text = Vec::new();
        let tail = |format| foreign::text(&registry.gather(), format).into();
        let tails = Tails { text: tail(Format::Text), open_metrics: tail(Format::OpenMetrics) };
        let cursor = Cursor::new(format, Selection::ALL).with_tail(true);
        scrape.snapshot(Selection::ALL, tails).write(cursor, |piece| text.extend(piece));
        let scraped = read(std::str::from_utf8(&text).unwrap(), format).unwrap();
        assert_eq!(scraped.value("mediasoup_exporter_up", &[("source", "a\"b")]), Some(1.0));
        assert_eq!(scraped.value("mediasoup_exporter_reads_total", &[]), Some(7.0));
        let bucket = "mediasoup_exporter_seconds_bucket";
        let buckets = ["1.0", "2.5", "+Inf"].map(|le| scraped.value(bucket, &[("le", le)]));
        assert_eq!(buckets, [Some(0.0), Some(1.0), Some(1.0)]);
        assert_eq!(scraped.value("mediasoup_exporter_seconds_sum", &[]), Some(2.0));
    }
}

#[test]
fn groups_are_chosen_by_name() {
    let mut scrape = World::new().scrape(Settings::default(), AddressPolicy::None);
    let kernel = text(&mut scrape, Format::Text, Selection::parse("kernel").unwrap());
    let kernel = read(&kernel, Format::Text).unwrap();
    assert!(kernel.types.keys().all(|name| {
        let family = FAMILIES.iter().find(|family| family.name == name).unwrap();
        matches!(family.group, Group::Connections | Group::Streams | Group::Strangers)
    }));
    assert!(!kernel.types.is_empty());
    assert_eq!(Selection::parse(""), Ok(Selection::ALL));
    assert_eq!(Selection::parse("streams,nonsense"), Err("nonsense"));
    assert_eq!(Selection::parse("connections, streams,strangers"), Selection::parse("kernel"));
}

#[test]
fn names_follow_the_conventions() {
    for family in FAMILIES {
        let counter = family.kind == MetricType::Counter && family.group != Group::Contract;
        assert_eq!(family.name.ends_with("_total"), counter, "{}", family.name);
        let stem = family.name.trim_end_matches("_total");
        assert!(family.unit.is_empty() || stem.ends_with(family.unit), "{}", family.name);
        assert!(family.help.ends_with('.'), "{}", family.name);
    }
    let names: std::collections::BTreeSet<_> = FAMILIES.iter().map(|family| family.name).collect();
    assert_eq!(names.len(), FAMILIES.len());
}

#[test]
fn a_name_is_awaited_once() {
    let world = World::new();
    let policy = Policy { names: true, ..Policy::default() };
    let mut scrape = Scrape::new(Settings::default(), policy, Geo::none());
    let update = |scrape: &mut Scrape, tick| {
        world.update(scrape, tick);
        text(scrape, Format::Text, Selection::ALL)
    };
    let first = update(&mut scrape, 1);
    assert!(!first.contains("192.0.2.1"), "not before it is decided");
    assert!(first.contains("mediasoup_stream_receive_bytes_total{transport_id=\"t1\",id=\"p1\""));
    let mut wanted = scrape.wanted_names(9);
    wanted.sort();
    assert_eq!(
        wanted.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["192.0.2.1", "2001:db8::2"]
    );
    scrape.put_name(wanted[0], Some(Arc::from("host.example")));
    let second = update(&mut scrape, 2);
    assert!(second.contains("remote_addr=\"host.example:1000\""));
    assert!(second.contains("remote_addr=\"[2001:db8::2]:2000\""), "its answer is late");
    scrape.put_name(wanted[1], Some(Arc::from("late.example")));
    assert!(!update(&mut scrape, 3).contains("late.example"));
}
