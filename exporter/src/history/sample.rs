//! What one stream or one direction of a connection did in one step of time, in fifteen bytes.
//!
//! Six hours of 10,000 streams are millions of these, so each field has the room that it needs and no more.
//! Bytes and packets are exact below 2 GiB and 8 million a step, and rounded down by less than a thousandth of a
//! thousandth above; losses, jitter and round trips that are larger than their field read as its largest value.

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

/// A [`Sample`], whose it is, and on which side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packed {
    /// The highest bit: it was sent.
    track: [u8; 3],
    bytes: [u8; 4],
    packets: [u8; 3],
    /// The lowest four bits: the score.
    lost: [u8; 3],
    /// Jitter in tens of microseconds, or round trip time in hundreds.
    time: [u8; 2],
}

/// Tracks that can be told apart.
pub(super) const MOST_TRACKS: usize = 1 << 23;

const SENT: u32 = 1 << 23;
const NO_SCORE: u8 = 15;
const NO_TIME: u16 = u16::MAX;
const MOST_LOST: i64 = (1 << 19) - 1;
const JITTER_UNIT: u32 = 10;
const ROUND_TRIP_UNIT: u32 = 100;
/// A number that does not fit is kept without its lowest bits, and has its field's highest bit set.
const BYTES: Field = Field { bits: 32, dropped: 10 };
const PACKETS: Field = Field { bits: 24, dropped: 10 };

/// The room of a number.
struct Field {
    bits: u32,
    dropped: u32,
}

impl Field {
    fn pack(&self, number: u64) -> u32 {
        let flag = 1 << (self.bits - 1);
        match number < flag {
            true => number as u32,
            false => (flag | (number >> self.dropped).min(flag - 1)) as u32,
        }
    }

    fn unpack(&self, packed: u32) -> u64 {
        let flag = 1 << (self.bits - 1);
        let packed = u64::from(packed);
        if packed < flag { packed } else { (packed - flag) << self.dropped }
    }
}

impl Packed {
    pub(super) fn new(track: u32, side: Side, sample: &Sample) -> Self {
        let (time, side) = match side {
            Side::Received => (sample.jitter.map(|micros| micros / JITTER_UNIT), 0),
            Side::Sent => (sample.round_trip.map(|micros| micros / ROUND_TRIP_UNIT), SENT),
        };
        let time = time.map_or(NO_TIME, |time| time.min(u32::from(NO_TIME) - 1) as u16);
        let lost = sample.lost.clamp(-MOST_LOST, MOST_LOST) as i32;
        let score = sample.score.map_or(NO_SCORE, |score| score.min(NO_SCORE - 1));
        Self {
            track: low(track | side),
            bytes: BYTES.pack(sample.bytes).to_le_bytes(),
            packets: low(PACKETS.pack(sample.packets)),
            lost: low((lost << 4) as u32 | u32::from(score)),
            time: time.to_le_bytes(),
        }
    }

    pub(super) fn track(&self) -> u32 {
        number(self.track) & !SENT
    }

    pub(super) fn side(&self) -> Side {
        if number(self.track) & SENT == 0 { Side::Received } else { Side::Sent }
    }

    pub(super) fn bytes(&self) -> u64 {
        BYTES.unpack(u32::from_le_bytes(self.bytes))
    }

    pub(super) fn sample(&self) -> Sample {
        let mut sum = Sum::default();
        sum.add(self);
        sum.sample(self.side())
    }
}

/// Many packed samples of one track, added up in their fields' own units: a page of ten minutes adds up a hundred
/// times as many samples as there are tracks.
#[derive(Clone, Copy, Debug)]
pub struct Sum {
    bytes: u64,
    packets: u64,
    lost: i64,
    /// The highest, and one more; zero: none.
    time: u16,
    score: u8,
}

impl Default for Sum {
    fn default() -> Self {
        Self { bytes: 0, packets: 0, lost: 0, time: 0, score: NO_SCORE }
    }
}

impl Sum {
    pub(super) fn add(&mut self, packed: &Packed) {
        self.bytes += packed.bytes();
        self.packets += PACKETS.unpack(number(packed.packets));
        let lost = number(packed.lost);
        // The sign is the 24th bit.
        self.lost += i64::from((lost << 8) as i32 >> 12);
        self.time = self.time.max(u16::from_le_bytes(packed.time).wrapping_add(1));
        self.score = self.score.min((lost & 15) as u8);
    }

    /// Nothing was added.
    pub fn is_empty(&self) -> bool {
        self.packets == 0
    }

    /// As a sample of a track of this side.
    pub fn sample(&self, side: Side) -> Sample {
        let Self { bytes, packets, lost, time, score } = *self;
        let time = time.checked_sub(1).map(u32::from);
        let (jitter, round_trip) = times(side, time);
        let score = (score != NO_SCORE).then_some(score);
        Sample { bytes, packets, lost, jitter, round_trip, score }
    }
}

/// Jitter or round trip time.
fn times(side: Side, time: Option<u32>) -> (Option<u32>, Option<u32>) {
    match side {
        Side::Received => (time.map(|time| time * JITTER_UNIT), None),
        Side::Sent => (None, time.map(|time| time * ROUND_TRIP_UNIT)),
    }
}

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
    fn a_sample_takes_fifteen_bytes_and_comes_back_whole() {
        assert_eq!(size_of::<Packed>(), 15);
        for lost in [0, 5, -3, MOST_LOST, -MOST_LOST] {
            let packed = Packed::new(0x2b_cdef, Side::Received, &sample(lost));
            assert_eq!((packed.track(), packed.sample()), (0x2b_cdef, sample(lost)));
            assert_eq!(packed.side(), Side::Received);
        }
        for score in [None, Some(0), Some(10)] {
            let sent = Sample { jitter: None, round_trip: Some(164_000), score, ..sample(9) };
            let packed = Packed::new(MOST_TRACKS as u32 - 1, Side::Sent, &sent);
            assert_eq!((packed.side(), packed.sample()), (Side::Sent, sent));
            assert_eq!(packed.track(), MOST_TRACKS as u32 - 1);
        }
    }

    #[test]
    fn what_is_too_large_is_rounded_or_reads_as_the_largest() {
        let shown = |bytes, packets| {
            let huge = Sample { bytes, packets, ..Sample::default() };
            let shown = Packed::new(0, Side::Received, &huge).sample();
            (shown.bytes, shown.packets)
        };
        assert_eq!(shown((1 << 31) - 1, (1 << 23) - 1), ((1 << 31) - 1, (1 << 23) - 1));
        // A minute of a pipe of 10 Gbit/s.
        let (bytes, packets) = shown(75_000_000_123, 60_000_123);
        assert_eq!((bytes, packets), (75_000_000_123 & !1023, 60_000_123 & !1023));
        assert!(shown(u64::MAX, u64::MAX).0 > 1 << 40);
        let (jitter, score) = (Some(u32::MAX), Some(99));
        let huge = Sample { lost: i64::MIN, jitter, score, ..Sample::default() };
        let shown = Packed::new(0, Side::Received, &huge).sample();
        assert_eq!((shown.lost, shown.jitter, shown.score), (-MOST_LOST, Some(655_340), Some(14)));
    }

    #[test]
    fn several_are_a_sum_and_the_worst() {
        let mut all = Sample { jitter: Some(99), ..sample(10) };
        all.add(&Sample { score: Some(3), ..sample(-4) });
        all.add(&Sample::default());
        let expected =
            Sample { bytes: 2_000_000, packets: 1_800, lost: 6, score: Some(3), ..sample(0) };
        assert_eq!(all, expected);
        for side in [Side::Received, Side::Sent] {
            let mut sum = Sum::default();
            assert_eq!(sum.sample(side), Sample::default());
            assert!(sum.is_empty());
            for sample in [Sample { jitter: None, ..sample(10) }, sample(-4), Sample::default()] {
                let sample = Sample { round_trip: sample.jitter.map(|it| it * 10), ..sample };
                sum.add(&Packed::new(3, side, &sample));
            }
            let sum = sum.sample(side);
            assert_eq!(
                (sum.bytes, sum.packets, sum.lost, sum.score),
                (2_000_000, 1_800, 6, Some(7))
            );
            let times = [Some(12_340), None, None, Some(123_400)];
            let is_sent = side == Side::Sent;
            assert_eq!(sum.jitter, times[usize::from(is_sent)]);
            assert_eq!(sum.round_trip, times[2 + usize::from(is_sent)]);
        }
        assert_eq!(all.loss(Side::Received), Some(6.0 / 1_806.0));
        assert_eq!(all.loss(Side::Sent), Some(6.0 / 1_800.0));
        assert_eq!(Sample { lost: -2, packets: 2, ..Sample::default() }.loss(Side::Received), None);
    }
}
