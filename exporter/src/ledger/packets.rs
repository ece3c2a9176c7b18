//! The ledger of what was counted on the wire: connections, streams, and strangers.
//!
//! Joined rows come in; monotonic series go out. What the sources here are, and what happens to bytes
//! whose owner is told late, stands in the documentation of [`crate::ledger`].

use std::sync::Arc;

use foldhash::HashMap;

use crate::join::{FlowRow, Joined, StreamRow};
use crate::labels::{Labels, Tick};
use crate::ledger::flows::{Connection, FlowSource, Sources};
use crate::ledger::leftovers::Leftovers;
use crate::ledger::series::{GRACE, Room, Table};
use crate::ledger::strangers::Strangers;
use crate::ledger::streams::{Claim, StreamSeries, StreamSource, owner_id};
use crate::ledger::totals::add;
#[cfg(test)]
use crate::ledger::totals::{Counts, StreamTotals, add_all};
use crate::model::{Class, Direction};
use crate::state::State;

/// Families that one stream has a series in.
pub(crate) const STREAM_SERIES: u64 = 7;
/// Families that one class of a connection has a series in.
pub(crate) const CLASS_SERIES: u64 = 4;
/// Readings that a source may be missing from before it is forgotten: a table that is read while it
/// changes may pass over an entry, but not this often.
const MISSING: u64 = 64;

/// The ledger of flows and streams.
#[derive(Debug)]
pub(crate) struct Packets {
    sources: Sources,
    streams: HashMap<StreamKey, StreamSource>,
    pub(crate) connections: Table<Arc<str>, Connection>,
    /// By direction.
    pub(crate) stream_series: [Table<Arc<str>, StreamSeries>; 2],
    pub(crate) strangers: Strangers,
    leftovers: Leftovers,
    unclaimed: Unclaimed,
    round: u64,
    /// What the series that went had counted, so that tests can see that nothing else is missing.
    #[cfg(test)]
    pub(crate) retired: (Counts, StreamTotals),
}

/// What one update needs to know.
pub(crate) struct Now<'a> {
    pub(crate) tick: Tick,
    /// Ticks that traffic without an owner is held back.
    pub(crate) hold: Tick,
    pub(crate) labels: &'a mut Labels,
    pub(crate) room: &'a mut Room,
}

/// How many series without an owner there may be.
#[derive(Debug)]
pub(crate) struct Unclaimed {
    pub(crate) connections: usize,
    max_connections: usize,
    pub(crate) streams: usize,
    max_streams: usize,
}

/// Index of the flow's source · 2³³ + direction · 2³² + SSRC.
type StreamKey = u64;

impl Packets {
    pub(crate) fn new(max_connections: usize, max_streams: usize) -> Self {
        let unclaimed = Unclaimed { connections: 0, max_connections, streams: 0, max_streams };
        Self {
            sources: Sources::default(),
            streams: HashMap::default(),
            connections: Table::default(),
            stream_series: Default::default(),
            strangers: Strangers::default(),
            leftovers: Leftovers::default(),
            unclaimed,
            round: 0,
            #[cfg(test)]
            retired: Default::default(),
        }
    }

    /// Takes one reading in.
    pub(crate) fn update(&mut self, joined: &Joined<'_>, state: &State, now: &mut Now<'_>) {
        self.round += 1;
        self.strangers.pending_bytes = 0;
        self.strangers.flows = 0;
        let Self { leftovers, connections, stream_series, unclaimed, .. } = self;
        leftovers.settle(connections, stream_series, unclaimed, now);
        let slots: Vec<Option<u32>> =
            joined.flows.iter().map(|row| self.take_flow(row, now.tick)).collect();
        for row in &joined.streams {
            match slots[row.flow] {
                Some(slot) => self.take_stream(slot, row, &joined.flows[row.flow], now),
                None => self.strangers.take_stream(row),
            }
        }
        for (slot, row) in slots.iter().zip(&joined.flows) {
            if let Some(slot) = *slot {
                self.settle(slot, row.transport.is_some(), now);
            }
        }
        self.forget_missing(joined);
        self.retire(state, now);
    }

    /// Finds the flow's source and takes in what it grew by; `None` for a stranger.
    fn take_flow(&mut self, row: &FlowRow<'_>, tick: Tick) -> Option<u32> {
        let slot = match self.sources.by_tuple.get(&row.tuple) {
            Some(slot) => *slot,
            None if row.known => self.sources.insert(row.tuple, tick),
            None => {
                self.strangers.take_flow(row);
                return None;
            }
        };
        let source = self.sources.get_mut(slot);
        source.round = self.round;
        if let Some(flow) = row.flow {
            source.take(&flow.counts, flow.ended);
        }
        if let Some(transport) = row.transport {
            source.claim(&transport.id);
        }
        Some(slot)
    }

    fn take_stream(
        &mut self,
        slot: u32,
        row: &StreamRow<'_>,
        flow_row: &FlowRow<'_>,
        now: &mut Now<'_>,
    ) {
        let flow = self.sources.get_mut(slot);
        let key = stream_key(slot, row.stream.direction, row.stream.ssrc);
        let source = self.streams.entry(key).or_insert_with(|| {
            flow.streams += 1;
            StreamSource::new(now.tick)
        });
        source.round = self.round;
        let grown = source.last.grow(row.stream.into());
        let direction = row.stream.direction as usize;
        add(&mut flow.pending[direction][Class::Rtp as usize], grown.total);
        let claim = Claim::of(row, flow_row, flow.epoch);
        let table = &mut self.stream_series[direction];
        let ended = row.stream.ended;
        source.settle(grown, &claim, row.stream.ssrc, ended, table, &mut self.unclaimed, now);
        if ended {
            flow.streams -= 1;
            if let Some(source) = self.streams.remove(&key) {
                self.leftovers.leave_stream(source, &claim, row.stream, now);
            }
        }
    }

    /// Gives what a flow and its streams grew by to its connection's series.
    fn settle(&mut self, slot: u32, claimed: bool, now: &mut Now<'_>) {
        let source = self.sources.get_mut(slot);
        source.settle(claimed, &mut self.connections, &mut self.unclaimed, now);
        if source.ended
            && source.streams == 0
            && let Some(source) = self.sources.remove(slot)
        {
            self.leftovers.leave_flow(source, now);
        }
    }

    /// Forgets sources that have been missing for long without having ended: their table was made
    /// anew. When every source was in the reading there is nothing to look for.
    fn forget_missing(&mut self, joined: &Joined<'_>) {
        let round = self.round;
        if self.streams.len() + self.sources.by_tuple.len()
            <= joined.streams.len() + joined.flows.len()
            && !round.is_multiple_of(MISSING)
        {
            return;
        }
        let Self { sources, streams, .. } = self;
        streams.retain(|key, source| {
            let stays = round - source.round < MISSING;
            if !stays {
                sources.get_mut((key >> 33) as u32).streams -= 1;
            }
            stays
        });
        let missing = |source: &FlowSource| round - source.round >= MISSING && source.streams == 0;
        for slot in 0..sources.flows.len() {
            if sources.flows[slot].as_ref().is_some_and(missing) {
                sources.remove(slot as u32);
            }
        }
    }

    fn retire(&mut self, state: &State, now: &mut Now<'_>) {
        let Self { connections, stream_series, unclaimed, .. } = self;
        connections.retire(
            now.tick,
            GRACE,
            |connection| match connection.owner() {
                Some((id, key)) => state.transport_by_tuple(key).is_some_and(|t| t.id == *id),
                None => false,
            },
            |connection| {
                #[cfg(test)]
                add_all(&mut self.retired.0, &connection.counts);
                connection.leave(unclaimed, now.room);
            },
        );
        for (direction, table) in
            [Direction::Receive, Direction::Send].into_iter().zip(stream_series)
        {
            table.retire(
                now.tick,
                GRACE,
                |series| match &series.owner {
                    Some((transport, id, ssrc)) => {
                        let owner = state.owner(transport, direction, *ssrc);
                        owner.and_then(|(owner, _)| owner_id(&owner)).is_some_and(|o| o == id)
                    }
                    None => false,
                },
                |series| {
                    #[cfg(test)]
                    self.retired.1.add(series.totals);
                    series.leave(unclaimed, now.room);
                },
            );
        }
    }

    /// All that has been counted and not retired: connections, held back or exposed, and streams.
    #[cfg(test)]
    pub(crate) fn counted(&self) -> (Counts, StreamTotals) {
        let (mut flows, mut streams) = (Counts::default(), StreamTotals::default());
        for source in self.sources.flows.iter().flatten() {
            add_all(&mut flows, &source.pending);
        }
        self.leftovers.add_to(&mut flows, &mut streams);
        for (_, connection) in self.connections.from(0) {
            add_all(&mut flows, &connection.values.counts);
        }
        for pending in self.streams.values().filter_map(|source| source.pending.as_ref()) {
            streams.add(**pending);
        }
        for (_, series) in self.stream_series.iter().flat_map(|table| table.from(0)) {
            streams.add(series.values.totals);
        }
        (flows, streams)
    }

    /// Flows and streams that are followed.
    pub(crate) fn sources(&self) -> (usize, usize) {
        (self.sources.by_tuple.len(), self.streams.len())
    }
}

fn stream_key(slot: u32, direction: Direction, ssrc: u32) -> StreamKey {
    u64::from(slot) << 33 | (direction as u64) << 32 | u64::from(ssrc)
}

impl Unclaimed {
    pub(crate) fn take_connection(&mut self) -> bool {
        let fits = self.connections < self.max_connections;
        self.connections += usize::from(fits);
        fits
    }

    pub(crate) fn has_stream(&self) -> bool {
        self.streams < self.max_streams
    }
}
