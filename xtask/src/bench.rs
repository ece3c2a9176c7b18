//! `cargo xtask bench`: builds the exporter and the measuring program as releases, and becomes the
//! latter.
//!
//! As the demonstration, it is a program of the tests' package: this one does not depend on the
//! exporter.

use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use crate::setup::mediasoup;
use crate::{paths, process};

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// The measuring program's own options: see `cargo xtask bench --help`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

const BUILD: Duration = Duration::from_secs(15 * 60);

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(paths::root()).args(["build", "--release", "--locked"]);
    cargo.args(["--package", "mediasoup-exporter", "--bin", "mediasoup-exporter"]);
    cargo.args(["--package", "exporter-tests", "--bin", "bench"]);
    process::run(&mut cargo, BUILD)?;

    let release = paths::target().join("release");
    let mut bench = Command::new(release.join("bench"));
    mediasoup::name_to(&mut bench)?;
    bench.env("MEDIASOUP_EXPORTER_BIN", release.join("mediasoup-exporter"));
    bench.arg("--out").arg(paths::target().join("bench.json")).args(&args.rest);
    // It takes our place, so that signals reach it and it can end what it started.
    Err(bench.exec()).context("start the measuring program")
}
