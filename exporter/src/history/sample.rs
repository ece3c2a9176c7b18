//! What one stream or one direction of a connection did in one step of time, in sixteen bytes.
//!
//! Six hours of 10,000 streams are millions of these, so each field has the room that it needs and no more.
//! What is larger than its field reads as the largest value.

/// What something did in one step, or in several together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Bytes, as the families of bytes count them.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Received streams: packets lost before this host (RFC 3550 A.3), negative when duplicates outnumber
    /// losses. Sent streams: packets that the far side newly reported lost.
    pub lost: i64,
    /// Received streams: the highest interarrival jitter, microseconds.
    pub jitter: Option<u32>,
    /// Sent streams: the longest round trip time that the far side's reports gave, microseconds.
    pub round_trip: Option<u32>,
    /// The lowest score, 0 to 10.
    pub score: Option<u8>,
}

/// Which fields a sample has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What the far side sent: loss and jitter were seen here.
    Received,
    /// What the SFU sent: loss and round trip were told by the far side.
    Sent,
}

/// A [`Sample`] and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packed {
    track: [u8; 3],
    score: u8,
    bytes: u32,
    packets: [u8; 3],
    lost: [u8; 3],
    /// Jitter in tens of microseconds, or round trip time in hundreds.
    time: u16,
}

/// Tracks that can be told apart.
pub(super) const MOST_TRACKS: usize = 1 << 24;

const NO_SCORE: u8 = u8::MAX;
const NO_TIME: u16 = u16::MAX;
const MOST_PACKETS: u64 = (1 << 24) - 1;
const MOST_LOST: i64 = (1 << 23) - 1;

impl Packed {
    pub(super) fn new(track: u32, side: Side, sample: &Sample) -> Self {
        let time = match side {
            Side::Received => sample.jitter.map(|micros| micros / JITTER_UNIT),
            Side::Sent => sample.round_trip.map(|micros| micros / ROUND_TRIP_UNIT),
        };
        let lost = sample.lost.clamp(-MOST_LOST, MOST_LOST) as i32;
        Self {
            track: low(track),
            score: sample.score.unwrap_or(NO_SCORE),
            bytes: sample.bytes.min(u32::MAX.into()) as u32,
            packets: low(sample.packets.min(MOST_PACKETS) as u32),
            lost: low(lost as u32),
            time: time.map_or(NO_TIME, |time| time.min(u32::from(NO_TIME) - 1) as u16),
        }
    }

    pub(super) fn track(&self) -> u32 {
        number(self.track)
    }

    pub(super) fn sample(&self, side: Side) -> Sample {
        let time = (self.time != NO_TIME).then_some(u32::from(self.time));
        let (jitter, round_trip) = match side {
            Side::Received => (time.map(|time| time * JITTER_UNIT), None),
            Side::Sent => (None, time.map(|time| time * ROUND_TRIP_UNIT)),
        };
        Sample {
            bytes: self.bytes.into(),
            packets: number(self.packets).into(),
            // The sign is the 24th bit.
            lost: i64::from((number(self.lost) << 8) as i32 >> 8),
            jitter,
            round_trip,
            score: (self.score != NO_SCORE).then_some(self.score),
        }
    }
}

const JITTER_UNIT: u32 = 10;
const ROUND_TRIP_UNIT: u32 = 100;

impl Sample {
    /// Takes in what happened in another step, or to another stream: sums, and the worst of what is no sum.
    pub fn add(&mut self, other: &Self) {
        let Self { bytes, packets, lost, jitter, round_trip, score } = other;
        self.bytes += bytes;
        self.packets += packets;
        self.lost += lost;
        self.jitter = self.jitter.max(*jitter);
        self.round_trip = self.round_trip.max(*round_trip);
        self.score = match (self.score, *score) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
    }

    /// Lost packets among those that were to come; `None` when there were none, or when the far side has
    /// told nothing yet.
    pub fn loss(&self, side: Side) -> Option<f64> {
        let (sent, is_told) = match side {
            Side::Received => (self.packets as i64 + self.lost, true),
            Side::Sent => (self.packets as i64, self.round_trip.is_some() || self.lost != 0),
        };
        (sent > 0 && is_told).then(|| (self.lost.max(0) as f64 / sent as f64).min(1.0))
    }
}

fn low(number: u32) -> [u8; 3] {
    let [a, b, c, _] = number.to_le_bytes();
    [a, b, c]
}

fn number([a, b, c]: [u8; 3]) -> u32 {
    u32::from_le_bytes([a, b, c, 0])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(lost: i64) -> Sample {
        let (jitter, round_trip) = (Some(12_340), None);
        Sample { bytes: 1_000_000, packets: 900, lost, jitter, round_trip, score: Some(7) }
    }

    #[test]
    fn a_sample_takes_sixteen_bytes_and_comes_back_whole() {
        assert_eq!(size_of::<Packed>(), 16);
        for lost in [0, 5, -3, MOST_LOST, -MOST_LOST] {
            let packed = Packed::new(0xab_cdef, Side::Received, &sample(lost));
            assert_eq!((packed.track(), packed.sample(Side::Received)), (0xab_cdef, sample(lost)));
        }
        let sent = Sample { jitter: None, round_trip: Some(164_000), score: None, ..sample(9) };
        assert_eq!(Packed::new(1, Side::Sent, &sent).sample(Side::Sent), sent);
    }

    #[test]
    fn what_is_too_large_reads_as_the_largest() {
        let (bytes, packets, lost) = (u64::MAX, u64::MAX, i64::MIN);
        let (jitter, score) = (Some(u32::MAX), Some(0));
        let huge = Sample { bytes, packets, lost, jitter, round_trip: None, score };
        let shown = Packed::new(0, Side::Received, &huge).sample(Side::Received);
        assert_eq!((shown.bytes, shown.packets), (u32::MAX.into(), MOST_PACKETS));
        assert_eq!((shown.lost, shown.jitter, shown.score), (-MOST_LOST, Some(655_340), Some(0)));
    }

    #[test]
    fn several_are_a_sum_and_the_worst() {
        let mut all = Sample { jitter: Some(99), ..sample(10) };
        all.add(&Sample { score: Some(3), ..sample(-4) });
        all.add(&Sample::default());
        let expected =
            Sample { bytes: 2_000_000, packets: 1_800, lost: 6, score: Some(3), ..sample(0) };
        assert_eq!(all, expected);
        assert_eq!(all.loss(Side::Received), Some(6.0 / 1_806.0));
        assert_eq!(all.loss(Side::Sent), Some(6.0 / 1_800.0));
        assert_eq!(Sample { lost: -2, packets: 2, ..Sample::default() }.loss(Side::Received), None);
    }
}
