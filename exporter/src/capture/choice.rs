//! Whose packets are wanted, and which those are: what an exporter answers in, connections and SSRCs out.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use exporter_ebpf::abi::{TCP, UDP};

use crate::capture::frames::{Carried, Seen};
use crate::history::host;
use crate::model::Direction;
use crate::views::{self, Ends, Traffic};

/// Questions to an exporter at most.
const MOST_QUESTIONS: usize = 64;

/// Who is asked for: of each kind that has any, one must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Rooms' names.
    pub(super) rooms: Vec<String>,
    /// Peers' ids, or what they call themselves.
    pub(super) peers: Vec<String>,
    /// Far ends, as the exporter shows them.
    pub(super) ips: Vec<String>,
    /// Streams.
    pub(super) ssrcs: Vec<u32>,
}

/// Whose something is.
struct Who<'a> {
    room: &'a str,
    peer: &'a str,
    name: &'a str,
}

impl Wanted {
    /// Filters that together find them all (docs/views.md).
    ///
    /// # Errors
    /// There are too many.
    pub(super) fn filters(&self) -> anyhow::Result<Vec<String>> {
        // A peer's id and what it calls itself are two fields.
        let peers = self.peers.iter().flat_map(|it| [term("peer", it), term("name", it)]);
        let kinds = [
            self.rooms.iter().map(|it| term("room", it)).collect(),
            peers.collect(),
            self.ips.iter().map(|it| term("ip", it)).collect(),
            self.ssrcs.iter().map(|it| format!("ssrc:{it}")).collect::<Vec<_>>(),
        ];
        let mut filters = vec![String::new()];
        for terms in kinds.iter().filter(|terms| !terms.is_empty()) {
            let with = |filter: &String| {
                let longer = |term: &String| format!("{filter} {term}").trim().to_owned();
                terms.iter().map(longer).collect::<Vec<_>>()
            };
            filters = filters.iter().flat_map(with).collect();
        }
        anyhow::ensure!(
            filters.len() <= MOST_QUESTIONS,
            "{self}: {} combinations; capture fewer at once",
            filters.len()
        );
        filters.dedup();
        Ok(filters)
    }

    /// What an exporter cannot be asked for exactly is looked at again.
    fn has(&self, who: &Who<'_>) -> bool {
        let same = |one: &String, other: &str| one.to_lowercase() == other.to_lowercase();
        let room = self.rooms.is_empty() || self.rooms.iter().any(|it| same(it, who.room));
        let is_peer = |it: &String| same(it, who.peer) || same(it, who.name);
        room && (self.peers.is_empty() || self.peers.iter().any(is_peer))
    }

    fn has_connection(&self, ends: &Ends) -> bool {
        let Ends { room, peer, name, remote, .. } = ends;
        let is_there = |ip: &String| ip.eq_ignore_ascii_case(host(remote));
        let ip = self.ips.is_empty() || self.ips.iter().any(is_there);
        self.ssrcs.is_empty() && ip && self.has(&Who { room, peer, name })
    }

    /// Its address was asked for where there is one.
    fn has_stream(&self, stream: &views::Carried) -> bool {
        let views::Carried { ssrc, room, peer, name, .. } = stream;
        let ssrc = self.ssrcs.is_empty() || self.ssrcs.contains(ssrc);
        ssrc && self.has(&Who { room, peer, name })
    }
}

/// As on the command line.
impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut between = "";
        let mut put = |flag: &str, value: &dyn std::fmt::Debug| {
            let put = write!(f, "{between}--{flag} {value:?}");
            between = " ";
            put
        };
        for (flag, values) in [("room", &self.rooms), ("peer", &self.peers), ("ip", &self.ips)] {
            values.iter().try_for_each(|value| put(flag, value))?;
        }
        self.ssrcs.iter().try_for_each(|value| put("ssrc", value))
    }
}

/// A field that is that; of what quotes cannot hold together, a part of it somewhere.
fn term(field: &str, value: &str) -> String {
    if !value.contains('"') {
        return format!("{field}:\"{value}\"");
    }
    let longest = value.split('"').max_by_key(|part| part.len()).unwrap_or_default();
    if longest.is_empty() { String::new() } else { format!("\"{longest}\"") }
}

/// Transports of wanted streams whose connections nobody has told yet.
pub(super) fn unplaced(wanted: &Wanted, rows: &[Traffic]) -> BTreeSet<String> {
    let ends = rows.iter().flat_map(|row| &row.connections);
    let placed: BTreeSet<&str> = ends.map(|ends| &*ends.transport).collect();
    let streams = rows.iter().flat_map(|row| &row.streams);
    let wanted = streams.filter(|stream| wanted.has_stream(stream) && stream.by.is_none());
    let transports = wanted.map(|stream| &*stream.transport);
    let unplaced = transports.filter(|it| !it.is_empty() && !placed.contains(it));
    unplaced.map(str::to_owned).collect()
}

/// Far ends that are shown by a name.
pub(super) fn named(rows: &[Traffic]) -> BTreeSet<String> {
    let ends = rows.iter().flat_map(|row| {
        row.connections.iter().chain(row.streams.iter().filter_map(|stream| stream.by.as_ref()))
    });
    let unclear = ends.filter(|ends| ends.remote.parse::<SocketAddr>().is_err());
    let names = unclear.map(|ends| host(&ends.remote)).filter(|name| is_name(name));
    names.map(str::to_owned).collect()
}

fn is_name(host: &str) -> bool {
    let is_letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    host.contains('.') && host.chars().all(is_letter) && host.parse::<IpAddr>().is_err()
}

/// Names' addresses.
pub(super) type Names = HashMap<String, Vec<IpAddr>>;

/// Which packets are wanted, and what is said of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Choice {
    /// By protocol, local and far end.
    exact: HashMap<(u8, SocketAddr, SocketAddr), Flow>,
    /// By protocol and local end, where the far end is hidden.
    hidden: HashMap<(u8, SocketAddr), Flow>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Flow {
    /// Where all packets are wanted: what is said of those that are no known stream's.
    whole: Option<Arc<str>>,
    /// What is said of streams.
    streams: HashMap<u32, Arc<str>>,
}

/// A packet that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Match {
    /// Whose it is.
    pub(super) says: Arc<str>,
    /// Seen from this host.
    pub(super) direction: Direction,
    /// A server tells of its SSRC.
    pub(super) is_known: bool,
}

impl Choice {
    /// Of all that was answered.
    pub(super) fn of(wanted: &Wanted, rows: &[Traffic], names: &Names) -> Self {
        let mut choice = Self::default();
        let mut by_transport: HashMap<&str, Vec<&Ends>> = HashMap::new();
        for ends in rows.iter().flat_map(|row| &row.connections) {
            by_transport.entry(&ends.transport).or_default().push(ends);
            if wanted.has_connection(ends) {
                choice.flows(ends, names, |flow| flow.whole = Some(says_of(ends)));
            }
        }
        for stream in rows.iter().flat_map(|row| &row.streams) {
            let carriers = by_transport.get(&*stream.transport);
            let carriers = carriers.filter(|_| !stream.transport.is_empty());
            let carriers = carriers.into_iter().flatten().copied().chain(&stream.by);
            let says: Arc<str> = says_of_stream(stream).into();
            let is_wanted = wanted.has_stream(stream);
            for ends in carriers {
                choice.flows(ends, names, |flow| {
                    // In what is wanted as a whole, everybody's are told apart.
                    if is_wanted || flow.whole.is_some() {
                        flow.streams.insert(stream.ssrc, says.clone());
                    }
                });
            }
        }
        choice.exact.retain(|_, flow| flow.whole.is_some() || !flow.streams.is_empty());
        choice.hidden.retain(|_, flow| !flow.streams.is_empty());
        choice
    }

    fn flows(&mut self, ends: &Ends, names: &Names, mut change: impl FnMut(&mut Flow)) {
        let Ends { protocol, local, remote, .. } = ends;
        let proto = if protocol == "tcp" { TCP } else { UDP };
        let Ok(local) = local.parse::<SocketAddr>().map(plain) else { return };
        if let Ok(remote) = remote.parse::<SocketAddr>() {
            return change(self.exact.entry((proto, local, plain(remote))).or_default());
        }
        let port = remote.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        match (names.get(host(remote)), port) {
            (Some(addresses), Some(port)) if !addresses.is_empty() => {
                for address in addresses {
                    let remote = plain(SocketAddr::new(*address, port));
                    change(self.exact.entry((proto, local, remote)).or_default());
                }
            }
            _ => change(self.hidden.entry((proto, local)).or_default()),
        }
    }

    /// Nobody is wanted.
    pub(super) fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.hidden.is_empty()
    }

    /// Connections, and streams whose far end is hidden.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.exact.len(), self.hidden.values().map(|flow| flow.streams.len()).sum())
    }

    /// Local ports of what is wanted.
    pub(super) fn ports(&self) -> BTreeSet<u16> {
        let exact = self.exact.keys().map(|(_, local, _)| local.port());
        exact.chain(self.hidden.keys().map(|(_, local)| local.port())).collect()
    }

    /// Whether a packet is wanted, and what is said of it.
    pub(super) fn find(&self, seen: &Seen) -> Option<Match> {
        let Seen { proto, source, destination, carried, .. } = seen;
        let (source, destination) = (plain(*source), plain(*destination));
        let ways =
            [(Direction::Receive, destination, source), (Direction::Send, source, destination)];
        ways.into_iter().find_map(|(direction, local, remote)| {
            let exact = self.exact.get(&(*proto, local, remote));
            let flow = exact.or_else(|| self.hidden.get(&(*proto, local)))?;
            let known = match carried {
                Carried::Rtp(ssrc) => flow.streams.get(ssrc),
                _ => None,
            };
            // Where the far end is hidden, others may have the same local one.
            let whole = exact.and_then(|flow| flow.whole.as_ref());
            let says = known.or(whole)?.clone();
            Some(Match { says, direction, is_known: known.is_some() })
        })
    }
}

/// IPv4, where it is written as IPv6.
fn plain(end: SocketAddr) -> SocketAddr {
    SocketAddr::new(end.ip().to_canonical(), end.port())
}

fn says_of(ends: &Ends) -> Arc<str> {
    let Ends { room, peer, name, transport, .. } = ends;
    let words = [("room", &**room), ("peer", peer), ("name", name), ("transport", transport)];
    say(&words).into()
}

fn says_of_stream(stream: &views::Carried) -> String {
    let views::Carried { room, peer, name, transport, id, role, kind, .. } = stream;
    let role = if role.is_empty() { "id" } else { role };
    let words = [("room", &**room), ("peer", peer), ("name", name), ("transport", transport)];
    say(&[&words[..], &[(role, id), ("kind", kind)]].concat())
}

/// Names are strangers' words, so they stand in quotes. What is not known is not said.
fn say(words: &[(&str, &str)]) -> String {
    let mut says = String::new();
    for (what, word) in words.iter().filter(|(_, word)| !word.is_empty()) {
        let _ = write!(says, "{what}={word:?} ");
    }
    says
}

/// What stands beside a packet.
pub(super) fn comment(found: &Match, carried: Carried) -> String {
    let Match { says, direction, .. } = found;
    let direction = match direction {
        Direction::Receive => "received",
        Direction::Send => "sent",
    };
    let what = match carried {
        Carried::Rtp(ssrc) => format!("ssrc={ssrc}"),
        Carried::Rtcp => "rtcp".to_owned(),
        Carried::Stun => "stun".to_owned(),
        Carried::Dtls => "dtls".to_owned(),
        Carried::Other => "other".to_owned(),
    };
    format!("{says}{what} {direction}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::frames::{look, tests as made};
    use crate::host::interfaces::Layer;

    const LOCAL: &str = "198.51.100.1:40000";
    const REMOTE: &str = "192.0.2.7:5000";

    fn ends(remote: &str) -> Ends {
        Ends {
            protocol: "udp".into(),
            local: LOCAL.into(),
            remote: remote.into(),
            transport: "t1".into(),
            room: "Lecture 7".into(),
            peer: "bob".into(),
            name: "Bob \"B\"\n".into(),
        }
    }

    fn stream(ssrc: u32) -> views::Carried {
        let Ends { transport, room, peer, name, .. } = ends(REMOTE);
        let (id, role, kind) = ("p1".to_owned(), "producer".to_owned(), "audio".to_owned());
        views::Carried { ssrc, transport, id, role, kind, room, peer, name, by: None }
    }

    fn rows(remote: &str, ssrcs: &[u32]) -> Vec<Traffic> {
        let streams = ssrcs.iter().copied().map(stream).collect();
        vec![Traffic { connections: vec![ends(remote)], streams, more: false }]
    }

    fn wanted(room: &str, peer: &str, ip: &str, ssrc: Option<u32>) -> Wanted {
        let list = |it: &str| (!it.is_empty()).then(|| it.to_owned()).into_iter().collect();
        let (rooms, peers, ips) = (list(room), list(peer), list(ip));
        Wanted { rooms, peers, ips, ssrcs: ssrc.into_iter().collect() }
    }

    fn rtp(ssrc: u32) -> Seen {
        let frame = made::udp(&made::rtp(ssrc, 0, None));
        look(&frame, Layer::Ethernet, frame.len() as u32).unwrap()
    }

    fn stun() -> Seen {
        let frame = made::udp(&[&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[1; 12]].concat());
        look(&frame, Layer::Ethernet, frame.len() as u32).unwrap()
    }

    fn said(choice: &Choice, seen: &Seen) -> Option<String> {
        choice.find(seen).map(|found| comment(&found, seen.carried))
    }

    #[test]
    fn what_is_wanted_is_asked_for() {
        let check = |wanted: &Wanted, expected: &[&str]| {
            assert_eq!(wanted.filters().unwrap(), expected);
        };
        let two = |name: &str| [format!("peer:\"{name}\""), format!("name:\"{name}\"")];
        let [peer, name] = two("bob");
        check(&wanted("", "bob", "", None), &[&peer, &name]);
        check(
            &wanted("Lecture 7", "bob", "", None),
            &[&format!("room:\"Lecture 7\" {peer}"), &format!("room:\"Lecture 7\" {name}")],
        );
        check(&wanted("", "", "fd77::1", Some(5)), &["ip:\"fd77::1\" ssrc:5"]);
        check(&wanted("attic \"2\" \\", "", "", None), &["\"attic \""]);
        let many = Wanted { rooms: vec!["a".into(); 9], ssrcs: vec![1; 9], ..Wanted::default() };
        assert!(many.filters().is_err());
        let said = wanted("Lecture 7", "bob", "", Some(5)).to_string();
        assert_eq!(said, "--room \"Lecture 7\" --peer \"bob\" --ssrc 5");
    }

    #[test]
    fn all_packets_of_a_chosen_connection_are_wanted() {
        let rows = rows(REMOTE, &[77]);
        let check = |wanted: Wanted, expected: [bool; 3]| {
            let choice = Choice::of(&wanted, &rows, &Names::new());
            let found = [rtp(77), rtp(78), stun()].map(|seen| choice.find(&seen).is_some());
            assert_eq!(found, expected, "{wanted}");
        };
        check(wanted("", "BOB", "", None), [true; 3]);
        check(wanted("Lecture 7", "", "", None), [true; 3]);
        check(wanted("", "", "192.0.2.7", None), [true; 3]);
        // Only that stream.
        check(wanted("", "bob", "", Some(77)), [true, false, false]);
        check(wanted("", "", "", Some(78)), [false; 3]);
        check(wanted("", "ada", "", None), [false; 3]);
        check(wanted("Lecture 8", "bob", "", None), [false; 3]);
    }

    #[test]
    fn others_at_the_same_port_are_not() {
        let elsewhere =
            Choice::of(&wanted("", "bob", "", None), &rows("192.0.2.8:5000", &[77]), &Names::new());
        assert_eq!(elsewhere.find(&rtp(77)), None);
        assert_eq!(elsewhere.ports(), BTreeSet::from([40_000]));
    }

    #[test]
    fn comments_say_whose_it_is_and_which_way_it_goes() {
        let choice = Choice::of(&wanted("", "bob", "", None), &rows(REMOTE, &[77]), &Names::new());
        let whose = r#"room="Lecture 7" peer="bob" name="Bob \"B\"\n" transport="t1" "#;
        let producer = format!("{whose}producer=\"p1\" kind=\"audio\" ssrc=77 received");
        assert_eq!(said(&choice, &rtp(77)), Some(producer));
        assert_eq!(said(&choice, &rtp(78)), Some(format!("{whose}ssrc=78 received")));
        let mut answer = stun();
        std::mem::swap(&mut answer.source, &mut answer.destination);
        assert_eq!(said(&choice, &answer), Some(format!("{whose}stun sent")));
    }

    #[test]
    fn behind_a_hidden_far_end_only_known_streams_are_wanted() {
        for remote in ["192.0.2.0/24", "", "xx.xx.2.7"] {
            let rows = rows(remote, &[77]);
            let choice = Choice::of(&wanted("", "bob", "", None), &rows, &Names::new());
            let found = [rtp(77), rtp(78), stun()].map(|seen| choice.find(&seen).is_some());
            assert_eq!(found, [true, false, false], "{remote}");
        }
    }

    #[test]
    fn a_name_stands_for_its_addresses() {
        let rows = rows("host.example:5000", &[]);
        assert_eq!(named(&rows), BTreeSet::from(["host.example".to_owned()]));
        let names = Names::from([("host.example".into(), vec!["192.0.2.7".parse().unwrap()])]);
        let choice = Choice::of(&wanted("", "bob", "", None), &rows, &names);
        assert!(choice.find(&stun()).is_some());
        assert!(named(&self::rows("192.0.2.0/24", &[])).is_empty());
    }

    #[test]
    fn connections_of_single_streams_are_asked_for() {
        let mut rows = rows(REMOTE, &[77]);
        let connections = std::mem::take(&mut rows[0].connections);
        let wanted = wanted("", "", "", Some(77));
        assert_eq!(unplaced(&wanted, &rows), BTreeSet::from(["t1".to_owned()]));
        rows.push(Traffic { connections, ..Traffic::default() });
        assert!(unplaced(&wanted, &rows).is_empty());
        assert!(Choice::of(&wanted, &rows, &Names::new()).find(&rtp(77)).is_some());
        // A stray one comes with its connection.
        let by = Some(Ends { transport: String::new(), ..ends(REMOTE) });
        let stray = views::Carried { ssrc: 9, by, ..views::Carried::default() };
        let rows = [Traffic { streams: vec![stray], ..Traffic::default() }];
        let wanted = Wanted { ssrcs: vec![9], ..Wanted::default() };
        assert!(Choice::of(&wanted, &rows, &Names::new()).find(&rtp(9)).is_some());
    }
}
