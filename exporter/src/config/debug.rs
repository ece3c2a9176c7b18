//! npm `debug` patterns, as the replaced exporter took them in `DEBUG`.
//!
//! That exporter logged under three names: `edumeet:prom`, `edumeet:WARN:prom` and
//! `edumeet:ERROR:prom`. The same patterns select this program's levels.

use tracing::Level;

/// Names and the levels behind them.
const NAMES: [(&str, &[Level]); 3] = [
    ("edumeet:prom", &[Level::DEBUG, Level::INFO]),
    ("edumeet:WARN:prom", &[Level::WARN]),
    ("edumeet:ERROR:prom", &[Level::ERROR]),
];

/// Levels that are logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Levels(Vec<Level>);

impl Default for Levels {
    /// Everything but debugging.
    fn default() -> Self {
        Self(vec![Level::INFO, Level::WARN, Level::ERROR])
    }
}

impl Levels {
    /// Whether this level is logged.
    pub fn contains(&self, level: Level) -> bool {
        self.0.contains(&level)
    }

    /// What the patterns select. Patterns that speak of none of this program's names were meant for
    /// another program (`DEBUG` is shared by all of a service's Node programs): then the default
    /// stays.
    pub fn selected_by(patterns: &str) -> Self {
        let (skip, take): (Vec<&str>, Vec<&str>) = patterns
            .split([',', ' ', '\t', '\n'])
            .filter(|pattern| !pattern.is_empty())
            .partition(|pattern| pattern.starts_with('-'));
        let taken = |name: &str| take.iter().any(|pattern| matches(pattern, name));
        let skipped = |name: &str| skip.iter().any(|pattern| matches(&pattern[1..], name));
        if !NAMES.iter().any(|(name, _)| taken(name) || skipped(name)) {
            return Self::default();
        }
        let chosen = NAMES.iter().filter(|(name, _)| taken(name) && !skipped(name));
        Self(chosen.flat_map(|(_, levels)| levels.iter().copied()).collect())
    }
}

/// `*` stands for any text; everything else for itself. Linear in the text for each `*`, without
/// recursion, so no pattern is expensive.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else {
        return false;
    };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(patterns: &str, expected: &str) {
        let levels = Levels::selected_by(patterns);
        let letters = [
            (Level::ERROR, 'E'),
            (Level::WARN, 'W'),
            (Level::INFO, 'I'),
            (Level::DEBUG, 'D'),
            (Level::TRACE, 'T'),
        ];
        let got: String =
            letters.iter().filter(|(level, _)| levels.contains(*level)).map(|(_, c)| c).collect();
        assert_eq!(got, expected, "{patterns:?}");
    }

    #[test]
    fn patterns_select_levels() {
        check("*", "EWID");
        check("edumeet:*", "EWID");
        check("edumeet*prom", "EWID");
        check("edumeet:prom", "ID");
        check("*WARN*,*ERROR*", "EW");
        check("*WARN* *ERROR*", "EW");
        check("edumeet:ERROR:prom", "E");
        check("*,-edumeet:prom", "EW");
        check("edumeet:*,-edumeet:WARN:*", "EID");
        check("-*", "");
        check("*,-*", "");
        // Names of other programs change nothing.
        check("express:*", "EWI");
        check("mediasoup:*,-mediasoup:WARN:*", "EWI");
        check("", "EWI");
        check("edumeet:prom:more", "EWI");
        check("edumeet", "EWI");
        check("*:*:*:*", "EWI");
        check("**", "EWID");
    }
}
