//! What strangers send, from arbitrary bytes: each function takes an input in as the exporter would and panics where
//! something does not hold. cargo-fuzz calls them (`fuzz/`); the tests here call them with the committed corpora, and with
//! inputs made of these, so that they run with every change and without a nightly compiler.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;

use anyhow::bail;
use exporter_ebpf::abi::{RECEIVE, SEND};
use exporter_ebpf::packet::{self, Bytes, Link, Parsed, View};
use exporter_ebpf::ports::PortSet;
use exporter_ebpf::rtp::{self, Kind, Within};

use crate::capture;
use crate::exposition::strict::Scraped;
use crate::exposition::written::in_both;
use crate::exposition::{Scrape, Selection};
use crate::history::{self, History, Spans};
use crate::host::interfaces::Layer;
use crate::join;
use crate::labels::{Geo, Policy};
use crate::ledger::{Settings, Update};
use crate::model::{Direction, Peer, Proto, Reading, SourceId, Tuple};
use crate::observer::protocol;
use crate::state::State;
use crate::views::{self, Asked, Document, Hidden, Setting, Thresholds};
use crate::web;

/// A target's name, and what takes its input in.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 6] = [
    ("packet", packet),
    ("protocol", protocol),
    ("exposition", exposition),
    ("web_config", web_config),
    ("join", join),
    ("view", view),
];

const SOURCE: SourceId = SourceId(0);

#[derive(Clone, Copy)]
struct EveryPort;

impl PortSet for EveryPort {
    fn contains(self, _: u8, _: u16) -> bool {
        true
    }
}

/// A frame: the first byte says what link it comes from and in which direction it goes.
pub fn packet(data: &[u8]) {
    let Some((&how, frame)) = data.split_first() else { return };
    let link = [Link::Ethernet, Link::Raw, Link::Wrapped][usize::from(how >> 1) % 3];
    let direction = if how & 1 == 0 { RECEIVE } else { SEND };
    captured(usize::from(how >> 1) % 3, frame);
    let view = View { link, direction, ports: EveryPort, frame: frame.len() as u32 };
    let bytes = Bytes::new(frame);
    let (payload, length) = match packet::parse(bytes, &view) {
        Ok(Parsed::V4(packet)) => (packet.payload, packet.length),
        Ok(Parsed::V6(packet)) => (packet.payload, packet.length),
        Err(skip) => return assert!(skip.bytes <= u32::from(u16::MAX) + frame.len() as u32),
    };
    // An IP header and a transport's lie before it.
    assert!(payload >= 20 + 8, "the payload begins at {payload}");
    assert!(length <= u32::from(u16::MAX), "the payload has {length} bytes");
    let content = rtp::classify(&Within { frame: bytes, offset: payload }, length);
    if content.kind == Kind::Rtp {
        assert!(length >= 12, "RTP of {length} bytes");
        let header = &frame[payload..payload + 12];
        assert_eq!(header[0] >> 6, 2, "RTP of another version");
        let ssrc = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
        assert_eq!(content.rtp.ssrc, ssrc);
    }
}

/// What is kept of a frame is there, however little of it was copied.
fn captured(layer: usize, frame: &[u8]) {
    let layer = [Layer::Ethernet, Layer::Raw, Layer::Wrapped][layer];
    for copied in [frame.len(), frame.len() / 2, frame.len().min(60)] {
        let kept = capture::kept(&frame[..copied], layer, frame.len() as u32);
        assert!(kept.is_none_or(|kept| (20 + 8..=copied).contains(&kept)), "{kept:?} of {copied}");
    }
}

/// Lines of a server, and what is then exported.
pub fn protocol(data: &[u8]) {
    scraped(&told(data), &Reading::default());
}

fn told(data: &[u8]) -> State {
    let mut state = State::default();
    for line in data.split(|byte| *byte == b'\n') {
        match protocol::decode(line) {
            Ok(event) => state.apply(SOURCE, event),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    state
}

/// Texts between zero bytes, as what people and servers call things.
pub fn exposition(data: &[u8]) {
    let mut state = State::default();
    let texts: Vec<_> = data.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    for words in texts.chunks(4) {
        let word = |at: usize| words.get(at).map_or("", |word| &**word);
        state.put_peer(Peer {
            id: word(0).into(),
            source: SOURCE,
            room: Some(word(1).into()),
            display_name: word(2).into(),
            user_agent: word(3).into(),
        });
    }
    let scraped = scraped(&state, &Reading::default());
    // Who is called the same in all labels is one series, and nobody is lost.
    let ids: HashSet<_> = texts.chunks(4).map(|words| &words[0]).collect();
    assert_eq!(scraped.sum("edumeet_peers"), ids.len() as f64);
}

/// Both formats, read back strictly: each series once, each family in one piece.
fn scraped(state: &State, reading: &Reading) -> Scraped {
    let mut scrape = Scrape::new(Settings::default(), Policy::default(), Geo::none());
    let update = Update { tick: 1, reading: Some(reading), state, sockets: None };
    scrape.update_for(update, Selection::ALL);
    in_both(&mut scrape)
}

/// A web configuration, on a host where no file that it names is there.
pub fn web_config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let read = &mut |_| bail!("no such file");
    if let Err(error) = web::Settings::new(&text, Path::new("/etc"), read) {
        assert!(!format!("{error:#}").trim().is_empty(), "refused without a word");
    }
}

/// Lines of a server, and streams that may be its own: the first bytes are ports and an SSRC.
pub fn join(data: &[u8]) {
    let Some((numbers, lines)) = data.split_first_chunk::<8>() else { return };
    let state = told(lines);
    let [a, b, c, d, ssrc @ ..] = *numbers;
    let (local, remote) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let ssrc = u32::from_be_bytes(ssrc);
    for proto in [Proto::Udp, Proto::Tcp] {
        let ends = [("192.0.2.1", "198.51.100.1"), ("2001:db8::1", "2001:db8::2")];
        for (here, there) in
            ends.map(|(here, there)| (here.parse::<IpAddr>(), there.parse::<IpAddr>()))
        {
            let (Ok(here), Ok(there)) = (here, there) else { continue };
            let tuple = Tuple::new(proto, (here, local).into(), (there, remote).into());
            let holder = join::flow(&state, &tuple);
            let transport = holder.as_ref().map(|holder| (holder.transport, holder.closed));
            for direction in [Direction::Receive, Direction::Send] {
                let claim = join::stream(&state, transport, direction, ssrc);
                let level = match (transport.is_some(), claim.role.is_some()) {
                    (false, _) => join::Level::Nobody,
                    (true, false) => join::Level::Transport,
                    (true, true) => join::Level::Owner,
                };
                assert_eq!(claim.level, level, "{claim:?}");
            }
            // Whoever else asks gets the same answer.
            assert_eq!(
                join::flow(&state, &tuple).map(|it| it.transport.clone()),
                transport.map(|it| it.0.clone())
            );
        }
    }
}

/// A line with a page and a query, then lines of a server: what somebody asks of what a server told.
pub fn view(data: &[u8]) {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let asked = String::from_utf8_lossy(&data[..end]).into_owned();
    let (path, query) = asked.split_once('?').unwrap_or((&asked, ""));
    let wanted = match views::asked(path, Some(query)) {
        Some(Asked::View(wanted)) => wanted,
        Some(Asked::Unclear { body, .. }) => {
            return assert!(!body.is_empty(), "refused without a word");
        }
        Some(Asked::Asset(..)) | None => return,
    };
    let mut scrape = Scrape::new(Settings::default(), Policy::default(), Geo::none());
    let (state, reading) = (told(data.get(end + 1..).unwrap_or_default()), Reading::default());
    let spans = Spans { fold: 2, short: 2, long: 2 };
    let mut history = History::new(history::Settings { spans, room: 1 << 20, keeps_lives: false });
    for tick in 1..=3 {
        let update = Update { tick, reading: Some(&reading), state: &state, sockets: None };
        scrape.update_for(update, Selection::ALL);
        history.record(scrape.ledger(), tick * 20_000);
    }
    let setting = Setting {
        host: "fuzzed".into(),
        thresholds: Thresholds::default(),
        hidden: Hidden::default(),
    };
    let answer = views::answer(&history.lend(1_700_000_000_000), &setting, &wanted);
    let text = String::from_utf8(answer.body).expect("an answer is text");
    match answer.content_type {
        "application/json" => {
            serde_json::from_str::<Document>(&text).expect("it is the document that is described");
        }
        html if html.starts_with("text/html") => {
            assert_eq!(text.matches("<script").count(), 1, "a script that is not ours");
            assert_eq!(text.matches("<table").count(), text.matches("</table>").count());
        }
        _ => assert!(text.lines().all(|line| !line.starts_with(['=', '@'])), "a formula"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labels::random::Random;

    /// Inputs that are made of each target's corpus.
    const MADE: usize = 1_500;
    /// Longer ones are cut.
    const LONGEST: usize = 16 << 10;

    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
        let files = std::fs::read_dir(&folder)
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        files.sort();
        files.into_iter().map(|file| std::fs::read(file).unwrap()).collect()
    }

    /// Some bytes changed, taken out, doubled, or taken from another input.
    fn mutate(input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
        for _ in 0..1 + random.below(4) {
            let at = random.below(input.len() as u64 + 1) as usize;
            let length = (random.below(24) as usize).min(input.len() - at);
            match random.below(6) {
                0 if at < input.len() => input[at] ^= 1 << random.below(8),
                1 if at < input.len() => input[at] = random.next() as u8,
                2 => drop(input.drain(at..at + length)),
                3 => {
                    let piece = input[at..at + length].to_vec();
                    input.splice(at..at, piece);
                }
                4 if !other.is_empty() => {
                    let from = random.below(other.len() as u64) as usize;
                    let to = (from + 1 + random.below(64) as usize).min(other.len());
                    input.splice(at..at, other[from..to].iter().copied());
                }
                _ => input.truncate(at),
            }
        }
        input.truncate(LONGEST);
    }

    fn hold(target: &str) {
        let (_, take) = TARGETS.into_iter().find(|(name, _)| *name == target).unwrap();
        let corpus = corpus(target);
        assert!(!corpus.is_empty(), "no corpus for {target}");
        let mut random = Random(0xf0_22);
        corpus.iter().for_each(|input| take(input));
        for _ in 0..MADE {
            let [one, other] =
                [(); 2].map(|()| &corpus[random.below(corpus.len() as u64) as usize]);
            let mut input = one.clone();
            mutate(&mut input, other, &mut random);
            take(&input);
        }
    }

    #[test]
    fn packets_hold() {
        hold("packet");
    }

    #[test]
    fn lines_hold() {
        hold("protocol");
    }

    #[test]
    fn texts_hold() {
        hold("exposition");
    }

    #[test]
    fn web_configurations_hold() {
        hold("web_config");
    }

    #[test]
    fn views_hold() {
        hold("view");
    }

    #[test]
    fn joins_hold() {
        hold("join");
    }
}
