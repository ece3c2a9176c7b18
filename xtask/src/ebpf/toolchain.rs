//! Which compiler, linker and objcopy make the kernel object.
//!
//! `MEDIASOUP_EXPORTER_BPF_TOOLCHAIN=nightly` chooses a rustup toolchain (it needs the component
//! rust-src) with the bpf-linker and llvm-objcopy in PATH, which must know that toolchain's LLVM.
//! Otherwise Debian's rustc-web is used with the bpf-linker that `cargo xtask setup` compiled, and,
//! where Debian's is missing, rustup's nightly.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::choice;
use crate::process;
use crate::setup::linker;

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";

/// What the compiler is told besides the paths that it must not write down.
///
/// The instruction set v3 has the atomic compare-and-exchange that the streams' lock needs (kernel
/// 5.12). Debug information is what BTF is made from. TC programs use nothing that depends on the
/// processor, so the bindings' architecture does not matter.
pub const FLAGS: &[&str] =
    &["--cfg=bpf_target_arch=\"x86_64\"", "-Ctarget-cpu=v3", "-Cdebuginfo=2", "-Clink-arg=--btf"];

const QUICK: Duration = Duration::from_secs(60);

/// Programs that make an object, and their description.
pub struct Toolchain {
    /// cargo of the same release as `rustc`.
    pub cargo: PathBuf,
    /// rustc, with the sources of `core`.
    pub rustc: PathBuf,
    /// Where those sources are.
    pub core: PathBuf,
    /// The folder that holds bpf-linker.
    pub linker_folder: PathBuf,
    /// llvm-objcopy.
    pub objcopy: PathBuf,
    /// Versions and flags: where it is equal, the bytes are.
    pub description: String,
}

/// Finds a complete toolchain, or says what is missing.
pub fn find() -> anyhow::Result<Toolchain> {
    if let Some(name) = choice::chosen() {
        return rustup(&name);
    }
    let debian = debian();
    let Err(debian) = debian else { return debian };
    rustup("nightly").map_err(|nightly| {
        debian.context(format!(
            "no toolchain for the kernel object: run `cargo xtask setup --only ebpf` as root \
             (Debian), or `rustup toolchain install nightly --component rust-src` and install \
             bpf-linker (rustup's nightly here: {nightly:#})"
        ))
    })
}

fn debian() -> anyhow::Result<Toolchain> {
    for program in [DEBIAN_RUSTC, DEBIAN_CARGO] {
        if !Path::new(program).is_file() {
            bail!("{program} is missing");
        }
    }
    let linker = linker::find()?.context("bpf-linker is not in the cache folder")?;
    let llvm = fs::read_to_string(linker.join("LLVM")).context("read the linker's LLVM version")?;
    complete(DEBIAN_CARGO.into(), DEBIAN_RUSTC.into(), linker.join("bin"), &llvm)
}

fn rustup(name: &str) -> anyhow::Result<Toolchain> {
    let which = |program| {
        let mut rustup = Command::new("rustup");
        rustup.args(["which", "--toolchain", name, program]);
        process::read(&mut rustup, QUICK).map(|path| PathBuf::from(path.trim()))
    };
    let linker = in_path(&["bpf-linker"]).context("bpf-linker is not in PATH")?;
    let folder = linker.parent().context("bpf-linker lies in a folder")?.to_owned();
    complete(which("cargo")?, which("rustc")?, folder, "unknown")
}

fn complete(
    cargo: PathBuf,
    rustc: PathBuf,
    linker_folder: PathBuf,
    linker_llvm: &str,
) -> anyhow::Result<Toolchain> {
    let core = core_sources(&rustc)?;
    let objcopy = in_path(&["llvm-objcopy-22", "llvm-objcopy", "rust-objcopy"])
        .context("llvm-objcopy is not in PATH (Debian package llvm-22)")?;
    let mut linker = Command::new(linker_folder.join("bpf-linker"));
    let linker = process::read(linker.arg("--version"), QUICK)?;
    let rustc_version =
        process::read(Command::new(&rustc).arg("--version").arg("--verbose"), QUICK)?;
    let description = description(&rustc_version, linker.trim(), linker_llvm);
    Ok(Toolchain { cargo, rustc, core, linker_folder, objcopy, description })
}

/// The folder `library` of the toolchain's own Rust sources.
fn core_sources(rustc: &Path) -> anyhow::Result<PathBuf> {
    // Under rustup's variables its own rustc would ask for another toolchain.
    let mut command = Command::new(rustc);
    command.args(["--print", "sysroot"]).env_remove("RUSTUP_TOOLCHAIN");
    let sysroot = process::read(&mut command, QUICK)?;
    let sources = Path::new(sysroot.trim()).join("lib/rustlib/src/rust");
    if !sources.join("library/core/src/lib.rs").is_file() {
        bail!("{} has no sources of core (component rust-src)", rustc.display());
    }
    Ok(sources)
}

fn in_path(names: &[&str]) -> Option<PathBuf> {
    let folders: Vec<PathBuf> = env::split_paths(&env::var_os("PATH")?).collect();
    let candidates = names.iter().flat_map(|name| folders.iter().map(move |f| f.join(name)));
    candidates.into_iter().find(|path| path.is_file())
}

/// The lines of `rustc --version --verbose` that tell compilers apart, and the rest.
fn description(rustc: &str, linker: &str, linker_llvm: &str) -> String {
    let mut text = String::new();
    for line in rustc.lines() {
        let name = line.split(':').next().unwrap_or_default();
        if line.starts_with("rustc ") || ["host", "LLVM version"].contains(&name) {
            text.push_str(line);
            text.push('\n');
        }
    }
    text.push_str(&format!("{linker}, LLVM {linker_llvm}\n"));
    text.push_str(&format!("flags: {}\n", FLAGS.join(" ")));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_tells_toolchains_apart() {
        let rustc = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\n\
                     binary: rustc\nhost: x86_64-unknown-linux-gnu\nrelease: 1.96.0\n\
                     LLVM version: 22.1.8\n";
        let text = description(rustc, "bpf-linker 0.13.0", "22.1.8");
        let expected = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\n\
                        host: x86_64-unknown-linux-gnu\nLLVM version: 22.1.8\n\
                        bpf-linker 0.13.0, LLVM 22.1.8\nflags: ";
        assert!(text.starts_with(expected), "{text}");
    }
}
