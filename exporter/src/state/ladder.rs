//! How far WebRTC transports came, as their servers tell it: what failed under way, and where those that
//! closed had got to. Counts stay when their transports go.

use std::sync::Arc;

use crate::model::Transport;

/// How far a WebRTC transport came, at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    /// No answer: ICE never had a pair.
    #[default]
    Nothing,
    /// ICE had a pair (RFC 8445), DTLS never came to its end.
    Ice,
    /// DTLS was connected (RFC 5764): media could flow.
    Dtls,
}

impl Rung {
    /// All, from the lowest.
    pub const ALL: [Self; 3] = [Self::Nothing, Self::Ice, Self::Dtls];

    /// As the label says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Ice => "ice",
            Self::Dtls => "dtls",
        }
    }
}

/// What can fail on a WebRTC transport that lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// mediasoup lost the pair (`iceState` `disconnected`).
    Ice,
    /// The handshake failed (`dtlsState` `failed`).
    Dtls,
}

impl Stage {
    /// All, in their order.
    pub const ALL: [Self; 2] = [Self::Ice, Self::Dtls];

    /// As the label says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ice => "ice",
            Self::Dtls => "dtls",
        }
    }
}

/// Counts of all servers together, since the exporter's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ladder {
    closed: [u64; 3],
    failures: [u64; 2],
}

/// A transport's ICE and DTLS state, in mediasoup's words.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct States {
    ice: Option<Arc<str>>,
    dtls: Option<Arc<str>>,
}

impl Ladder {
    /// Transports that closed, having come so far.
    pub fn closed(&self, reached: Rung) -> u64 {
        self.closed[reached as usize]
    }

    /// How often a stage failed.
    pub fn failures(&self, stage: Stage) -> u64 {
        self.failures[stage as usize]
    }

    pub(super) fn close(&mut self, reached: Rung) {
        self.closed[reached as usize] += 1;
    }

    /// A failure counts when it is told, once until something else is: what had failed before anything was
    /// told of the transport is not known to be new.
    pub(super) fn follow(&mut self, before: &States, now: &States) {
        for stage in Stage::ALL {
            let is_new = now.has_failed(stage) && !before.has_failed(stage);
            self.failures[stage as usize] += u64::from(is_new);
        }
    }
}

impl States {
    pub(super) fn of(transport: &Transport) -> Self {
        Self { ice: transport.ice_state.clone(), dtls: transport.dtls_state.clone() }
    }

    /// What these states alone prove: a transport that closes tells of no rung any more.
    pub(super) fn rung(&self) -> Rung {
        match (self.ice.as_deref(), self.dtls.as_deref()) {
            (_, Some("connected")) => Rung::Dtls,
            (Some("connected" | "completed" | "disconnected"), _)
            | (_, Some("connecting" | "failed")) => Rung::Ice,
            _ => Rung::Nothing,
        }
    }

    fn has_failed(&self, stage: Stage) -> bool {
        match stage {
            Stage::Ice => self.ice.as_deref() == Some("disconnected"),
            Stage::Dtls => self.dtls.as_deref() == Some("failed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states(ice: &str, dtls: &str) -> States {
        States { ice: Some(ice.into()), dtls: Some(dtls.into()) }
    }

    #[test]
    fn states_prove_rungs() {
        for (ice, dtls, rung) in [
            ("new", "new", Rung::Nothing),
            ("connected", "new", Rung::Ice),
            ("completed", "connecting", Rung::Ice),
            ("disconnected", "new", Rung::Ice),
            ("completed", "failed", Rung::Ice),
            ("completed", "connected", Rung::Dtls),
            ("closed", "closed", Rung::Nothing),
            ("\n", "", Rung::Nothing),
        ] {
            assert_eq!(states(ice, dtls).rung(), rung, "{ice} {dtls}");
        }
        assert_eq!(States::default().rung(), Rung::Nothing);
    }

    #[test]
    fn a_failure_counts_once_each_time() {
        let mut ladder = Ladder::default();
        let told = [
            states("completed", "connected"),
            states("disconnected", "connected"),
            states("disconnected", "connected"),
            states("completed", "connected"),
            states("disconnected", "failed"),
        ];
        told.windows(2).for_each(|pair| ladder.follow(&pair[0], &pair[1]));
        assert_eq!(Stage::ALL.map(|stage| ladder.failures(stage)), [2, 1]);
    }
}
