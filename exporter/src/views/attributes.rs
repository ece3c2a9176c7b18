//! What there is to say of whose traffic a track is.

use std::net::IpAddr;

use crate::history::{Connection, Facts, Known, Station, Track, Whose, host};
use crate::state::StreamRole;

/// Whose traffic it is. Empty is what is not known.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Attributes<'a> {
    /// Where it may be shown as a number.
    pub(super) ip: Option<IpAddr>,
    /// The far end without its port, as it may be shown.
    pub(super) host: &'a str,
    pub(super) room: &'a str,
    pub(super) peer: &'a str,
    /// What the peer calls itself.
    pub(super) name: &'a str,
    pub(super) transport: &'a str,
    /// The producer's or consumer's.
    pub(super) id: &'a str,
    pub(super) consumed: &'a str,
    pub(super) kind: &'a str,
    pub(super) codec: &'a str,
    pub(super) proto: &'a str,
    pub(super) country: &'a str,
    pub(super) asn: &'a str,
    pub(super) as_org: &'a str,
    pub(super) ssrc: Option<u32>,
    pub(super) role: &'a str,
    /// A connection, rather than a stream.
    pub(super) is_connection: bool,
    /// It is media, and no retransmission or probation.
    pub(super) is_media: bool,
    /// A server tells of whoever has it.
    pub(super) told: bool,
    /// It tells that it is there now.
    pub(super) open: bool,
}

impl<'a> Attributes<'a> {
    pub(super) fn of(track: &'a Track, facts: &'a Facts) -> Self {
        match &track.whose {
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
                let who = match &track.carrier {
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
    pub(super) fn of_subject(known: &'a Known, facts: &'a Facts) -> Self {
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
        let name = facts.names.get(&(subject.room.clone(), subject.peer.clone()));
        let name = name.map_or("", |name| name);
        Self { room: &subject.room, peer: &subject.peer, name, ..who }
    }

    /// A transport.
    pub(super) fn of_station(station: &'a Station, facts: &'a Facts) -> Self {
        Self { transport: &station.transport.id, ..Self::default().at(Some(station), facts) }
    }

    /// On a transport.
    fn at(self, station: Option<&'a Station>, facts: &'a Facts) -> Self {
        let Some(Station { transport, open, .. }) = station else { return self };
        let host = host(&transport.remote);
        let name = facts.names.get(&(transport.room.clone(), transport.peer.clone()));
        Self {
            ip: host.parse().ok(),
            host,
            room: &transport.room,
            peer: &transport.peer,
            name: name.map_or("", |name| name),
            proto: &transport.proto,
            country: &transport.country,
            asn: &transport.asn,
            as_org: &transport.as_org,
            told: true,
            open: *open,
            ..self
        }
    }

    /// What the peer is called.
    pub(super) fn caller(&self) -> &'a str {
        if self.name.is_empty() { self.peer } else { self.name }
    }

    /// What words are looked for in.
    pub(super) fn texts(&self) -> impl Iterator<Item = &'a str> {
        let Self { host, room, peer, name, transport, id, kind, codec, as_org, .. } = *self;
        [host, room, peer, name, transport, id, kind, codec, as_org].into_iter()
    }
}
