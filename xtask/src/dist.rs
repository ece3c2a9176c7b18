//! `cargo xtask dist`: a release in `target/dist`, ready to be copied to a host.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::{arm64, cache, paths, process};

/// Options of `cargo xtask dist`.
#[derive(clap::Args)]
pub struct Args {
    /// Link the C library dynamically: smaller, and tied to hosts with the same or a newer one.
    #[arg(long)]
    dynamic: bool,
    /// For arm64, on another processor.
    #[arg(long)]
    arm64: bool,
}

const QUICK: Duration = Duration::from_secs(60);
const BUILD: Duration = Duration::from_secs(30 * 60);

const BINARY: &str = "mediasoup-exporter";
/// Naming the target keeps build scripts and procedural macros from the flags for the binary: a
/// procedural macro cannot be linked statically.
const TARGET: &str = if cfg!(target_arch = "aarch64") {
    "aarch64-unknown-linux-gnu"
} else {
    "x86_64-unknown-linux-gnu"
};

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let folder = paths::target().join(if args.arm64 { "dist-arm64" } else { "dist" });
    cache::remove(&folder)?;
    cache::create(&folder)?;
    let binary = folder.join(BINARY);
    if args.arm64
        && let Some(missing) = arm64::missing()
    {
        bail!("{missing} (`cargo xtask setup --only packages`)");
    }
    build(&binary, args)?;
    let units = ["dist/mediasoup-exporter.service", "dist/mediasoup-exporter.socket"];
    let rules = ["dist/prometheus/mediasoup.rules.yml"];
    for file in ["LICENSE", "README.md"].into_iter().chain(units).chain(rules) {
        copy(&paths::root().join(file), &folder)?;
    }
    completions(&binary, &folder, args.arm64)?;
    eprintln!("{} is ready", folder.display());
    Ok(())
}

fn build(binary: &Path, args: &Args) -> anyhow::Result<()> {
    // A target folder of its own: the flags would have everything else compiled anew each time.
    let target = paths::target().join("dist-build");
    let mut cargo = Command::new("cargo");
    cargo.current_dir(paths::root()).args(["build", "--release", "--locked"]);
    cargo.args(["--package", BINARY, "--target-dir"]).arg(&target);
    cargo.env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
    if args.arm64 {
        arm64::tell(&mut cargo);
    } else {
        cargo.args(["--target", TARGET]);
    }
    if !args.dynamic {
        cargo.env("RUSTFLAGS", "-Ctarget-feature=+crt-static");
    }
    process::run(&mut cargo, BUILD)?;
    let triple = if args.arm64 { arm64::TARGET } else { TARGET };
    let built = target.join(triple).join("release").join(BINARY);
    fs::copy(&built, binary).with_context(|| format!("copy {}", built.display()))?;
    Ok(())
}

fn copy(file: &Path, folder: &Path) -> anyhow::Result<()> {
    let name = file.file_name().context("a file has a name")?;
    fs::copy(file, folder.join(name)).with_context(|| format!("copy {}", file.display()))?;
    Ok(())
}

/// Completions are printed by the binary itself, which knows its flags.
fn completions(binary: &Path, folder: &Path, by_emulation: bool) -> anyhow::Result<()> {
    let folder = folder.join("completions");
    cache::create(&folder)?;
    for shell in ["bash", "zsh", "fish"] {
        let mut command = if by_emulation { arm64::run(binary) } else { Command::new(binary) };
        let text = process::read(command.args(["--completions", shell]), QUICK)?;
        fs::write(folder.join(format!("{BINARY}.{shell}")), text)
            .with_context(|| format!("write the completions for {shell}"))?;
    }
    Ok(())
}
