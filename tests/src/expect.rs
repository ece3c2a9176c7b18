//! What a scrape must hold after the cast has played, by what the peers, mediasoup and nftables
//! counted. Each function hands back both sides: what must be there, and what is.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::endpoint::{Count, Counts};
use crate::nft::Nft;
use crate::peer::{Sequence, Track};
use crate::scene::{Channel, Person, Scene};
use crate::scrape::{Sample, Scrape};

/// `receive` or `send`, as in the families' names.
pub type Direction = &'static str;

/// The labels of the contract families, in their order.
pub const CONTRACT: [&str; 13] = [
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

/// Direction, id of the producer or consumer, SSRC and role.
pub type StreamId = (Direction, String, String, String);
/// Direction, id of the transport, and class.
pub type ConnectionId = (Direction, String, String);

const DIRECTIONS: [Direction; 2] = ["receive", "send"];

/// Every stream of every peer: what left the peers and what arrived there; and the stream families.
pub fn streams(
    scene: &Scene,
    scrape: &Scrape,
) -> (BTreeMap<StreamId, Count>, BTreeMap<StreamId, Count>) {
    let mut expected = BTreeMap::new();
    let mut expect = |direction, id: &str, role: &str, ssrc: Option<u32>, counts: &Counts| {
        let Some(ssrc) = ssrc else { return };
        // A stream of which nothing was sent is no stream yet.
        if let Some(count) = counts.rtp.get(&ssrc) {
            expected.insert((direction, id.into(), ssrc.to_string(), role.into()), *count);
        }
    };
    for person in scene.people.values() {
        let (sent, received) =
            (person.sending.endpoint.sent(), person.receiving().endpoint.received());
        for made in &person.produced {
            for track in &made.tracks {
                expect("receive", &made.id, "media", Some(track.ssrc), &sent);
                expect("receive", &made.id, "rtx", track.rtx, &sent);
            }
        }
        for it in &person.consumed {
            expect("send", &it.consumer.id, "media", Some(it.consumer.ssrc), &received);
            expect("send", &it.consumer.id, "rtx", it.consumer.rtx, &received);
        }
    }
    (expected, scraped_streams(scene, scrape))
}

/// What went through each pipe between routers, by mediasoup's own count of what it sent, once as
/// sent and once as received; and the stream families.
pub fn pipes(
    scene: &Scene,
    stats: &Value,
    scrape: &Scrape,
) -> (BTreeMap<StreamId, Count>, BTreeMap<StreamId, Count>) {
    let (mut expected, mut scraped) = (BTreeMap::new(), BTreeMap::new());
    for pipe in &scene.pipes {
        let entries = stats["consumers"][&pipe.consumer]["stats"].as_array();
        let sent = entries.into_iter().flatten().filter(|it| it["type"] == "outbound-rtp");
        for entry in sent {
            let number = |name: &str| entry[name].as_u64().unwrap_or_default();
            let count = Count { packets: number("packetCount"), bytes: number("byteCount") };
            if count == Count::default() {
                continue;
            }
            for (direction, id) in [("receive", &pipe.producer), ("send", &pipe.consumer)] {
                let ssrc = number("ssrc").to_string();
                expected.insert((direction, id.clone(), ssrc, "media".to_owned()), count);
            }
        }
        let peers: BTreeSet<&str> = channels(scene).map(|it| it.transport.id.as_str()).collect();
        for (direction, id) in [("receive", &pipe.producer), ("send", &pipe.consumer)] {
            for (what, packets) in [("packets", 1), ("bytes", 0)] {
                let family = format!("mediasoup_stream_{direction}_{what}_total");
                let labels = [("id", id.as_str()), ("role", "media")];
                // The piped producer has the id of its original.
                let of_pipe = scrape.find(&family, &labels);
                for it in of_pipe.filter(|it| !peers.contains(it.label("transport_id"))) {
                    let ssrc = it.label("ssrc").to_owned();
                    let key = (direction, id.clone(), ssrc, "media".to_owned());
                    let count: &mut Count = scraped.entry(key).or_default();
                    count.packets += packets * it.whole();
                    count.bytes += (1 - packets) * it.whole();
                }
            }
        }
    }
    (expected, scraped)
}

fn scraped_streams(scene: &Scene, scrape: &Scrape) -> BTreeMap<StreamId, Count> {
    let mut streams = BTreeMap::<StreamId, Count>::new();
    for direction in DIRECTIONS {
        let id = |it: &Sample| {
            let label = |name: &str| it.label(name).to_owned();
            (direction, label("id"), label("ssrc"), label("role"))
        };
        for it in of_peers(scene, scrape, &format!("mediasoup_stream_{direction}_packets_total")) {
            streams.entry(id(it)).or_default().packets += it.whole();
        }
        for it in of_peers(scene, scrape, &format!("mediasoup_stream_{direction}_bytes_total")) {
            streams.entry(id(it)).or_default().bytes += it.whole();
        }
    }
    streams
}

/// Every stream of every peer, all of which have a codec that tells their clock; and those that have
/// jitter of a plausible size.
pub fn jitter(scene: &Scene, scrape: &Scrape) -> (BTreeSet<StreamId>, BTreeSet<StreamId>) {
    let expected = streams(scene, scrape).0.into_keys().collect();
    let mut scraped = BTreeSet::new();
    for direction in DIRECTIONS {
        for it in of_peers(scene, scrape, &format!("mediasoup_stream_{direction}_jitter_seconds")) {
            if (0.0..=1.0).contains(&it.value) {
                let label = |name: &str| it.label(name).to_owned();
                scraped.insert((direction, label("id"), label("ssrc"), label("role")));
            }
        }
    }
    (expected, scraped)
}

/// Every connection by class, as the peers' sockets counted; and the connection families.
pub fn connections(
    scene: &Scene,
    scrape: &Scrape,
) -> (BTreeMap<ConnectionId, Count>, BTreeMap<ConnectionId, Count>) {
    let mut expected = BTreeMap::new();
    for channel in channels(scene) {
        let ends = [channel.endpoint.sent(), channel.endpoint.received()];
        for (direction, counts) in DIRECTIONS.into_iter().zip(ends) {
            let rtp = counts.rtp.values().copied().sum();
            let Counts { rtcp, stun, other, .. } = counts;
            for (class, count) in [("rtp", rtp), ("rtcp", rtcp), ("stun", stun), ("other", other)] {
                if count != Count::default() {
                    let id = (direction, channel.transport.id.clone(), class.to_owned());
                    expected.insert(id, count);
                }
            }
        }
    }
    let mut scraped = scraped_connections(scene, scrape);
    // Whether a class of which nothing came has series is the exporter's choice.
    scraped.retain(|_, count| *count != Count::default());
    (expected, scraped)
}

fn scraped_connections(scene: &Scene, scrape: &Scrape) -> BTreeMap<ConnectionId, Count> {
    let mut connections = BTreeMap::<ConnectionId, Count>::new();
    for direction in DIRECTIONS {
        let id = |it: &Sample| {
            (direction, it.label("transport_id").to_owned(), it.label("class").to_owned())
        };
        let family = |what: &str| format!("mediasoup_connection_{direction}_{what}_total");
        for it in of_peers(scene, scrape, &family("packets")) {
            connections.entry(id(it)).or_default().packets += it.whole();
        }
        for it in of_peers(scene, scrape, &family("bytes")) {
            connections.entry(id(it)).or_default().bytes += it.whole();
        }
    }
    connections
}

/// Every connection in all, as nftables counted its 5-tuple; and the connection families.
pub fn flows(
    scene: &Scene,
    scrape: &Scrape,
) -> Result<(BTreeMap<ConnectionId, Count>, BTreeMap<ConnectionId, Count>)> {
    let counted = Nft::of(&scene.host).read()?;
    let mut expected = BTreeMap::new();
    for channel in channels(scene) {
        let pair = channel.pair()?;
        for (direction, counts) in [("receive", &counted.received), ("send", &counted.sent)] {
            if let Some(count) = counts.get(&pair) {
                expected.insert((direction, channel.transport.id.clone(), String::new()), *count);
            }
        }
    }
    let mut scraped = BTreeMap::<ConnectionId, Count>::new();
    for ((direction, id, _), count) in scraped_connections(scene, scrape) {
        let sum = scraped.entry((direction, id, String::new())).or_default();
        *sum = *sum + count;
    }
    scraped.retain(|_, count| *count != Count::default());
    Ok((expected, scraped))
}

/// What an observer of each track's sequence numbers must find; and what the stream families tell.
pub fn sequences(
    scene: &Scene,
    scrape: &Scrape,
) -> (BTreeMap<String, Sequence>, BTreeMap<String, Sequence>) {
    let (mut expected, mut scraped) = (BTreeMap::new(), BTreeMap::new());
    for person in scene.people.values() {
        for (ssrc, sequence) in person.sender.sequences() {
            let transport = &person.sending.transport.id;
            let name = format!("{} {ssrc}", person.role.peer);
            scraped.insert(name.clone(), scraped_sequence(scrape, transport, ssrc));
            expected.insert(name, sequence);
        }
    }
    (expected, scraped)
}

fn scraped_sequence(scrape: &Scrape, transport: &str, ssrc: u32) -> Sequence {
    let ssrc = ssrc.to_string();
    let labels = [("transport_id", transport), ("ssrc", ssrc.as_str())];
    let value = |what: &str| scrape.sum(&format!("mediasoup_stream_receive_{what}"), &labels);
    let duplicates = value("duplicate_packets_total");
    Sequence {
        expected: value("packets_expected_total") as u64,
        // A duplicate makes up for a lost packet there (RFC 3550 §6.4.1).
        lost: (value("packets_lost") + duplicates) as u64,
        duplicates: duplicates as u64,
        out_of_order: value("out_of_order_packets_total") as u64,
        restarts: value("sequence_restarts_total") as u64,
    }
}

/// Rows of a contract family by their label values.
pub type Rows = BTreeMap<Vec<String>, f64>;

/// `mediasoup_producer_byte_count_bytes` by mediasoup's own `byteCount`; and as scraped.
pub fn producer_bytes(scene: &Scene, stats: &Value, scrape: &Scrape) -> Result<(Rows, Rows)> {
    let mut expected = Rows::new();
    for person in scene.people.values() {
        for made in &person.produced {
            let entries = &stats["producers"][&made.id]["stats"];
            let labels = labels(person, &person.sending, &made.id, made.kind, "inbound-rtp")?;
            expected.insert(labels, byte_count(entries, "inbound-rtp"));
        }
    }
    Ok((expected, rows(scene, scrape, "mediasoup_producer_byte_count_bytes")?))
}

/// `mediasoup_consumer_byte_count_bytes` by mediasoup's own `byteCount`; and as scraped.
pub fn consumer_bytes(scene: &Scene, stats: &Value, scrape: &Scrape) -> Result<(Rows, Rows)> {
    let mut expected = Rows::new();
    for person in scene.people.values() {
        for it in &person.consumed {
            let entries = &stats["consumers"][&it.consumer.id]["stats"];
            let id = &it.consumer.id;
            let labels = labels(person, person.receiving(), id, it.kind, "outbound-rtp")?;
            expected.insert(labels, byte_count(entries, "outbound-rtp"));
        }
    }
    Ok((expected, rows(scene, scrape, "mediasoup_consumer_byte_count_bytes")?))
}

/// Families of what was done about losses, and which of mediasoup's counts make them up.
const PRODUCER_REPAIRS: [(&str, &[&str]); 5] = [
    ("mediasoup_producer_packets_discarded_total", &["packetsDiscarded"]),
    ("mediasoup_producer_packets_retransmitted_total", &["packetsRetransmitted"]),
    ("mediasoup_producer_packets_repaired_total", &["packetsRepaired"]),
    ("mediasoup_producer_nacked_packets_total", &["nackPacketCount"]),
    ("mediasoup_producer_key_frame_requests_total", &["pliCount", "firCount"]),
];
const CONSUMER_REPAIRS: [(&str, &[&str]); 3] = [
    ("mediasoup_consumer_packets_retransmitted_total", &["packetsRetransmitted"]),
    ("mediasoup_consumer_nacked_packets_total", &["nackPacketCount"]),
    ("mediasoup_consumer_key_frame_requests_total", &["pliCount", "firCount"]),
];

/// What was done about losses, by family and id, by mediasoup's own counts; and as scraped. mediasoup counts anew
/// where a sender begins new sequence numbers, and what is scraped does not: of such a producer, and of one that is
/// there twice, it is at least as much.
pub fn repairs(scene: &Scene, stats: &Value, scrape: &Scrape) -> Result<(Rows, Rows)> {
    let (mut expected, mut scraped) = (Rows::new(), Rows::new());
    let mut check =
        |families: &[(&str, &[&str])], (objects, kind, id): (&str, &str, &str), anew| {
            let entries = &stats[objects][id]["stats"];
            for (family, counts) in families {
                let count: f64 = counts.iter().map(|name| total(entries, kind, name)).sum();
                let row = vec![(*family).to_owned(), id.to_owned()];
                let found = scrape.sum(family, &[("id", id)]);
                expected.insert(row.clone(), count);
                scraped.insert(row, if anew { found.min(count) } else { found });
            }
        };
    for person in scene.people.values() {
        for made in &person.produced {
            // One that was brought to another router is there twice under its id, with counts of its own.
            let is_twice = scene.pipes.iter().any(|pipe| pipe.producer == made.id);
            let jumped = |track: &Track| person.sender.jumped(track.ssrc).packets > 0;
            let anew = is_twice || made.tracks.iter().any(jumped);
            check(&PRODUCER_REPAIRS, ("producers", "inbound-rtp", &made.id), anew);
        }
        for it in &person.consumed {
            check(&CONSUMER_REPAIRS, ("consumers", "outbound-rtp", &it.consumer.id), false);
        }
    }
    Ok((expected, scraped))
}

/// `mediasoup_consumer_score` by mediasoup's own score; and as scraped.
pub fn consumer_scores(scene: &Scene, stats: &Value, scrape: &Scrape) -> Result<(Rows, Rows)> {
    let mut expected = Rows::new();
    for person in scene.people.values() {
        for it in &person.consumed {
            let score = &stats["consumers"][&it.consumer.id]["score"]["score"];
            let id = &it.consumer.id;
            let labels = labels(person, person.receiving(), id, it.kind, "outbound-rtp")?;
            expected.insert(labels, score.as_f64().context("a consumer without score")?);
        }
    }
    Ok((expected, rows(scene, scrape, "mediasoup_consumer_score")?))
}

/// `mediasoup_producer_score`: of several encodings, the best that mediasoup scores; and as scraped.
pub fn producer_scores(scene: &Scene, stats: &Value, scrape: &Scrape) -> Result<(Rows, Rows)> {
    let mut expected = Rows::new();
    for person in scene.people.values() {
        for made in &person.produced {
            let scores = stats["producers"][&made.id]["score"].as_array();
            let scores = scores.into_iter().flatten().filter_map(|it| it["score"].as_f64());
            let labels = labels(person, &person.sending, &made.id, made.kind, "inbound-rtp")?;
            expected.insert(labels, scores.fold(0.0, f64::max));
        }
    }
    Ok((expected, rows(scene, scrape, "mediasoup_producer_score")?))
}

/// Everybody, as `mediasoup_peer_info` has them; and as scraped.
pub fn peers(scene: &Scene, scrape: &Scrape) -> (BTreeSet<[String; 4]>, BTreeSet<[String; 4]>) {
    let expected = scene.people.values().map(|person| {
        let role = person.role.clone();
        [role.peer, role.room, inert(&role.name), role.user_agent]
    });
    let scraped = scrape.find("mediasoup_peer_info", &[]).map(|it| {
        ["peer_id", "room_id", "display_name", "user_agent"].map(|name| it.label(name).to_owned())
    });
    (expected.collect(), scraped.collect())
}

/// Rooms and how many are in them, as the contract's families have them; and as scraped.
pub fn rooms(scene: &Scene, scrape: &Scrape) -> (BTreeMap<String, f64>, BTreeMap<String, f64>) {
    let mut expected = BTreeMap::new();
    for person in scene.people.values() {
        *expected.entry(person.role.room.clone()).or_default() += 1.0;
    }
    expected.insert(String::new(), expected.len() as f64);
    let mut scraped: BTreeMap<_, _> = scrape
        .find("edumeet_peers", &[])
        .map(|it| (it.label("room_id").to_owned(), it.value))
        .collect();
    scraped.insert(String::new(), scrape.sum("edumeet_rooms", &[]));
    (expected, scraped)
}

fn channels(scene: &Scene) -> impl Iterator<Item = &Channel> {
    scene.people.values().flat_map(Person::channels)
}

/// A family's samples that belong to a peer's transport: pipes have no peer to ask.
fn of_peers<'a>(scene: &Scene, scrape: &'a Scrape, family: &str) -> Vec<&'a Sample> {
    let ours: BTreeSet<&str> = channels(scene).map(|it| it.transport.id.as_str()).collect();
    let samples = scrape.families.get(family).into_iter().flat_map(|it| &it.samples);
    samples.filter(|it| ours.contains(it.label("transport_id"))).collect()
}

fn rows(scene: &Scene, scrape: &Scrape, family: &str) -> Result<Rows> {
    let mut rows = Rows::new();
    for sample in of_peers(scene, scrape, family) {
        let names: Vec<&str> = sample.labels.iter().map(|(name, _)| name.as_str()).collect();
        anyhow::ensure!(names == CONTRACT, "{family} has the labels {names:?}");
        let values = sample.labels.iter().map(|(_, value)| value.clone()).collect();
        rows.insert(values, sample.value);
    }
    Ok(rows)
}

fn labels(
    person: &Person,
    channel: &Channel,
    id: &str,
    kind: &str,
    direction: &str,
) -> Result<Vec<String>> {
    let (role, transport) = (&person.role, &channel.transport);
    let (local, remote) = channel.pair()?;
    let codec = if kind == "audio" { "opus" } else { "VP8" };
    let values = [
        &transport.pid.to_string(),
        &role.room,
        &role.peer,
        &inert(&role.name),
        &role.user_agent,
        &transport.id,
        "udp",
        &local.to_string(),
        &remote.to_string(),
        id,
        kind,
        codec,
        direction,
    ];
    Ok(values.map(str::to_owned).to_vec())
}

/// Control characters of a stranger's text are shown as U+FFFD.
fn inert(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

fn byte_count(entries: &Value, kind: &str) -> f64 {
    total(entries, kind, "byteCount")
}

/// One of mediasoup's counts, of all encodings.
fn total(entries: &Value, kind: &str, name: &str) -> f64 {
    let entries = entries.as_array().into_iter().flatten();
    let ours = entries.filter(|entry| entry["type"] == kind);
    ours.filter_map(|entry| entry[name].as_f64()).sum()
}
