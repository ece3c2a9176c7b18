//! `cargo xtask demo`: builds the exporter and the demonstration, and becomes the latter.
//!
//! The demonstration is a program of the tests' package, so that this one does not depend on the
//! exporter: it must run when the exporter does not compile.

use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use crate::setup::mediasoup;
use crate::{paths, process, setup};

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// Install nothing.
    #[arg(long)]
    no_setup: bool,
    /// The demonstration's own options: see `cargo xtask demo --help`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

const BUILD: Duration = Duration::from_secs(15 * 60);

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let has = |flag: &str| args.rest.iter().any(|argument| argument == flag);
    if !(args.no_setup || has("--no-setup") || has("--help") || has("-h")) {
        setup::install(setup::Part::Mediasoup)?;
    }
    let mut cargo = Command::new("cargo");
    cargo.current_dir(paths::root()).args(["build", "--release", "--locked"]);
    cargo.args(["--package", "mediasoup-exporter", "--package", "exporter-tests", "--bins"]);
    process::run(&mut cargo, BUILD)?;

    let release = paths::target().join("release");
    let mut demo = Command::new(release.join("demo"));
    mediasoup::name_to(&mut demo)?;
    demo.env("MEDIASOUP_EXPORTER_BIN", release.join("mediasoup-exporter"));
    // This option is ours wherever it stands.
    demo.args(args.rest.iter().filter(|argument| *argument != "--no-setup"));
    // It takes our place, so that signals reach it and it can end what it started.
    Err(demo.exec()).context("start the demonstration")
}
