//! `cargo xtask test`: installs what is needed, runs every check and every test, and sums up.
//!
//! A step that fails does not keep the next ones from running. The last line is
//! `N passed, N failed, N skipped`; each check that is not a test counts as one.

mod deny;
mod steps;
mod summary;

use std::time::{Duration, Instant};

use anyhow::bail;

use crate::process::{self, Finished};
use crate::setup;
use steps::{Action, Step};
use summary::Counts;

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
pub struct Args {
    /// Install nothing: tests whose tools are missing are skipped.
    #[arg(long)]
    no_setup: bool,
    /// Run only the tests whose name contains one of these, and none of the other checks.
    filter: Vec<String>,
}

/// How a step ended.
struct Outcome {
    name: String,
    took: Duration,
    counts: Counts,
    error: Option<anyhow::Error>,
    reasons: Vec<String>,
    complaints: Vec<String>,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut outcomes = Vec::new();
    if !args.no_setup {
        let install = Step::own("set-up", || setup::install(setup::Part::All).map(|()| None));
        outcomes.push(perform(install));
    }
    // Without the tools the tests would be skipped, and what was skipped looks like success.
    if outcomes.iter().all(|outcome| outcome.error.is_none()) {
        let steps =
            if args.filter.is_empty() { steps::all()? } else { steps::filtered(&args.filter)? };
        outcomes.extend(steps.into_iter().map(perform));
    }
    if sum_up(&outcomes).failed > 0 {
        // An error would be printed after the closing line, which is to be the last.
        std::process::exit(1);
    }
    Ok(())
}

fn perform(step: Step) -> Outcome {
    eprintln!("\n== {} ==", step.name);
    let start = Instant::now();
    let Ended { counts, reasons, complaints, error } = match step.action {
        Action::Own(action) => of_check(action()),
        Action::Command(mut command, limit) => match process::tee(&mut command, limit) {
            Ok(finished) if step.is_tests => of_tests(&finished),
            Ok(finished) => of_check(succeeded(&finished).map(|()| None)),
            Err(error) => of_check(Err(error)),
        },
    };
    if let Some(error) = &error {
        eprintln!("{}: {error:#}", step.name);
    }
    Outcome { name: step.name, took: start.elapsed(), counts, error, reasons, complaints }
}

/// What is known of a step that ended.
#[derive(Default)]
struct Ended {
    counts: Counts,
    reasons: Vec<String>,
    complaints: Vec<String>,
    error: Option<anyhow::Error>,
}

/// A check counts as one, and so does the half of it that could not be done.
fn of_check(result: anyhow::Result<Option<String>>) -> Ended {
    let (passed, failed, skipped) = match &result {
        Ok(None) => (1, 0, 0),
        Ok(Some(_)) => (1, 0, 1),
        Err(_) => (0, 1, 0),
    };
    let counts = Counts { passed, failed, skipped };
    match result {
        Ok(why) => Ended { counts, reasons: Vec::from_iter(why), ..Ended::default() },
        Err(error) => Ended { counts, error: Some(error), ..Ended::default() },
    }
}

fn of_tests(finished: &Finished) -> Ended {
    let mut counts = summary::counts(&finished.stdout, &finished.stderr);
    let reasons = summary::reasons(&finished.stdout, &finished.stderr);
    let error = succeeded(finished).err();
    if error.is_some() && counts.failed == 0 {
        // A compiler's error leaves no test to count.
        counts.failed = 1;
    }
    let complaints = match error {
        Some(_) => summary::complaints(&finished.stdout, &finished.stderr),
        None => Vec::new(),
    };
    Ended { counts, reasons: reasons.into_iter().map(str::to_owned).collect(), complaints, error }
}

fn succeeded(finished: &Finished) -> anyhow::Result<()> {
    if !finished.status.success() {
        bail!("ended with {}", finished.status);
    }
    Ok(())
}

/// Prints the table and the closing line.
fn sum_up(outcomes: &[Outcome]) -> Counts {
    let mut all = Counts::default();
    println!("\n{:<28} {:>8}  result", "step", "seconds");
    for outcome in outcomes {
        all += outcome.counts;
        let verdict = if outcome.error.is_some() { "FAILED" } else { "ok" };
        let seconds = outcome.took.as_secs_f64();
        println!("{:<28} {seconds:>8.1}  {verdict} ({})", outcome.name, outcome.counts);
    }
    let total: Duration = outcomes.iter().map(|outcome| outcome.took).sum();
    println!("{:<28} {:>8.1}", "all", total.as_secs_f64());
    for outcome in outcomes {
        for reason in &outcome.reasons {
            println!("skipped in {}: {reason}", outcome.name);
        }
    }
    for outcome in outcomes {
        for complaint in &outcome.complaints {
            println!("{complaint}");
        }
        if let Some(error) = &outcome.error {
            println!("failed: {}: {error:#}", outcome.name);
        }
    }
    println!("{all}");
    all
}
