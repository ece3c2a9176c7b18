//! Waiting for conditions, never for time to pass.

use std::fmt::Debug;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Long enough for anything that happens at all, on a machine that is busy with other things.
pub const LONG: Duration = Duration::from_secs(60);

const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

/// Looks until `look` finds something; an error names `what` was waited for.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if Instant::now() >= end {
            bail!("waited {limit:?} in vain: {what}");
        }
        thread::sleep(BETWEEN_LOOKS);
    }
}

/// Looks until both sides of `look` are equal; the error shows both sides' last values.
pub fn until_equal<T: PartialEq + Debug>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<(T, T)>,
) -> Result<()> {
    let end = Instant::now() + limit;
    loop {
        let (left, right) = look()?;
        if left == right {
            return Ok(());
        }
        if Instant::now() >= end {
            bail!("waited {limit:?} in vain: {what}\n left: {left:#?}\nright: {right:#?}");
        }
        thread::sleep(BETWEEN_LOOKS);
    }
}
