//! Turns the jiffies that the kernel program stamps into seconds of idleness.
//!
//! Jiffies come in by value together with a monotonic clock's reading, so everything here is pure.
//! A jiffy's length (CONFIG_HZ) is nowhere to be read by a program without /proc/config.gz, so it is
//! measured between two readings and snapped to the values that kernels are built with.

use std::time::Duration;

/// Two readings closer than this cannot tell 250 from 300.
const SHORTEST: Duration = Duration::from_millis(500);
const COMMON: [u32; 4] = [100, 250, 300, 1000];

/// What is known of the kernel's tick.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    first: (u32, Duration),
    now: u32,
    hz: Option<u32>,
}

impl Clock {
    /// From the first reading: the low half of the jiffies, and a monotonic clock.
    pub(super) fn new(jiffies: u32, monotonic: Duration) -> Self {
        Self { first: (jiffies, monotonic), now: jiffies, hz: None }
    }

    /// Takes another reading; idleness is counted from the last one.
    pub(super) fn advance(&mut self, jiffies: u32, monotonic: Duration) {
        self.now = jiffies;
        if self.hz.is_none() {
            let elapsed = monotonic.saturating_sub(self.first.1);
            self.hz = hz(jiffies.wrapping_sub(self.first.0), elapsed);
        }
    }

    /// Seconds since `jiffies`, 0 as long as the tick's length is not known.
    pub(super) fn idle_seconds(&self, jiffies: u64) -> u32 {
        let Some(hz) = self.hz else { return 0 };
        // Of a packet that came after the clock was read, the difference is negative.
        let ticks = self.now.wrapping_sub(jiffies as u32).cast_signed().max(0).cast_unsigned();
        ticks / hz
    }
}

/// Ticks a second, snapped to the usual values where one is within 2 %.
fn hz(ticks: u32, elapsed: Duration) -> Option<u32> {
    if elapsed < SHORTEST || ticks == 0 {
        return None;
    }
    let measured = f64::from(ticks) / elapsed.as_secs_f64();
    let usual = COMMON.into_iter().find(|&usual| {
        let usual = f64::from(usual);
        (measured - usual).abs() <= usual * 0.02 + 2.0 / elapsed.as_secs_f64()
    });
    Some(usual.unwrap_or_else(|| (measured.round() as u32).max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tick_is_snapped_to_usual_values() {
        let check = |ticks, millis, expected| {
            assert_eq!(hz(ticks, Duration::from_millis(millis)), expected, "{ticks} in {millis}");
        };
        check(100, 100, None);
        check(0, 5000, None);
        check(125, 500, Some(250));
        check(124, 500, Some(250));
        check(151, 500, Some(300));
        check(149, 500, Some(300));
        check(999, 1000, Some(1000));
        check(51, 500, Some(100));
        // Alpha and MIPS have others.
        check(10_240, 10_000, Some(1024));
    }

    #[test]
    fn idleness_survives_the_wrap_and_packets_from_the_future() {
        let mut clock = Clock::new(u32::MAX - 99, Duration::ZERO);
        assert_eq!(clock.idle_seconds(0), 0, "nothing is idle before the tick is known");
        clock.advance(900, Duration::from_secs(1));
        let check = |last_seen, expected| assert_eq!(clock.idle_seconds(last_seen), expected);
        check(u64::from(u32::MAX) - 99, 1);
        check((1 << 32) + 900, 0);
        check((1 << 32) + 950, 0);
    }
}
