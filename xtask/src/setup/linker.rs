//! bpf-linker: compiled from crates.io against Debian's LLVM, kept in the cache folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use crate::cache::{self, Locked, Recipe};
use crate::ebpf::choice;
use crate::process;

const VERSION: &str = "0.13.0";
/// The LLVM of [`VERSION`]'s feature, which must be the LLVM of Debian's rustc.
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";
const FEATURE: &str = "llvm-22";

const QUICK: Duration = Duration::from_secs(60);
const BUILD: Duration = Duration::from_secs(20 * 60);

/// Builds it unless it is there, or unless a toolchain was chosen that brings its own.
pub fn install(cache: &Locked) -> anyhow::Result<()> {
    if choice::chosen().is_some() {
        return Ok(());
    }
    cache.get_or_build("bpf-linker", recipe()?, build)?;
    Ok(())
}

/// The finished folder, with `bin/bpf-linker` and `LLVM`, its LLVM's version.
pub fn find() -> anyhow::Result<Option<PathBuf>> {
    if !Path::new(LLVM_PREFIX).is_dir() {
        return Ok(None);
    }
    cache::find("bpf-linker", recipe()?)
}

/// LLVM's version is an ingredient, because its code becomes a part of the linker.
fn recipe() -> anyhow::Result<Recipe> {
    Ok(Recipe::new().text(VERSION).text(FEATURE).text(&llvm_version()?))
}

fn llvm_version() -> anyhow::Result<String> {
    let config = Path::new(LLVM_PREFIX).join("bin/llvm-config");
    let version = process::read(Command::new(config).arg("--version"), QUICK)?;
    Ok(version.trim().to_owned())
}

fn build(folder: &Path) -> anyhow::Result<()> {
    let target = folder.join("target");
    let mut cargo = Command::new("cargo");
    cargo.current_dir(folder).env("LLVM_PREFIX", LLVM_PREFIX);
    cargo.args(["install", "bpf-linker", "--locked", "--version", VERSION]);
    cargo.args(["--no-default-features", "--features", FEATURE]);
    cargo.arg("--root").arg(folder).arg("--target-dir").arg(&target);
    process::run(&mut cargo, BUILD)?;
    cache::remove(&target)?;
    fs::write(folder.join("LLVM"), llvm_version()?).context("write the linker's LLVM version")
}
