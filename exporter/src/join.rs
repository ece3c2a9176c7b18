//! Matches what was counted with what the servers told: on protocol, local port and remote address
//! first, then on the SSRC within the transport.
//!
//! One question for a flow, one for a stream. The answers are small and own what they say, so that
//! whoever asked can keep them until the state's revision says that they may have changed: most of the
//! flows and streams of two readings are the same, and so are their owners.

use std::sync::Arc;

use crate::model::{Class, Clock, Consumer, Direction, Producer, TransportId, Tuple};
use crate::state::{ClosedOwner, Holder, Owner, State, StreamRole};

/// How much is known of a stream's owner, least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// No transport claims its flow.
    Nobody,
    /// A transport does, but none of its producers or consumers claims the SSRC.
    Transport,
    /// A producer or consumer claims it, or it is its transport's probation.
    Owner,
}

/// What the servers say of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// How much is known.
    pub level: Level,
    /// The producer's or consumer's id.
    pub owner: Option<Arc<str>>,
    /// Whoever claims it has closed: what still comes is his, and nobody else will claim it.
    pub closed: bool,
    /// What the stream is to its owner.
    pub role: Option<StreamRole>,
    /// What its timestamps count, where its owner's codec says it (RTX counts as its media does, RFC
    /// 4588 §8.2).
    pub clock: Option<Clock>,
}

/// The transport that claims a flow, or did until a moment ago. The local address decides only between
/// several claims: a server may announce another one than packets carry.
pub fn flow<'a>(state: &'a State, tuple: &Tuple) -> Option<Holder<'a>> {
    state.holder(tuple)
}

/// Who claims a stream of a flow that this transport claims, or did while it lived.
pub fn stream(
    state: &State,
    transport: Option<(&TransportId, bool)>,
    direction: Direction,
    ssrc: u32,
) -> Claim {
    let nobody =
        Claim { level: Level::Nobody, owner: None, closed: false, role: None, clock: None };
    let Some((transport, closed)) = transport else { return nobody };
    let Some((owner, role)) = state.owner(transport, direction, ssrc) else {
        return Claim { level: Level::Transport, closed, ..nobody };
    };
    let (owner, closed, clock) = match owner {
        Owner::Producer(Producer { id, kind, codec, .. }) => {
            (Some(id.0.clone()), false, kind.clock(codec))
        }
        Owner::Consumer(Consumer { id, kind, codec, .. }) => {
            (Some(id.0.clone()), false, kind.clock(codec))
        }
        Owner::Closed(ClosedOwner { id, clock, .. }) => (Some(id.clone()), true, *clock),
        Owner::Transport => (None, closed, None),
    };
    Claim { level: Level::Owner, owner, closed, role: Some(role), clock }
}

/// Bytes of known flows that the tables still hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// All of them.
    pub known_bytes: u64,
    /// Those that came while a transport claimed their flow, or before one did.
    pub joined_bytes: u64,
}

impl Coverage {
    /// Counts a known flow's bytes, its streams' among them, and those that came while nobody claimed it.
    pub fn add(&mut self, bytes: u64, unclaimed: u64) {
        self.known_bytes += bytes;
        self.joined_bytes += bytes - unclaimed;
    }

    /// Joined bytes by known bytes; `None` before there are any.
    pub fn ratio(&self) -> Option<f64> {
        (self.known_bytes > 0).then(|| self.joined_bytes as f64 / self.known_bytes as f64)
    }
}

/// The classes by their index in [`crate::model::Flow::counts`], with the text of their label.
pub const CLASSES: [(Class, &str); 5] = [
    (Class::Rtp, "rtp"),
    (Class::Rtcp, "rtcp"),
    (Class::Stun, "stun"),
    (Class::Dtls, "dtls"),
    (Class::Other, "other"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, Told};
    use crate::model::Direction::{Receive, Send};
    use crate::model::Proto;

    fn check(tuple: Tuple, direction: Direction, ssrc: u32, expected: (&str, Level, &str)) {
        let mut told = Told::default();
        told.transport("t1", "192.0.2.1:1000", 40_000);
        told.transport("t2", "[2001:db8::2]:2000", 40_000);
        told.producer("p1", "t1", &[(11, Some(12)), (21, None)]);
        told.consumer("c1", "t2", &[(31, Some(32))]);
        let transport = flow(&told.state, &tuple).map(|holder| holder.transport);
        let claim = stream(&told.state, transport.map(|id| (id, false)), direction, ssrc);
        let role = claim.role.map_or(String::new(), |role| format!(" {role:?}"));
        let owner = format!("{}{role}", claim.owner.as_deref().unwrap_or(""));
        let transport = transport.map_or("", TransportId::as_str);
        assert_eq!((transport, claim.level, owner.as_str()), expected);
    }

    #[test]
    fn a_stream_joins_its_owner_whatever_the_local_address() {
        let one = fixture::tuple("10.9.8.7:40000", "192.0.2.1:1000");
        let two = fixture::tuple("[2001:db8::ff]:40000", "[2001:db8::2]:2000");
        let mapped = fixture::tuple("[::ffff:10.9.8.7]:40000", "[::ffff:192.0.2.1]:1000");
        assert_eq!(one, mapped);
        check(one, Receive, 11, ("t1", Level::Owner, "p1 Media"));
        check(one, Receive, 12, ("t1", Level::Owner, "p1 Rtx"));
        check(one, Receive, 21, ("t1", Level::Owner, "p1 Media"));
        check(one, Receive, 99, ("t1", Level::Transport, ""));
        check(one, Send, 1234, ("t1", Level::Owner, " Probation"));
        check(two, Send, 31, ("t2", Level::Owner, "c1 Media"));
        check(two, Send, 32, ("t2", Level::Owner, "c1 Rtx"));
        check(two, Receive, 31, ("t2", Level::Transport, ""));
    }

    #[test]
    fn a_port_or_protocol_apart_is_nobodys() {
        let port = fixture::tuple("10.9.8.7:40001", "192.0.2.1:1000");
        check(port, Receive, 11, ("", Level::Nobody, ""));
        let mut proto = fixture::tuple("10.9.8.7:40000", "192.0.2.1:1000");
        proto.proto = Proto::Tcp;
        check(proto, Receive, 11, ("", Level::Nobody, ""));
    }

    #[test]
    fn answers_change_only_with_the_revision() {
        let mut told = Told::default();
        told.transport("t1", "192.0.2.1:1000", 40_000);
        told.transport("t2", "192.0.2.2:2000", 40_000);
        let ssrcs = |told: &Told| ["t1", "t2"].map(|id| told.state.ssrcs_changed(&id.into()));
        let (before, revision) = (ssrcs(&told), told.state.revision());
        told.state.put_peer(told.state.peers[&fixture::peer("alice")].clone());
        assert_eq!((ssrcs(&told), told.state.revision()), (before, revision));
        told.consumer("c1", "t1", &[(31, None)]);
        let after = ssrcs(&told);
        assert!(after[0] != before[0] && after[1] == before[1]);
        let revision = told.state.revision();
        told.state.remove_consumer(&"c1".into());
        assert!(ssrcs(&told)[0] != after[0] && told.state.revision() > revision);
        let revision = told.state.revision();
        told.state.remove_transport(&"t2".into());
        assert!(told.state.revision() > revision);
    }

    #[test]
    fn coverage_is_a_share_of_bytes() {
        let mut coverage = Coverage::default();
        assert_eq!(coverage.ratio(), None);
        coverage.add(30, 0);
        coverage.add(10, 10);
        assert_eq!(coverage.ratio(), Some(0.75));
    }
}
