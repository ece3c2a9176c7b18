//! Keeps the list of servers that are listened to, and of those that are not believed.
//!
//! What a look found comes in; what to follow from now on, and what to say, goes out. Does no I/O, so
//! that whom it takes and whom it turns away can be tried with made-up hosts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::place;
use super::search::{Candidate, Found};
use super::status::{Refusal, Source, Status, Warnings};
use super::trust::{self, Ground, Known, Party};
use crate::host::workers::WorkerProcess;
use crate::model::SourceId;

/// Servers that are listened to at most, and those of one user that nobody vouches for.
const MOST: usize = 256;
const MOST_OF_USER: usize = 16;
/// Servers not believed that are told one by one; all are counted.
const MOST_REFUSED: usize = 32;
/// A server starts its console before its first worker: only after so many looks is it said that
/// something is missing.
const PATIENCE: u32 = 3;

/// Everyone who was found.
#[derive(Debug)]
pub(super) struct Roster {
    /// The exporter's own user.
    own: u32,
    followed: BTreeMap<PathBuf, Arc<Source>>,
    /// Sockets that were at a path when it was begun to be followed.
    sockets: BTreeMap<PathBuf, BTreeSet<u64>>,
    warnings: Warnings,
    refused: BTreeMap<PathBuf, Refused>,
    refused_now: usize,
    /// What followers judge by when they have connected.
    known: Arc<Mutex<Known>>,
    /// Workers of which no server tells, with the number of looks since.
    unobserved: BTreeMap<u32, u32>,
    told_unobserved: BTreeSet<u32>,
    /// Patterns that stand for no socket, with the number of looks since.
    unmatched: BTreeMap<PathBuf, u32>,
}

#[derive(Debug)]
struct Refused {
    uid: u32,
    why: &'static str,
    looks: u32,
}

const NOT_BELIEVED: &str = "it is not run by root or by the exporter's user, and no worker of this \
    host descends from it";
const NO_ROOM: &str = "too many servers are listened to already";

impl Roster {
    pub(super) fn new(own: u32) -> Self {
        Self {
            own,
            followed: BTreeMap::new(),
            sockets: BTreeMap::new(),
            warnings: Warnings::default(),
            refused: BTreeMap::new(),
            refused_now: 0,
            known: Arc::default(),
            unobserved: BTreeMap::new(),
            told_unobserved: BTreeSet::new(),
            unmatched: BTreeMap::new(),
        }
    }

    /// What followers judge by; it changes with each look.
    pub(super) fn known(&self) -> Arc<Mutex<Known>> {
        Arc::clone(&self.known)
    }

    /// Takes in a look: returns what is to be followed from now on. What ended for good leaves the list,
    /// and what is at a path again comes back onto it.
    pub(super) fn take(&mut self, found: &Found) -> Vec<(PathBuf, Arc<Source>)> {
        self.note_unmatched(&found.unmatched);
        let known = self.know(found);
        let sockets = &mut self.sockets;
        self.followed.retain(|path, source| {
            if source.ended() && !source.is_disbelieved() {
                sockets.remove(path);
            }
            !source.ended()
        });
        let there: BTreeSet<&Path> = found.candidates.iter().map(|it| it.path.as_path()).collect();
        sockets.retain(|path, _| there.contains(path.as_path()));
        for (path, source) in &self.followed {
            source.listed(there.contains(path.as_path()));
        }
        let mut new = Vec::new();
        let mut refused = BTreeMap::new();
        self.refused_now = 0;
        for at_path in found.candidates.chunk_by(|one, other| one.path == other.path) {
            let path = &at_path[0].path;
            if self.followed.contains_key(path) {
                continue;
            }
            match self.admit_any(at_path, &known) {
                Ok((ground, party)) => {
                    let inodes = at_path.iter().map(|candidate| candidate.inode).collect();
                    self.sockets.insert(path.clone(), inodes);
                    let source = Arc::new(Source::new(ground, party));
                    self.followed.insert(path.clone(), Arc::clone(&source));
                    new.push((path.clone(), source));
                }
                Err(why) => {
                    self.refused_now += 1;
                    if refused.len() < MOST_REFUSED {
                        refused.insert(path.clone(), self.refuse(&at_path[0], why));
                    }
                }
            }
        }
        self.refused = refused;
        new
    }

    /// Whether to follow a path, by any of those who listen under its name: which of them is there shows
    /// when it is connected to. Who was there and was not believed is not tried again.
    fn admit_any(
        &self,
        at_path: &[Candidate],
        known: &Known,
    ) -> Result<(Ground, Option<Party>), &'static str> {
        let mut why = NOT_BELIEVED;
        let tried = self.sockets.get(&at_path[0].path);
        if tried.is_some_and(|tried| at_path.iter().all(|it| tried.contains(&it.inode))) {
            return Err(why);
        }
        for candidate in at_path {
            match self.admit(candidate, known) {
                Ok(ground) => return Ok((ground, candidate.party)),
                Err(reason) => why = reason,
            }
        }
        Err(why)
    }

    /// Says once of each pattern that it stands for nothing.
    fn note_unmatched(&mut self, patterns: &[PathBuf]) {
        let before = std::mem::take(&mut self.unmatched);
        for pattern in patterns {
            let looks = before.get(pattern).copied().unwrap_or_default().saturating_add(1);
            if looks == PATIENCE {
                tracing::warn!(
                    "--observer {}: no socket matches; it is looked for every few seconds",
                    pattern.display()
                );
            }
            self.unmatched.insert(pattern.clone(), looks);
        }
    }

    /// Patterns that stand for no socket.
    pub(super) fn unmatched(&self) -> impl Iterator<Item = &PathBuf> {
        self.unmatched.keys()
    }

    /// How each server is, in the order of their paths.
    pub(super) fn statuses(&self) -> Vec<Status> {
        self.followed.iter().map(|(path, source)| source.status(path)).collect()
    }

    /// A server's process, and why it is believed.
    pub(super) fn process(&self, id: SourceId) -> Option<(u32, Ground)> {
        let source = self.followed.values().find(|source| source.id() == id)?;
        Some((source.party()?.pid?, source.ground()))
    }

    /// Some of those that are not believed, and how many there are.
    pub(super) fn refusals(&self) -> (Vec<Refusal>, usize) {
        let refusal = |(path, refused): (&PathBuf, &Refused)| Refusal {
            path: path.clone(),
            uid: refused.uid,
            why: refused.why,
        };
        (self.refused.iter().map(refusal).collect(), self.refused_now)
    }

    /// Notes which workers have no server that speaks, and says so once of each.
    pub(super) fn look_after(&mut self, workers: &[WorkerProcess]) {
        let speaking: BTreeSet<u32> = self.speaking().collect();
        let is_observed = |worker: &WorkerProcess| {
            let mut family = worker.ancestors.iter().chain([&worker.pid]);
            family.any(|pid| speaking.contains(pid))
        };
        // A server that is reached through somebody else, as a proxy is, cannot be told by its process.
        let through_others = self.followed.values().any(|source| {
            source.is_up()
                && source.ground() == Ground::Named
                && !source.party().and_then(|party| party.pid).is_some_and(|pid| {
                    workers
                        .iter()
                        .any(|worker| worker.pid == pid || worker.ancestors.contains(&pid))
                })
        });
        let before = std::mem::take(&mut self.unobserved);
        for worker in workers.iter().filter(|worker| !through_others && !is_observed(worker)) {
            let looks = before.get(&worker.pid).copied().unwrap_or_default() + 1;
            self.unobserved.insert(worker.pid, looks);
        }
        self.told_unobserved.retain(|pid| self.unobserved.contains_key(pid));
        let late = |pid: &u32| !self.told_unobserved.contains(pid);
        let late: Vec<u32> = self
            .unobserved
            .iter()
            .filter(|(pid, looks)| **looks >= PATIENCE && late(pid))
            .map(|(pid, _)| *pid)
            .collect();
        if let Some(first) = late.first()
            && self.warnings.take(Instant::now())
        {
            tracing::warn!(
                "no server tells of {} (process {first}{}): nobody says whose the streams there are. Load \
                 the agent (--print-agent) with node --require, or name the server's socket: --observer \
                 auto --observer PATH",
                if late.len() == 1 {
                    "a worker".to_owned()
                } else {
                    format!("{} workers", late.len())
                },
                if late.len() == 1 { "" } else { " and others" },
            );
            self.told_unobserved.extend(late);
        }
    }

    /// Workers of which no server has told for a while.
    pub(super) fn unobserved(&self) -> Vec<u32> {
        let late = self.unobserved.iter().filter(|(_, looks)| **looks >= PATIENCE);
        late.map(|(pid, _)| *pid).collect()
    }

    fn speaking(&self) -> impl Iterator<Item = u32> {
        self.followed.values().filter(|source| source.is_up()).filter_map(|it| it.party()?.pid)
    }

    fn know(&self, found: &Found) -> Known {
        let ancestors = found.ancestors.clone();
        let is_server =
            |party: &Party| party.pid.is_some_and(|pid| ancestors.get(&pid) == Some(&party.uid));
        let parties = found.candidates.iter().filter_map(|candidate| candidate.party);
        let users = parties.filter(is_server).map(|party| party.uid).collect();
        let known = Known { ancestors, users };
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = known.clone();
        known
    }

    fn admit(&self, candidate: &Candidate, known: &Known) -> Result<Ground, &'static str> {
        let ground = match candidate.party {
            _ if candidate.named => Some(Ground::Named),
            Some(party) if party.pid.is_none() => trust::plausible(party, self.own, known),
            Some(party) => {
                let in_container = place::is_in_container(&candidate.path);
                trust::ground_at(in_container, party, false, self.own, known)
            }
            None => None,
        };
        let ground = ground.ok_or(NOT_BELIEVED)?;
        let uid = candidate.party.map(|party| party.uid);
        let of_user = self.followed.values().filter(|source| {
            !source.ground().vouches() && source.party().map(|party| party.uid) == uid
        });
        if self.followed.len() >= MOST || (!ground.vouches() && of_user.count() >= MOST_OF_USER) {
            return Err(NO_ROOM);
        }
        Ok(ground)
    }

    fn refuse(&mut self, candidate: &Candidate, why: &'static str) -> Refused {
        let uid = candidate.party.map_or(u32::MAX, |party| party.uid);
        let before =
            self.refused.get(&candidate.path).filter(|old| old.uid == uid && old.why == why);
        let looks = before.map_or(0, |old| old.looks).saturating_add(1);
        if looks == PATIENCE && self.warnings.take(Instant::now()) {
            let path = candidate.path.display();
            tracing::warn!(
                "the server at {path} (user {uid}) is not listened to: {why}. If it is one of yours, \
                 name it: --observer auto --observer {path}"
            );
        }
        Refused { uid, why, looks }
    }
}

#[cfg(test)]
mod tests;
