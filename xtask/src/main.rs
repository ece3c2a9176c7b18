//! Builds, checks and runs the project: `cargo xtask --help`.
#![expect(
    unreachable_pub,
    reason = "in a program, `pub` says which items a module's neighbours use"
)]

mod paths;

mod process;

mod arm64;

mod cache;
mod setup;

mod ebpf;

mod test;

mod dist;

mod demo;

mod bench;

mod soak;

#[cfg(test)]
mod circles;
#[cfg(test)]
mod floors;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, checks and runs mediasoup-exporter.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what building the kernel object and running the tests need (root, Debian or alike).
    Setup(setup::Args),
    /// Build the kernel object from exporter-ebpf and put it into exporter-ebpf/prebuilt.
    Ebpf(ebpf::Args),
    /// Set up, then run every check and every test.
    Test(test::Args),
    /// Build a release into target/dist: binary, systemd unit, rules for Prometheus, shell completions.
    Dist(dist::Args),
    /// Show the exporter at work: a real mediasoup with rooms of peers that talk (root).
    Demo(demo::Args),
    /// Measure what a packet, a scrape and a stream cost (root).
    Bench(bench::Args),
    /// Let people, servers and interfaces come and go for ten minutes, and see that nothing grows (root).
    Soak(soak::Args),
}

fn main() -> ExitCode {
    process::end_children_with_us();
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Setup(args) => setup::run(&args),
        Command::Ebpf(args) => ebpf::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Dist(args) => dist::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Soak(args) => soak::run(&args),
    }
}
