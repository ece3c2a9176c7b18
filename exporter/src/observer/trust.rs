//! Decides which servers are believed without a flag. Pure: who listens, and who the workers and their
//! ancestors are, come in as values.
//!
//! A socket's name proves nothing, because anybody can make a socket. What proves something is who
//! listens on it, which the kernel tells (SO_PEERCRED): an ancestor of a worker is that worker's server;
//! root and the exporter's own user can do more than lie to the exporter already; and whoever runs as the
//! user of a server is that server's equal, as edumeet 4's room server is, which has no worker.

use std::collections::{BTreeMap, BTreeSet};

use crate::state::Standing;

/// Who listens on a socket, as the kernel tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Party {
    /// Its process, as this process sees it; `None` where it is in no namespace of ours.
    pub(super) pid: Option<u32>,
    /// Its user, as this process sees it: root of a user namespace is not 0 here.
    pub(super) uid: u32,
}

/// What is known of a host's servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// Ancestors of workers, with their users. Process 1 and the exporter itself are nobody's server.
    pub(super) ancestors: BTreeMap<u32, u32>,
    /// Users of servers that were believed because a worker of theirs was found.
    pub(super) users: BTreeSet<u32>,
}

/// Why a server is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ground {
    /// The operator named its socket.
    Named,
    /// It runs as root.
    Root,
    /// It runs as the exporter's user.
    OwnUser,
    /// It runs as root or as the exporter's user, in a file system of its own, as in a container: there
    /// that takes no rights on this host.
    Container,
    /// A worker of this host descends from it.
    Worker,
    /// It runs as the user of a server that has a worker.
    ServersUser,
}

impl Ground {
    /// As the end of "believed because …".
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Named => "--observer names it",
            Self::Root => "root runs it",
            Self::OwnUser => "the exporter's user runs it",
            Self::Container => "root or the exporter's user runs it, in a file system of its own",
            Self::Worker => "a worker of this host descends from it",
            Self::ServersUser => "it runs as the user of a server that has a worker",
        }
    }

    /// Whoever is believed on this ground may speak for every source.
    pub fn vouches(self) -> bool {
        matches!(self, Self::Named | Self::Root | Self::OwnUser)
    }

    /// What a source believed on this ground may say.
    pub(super) fn standing(self, party: Party) -> Standing {
        Standing { uid: party.uid, vouched: self.vouches() }
    }
}

/// Whether to believe whoever listens, and why. `own` is the exporter's user; `in_container`, that the
/// socket is in a file system of its own.
pub(super) fn ground_at(
    in_container: bool,
    party: Party,
    named: bool,
    own: u32,
    known: &Known,
) -> Option<Ground> {
    match ground(party, named, own, known) {
        Some(Ground::Root | Ground::OwnUser) if in_container => Some(Ground::Container),
        ground => ground,
    }
}

fn ground(party: Party, named: bool, own: u32, known: &Known) -> Option<Ground> {
    let is_ancestor = || party.pid.is_some_and(|pid| known.ancestors.get(&pid) == Some(&party.uid));
    if named {
        Some(Ground::Named)
    } else if party.uid == 0 {
        Some(Ground::Root)
    } else if party.uid == own {
        Some(Ground::OwnUser)
    } else if is_ancestor() {
        Some(Ground::Worker)
    } else {
        known.users.contains(&party.uid).then_some(Ground::ServersUser)
    }
}

/// Whether to connect in order to see who listens, where only the user is known.
pub(super) fn plausible(party: Party, own: u32, known: &Known) -> Option<Ground> {
    let has_worker = known.ancestors.values().any(|uid| *uid == party.uid);
    ground(party, false, own, known).or(has_worker.then_some(Ground::Worker))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: u32 = 500;

    fn check(pid: u32, uid: u32, expected: Option<Ground>) {
        // 1000's server 70 has a worker, and so has 1001's 80, which has not spoken yet.
        let known = Known {
            ancestors: BTreeMap::from([(70, 1000), (80, 1001)]),
            users: BTreeSet::from([1000]),
        };
        let party = Party { pid: Some(pid), uid };
        assert_eq!(ground(party, false, OWN, &known), expected, "{party:?}");
        assert_eq!(ground(party, true, OWN, &known), Some(Ground::Named));
    }

    #[test]
    fn who_listens_decides() {
        check(70, 1000, Some(Ground::Worker));
        check(80, 1001, Some(Ground::Worker));
        check(71, 1000, Some(Ground::ServersUser));
        check(81, 1001, None);
        check(99, 4242, None);
        check(99, 0, Some(Ground::Root));
        check(99, OWN, Some(Ground::OwnUser));
    }

    #[test]
    fn a_process_id_alone_proves_nothing() {
        // The socket was made by a process of another user, whose number the server has got since.
        check(70, 4242, None);
        check(80, 4242, None);
    }

    #[test]
    fn only_those_who_could_do_worse_speak_for_others() {
        let party = Party { pid: Some(70), uid: 1000 };
        let root = Party { pid: Some(99), uid: 0 };
        let in_container = ground_at(true, root, false, OWN, &Known::default());
        assert_eq!(in_container, Some(Ground::Container));
        for (ground, vouched) in [
            (Ground::Container, false),
            (Ground::Named, true),
            (Ground::Root, true),
            (Ground::OwnUser, true),
            (Ground::Worker, false),
            (Ground::ServersUser, false),
        ] {
            assert_eq!(ground.standing(party), Standing { uid: 1000, vouched }, "{ground:?}");
        }
    }
}
