//! How long the key of pseudonyms holds: periods with fixed bounds in UTC, so that all hosts with one key
//! change theirs at the same moment.

use std::time::Duration;

/// How long one key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotate {
    /// For good.
    Never,
    /// From one full hour to the next.
    Hourly,
    /// From midnight to midnight.
    Daily,
    /// From Monday to Monday.
    Weekly,
}

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
const WEEK: u64 = 7 * DAY;
/// 1 January 1970 was a Thursday.
const MONDAY: u64 = 3 * DAY;

impl Rotate {
    /// All, in the order of their lengths.
    pub const ALL: [Self; 4] = [Self::Never, Self::Hourly, Self::Daily, Self::Weekly];

    /// Its name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Never => "never",
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
        }
    }

    /// A period's length, and by how much the first began before 1970.
    fn rule(self) -> Option<(u64, u64)> {
        match self {
            Self::Never => None,
            Self::Hourly => Some((HOUR, 0)),
            Self::Daily => Some((DAY, 0)),
            Self::Weekly => Some((WEEK, MONDAY)),
        }
    }

    /// The name of the period that has this moment, as seconds since 1970; `None` where there are none.
    pub fn period(self, now: u64) -> Option<String> {
        let (length, shift) = self.rule()?;
        Some(format!("{} {}", self.as_str(), now.saturating_add(shift) / length))
    }

    /// From this moment to the end of its period.
    pub fn rest(self, now: u64) -> Option<Duration> {
        let (length, shift) = self.rule()?;
        Some(Duration::from_secs(length - now.saturating_add(shift) % length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_begin_at_fixed_moments() {
        // Monday, 2026-11-30 00:00:00 UTC.
        const MIDNIGHT: u64 = 1_795_996_800;
        for (rotate, name, length) in [
            (Rotate::Hourly, "hourly 498888", HOUR),
            (Rotate::Daily, "daily 20787", DAY),
            (Rotate::Weekly, "weekly 2970", WEEK),
        ] {
            let period = |now| rotate.period(now).unwrap();
            assert_eq!(period(MIDNIGHT), name);
            assert_eq!(period(MIDNIGHT + length - 1), name);
            assert_ne!(period(MIDNIGHT - 1), name);
            assert_ne!(period(MIDNIGHT + length), name);
            assert_eq!(rotate.rest(MIDNIGHT), Some(Duration::from_secs(length)));
            assert_eq!(rotate.rest(MIDNIGHT - 1), Some(Duration::from_secs(1)));
        }
        assert_eq!((Rotate::Never.period(MIDNIGHT), Rotate::Never.rest(0)), (None, None));
    }
}
