//! Other kernels than this machine's, from Debian's packages, for tests that boot them in an emulator.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use crate::cache::{self, Locked, Recipe};
use crate::process;

/// The series, and the variable that names each one's folder to tests.
pub const SERIES: [(&str, &str); 2] = [("6.1", "LINUX_6_1"), ("6.12", "LINUX_6_12")];
/// What boots them, and what their first file system is made with.
pub const PACKAGES: &[&str] = &["qemu-system-x86", "busybox-static", "cpio", "xz-utils"];

/// Modules that a host of the exporter's has loaded or loads by itself, each behind those that it needs.
const MODULES: &[&str] = &[
    "llc",
    "stp",
    "mrp",
    "garp",
    "8021q",
    "bridge",
    "veth",
    "dummy",
    "tun",
    "sch_ingress",
    "cls_bpf",
    "inet_diag",
    "tcp_diag",
    "udp_diag",
];

const QUICK: Duration = Duration::from_secs(60);
const DOWNLOAD: Duration = Duration::from_secs(10 * 60);

/// Fetches those that are to be had. A test whose kernel is missing says so.
pub fn install(cache: &Locked) {
    for (series, _) in SERIES {
        let name = format!("linux-{series}");
        if let Err(error) =
            cache.get_or_build(&name, recipe(series), |folder| fetch(series, folder))
        {
            eprintln!("setup: no Linux {series}: {error:#}");
        }
    }
}

/// Names the folders to tests: `vmlinuz`, and modules in the order in which they are loaded.
pub fn name_to(command: &mut Command) -> anyhow::Result<()> {
    for (series, variable) in SERIES {
        if let Some(folder) = cache::find(&format!("linux-{series}"), recipe(series))? {
            command.env(variable, folder);
        }
    }
    Ok(())
}

fn recipe(series: &str) -> Recipe {
    MODULES.iter().fold(Recipe::new().text(series), |recipe, module| recipe.text(module))
}

fn fetch(series: &str, folder: &Path) -> anyhow::Result<()> {
    let prefix = format!("linux-image-{series}.");
    let names = process::read(Command::new("apt-cache").args(["pkgnames", &prefix]), QUICK)?;
    let package = newest(&names, &prefix).context("no package has it")?;
    let mut download = Command::new("apt-get");
    process::run(download.current_dir(folder).args(["download", package]), DOWNLOAD)?;
    let unpacked = folder.join("unpacked");
    let archive = cache::files_below(folder)?.pop().context("nothing was downloaded")?;
    process::run(Command::new("dpkg").arg("-x").arg(&archive).arg(&unpacked), DOWNLOAD)?;
    let all = cache::files_below(&unpacked)?;
    let kernel = all.iter().find(|path| path.starts_with(unpacked.join("boot")) && is_kernel(path));
    fs::rename(kernel.context("the package has no kernel")?, folder.join("vmlinuz"))?;
    for (at, module) in MODULES.iter().enumerate() {
        put(&all, module, &folder.join(format!("{at:02}-{module}.ko")))?;
    }
    fs::remove_dir_all(&unpacked)?;
    fs::remove_file(&archive)?;
    Ok(())
}

/// Some kernels have a module compressed.
fn put(all: &[PathBuf], module: &str, to: &Path) -> anyhow::Result<()> {
    let named = |suffix: &str| {
        let wanted = format!("{module}.ko{suffix}");
        all.iter().find(|path| path.file_name().is_some_and(|name| *name == *wanted))
    };
    if let Some(found) = named("") {
        fs::copy(found, to)?;
        return Ok(());
    }
    let found = named(".xz").with_context(|| format!("the package has no module {module}"))?;
    let copy = to.with_extension("ko.xz");
    fs::copy(found, &copy)?;
    process::run(Command::new("xz").arg("--decompress").arg(&copy), QUICK)?;
    ensure!(to.exists(), "xz made no {}", to.display());
    Ok(())
}

fn is_kernel(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz"))
}

/// The package with the highest numbers in its name.
fn newest<'a>(names: &'a str, prefix: &str) -> Option<&'a str> {
    let wanted = |name: &&str| name.starts_with(prefix) && name.ends_with("-cloud-amd64-unsigned");
    names.split_ascii_whitespace().filter(wanted).max_by_key(|name| numbers(name))
}

fn numbers(name: &str) -> Vec<u32> {
    let words = name.split(|character: char| !character.is_ascii_digit());
    words.filter_map(|word| word.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_has_the_highest_numbers() {
        let names = "linux-image-6.1.0-9-cloud-amd64-unsigned linux-image-6.1.0-47-cloud-amd64-unsigned \
                     linux-image-6.1.0-50-cloud-amd64 linux-image-6.12.3-cloud-amd64-unsigned";
        let newest = newest(names, "linux-image-6.1.");
        assert_eq!(newest, Some("linux-image-6.1.0-47-cloud-amd64-unsigned"));
    }
}
