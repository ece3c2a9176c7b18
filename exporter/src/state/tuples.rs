//! Which transport a 5-tuple belongs to, where several claim it, one claims what is not its own, or
//! whoever had it has closed.
//!
//! Claims come in, each with what the host knows of the port; for each tuple one of them goes out. Two
//! workers may have the same port at two addresses of the host, so claims on one key are told apart by
//! where packets come: at an address that the host says is the worker's, or else at the one that was
//! told. A claim that is alone holds whatever its address, since servers announce others than packets
//! carry.

use std::net::IpAddr;

use foldhash::HashMap;
use foldhash::fast::RandomState;
use indexmap::IndexMap;
use smallvec::SmallVec;

use super::closed::{Fading, KEPT};
use super::ownership::Bound;
use super::sources::Share;
use crate::model::{JoinKey, ServerTuple, SourceId, TransportId, canonical_ip};

/// Claims on one tuple that are kept; with more, the newest goes unheard.
const CLAIMS: usize = 8;

/// What the host knows of a claim, worst first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Worth {
    /// The port is another's, or the source's word alone is not enough.
    Refused,
    /// It is not known whose the port is, and somebody answers for the source.
    Believed,
    /// The port is a worker's of the source, at these addresses.
    Owned(Bound),
}

/// All claims.
#[derive(Debug, Default)]
pub(super) struct Tuples {
    by_key: HashMap<JoinKey, Claims>,
    turns: u64,
    refused: Refused,
    closed: Fading<(JoinKey, TransportId)>,
    /// Claims, by their numbers, of which no packet has been seen, and since when they are made.
    unseen: IndexMap<u64, (JoinKey, u64), RandomState>,
}

/// Claims that do not hold, now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// Because the port is none of the source's workers'.
    pub port: usize,
    /// Because another source holds the tuple.
    pub foreign: usize,
}

#[derive(Debug, Default)]
struct Claims {
    /// In the order in which their sources came first.
    list: List,
}

type List = SmallVec<[Claim; 1]>;

#[derive(Debug)]
pub(super) struct Claim {
    pub(super) transport: TransportId,
    /// No other claim ever has it.
    pub(super) number: u64,
    /// The transport has the tuple no more, and is remembered by this stamp.
    pub(super) closed: Option<u64>,
    pub(super) source: SourceId,
    /// Grows with each time that it is told.
    turn: u64,
    pub(super) worth: Worth,
    told: Option<IpAddr>,
}

/// What a transport tells of a tuple.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told<'a> {
    pub(super) transport: &'a TransportId,
    pub(super) source: SourceId,
    /// Where it says packets come, unless that is a name, or anywhere.
    pub(super) address: Option<IpAddr>,
}

/// How well a claim suits packets at an address, best last.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// They can come to its socket, as far as is known.
    is_reached: bool,
    is_live: bool,
    is_owned: bool,
    /// Its socket is bound to this very address.
    is_bound: bool,
    /// Where the host does not know: it was told with this address.
    is_told: bool,
}

/// What a change did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Effect {
    /// Another transport may hold the tuple now, or none.
    pub(super) moved: bool,
    /// This claim does not hold, and did before or is new.
    pub(super) refused: Refused,
    /// Something that had closed was forgotten for want of room.
    pub(super) forgotten: bool,
}

/// The address that a server told, if it is one at which packets can come.
pub(super) fn address(tuple: &ServerTuple) -> Option<IpAddr> {
    let address: IpAddr = tuple.local_address.parse().ok()?;
    Some(canonical_ip(address)).filter(|address| !address.is_unspecified())
}

impl Tuples {
    /// Who holds the tuple for packets at this address; a live claim, if any that they reach is.
    pub(super) fn holder(&self, key: &JoinKey, local: Option<IpAddr>) -> Option<&Claim> {
        self.by_key.get(key)?.holder(local)
    }

    /// Whether a transport has the tuple, at whatever address.
    pub(super) fn has(&self, key: &JoinKey, transport: &TransportId) -> bool {
        let Some(claims) = self.by_key.get(key) else { return false };
        let own = claims.list.iter().find(|claim| claim.transport == *transport);
        own.is_some_and(|own| own.closed.is_none() && claims.holds(own))
    }

    /// All tuples that somebody holds.
    pub(super) fn held(&self) -> impl Iterator<Item = &JoinKey> {
        let is_held = |claim: &Claim| claim.closed.is_none() && claim.worth != Worth::Refused;
        let held = move |claims: &Claims| claims.list.iter().any(is_held);
        self.by_key.iter().filter(move |(_, claims)| held(claims)).map(|(key, _)| key)
    }

    /// Claims that do not hold.
    pub(super) fn refused(&self) -> Refused {
        self.refused
    }

    /// Packets of this claim were seen.
    pub(super) fn seen(&mut self, claim: u64) {
        self.unseen.swap_remove(&claim);
    }

    /// Live claims that were made before this time and of which no packet was seen, apart from those on
    /// what another source has.
    pub(super) fn unseen(&self, before: u64) -> impl Iterator<Item = (&Claim, &JoinKey)> {
        let unseen = self.unseen.iter().filter(move |(_, (_, since))| *since < before);
        unseen.filter_map(|(number, (key, _))| {
            let claims = self.by_key.get(key)?;
            let claim = claims.list.iter().find(|claim| claim.number == *number)?;
            let refused = claim.worth == Worth::Refused;
            let counts = refused || claims.holds(claim);
            counts.then_some((claim, key))
        })
    }

    /// A transport is told, or told again, to have this tuple.
    pub(super) fn claim(&mut self, key: JoinKey, told: Told<'_>, worth: Worth, now: u64) -> Effect {
        let Told { transport, source, address } = told;
        self.turns += 1;
        let turn = self.turns;
        let (mut unheard, mut is_new, mut evicted) = (false, false, None);
        let mut effect = self.change(key, transport, |list| {
            if let Some(claim) = list.iter_mut().find(|claim| claim.transport == *transport) {
                (claim.source, claim.turn, claim.worth) = (source, turn, worth);
                (claim.told, claim.closed) = (address, None);
                return true;
            }
            if list.len() >= CLAIMS {
                // The oldest of its own makes room, closed ones first; nobody else's does.
                let own = list.iter().enumerate().filter(|(_, claim)| claim.source == source);
                let oldest = own.min_by_key(|(_, claim)| (claim.closed.is_none(), claim.turn));
                let Some((oldest, _)) = oldest else {
                    unheard = true;
                    return false;
                };
                evicted = Some(list.remove(oldest).number);
            }
            // Beside the others of its source, which keeps its rank while it has any.
            let last = list.iter().rposition(|claim| claim.source == source);
            let at = last.map_or(list.len(), |at| at + 1);
            is_new = true;
            let transport = transport.clone();
            let (number, closed, told) = (turn, None, address);
            list.insert(at, Claim { transport, number, closed, source, turn, worth, told });
            true
        });
        if let Some(evicted) = evicted {
            self.unseen.swap_remove(&evicted);
        }
        if is_new {
            self.unseen.insert(turn, (key, now));
        }
        effect.refused.foreign += usize::from(unheard);
        effect
    }

    /// What the host knows of a claim is this now.
    pub(super) fn judge(&mut self, key: JoinKey, transport: &TransportId, worth: Worth) -> Effect {
        self.change(key, transport, |list| {
            let claim = list.iter_mut().find(|claim| claim.transport == *transport);
            let Some(claim) = claim.filter(|it| it.closed.is_none() && it.worth != worth) else {
                return false;
            };
            claim.worth = worth;
            true
        })
    }

    /// A transport has this tuple no more. If it held it, it is remembered with all that closed of its
    /// share, which is so much at most.
    pub(super) fn close(
        &mut self,
        key: JoinKey,
        transport: &TransportId,
        (share, most): (Share, usize),
        now: u64,
    ) -> Effect {
        let claims = self.by_key.get(&key);
        let claim = claims.and_then(|claims| {
            let claim = claims.list.iter().find(|claim| claim.transport == *transport)?;
            (claim.closed.is_none() && claims.holds(claim)).then_some(claim)
        });
        let Some(claim) = claim else { return self.drop(key, transport) };
        self.unseen.swap_remove(&claim.number);
        let kept = self.closed.keep(share, (key, transport.clone()), now, most);
        let mut effect = match kept.stamp {
            None => self.drop(key, transport),
            Some(_) => self.change(key, transport, |list| {
                let claim = list.iter_mut().find(|claim| claim.transport == *transport);
                claim.is_some_and(|claim| {
                    claim.closed.replace(kept.stamp.unwrap_or_default()).is_none()
                })
            }),
        };
        effect.forgotten = kept.stamp.is_none() || kept.evicted.is_some();
        if let Some((key, stamp)) = kept.evicted {
            effect.moved |= self.forget(&key, stamp);
        }
        effect
    }

    /// A transport has this tuple no more, and never had.
    pub(super) fn drop(&mut self, key: JoinKey, transport: &TransportId) -> Effect {
        let mut gone = None;
        let effect = self.change(key, transport, |list| {
            let at = list.iter().position(|claim| claim.transport == *transport);
            gone = at.map(|at| list.remove(at).number);
            gone.is_some()
        });
        if let Some(gone) = gone {
            self.unseen.swap_remove(&gone);
        }
        effect
    }

    /// Forgets what closed long ago; true if there was any.
    pub(super) fn expire(&mut self, now: u64) -> bool {
        let mut moved = false;
        while let Some((key, stamp)) = self.closed.next_due(now.saturating_sub(KEPT)) {
            moved |= self.forget(&key, stamp);
        }
        moved
    }

    fn forget(&mut self, (key, transport): &(JoinKey, TransportId), stamp: u64) -> bool {
        let of_stamp = |claim: &Claim| claim.transport == *transport && claim.closed == Some(stamp);
        let claims = self.by_key.get(key);
        // It may have been told again since.
        if !claims.is_some_and(|claims| claims.list.iter().any(of_stamp)) {
            return false;
        }
        self.drop(*key, transport).moved
    }

    /// The change says whether it did anything.
    fn change(
        &mut self,
        key: JoinKey,
        transport: &TransportId,
        change: impl FnOnce(&mut List) -> bool,
    ) -> Effect {
        let claims = self.by_key.entry(key).or_default();
        let before = (claims.lone(), claims.refused(None), claims.refused(Some(transport)));
        let changed = change(&mut claims.list);
        let refused = claims.refused(Some(transport));
        let moved = match (before.0, claims.lone()) {
            (Some(before), Some(after)) => before != after,
            _ => changed,
        };
        let effect = Effect {
            moved,
            refused: Refused {
                port: refused.port.saturating_sub(before.2.port),
                foreign: refused.foreign.saturating_sub(before.2.foreign),
            },
            forgotten: false,
        };
        let now = claims.refused(None);
        self.refused.port = self.refused.port + now.port - before.1.port;
        self.refused.foreign = self.refused.foreign + now.foreign - before.1.foreign;
        if claims.list.is_empty() {
            self.by_key.remove(&key);
        }
        effect
    }
}

impl Claims {
    /// Among those that suit best, the newest of the source that came first: a server may give a tuple
    /// to its next transport before it closes the last, but no server takes another's.
    fn holder(&self, local: Option<IpAddr>) -> Option<&Claim> {
        if let [alone] = self.list.as_slice() {
            return (alone.worth != Worth::Refused).then_some(alone);
        }
        let heard = || self.list.iter().filter(|claim| claim.worth != Worth::Refused);
        let best = heard().map(|claim| claim.rank(local)).max()?;
        let is_best = |claim: &&Claim| claim.rank(local) == best;
        let first = heard().find(is_best)?.source;
        let of_first = heard().filter(|claim| claim.source == first).filter(is_best);
        of_first.max_by_key(|claim| (claim.told.is_some() && claim.told == local, claim.turn))
    }

    /// Whether a claim's source holds the tuple where the claim would have it.
    fn holds(&self, claim: &Claim) -> bool {
        let holder = || self.holder(claim.address());
        claim.worth != Worth::Refused
            && (self.list.len() == 1 || holder().is_some_and(|it| it.source == claim.source))
    }

    /// Who answers all questions, if at most one claim is there to do so.
    fn lone(&self) -> Option<Option<(u64, bool)>> {
        match self.list.as_slice() {
            [] => Some(None),
            [_] => Some(self.holder(None).map(|claim| (claim.number, claim.closed.is_some()))),
            _ => None,
        }
    }

    /// How many live claims, or whether one, are refused.
    fn refused(&self, only: Option<&TransportId>) -> Refused {
        let mut refused = Refused::default();
        for claim in self.list.iter().filter(|claim| claim.closed.is_none()) {
            if only.is_some_and(|only| claim.transport != *only) {
                continue;
            }
            let is_refused = claim.worth == Worth::Refused;
            refused.port += usize::from(is_refused);
            refused.foreign += usize::from(!is_refused && !self.holds(claim));
        }
        refused
    }
}

impl Claim {
    fn rank(&self, local: Option<IpAddr>) -> Rank {
        let bound = match &self.worth {
            Worth::Owned(bound) => Some(bound.as_slice()),
            Worth::Refused | Worth::Believed => None,
        };
        let is_bound = bound.zip(local).is_some_and(|(bound, local)| bound.contains(&local));
        let is_told = local.is_some() && self.told == local;
        Rank {
            is_reached: local.is_none_or(|at| bound.is_none_or(|bound| is_reached(bound, at))),
            is_live: self.closed.is_none(),
            is_owned: bound.is_some(),
            is_bound,
            // Where the host knows, no word counts against it.
            is_told: is_told && bound.is_none(),
        }
    }

    /// Where its packets come, as far as is known.
    fn address(&self) -> Option<IpAddr> {
        match &self.worth {
            Worth::Owned(bound) if !self.told.is_some_and(|told| is_reached(bound, told)) => {
                bound.iter().find(|address| !address.is_unspecified()).copied()
            }
            _ => self.told,
        }
    }
}

/// Whether packets at an address come to one of these, as sockets are bound.
fn is_reached(bound: &[IpAddr], address: IpAddr) -> bool {
    bound.iter().any(|bound| match bound.is_unspecified() {
        // One for all of IPv6 may be for IPv4, too.
        true => bound.is_ipv6() || address.is_ipv4(),
        false => *bound == address,
    })
}
