//! Which transport a 5-tuple belongs to, where several claim it or one claims what is not its own.
//!
//! Claims come in, each with what the host knows of the port; one holder for each tuple goes out.

use foldhash::HashMap;
use smallvec::SmallVec;

use crate::model::{JoinKey, SourceId, TransportId};

/// Claims on one tuple that are kept; with more, the newest goes unheard.
const CLAIMS: usize = 8;

/// What the host knows of a claim, worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Worth {
    /// The port is another's, or the source's word alone is not enough.
    Refused,
    /// It is not known whose the port is, and somebody answers for the source.
    Believed,
    /// The port is a worker's of the source.
    Owned,
}

/// All claims.
#[derive(Debug, Default)]
pub(super) struct Tuples {
    by_key: HashMap<JoinKey, Claims>,
    turns: u64,
    refused: Refused,
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
    list: SmallVec<[Claim; 1]>,
    holder: Option<u8>,
}

#[derive(Debug)]
struct Claim {
    transport: TransportId,
    source: SourceId,
    /// Grows with each time that it is told.
    turn: u64,
    worth: Worth,
}

/// What a change did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Effect {
    /// Another transport holds the tuple now, or none does.
    pub(super) moved: bool,
    /// This claim does not hold, and did before or is new.
    pub(super) refused: Refused,
}

impl Tuples {
    /// Who holds the tuple.
    pub(super) fn holder(&self, key: &JoinKey) -> Option<&TransportId> {
        self.by_key.get(key)?.holder()
    }

    /// All tuples that somebody holds.
    pub(super) fn held(&self) -> impl Iterator<Item = &JoinKey> {
        self.by_key.iter().filter(|(_, claims)| claims.holder.is_some()).map(|(key, _)| key)
    }

    /// Claims that do not hold.
    pub(super) fn refused(&self) -> Refused {
        self.refused
    }

    /// A transport is told, or told again, to have this tuple.
    pub(super) fn claim(
        &mut self,
        key: JoinKey,
        transport: &TransportId,
        source: SourceId,
        worth: Worth,
    ) -> Effect {
        self.turns += 1;
        let turn = self.turns;
        let mut unheard = false;
        let mut effect = self.change(key, transport, |list| {
            if let Some(claim) = list.iter_mut().find(|claim| claim.transport == *transport) {
                (claim.source, claim.turn, claim.worth) = (source, turn, worth);
                return;
            }
            if list.len() >= CLAIMS {
                // The oldest of its own makes room; nobody else's does.
                let own = list.iter().enumerate().filter(|(_, claim)| claim.source == source);
                let Some((oldest, _)) = own.min_by_key(|(_, claim)| claim.turn) else {
                    unheard = true;
                    return;
                };
                list.remove(oldest);
            }
            // Beside the others of its source, which keeps its rank while it has any.
            let last = list.iter().rposition(|claim| claim.source == source);
            let at = last.map_or(list.len(), |at| at + 1);
            list.insert(at, Claim { transport: transport.clone(), source, turn, worth });
        });
        effect.refused.foreign += usize::from(unheard);
        effect
    }

    /// What the host knows of a claim is this now.
    pub(super) fn judge(&mut self, key: JoinKey, transport: &TransportId, worth: Worth) -> Effect {
        self.change(key, transport, |list| {
            if let Some(claim) = list.iter_mut().find(|claim| claim.transport == *transport) {
                claim.worth = worth;
            }
        })
    }

    /// A transport has this tuple no more.
    pub(super) fn drop(&mut self, key: JoinKey, transport: &TransportId) -> Effect {
        self.change(key, transport, |list| list.retain(|claim| claim.transport != *transport))
    }

    fn change(
        &mut self,
        key: JoinKey,
        transport: &TransportId,
        change: impl FnOnce(&mut SmallVec<[Claim; 1]>),
    ) -> Effect {
        let claims = self.by_key.entry(key).or_default();
        let before =
            (claims.holder().cloned(), claims.refused(None), claims.refused(Some(transport)));
        change(&mut claims.list);
        claims.holder = claims.choose();
        let refused = claims.refused(Some(transport));
        let effect = Effect {
            moved: claims.holder() != before.0.as_ref(),
            refused: Refused {
                port: refused.port.saturating_sub(before.2.port),
                foreign: refused.foreign.saturating_sub(before.2.foreign),
            },
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
    fn holder(&self) -> Option<&TransportId> {
        self.holder.map(|at| &self.list[usize::from(at)].transport)
    }

    /// Among those that are worth most, the newest of the source that came first: a server may give a
    /// tuple to its next transport before it closes the last, but no server takes another's.
    fn choose(&self) -> Option<u8> {
        let worth = self.list.iter().map(|claim| claim.worth).max()?;
        if worth == Worth::Refused {
            return None;
        }
        let first = self.list.iter().find(|claim| claim.worth == worth)?.source;
        let of_first = |claim: &Claim| claim.worth == worth && claim.source == first;
        let claims = self.list.iter().enumerate().filter(|(_, claim)| of_first(claim));
        claims.max_by_key(|(_, claim)| claim.turn).map(|(at, _)| at as u8)
    }

    /// How many claims, or whether one, are refused.
    fn refused(&self, only: Option<&TransportId>) -> Refused {
        let holder = self.holder.map(|at| self.list[usize::from(at)].source);
        let mut refused = Refused::default();
        for claim in &self.list {
            if only.is_some_and(|only| claim.transport != *only) {
                continue;
            }
            refused.port += usize::from(claim.worth == Worth::Refused);
            let other = holder.is_some_and(|holder| holder != claim.source);
            refused.foreign += usize::from(claim.worth != Worth::Refused && other);
        }
        refused
    }
}
