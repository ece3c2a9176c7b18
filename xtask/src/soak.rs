//! `cargo xtask soak`: the long run of `tests/tests/e2e_soak.rs`, longer than a test run has time for.

use std::process::Command;
use std::time::Duration;

use anyhow::ensure;

use crate::process;

/// Options of `cargo xtask soak`.
#[derive(clap::Args)]
pub struct Args {
    /// How long, up to 20.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Install nothing.
    #[arg(long)]
    no_setup: bool,
}

/// With set-up and building.
const MOST: Duration = Duration::from_secs(60 * 60);

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    ensure!((1..=20).contains(&args.minutes), "--minutes: expected 1 to 20");
    let mut test = Command::new(std::env::current_exe()?);
    test.arg("test").args(args.no_setup.then_some("--no-setup"));
    test.arg("nothing_grows_in_the_long_run");
    test.env("SOAK_SECONDS", (args.minutes * 60).to_string());
    process::run(&mut test, MOST)
}
