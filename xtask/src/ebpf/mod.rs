//! `cargo xtask ebpf`: compiles `exporter-ebpf` for the kernel and puts the object, the digests of
//! what it was made from and the toolchain's description into `exporter-ebpf/prebuilt`.
//!
//! The exporter embeds that object, so that building the exporter needs Rust stable only. The
//! object holds no path of the machine, so that the same toolchain gives the same bytes everywhere.

mod build;
pub mod choice;
mod sources;
pub mod toolchain;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, bail};

use crate::{cache, paths};
use toolchain::Toolchain;

/// Options of `cargo xtask ebpf`.
#[derive(clap::Args)]
pub struct Args {
    /// Write nothing: fail when the committed object is not the sources' one.
    #[arg(long)]
    check: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    if !args.check {
        return update();
    }
    if let Some(why) = check()? {
        eprintln!("skipped: {why}");
    }
    Ok(())
}

fn update() -> anyhow::Result<()> {
    let toolchain = toolchain::find()?;
    // Read before and after: a source that is edited meanwhile must not pass for built.
    let sources = sources::digests()?;
    let objects = build::objects(&toolchain)?;
    if sources != sources::digests()? {
        bail!("build the kernel object: a source changed meanwhile, build again");
    }
    let list = sources::list(&sources, &objects);
    let files = [
        (sources::OBJECTS[0], objects[0].as_slice()),
        (sources::OBJECTS[1], objects[1].as_slice()),
        (DIGESTS, list.as_bytes()),
        (TOOLCHAIN, toolchain.description.as_bytes()),
    ];
    cache::create(&prebuilt(""))?;
    for (name, content) in files {
        let path = prebuilt(name);
        fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
    }
    for (name, object) in sources::OBJECTS.iter().zip(&objects) {
        eprintln!("wrote {} ({} bytes)", prebuilt(name).display(), object.len());
    }
    Ok(())
}

/// Fails when the committed object is stale. Rebuilds it and compares bytes where that is possible;
/// returns why, where it is not.
pub fn check() -> anyhow::Result<Option<String>> {
    let read = |name| cache::read(&prebuilt(name)).context(REMEDY);
    let objects = [read(sources::OBJECTS[0])?, read(sources::OBJECTS[1])?];
    let recorded = String::from_utf8(cache::read(&prebuilt(DIGESTS))?)?;
    let differing = sources::differing(&recorded, &sources::list(&sources::digests()?, &objects));
    if !differing.is_empty() {
        bail!("the kernel object was not built from these: {}. {REMEDY}", differing.join(", "));
    }
    eprintln!("the kernel object's sources are the ones that it was built from");
    match same_toolchain()? {
        Ok(toolchain) if build::objects(&toolchain)? == objects => {
            eprintln!("the kernel object was built again and came out the same");
            Ok(None)
        }
        Ok(_) => bail!("the kernel object came out different when it was built again. {REMEDY}"),
        Err(why) => Ok(Some(format!("building the kernel object again: {why}"))),
    }
}

const REMEDY: &str = "Run `cargo xtask ebpf` and commit exporter-ebpf/prebuilt";

/// The toolchain that built the committed object, or why it is not to be had here.
fn same_toolchain() -> anyhow::Result<Result<Toolchain, String>> {
    let recorded = String::from_utf8(cache::read(&prebuilt(TOOLCHAIN))?)?;
    Ok(match toolchain::find() {
        Ok(toolchain) if toolchain.description == recorded => Ok(toolchain),
        Ok(toolchain) => {
            Err(format!("it was built with\n{recorded}and here is\n{}", toolchain.description))
        }
        Err(error) => Err(format!("{error:#}")),
    })
}

const DIGESTS: &str = "SOURCES.sha256";
const TOOLCHAIN: &str = "TOOLCHAIN";

fn prebuilt(file: &str) -> PathBuf {
    paths::kernel_program().join("prebuilt").join(file)
}
