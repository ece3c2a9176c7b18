//! The ledger of flows: what a 5-tuple and its streams grew by becomes a connection's series.

use std::sync::Arc;

use foldhash::HashMap;

use crate::join::{self, Coverage};
use crate::labels::Tick;
use crate::labels::block::Block;
use crate::labels::text::{self, limit};
use crate::ledger::capacity::Capacity;
use crate::ledger::series::{SeriesId, Table};
use crate::ledger::totals::{Counts, add, add_all, grown};
use crate::ledger::turn::Turn;
use crate::ledger::unclaimed::Unclaimed;
use crate::model::{Class, Counter, JoinKey, TransportId, Tuple};
use crate::prefetch;
use crate::state::State;

/// Families that one class of a connection has a series in.
const CLASS_SERIES: u64 = 4;

/// A connection's series, all classes together.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) counts: Counts,
    /// Bit n: class n is exposed.
    pub(crate) classes: u8,
    named: Named,
}

/// All flows that are followed.
#[derive(Debug, Default)]
pub(crate) struct FlowMeters {
    pub(crate) by_tuple: HashMap<Tuple, u32>,
    pub(crate) flows: Vec<Option<FlowMeter>>,
    free: Vec<u32>,
}

/// A flow's last totals, and where what it grows by goes.
#[derive(Debug)]
pub(crate) struct FlowMeter {
    pub(crate) tuple: Tuple,
    last: Counts,
    /// Grown, but not yet in a series.
    pub(crate) pending: Counts,
    series: Option<SeriesId>,
    /// The series names a transport.
    claimed: bool,
    /// A transport claims the flow, or did until a moment ago.
    pub(crate) claimed_now: bool,
    /// Whoever claims it has closed.
    pub(crate) closed: bool,
    /// The number of its claim.
    claim: u64,
    /// All that it and its streams grew by.
    bytes: u64,
    /// Of these, what came since the last one who claimed the flow was forgotten.
    unclaimed_bytes: u64,
    /// Since when something waits for a series.
    since: Tick,
    /// Who claims it, or did.
    pub(crate) transport: Option<TransportId>,
    /// The state's revision when that was last asked for.
    asked: Option<u64>,
    /// When what the transport claims within the flow last changed.
    ssrcs_changed: u64,
    /// Grows when there may be another answer to whose a stream of this flow is.
    pub(crate) claims: u32,
    /// Grows when another transport takes the tuple over.
    pub(crate) epoch: u32,
    /// The epoch of the series.
    series_epoch: u32,
    remote: Option<Arc<str>>,
    pub(crate) streams: u32,
    pub(crate) ended: bool,
    /// The first reading that spoke of it.
    pub(crate) born: u64,
    pub(crate) round: u64,
    /// The meter that came after this one in the last reading.
    pub(crate) next: u32,
}

impl FlowMeters {
    pub(crate) fn insert(&mut self, tuple: Tuple, tick: Tick, born: u64) -> u32 {
        let meter = Some(FlowMeter {
            tuple,
            last: Counts::default(),
            pending: Counts::default(),
            series: None,
            claimed: false,
            claimed_now: false,
            closed: false,
            claim: 0,
            bytes: 0,
            unclaimed_bytes: 0,
            since: tick,
            transport: None,
            asked: None,
            ssrcs_changed: 0,
            claims: 1,
            epoch: 0,
            series_epoch: 0,
            remote: None,
            streams: 0,
            ended: false,
            born,
            round: 0,
            next: 0,
        });
        let slot = match self.free.pop() {
            Some(slot) => {
                self.flows[slot as usize] = meter;
                slot
            }
            None => {
                self.flows.push(meter);
                self.flows.len() as u32 - 1
            }
        };
        self.by_tuple.insert(tuple, slot);
        slot
    }

    /// The flow's slot; mostly it is the one that came after `before` the last time.
    pub(crate) fn follow(&mut self, before: Option<u32>, tuple: &Tuple) -> Option<u32> {
        let next = before.map_or(0, |before| self.get_mut(before).next);
        if self.is(next, tuple) {
            return Some(next);
        }
        let found = *self.by_tuple.get(tuple)?;
        if let Some(before) = before {
            self.get_mut(before).next = found;
        }
        Some(found)
    }

    /// The flow in this slot will be asked for soon. Streams come in the order of their meters, mostly,
    /// but with 20,000 flows between them no cache holds the next one's.
    pub(crate) fn prefetch(&self, slot: u32) {
        if let Some(meter) = self.flows.get(slot as usize) {
            prefetch::value(meter);
        }
    }

    pub(crate) fn is(&self, slot: u32, tuple: &Tuple) -> bool {
        let meter = self.flows.get(slot as usize).and_then(Option::as_ref);
        meter.is_some_and(|meter| meter.tuple == *tuple)
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> &mut FlowMeter {
        self.flows[slot as usize].as_mut().expect("a slot that the index names is taken")
    }

    pub(crate) fn remove(&mut self, slot: u32) -> Option<FlowMeter> {
        let meter = self.flows[slot as usize].take()?;
        self.by_tuple.remove(&meter.tuple);
        self.free.push(slot);
        Some(meter)
    }
}

impl FlowMeter {
    pub(crate) fn take(&mut self, raw: &Counts, ended: bool) {
        let lasts = self.last.iter_mut().flatten();
        let pendings = self.pending.iter_mut().flatten();
        let mut bytes = 0;
        for ((last, pending), raw) in lasts.zip(pendings).zip(raw.iter().flatten()) {
            let grown = grown(last, *raw);
            bytes += grown.bytes;
            add(pending, grown);
        }
        self.grow(bytes);
        self.ended = ended;
        if ended {
            // The same tuple begins again from zero. The meter itself stays while it has streams:
            // they are known by its slot.
            self.last = Counts::default();
        }
    }

    /// What the flow itself last counted: without its streams.
    pub(crate) fn own(&self) -> &Counts {
        &self.last
    }

    /// Where what it grows by goes.
    pub(crate) fn series(&self) -> Option<SeriesId> {
        self.series
    }

    /// Takes in what a stream of the flow grew by.
    pub(crate) fn take_rtp(&mut self, direction: usize, grown: Counter) {
        add(&mut self.pending[direction][Class::Rtp as usize], grown);
        self.grow(grown.bytes);
    }

    fn grow(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.unclaimed_bytes += if self.claimed_now { 0 } else { bytes };
    }

    /// Adds what came, and what of it came while nobody claimed the flow.
    pub(crate) fn cover(&self, coverage: &mut Coverage) {
        coverage.add(self.bytes, self.unclaimed_bytes);
    }

    /// Asks who claims the flow, unless the answer must be the one from before.
    /// Claims that are met for the first time are noted.
    pub(crate) fn ask(&mut self, state: &State, seen: &mut Vec<u64>) {
        if self.asked.replace(state.revision()) == Some(state.revision()) {
            return;
        }
        let holder = join::flow(state, &self.tuple);
        let transport = holder.map(|holder| holder.transport);
        let closed = holder.is_some_and(|holder| holder.closed);
        let ssrcs_changed = transport.map_or(0, |transport| state.ssrcs_changed(transport));
        let other = transport.is_some() && transport != self.transport.as_ref();
        let claim = (transport.is_some(), closed, ssrcs_changed);
        if other || claim != (self.claimed_now, self.closed, self.ssrcs_changed) {
            self.claims += 1;
        }
        (self.claimed_now, self.closed, self.ssrcs_changed) = claim;
        if let Some(holder) = holder {
            self.unclaimed_bytes = 0;
            if std::mem::replace(&mut self.claim, holder.claim) != holder.claim {
                seen.push(holder.claim);
            }
        }
        if other && self.transport.is_some() {
            self.epoch += 1;
        }
        if other {
            self.transport = transport.cloned();
        }
    }

    /// Gives what waits to a series.
    pub(crate) fn settle(
        &mut self,
        table: &mut Table<Arc<str>, Connection>,
        unclaimed: &mut Unclaimed,
        turn: &mut Turn<'_>,
    ) {
        let claimed = self.claimed_now;
        if let Some(id) = self.series {
            match table.get_mut(id) {
                // It was retired under this meter, whose transport is gone.
                None => self.series = None,
                Some(series) if self.claimed && !claimed => {
                    return series.values.take(&mut self.pending, turn.capacity);
                }
                Some(series) if self.claimed == claimed && self.series_epoch == self.epoch => {
                    if !self.ended && !self.closed {
                        series.touch(turn.tick);
                    }
                    return series.values.take(&mut self.pending, turn.capacity);
                }
                Some(_) => return self.move_on(id, table, unclaimed, turn),
            }
        }
        let empty = self.pending.iter().flatten().all(|counter| counter.packets == 0);
        let waits = !claimed && !self.ended && turn.tick.saturating_sub(self.since) < turn.hold;
        if empty {
            self.since = turn.tick + 1;
        } else if waits {
            unclaimed.connections.wait(self.waiting_bytes());
        } else if !self.is_over() {
            self.open(claimed, table, unclaimed, turn);
        }
    }

    /// Nobody claims it and nobody sees it on its own.
    pub(crate) fn is_of_crowd(&self) -> bool {
        self.series.is_none() && !self.claimed_now && !self.is_over()
    }

    /// What it has counted and no series has.
    pub(crate) fn waiting_bytes(&self) -> u64 {
        self.pending.iter().flatten().map(|counter| counter.bytes).sum()
    }

    /// Its owner closed and its series has gone, so that what waits will have none.
    fn is_over(&self) -> bool {
        let was_shown = self.claimed && self.series_epoch == self.epoch;
        self.closed && was_shown && self.series.is_none()
    }

    /// What trails after its owner closed and its series has gone.
    pub(crate) fn trail(&mut self) -> Option<Counts> {
        self.is_over().then(|| std::mem::take(&mut self.pending))
    }

    /// The series' labels are no longer right: another transport has the tuple, or one has claimed it.
    fn move_on(
        &mut self,
        old: SeriesId,
        table: &mut Table<Arc<str>, Connection>,
        unclaimed: &mut Unclaimed,
        turn: &mut Turn<'_>,
    ) {
        let was_claimed = self.claimed;
        if !was_claimed
            && table.get_mut(old).is_some_and(|series| !series.shared)
            && let Some(values) = table.vacate(old, turn.tick)
        {
            // Nobody else has counted there, so the bytes move to their owner. The old series goes
            // in the same moment: at no time are they to be seen twice.
            add_all(&mut self.pending, &values.counts);
            values.leave(unclaimed, turn.capacity);
            self.series = None;
        }
        self.open(true, table, unclaimed, turn);
    }

    fn open(
        &mut self,
        claimed: bool,
        table: &mut Table<Arc<str>, Connection>,
        unclaimed: &mut Unclaimed,
        turn: &mut Turn<'_>,
    ) {
        let bytes = self.waiting_bytes();
        // Labels cost more than a look, and a crowd has many.
        if !claimed && unclaimed.are_a_crowd() && !unclaimed.connections.has_room(bytes) {
            return;
        }
        let Some((labels, owner)) = self.labels(claimed, turn) else { return };
        let Some(id) = Connection::open(labels, owner, bytes, table, unclaimed, turn) else {
            return;
        };
        (self.series, self.claimed, self.series_epoch) = (Some(id), claimed, self.epoch);
        if let Some(series) = table.get_mut(id) {
            series.touch(turn.tick);
            series.values.take(&mut self.pending, turn.capacity);
        }
    }

    /// The labels of the series that this flow belongs to, and who they name; `None` while the far
    /// end's label is undecided.
    pub(crate) fn labels(
        &mut self,
        claimed: bool,
        turn: &mut Turn<'_>,
    ) -> Option<(Arc<str>, Named)> {
        let key = self.tuple.join_key();
        if self.remote.is_none() {
            self.remote = match self.ended {
                // The last chance to show it.
                true => Some(turn.labels.remote_now(&key)),
                false => turn.labels.remote(&key),
            };
        }
        let remote = self.remote.clone()?;
        let transport = self.transport.as_ref().filter(|_| claimed);
        let labels = connection_labels(&self.tuple, transport, &remote, &mut turn.labels.text);
        Some((labels, Named { owner: transport.map(|id| (id.clone(), key)), _remote: remote }))
    }
}

/// Who a connection's labels name.
#[derive(Clone, Debug)]
pub(crate) struct Named {
    /// Whose it is, so that it stays while its transport lives though the flow is silent.
    pub(crate) owner: Option<(TransportId, JoinKey)>,
    /// Held so that the connection's label is not decided anew.
    pub(crate) _remote: Arc<str>,
}

impl Connection {
    /// The series of these labels, for so many bytes; `None` when there is no room for another, or not yet.
    pub(crate) fn open(
        labels: Arc<str>,
        named: Named,
        bytes: u64,
        table: &mut Table<Arc<str>, Self>,
        unclaimed: &mut Unclaimed,
        turn: &mut Turn<'_>,
    ) -> Option<SeriesId> {
        if let Some(id) = table.join(&labels) {
            return Some(id);
        }
        if table.rests(&labels) {
            return None;
        }
        if named.owner.is_none() && !unclaimed.connections.take(bytes) {
            if !unclaimed.are_a_crowd() {
                turn.capacity.refuse(CLASS_SERIES);
            }
            return None;
        }
        let (counts, classes) = Default::default();
        Some(table.open(labels, Self { counts, classes, named }, turn.tick))
    }

    /// Its transport, while that has this tuple.
    pub(crate) fn owner(&self) -> Option<&(TransportId, JoinKey)> {
        self.named.owner.as_ref()
    }

    /// Takes what is pending of each class that is exposed, or that there is room for.
    pub(crate) fn take(&mut self, pending: &mut Counts, capacity: &mut Capacity) {
        for class in 0..5 {
            let bit = 1 << class;
            let grown = pending[0][class].packets + pending[1][class].packets > 0;
            if self.classes & bit == 0 {
                if !grown || !capacity.take(CLASS_SERIES) {
                    continue;
                }
                self.classes |= bit;
            }
            for direction in 0..2 {
                let pending = std::mem::take(&mut pending[direction][class]);
                add(&mut self.counts[direction][class], pending);
            }
        }
    }

    pub(crate) fn leave(self, unclaimed: &mut Unclaimed, capacity: &mut Capacity) {
        capacity.give_back(u64::from(self.classes.count_ones()) * CLASS_SERIES);
        if self.named.owner.is_none() {
            unclaimed.connections.give_back();
        }
    }
}

/// All labels but the class, whose value and closing quote the writer adds.
fn connection_labels(
    tuple: &Tuple,
    transport: Option<&TransportId>,
    remote: &str,
    counts: &mut text::TextCounts,
) -> Arc<str> {
    let transport = transport.map_or("", TransportId::as_str);
    Block::open()
        .label("transport_id", &text::clean(transport, limit::ID, counts))
        .label("proto", tuple.proto.as_str())
        .label("local_addr", &tuple.local.to_string())
        .label("remote_addr", remote)
        .finish()
}
