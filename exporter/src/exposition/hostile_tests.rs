//! Whatever servers and participants call themselves and their things: each series appears once, everything
//! can be read back, and it reads as it was meant.

use std::collections::BTreeSet;

use crate::exposition::strict::Scraped;
use crate::exposition::written::in_both;
use crate::exposition::{Scrape, Selection};
use crate::fixture::{self, Told};
use crate::labels::random::Random;
use crate::labels::{Geo, NamePolicy, Policy, Renewal};
use crate::ledger::{Settings, Update};
use crate::model::{MediaKind, Peer, Reading, StreamStats, Transport, TransportKind};

/// What breaks formats, terminals and pages, and what looks like a part of a scrape.
const PIECES: &[&str] = &[
    "\"",
    "\\",
    "\n",
    "\r",
    "\0",
    "\u{7f}",
    "\u{9b}",
    "\u{1b}[31m",
    "{",
    "}",
    "} 1\n",
    ",",
    "=",
    "\\n",
    "\\\"",
    "# EOF\n",
    "# HELP a b\n",
    "\",room_id=\"x",
    "\u{202e}",
    "\u{2066}",
    "\u{200f}",
    "\u{61c}",
    "\u{2028}",
    "\u{feff}",
    "\u{fffd}",
    "é",
    "\u{1f680}",
    "\u{301}",
    "a",
    " ",
    "<script>",
];

/// Bytes of the longest.
const LONGEST: usize = 1 << 20;

/// A text of random pieces; one in three differs from others behind the 128th character only, or there.
fn hostile(random: &mut Random) -> String {
    let piece = |random: &mut Random| PIECES[random.below(PIECES.len() as u64) as usize];
    match random.below(12) {
        0..4 => {
            let start = ["x", "\u{1f680}", "\"", "\\"][random.below(4) as usize];
            let length = [64, 127, 128, 129, 256][random.below(5) as usize];
            format!("{}{}", start.repeat(length), random.below(4))
        }
        4 if random.below(40) == 0 => piece(random).repeat(LONGEST),
        _ => (0..random.below(8)).map(|_| piece(random)).collect(),
    }
}

/// What a label shows of a text.
fn shown(text: &str, most: usize) -> String {
    let marks = ['\u{2028}', '\u{2029}', '\u{200e}', '\u{200f}', '\u{61c}', '\u{feff}'];
    let turns = ['\u{202a}', '\u{202b}', '\u{202c}', '\u{202d}', '\u{202e}'];
    let isolates = ['\u{2066}', '\u{2067}', '\u{2068}', '\u{2069}'];
    let acts = |c: char| {
        c.is_control() || marks.contains(&c) || turns.contains(&c) || isolates.contains(&c)
    };
    text.chars().take(most).map(|c| if acts(c) { '\u{fffd}' } else { c }).collect()
}

struct World {
    told: Told,
    scrape: Scrape,
    tick: u64,
    peers: Vec<Peer>,
    transports: Vec<Transport>,
    /// Bytes that were told of producers.
    bytes: u64,
}

impl World {
    fn new(people: NamePolicy, quiet: bool) -> Self {
        let settings = Settings { quiet, ..Settings::default() };
        let policy = Policy { people, ..Policy::default() };
        let mut told = Told::default();
        told.state.remove_peer(&fixture::peer("alice"));
        told.state.remove_room(&fixture::room("r1"));
        let scrape = Scrape::new(settings, policy, Geo::none());
        Self { told, scrape, tick: 0, peers: Vec::new(), transports: Vec::new(), bytes: 0 }
    }

    /// More people, each with a transport, a producer and a consumer.
    fn fill(&mut self, random: &mut Random) {
        for _ in 0..4 + random.below(6) {
            let peer = Peer {
                id: hostile(random).as_str().into(),
                source: fixture::SOURCE,
                room: Some(hostile(random).as_str().into()),
                display_name: hostile(random).into(),
                user_agent: hostile(random).into(),
            };
            self.peers.retain(|old| old.key() != peer.key());
            self.told.state.put_peer(peer.clone());
            self.equip(&peer, random);
            self.peers.push(peer);
        }
    }

    fn equip(&mut self, peer: &Peer, random: &mut Random) {
        let port = 1000 + self.transports.len() as u16;
        let id = hostile(random);
        if self.transports.iter().any(|old| old.id.as_str() == id) {
            return;
        }
        let mut transport = fixture::transport(&id, Some(&format!("192.0.2.1:{port}")), 40_000);
        transport.owner = Some(peer.key());
        transport.kind = TransportKind::Plain;
        transport.ice_state = Some(hostile(random).into());
        transport.tuples[0].local_address = hostile(random).into();
        self.told.state.put_transport(transport.clone());
        self.transports.push(transport);
        let ssrc = u32::from(port);
        let mut producer = fixture::producer(&hostile(random), &id, &[(ssrc, None)]);
        (producer.kind, producer.codec) = (MediaKind::Audio, hostile(random).into());
        let byte_count = 1 + random.below(1000);
        producer.encodings[0].stats = Some(StreamStats { byte_count, ..StreamStats::default() });
        self.bytes += byte_count;
        self.told.state.put_producer(producer);
        let mut consumer =
            fixture::consumer(&format!("{port}{}", hostile(random)), &id, &[(ssrc, None)]);
        (consumer.producer, consumer.codec) =
            (hostile(random).as_str().into(), hostile(random).into());
        self.told.state.put_consumer(consumer);
    }

    /// Both formats, read back.
    fn scrape(&mut self) -> Scraped {
        self.tick += 1;
        let (reading, state) = (Reading::default(), &self.told.state);
        let update = Update { tick: self.tick, reading: Some(&reading), state, sockets: None };
        self.scrape.update_for(update, Selection::ALL);
        in_both(&mut self.scrape)
    }

    /// What was told is what is read.
    fn check(&self, scraped: &Scraped) {
        let info = "mediasoup_peer_info";
        let labels = ["peer_id", "room_id", "display_name", "user_agent"];
        let found: BTreeSet<_> = scraped
            .find(info, &[])
            .into_iter()
            .map(|(map, _)| labels.map(|label| map[label].clone()))
            .collect();
        let expected: BTreeSet<_> = self
            .peers
            .iter()
            .map(|Peer { id, room, display_name, user_agent, .. }| {
                let room = room.as_ref().map_or("", |room| room.as_str());
                [
                    shown(id.as_str(), 128),
                    shown(room, 128),
                    shown(display_name, 64),
                    shown(user_agent, 256),
                ]
            })
            .collect();
        assert_eq!(found, expected);
        let rooms: BTreeSet<_> = expected.iter().map(|[_, room, ..]| room.as_str()).collect();
        let told = scraped.find("edumeet_peers", &[]);
        let told: BTreeSet<_> = told.iter().map(|(map, _)| map["room_id"].as_str()).collect();
        assert_eq!(told, rooms);
    }

    /// What holds however names are shown.
    fn check_sums(&self, scraped: &Scraped) {
        assert_eq!(scraped.sum("edumeet_peers"), self.peers.len() as f64);
        assert_eq!(scraped.sum("mediasoup_producer_byte_count_bytes"), self.bytes as f64);
        let whole: BTreeSet<_> = self.transports.iter().map(|it| it.id.as_str()).collect();
        let whole: BTreeSet<_> = whole.into_iter().filter(|id| shown(id, 128) == *id).collect();
        let told = scraped.find("mediasoup_transport_info", &[]);
        let told: BTreeSet<_> = told.iter().map(|(map, _)| map["transport_id"].as_str()).collect();
        assert_eq!(told, whole);
    }
}

#[test]
fn whatever_things_are_called_each_series_appears_once_and_reads_as_meant() {
    let mut random = Random(0x7e_a5e);
    for round in 0..60 {
        let mut world = World::new(NamePolicy::None, round % 4 == 0);
        for _ in 0..3 {
            world.fill(&mut random);
            let scraped = world.scrape();
            world.check(&scraped);
            world.check_sums(&scraped);
        }
    }
}

#[test]
fn pseudonyms_and_dropped_names_are_no_other() {
    let mut random = Random(0x9_0e7);
    for round in 0..60 {
        let people = match round % 3 {
            0 => NamePolicy::Drop,
            _ => NamePolicy::pseudonym(&[round as u8; 32]),
        };
        let mut world = World::new(people, round % 4 == 0);
        for period in 0..3 {
            world.fill(&mut random);
            if round % 3 == 2 {
                let other = NamePolicy::pseudonym(&[round as u8, period]);
                world.scrape.renew(Renewal::Keys(None, Some(other)));
            }
            let scraped = world.scrape();
            world.check_sums(&scraped);
            let names = scraped.samples.keys().flat_map(|(_, labels)| labels);
            for (label, value) in names {
                let is_name =
                    matches!(label.as_str(), "peer_id" | "room_id" | "display_name" | "user_agent");
                let is_hidden = value.is_empty()
                    || value.len() == 16 && value.bytes().all(|byte| byte.is_ascii_hexdigit());
                assert!(!is_name || is_hidden, "{label}={value:?}");
            }
        }
    }
}
