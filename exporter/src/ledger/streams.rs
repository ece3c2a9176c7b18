//! The ledger of streams: what an SSRC grew by becomes the series of its owner.

use std::sync::Arc;

use crate::join::{FlowRow, StreamRow};
use crate::labels::Tick;
use crate::labels::block::Block;
use crate::labels::text::{self, limit};
use crate::ledger::packets::{Now, STREAM_SERIES, Unclaimed};
use crate::ledger::series::{Room, SeriesId, Table};
use crate::ledger::totals::StreamTotals;
use crate::model::TransportId;
use crate::state::{Owner, StreamRole};

/// A stream's series.
#[derive(Debug)]
pub(crate) struct StreamSeries {
    pub(crate) totals: StreamTotals,
    pub(crate) owner: Option<(TransportId, Arc<str>, u32)>,
    unclaimed: bool,
}

/// How much is known of a source's owner, least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Nobody,
    Transport,
    Owner,
}

/// A stream's last totals, and where what it grows by goes.
#[derive(Debug)]
pub(crate) struct StreamSource {
    pub(crate) last: StreamTotals,
    /// Grown, but not yet in a series.
    pub(crate) pending: Option<Box<StreamTotals>>,
    series: Option<SeriesId>,
    level: Level,
    role: Option<StreamRole>,
    owner: Option<Arc<str>>,
    epoch: u32,
    since: Tick,
    pub(crate) round: u64,
}

/// What the servers say of a stream at this moment.
pub(crate) struct Claim<'a> {
    pub(crate) level: Level,
    transport: Option<&'a TransportId>,
    owner: Option<&'a Arc<str>>,
    role: Option<StreamRole>,
    epoch: u32,
}

impl<'a> Claim<'a> {
    /// Of a joined row.
    pub(crate) fn of(row: &StreamRow<'a>, flow: &FlowRow<'a>, epoch: u32) -> Self {
        let transport = flow.transport.map(|transport| &transport.id);
        let (level, owner, role) = match &row.owner {
            Some((owner, role)) => (Level::Owner, owner_id(owner), Some(*role)),
            None if transport.is_some() => (Level::Transport, None, None),
            None => (Level::Nobody, None, None),
        };
        Self { level, transport, owner, role, epoch }
    }

    /// The labels of the series that it names.
    pub(crate) fn labels(&self, ssrc: u32, counts: &mut text::TextCounts) -> Arc<str> {
        let transport = self.transport.map_or("", TransportId::as_str);
        let role = match self.role {
            None => "",
            Some(StreamRole::Media) => "media",
            Some(StreamRole::Rtx) => "rtx",
            Some(StreamRole::Probation) => "probation",
        };
        Block::open()
            .label("transport_id", &text::clean(transport, limit::ID, counts))
            .label("id", &text::clean(self.owner.map_or("", |id| id), limit::ID, counts))
            .label("ssrc", itoa::Buffer::new().format(ssrc))
            .label("role", role)
            .close()
    }
}

/// The id of a producer or consumer.
pub(crate) fn owner_id<'a>(owner: &Owner<'a>) -> Option<&'a Arc<str>> {
    match owner {
        Owner::Producer(producer) => Some(&producer.id.0),
        Owner::Consumer(consumer) => Some(&consumer.id.0),
        Owner::Transport => None,
    }
}

impl StreamSource {
    pub(crate) fn new(tick: Tick) -> Self {
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

    /// Gives what grew and what waits to a series.
    #[expect(clippy::too_many_arguments, reason = "the parts of one ledger, borrowed apart")]
    pub(crate) fn settle(
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
                None => self.series = None,
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
                        && let Some(values) = table.vacate(id, now.tick)
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
            self.since = now.tick + 1;
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
        let labels = claim.labels(ssrc, &mut now.labels.text);
        let owner = claim.transport.zip(claim.owner);
        let owner = owner.map(|(transport, id)| (transport.clone(), id.clone(), ssrc));
        let nobodys = claim.level == Level::Nobody;
        let Some(id) = StreamSeries::open(labels, owner, nobodys, table, unclaimed, now) else {
            return false;
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
    /// The series of these labels; `None` when there is no room for another, or not yet.
    pub(crate) fn open(
        labels: Arc<str>,
        owner: Option<(TransportId, Arc<str>, u32)>,
        nobodys: bool,
        table: &mut Table<Arc<str>, Self>,
        unclaimed: &mut Unclaimed,
        now: &mut Now<'_>,
    ) -> Option<SeriesId> {
        if let Some(id) = table.join(&labels) {
            return Some(id);
        }
        if table.rests(&labels) {
            return None;
        }
        if nobodys && !unclaimed.has_stream() {
            now.room.refuse(STREAM_SERIES);
            return None;
        }
        if !now.room.take(STREAM_SERIES) {
            return None;
        }
        unclaimed.streams += usize::from(nobodys);
        let totals = StreamTotals::default();
        Some(table.open(labels, Self { totals, owner, unclaimed: nobodys }, now.tick))
    }

    pub(crate) fn leave(self, unclaimed: &mut Unclaimed, room: &mut Room) {
        room.give_back(STREAM_SERIES);
        unclaimed.streams -= usize::from(self.unclaimed);
    }
}
