//! Whether the clock is right, as far as the kernel was told: what is shown and written has its times.

use super::finding::Finding;

/// Looks.
pub(super) fn look() -> Finding {
    // SAFETY: any bytes make one; no mode is set, so the kernel only fills it in.
    let mut told: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: a live struct of that kind.
    let state = unsafe { libc::adjtimex(&raw mut told) };
    match state {
        -1 => Finding::skipped("clock", std::io::Error::last_os_error().to_string()),
        _ => judge(told.status & libc::STA_UNSYNC == 0, told.maxerror),
    }
}

/// The error is in microseconds at most (adjtimex(2)).
fn judge(is_synchronised: bool, error: libc::c_long) -> Finding {
    match is_synchronised {
        true => Finding::ok("clock", format!("synchronised, within {:.1} ms", error as f64 / 1e3)),
        false => Finding::warning(
            "clock",
            "nobody synchronises it: times in pages, journal and metrics may be other hosts' past or future",
            "run chronyd, systemd-timesyncd or ntpd; in a container its host must",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn a_clock_that_nobody_sets_is_a_warning() {
        assert_eq!(judge(true, 1_500).text, "synchronised, within 1.5 ms");
        assert_eq!(judge(false, 0).level, Level::Warning);
        assert_eq!(look().subject, "clock");
    }
}
