//! What streams and connections did from their first packet to their last, for who keeps a record of those that
//! ended. Not bounded by how far back the history reaches.

use std::sync::Arc;

use crate::history::sample::{Sample, Side};
use crate::history::track::{Connection, Whose};

/// Milliseconds for which something that closed has to be quiet: packets trail after it.
pub(super) const TRAIL: u64 = 20_000;
/// Milliseconds after which something that no server tells of is over when it is quiet.
pub(super) const QUIET: u64 = 120_000;
/// What the worst of is kept, milliseconds.
const MINUTE: u64 = 60_000;

/// What one track did in all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Life {
    /// Sums, and the worst of what is no sum.
    pub sum: Sample,
    /// When its first step began, milliseconds since the exporter did.
    pub first: u64,
    /// When its last step ended.
    pub last: u64,
    /// The minute with the largest share of losses, if there was a loss.
    pub worst: Option<Minute>,
    minute: Minute,
}

/// What happened in a minute, to the step.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Minute {
    /// When it began, milliseconds since the exporter did.
    pub start: u64,
    /// What happened.
    pub sample: Sample,
}

impl Minute {
    /// The one with the larger share of losses; of equal ones the first.
    fn worse(self, other: Self, side: Side) -> Self {
        let loss = |minute: &Self| minute.sample.loss(side).unwrap_or_default();
        if loss(&other) > loss(&self) { other } else { self }
    }
}

impl Life {
    fn new(start: u64) -> Self {
        Self { first: start, minute: Minute { start, ..Minute::default() }, ..Self::default() }
    }

    fn add(&mut self, start: u64, end: u64, sample: &Sample, side: Side) {
        if start >= self.minute.start + MINUTE {
            self.end_minute(side);
            self.minute = Minute { start, ..Minute::default() };
        }
        self.minute.sample.add(sample);
        self.sum.add(sample);
        self.last = end;
    }

    /// What went before belongs to it.
    fn take_in(&mut self, mut before: Self, side: Side) {
        before.end_minute(side);
        self.worst = match (before.worst, self.worst) {
            (Some(before), Some(own)) => Some(before.worse(own, side)),
            (before, own) => before.or(own),
        };
        self.sum.add(&before.sum);
        self.first = self.first.min(before.first);
        self.last = self.last.max(before.last);
    }

    fn end_minute(&mut self, side: Side) {
        if self.minute.sample.lost > 0 {
            let worst = self.worst.map(|worst| worst.worse(self.minute, side));
            self.worst = worst.or(Some(self.minute));
        }
    }
}

/// Something that ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// What it was.
    pub whose: Whose,
    /// The connection of a stream that names no transport.
    pub carrier: Option<Arc<Connection>>,
    /// What it received.
    pub received: Option<Life>,
    /// What it sent.
    pub sent: Option<Life>,
    /// A server told of it, or of the transport that it belongs to.
    pub told: bool,
    /// When its first step began, or it was told of, milliseconds since the exporter began.
    pub first: u64,
    /// When its last step ended, or it was gone.
    pub last: u64,
}

/// By the tracks' numbers.
#[derive(Debug, Default)]
pub(super) struct Lives {
    of: Vec<Option<Box<Life>>>,
}

impl Lives {
    /// A track did something in a step.
    pub(super) fn add(&mut self, track: u32, side: Side, step: (u64, u64), sample: &Sample) {
        let number = track as usize;
        if self.of.len() <= number {
            self.of.resize_with(number + 1, || None);
        }
        let life = self.of[number].get_or_insert_with(|| Box::new(Life::new(step.0)));
        life.add(step.0, step.1, sample, side);
    }

    /// When a track last did something, if its life goes on.
    pub(super) fn last(&self, track: u32) -> Option<u64> {
        Some(self.of.get(track as usize)?.as_ref()?.last)
    }

    /// Tracks whose lives go on, and that have been quiet for [`TRAIL`] at least.
    pub(super) fn quiet(&self, now: u64) -> impl Iterator<Item = u32> {
        let lives = (0..).zip(&self.of);
        lives.filter_map(move |(track, life)| {
            let life = life.as_ref()?;
            (life.last + TRAIL <= now).then_some(track)
        })
    }

    /// Tracks whose lives go on.
    pub(super) fn all(&self) -> impl Iterator<Item = u32> {
        (0..).zip(&self.of).filter_map(|(track, life)| life.as_ref().map(|_| track))
    }

    /// What went on as one track goes on as another.
    pub(super) fn join(&mut self, before: u32, after: u32, side: Side) {
        let Some(old) = self.of.get_mut(before as usize).and_then(Option::take) else { return };
        match self.of.get_mut(after as usize) {
            Some(Some(life)) => life.take_in(*old, side),
            Some(place) => *place = Some(old),
            None => self.of[before as usize] = Some(old),
        }
    }

    /// A life is over.
    pub(super) fn end(&mut self, track: u32, side: Side) -> Option<Life> {
        let mut life = *self.of.get_mut(track as usize)?.take()?;
        life.end_minute(side);
        Some(life)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(packets: u64, lost: i64) -> Sample {
        Sample { packets, lost, bytes: packets * 100, ..Sample::default() }
    }

    #[test]
    fn a_life_is_the_sum_of_its_steps_and_has_its_worst_minute() {
        let mut lives = Lives::default();
        for step in 0..36 {
            // The second minute loses a tenth, the third one packet.
            let lost = match step {
                12..24 => 10,
                30 => 1,
                _ => 0,
            };
            let time = (step * 5_000, step * 5_000 + 5_000);
            lives.add(3, Side::Received, time, &sample(100 - lost as u64, lost));
        }
        assert_eq!(lives.last(3), Some(180_000));
        assert_eq!(lives.quiet(199_999).count(), 0);
        assert_eq!(lives.quiet(200_000).collect::<Vec<_>>(), [3]);
        let life = lives.end(3, Side::Received).unwrap();
        assert_eq!((life.sum.packets, life.sum.lost), (3600 - 121, 121));
        assert_eq!((life.first, life.last), (0, 180_000));
        let worst = life.worst.unwrap();
        assert_eq!((worst.start, worst.sample.lost), (60_000, 120));
        assert_eq!(lives.end(3, Side::Received), None);
        assert_eq!(lives.all().count(), 0);
    }

    #[test]
    fn a_life_goes_on_under_another_number() {
        let mut lives = Lives::default();
        lives.add(0, Side::Received, (0, 5_000), &sample(10, 3));
        lives.add(1, Side::Received, (5_000, 10_000), &sample(20, 1));
        lives.join(0, 1, Side::Received);
        assert_eq!(lives.end(0, Side::Received), None);
        let life = lives.end(1, Side::Received).unwrap();
        assert_eq!((life.sum.packets, life.first, life.last), (30, 0, 10_000));
        assert_eq!(life.worst.unwrap().sample.lost, 3);
    }

    #[test]
    fn a_short_life_has_a_worst_minute_too_and_one_without_loss_has_none() {
        let mut lives = Lives::default();
        lives.add(0, Side::Sent, (0, 5_000), &sample(10, 3));
        lives.add(1, Side::Sent, (0, 5_000), &sample(10, 0));
        assert_eq!(lives.end(0, Side::Sent).unwrap().worst.unwrap().sample.lost, 3);
        assert_eq!(lives.end(1, Side::Sent).unwrap().worst, None);
    }
}
