//! Looks at interfaces, addresses, routes and workers, and says where to count and which addresses
//! are local.
//!
//! Joins `rtnetlink` and `workers` (I/O) with `interfaces` and `addresses` (the decisions); attaches
//! nothing.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context;
use globset::GlobSet;
use ipnet::IpNet;

use super::addresses::{self, Foreign, Local, MAX_LOCAL};
use super::interfaces::{self, Choice, Situation};
use super::namespaces::NamespaceCookie;
use super::rtnetlink::{Answer, Links};
use super::workers::{MOST_OF_USER, MOST_WORKERS, WorkerProcess, Workers};

/// Asks the same questions again and again.
#[derive(Debug)]
pub struct Surveyor {
    links: Links,
    workers: Arc<Workers>,
    patterns: Option<GlobSet>,
    extra: Vec<IpAddr>,
    own: NamespaceCookie,
    warned: BTreeSet<String>,
}

/// What was found.
#[derive(Debug)]
pub struct Survey {
    /// Where to count.
    pub choice: Choice,
    /// What the choice was made from.
    pub situation: Situation,
    /// Addresses of this host and of its workers.
    pub local: Local,
}

impl Survey {
    /// The single addresses among those that are local.
    pub fn hosts(&self) -> HashSet<IpAddr> {
        let single = self.local.prefixes.iter().map(|(prefix, _)| prefix);
        single.filter(|it| it.prefix_len() == it.max_prefix_len()).map(IpNet::addr).collect()
    }
}

impl Surveyor {
    /// Looks in the network namespace in which it is made. `patterns` are those of `--interface`,
    /// `extra` are addresses that count as local whatever the host says.
    pub fn new(
        patterns: &[String],
        extra: &[IpAddr],
        workers: Arc<Workers>,
    ) -> anyhow::Result<Self> {
        let own = NamespaceCookie::own().unwrap_or_else(|error| {
            tracing::debug!("this network namespace has no cookie: {error}");
            NamespaceCookie::UNKNOWN
        });
        Ok(Self {
            links: Links::new().context("open a netlink socket")?,
            workers,
            patterns: interfaces::patterns(patterns).context("--interface")?,
            extra: extra.to_vec(),
            own,
            warned: BTreeSet::new(),
        })
    }

    /// Asks for everything anew.
    pub fn look(&mut self) -> anyhow::Result<Survey> {
        let answer = self.links.ask().context("ask for interfaces and addresses")?;
        let Answer { mut situation, local } = answer;
        let workers = self.workers.look();
        let elsewhere = one_of_each(&workers);
        situation.workers = elsewhere.iter().filter_map(|it| self.number_of(it.pid)).collect();
        let choice = interfaces::choose(&situation, self.patterns.as_ref());
        let foreign: Vec<Foreign> =
            elsewhere.iter().filter_map(|worker| worker.foreign.clone()).collect();
        let extra = self.extra.iter().map(|&address| IpNet::from(address));
        let local = addresses::local(self.own, extra.chain(local), &foreign);
        let unseen = workers.iter().find(|worker| worker.sockets.is_none());
        let is_whole = workers.iter().all(|worker| worker.is_whole);
        self.warn(&choice, &local, unseen, is_whole);
        Ok(Survey { choice, situation, local })
    }

    fn number_of(&mut self, pid: u32) -> Option<i32> {
        self.links.number_of(pid).unwrap_or_else(|error| {
            tracing::debug!("the number of worker {pid}'s network namespace: {error}");
            None
        })
    }

    fn warn(
        &mut self,
        choice: &Choice,
        local: &Local,
        unseen: Option<&WorkerProcess>,
        is_whole: bool,
    ) {
        let mut warnings = BTreeSet::new();
        if choice.attach.is_empty() {
            let which = if self.patterns.is_some() { " and matches --interface" } else { "" };
            warnings.insert(format!("no interface to count on: none is up{which}"));
        }
        if local.left_out > 0 {
            warnings.insert(format!(
                "this host has more than {MAX_LOCAL} addresses: packets to those beyond are not counted"
            ));
        }
        if local.foreign_left_out > 0 {
            warnings.insert(
                "workers' network namespaces have more addresses than there is room for: packets to \
                 those beyond are not counted"
                    .to_owned(),
            );
        }
        if self.workers.left_out() > 0 {
            warnings.insert(format!(
                "more than {MOST_OF_USER} processes of one user call themselves workers, or more than {MOST_WORKERS} in \
                 all: packets to the sockets of those beyond are not counted (mediasoup_exporter_workers_left_out)"
            ));
        }
        if !is_whole {
            warnings.insert(
                "too many sockets to be looked at in time: sockets of workers that were bound before the exporter \
                 started may be missing"
                    .to_owned(),
            );
        }
        if let Some(worker) = unseen {
            warnings.insert(format!(
                "cannot see which sockets worker {} has: that needs CAP_SYS_PTRACE, or its user; until \
                 then only --ports can tell what is the SFU's",
                worker.pid
            ));
        }
        for warning in warnings.difference(&self.warned) {
            tracing::warn!("{warning}");
        }
        self.warned = warnings;
    }
}

/// One worker of each other network namespace: the first that knows its cookie.
fn one_of_each(workers: &[WorkerProcess]) -> Vec<&WorkerProcess> {
    let mut by_namespace: BTreeMap<u64, &WorkerProcess> = BTreeMap::new();
    for worker in workers.iter().filter(|worker| worker.foreign.is_some()) {
        let Some(number) = worker.namespace else { continue };
        let known = by_namespace.entry(number).or_insert(worker);
        if known.cookie == NamespaceCookie::UNKNOWN {
            *known = worker;
        }
    }
    let mut workers: Vec<&WorkerProcess> = by_namespace.into_values().collect();
    workers.sort_by_key(|worker| (worker.started, worker.pid));
    workers
}
