//! Where counting happens, and what failed of it.

use std::collections::BTreeMap;

use crate::host::interfaces::{Attach, MOST_INTERFACES};
use crate::host::survey::Survey;

/// Where counting happens, and what failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Interfaces that are counted on.
    pub interfaces: Vec<String>,
    /// Interfaces that should be counted on, and why they are not, or not in both directions.
    pub failing: BTreeMap<String, String>,
    /// Interfaces on which somebody's program stands in front of ours and may keep packets from it, and
    /// which.
    pub behind: BTreeMap<String, String>,
    /// Interfaces that should be counted on, those among them for which there is no room.
    pub wanted: usize,
    /// Addresses and prefixes that are local, those among them for which there is no room.
    pub addresses: usize,
    /// Failed attempts to attach since the start.
    pub failures: u64,
    /// Looks at interfaces, addresses and workers since the start.
    pub looks: u64,
    /// What is known of the SFU's sockets.
    pub owned: Owned,
    /// Tables and programs stay when the exporter ends.
    pub is_pinned: bool,
    /// Why they do not, if they should.
    pub unpinned: Option<String>,
    /// Packet capture only: packets that were lost because this process was too slow.
    pub capture_lost: Option<u64>,
}

/// What is known of the SFU's sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owned {
    /// How.
    pub by: Knowledge,
    /// Why not better, if it could be.
    pub why: Option<String>,
    /// Sockets that are owned.
    pub sockets: u64,
    /// Sockets of the SFU's that there was no room for, since the start.
    pub refused: u64,
    /// Sockets that were bound or closed and could not be told of, since the start.
    pub lost: u64,
}

/// How the SFU's sockets are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Knowledge {
    /// Programs on the cgroups' root see them being bound and closed.
    Cgroup,
    /// They are looked for again and again.
    #[default]
    Scan,
    /// The operator named the ports (`--ports`).
    Flag,
}

impl Knowledge {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Cgroup, Self::Scan, Self::Flag];

    /// `cgroup`, `scan` or `flag`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cgroup => "cgroup",
            Self::Scan => "scan",
            Self::Flag => "flag",
        }
    }
}

/// What came of looks.
#[derive(Debug, Default)]
pub(super) struct Failures {
    failing: BTreeMap<String, String>,
    behind: BTreeMap<String, String>,
    wanted: usize,
    addresses: usize,
    total: u64,
    looks: u64,
}

impl Failures {
    /// Takes note of attempts that failed and of who stands in front; one warning for each interface
    /// and cause.
    pub(super) fn note(
        &mut self,
        Survey { choice, local, .. }: &Survey,
        failed: &[(Attach, anyhow::Error)],
        behind: BTreeMap<String, String>,
    ) {
        let mut failing = BTreeMap::new();
        for (what, error) in failed {
            let text = format!("{error:#}");
            if self.failing.get(&what.name) != Some(&text) {
                tracing::warn!("cannot count all of {}: {text}; trying again later", what.name);
            }
            failing.insert(what.name.clone(), text);
        }
        for (name, kind) in &choice.unsupported {
            let text = format!("its link type {kind} is not understood");
            if self.failing.get(name) != Some(&text) {
                tracing::warn!("cannot count on {name}: {text}");
            }
            failing.insert(name.clone(), text);
        }
        for (name, whose) in &behind {
            if self.behind.get(name) != Some(whose) {
                tracing::warn!(
                    "{whose} stands in front of ours on {name}: what it ends or redirects is not \
                     counted; attach it behind ours, with a later pref or a later place"
                );
            }
        }
        if choice.left_out > 0 && self.wanted <= MOST_INTERFACES {
            tracing::warn!(
                "more than {MOST_INTERFACES} interfaces are up, {} are left out: first containers' \
                 links without a worker; name those that matter with --interface",
                choice.left_out
            );
        }
        self.wanted = choice.attach.len() + choice.left_out;
        self.addresses = local.prefixes.len() + local.left_out + local.foreign_left_out;
        self.looks += 1;
        self.total += failed.len() as u64;
        (self.failing, self.behind) = (failing, behind);
    }

    /// The status of whoever counts on these interfaces.
    pub(super) fn status(&self, interfaces: Vec<String>, owned: Owned) -> Status {
        Status {
            interfaces,
            failing: self.failing.clone(),
            behind: self.behind.clone(),
            wanted: self.wanted,
            addresses: self.addresses,
            failures: self.total,
            looks: self.looks,
            owned,
            is_pinned: false,
            unpinned: None,
            capture_lost: None,
        }
    }
}
