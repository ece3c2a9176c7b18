//! Packets that came to this host and that no server read, because its socket was full.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use foldhash::HashMap;

use crate::labels::block;

/// Steps of sockets that are kept at most; the oldest go first. Where more sockets drop, all do.
const MOST: usize = 10_000;
/// Milliseconds for which they are kept: as far back as the history reaches.
const KEPT: u64 = 6 * 3_600_000;

/// What one socket dropped in one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// When the step ended, milliseconds since the exporter began.
    pub end: u64,
    /// The socket's own end; its address may be unspecified.
    pub local: SocketAddr,
    /// Packets.
    pub packets: u64,
}

impl Dropped {
    /// Whether what was meant for this end is among it.
    pub fn is_at(&self, local: SocketAddr) -> bool {
        let ip = self.local.ip();
        self.local.port() == local.port() && (ip.is_unspecified() || ip == local.ip())
    }
}

/// What sockets dropped, the oldest first.
#[derive(Clone, Debug, Default)]
pub struct Drops {
    steps: VecDeque<Dropped>,
}

impl Drops {
    /// What was dropped in steps that ended in this time.
    pub fn within(&self, time: Range<u64>) -> impl Iterator<Item = &Dropped> {
        self.steps.iter().filter(move |it| it.end > time.start && it.end <= time.end)
    }

    /// A step ends, in which these sockets dropped something.
    pub(super) fn push(&mut self, end: u64, dropped: impl Iterator<Item = (SocketAddr, u64)>) {
        self.steps.extend(dropped.map(|(local, packets)| Dropped { end, local, packets }));
        let is_old = |it: &Dropped| it.end + KEPT < end;
        while self.steps.len() > MOST || self.steps.front().is_some_and(is_old) {
            self.steps.pop_front();
        }
    }
}

/// The totals of sockets that ever dropped something, by their labels.
#[derive(Debug, Default)]
pub(super) struct Totals {
    known: HashMap<Arc<str>, u64>,
}

impl Totals {
    /// What a socket dropped since this was last asked; at the first step, what it had dropped before is nobody's.
    pub(super) fn grown(
        &mut self,
        labels: &Arc<str>,
        total: u64,
        is_first: bool,
    ) -> Option<(SocketAddr, u64)> {
        if total == 0 {
            return None;
        }
        let before = self.known.insert(labels.clone(), total).unwrap_or_default();
        let grown = total.saturating_sub(before);
        let local = || block::parse(labels).find(|(name, _)| *name == "local_addr")?.1.parse().ok();
        if grown == 0 || is_first { None } else { Some((local()?, grown)) }
    }

    /// Forgets those that are gone.
    pub(super) fn retain(&mut self, is_there: impl Fn(&Arc<str>) -> bool) {
        self.known.retain(|labels, _| is_there(labels));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_grows_counts_and_not_what_was_before() {
        let mut totals = Totals::default();
        let labels: Arc<str> =
            "{proto=\"udp\",local_addr=\"0.0.0.0:40000\",remote_addr=\"\"} ".into();
        let local: SocketAddr = "0.0.0.0:40000".parse().unwrap();
        assert_eq!(totals.grown(&labels, 0, true), None);
        assert_eq!(totals.grown(&labels, 7, true), None);
        assert_eq!(totals.grown(&labels, 7, false), None);
        assert_eq!(totals.grown(&labels, 9, false), Some((local, 2)));
        totals.retain(|_| false);
        assert_eq!(totals.grown(&labels, 3, false), Some((local, 3)), "another socket");
    }

    #[test]
    fn a_socket_of_all_addresses_has_what_came_to_each() {
        let dropped = |local: &str| Dropped { end: 1, local: local.parse().unwrap(), packets: 1 };
        let local = "192.0.2.1:40000".parse().unwrap();
        assert!(dropped("0.0.0.0:40000").is_at(local) && dropped("[::]:40000").is_at(local));
        assert!(dropped("192.0.2.1:40000").is_at(local));
        assert!(!dropped("192.0.2.2:40000").is_at(local) && !dropped("0.0.0.0:40001").is_at(local));
    }

    #[test]
    fn it_is_bounded() {
        let mut drops = Drops::default();
        let local = "192.0.2.1:1".parse().unwrap();
        for end in 0..20_000 {
            drops.push(end, std::iter::once((local, 1)));
        }
        assert_eq!(drops.within(0..u64::MAX).count(), MOST);
        assert_eq!(drops.within(19_000..19_010).count(), 10);
        drops.push(KEPT + 30_000, std::iter::empty());
        assert_eq!(drops.within(0..u64::MAX).count(), 0);
    }
}
