//! At most so many packets in each second of the packets' own time; the others are counted.

use std::time::Duration;

/// Of one capture.
#[derive(Debug)]
pub(super) struct Limit {
    most: u32,
    second: u64,
    taken: u32,
    /// Left out.
    pub(super) refused: u64,
}

impl Limit {
    pub(super) fn new(most: u32) -> Self {
        Self { most, second: 0, taken: 0, refused: 0 }
    }

    /// There is room for one more.
    pub(super) fn admits(&mut self, at: Duration) -> bool {
        // Interfaces are read one after the other, so time goes back a little now and then.
        if at.as_secs() > self.second {
            (self.second, self.taken) = (at.as_secs(), 0);
        }
        let admits = self.taken < self.most;
        if admits {
            self.taken += 1;
        } else {
            self.refused += 1;
        }
        admits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_has_its_own() {
        let mut limit = Limit::new(2);
        let mut check = |millis, expected| {
            assert_eq!(limit.admits(Duration::from_millis(millis)), expected, "{millis}");
        };
        check(5_100, true);
        check(5_900, true);
        check(5_950, false);
        check(6_000, true);
        check(5_999, true);
        check(6_999, false);
        check(7_000, true);
        assert_eq!(limit.refused, 2);
    }
}
