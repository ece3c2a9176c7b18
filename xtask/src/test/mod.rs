//! `cargo xtask test`: installs what is needed, runs every check and every test, and sums up.
//!
//! A step that fails does not keep the next ones from running. The last line is
//! `N passed, N failed, N skipped`; each check that is not a test counts as one.

mod steps;
mod summary;

use std::time::{Duration, Instant};

use anyhow::bail;

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
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut outcomes = Vec::new();
    if !args.no_setup {
        let install = Step::own("set-up", || setup::install(setup::Part::All));
        outcomes.push(perform(install));
    }
    // Without the tools the tests would be skipped, and what was skipped looks like success.
    if outcomes.iter().all(|outcome| outcome.error.is_none()) {
        let steps =
            if args.filter.is_empty() { steps::all()? } else { steps::filtered(&args.filter)? };
        outcomes.extend(steps.into_iter().map(perform));
    }
    sum_up(&outcomes)
}

fn perform(step: Step) -> Outcome {
    eprintln!("\n== {} ==", step.name);
    let start = Instant::now();
    let (result, output) = match step.action {
        Action::Own(action) => (action(), None),
        Action::Command(mut command, limit) => match crate::process::tee(&mut command, limit) {
            Ok(finished) => {
                let failed = || anyhow::anyhow!("ended with {}", finished.status);
                (finished.status.success().then_some(()).ok_or_else(failed), Some(finished))
            }
            Err(error) => (Err(error), None),
        },
    };
    let (stdout, stderr) = output.as_ref().map_or(("", ""), |o| (&o.stdout, &o.stderr));
    let mut counts =
        if step.is_tests { summary::counts(stdout, stderr) } else { Counts::default() };
    match &result {
        Ok(()) if !step.is_tests => counts.passed += 1,
        // A compiler's error leaves no test to count.
        Err(_) if counts.failed == 0 => counts.failed += 1,
        _ => {}
    }
    if let Err(error) = &result {
        eprintln!("{}: {error:#}", step.name);
    }
    let reasons = match step.is_tests {
        true => summary::reasons(stdout, stderr).into_iter().map(str::to_owned).collect(),
        false => Vec::new(),
    };
    Outcome { name: step.name, took: start.elapsed(), counts, error: result.err(), reasons }
}

fn sum_up(outcomes: &[Outcome]) -> anyhow::Result<()> {
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
        if let Some(error) = &outcome.error {
            println!("failed: {}: {error:#}", outcome.name);
        }
    }
    println!("{all}");
    if all.failed > 0 {
        bail!("{} failed", all.failed);
    }
    Ok(())
}
