//! Steps of time, the youngest of which are short and the older long, within a bound of memory.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::history::sample::{Packed, Sample, Side};

/// What everything did in one step. What did nothing has no sample.
#[derive(Debug)]
pub struct Frame {
    /// When it began, milliseconds since the exporter did.
    pub start: u64,
    /// How long it was, milliseconds.
    pub length: u64,
    /// Ordered by their tracks.
    samples: Box<[Packed]>,
}

/// Whose a sample is, and on which side.
pub(super) type Place = (u32, Side);

impl Frame {
    /// Samples of one track become one.
    pub(super) fn new(start: u64, length: u64, mut samples: Vec<(Place, Sample)>) -> Self {
        samples.sort_by_key(|((track, _), _)| *track);
        samples.dedup_by(|(later, sample), (place, sum)| {
            let is_same = later == place;
            if is_same {
                sum.add(sample);
            }
            is_same
        });
        let pack = |((track, side), sample): &(Place, Sample)| Packed::new(*track, *side, sample);
        Self { start, length, samples: samples.iter().map(pack).collect() }
    }

    /// Several steps as one.
    fn fold(frames: &[Arc<Self>]) -> Self {
        let start = frames.first().map_or(0, |frame| frame.start);
        let end = frames.last().map_or(0, |frame| frame.end());
        let samples = frames.iter().flat_map(|frame| frame.iter());
        Self::new(start, end - start, samples.collect())
    }

    /// When it ended.
    pub fn end(&self) -> u64 {
        self.start + self.length
    }

    /// All samples with their places.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Place, Sample)> {
        self.samples.iter().map(|it| ((it.track(), it.side()), it.sample()))
    }

    /// How many samples it has.
    pub(super) fn samples(&self) -> usize {
        self.samples.len()
    }

    /// Samples as they lie there.
    pub(super) fn packed(&self) -> &[Packed] {
        &self.samples
    }

    fn bytes(&self) -> usize {
        size_of::<Self>() + size_of_val(&*self.samples)
    }
}

/// How far back, and how finely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spans {
    /// Short steps that make one long one.
    pub fold: usize,
    /// Short steps that are kept at least.
    pub short: usize,
    /// Long steps that are kept.
    pub long: usize,
}

/// All steps. The long ones end where the short ones begin.
#[derive(Clone, Debug, Default)]
pub(super) struct Frames {
    /// The oldest first.
    short: VecDeque<Arc<Frame>>,
    long: VecDeque<Arc<Frame>>,
    bytes: usize,
}

impl Frames {
    /// Adds a short step. Of the oldest, those go that are beyond the spans, or that memory has no room for.
    pub(super) fn push(&mut self, frame: Frame, spans: Spans, room: usize) {
        self.bytes += frame.bytes();
        self.short.push_back(Arc::new(frame));
        if self.short.len() >= spans.short + spans.fold {
            let old: Vec<_> = self.short.drain(..spans.fold).collect();
            let long = Frame::fold(&old);
            self.bytes += long.bytes();
            self.bytes -= old.iter().map(|frame| frame.bytes()).sum::<usize>();
            self.long.push_back(Arc::new(long));
        }
        while self.long.len() > spans.long || self.bytes > room {
            if !self.drop_oldest() {
                break;
            }
        }
    }

    /// The oldest step goes; false when only the present is left, which is never forgotten.
    pub(super) fn drop_oldest(&mut self) -> bool {
        if self.long.is_empty() && self.short.len() < 2 {
            return false;
        }
        let oldest = self.long.pop_front().or_else(|| self.short.pop_front());
        self.bytes -= oldest.map_or(0, |frame| frame.bytes());
        true
    }

    /// All of them, the oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Frame>> {
        self.long.iter().chain(&self.short)
    }

    /// Memory that samples take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the oldest step began.
    pub(super) fn start(&self) -> Option<u64> {
        self.iter().next().map(|frame| frame.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPANS: Spans = Spans { fold: 3, short: 6, long: 4 };

    fn frame(step: u64, tracks: &[u32]) -> Frame {
        let sample = Sample { bytes: 10, packets: 1, ..Sample::default() };
        let samples = tracks.iter().map(|track| ((*track, Side::Sent), sample)).collect();
        Frame::new(step * 5_000, 5_000, samples)
    }

    #[test]
    fn long_steps_are_the_sum_of_the_short_ones_and_both_end() {
        let mut frames = Frames::default();
        for step in 0..32 {
            frames.push(frame(step, &[7, 2]), SPANS, usize::MAX);
        }
        let steps: Vec<_> = frames.iter().map(|it| (it.start / 5_000, it.length / 5_000)).collect();
        let long = [12, 15, 18, 21].map(|start| (start, 3));
        let short = [24, 25, 26, 27, 28, 29, 30, 31].map(|start| (start, 1));
        assert_eq!(steps, [&long[..], &short[..]].concat());
        let samples = frames.long[0].iter().map(|((track, _), it)| (track, it.packets));
        assert_eq!(samples.collect::<Vec<_>>(), [(2, 3), (7, 3)]);
        assert_eq!(frames.start(), Some(12 * 5_000));
        assert_eq!(frames.bytes(), frames.iter().map(|it| it.bytes()).sum::<usize>());
    }

    #[test]
    fn memory_bounds_the_past_and_never_the_present() {
        let mut frames = Frames::default();
        let tracks: Vec<u32> = (0..100).collect();
        let room = 5 * frame(0, &tracks).bytes();
        for step in 0..30 {
            frames.push(frame(step, &tracks), SPANS, room);
            assert!(frames.bytes() <= room);
        }
        assert!(frames.short.len() >= 3, "{}", frames.short.len());
        for step in 30..40 {
            frames.push(frame(step, &tracks), SPANS, 1);
            assert_eq!((frames.long.len(), frames.short.len()), (0, 1));
        }
        assert_eq!(frames.bytes(), frames.iter().map(|it| it.bytes()).sum::<usize>());
    }
}
