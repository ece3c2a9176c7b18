//! What is known of those whose traffic is kept: transports, producers and consumers, peers.
//!
//! The ledger's label text comes in, and nothing else: what a privacy policy keeps from the metrics never gets
//! here. Facts of who has gone stay as long as somebody's traffic is kept.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use foldhash::HashMap;

use crate::history::drops::Drops;
use crate::history::lives::Ended;
use crate::history::track::{Connection, Whose};
use crate::labels::block;
use crate::ledger::{Gauges, Ledger, Object};
use crate::texts::Texts;

/// A transport, as `mediasoup_transport_info` has it. Empty is what is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transport {
    /// Its id.
    pub id: Arc<str>,
    /// `webrtc`, `plain`, `pipe`, `direct`.
    pub kind: Arc<str>,
    /// Its room, or the session.
    pub room: Arc<str>,
    /// Whose it is.
    pub peer: Arc<str>,
    /// `udp` or `tcp`.
    pub proto: Arc<str>,
    /// The far end as it may be shown, with its port.
    pub remote: Arc<str>,
    /// ICE's state.
    pub ice: Arc<str>,
    /// DTLS' state.
    pub dtls: Arc<str>,
    /// Where a database places it.
    pub country: Arc<str>,
    /// Its network's number.
    pub asn: Arc<str>,
    /// Its network's name.
    pub as_org: Arc<str>,
}

/// A producer or a consumer, or what a stream has that is nobody's. Empty is what is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// Its transport's id.
    pub transport: Arc<str>,
    /// Its id.
    pub id: Arc<str>,
    /// Whose it is.
    pub peer: Arc<str>,
    /// Its room, or the session.
    pub room: Arc<str>,
    /// `audio` or `video`.
    pub kind: Arc<str>,
    /// Its codec.
    pub codec: Arc<str>,
    /// The id of the producer that is consumed; empty for a producer.
    pub consumed: Arc<str>,
}

/// A subject as it is now.
#[derive(Clone, Debug)]
pub struct Known {
    /// What does not change from step to step.
    pub subject: Arc<Subject>,
    /// It was there at the last step.
    pub open: bool,
    /// It is a consumer.
    pub is_consumer: bool,
    /// When it was first seen, milliseconds since the exporter began.
    pub since: u64,
    pub(super) gauges: Gauges,
    /// Packets that the far side reported lost since the last step; taken by the first stream that asks.
    pub(super) lost: i64,
    source: [Arc<str>; 3],
}

impl Known {
    /// Of whom nothing is known yet but what gauges say.
    fn new(is_consumer: bool, gauges: Gauges, since: u64) -> Self {
        let (subject, source) = Default::default();
        Self { subject, open: false, is_consumer, since, gauges, lost: 0, source }
    }

    /// A server told of it, rather than only a stream's labels.
    pub fn is_told(&self) -> bool {
        self.source.iter().any(|text| !text.is_empty())
    }

    /// Its own, or its producer's, side has stopped it.
    pub fn paused(&self) -> bool {
        self.gauges.paused
    }
}

/// A transport, and whether it is there.
#[derive(Clone, Debug)]
pub struct Station {
    /// What it is.
    pub transport: Arc<Transport>,
    /// It was there at the last step.
    pub open: bool,
    /// When it was first seen, milliseconds since the exporter began.
    pub since: u64,
    /// Some packet of it was counted, or its end was told of without.
    pub(super) is_used: bool,
    /// Its labels.
    source: Arc<str>,
}

/// Everything that is known.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// By id.
    pub stations: HashMap<Arc<str>, Station>,
    /// By the labels that producers, consumers and their streams begin with.
    pub subjects: HashMap<Arc<str>, Known>,
    /// What peers call themselves, by room and id.
    pub names: HashMap<PeerKey, Arc<str>>,
    /// Peers that a server told of at the last step, and since when, milliseconds since the exporter began: they
    /// need not have a transport yet.
    pub present: HashMap<PeerKey, u64>,
    /// What the servers' sockets dropped.
    pub drops: Drops,
}

impl Facts {
    /// Whether a server told of something, and whether it is there. Of a connection: whether its transport has it.
    pub(super) fn is_told(&self, whose: &Whose) -> (bool, bool) {
        match whose {
            Whose::Stream { subject, .. } => match self.subjects.get(subject) {
                // Who came and left between two steps is known by the ids alone.
                Some(known) => (known.is_told() || !known.subject.id.is_empty(), known.open),
                None => (false, false),
            },
            Whose::Connection(connection) => match self.stations.get(&connection.transport) {
                Some(station) if station.open => {
                    let has_it = station.transport.remote == connection.remote;
                    (has_it, has_it)
                }
                _ => (!connection.transport.is_empty(), false),
            },
        }
    }
}

impl Facts {
    /// It goes through a pipe: what a peer sent is in it once more.
    pub fn is_piped(&self, subject: &Subject) -> bool {
        self.stations.get(&subject.transport).is_some_and(Station::is_pipe)
    }

    /// Transports that are gone, and on which no packet was counted, each once.
    pub(super) fn take_unused(&mut self, now: u64, all: bool) -> impl Iterator<Item = Ended> {
        self.stations.values_mut().filter_map(move |station| {
            let is_unused = !station.is_used && (all || !station.open);
            station.is_used |= is_unused;
            // Nothing of a direct one ever goes over a network.
            let is_ended = is_unused && &*station.transport.kind != "direct";
            is_ended.then(|| station.end_unused(now))
        })
    }
}

impl Station {
    /// It leads to another router, on this host or another one.
    pub fn is_pipe(&self) -> bool {
        &*self.transport.kind == "pipe"
    }

    fn end_unused(&self, now: u64) -> Ended {
        let Transport { id, proto, remote, .. } = &*self.transport;
        let (transport, proto, remote) = (id.clone(), proto.clone(), remote.clone());
        let connection = Connection { transport, proto, remote, ..Connection::default() };
        Ended {
            whose: Whose::Connection(Arc::new(connection)),
            carrier: None,
            received: None,
            sent: None,
            told: true,
            first: self.since,
            last: now,
        }
    }
}

/// Room and peer.
pub type PeerKey = (Arc<str>, Arc<str>);

/// Takes facts from the ledger.
#[derive(Debug, Default)]
pub(super) struct Gatherer {
    texts: Texts,
    /// By their labels.
    peers: HashMap<Arc<str>, PeerKey>,
}

impl Gatherer {
    /// Takes in what the ledger knows at this step.
    pub(super) fn gather(&mut self, ledger: &Ledger, facts: &mut Facts, now: u64) {
        let objects = &ledger.objects;
        // What closed is shown for a while, and is not there any more.
        let tick = objects.tick;
        facts.stations.values_mut().for_each(|station| station.open = false);
        for series in objects.transports.iter().filter(|it| it.is_seen(tick)) {
            if let Some(labels) = &series.values.labels {
                self.take_transport(labels, facts, now);
            }
        }
        facts.subjects.values_mut().for_each(|known| known.open = false);
        for series in objects.producers.iter().filter(|it| it.is_seen(tick)) {
            self.take_object(&series.values, false, facts, now);
        }
        for series in objects.consumers.iter().filter(|it| it.is_seen(tick)) {
            self.take_object(&series.values, true, facts, now);
        }
        let mut present = HashMap::default();
        for series in objects.peer_infos.iter() {
            let labels = &series.labels;
            if !self.peers.contains_key(labels) {
                let (peer, name) = self.texts.peer(labels);
                facts.names.extend(name.map(|name| (peer.clone(), name)));
                self.peers.insert(labels.clone(), peer);
            }
            if series.is_seen(tick) {
                let peer = &self.peers[labels];
                let since = facts.present.get(peer).copied().unwrap_or(now);
                present.insert(peer.clone(), since);
            }
        }
        facts.present = present;
    }

    /// Forgets which peers' names are known: they are taken in anew.
    pub(super) fn forget_peers(&mut self) {
        self.peers.clear();
    }

    fn take_transport(&mut self, labels: &Arc<str>, facts: &mut Facts, now: u64) {
        let id = block::parse(labels).next().map(|(_, id)| self.texts.keep(&id));
        let id = id.unwrap_or_default();
        let known = facts.stations.get_mut(&id);
        if let Some(known) = known {
            known.open = true;
            if known.source != *labels {
                known.source = labels.clone();
                known.transport = Arc::new(self.texts.transport(labels));
            }
            return;
        }
        let transport = Arc::new(self.texts.transport(labels));
        let (source, is_used) = (labels.clone(), false);
        let station = Station { transport, open: true, since: now, is_used, source };
        facts.stations.insert(id, station);
    }

    fn take_object(&mut self, object: &Object, is_consumer: bool, facts: &mut Facts, now: u64) {
        let Object { ids, who, media, consumed, gauges, .. } = object;
        let source = [who, media, consumed];
        let first = Gauges { packets_lost: Some(0), ..*gauges };
        let known = facts.subjects.entry(ids.clone());
        let known = known.or_insert_with(|| Known::new(is_consumer, first, now));
        if !known.source.iter().zip(source).all(|(old, new)| old == new) {
            known.source = source.map(Arc::clone);
            known.subject = Arc::new(self.texts.subject(&[ids, who, media], consumed));
        }
        let grown = |before: Option<i64>| {
            let (before, after) = (before.unwrap_or_default(), gauges.packets_lost);
            after.map_or(0, |after| after.saturating_sub(before))
        };
        known.lost = if is_consumer { grown(known.gauges.packets_lost) } else { 0 };
        let packets_lost = gauges.packets_lost.or(known.gauges.packets_lost);
        (known.open, known.gauges) = (true, Gauges { packets_lost, ..*gauges });
    }

    /// A subject that only a stream's labels speak of.
    pub(super) fn stray(&mut self, ids: &Arc<str>, is_consumer: bool, now: u64) -> Known {
        let subject = Arc::new(self.texts.subject(&[ids], &Arc::default()));
        Known { subject, ..Known::new(is_consumer, Gauges::default(), now) }
    }

    /// One text for all who have it.
    pub(super) fn share(&mut self, text: &str) -> Arc<str> {
        self.texts.keep(text)
    }
}

impl Texts {
    fn keep(&mut self, text: &str) -> Arc<str> {
        let mut text = text.into();
        self.share(&mut text);
        text
    }

    fn transport(&mut self, labels: &str) -> Transport {
        let mut transport = Transport::default();
        for (name, value) in block::parse(labels) {
            let field = match name {
                "transport_id" => &mut transport.id,
                "kind" => &mut transport.kind,
                "room_id" => &mut transport.room,
                "peer_id" => &mut transport.peer,
                "proto" => &mut transport.proto,
                "remote_addr" => &mut transport.remote,
                "ice_state" => &mut transport.ice,
                "dtls_state" => &mut transport.dtls,
                "country" => &mut transport.country,
                "asn" => &mut transport.asn,
                "as_org" => &mut transport.as_org,
                _ => continue,
            };
            *field = self.keep(&value);
        }
        transport
    }

    fn subject(&mut self, labels: &[&Arc<str>], consumed: &Arc<str>) -> Subject {
        let mut subject = Subject::default();
        for (name, value) in labels.iter().flat_map(|labels| block::parse(labels)) {
            let field = match name {
                "transport_id" => &mut subject.transport,
                "id" => &mut subject.id,
                "peer_id" => &mut subject.peer,
                "room_id" => &mut subject.room,
                "kind" => &mut subject.kind,
                "codec" => &mut subject.codec,
                _ => continue,
            };
            *field = self.keep(&value);
        }
        subject.consumed = consumed.clone();
        subject
    }

    /// Room and peer out of a peer's labels, and the name, if it has one.
    fn peer(&mut self, labels: &str) -> (PeerKey, Option<Arc<str>>) {
        let mut find = |wanted: &str| {
            let found = block::parse(labels).find(|(name, _)| *name == wanted);
            found.map(|(_, value)| self.keep(&value)).unwrap_or_default()
        };
        let [room, peer, name] = ["room_id", "peer_id", "display_name"].map(&mut find);
        ((room, peer), Some(name).filter(|name| !name.is_empty()))
    }
}

/// The address of a far end, where it may be shown as a number: not a name, nor a pseudonym without digits.
pub(super) fn address(remote: &str) -> Option<IpAddr> {
    let whole = remote.parse::<SocketAddr>().map(|remote| remote.ip());
    whole.ok().or_else(|| host(remote).parse().ok())
}

/// The far end without its port.
pub fn host(remote: &str) -> &str {
    let host = match remote.rsplit_once(':') {
        // An address of version 6 without a port has more colons.
        Some((host, port)) if host.ends_with(']') || !host.contains(':') => {
            if port.bytes().all(|byte| byte.is_ascii_digit()) { host } else { remote }
        }
        _ => remote,
    };
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_what_stands_before_the_port() {
        let check = |remote: &str, expected: &str, is_address: bool| {
            assert_eq!(host(remote), expected);
            assert_eq!(address(remote).is_some(), is_address, "{remote}");
        };
        check("203.0.113.7:4242", "203.0.113.7", true);
        check("[2001:db8::1]:4242", "2001:db8::1", true);
        check("2001:db8::1", "2001:db8::1", true);
        check("203.0.113.0/24", "203.0.113.0/24", false);
        check("host.example:4242", "host.example", false);
        check("host.example:", "host.example", false);
        check("", "", false);
    }

    #[test]
    fn labels_become_facts() {
        let labels = r#"{transport_id="t",kind="webrtc",pid="7",room_id="a\"b",peer_id="p",proto="udp",local_addr="l",remote_addr="192.0.2.1:5",ice_state="completed",dtls_state="connected",country="DE",city="",asn="64500",as_org="Example"} "#;
        let transport = Texts::default().transport(labels);
        assert_eq!((&*transport.id, &*transport.room, &*transport.asn), ("t", "a\"b", "64500"));
        let parts = [
            r#"{transport_id="t",id="i""#,
            r#"peer_id="p",room_id="r""#,
            r#"kind="audio",codec="opus""#,
        ];
        let parts = parts.map(Arc::from);
        let subject = Texts::default().subject(&parts.each_ref(), &"c".into());
        assert_eq!((&*subject.id, &*subject.room, &*subject.codec), ("i", "r", "opus"));
        let name = |labels| Texts::default().peer(labels).1.map(|name| name.to_string());
        let peer = |name: &str| {
            format!(r#"{{peer_id="p",room_id="r",display_name="{name}",user_agent=""}} "#)
        };
        assert_eq!((name(&peer("Ada")), name(&peer(""))), (Some("Ada".into()), None));
    }
}
