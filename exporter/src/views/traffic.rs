//! What a transport's packets look like on the wire: its connections' ends and its streams' SSRCs.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::history::{Connection, Track, Whose};
use crate::views::attributes::Attributes;

/// Of one row at most; a row of strangers has any number of both.
const MOST: usize = 1024;

/// How the packets of a row can be told from others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// All packets between these ends.
    pub connections: Vec<Ends>,
    /// RTP with these SSRCs.
    pub streams: Vec<Carried>,
    /// There are further ones.
    pub more: bool,
}

/// A connection. Empty is what is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ends {
    /// `udp`, `tcp`.
    pub protocol: String,
    /// The local end.
    pub local: String,
    /// The far end, as it may be shown.
    pub remote: String,
    /// Its transport's id.
    pub transport: String,
    /// Whose it is.
    pub room: String,
    /// The same.
    pub peer: String,
    /// What the peer calls itself.
    pub name: String,
}

/// A stream. Empty is what is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// Its SSRC.
    pub ssrc: u32,
    /// Its transport's id.
    pub transport: String,
    /// The producer's or consumer's.
    pub id: String,
    /// `producer`, `consumer`.
    pub role: String,
    /// `audio`, `video`.
    pub kind: String,
    /// Whose it is.
    pub room: String,
    /// The same.
    pub peer: String,
    /// What the peer calls itself.
    pub name: String,
    /// The connection that it comes by, where no server tells of its transport.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Ends>,
}

impl Traffic {
    /// A track belongs to this row.
    pub(super) fn meet(&mut self, track: &Track, who: &Attributes<'_>) {
        match &track.whose {
            Whose::Connection(connection) => {
                let ends = Ends {
                    transport: who.transport.to_owned(),
                    room: who.room.to_owned(),
                    peer: who.peer.to_owned(),
                    name: who.name.to_owned(),
                    ..ends(connection)
                };
                add(&mut self.connections, ends, &mut self.more);
            }
            Whose::Stream { ssrc, .. } => {
                let stream = Carried {
                    ssrc: *ssrc,
                    transport: who.transport.to_owned(),
                    id: who.id.to_owned(),
                    role: who.part().to_owned(),
                    kind: who.kind.to_owned(),
                    room: who.room.to_owned(),
                    peer: who.peer.to_owned(),
                    name: who.name.to_owned(),
                    by: track.carrier.as_deref().map(ends),
                };
                add(&mut self.streams, stream, &mut self.more);
            }
        }
    }
}

fn ends(connection: &Connection) -> Ends {
    let Connection { proto, local, remote, ip, .. } = connection;
    // A name may stand in an address' place.
    let port = remote.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    let remote = match (ip, port) {
        (Some(ip), Some(port)) => SocketAddr::new(*ip, port).to_string(),
        _ => remote.to_string(),
    };
    Ends { protocol: proto.to_string(), local: local.to_string(), remote, ..Ends::default() }
}

/// Both directions of a connection have a track each.
fn add<T: PartialEq>(all: &mut Vec<T>, one: T, more: &mut bool) {
    if all.contains(&one) {
        return;
    }
    if all.len() < MOST {
        all.push(one);
    } else {
        *more = true;
    }
}
