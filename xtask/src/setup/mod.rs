//! `cargo xtask setup`: installs what building the kernel object and running the tests need.
//!
//! What is there already is left alone, and then nothing asks the network. Debian packages go where
//! Debian puts them; everything else goes into the cache folder.

pub mod bundlers;
pub mod kernels;
pub mod linker;
pub mod mediasoup;
mod npm;
mod packages;
pub mod page;
mod part;

use std::time::Instant;

use crate::{arm64, cache};
pub use part::Part;

/// Options of `cargo xtask setup`.
#[derive(clap::Args)]
pub struct Args {
    /// Install only this part.
    #[arg(long, value_enum, default_value_t = Part::All)]
    only: Part,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    install(args.only)
}

/// Installs `part`; does nothing when it is installed.
pub fn install(part: Part) -> anyhow::Result<()> {
    let cache = cache::lock()?;
    let wants = |one| part == Part::All || part == one;
    timed("Debian packages", || packages::install(part))?;
    if part == Part::All && !cfg!(target_arch = "aarch64") {
        timed("Rust's library for arm64", || {
            arm64::install();
            Ok(())
        })?;
    }
    if wants(Part::Ebpf) {
        timed("bpf-linker", || linker::install(&cache))?;
    }
    if wants(Part::Mediasoup) {
        for version in mediasoup::VERSIONS {
            timed(&format!("mediasoup {version}"), || mediasoup::install(&cache, version))?;
        }
        timed("what servers are bundled with", || {
            bundlers::BUNDLE.install(&cache, bundlers::check)
        })?;
    }
    if part == Part::All && cfg!(target_arch = "x86_64") {
        timed("other kernels", || {
            kernels::install(&cache);
            Ok(())
        })?;
    }
    if wants(Part::Webrtc) {
        timed("the page of the WebRTC tests", || page::BUNDLE.install(&cache, page::check))?;
    }
    Ok(())
}

fn timed(what: &str, install: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let start = Instant::now();
    install()?;
    eprintln!("setup: {what}: ready ({:.1} s)", start.elapsed().as_secs_f64());
    Ok(())
}
