//! The recurrence against RFC 3550 A.8 in floating point, and what makes a sample. How good the
//! estimate is stands where arrival processes are played.

extern crate std;

use std::vec::Vec;

use super::*;
use crate::random::Random;
use crate::rtp::{self, Rtp};

/// Ticks of a second, by [`Clock`].
const RATES: [f64; 3] = [90_000.0, 48_000.0, 8_000.0];
const MILLISECOND: u64 = 1_000_000;

/// A stream that is sampled, and the pairs that were.
#[derive(Default)]
struct Sampled {
    stream: StreamValue,
    sequence: u16,
    /// Arrival and timestamp of the packet before this one.
    before: (u64, u32),
    /// By their second packet's number.
    pairs: Vec<u64>,
    /// RFC 3550 A.8 of the sampled pairs, in seconds, by [`Clock`].
    expected: [f64; 3],
}

impl Sampled {
    /// The next packet in the sequence.
    fn packet(&mut self, now: u64, timestamp: u32) {
        self.sequence = self.sequence.wrapping_add(1);
        self.numbered(self.sequence, now, timestamp);
    }

    fn numbered(&mut self, sequence: u16, now: u64, timestamp: u32) {
        let rtp = Rtp { ssrc: 1, sequence, timestamp, payload_type: 96 };
        rtp::count(&mut self.stream, &rtp, 100, 0);
        if is_due(&self.stream) {
            if self.stream.sample_arrival != 0 {
                self.pair(now, timestamp);
            }
            take(&mut self.stream, timestamp, now);
        }
        self.before = (now, timestamp);
    }

    fn pair(&mut self, now: u64, timestamp: u32) {
        let elapsed = (now - self.before.0) as f64 / 1e9;
        let advance = timestamp.wrapping_sub(self.before.1) as i32;
        for (jitter, rate) in self.expected.iter_mut().zip(RATES) {
            let difference = (elapsed - advance as f64 / rate).abs();
            if elapsed <= 1.0 && difference <= 1.0 {
                *jitter += (difference - *jitter) / 16.0;
            }
        }
        self.pairs.push(self.stream.total.packets);
    }

    #[track_caller]
    fn check(&self) {
        for (jitter, expected) in self.stream.jitter.into_iter().zip(self.expected) {
            let jitter = jitter as f64 / 16e6;
            // A difference loses less than two microseconds, the mean's rounding less than one.
            assert!((jitter - expected).abs() < 3e-6, "{jitter} is not {expected}");
        }
    }
}

#[test]
fn a_sample_is_taken_as_rfc_3550_does() {
    for (ticks, spacing) in [(3_000, 33), (960, 20), (160, 20), (0, 5), (45_000, 900)] {
        let (mut sampled, mut random) = (Sampled::default(), Random(7));
        for number in 0..20_000 {
            let delay = random.below(spacing * MILLISECOND);
            sampled.packet(number as u64 * spacing * MILLISECOND + delay, number * ticks);
            sampled.check();
        }
        assert!(sampled.pairs.len() > 20_000 / 20);
    }
}

#[test]
fn a_huge_step_of_the_timestamps_is_the_jitter() {
    let mut sampled = Sampled::default();
    for number in 0..64 {
        sampled.packet(7, number * 45_000);
    }
    sampled.check();
    // Half a second at 90 kHz, 0.9375 at 48 kHz; at 8 kHz it is too much to be a sample.
    let [video, opus, telephone] = sampled.stream.jitter.map(|jitter| jitter / 16);
    let share = 1.0 - (15.0_f64 / 16.0).powi(32);
    assert!((video as f64 - share * 500_000.0).abs() < 2.0, "{video}");
    assert!((opus as f64 - share * 937_500.0).abs() < 2.0, "{opus}");
    assert_eq!(telephone, 0);
}

#[test]
fn timestamps_may_wrap_and_go_back() {
    let mut sampled = Sampled::default();
    let start = u32::MAX - 3_000 * 10;
    for number in 0..64 {
        // Every other frame comes after the next one.
        let frame = number ^ 1;
        sampled.packet(number as u64 * 33 * MILLISECOND, start.wrapping_add(frame * 3_000));
        sampled.check();
    }
    assert!(sampled.stream.jitter[0] > 0);
}

#[test]
fn pauses_and_new_timestamps_are_no_samples() {
    let mut sampled = Sampled::default();
    let (mut now, mut timestamp) = (0, 0);
    for number in 0..64 {
        now += if number % 2 == 0 { 20 * MILLISECOND } else { 1_001 * MILLISECOND };
        timestamp += 160;
        sampled.packet(now, timestamp);
    }
    assert_eq!(sampled.stream.jitter[Clock::Khz8 as usize], 0);
    assert_eq!(sampled.pairs.len(), 32);
    for _ in 0..64 {
        now += 20 * MILLISECOND;
        timestamp = timestamp.wrapping_add(0x4000_0000);
        sampled.packet(now, timestamp);
    }
    assert_eq!(sampled.stream.jitter[Clock::Khz90 as usize], 0);
}

#[test]
fn a_young_stream_is_sampled_often_and_an_old_one_at_random() {
    let mut sampled = Sampled::default();
    for number in 0..40_000 {
        sampled.packet(number as u64 * 20 * MILLISECOND, number * 960);
    }
    let young = sampled.pairs.iter().filter(|&&packet| packet <= EAGER).count();
    assert_eq!(young, 32);
    let gaps: Vec<u64> = sampled.pairs[32..].windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().all(|gap| (2..=33).contains(gap)));
    let mean = gaps.iter().sum::<u64>() as f64 / gaps.len() as f64;
    assert!((mean - 17.5).abs() < 1.0, "{mean}");
    // No place of a frame of any length is left out or preferred.
    for length in 2..=40 {
        let mut places = std::vec![0; length];
        sampled.pairs.iter().for_each(|&packet| places[packet as usize % length] += 1);
        let fair = sampled.pairs.len() as f64 / length as f64;
        let far = |&count: &i32| (count as f64 - fair).abs() > 5.0 * fair.sqrt();
        assert!(!places.iter().any(far), "{length}: {places:?}");
    }
}

#[test]
fn a_restart_or_a_stray_packet_makes_no_pair() {
    let mut sampled = Sampled::default();
    sampled.packet(0, 0);
    assert_ne!(sampled.stream.sample_arrival, 0);
    // A stray packet, and one that goes on.
    sampled.numbered(30_000, 1, 5_000);
    assert_eq!(sampled.stream.sample_arrival, 0);
    sampled.packet(2, 0);
    assert_eq!(sampled.stream.sample_arrival, 3);
    // Two in a row far off: a new run, which begins a pair of its own.
    sampled.numbered(40_000, 4, 8_000);
    sampled.numbered(40_001, 5, 8_000);
    assert_eq!((sampled.stream.restarts, sampled.stream.sample_arrival), (1, 5));
    assert!(sampled.pairs.is_empty());
    sampled.numbered(40_002, 6, 8_000);
    assert_eq!(sampled.pairs, [6]);
}

#[test]
fn a_packets_number_of_more_than_32_bits_goes_on() {
    for begin in (1_u64 << 32) - 40..1 << 32 {
        let mut sampled = Sampled::default();
        sampled.stream.total.packets = begin;
        for number in 0..100 {
            sampled.packet(number * 20 * MILLISECOND, number as u32 * 960);
        }
        assert!(sampled.pairs.len() >= 2, "{begin}: {:?}", sampled.pairs);
        // A stray packet, too.
        sampled.numbered(30_000, 0, 0);
    }
}

#[test]
fn a_value_that_was_passed_over_is_not_waited_for() {
    let at = |packets: u64, next_sample| {
        let mut stream = StreamValue { next_sample, ..StreamValue::default() };
        stream.total.packets = packets;
        is_due(&stream)
    };
    assert!(at(10, 10) && at(11, 10) && at(1 << 30, 10));
    assert!(!at(9, 10) && !at(1, 33));
    assert!(at((1 << 32) + 2, 0xffff_fff0) && !at(0xffff_fff0, 3));
}
