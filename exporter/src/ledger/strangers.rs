//! Strangers, in aggregate: anyone can send to an open port, so none has a series of his own.

use crate::ledger::totals::{Counts, add};
use crate::model::{Class, Counter, Flow, Stream};

/// Traffic of flows that nobody told and nothing proved.
#[derive(Clone, Debug, Default)]
pub(crate) struct Strangers {
    /// Of flows that ended as strangers.
    pub(crate) resolved: Counts,
    /// Bytes of those that the tables hold now.
    pub(crate) pending_bytes: u64,
    /// Flows that the tables hold now.
    pub(crate) flows: u64,
}

impl Strangers {
    pub(crate) fn take_flow(&mut self, flow: &Flow) {
        self.flows += u64::from(!flow.ended);
        for (resolved, counter) in
            self.resolved.iter_mut().flatten().zip(flow.counts.iter().flatten())
        {
            self.pending_bytes += resolve(resolved, *counter, flow.ended);
        }
    }

    pub(crate) fn take_stream(&mut self, stream: &Stream) {
        let resolved = &mut self.resolved[stream.direction as usize][Class::Rtp as usize];
        self.pending_bytes += resolve(resolved, stream.total, stream.ended);
    }
}

/// Adds what ended; returns the bytes of what did not.
fn resolve(resolved: &mut Counter, counter: Counter, ended: bool) -> u64 {
    if ended {
        add(resolved, counter);
        return 0;
    }
    counter.bytes
}
