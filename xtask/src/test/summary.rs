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
    fn the_closing_line() {
        let counts = Counts { passed: 3, failed: 1, skipped: 2 };
        assert_eq!(counts.to_string(), "3 passed, 1 failed, 2 skipped");
    }
}
