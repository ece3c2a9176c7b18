//! One row of a check: what was looked at, how it is, and what helps.

use std::fmt::Write;

use serde::Serialize;

/// How it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It works, but not all of it.
    Warning,
    /// It does not work.
    Fault,
    /// It could not be seen.
    Skipped,
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub subject: &'static str,
    /// How it is.
    pub level: Level,
    /// What was seen.
    pub text: String,
    /// What helps; empty where nothing needs to.
    pub remedy: String,
}

impl Finding {
    /// All is well.
    pub(super) fn ok(subject: &'static str, text: impl Into<String>) -> Self {
        Self { subject, level: Level::Ok, text: text.into(), remedy: String::new() }
    }

    /// It could not be seen, and why.
    pub(super) fn skipped(subject: &'static str, text: impl Into<String>) -> Self {
        Self { level: Level::Skipped, ..Self::ok(subject, text) }
    }

    /// Something is missing.
    pub(super) fn warning(
        subject: &'static str,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { level: Level::Warning, remedy: remedy.into(), ..Self::ok(subject, text) }
    }

    /// Something does not work.
    pub(super) fn fault(
        subject: &'static str,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { level: Level::Fault, remedy: remedy.into(), ..Self::ok(subject, text) }
    }
}

/// Whether nothing is wrong; under `strict` a warning is.
pub(super) fn is_well(findings: &[Finding], strict: bool) -> bool {
    findings.iter().all(|it| match it.level {
        Level::Ok | Level::Skipped => true,
        Level::Warning => !strict,
        Level::Fault => false,
    })
}

/// For people.
pub(super) fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { subject, level, text: seen, remedy } in findings {
        let level = match level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Fault => "fault",
            Level::Skipped => "skipped",
        };
        let _ = writeln!(text, "{level:<8} {subject:<11} {seen}");
        if !remedy.is_empty() {
            let _ = writeln!(text, "{:<20} -> {remedy}", "");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_faults_fail_and_warnings_where_they_are_asked_to() {
        let (ok, skipped) = (Finding::ok("a", "b"), Finding::skipped("a", "b"));
        let (warning, fault) = (Finding::warning("a", "b", "c"), Finding::fault("a", "b", "c"));
        assert!(is_well(&[ok, skipped], true));
        assert!(is_well(std::slice::from_ref(&warning), false) && !is_well(&[warning], true));
        assert!(!is_well(std::slice::from_ref(&fault), false));
        assert!(text(&[fault]).ends_with("-> c\n"));
    }
}
