//! What is added up, and how much of a reading is new.
//!
//! Raw totals come in as a meter gives them; what they grew by since the last look goes out. A total
//! that fell began again from zero (the tables were made anew, the worker's stream was), so all of it
//! is new.

use crate::model::{Counter, Stream};

/// A flow's counters: by direction, then by class.
pub(crate) type Counts = [[Counter; 5]; 2];

/// What grew in `last` to become `raw`; `last` is `raw` afterwards.
pub(crate) fn grown(last: &mut Counter, raw: Counter) -> Counter {
    let before = std::mem::replace(last, raw);
    if raw.packets < before.packets || raw.bytes < before.bytes {
        return raw;
    }
    Counter { packets: raw.packets - before.packets, bytes: raw.bytes - before.bytes }
}

/// As [`grown`], for a total that stands alone.
pub(crate) fn grown_total(last: &mut u64, raw: u64) -> u64 {
    let before = std::mem::replace(last, raw);
    raw.checked_sub(before).unwrap_or(raw)
}

pub(crate) fn add(total: &mut Counter, grown: Counter) {
    total.packets += grown.packets;
    total.bytes += grown.bytes;
}

pub(crate) fn add_all(totals: &mut Counts, grown: &Counts) {
    for (total, grown) in totals.iter_mut().flatten().zip(grown.iter().flatten()) {
        add(total, *grown);
    }
}

/// One stream's totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StreamTotals {
    pub(crate) total: Counter,
    pub(crate) received: u64,
    pub(crate) expected: u64,
    pub(crate) out_of_order: u64,
    pub(crate) duplicates: u64,
    pub(crate) restarts: u64,
}

impl From<&Stream> for StreamTotals {
    fn from(stream: &Stream) -> Self {
        let Stream {
            tuple: _,
            direction: _,
            ssrc: _,
            known: _,
            idle_seconds: _,
            ended: _,
            payload_type: _,
            total,
            received,
            expected,
            out_of_order,
            duplicates,
            restarts,
            jitter: _,
        } = *stream;
        let restarts = u64::from(restarts);
        Self { total, received, expected, out_of_order, duplicates, restarts }
    }
}

impl StreamTotals {
    /// What grew in `self` to become `raw`. Only the packets decide whether the meter began again:
    /// `expected` is put together from several words, which a packet in flight may be changing, so it
    /// may seem to fall for a moment. It is then held at its highest value until it has caught up.
    pub(crate) fn grow(&mut self, raw: Self) -> Self {
        if raw.total.packets < self.total.packets {
            *self = raw;
            return raw;
        }
        let step = |last: &mut u64, raw: u64| {
            let grown = raw.saturating_sub(*last);
            *last += grown;
            grown
        };
        let Self { total, received, expected, out_of_order, duplicates, restarts } = self;
        Self {
            total: Counter {
                packets: step(&mut total.packets, raw.total.packets),
                bytes: step(&mut total.bytes, raw.total.bytes),
            },
            received: step(received, raw.received),
            expected: step(expected, raw.expected),
            out_of_order: step(out_of_order, raw.out_of_order),
            duplicates: step(duplicates, raw.duplicates),
            restarts: step(restarts, raw.restarts),
        }
    }

    pub(crate) fn add(&mut self, other: Self) {
        let Self { total, received, expected, out_of_order, duplicates, restarts } = other;
        add(&mut self.total, total);
        self.received += received;
        self.expected += expected;
        self.out_of_order += out_of_order;
        self.duplicates += duplicates;
        self.restarts += restarts;
    }

    pub(crate) fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    /// RFC 3550 A.3; negative when duplicates outnumber losses.
    pub(crate) fn lost(&self) -> i64 {
        self.expected.wrapping_sub(self.received) as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(packets: u64, bytes: u64) -> Counter {
        Counter { packets, bytes }
    }

    #[test]
    fn a_total_that_fell_began_again() {
        let mut last = counter(5, 500);
        assert_eq!(grown(&mut last, counter(7, 800)), counter(2, 300));
        assert_eq!(grown(&mut last, counter(7, 800)), counter(0, 0));
        assert_eq!(grown(&mut last, counter(1, 100)), counter(1, 100));
        assert_eq!(grown(&mut last, counter(2, 150)), counter(1, 50));
        let mut last = 10;
        assert_eq!([grown_total(&mut last, 15), grown_total(&mut last, 3)], [5, 3]);
    }

    #[test]
    fn a_torn_word_is_not_a_new_beginning() {
        let raw = |packets, expected| StreamTotals {
            total: counter(packets, packets * 10),
            expected,
            ..StreamTotals::default()
        };
        let mut last = StreamTotals::default();
        assert_eq!(last.grow(raw(10, 12)).expected, 12);
        assert_eq!(last.grow(raw(11, 9)).expected, 0);
        assert_eq!(last.grow(raw(12, 14)).expected, 2);
        assert_eq!(last.grow(raw(3, 4)).expected, 4, "fewer packets: it did begin again");
    }

    #[test]
    fn loss_can_be_negative() {
        let totals = StreamTotals { received: 12, expected: 10, ..StreamTotals::default() };
        assert_eq!(totals.lost(), -2);
    }
}
