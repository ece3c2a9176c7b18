//! A packet that passes several interfaces is seen on each; one sight of it is enough.
//!
//! Which interfaces stand on each other is known of bridges, bonds and VLANs; a packet that is routed from
//! one interface to another is seen twice all the same.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use exporter_ebpf::abi::TCP;

use crate::capture::frames::Seen;

/// How long after its first sight it may be seen again.
const PATIENCE: Duration = Duration::from_secs(1);
/// Bytes of payload that are compared.
const COMPARED: usize = 128;

/// Packets of the last seconds, and the interface that each was first seen on.
#[derive(Debug, Default)]
pub(super) struct Twins {
    hasher: RandomState,
    now: HashMap<u64, u32>,
    before: HashMap<u64, u32>,
    since: Duration,
}

impl Twins {
    /// It was not seen on another interface. What is sent twice is seen twice on one.
    pub(super) fn is_first(
        &mut self,
        seen: &Seen,
        bytes: &[u8],
        interface: u32,
        at: Duration,
    ) -> bool {
        if at > self.since + PATIENCE {
            self.before = std::mem::take(&mut self.now);
            if at > self.since + 2 * PATIENCE {
                self.before.clear();
            }
            self.since = at;
        }
        let key = self.key(seen, bytes);
        let known = self.now.get(&key).or_else(|| self.before.get(&key)).copied();
        *self.now.entry(key).or_insert(known.unwrap_or(interface)) == interface
    }

    /// Routers change what IP's header says, offloading what checksums do.
    fn key(&self, seen: &Seen, bytes: &[u8]) -> u64 {
        let Seen { proto, source, destination, headers, .. } = seen;
        let numbers = match *proto {
            // Sequence and acknowledgement.
            TCP => headers.checked_sub(16).and_then(|start| bytes.get(start..start + 8)),
            _ => None,
        };
        let payload = bytes.get(*headers..).unwrap_or_default();
        let payload = &payload[..payload.len().min(COMPARED)];
        self.hasher.hash_one((proto, source, destination, numbers, payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::frames::{look, tests as made};
    use crate::host::interfaces::Layer;

    #[test]
    fn what_one_interface_saw_first_is_that_ones() {
        let mut twins = Twins::default();
        let mut check = |ssrc, interface: u32, millis: u64, expected| {
            let mut frame = made::udp(&made::rtp(ssrc, 0, None));
            // Another time to live on another interface.
            frame[22] = 64 - interface as u8;
            let seen = look(&frame, Layer::Ethernet, frame.len() as u32).unwrap();
            let at = Duration::from_millis(1_000_000 + millis);
            let is_first = twins.is_first(&seen, &frame, interface, at);
            assert_eq!(is_first, expected, "{ssrc} on {interface} at {millis}");
        };
        check(1, 7, 0, true);
        check(1, 8, 0, false);
        check(1, 7, 5, true);
        check(2, 8, 6, true);
        check(2, 7, 6, false);
        // Another path, later.
        check(1, 8, 900, false);
        check(1, 8, 4_000, true);
        check(1, 7, 4_001, false);
    }
}
