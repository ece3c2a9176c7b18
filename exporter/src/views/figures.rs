//! The numbers of one row, and how they are worked out of samples.

use crate::history::{Sample, Side};
use crate::views::verdict::Verdict;

/// What a row says of some time, and of the end of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    /// Everything that was received and sent, as the view counts it.
    pub(crate) received: Sample,
    pub(crate) sent: Sample,
    /// Of these, media streams alone: loss, jitter and score are theirs.
    pub(crate) media_in: Sample,
    pub(crate) media_out: Sample,
    /// Bytes of the last few steps.
    pub(crate) now_received: u64,
    pub(crate) now_sent: u64,
    /// How long that was.
    pub(crate) seconds: f64,
    pub(crate) now_seconds: f64,
    /// First and last step, milliseconds since the exporter began.
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// Somebody in it is there now.
    pub(crate) live: bool,
    /// Of the peer, or of the one who suffers most.
    pub(crate) verdict: Option<Verdict>,
}

impl Figures {
    /// Bits a second at the end.
    pub(crate) fn now_in(&self) -> f64 {
        rate(self.now_received, self.now_seconds)
    }

    pub(crate) fn now_out(&self) -> f64 {
        rate(self.now_sent, self.now_seconds)
    }

    /// Bits a second over the time.
    pub(crate) fn mean_in(&self) -> f64 {
        rate(self.received.bytes, self.seconds)
    }

    pub(crate) fn mean_out(&self) -> f64 {
        rate(self.sent.bytes, self.seconds)
    }

    pub(crate) fn packets(&self) -> u64 {
        self.received.packets + self.sent.packets
    }

    /// A share of one.
    pub(crate) fn loss_in(&self) -> Option<f64> {
        self.media_in.loss(Side::Received)
    }

    pub(crate) fn loss_out(&self) -> Option<f64> {
        self.media_out.loss(Side::Sent)
    }

    /// Seconds, the highest.
    pub(crate) fn jitter(&self) -> Option<f64> {
        self.media_in.jitter.map(seconds)
    }

    pub(crate) fn round_trip(&self) -> Option<f64> {
        self.media_out.round_trip.map(seconds)
    }

    /// The lowest.
    pub(crate) fn score(&self) -> Option<u8> {
        match (self.media_in.score, self.media_out.score) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }
}

fn rate(bytes: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { bytes as f64 * 8.0 / seconds } else { 0.0 }
}

fn seconds(micros: u32) -> f64 {
    f64::from(micros) / 1e6
}
