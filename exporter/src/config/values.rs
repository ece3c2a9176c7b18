//! Single values from text: ports, ranges, durations, sizes, switches.
//!
//! Each refusal is one line: the flag or variable, the value, what is accepted.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use crate::config::invalid::Invalid;

/// The flag or variable that a value comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin(pub(super) &'static str);

impl Origin {
    /// The one line about a bad value. Control characters would break the line, so they are escaped.
    pub(super) fn refuse(self, value: &str, expected: &str) -> Invalid {
        let shown: String = value.chars().take(100).flat_map(char::escape_debug).collect();
        Invalid(format!("{}: `{shown}` is not valid; expected {expected}", self.0))
    }
}

/// A whole number, `_` allowed between digits, not yet held against its bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Size(String);

impl FromStr for Size {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl Size {
    pub(super) fn within(&self, flag: &'static str, min: u32, max: u32) -> Result<u32, Invalid> {
        let digits = self.0.trim().replace('_', "");
        match digits.parse::<u32>() {
            Ok(size) if (min..=max).contains(&size) && !digits.starts_with('+') => Ok(size),
            _ => Err(Origin(flag).refuse(&self.0, &format!("a whole number from {min} to {max}"))),
        }
    }
}

/// An address with or without a port.
#[derive(Clone, Copy, Debug)]
pub(super) struct Listen {
    pub(super) ip: IpAddr,
    pub(super) port: Option<u16>,
}

impl Default for Listen {
    fn default() -> Self {
        Self { ip: Ipv6Addr::UNSPECIFIED.into(), port: None }
    }
}

impl Listen {
    /// `127.0.0.1:9100`, `[::1]:9100`, `:9100`, `127.0.0.1`, `::1`, `[::1]`.
    pub(super) fn parse(text: &str) -> Result<Self, Invalid> {
        let text = text.trim();
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(Self { ip: address.ip(), port: Some(address.port()) });
        }
        if let Some(number) = text.strip_prefix(':')
            && let Ok(port) = number.parse()
        {
            return Ok(Self { port: Some(port), ..Self::default() });
        }
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        bare.parse().map(|ip| Self { ip, port: None }).map_err(|_| {
            Origin("--web.listen-address")
                .refuse(text, "ADDRESS:PORT, such as [::]:8889 or 127.0.0.1:8889")
        })
    }
}

/// 0 lets the kernel choose, which is what tests want.
pub(super) fn port(origin: Origin, value: &str) -> Result<u16, Invalid> {
    value.trim().parse().map_err(|_| origin.refuse(value, "a port from 0 to 65535"))
}

/// `A-B`, both inside.
pub(super) fn ports(origin: Origin, value: &str) -> Result<RangeInclusive<u16>, Invalid> {
    let parsed = value.split_once('-').and_then(|(first, last)| {
        Some((first.trim().parse::<u16>().ok()?, last.trim().parse::<u16>().ok()?))
    });
    match parsed {
        Some((first, last)) if first >= 1 && first <= last => Ok(first..=last),
        _ => Err(origin
            .refuse(value, "FIRST-LAST with 1 <= FIRST <= LAST <= 65535, such as 40000-49999")),
    }
}

/// `15s`, `500ms`, `2m`, `1h`, or seconds without a unit.
pub(super) fn duration(origin: Origin, value: &str) -> Result<Duration, Invalid> {
    let text = value.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale = match unit.trim() {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "" => 1.0,
        _ => f64::NAN,
    };
    number
        .parse::<f64>()
        .ok()
        .map(|number| number * scale)
        .filter(|seconds| (0.0..=86_400.0).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| origin.refuse(value, "a time up to 24h such as 15s, 500ms or 1m"))
}

/// `50ms`, up to ten seconds: a number without a unit would be seconds, which nobody means here.
pub(super) fn short_duration(origin: Origin, value: &str) -> Result<Duration, Invalid> {
    let has_unit = value.trim_end().ends_with('s');
    let time = duration(origin, value).ok().filter(|time| has_unit && time.as_secs() < 10);
    time.ok_or_else(|| origin.refuse(value, "a time below 10s with its unit, such as 50ms"))
}

/// `30d`, `12h`, `90m`.
pub(super) fn long_duration(origin: Origin, value: &str) -> Result<Duration, Invalid> {
    let refuse = |_| origin.refuse(value, "a time such as 30d, 12h or 90m");
    humantime::parse_duration(value.trim()).map_err(refuse)
}

/// `500k`, `20M`, `1G`, or bytes without a unit.
pub(super) fn bytes(origin: Origin, value: &str) -> Result<u64, Invalid> {
    let text = value.trim().replace('_', "");
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale = match unit.trim().to_ascii_lowercase().trim_end_matches('b') {
        "" => Some(1),
        "k" => Some(1_000),
        "m" => Some(1_000_000),
        "g" => Some(1_000_000_000),
        _ => None,
    };
    let bytes = scale.and_then(|scale| number.parse::<u64>().ok()?.checked_mul(scale));
    let bytes = bytes.filter(|bytes| (10_000..=100_000_000_000).contains(bytes));
    bytes.ok_or_else(|| origin.refuse(value, "bytes from 10k to 100G, such as 500k, 20M or 1G"))
}

/// `2%` or `2`, as a share of one.
pub(super) fn percent(origin: Origin, value: &str) -> Result<f64, Invalid> {
    let text = value.trim();
    let number = text.strip_suffix('%').unwrap_or(text).trim().parse::<f64>().ok();
    let number = number.filter(|number| *number > 0.0 && *number <= 100.0);
    let share = number.map(|number| number / 100.0);
    share.ok_or_else(|| origin.refuse(value, "a percentage above 0% and up to 100%, such as 2%"))
}

/// What people write for yes and no.
pub(super) fn boolean(origin: Origin, value: &str) -> Result<bool, Invalid> {
    match value.trim().to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" | "" => Ok(false),
        _ => Err(origin.refuse(value, "1, true, yes, on, 0, false, no or off")),
    }
}

/// `--interface`.
pub(super) fn interfaces(given: &[String]) -> Result<Vec<String>, Invalid> {
    // Within braces a comma is a pattern's.
    if let Some(list) = given.iter().find(|it| it.contains(',') && !it.contains('{')) {
        let expected = "one name or pattern; give the flag once for each";
        return Err(Origin("--interface").refuse(list, expected));
    }
    patterns(Origin("--interface"), given, "an interface name or pattern such as eth0 or ens*")
}

/// `--sfu`.
pub(super) fn sfu(given: &[String]) -> Result<Vec<String>, Invalid> {
    let expected =
        "a program's name, the path of its executable or of its PID file, or a pattern of these";
    patterns(Origin("--sfu"), given, expected)
}

fn patterns(origin: Origin, patterns: &[String], expected: &str) -> Result<Vec<String>, Invalid> {
    for pattern in patterns {
        if pattern.is_empty() {
            return Err(origin.refuse(pattern, expected));
        }
        globset::Glob::new(pattern)
            .map_err(|error| origin.refuse(pattern, &format!("{expected} ({})", error.kind())))?;
    }
    Ok(patterns.to_vec())
}
