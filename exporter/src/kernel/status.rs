//! Where counting happens, and what failed of it.

use std::collections::BTreeMap;

use crate::host::interfaces::Attach;

/// Where counting happens, and what failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Interfaces that are counted on.
    pub interfaces: Vec<String>,
    /// Interfaces that should be counted on, and why they are not.
    pub failing: BTreeMap<String, String>,
    /// Failed attempts to attach since the start.
    pub failures: u64,
    /// Looks at interfaces, addresses and workers since the start.
    pub looks: u64,
    /// What is known of the SFU's sockets.
    pub owned: Owned,
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

/// Attempts that failed.
#[derive(Debug, Default)]
pub(super) struct Failures {
    failing: BTreeMap<String, String>,
    total: u64,
    looks: u64,
}

impl Failures {
    /// Takes note of attempts that failed; one warning for each interface and cause.
    pub(super) fn note(&mut self, failed: &[(Attach, anyhow::Error)]) {
        let mut failing = BTreeMap::new();
        for (what, error) in failed {
            let text = format!("{error:#}");
            if self.failing.get(&what.name) != Some(&text) {
                tracing::warn!("cannot count on {}: {text}; trying again later", what.name);
            }
            failing.insert(what.name.clone(), text);
        }
        self.looks += 1;
        self.total += failed.len() as u64;
        self.failing = failing;
    }

    /// The status of whoever counts on these interfaces.
    pub(super) fn status(&self, interfaces: Vec<String>, owned: Owned) -> Status {
        let Self { failing, total, looks } = self;
        let failing = failing.clone();
        Status { interfaces, failing, failures: *total, looks: *looks, owned, capture_lost: None }
    }
}
