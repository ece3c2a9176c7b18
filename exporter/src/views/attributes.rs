//! What there is to say of whose traffic a track is.

use std::net::IpAddr;

use crate::history::{Connection, Facts, Known, PeerKey, Station, Track, Whose, host};
use crate::state::StreamRole;

/// Whose traffic it is. Empty is what is not known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Attributes<'a> {
    /// Where it may be shown as a number.
    pub(crate) ip: Option<IpAddr>,
    /// The far end without its port, as it may be shown.
    pub(crate) host: &'a str,
    pub(crate) room: &'a str,
    pub(crate) peer: &'a str,
    /// What the peer calls itself.
    pub(crate) name: &'a str,
    pub(crate) transport: &'a str,
    /// The producer's or consumer's.
    pub(crate) id: &'a str,
    pub(crate) consumed: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) codec: &'a str,
    pub(crate) proto: &'a str,
    pub(crate) country: &'a str,
    pub(crate) asn: &'a str,
    pub(crate) as_org: &'a str,
    pub(crate) ssrc: Option<u32>,
    pub(crate) role: &'a str,
    /// A connection, rather than a stream.
    pub(crate) is_connection: bool,
    /// It is media, and no retransmission or probation.
    pub(crate) is_media: bool,
    /// It goes from one worker of this host to another, or to another host's: what a peer sent is in it once more.
    pub(crate) is_pipe: bool,
    /// A server tells of whoever has it.
    pub(crate) told: bool,
    /// It tells that it is there now.
    pub(crate) open: bool,
}

impl<'a> Attributes<'a> {
    pub(crate) fn of(track: &'a Track, facts: &'a Facts) -> Self {
        Self::of_whose(&track.whose, track.carrier.as_deref(), facts)
    }

    /// `carrier` is the connection of a stream that names no transport.
    pub(crate) fn of_whose(
        whose: &'a Whose,
        carrier: Option<&'a Connection>,
        facts: &'a Facts,
    ) -> Self {
        match whose {
            Whose::Connection(connection) => {
                Self { is_connection: true, ..Self::of_connection(connection, facts) }
            }
            Whose::Stream { subject, ssrc, role } => {
                let is_media = StreamRole::is_media(*role);
                let role = match role {
                    None => "",
                    Some(StreamRole::Media) => "media",
                    Some(StreamRole::Rtx) => "rtx",
                    Some(StreamRole::Probation) => "probation",
                };
                let known = facts.subjects.get(subject);
                let who = match carrier {
                    Some(carrier) => Self::of_connection(carrier, facts),
                    None => known.map(|known| Self::of_subject(known, facts)).unwrap_or_default(),
                };
                Self { ssrc: Some(*ssrc), role, is_media, ..who }
            }
        }
    }

    /// A connection, whoever has it.
    fn of_connection(connection: &'a Connection, facts: &'a Facts) -> Self {
        let mut who = Self::default().at(facts.stations.get(&connection.transport), facts);
        let host = host(&connection.remote);
        if !host.is_empty() {
            (who.host, who.ip) = (host, connection.ip);
        }
        let is_known = !connection.proto.is_empty();
        let proto = if is_known { &*connection.proto } else { who.proto };
        Self { transport: &connection.transport, proto, ..who }
    }

    /// A producer or consumer.
    pub(crate) fn of_subject(known: &'a Known, facts: &'a Facts) -> Self {
        let subject = &*known.subject;
        let who = Self::default().at(facts.stations.get(&subject.transport), facts);
        let who = Self {
            transport: &subject.transport,
            id: &subject.id,
            consumed: &subject.consumed,
            kind: &subject.kind,
            codec: &subject.codec,
            told: true,
            open: known.open,
            ..who
        };
        if subject.peer.is_empty() && subject.room.is_empty() {
            return who;
        }
        if who.is_pipe {
            return Self { room: &subject.room, ..who };
        }
        let name = facts.names.get(&(subject.room.clone(), subject.peer.clone()));
        let name = name.map_or("", |name| name);
        Self { room: &subject.room, peer: &subject.peer, name, ..who }
    }

    /// A transport.
    pub(crate) fn of_station(station: &'a Station, facts: &'a Facts) -> Self {
        Self { transport: &station.transport.id, ..Self::default().at(Some(station), facts) }
    }

    /// A peer of whom nothing but that is known.
    pub(crate) fn of_peer(peer: &'a PeerKey, facts: &'a Facts) -> Self {
        let name = facts.names.get(peer).map_or("", |name| name);
        Self { room: &peer.0, peer: &peer.1, name, told: true, open: true, ..Self::default() }
    }

    /// On a transport.
    fn at(self, station: Option<&'a Station>, facts: &'a Facts) -> Self {
        let Some(Station { transport, open, .. }) = station else { return self };
        let host = host(&transport.remote);
        let is_pipe = station.is_some_and(Station::is_pipe);
        let peer = if is_pipe { "" } else { &*transport.peer };
        let name = facts.names.get(&(transport.room.clone(), peer.into()));
        Self {
            ip: host.parse().ok(),
            host,
            room: &transport.room,
            peer,
            name: name.map_or("", |name| name),
            proto: &transport.proto,
            country: &transport.country,
            asn: &transport.asn,
            as_org: &transport.as_org,
            is_pipe,
            told: true,
            open: *open,
            ..self
        }
    }

    /// What part of a peer it is: nothing where that is not known, or it is a connection.
    pub(crate) fn part(&self) -> &'static str {
        match (self.id.is_empty(), self.consumed.is_empty()) {
            (true, _) => "",
            (false, true) => "producer",
            (false, false) => "consumer",
        }
    }

    /// What the peer is called.
    pub(crate) fn caller(&self) -> &'a str {
        if self.name.is_empty() { self.peer } else { self.name }
    }

    /// What words are looked for in.
    pub(crate) fn texts(&self) -> impl Iterator<Item = &'a str> {
        let Self { host, room, name, kind, codec, as_org, .. } = *self;
        [host, room, name, kind, codec, as_org].into_iter()
    }

    /// Ids that words are looked for in.
    pub(crate) fn ids(&self) -> impl Iterator<Item = &'a str> {
        [self.peer, self.transport, self.id].into_iter()
    }
}
