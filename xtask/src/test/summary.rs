//! Reads what tests print: how many passed, failed and were skipped. Text in, numbers out.

use std::fmt;
use std::ops::AddAssign;

/// How many checks and tests ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Ran and succeeded.
    pub passed: usize,
    /// Ran and failed.
    pub failed: usize,
    /// Could not run here, and said why.
    pub skipped: usize,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// Counts what one command tells: the lines in which libtest sums up each binary, and the lines
/// with which a test says that it could not run. Such a test passes for libtest, so it is taken
/// from the passed ones.
pub fn counts(stdout: &str, stderr: &str) -> Counts {
    let mut counts = Counts::default();
    for line in stdout.lines() {
        counts += result(line).unwrap_or_default();
    }
    let skipped = reasons(stdout, stderr).len();
    counts.skipped += skipped;
    counts.passed = counts.passed.saturating_sub(skipped);
    counts
}

/// Why tests were skipped, each reason as often as it was given.
pub fn reasons<'a>(stdout: &'a str, stderr: &'a str) -> Vec<&'a str> {
    stdout.lines().chain(stderr.lines()).filter_map(reason).collect()
}

/// Lines of one complaint that are kept.
const COMPLAINT: usize = 12;

/// What failing tests said: which, and the beginning of each complaint, without the way that led there.
pub fn complaints(stdout: &str, stderr: &str) -> Vec<String> {
    let failed = |line: &&str| line.starts_with("test ") && line.ends_with(" ... FAILED");
    let mut complaints: Vec<_> = stdout.lines().filter(failed).map(str::to_owned).collect();
    for text in [stdout, stderr] {
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if line.starts_with("Error: ")
                || (line.starts_with("thread '") && line.contains(" panicked at "))
            {
                let more = lines.clone().take(COMPLAINT).take_while(|it| !ends_complaint(it));
                complaints.push(line.to_owned());
                complaints.extend(more.map(|it| format!("    {it}")));
            }
        }
    }
    complaints
}

fn ends_complaint(line: &str) -> bool {
    let lower = line.trim_start().to_ascii_lowercase();
    lower.starts_with("stack backtrace:")
        || lower.starts_with("test ")
        || lower.starts_with("note:")
}

/// libtest prints `test name ... ` and no newline before a test runs, so that with one thread what
/// a test prints itself may follow on the same line.
fn reason(line: &str) -> Option<&str> {
    let own = match line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
        Some((_, own)) => own,
        None => line,
    };
    own.strip_prefix("skipped: ").map(str::trim)
}

/// The counts in `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; …`.
fn result(line: &str) -> Option<Counts> {
    // The end of a line that a test's own output began counts too.
    let (_, numbers) = line.split_once("test result: ")?;
    let (_, numbers) = numbers.split_once(". ")?;
    let number = |what: &str| {
        let part = numbers.split("; ").find_map(|part| part.trim().strip_suffix(what))?;
        part.trim().parse().ok()
    };
    Some(Counts {
        passed: number("passed")?,
        failed: number("failed")?,
        skipped: number("ignored")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(stdout: &str, stderr: &str, passed: usize, failed: usize, skipped: usize) {
        assert_eq!(counts(stdout, stderr), Counts { passed, failed, skipped });
    }

    #[test]
    fn counts_of_commands() {
        check("", "", 0, 0, 0);
        check(
            "running 4 tests\ntest a ... ok\n\ntest result: ok. 4 passed; 0 failed; 0 ignored; 0 \
             measured; 2 filtered out; finished in 0.00s\n\ntest result: FAILED. 1 passed; 2 \
             failed; 3 ignored; 0 measured; 0 filtered out; finished in 1.00s\n",
            "",
            5,
            2,
            3,
        );
        let one = "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n";
        check(one, "skipped: needs root\n", 0, 0, 1);
        check(&format!("test needs::root ... skipped: needs root\nok\n{one}"), "", 0, 0, 1);
        check(&format!("test a ... not skipped: at all\n{one}"), "warning: skipped: x\n", 1, 0, 0);
        check("test result: of something else\n", "", 0, 0, 0);
    }

    #[test]
    fn complaints_are_told_without_the_way_there() {
        let stdout = "test a ... ok\ntest b ... FAILED\ntest c ... FAILED\n";
        let stderr = "Error: streams\n\nCaused by:\n    none\n\nStack backtrace:\n  0: x\n\
            thread 'c' (7) panicked at src/c.rs:1:2:\nno\nnote: run with\n";
        let told = complaints(stdout, stderr);
        let expected = [
            "test b ... FAILED",
            "test c ... FAILED",
            "Error: streams",
            "    ",
            "    Caused by:",
            "        none",
            "    ",
            "thread 'c' (7) panicked at src/c.rs:1:2:",
            "    no",
        ];
        assert_eq!(told, expected);
        assert!(complaints("test a ... ok\n", "warning: x\n").is_empty());
    }

    #[test]
    fn the_closing_line() {
        let counts = Counts { passed: 3, failed: 1, skipped: 2 };
        assert_eq!(counts.to_string(), "3 passed, 1 failed, 2 skipped");
    }
}
