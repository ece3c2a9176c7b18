//! How long to wait before the next attempt.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Twice as long after each failure, up to the longest; `jitter` in 0..1 takes up to half of it
/// away, so that many exporters do not come at the same time.
pub(super) fn wait((first, most): (Duration, Duration), failures: u32, jitter: f64) -> Duration {
    let doubled = first.saturating_mul(1 << failures.min(16));
    doubled.min(most).mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0)
}

/// A number in 0..1, another one at each call.
#[expect(clippy::cast_precision_loss, reason = "32 bits fit")]
pub(super) fn jitter() -> f64 {
    (RandomState::new().hash_one(0) >> 32) as f64 / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_spread_downwards() {
        let check = |failures, jitter, millis| {
            let range = (Duration::from_millis(500), Duration::from_secs(30));
            assert_eq!(wait(range, failures, jitter), Duration::from_millis(millis));
        };
        check(0, 0.0, 500);
        check(1, 0.0, 1000);
        check(5, 0.0, 16_000);
        check(6, 0.0, 30_000);
        check(u32::MAX, 0.0, 30_000);
        check(1, 1.0, 500);
        check(1, 0.5, 750);
        check(1, 7.0, 500);
    }
}
