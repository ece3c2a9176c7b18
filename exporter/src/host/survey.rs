//! Looks at interfaces, addresses, routes and workers, and says where to count and which addresses
//! are local.
//!
//! Joins `rtnetlink` and `workers` (I/O) with `interfaces` (the decision); attaches nothing.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use anyhow::Context;
use globset::GlobSet;

use super::interfaces::{self, Choice, Situation};
use super::rtnetlink::Links;
use super::workers::{self, WorkerProcess};

/// Addresses that can count as local, of either family.
pub const MAX_LOCAL: u32 = 4096;

/// Asks the same questions again and again.
#[derive(Debug)]
pub struct Surveyor {
    links: Links,
    patterns: Option<GlobSet>,
    extra: Vec<IpAddr>,
    warned_of_nothing: bool,
    unsupported: BTreeSet<String>,
}

/// What was found.
#[derive(Debug)]
pub struct Survey {
    /// Where to count.
    pub choice: Choice,
    /// What the choice was made from.
    pub situation: Situation,
    /// Addresses of this host and of its workers.
    pub local: HashSet<IpAddr>,
}

impl Surveyor {
    /// Looks in the network namespace in which it is made. `patterns` are those of `--interface`,
    /// `extra` are addresses that count as local whatever the host says.
    pub fn new(patterns: &[String], extra: &[IpAddr]) -> anyhow::Result<Self> {
        Ok(Self {
            links: Links::new().context("open a netlink socket")?,
            patterns: interfaces::patterns(patterns).context("--interface")?,
            extra: extra.to_vec(),
            warned_of_nothing: false,
            unsupported: BTreeSet::new(),
        })
    }

    /// Asks for everything anew.
    pub fn look(&mut self) -> anyhow::Result<Survey> {
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
