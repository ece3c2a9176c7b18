//! Numbers and moments as people read them.

use std::time::{Duration, UNIX_EPOCH};

/// Bits a second in the unit in which they are small.
pub(super) fn rate(bits: f64) -> String {
    match bits {
        bits if bits >= 1e9 => format!("{:.2} Gbit/s", bits / 1e9),
        bits if bits >= 1e6 => format!("{:.2} Mbit/s", bits / 1e6),
        bits if bits >= 1e3 => format!("{:.0} kbit/s", bits / 1e3),
        bits => format!("{bits:.0} bit/s"),
    }
}

pub(crate) fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "–".into(), |share| format!("{:.1} %", share * 100.0))
}

pub(crate) fn millis(seconds: Option<f64>) -> String {
    seconds.map_or_else(
        || "–".into(),
        |seconds| match seconds * 1e3 {
            millis if millis < 10.0 => format!("{millis:.1} ms"),
            millis => format!("{millis:.0} ms"),
        },
    )
}

/// How a loss is shown. `bad`: what is bad.
pub(super) fn severity(loss: Option<f64>, bad: f64) -> &'static str {
    match loss {
        Some(loss) if loss >= 3.0 * bad => "bad",
        Some(loss) if loss >= bad => "warn",
        _ => "",
    }
}

pub(crate) fn ago(millis: u64) -> String {
    match millis / 1000 {
        seconds if seconds < 120 => format!("{seconds} s"),
        seconds if seconds < 7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

/// Milliseconds of Unix time as text: RFC 3339, UTC.
pub(crate) fn moment(millis: u64) -> String {
    let time = UNIX_EPOCH.checked_add(Duration::from_millis(millis));
    time.map_or_else(String::new, |time| humantime::format_rfc3339_seconds(time).to_string())
}

/// `2026-01-31T14:31:05Z` as people write it.
pub(super) fn human(moment: &str) -> String {
    moment.replace('T', " ").trim_end_matches('Z').to_owned()
}

/// Hours, minutes and seconds of it.
pub(super) fn clock(moment: &str) -> String {
    human(moment).split(' ').next_back().unwrap_or_default().to_owned()
}
