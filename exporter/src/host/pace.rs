//! How long to wait after a change before looking at everything again.
//!
//! Changes come in bursts: a link, its addresses, its routes. And some hosts never come to rest: a
//! routing daemon, a loop of somebody's. So while changes follow each other closely, the pause grows.
//! Moments come in, pauses go out; nothing here reads a clock.

use std::time::{Duration, Instant};

/// After a change that comes alone.
const SHORTEST: Duration = Duration::from_millis(50);
/// However many there are.
const LONGEST: Duration = Duration::from_secs(3);
/// A change that comes within so many pauses of the last look is one of a row.
const CLOSE: u32 = 4;

/// Paces looks.
#[derive(Debug)]
pub struct Pace {
    pause: Duration,
    looked: Option<Instant>,
}

impl Pace {
    /// Without a past.
    pub fn new() -> Self {
        Self { pause: SHORTEST, looked: None }
    }

    /// Something changed: how long to wait for what comes with it.
    pub fn pause(&mut self, changed: Instant) -> Duration {
        let is_close = self.looked.is_some_and(|looked| {
            changed.saturating_duration_since(looked) < self.pause.saturating_mul(CLOSE)
        });
        self.pause = if is_close { (self.pause * 2).min(LONGEST) } else { SHORTEST };
        self.pause
    }

    /// A look has ended.
    pub fn looked(&mut self, at: Instant) {
        self.looked = Some(at);
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Changes in these intervals for so long: how many looks are made.
    fn looks(interval: Duration, total: Duration) -> usize {
        let (start, mut pace) = (Instant::now(), Pace::new());
        let (mut now, mut looks) = (start, 0);
        while now < start + total {
            now += pace.pause(now);
            pace.looked(now);
            looks += 1;
            // The next change after the look.
            let since = now - start;
            let next = since.as_nanos() / interval.as_nanos() + 1;
            now = start + interval * u32::try_from(next).unwrap();
        }
        looks
    }

    #[test]
    fn a_change_that_comes_alone_is_looked_at_at_once() {
        let mut pace = Pace::new();
        let mut now = Instant::now();
        for _ in 0..5 {
            assert_eq!(pace.pause(now), SHORTEST);
            pace.looked(now);
            now += Duration::from_secs(20);
        }
    }

    #[test]
    fn a_flood_of_changes_is_looked_at_every_three_seconds() {
        let minute = Duration::from_secs(60);
        for interval in [1, 10, 49, 100, 199] {
            let looks = looks(Duration::from_millis(interval), minute);
            assert!((20..=26).contains(&looks), "{interval} ms: {looks}");
        }
        assert!(looks(Duration::from_millis(500), minute) <= 121);
    }
}
