//! Runs cargo for the kernel's target and strips what only a debugger on the machine could use.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::toolchain::{FLAGS, Toolchain};
use crate::{cache, paths, process};

const TARGET: &str = "bpfel-unknown-none";

const QUICK: Duration = Duration::from_secs(60);
const BUILD: Duration = Duration::from_secs(10 * 60);

/// The objects: the exporter's, and what its cost is measured against.
pub const OBJECTS: [&str; 2] = ["exporter-ebpf", "baseline"];

/// Compiles [`OBJECTS`].
pub fn objects(toolchain: &Toolchain) -> anyhow::Result<[Vec<u8>; 2]> {
    // The registry's folder must be there before its path can be kept out of the object.
    process::run(cargo(toolchain).args(["fetch", "--locked"]), BUILD)?;

    let target = paths::target().join("ebpf");
    let mut build = cargo(toolchain);
    build.args(["build", "--locked", "--release", "--bins"]);
    build.args(["-Z", "build-std=core", "--target", TARGET, "--target-dir"]).arg(&target);
    build.env("CARGO_ENCODED_RUSTFLAGS", encoded_flags(&remapped(toolchain)?));
    process::run(&mut build, BUILD)?;

    let stripped = |name: &str| -> anyhow::Result<Vec<u8>> {
        let built = target.join(TARGET).join("release").join(name);
        let stripped = target.join(name).with_extension("o");
        strip(toolchain, &built, &stripped)?;
        let object = cache::read(&stripped)?;
        refuse_paths(&object)?;
        Ok(object)
    };
    let [exporter, baseline] = OBJECTS;
    Ok([stripped(exporter)?, stripped(baseline)?])
}

fn cargo(toolchain: &Toolchain) -> Command {
    let mut cargo = Command::new(&toolchain.cargo);
    cargo.current_dir(paths::kernel_program());
    // We run under another cargo, whose settings are not meant for this build.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        let ours = ["CARGO_BUILD_", "CARGO_PROFILE_", "CARGO_TARGET_", "RUSTC", "RUSTUP_TOOLCHAIN"];
        if ours.iter().any(|start| name.starts_with(start)) || name == "RUSTFLAGS" {
            cargo.env_remove(&*name);
        }
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = [toolchain.linker_folder.clone()].into_iter().chain(env::split_paths(&path));
    cargo.env("PATH", env::join_paths(folders).unwrap_or(path.clone()));
    // Building core for a target without one is unstable; on stable compilers this unlocks it.
    cargo.env("RUSTC", &toolchain.rustc).env("RUSTC_BOOTSTRAP", "1");
    cargo
}

/// Folders of this machine, and what stands in the object for each.
fn remapped(toolchain: &Toolchain) -> anyhow::Result<Vec<(PathBuf, &'static str)>> {
    let mut folders = vec![(paths::kernel_program(), "."), (toolchain.core.clone(), "rust")];
    // Debian's is a link, and the compiler writes down where it leads.
    folders.push((toolchain.core.join("library").canonicalize()?, "rust/library"));
    // One folder for each registry, named after it.
    let registries = cargo_home()?.join("registry/src");
    let listed = fs::read_dir(&registries);
    for registry in listed.with_context(|| format!("list {}", registries.display()))? {
        folders.push((registry?.path(), "registry"));
    }
    Ok(folders)
}

fn cargo_home() -> anyhow::Result<PathBuf> {
    let named = env::var_os("CARGO_HOME").map(PathBuf::from);
    let of_home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    named.or_else(of_home).context("find cargo's folder: set CARGO_HOME or HOME")
}

/// Flags as cargo takes them where one may hold spaces: separated by the unit separator.
fn encoded_flags(remapped: &[(PathBuf, &str)]) -> OsString {
    let mut flags = OsString::from(FLAGS.join("\u{1f}"));
    for (from, to) in remapped {
        flags.push("\u{1f}--remap-path-prefix=");
        flags.push(from);
        flags.push("=");
        flags.push(to);
    }
    flags
}

/// Leaves BTF in, which names the functions and lines in the verifier's messages.
fn strip(toolchain: &Toolchain, from: &Path, to: &Path) -> anyhow::Result<()> {
    let mut objcopy = Command::new(&toolchain.objcopy);
    process::read(objcopy.arg("--strip-debug").arg(from).arg(to), QUICK)?;
    Ok(())
}

/// A path of this machine in the object would make it differ on the next one.
fn refuse_paths(object: &[u8]) -> anyhow::Result<()> {
    for folder in [paths::root().to_owned(), cargo_home()?] {
        let folder = folder.to_str().context("a folder's name is not UTF-8")?;
        if contains(object, folder.as_bytes()) {
            bail!("the kernel object holds the path {folder}: see `remapped` in xtask");
        }
    }
    Ok(())
}

/// Whether `path` stands in `object`, not as the end of a longer path.
fn contains(object: &[u8], path: &[u8]) -> bool {
    let in_a_path = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-/".contains(byte);
    let starts_there = |at: usize| at == 0 || !in_a_path(&object[at - 1]);
    let mut windows = object.windows(path.len()).enumerate();
    windows.any(|(at, window)| window == path && starts_there(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_keep_their_spaces() {
        let flags = encoded_flags(&[(PathBuf::from("/a b"), ".")]);
        let flags = flags.to_str().unwrap();
        assert!(flags.ends_with("\u{1f}--remap-path-prefix=/a b=."), "{flags}");
        assert_eq!(flags.split('\u{1f}').count(), FLAGS.len() + 1);
    }

    #[test]
    fn paths_are_seen_anywhere_in_an_object() {
        assert!(contains(b"..\0/home/me/x", b"/home/me"));
        assert!(!contains(b"..\0/home/you", b"/home/me"));
        assert!(!contains(b"..\0./src/main.rs", b"/src"));
        assert!(!contains(b"", b"/home/me"));
    }
}
