//! The ledger of what was counted on the wire: connections, streams, and strangers.
//!
//! Joined rows come in; monotonic series go out. What the sources here are, and what happens to bytes
//! whose owner is told late, stands in the documentation of [`crate::ledger`].

use std::sync::Arc;

use foldhash::HashMap;

use crate::join::{FlowRow, Joined, StreamRow};
use crate::labels::block::Block;
use crate::labels::text::{self, limit};
use crate::labels::{Labels, Tick};
use crate::ledger::series::{GRACE, Room, SeriesId, Table};
use crate::ledger::totals::{Counts, StreamTotals, add, grown};
use crate::model::{Class, Counter, Direction, JoinKey, TransportId, Tuple};
use crate::state::{Owner, State, StreamRole};

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
    unclaimed: Unclaimed,
    round: u64,
}

/// What one update needs to know.
pub(crate) struct Now<'a> {
    pub(crate) tick: Tick,
    /// Ticks that traffic without an owner is held back.
    pub(crate) hold: Tick,
    pub(crate) labels: &'a mut Labels,
    pub(crate) room: &'a mut Room,
}

/// A connection's series, all classes together.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) counts: Counts,
    /// Bit n: class n is exposed.
    pub(crate) classes: u8,
    /// Whose it is, so that it stays while its transport lives though the flow is silent.
    owner: Option<(TransportId, JoinKey)>,
    /// Held so that the connection's label is not decided anew.
    _remote: Arc<str>,
}

/// A stream's series.
#[derive(Debug)]
pub(crate) struct StreamSeries {
    pub(crate) totals: StreamTotals,
    owner: Option<(TransportId, Arc<str>, u32)>,
    unclaimed: bool,
}

/// Traffic of flows that nobody told and nothing proved.
#[derive(Debug, Default)]
pub(crate) struct Strangers {
    /// Of flows that ended as strangers.
    pub(crate) resolved: Counts,
    /// Bytes of those that the tables hold now.
    pub(crate) pending_bytes: u64,
    /// Flows that the tables hold now.
    pub(crate) flows: u64,
}

/// How many series without an owner there may be.
#[derive(Debug)]
struct Unclaimed {
    connections: usize,
    max_connections: usize,
    streams: usize,
    max_streams: usize,
}

/// How much is known of a source's owner, least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Nobody,
    Transport,
    Owner,
}

/// Index of the flow's source · 2³³ + direction · 2³² + SSRC.
type StreamKey = u64;

#[derive(Debug, Default)]
struct Sources {
    by_tuple: HashMap<Tuple, u32>,
    flows: Vec<Option<FlowSource>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct FlowSource {
    tuple: Tuple,
    last: Counts,
    /// Grown, but not yet in a series.
    pending: Counts,
    series: Option<SeriesId>,
    /// Of the series.
    claimed: bool,
    /// Since when there is no series.
    since: Tick,
    transport: Option<TransportId>,
    /// Grows when another transport takes the tuple over.
    epoch: u32,
    /// The epoch of the series.
    series_epoch: u32,
    remote: Option<Arc<str>>,
    streams: u32,
    ended: bool,
    round: u64,
}

#[derive(Debug)]
struct StreamSource {
    last: StreamTotals,
    /// Grown, but not yet in a series.
    pending: Option<Box<StreamTotals>>,
    series: Option<SeriesId>,
    level: Level,
    role: Option<StreamRole>,
    owner: Option<Arc<str>>,
    epoch: u32,
    since: Tick,
    round: u64,
}

/// What the servers say of a stream at this moment.
struct Claim<'a> {
    level: Level,
    transport: Option<&'a TransportId>,
    owner: Option<&'a Arc<str>>,
    role: Option<StreamRole>,
    epoch: u32,
}

impl Packets {
    pub(crate) fn new(max_connections: usize, max_streams: usize) -> Self {
        let unclaimed = Unclaimed { connections: 0, max_connections, streams: 0, max_streams };
        Self {
            sources: Sources::default(),
            streams: HashMap::default(),
            connections: Table::default(),
            stream_series: Default::default(),
            strangers: Strangers::default(),
            unclaimed,
            round: 0,
        }
    }

    /// Takes one reading in.
    pub(crate) fn update(&mut self, joined: &Joined<'_>, state: &State, now: &mut Now<'_>) {
        self.round += 1;
        self.strangers.pending_bytes = 0;
        self.strangers.flows = 0;
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
            self.streams.remove(&key);
        }
    }

    /// Gives what a flow and its streams grew by to its connection's series.
    fn settle(&mut self, slot: u32, claimed: bool, now: &mut Now<'_>) {
        let source = self.sources.get_mut(slot);
        source.settle(claimed, &mut self.connections, &mut self.unclaimed, now);
        if source.ended && source.streams == 0 {
            self.sources.remove(slot);
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
            |connection| match &connection.owner {
                Some((id, key)) => state.transport_by_tuple(key).is_some_and(|t| t.id == *id),
                None => false,
            },
            |connection| connection.leave(unclaimed, now.room),
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
                |series| series.leave(unclaimed, now.room),
            );
        }
    }

    /// Flows and streams that are followed.
    pub(crate) fn sources(&self) -> (usize, usize) {
        (self.sources.by_tuple.len(), self.streams.len())
    }
}

fn stream_key(slot: u32, direction: Direction, ssrc: u32) -> StreamKey {
    u64::from(slot) << 33 | (direction as u64) << 32 | u64::from(ssrc)
}

fn owner_id<'a>(owner: &Owner<'a>) -> Option<&'a Arc<str>> {
    match owner {
        Owner::Producer(producer) => Some(&producer.id.0),
        Owner::Consumer(consumer) => Some(&consumer.id.0),
        Owner::Transport => None,
    }
}

impl Sources {
    fn insert(&mut self, tuple: Tuple, tick: Tick) -> u32 {
        let source = Some(FlowSource {
            tuple,
            last: Counts::default(),
            pending: Counts::default(),
            series: None,
            claimed: false,
            since: tick,
            transport: None,
            epoch: 0,
            series_epoch: 0,
            remote: None,
            streams: 0,
            ended: false,
            round: 0,
        });
        let slot = match self.free.pop() {
            Some(slot) => {
                self.flows[slot as usize] = source;
                slot
            }
            None => {
                self.flows.push(source);
                self.flows.len() as u32 - 1
            }
        };
        self.by_tuple.insert(tuple, slot);
        slot
    }

    fn get_mut(&mut self, slot: u32) -> &mut FlowSource {
        self.flows[slot as usize].as_mut().expect("a slot that the index names is taken")
    }

    fn remove(&mut self, slot: u32) {
        if let Some(source) = self.flows[slot as usize].take() {
            self.by_tuple.remove(&source.tuple);
            self.free.push(slot);
        }
    }
}

impl FlowSource {
    fn take(&mut self, raw: &Counts, ended: bool) {
        let lasts = self.last.iter_mut().flatten();
        let pendings = self.pending.iter_mut().flatten();
        for ((last, pending), raw) in lasts.zip(pendings).zip(raw.iter().flatten()) {
            add(pending, grown(last, *raw));
        }
        self.ended = ended;
        if ended {
            // The same tuple begins again from zero. The source itself stays while it has streams:
            // they are known by its slot.
            self.last = Counts::default();
        }
    }

    fn claim(&mut self, transport: &TransportId) {
        if self.transport.as_ref() == Some(transport) {
            return;
        }
        if self.transport.replace(transport.clone()).is_some() {
            self.epoch += 1;
        }
    }

    fn settle(
        &mut self,
        claimed: bool,
        table: &mut Table<Arc<str>, Connection>,
        unclaimed: &mut Unclaimed,
        now: &mut Now<'_>,
    ) {
        if let Some(id) = self.series {
            match table.get_mut(id) {
                // It was retired under this source, whose transport is gone.
                None => {
                    self.series = None;
                    self.since = now.tick;
                }
                Some(series) if self.claimed && !claimed => {
                    return series.values.take(&mut self.pending, now.room);
                }
                Some(series) if self.claimed == claimed && self.series_epoch == self.epoch => {
                    if !self.ended {
                        series.touch(now.tick);
                    }
                    return series.values.take(&mut self.pending, now.room);
                }
                Some(_) => return self.move_on(id, table, unclaimed, now),
            }
        }
        let empty = self.pending.iter().flatten().all(|counter| counter.packets == 0);
        let waits = !claimed && !self.ended && now.tick.saturating_sub(self.since) < now.hold;
        if !empty && !waits {
            self.open(claimed, table, unclaimed, now);
        }
    }

    /// The series' labels are no longer right: another transport has the tuple, or one has claimed it.
    fn move_on(
        &mut self,
        old: SeriesId,
        table: &mut Table<Arc<str>, Connection>,
        unclaimed: &mut Unclaimed,
        now: &mut Now<'_>,
    ) {
        let was_claimed = self.claimed;
        if !was_claimed
            && table.get_mut(old).is_some_and(|series| !series.shared)
            && let Some(values) = table.remove(old)
        {
            // Nobody else has counted there, so the bytes move to their owner. The old series goes
            // in the same moment: at no time are they to be seen twice.
            for (pending, counted) in
                self.pending.iter_mut().flatten().zip(values.counts.iter().flatten())
            {
                add(pending, *counted);
            }
            values.leave(unclaimed, now.room);
            self.series = None;
        }
        self.open(true, table, unclaimed, now);
    }

    fn open(
        &mut self,
        claimed: bool,
        table: &mut Table<Arc<str>, Connection>,
        unclaimed: &mut Unclaimed,
        now: &mut Now<'_>,
    ) {
        let key = self.tuple.join_key();
        if self.remote.is_none() {
            self.remote = match self.ended {
                // The last chance to show it.
                true => Some(now.labels.remote_now(&key)),
                false => now.labels.remote(&key),
            };
        }
        let Some(remote) = self.remote.clone() else { return };
        let transport = self.transport.as_ref().filter(|_| claimed);
        let labels = connection_labels(&self.tuple, transport, &remote, &mut now.labels.text);
        let id = match table.join(&labels) {
            Some(id) => id,
            None if !claimed && !unclaimed.take_connection() => {
                return now.room.refuse(CLASS_SERIES);
            }
            None => {
                let owner = transport.map(|transport| (transport.clone(), key));
                let (counts, classes) = Default::default();
                let values = Connection { counts, classes, owner, _remote: remote };
                table.open(labels, values, now.tick)
            }
        };
        (self.series, self.claimed, self.series_epoch) = (Some(id), claimed, self.epoch);
        if let Some(series) = table.get_mut(id) {
            series.touch(now.tick);
            series.values.take(&mut self.pending, now.room);
        }
    }
}

impl Connection {
    /// Takes what is pending of each class that is exposed, or that there is room for.
    fn take(&mut self, pending: &mut Counts, room: &mut Room) {
        for class in 0..5 {
            let bit = 1 << class;
            let grown = pending[0][class].packets + pending[1][class].packets > 0;
            if self.classes & bit == 0 {
                if !grown || !room.take(CLASS_SERIES) {
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

    fn leave(self, unclaimed: &mut Unclaimed, room: &mut Room) {
        room.give_back(u64::from(self.classes.count_ones()) * CLASS_SERIES);
        unclaimed.connections -= usize::from(self.owner.is_none());
    }
}

impl<'a> Claim<'a> {
    fn of(row: &StreamRow<'a>, flow: &FlowRow<'a>, epoch: u32) -> Self {
        let transport = flow.transport.map(|transport| &transport.id);
        let (level, owner, role) = match &row.owner {
            Some((owner, role)) => (Level::Owner, owner_id(owner), Some(*role)),
            None if transport.is_some() => (Level::Transport, None, None),
            None => (Level::Nobody, None, None),
        };
        Self { level, transport, owner, role, epoch }
    }
}

impl StreamSource {
    fn new(tick: Tick) -> Self {
        Self {
            last: StreamTotals::default(),
            pending: None,
            series: None,
            level: Level::Nobody,
            role: None,
            owner: None,
            epoch: 0,
            since: tick,
            round: 0,
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one ledger, borrowed apart")]
    fn settle(
        &mut self,
        grown: StreamTotals,
        claim: &Claim<'_>,
        ssrc: u32,
        ended: bool,
        table: &mut Table<Arc<str>, StreamSeries>,
        unclaimed: &mut Unclaimed,
        now: &mut Now<'_>,
    ) {
        let mut pending = grown;
        if let Some(held) = self.pending.take() {
            pending.add(*held);
        }
        if let Some(id) = self.series {
            match table.get_mut(id) {
                None => {
                    self.series = None;
                    self.since = now.tick;
                }
                // Its owner closed: what still comes is his, until the series goes.
                Some(series) if claim.level < self.level => {
                    return series.values.totals.add(pending);
                }
                Some(series) if self.is(claim) => {
                    if !ended {
                        series.touch(now.tick);
                    }
                    return series.values.totals.add(pending);
                }
                Some(series) => {
                    if claim.level > self.level
                        && !series.shared
                        && let Some(values) = table.remove(id)
                    {
                        // As for a connection: the bytes follow their owner.
                        pending.add(values.totals);
                        values.leave(unclaimed, now.room);
                    }
                    self.series = None;
                }
            }
        }
        let young = now.tick.saturating_sub(self.since) < now.hold;
        let waits = claim.level < Level::Owner && young && !ended;
        if pending.is_zero() {
            return;
        }
        if waits || !self.open(pending, claim, ssrc, table, unclaimed, now) {
            self.pending = Some(Box::new(pending));
        }
    }

    fn is(&self, claim: &Claim<'_>) -> bool {
        self.level == claim.level
            && self.epoch == claim.epoch
            && self.role == claim.role
            && self.owner.as_ref() == claim.owner
    }

    fn open(
        &mut self,
        pending: StreamTotals,
        claim: &Claim<'_>,
        ssrc: u32,
        table: &mut Table<Arc<str>, StreamSeries>,
        unclaimed: &mut Unclaimed,
        now: &mut Now<'_>,
    ) -> bool {
        let labels = stream_labels(claim, ssrc, &mut now.labels.text);
        let id = match table.join(&labels) {
            Some(id) => id,
            None => {
                let nobodys = claim.level == Level::Nobody;
                if nobodys && !unclaimed.has_stream() {
                    now.room.refuse(STREAM_SERIES);
                    return false;
                }
                if !now.room.take(STREAM_SERIES) {
                    return false;
                }
                unclaimed.streams += usize::from(nobodys);
                let owner = claim.transport.zip(claim.owner);
                let owner = owner.map(|(transport, id)| (transport.clone(), id.clone(), ssrc));
                let totals = StreamTotals::default();
                table.open(labels, StreamSeries { totals, owner, unclaimed: nobodys }, now.tick)
            }
        };
        if let Some(series) = table.get_mut(id) {
            series.touch(now.tick);
            series.values.totals.add(pending);
        }
        self.series = Some(id);
        (self.level, self.role, self.epoch) = (claim.level, claim.role, claim.epoch);
        self.owner = claim.owner.cloned();
        true
    }
}

impl StreamSeries {
    fn leave(self, unclaimed: &mut Unclaimed, room: &mut Room) {
        room.give_back(STREAM_SERIES);
        unclaimed.streams -= usize::from(self.unclaimed);
    }
}

impl Unclaimed {
    fn take_connection(&mut self) -> bool {
        let fits = self.connections < self.max_connections;
        self.connections += usize::from(fits);
        fits
    }

    fn has_stream(&self) -> bool {
        self.streams < self.max_streams
    }
}

impl Strangers {
    fn take_flow(&mut self, row: &FlowRow<'_>) {
        let Some(flow) = row.flow else { return };
        self.flows += u64::from(!flow.ended);
        for (resolved, counter) in
            self.resolved.iter_mut().flatten().zip(flow.counts.iter().flatten())
        {
            self.pending_bytes += resolve(resolved, *counter, flow.ended);
        }
    }

    fn take_stream(&mut self, row: &StreamRow<'_>) {
        let stream = row.stream;
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

fn stream_labels(claim: &Claim<'_>, ssrc: u32, counts: &mut text::TextCounts) -> Arc<str> {
    let transport = claim.transport.map_or("", TransportId::as_str);
    let role = match claim.role {
        None => "",
        Some(StreamRole::Media) => "media",
        Some(StreamRole::Rtx) => "rtx",
        Some(StreamRole::Probation) => "probation",
    };
    Block::open()
        .label("transport_id", &text::clean(transport, limit::ID, counts))
        .label("id", &text::clean(claim.owner.map_or("", |id| id), limit::ID, counts))
        .label("ssrc", itoa::Buffer::new().format(ssrc))
        .label("role", role)
        .close()
}
