//! What each meter last read, and the labels of the series that it counts into: for whoever wants to know what
//! happened between two moments. A series takes over what others had counted; a meter does not.

use std::sync::Arc;

use crate::ledger::packets::Packets;
use crate::ledger::stream_labels::StreamLabels;
use crate::ledger::totals::{Counts, StreamTotals};
use crate::model::Direction;
use crate::state::StreamRole;

/// A stream's meter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamMeterReading<'a> {
    /// Its number, which another may have after it.
    pub(crate) slot: u32,
    /// Tells it from others of that number: the first reading that spoke of it.
    pub(crate) born: u64,
    /// Its flow's number.
    pub(crate) flow: u32,
    pub(crate) direction: Direction,
    pub(crate) ssrc: u32,
    pub(crate) totals: &'a StreamTotals,
    /// `None` while nobody sees it on its own.
    pub(crate) shown: Option<ShownStream<'a>>,
}

/// How a stream is shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ShownStream<'a> {
    pub(crate) labels: &'a StreamLabels,
    pub(crate) role: Option<StreamRole>,
    /// Sixteenths of a microsecond.
    pub(crate) jitter: Option<u32>,
}

/// A flow's meter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlowMeterReading<'a> {
    /// Its number, which another may have after it.
    pub(crate) slot: u32,
    /// Tells it from others of that number.
    pub(crate) born: u64,
    /// What it counted without its streams, by direction and class.
    pub(crate) own: &'a Counts,
    /// `None` while nobody sees it on its own.
    pub(crate) labels: Option<&'a Arc<str>>,
}

impl Packets {
    /// All streams' meters.
    pub(crate) fn stream_meters(&self) -> impl Iterator<Item = StreamMeterReading<'_>> {
        self.streams.slots().filter_map(move |slot| {
            let meter = self.streams.get(slot)?;
            let key = meter.key;
            let shown = meter.series().and_then(|(series, role)| {
                let series = self.stream_series[key.direction as usize].get(series)?;
                let jitter = series.values.jitter();
                Some(ShownStream { labels: &series.labels, role, jitter })
            });
            let (born, totals) = (meter.born, &meter.last);
            let (flow, direction, ssrc) = (key.flow, key.direction, key.ssrc);
            Some(StreamMeterReading { slot, born, flow, direction, ssrc, totals, shown })
        })
    }

    /// All flows' meters.
    pub(crate) fn flow_meters(&self) -> impl Iterator<Item = FlowMeterReading<'_>> {
        (0..).zip(&self.meters.flows).filter_map(move |(slot, meter)| {
            let meter = meter.as_ref()?;
            let (born, own, labels) = (meter.born, meter.own(), self.flow_labels(slot));
            Some(FlowMeterReading { slot, born, own, labels })
        })
    }

    /// The labels of the series that a flow counts into; `None` while nobody sees it on its own.
    pub(crate) fn flow_labels(&self, slot: u32) -> Option<&Arc<str>> {
        let series = self.meters.flows.get(slot as usize)?.as_ref()?.series()?;
        Some(&self.connections.get(series)?.labels)
    }
}
