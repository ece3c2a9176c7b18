//! The history as it was at one moment, for who looks at it at leisure.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use crate::history::facts::Facts;
use crate::history::frames::{Frame, Frames};
use crate::history::sample::{Sample, Side};
use crate::history::track::Track;

/// Everything that was kept at one moment. A copy costs a few pointers.
#[derive(Clone, Debug, Default)]
pub struct Past {
    frames: Frames,
    tracks: Arc<Vec<Option<Arc<Track>>>>,
    /// What is known of those whose traffic this is, as of now.
    pub facts: Arc<Facts>,
    /// When the last step ended, milliseconds since the exporter began.
    pub now: u64,
    /// When the exporter began by the clock as it goes now, milliseconds of Unix time.
    pub epoch: u64,
}

/// Some time of the past, in steps of one length.
#[derive(Debug)]
pub struct Stretch<'a> {
    frames: Vec<&'a Arc<Frame>>,
    tracks: &'a [Option<Arc<Track>>],
}

impl Past {
    pub(super) fn new(
        frames: Frames,
        tracks: Arc<Vec<Option<Arc<Track>>>>,
        facts: Arc<Facts>,
        now: u64,
        epoch: u64,
    ) -> Self {
        Self { frames, tracks, facts, now, epoch }
    }

    /// The steps that lie within this time, milliseconds since the exporter began: short ones where these reach
    /// back to its beginning, or as far as anything does; else long ones, and short ones since the last of them.
    pub fn stretch(&self, time: Range<u64>) -> Stretch<'_> {
        let Frames { short, long, .. } = &self.frames;
        let start = time.start.max(self.start());
        let has_short = short.front().is_some_and(|first| first.start <= start);
        let (long, since) = match long.back() {
            Some(last) if !has_short => (within(long, &time), last.end()),
            _ => (Vec::new(), 0),
        };
        let short = within(short, &time).into_iter().filter(|frame| frame.start >= since);
        Stretch { frames: long.into_iter().chain(short).collect(), tracks: &self.tracks }
    }

    /// Since when there is something, milliseconds since the exporter began.
    pub fn start(&self) -> u64 {
        self.frames.start().unwrap_or(self.now)
    }
}

/// Frames most of which lies within the time.
fn within<'a>(frames: &'a VecDeque<Arc<Frame>>, time: &Range<u64>) -> Vec<&'a Arc<Frame>> {
    let lies_within = |frame: &&Arc<Frame>| time.contains(&(frame.start + frame.length / 2));
    frames.iter().filter(lies_within).collect()
}

impl<'a> Stretch<'a> {
    /// How many steps.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// There is no step.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// When each step began, and how long it was, milliseconds.
    pub fn steps(&self) -> impl Iterator<Item = (u64, u64)> {
        self.frames.iter().map(|frame| (frame.start, frame.length))
    }

    /// All samples: the step, whose, and what.
    pub fn samples(&self) -> impl Iterator<Item = (usize, u32, &'a Arc<Track>, Sample)> {
        let tracks = self.tracks;
        let side = move |number: u32| {
            let track = tracks.get(number as usize).and_then(Option::as_ref);
            track.map_or(Side::Received, |track| track.side)
        };
        self.frames.iter().enumerate().flat_map(move |(step, frame)| {
            frame.iter(side).filter_map(move |(number, sample)| {
                let track = tracks.get(number as usize)?.as_ref()?;
                Some((step, number, track, sample))
            })
        })
    }
}
