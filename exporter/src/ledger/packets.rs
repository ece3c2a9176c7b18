//! The ledger of what was counted on the wire: connections, streams, and strangers.
//!
//! Joined rows come in; monotonic series go out. What the meters here are, and what happens to bytes
//! whose owner is told late, stands in the documentation of [`crate::ledger`].

use std::sync::Arc;

use crate::join::{self, Coverage};
use crate::labels::Tick;
use crate::ledger::flows::{Connection, FlowMeter, FlowMeters};
use crate::ledger::leftovers::Leftovers;
use crate::ledger::series::{GRACE, Table};
use crate::ledger::strangers::Strangers;
use crate::ledger::stream_labels::StreamLabels;
use crate::ledger::streams::{Claimed, StreamKey, StreamMeters, StreamSeries};
#[cfg(test)]
use crate::ledger::totals::StreamTotals;
use crate::ledger::totals::{Counts, add_all};
use crate::ledger::turn::Turn;
use crate::ledger::unclaimed::Unclaimed;
use crate::model::{Direction, Flow, Reading, Stream};
use crate::prefetch;
use crate::state::State;

/// Readings that a meter may be missing from before it is forgotten: a table that is read while it
/// changes may pass over an entry, but not this often.
const MISSING: u64 = 64;

/// The ledger of flows and streams.
#[derive(Debug)]
pub(crate) struct Packets {
    pub(crate) meters: FlowMeters,
    pub(crate) streams: StreamMeters,
    pub(crate) connections: Table<Arc<str>, Connection>,
    /// By direction.
    pub(crate) stream_series: [Table<StreamLabels, StreamSeries>; 2],
    pub(crate) strangers: Strangers,
    /// What trailed after connections had closed and their series had gone.
    pub(crate) trailed: Counts,
    /// Claims whose packets were met for the first time.
    pub(crate) seen: Vec<u64>,
    leftovers: Leftovers,
    pub(crate) unclaimed: Unclaimed,
    pub(crate) coverage: Coverage,
    /// FlowMeters of flows that this reading speaks of.
    present: Vec<u32>,
    round: u64,
    /// What the series that went had counted, so that tests can see that nothing else is missing.
    #[cfg(test)]
    pub(crate) retired: (Counts, StreamTotals),
}

impl Packets {
    pub(crate) fn new(unclaimed: Unclaimed) -> Self {
        Self {
            meters: FlowMeters::default(),
            streams: StreamMeters::default(),
            connections: Table::default(),
            stream_series: Default::default(),
            strangers: Strangers::default(),
            trailed: Counts::default(),
            seen: Vec::new(),
            leftovers: Leftovers::default(),
            unclaimed,
            coverage: Coverage::default(),
            present: Vec::new(),
            round: 0,
            #[cfg(test)]
            retired: Default::default(),
        }
    }

    /// Takes one reading in.
    pub(crate) fn update(&mut self, reading: &Reading, state: &State, turn: &mut Turn<'_>) {
        // Events and table fill are no series of this ledger.
        let Reading { flows, streams, events: _, tables: _ } = reading;
        self.round += 1;
        self.coverage = Coverage::default();
        (self.strangers.pending_bytes, self.strangers.flows) = (0, 0);
        let Self { leftovers, connections, stream_series, unclaimed, .. } = self;
        unclaimed.begin(!state.transports.is_empty());
        leftovers.settle(connections, stream_series, unclaimed, turn);
        self.present.clear();
        let mut before = None;
        for flow in flows {
            before = self.take_flow(flow, before, state, turn.tick).or(before);
        }
        let mut before = None;
        for stream in streams {
            before = self.take_stream(stream, before, state, turn).or(before);
        }
        for slot in std::mem::take(&mut self.present) {
            self.settle(slot, turn);
            self.present.push(slot);
        }
        self.forget_missing(reading);
        self.retire(state, turn);
    }

    /// Finds the flow's meter and takes in what it grew by; `None` for a stranger.
    fn take_flow(
        &mut self,
        flow: &Flow,
        before: Option<u32>,
        state: &State,
        tick: Tick,
    ) -> Option<u32> {
        let Flow { tuple, known, idle_seconds: _, ended, streams: _, counts } = flow;
        let slot = match self.meters.follow(before, tuple) {
            Some(slot) => slot,
            // The kernel may not have heard yet what the servers told.
            None if *known || join::flow(state, tuple).is_some() => {
                self.meters.insert(*tuple, tick, self.round)
            }
            None => {
                self.strangers.take_flow(flow);
                return None;
            }
        };
        let meter = self.meet(slot, state);
        meter.take(counts, *ended);
        Some(slot)
    }

    /// A flow of which this reading speaks, with what the servers say of it now.
    fn meet(&mut self, slot: u32, state: &State) -> &mut FlowMeter {
        let meter = self.meters.get_mut(slot);
        if meter.round != self.round {
            meter.ask(state, &mut self.seen);
            meter.round = self.round;
            self.present.push(slot);
        }
        meter
    }

    /// Finds the stream's meter and gives what it grew by to its series; `None` for a stranger's.
    fn take_stream(
        &mut self,
        stream: &Stream,
        before: Option<u32>,
        state: &State,
        turn: &mut Turn<'_>,
    ) -> Option<u32> {
        let Some(slot) = self.follow_stream(stream, before, state, turn.tick) else {
            self.strangers.take_stream(stream);
            return None;
        };
        if let Some(later) = self.streams.get(slot + prefetch::AHEAD as u32) {
            self.meters.prefetch(later.key.flow);
        }
        let key = self.streams.get_mut(slot).key;
        self.meet(key.flow, state);
        let Self { meters, streams, stream_series, unclaimed, leftovers, .. } = self;
        let (flow, meter) = (meters.get_mut(key.flow), streams.get_mut(slot));
        meter.round = flow.round;
        let grown = meter.last.grow(stream.into());
        let direction = key.direction as usize;
        flow.take_rtp(direction, grown.total);
        let table = &mut stream_series[direction];
        if !stream.ended && meter.go_on(grown, flow.claims, stream, table, turn.tick) {
            return Some(slot);
        }
        let transport = flow.transport.as_ref().filter(|_| flow.claimed_now);
        let claimed = Claimed {
            claim: join::stream(
                state,
                transport.map(|transport| (transport, flow.closed)),
                key.direction,
                key.ssrc,
            ),
            transport,
            epoch: flow.epoch,
            claims: flow.claims,
        };
        let _trailed = meter.settle(grown, &claimed, stream, table, unclaimed, turn);
        #[cfg(test)]
        self.retired.1.add(_trailed);
        let is_of_crowd = unclaimed.are_a_crowd() && meter.is_of_crowd(&claimed);
        unclaimed.crowd.streams += u64::from(is_of_crowd && !stream.ended);
        if stream.ended {
            if let Some(meter) = streams.remove(slot) {
                if !is_of_crowd {
                    leftovers.leave_stream(meter, &claimed, turn);
                } else {
                    // What it carried is in its connection's totals.
                    #[cfg(test)]
                    self.retired.1.add(meter.pending.as_deref().copied().unwrap_or_default());
                }
            }
            flow.streams -= 1;
            return None;
        }
        Some(slot)
    }

    /// The stream's meter; mostly it is the one that came after `before` the last time. A reading's
    /// tables are not read at the same moment, so a stream's flow may be younger than the reading of
    /// the flows, or have ended with an earlier one.
    fn follow_stream(
        &mut self,
        stream: &Stream,
        before: Option<u32>,
        state: &State,
        tick: Tick,
    ) -> Option<u32> {
        let next = before.and_then(|before| self.streams.get(before)).map_or(0, |s| s.next);
        if let Some(meter) = self.streams.get(next)
            && (meter.key.direction, meter.key.ssrc) == (stream.direction, stream.ssrc)
            && self.meters.is(meter.key.flow, &stream.tuple)
        {
            return Some(next);
        }
        let flow = match self.meters.by_tuple.get(&stream.tuple) {
            Some(flow) => *flow,
            None if stream.known || join::flow(state, &stream.tuple).is_some() => {
                self.meters.insert(stream.tuple, tick, self.round)
            }
            None => return None,
        };
        let key = StreamKey { flow, direction: stream.direction, ssrc: stream.ssrc };
        let found = self.streams.find(&key).unwrap_or_else(|| {
            self.meters.get_mut(flow).streams += 1;
            self.streams.insert(key, tick, self.round)
        });
        if let Some(before) = before {
            self.streams.get_mut(before).next = found;
        }
        Some(found)
    }

    /// Gives what a flow and its streams grew by to its connection's series.
    fn settle(&mut self, slot: u32, turn: &mut Turn<'_>) {
        let meter = self.meters.get_mut(slot);
        meter.settle(&mut self.connections, &mut self.unclaimed, turn);
        if let Some(trailed) = meter.trail() {
            add_all(&mut self.trailed, &trailed);
        }
        let is_of_crowd = self.unclaimed.are_a_crowd() && meter.is_of_crowd();
        if !(meter.ended && meter.streams == 0) {
            if is_of_crowd {
                let crowd = &mut self.unclaimed.crowd;
                crowd.connections += 1;
                crowd.pending_bytes += meter.waiting_bytes();
            }
            return meter.cover(&mut self.coverage);
        }
        match self.meters.remove(slot) {
            Some(meter) if is_of_crowd => self.unclaimed.resolve(&meter.pending),
            Some(meter) => self.leftovers.leave_flow(meter, turn),
            None => {}
        }
    }

    /// Forgets meters that have been missing for long without having ended: their table was made
    /// anew. When every meter was in the reading there is nothing to look for.
    fn forget_missing(&mut self, reading: &Reading) {
        let round = self.round;
        if self.streams.len() + self.meters.by_tuple.len()
            <= reading.streams.len() + reading.flows.len()
            && !round.is_multiple_of(MISSING)
        {
            return;
        }
        let Self { meters, streams, .. } = self;
        for slot in streams.slots() {
            if streams.get(slot).is_some_and(|meter| round - meter.round >= MISSING)
                && let Some(meter) = streams.remove(slot)
            {
                meters.get_mut(meter.key.flow).streams -= 1;
            }
        }
        let missing = |meter: &FlowMeter| round - meter.round >= MISSING && meter.streams == 0;
        for slot in 0..meters.flows.len() {
            if meters.flows[slot].as_ref().is_some_and(missing) {
                meters.remove(slot as u32);
            }
        }
    }

    fn retire(&mut self, state: &State, turn: &mut Turn<'_>) {
        let Self { connections, stream_series, unclaimed, .. } = self;
        connections.retire(
            turn.tick,
            GRACE,
            |connection| match connection.owner() {
                Some((id, key)) => state.has_tuple(id, key),
                None => false,
            },
            |connection| {
                #[cfg(test)]
                add_all(&mut self.retired.0, &connection.counts);
                connection.leave(unclaimed, turn.capacity);
            },
        );
        for (direction, table) in
            [Direction::Receive, Direction::Send].into_iter().zip(stream_series)
        {
            table.retire(
                turn.tick,
                GRACE,
                |series| match &series.owner {
                    Some((transport, id, ssrc)) => {
                        let transport = Some((transport, false));
                        let claim = join::stream(state, transport, direction, *ssrc);
                        !claim.closed && claim.owner.as_ref() == Some(id)
                    }
                    None => false,
                },
                |series| {
                    #[cfg(test)]
                    self.retired.1.add(series.totals);
                    series.leave(unclaimed, turn.capacity);
                },
            );
        }
    }

    /// All that has been counted and not retired: connections, held back or exposed, and streams.
    #[cfg(test)]
    pub(crate) fn counted(&self) -> (Counts, StreamTotals) {
        let (mut flows, mut streams) = (Counts::default(), StreamTotals::default());
        for meter in self.meters.flows.iter().flatten() {
            add_all(&mut flows, &meter.pending);
        }
        self.leftovers.add_to(&mut flows, &mut streams);
        for connection in self.connections.iter() {
            add_all(&mut flows, &connection.values.counts);
        }
        for meter in self.streams.slots().filter_map(|slot| self.streams.get(slot)) {
            streams.add(meter.pending.as_deref().copied().unwrap_or_default());
        }
        for series in self.stream_series.iter().flat_map(Table::iter) {
            streams.add(series.values.totals);
        }
        (flows, streams)
    }

    /// Flows and streams that are followed.
    pub(crate) fn meters(&self) -> (usize, usize) {
        (self.meters.by_tuple.len(), self.streams.len())
    }
}
