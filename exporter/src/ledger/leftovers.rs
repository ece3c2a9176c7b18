//! What ended before it had a series: its labels rest for a moment, or there was no room.
//!
//! Few and short-lived as they are, they must not be lost: each is offered again with every update,
//! and the list is bounded. What the bound cuts has been counted as refused.

use std::sync::Arc;

use crate::join::Level;
use crate::ledger::flows::{Connection, FlowMeter, Named};
use crate::ledger::series::Table;
use crate::ledger::stream_labels::StreamLabels;
use crate::ledger::streams::{Claimed, StreamMeter, StreamSeries};
use crate::ledger::totals::{Counts, StreamTotals};
use crate::ledger::turn::Turn;
use crate::ledger::unclaimed::Unclaimed;

/// Leftovers of each kind at most.
const MAX: usize = 4096;

/// Bytes of ended meters that wait for a series.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    streams: Vec<StreamLeftover>,
    connections: Vec<ConnectionLeftover>,
}

#[derive(Debug)]
struct StreamLeftover {
    direction: usize,
    labels: StreamLabels,
    /// Without an owner: its bytes.
    ownerless: Option<u64>,
    totals: StreamTotals,
}

#[derive(Debug)]
struct ConnectionLeftover {
    labels: Arc<str>,
    named: Named,
    counts: Counts,
}

impl Leftovers {
    /// Keeps what an ended stream still holds.
    pub(crate) fn leave_stream(
        &mut self,
        meter: StreamMeter,
        claimed: &Claimed<'_>,
        turn: &mut Turn<'_>,
    ) {
        let Some(totals) = meter.pending.filter(|_| self.streams.len() < MAX) else { return };
        self.streams.push(StreamLeftover {
            direction: meter.key.direction as usize,
            labels: claimed.labels(meter.key.ssrc, turn.labels),
            ownerless: (claimed.claim.level < Level::Owner).then_some(totals.total.bytes),
            totals: *totals,
        });
    }

    /// Keeps what an ended flow still holds.
    pub(crate) fn leave_flow(&mut self, mut meter: FlowMeter, turn: &mut Turn<'_>) {
        if is_empty(&meter.pending) || self.connections.len() >= MAX {
            return;
        }
        if let Some((labels, named)) = meter.labels(meter.claimed_now, turn) {
            self.connections.push(ConnectionLeftover { labels, named, counts: meter.pending });
        }
    }

    /// Offers everything again.
    pub(crate) fn settle(
        &mut self,
        connections: &mut Table<Arc<str>, Connection>,
        streams: &mut [Table<StreamLabels, StreamSeries>; 2],
        unclaimed: &mut Unclaimed,
        turn: &mut Turn<'_>,
    ) {
        self.streams.retain(|left| {
            let table = &mut streams[left.direction];
            let labels = left.labels.clone();
            let id = StreamSeries::open(labels, None, left.ownerless, table, unclaimed, turn);
            if let Some(series) = id.and_then(|id| table.get_mut(id)) {
                series.touch(turn.tick);
                series.values.totals.add(left.totals);
            }
            id.is_none()
        });
        self.connections.retain_mut(|left| {
            let (labels, named) = (left.labels.clone(), left.named.clone());
            let bytes = left.counts.iter().flatten().map(|counter| counter.bytes).sum();
            let id = Connection::open(labels, named, bytes, connections, unclaimed, turn);
            if let Some(series) = id.and_then(|id| connections.get_mut(id)) {
                series.touch(turn.tick);
                series.values.take(&mut left.counts, turn.capacity);
            }
            !is_empty(&left.counts)
        });
    }

    #[cfg(test)]
    pub(crate) fn add_to(&self, flows: &mut Counts, streams: &mut StreamTotals) {
        for left in &self.connections {
            crate::ledger::totals::add_all(flows, &left.counts);
        }
        for left in &self.streams {
            streams.add(left.totals);
        }
    }
}

fn is_empty(counts: &Counts) -> bool {
    counts.iter().flatten().all(|counter| counter.packets == 0)
}
