//! The ledger of streams: what an SSRC grew by becomes the series of its owner.

use std::sync::Arc;

use foldhash::HashMap;

use crate::join::{Claim, Level};
use crate::labels::{Labels, Tick};
use crate::ledger::capacity::Capacity;
use crate::ledger::series::{SeriesId, Table};
use crate::ledger::stream_labels::StreamLabels;
use crate::ledger::totals::StreamTotals;
use crate::ledger::turn::Turn;
use crate::ledger::unclaimed::Unclaimed;
use crate::model::{Clock, Direction, Stream, TransportId};
use crate::state::StreamRole;

/// Families that one stream has a series in; in that of jitter only if its clock is known.
const STREAM_SERIES: u64 = 8;

/// A stream's series.
#[derive(Clone, Debug)]
pub(crate) struct StreamSeries {
    pub(crate) totals: StreamTotals,
    pub(crate) owner: Option<(TransportId, Arc<str>, u32)>,
    /// Of the stream that counted into it last; it means nothing without a clock.
    jitter: u32,
    clock: Option<Clock>,
    unclaimed: bool,
}

/// All streams that are followed.
#[derive(Debug, Default)]
pub(crate) struct StreamMeters {
    by_key: HashMap<StreamKey, u32>,
    slots: Vec<Option<StreamMeter>>,
    free: Vec<u32>,
}

/// Its flow's slot, and what tells it apart there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct StreamKey {
    pub(crate) flow: u32,
    pub(crate) direction: Direction,
    pub(crate) ssrc: u32,
}

/// A stream's last totals, and where what it grows by goes.
#[derive(Debug)]
pub(crate) struct StreamMeter {
    pub(crate) key: StreamKey,
    pub(crate) last: StreamTotals,
    /// Grown, but not yet in a series.
    pub(crate) pending: Option<Box<StreamTotals>>,
    series: Option<SeriesId>,
    /// These four say what the series' labels say.
    level: Level,
    role: Option<StreamRole>,
    owner: Option<Arc<str>>,
    epoch: u32,
    /// Whoever the series names has closed.
    orphan: bool,
    /// The flow's claims when the claim on this stream was last asked for.
    claims: u32,
    since: Tick,
    /// The first reading that spoke of it.
    pub(crate) born: u64,
    pub(crate) round: u64,
    /// The meter that came after this one in the last reading.
    pub(crate) next: u32,
}

/// What the servers say of a stream at this moment.
pub(crate) struct Claimed<'a> {
    pub(crate) claim: Claim,
    pub(crate) transport: Option<&'a TransportId>,
    pub(crate) epoch: u32,
    pub(crate) claims: u32,
}

impl StreamMeters {
    pub(crate) fn find(&self, key: &StreamKey) -> Option<u32> {
        self.by_key.get(key).copied()
    }

    pub(crate) fn insert(&mut self, key: StreamKey, tick: Tick, born: u64) -> u32 {
        let meter = Some(StreamMeter::new(key, tick, born));
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = meter;
                slot
            }
            None => {
                self.slots.push(meter);
                self.slots.len() as u32 - 1
            }
        };
        self.by_key.insert(key, slot);
        slot
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&StreamMeter> {
        self.slots.get(slot as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> &mut StreamMeter {
        self.slots[slot as usize].as_mut().expect("a slot that the index names is taken")
    }

    pub(crate) fn remove(&mut self, slot: u32) -> Option<StreamMeter> {
        let meter = self.slots[slot as usize].take()?;
        self.by_key.remove(&meter.key);
        self.free.push(slot);
        Some(meter)
    }

    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Slots that may be taken.
    pub(crate) fn slots(&self) -> std::ops::Range<u32> {
        0..self.slots.len() as u32
    }
}

impl Claimed<'_> {
    /// The labels of the series that it names.
    pub(crate) fn labels(&self, ssrc: u32, labels: &mut Labels) -> StreamLabels {
        let transport = self.transport.map_or("", TransportId::as_str);
        let owner = self.claim.owner.as_deref().unwrap_or("");
        StreamLabels::new(labels.object(transport, owner), ssrc, self.claim.role)
    }
}

impl StreamMeter {
    fn new(key: StreamKey, tick: Tick, born: u64) -> Self {
        Self {
            key,
            last: StreamTotals::default(),
            pending: None,
            series: None,
            level: Level::Nobody,
            role: None,
            owner: None,
            epoch: 0,
            orphan: false,
            claims: 0,
            since: tick,
            born,
            round: 0,
            next: 0,
        }
    }

    /// Where what it grows by goes, and what it is there.
    pub(crate) fn series(&self) -> Option<(SeriesId, Option<StreamRole>)> {
        self.series.map(|series| (series, self.role))
    }

    /// Gives what grew to the series that it went to before. False when there is none, or when the
    /// servers may have told something new of it.
    pub(crate) fn go_on(
        &mut self,
        grown: StreamTotals,
        claims: u32,
        stream: &Stream,
        table: &mut Table<StreamLabels, StreamSeries>,
        tick: Tick,
    ) -> bool {
        let series = self.series.filter(|_| self.claims == claims);
        let Some(series) = series.and_then(|id| table.get_mut(id)) else { return false };
        if !self.orphan && !stream.ended {
            series.touch(tick);
        }
        series.values.take(grown, stream);
        true
    }

    /// Gives what grew and what waits to the series that the servers' claim asks for. What trails after
    /// whoever had the stream closed and its series went is given back: it is in its connection's totals.
    pub(crate) fn settle(
        &mut self,
        grown: StreamTotals,
        claimed: &Claimed<'_>,
        stream: &Stream,
        table: &mut Table<StreamLabels, StreamSeries>,
        unclaimed: &mut Unclaimed,
        turn: &mut Turn<'_>,
    ) -> StreamTotals {
        let nothing = StreamTotals::default();
        self.claims = claimed.claims;
        let mut pending = grown;
        if let Some(held) = self.pending.take() {
            pending.add(*held);
        }
        if let Some(id) = self.series {
            let stays = self.is(claimed);
            // Its owner closed: what still comes is his, until the series goes.
            let is_left = claimed.claim.level < self.level;
            self.orphan = is_left || claimed.claim.closed;
            if stays || is_left {
                if self.go_on(pending, claimed.claims, stream, table, turn.tick) {
                    return nothing;
                }
            } else if claimed.claim.level > self.level
                && table.get(id).is_some_and(|series| !series.shared)
                && let Some(values) = table.vacate(id, turn.tick)
            {
                // As for a connection: the bytes follow their owner.
                pending.add(values.totals);
                values.leave(unclaimed, turn.capacity);
            }
            self.series = None;
        }
        if pending.is_zero() {
            self.since = turn.tick + 1;
            return nothing;
        }
        if self.is_over(claimed) {
            return pending;
        }
        let young = turn.tick.saturating_sub(self.since) < turn.hold;
        let may_be_claimed = claimed.claim.level < Level::Owner && !claimed.claim.closed;
        let waits = may_be_claimed && young && !stream.ended;
        if waits {
            unclaimed.streams.wait(pending.total.bytes);
        }
        if waits || !self.open(pending, claimed, stream, table, unclaimed, turn) {
            self.pending = Some(Box::new(pending));
        }
        nothing
    }

    /// Nobody sees it on its own: what it has counted waits, and is in its connection's totals.
    pub(crate) fn is_of_crowd(&self, claimed: &Claimed<'_>) -> bool {
        self.pending.is_some() && claimed.claim.level < Level::Owner
    }

    /// Whoever has it closed, and its series has gone.
    fn is_over(&self, Claimed { claim, epoch, .. }: &Claimed<'_>) -> bool {
        let was_shown = self.level >= claim.level && self.epoch == *epoch;
        claim.closed && was_shown && self.series.is_none()
    }

    fn is(&self, Claimed { claim, transport: _, epoch, claims: _ }: &Claimed<'_>) -> bool {
        let Claim { level, owner, closed: _, role, clock: _ } = claim;
        (self.level, self.epoch, self.role) == (*level, *epoch, *role) && self.owner == *owner
    }

    fn open(
        &mut self,
        pending: StreamTotals,
        claimed: &Claimed<'_>,
        stream: &Stream,
        table: &mut Table<StreamLabels, StreamSeries>,
        unclaimed: &mut Unclaimed,
        turn: &mut Turn<'_>,
    ) -> bool {
        let ssrc = self.key.ssrc;
        let Claim { level, owner, closed, role, clock } = &claimed.claim;
        let ownerless = (*level < Level::Owner).then_some(pending.total.bytes);
        // Labels cost more than a look, and a crowd has many.
        if let Some(bytes) = ownerless
            && unclaimed.are_a_crowd()
            && !unclaimed.streams.has_room(bytes)
        {
            return false;
        }
        let labels = claimed.labels(ssrc, turn.labels);
        let named = claimed.transport.zip(owner.as_ref());
        let named = named.map(|(transport, id)| (transport.clone(), id.clone(), ssrc));
        let Some(id) = StreamSeries::open(labels, named, ownerless, table, unclaimed, turn) else {
            return false;
        };
        if let Some(series) = table.get_mut(id) {
            series.touch(turn.tick);
            series.values.clock = clock.filter(|_| turn.jitter);
            series.values.take(pending, stream);
        }
        (self.series, self.orphan) = (Some(id), *closed);
        (self.level, self.role, self.epoch) = (*level, *role, claimed.epoch);
        self.owner = owner.clone();
        true
    }
}

impl StreamSeries {
    /// The series of these labels; of a stream without an owner, for so many bytes. `None` when there is no
    /// room for another, or not yet.
    pub(crate) fn open(
        labels: StreamLabels,
        owner: Option<(TransportId, Arc<str>, u32)>,
        ownerless: Option<u64>,
        table: &mut Table<StreamLabels, Self>,
        unclaimed: &mut Unclaimed,
        turn: &mut Turn<'_>,
    ) -> Option<SeriesId> {
        if let Some(id) = table.join(&labels) {
            return Some(id);
        }
        if table.rests(&labels) {
            return None;
        }
        if let Some(bytes) = ownerless
            && !unclaimed.streams.take(bytes)
        {
            if !unclaimed.are_a_crowd() {
                turn.capacity.refuse(STREAM_SERIES);
            }
            return None;
        }
        if !turn.capacity.take(STREAM_SERIES) {
            if ownerless.is_some() {
                unclaimed.streams.give_back();
            }
            return None;
        }
        let totals = StreamTotals::default();
        let fresh = Self { totals, owner, jitter: 0, clock: None, unclaimed: ownerless.is_some() };
        Some(table.open(labels, fresh, turn.tick))
    }

    /// Interarrival jitter in sixteenths of a microsecond; `None` where the clock is not known. It
    /// cannot be added up: of several streams that share the series, it is that of the one whose
    /// packets were read last.
    pub(crate) fn jitter(&self) -> Option<u32> {
        self.clock.map(|_| self.jitter)
    }

    fn take(&mut self, grown: StreamTotals, stream: &Stream) {
        self.totals.add(grown);
        if let Some(clock) = self.clock
            && grown.total.packets > 0
        {
            self.jitter = stream.jitter[clock as usize];
        }
    }

    pub(crate) fn leave(self, unclaimed: &mut Unclaimed, capacity: &mut Capacity) {
        capacity.give_back(STREAM_SERIES);
        if self.unclaimed {
            unclaimed.streams.give_back();
        }
    }
}
