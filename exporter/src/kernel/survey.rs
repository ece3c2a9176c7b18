//! Looks at interfaces, addresses, routes and workers, and says where to count and which addresses
//! are local.
//!
//! Joins `links` and `workers` (I/O) with `interfaces` (the decision); attaches nothing.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;

use anyhow::Context;
use globset::GlobSet;

use super::interfaces::{self, Attach, Choice, Situation};
use super::links::Links;
use super::{MAX_LOCAL, Options};
use crate::workers::{self, WorkerProcess};

/// Where counting happens, and what failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Interfaces that are counted on.
    pub interfaces: Vec<String>,
    /// Interfaces that should be counted on, and why they are not.
    pub failing: BTreeMap<String, String>,
    /// Failed attempts to attach since the start.
    pub failures: u64,
    /// Packet capture only: packets that were lost because this process was too slow.
    pub capture_lost: Option<u64>,
}

/// Asks the same questions again and again.
pub(super) struct Surveyor {
    links: Links,
    patterns: Option<GlobSet>,
    extra: Vec<IpAddr>,
    status: Status,
    warned_of_nothing: bool,
    unsupported: BTreeSet<String>,
}

/// What was found.
pub(super) struct Survey {
    pub(super) choice: Choice,
    pub(super) situation: Situation,
    /// Addresses of this host and of its workers.
    pub(super) local: HashSet<IpAddr>,
}

impl Surveyor {
    pub(super) fn new(options: &Options) -> anyhow::Result<Self> {
        Ok(Self {
            links: Links::new().context("open a netlink socket")?,
            patterns: interfaces::patterns(&options.interfaces).context("--interface")?,
            extra: options.local.clone(),
            status: Status::default(),
            warned_of_nothing: false,
            unsupported: BTreeSet::new(),
        })
    }

    pub(super) fn look(&mut self) -> anyhow::Result<Survey> {
        let mut situation = self.links.ask().context("ask for interfaces and addresses")?;
        let workers = workers::find();
        situation.listening = workers.iter().flat_map(reachable).collect();
        let choice = interfaces::choose(&situation, self.patterns.as_ref());
        let own = situation.addresses.iter().map(|(_, address)| *address);
        let foreign = workers.iter().flat_map(|worker| worker.foreign.iter().copied());
        let local: HashSet<IpAddr> = own
            .chain(foreign)
            .chain(self.extra.iter().copied())
            .map(|address| address.to_canonical())
            .collect();
        if local.len() > MAX_LOCAL as usize {
            tracing::warn!("this host has {} addresses, {MAX_LOCAL} are counted", local.len());
        }
        self.warn(&choice);
        Ok(Survey { choice, situation, local })
    }

    /// Takes note of attempts that failed; one warning for each interface and cause.
    pub(super) fn failed(&mut self, failed: &[(Attach, anyhow::Error)]) {
        let mut failing = BTreeMap::new();
        for (what, error) in failed {
            let text = format!("{error:#}");
            if self.status.failing.get(&what.name) != Some(&text) {
                tracing::warn!("cannot count on {}: {text}; trying again later", what.name);
            }
            failing.insert(what.name.clone(), text);
        }
        self.status.failures += failed.len() as u64;
        self.status.failing = failing;
    }

    pub(super) fn status(&self, interfaces: Vec<String>) -> Status {
        Status { interfaces, ..self.status.clone() }
    }

    fn warn(&mut self, choice: &Choice) {
        for (name, kind) in &choice.unsupported {
            if self.unsupported.insert(name.clone()) {
                tracing::warn!("cannot count on {name}: its link type {kind} is not understood");
            }
        }
        let nothing = choice.attach.is_empty();
        if nothing && !self.warned_of_nothing {
            tracing::warn!(
                "no interface to count on: none that is up {}; name some with --interface",
                match self.patterns {
                    Some(_) => "matches --interface",
                    None => "carries a default route or an address that a worker listens on",
                }
            );
        }
        self.warned_of_nothing = nothing;
    }
}

/// Addresses of this host that a worker listens on. Of a worker in a network namespace of its own
/// only that it listens at all: 127.0.0.1 there is not this host's.
fn reachable(worker: &WorkerProcess) -> Vec<IpAddr> {
    let elsewhere = !worker.foreign.is_empty();
    let listening = worker.listening.iter().copied();
    listening.filter(|address| !elsewhere || address.is_unspecified()).collect()
}
