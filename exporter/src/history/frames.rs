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

impl Frame {
    /// Samples of one track become one.
    pub(super) fn new(
        start: u64,
        length: u64,
        mut samples: Vec<(u32, Sample)>,
        side: impl Fn(u32) -> Side,
    ) -> Self {
        samples.sort_by_key(|(track, _)| *track);
        samples.dedup_by(|(later, sample), (track, sum)| {
            let is_same = later == track;
            if is_same {
                sum.add(sample);
            }
            is_same
        });
        let pack = |(track, sample): &(u32, Sample)| Packed::new(*track, side(*track), sample);
        Self { start, length, samples: samples.iter().map(pack).collect() }
    }

    /// When it ended.
    pub fn end(&self) -> u64 {
        self.start + self.length
    }

    /// All samples with their tracks; `side` says which fields a track's samples have.
    pub(super) fn iter(&self, side: impl Fn(u32) -> Side) -> impl Iterator<Item = (u32, Sample)> {
        self.samples.iter().map(move |it| (it.track(), it.sample(side(it.track()))))
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
    /// Short steps that are kept.
    pub short: usize,
    /// Long steps that are kept.
    pub long: usize,
}

/// All steps.
#[derive(Clone, Debug, Default)]
pub(super) struct Frames {
    /// The oldest first.
    pub(super) short: VecDeque<Arc<Frame>>,
    pub(super) long: VecDeque<Arc<Frame>>,
    /// Short steps since the last long one.
    fresh: usize,
    bytes: usize,
}

impl Frames {
    /// Adds a short step. Of the oldest, those go that are beyond the spans, or that memory has no room for.
    pub(super) fn push(
        &mut self,
        frame: Frame,
        spans: Spans,
        room: usize,
        side: impl Fn(u32) -> Side + Copy,
    ) {
        self.bytes += frame.bytes();
        self.short.push_back(Arc::new(frame));
        self.fresh += 1;
        if self.fresh >= spans.fold {
            let last = self.short.len().saturating_sub(self.fresh);
            let long = fold(self.short.iter().skip(last), side);
            self.fresh = 0;
            self.bytes += long.bytes();
            self.long.push_back(Arc::new(long));
        }
        while self.short.len() > spans.short {
            self.drop_short();
        }
        while self.long.len() > spans.long {
            self.drop_long();
        }
        while self.bytes > room && self.drop_oldest() {}
    }

    /// The oldest step goes: the far past first. What is fresh is in no long step yet.
    fn drop_oldest(&mut self) -> bool {
        if !self.long.is_empty() {
            self.drop_long();
            return true;
        }
        let is_old = self.short.len() > self.fresh.max(1);
        if is_old {
            self.drop_short();
        }
        is_old
    }

    fn drop_short(&mut self) {
        self.bytes -= self.short.pop_front().map_or(0, |frame| frame.bytes());
    }

    fn drop_long(&mut self) {
        self.bytes -= self.long.pop_front().map_or(0, |frame| frame.bytes());
    }

    /// Memory that samples take.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the oldest step began.
    pub(super) fn start(&self) -> Option<u64> {
        let oldest = [self.short.front(), self.long.front()];
        oldest.into_iter().flatten().map(|frame| frame.start).min()
    }
}

/// Several steps as one.
fn fold<'a>(
    frames: impl Iterator<Item = &'a Arc<Frame>>,
    side: impl Fn(u32) -> Side + Copy,
) -> Frame {
    let (mut start, mut end) = (u64::MAX, 0);
    let mut samples: Vec<(u32, Sample)> = Vec::new();
    for frame in frames {
        start = start.min(frame.start);
        end = end.max(frame.end());
        samples.extend(frame.iter(side));
    }
    Frame::new(start, end.saturating_sub(start), samples, side)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPANS: Spans = Spans { fold: 3, short: 6, long: 4 };

    fn side(_: u32) -> Side {
        Side::Received
    }

    fn frame(step: u64, tracks: &[u32]) -> Frame {
        let sample = Sample { bytes: 10, packets: 1, ..Sample::default() };
        let samples = tracks.iter().map(|track| (*track, sample)).collect();
        Frame::new(step * 5_000, 5_000, samples, side)
    }

    #[test]
    fn long_steps_are_the_sum_of_the_short_ones_and_both_end() {
        let mut frames = Frames::default();
        for step in 0..30 {
            frames.push(frame(step, &[7, 2]), SPANS, usize::MAX, side);
        }
        let starts = |frames: &VecDeque<Arc<Frame>>| -> Vec<u64> {
            frames.iter().map(|frame| frame.start / 5_000).collect()
        };
        assert_eq!(starts(&frames.short), [24, 25, 26, 27, 28, 29]);
        assert_eq!(starts(&frames.long), [18, 21, 24, 27]);
        let long = &frames.long[0];
        let samples: Vec<_> = long.iter(side).map(|(track, it)| (track, it.packets)).collect();
        assert_eq!((long.length, samples), (15_000, vec![(2, 3), (7, 3)]));
        assert_eq!(frames.start(), Some(18 * 5_000));
        let bytes: usize = frames.short.iter().chain(&frames.long).map(|it| it.bytes()).sum();
        assert_eq!(frames.bytes(), bytes);
    }

    #[test]
    fn memory_bounds_the_past_and_never_the_present() {
        let mut frames = Frames::default();
        let tracks: Vec<u32> = (0..100).collect();
        let room = 5 * frame(0, &tracks).bytes();
        for step in 0..30 {
            frames.push(frame(step, &tracks), SPANS, room, side);
            assert!(frames.bytes() <= room);
        }
        assert!(frames.short.len() >= 3, "{}", frames.short.len());
        for step in 30..40 {
            frames.push(frame(step, &tracks), SPANS, 1, side);
        }
        assert!(frames.long.is_empty() && !frames.short.is_empty());
    }
}
