//! The history as it was at one moment, for who looks at it at leisure.

use std::ops::Range;
use std::sync::Arc;

use crate::history::facts::Facts;
use crate::history::frames::{Frame, Frames};
use crate::history::sample::{Sample, Side, Sum};
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

/// Some time of the past: long steps, then short ones.
#[derive(Debug)]
pub struct Stretch<'a> {
    frames: Vec<&'a Arc<Frame>>,
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

    /// The steps most of which lies within this time, milliseconds since the exporter began.
    pub fn stretch(&self, time: Range<u64>) -> Stretch<'_> {
        let lies_within = |frame: &&Arc<Frame>| time.contains(&(frame.start + frame.length / 2));
        Stretch { frames: self.frames.iter().filter(lies_within).collect() }
    }

    /// Numbers of tracks are below this.
    pub fn most_tracks(&self) -> usize {
        self.tracks.len()
    }

    /// Whose samples have this number.
    pub fn track(&self, number: u32) -> Option<&Arc<Track>> {
        self.tracks.get(number as usize)?.as_ref()
    }

    /// All tracks, with their numbers.
    pub fn tracks(&self) -> impl Iterator<Item = (u32, &Arc<Track>)> {
        let tracks = (0..).zip(self.tracks.iter());
        tracks.filter_map(|(number, track)| Some((number, track.as_ref()?)))
    }

    /// Since when there is something, milliseconds since the exporter began.
    pub fn start(&self) -> u64 {
        self.frames.start().unwrap_or(self.now)
    }
}

impl Stretch<'_> {
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

    /// What each track did in these steps, and in those of them that `is_late` says, the number of bytes.
    pub fn sums(&self, past: &Past, is_late: impl Fn(u64, u64) -> bool) -> Vec<(Sum, u64)> {
        let mut sums = vec![(Sum::default(), 0); past.tracks.len()];
        for frame in &self.frames {
            let is_late = u64::from(is_late(frame.start, frame.length));
            for packed in frame.packed() {
                if let Some((sum, late)) = sums.get_mut(packed.track() as usize) {
                    sum.add(packed);
                    *late += is_late * packed.bytes();
                }
            }
        }
        sums
    }

    /// Bytes of all samples: the step, the track's number, and how many.
    pub fn bytes(&self) -> impl Iterator<Item = (usize, u32, u64)> {
        self.frames.iter().enumerate().flat_map(|(step, frame)| {
            frame.packed().iter().map(move |packed| (step, packed.track(), packed.bytes()))
        })
    }

    /// All samples: the step, the track's number, the side, and what happened.
    pub fn samples(&self) -> impl Iterator<Item = (usize, u32, Side, Sample)> {
        self.frames.iter().enumerate().flat_map(|(step, frame)| {
            frame.iter().map(move |((number, side), sample)| (step, number, side, sample))
        })
    }
}
