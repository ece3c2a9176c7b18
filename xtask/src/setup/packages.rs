//! Debian packages: which are needed and which of them are missing.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::kernels;
use super::part::Part;
use crate::ebpf::choice;
use crate::{arm64, process};

/// For compiling anything at all.
const COMPILER: &[&str] = &["build-essential", "pkgconf", "ca-certificates"];

/// Debian's own Rust with the sources of `core`, and the LLVM that it was built with: together they
/// compile for the kernel without a nightly toolchain.
const EBPF: &[&str] = &[
    "rustc-web",
    "cargo-web",
    "rust-web-src",
    "llvm-22",
    "llvm-22-dev",
    "libpolly-22-dev",
    "zlib1g-dev",
    "libzstd-dev",
    "libxml2-dev",
];

/// What a mediasoup worker is built with and linked to.
const MEDIASOUP: &[&str] = &[
    "python3",
    "python3-venv",
    "ninja-build",
    "libsrtp2-dev",
    "libusrsctp-dev",
    "libabsl-dev",
    "nlohmann-json3-dev",
    "libuv1-dev",
    "libssl-dev",
    "libflatbuffers-dev",
    "flatbuffers-compiler",
];

/// Node.js, unless another one is installed than Debian's.
const NODE: &[&str] = &["nodejs", "npm"];

/// The browser.
const WEBRTC: &[&str] = &["chromium"];

/// What the tests run beside the exporter.
const TESTS: &[&str] =
    &["iproute2", "libfaketime", "nftables", "prometheus", "tcpdump", "valgrind"];

/// The oldest Node.js that all mediasoup versions run on.
const OLDEST_NODE: u32 = 20;

const QUICK: Duration = Duration::from_secs(60);
const DOWNLOAD: Duration = Duration::from_secs(20 * 60);

/// Installs what `part` needs; asks the network only when something is missing.
pub fn install(part: Part) -> anyhow::Result<()> {
    let needed = needed(part);
    let missing = missing(&needed, &installed(&needed)?);
    if missing.is_empty() {
        return Ok(());
    }
    let install = format!("apt-get install --no-install-recommends {}", missing.join(" "));
    // SAFETY: geteuid takes nothing and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        bail!("packages are missing and only root can install them: run `{install}`");
    }
    process::run(apt().arg("update"), DOWNLOAD)?;
    process::run(apt().args(["install", "--no-install-recommends"]).args(&missing), DOWNLOAD)
        .with_context(|| format!("install Debian packages: on another system, see to it that what `{install}` would bring is there"))
}

fn needed(part: Part) -> Vec<&'static str> {
    let wants = |one| matches!(part, Part::All | Part::Packages) || part == one;
    let mut needed = COMPILER.to_vec();
    if wants(Part::Ebpf) && choice::chosen().is_none() {
        needed.extend(EBPF);
    }
    if wants(Part::Mediasoup) {
        needed.extend(MEDIASOUP);
    }
    if wants(Part::Webrtc) {
        needed.extend(WEBRTC);
    }
    if (wants(Part::Mediasoup) || wants(Part::Webrtc)) && !node_is_installed() {
        needed.extend(NODE);
    }
    if matches!(part, Part::All | Part::Packages) {
        needed.extend(TESTS);
        if !cfg!(target_arch = "aarch64") {
            needed.extend(arm64::PACKAGES);
        }
        if cfg!(target_arch = "x86_64") {
            needed.extend(kernels::PACKAGES);
        }
    }
    needed
}

fn node_is_installed() -> bool {
    let version = |program| process::read(Command::new(program).arg("--version"), QUICK);
    let node = version("node").ok().and_then(|text| major(&text));
    node.is_some_and(|major| major >= OLDEST_NODE) && version("npm").is_ok()
}

/// `20` of `v20.1.2`.
fn major(version: &str) -> Option<u32> {
    version.trim().strip_prefix('v')?.split('.').next()?.parse().ok()
}

/// dpkg-query's list: one line for each package that it knows, `name state`.
fn installed(packages: &[&str]) -> anyhow::Result<String> {
    let mut query = Command::new("dpkg-query");
    query.args(["--show", "--showformat", "${Package} ${db:Status-Status}\\n"]).args(packages);
    // It exits with 1 when it does not know one of them.
    let finished = process::capture(&mut query, QUICK)
        .context("ask which Debian packages are installed (other systems are not supported)")?;
    Ok(finished.stdout)
}

fn missing<'a>(needed: &[&'a str], installed: &str) -> Vec<&'a str> {
    let is_installed = |package: &str| {
        installed.lines().any(|line| line.split_once(' ') == Some((package, "installed")))
    };
    needed.iter().copied().filter(|package| !is_installed(package)).collect()
}

fn apt() -> Command {
    let mut apt = Command::new("apt-get");
    apt.env("DEBIAN_FRONTEND", "noninteractive");
    // Another apt may run (a fresh machine's own updates): wait for it.
    apt.args(["--yes", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"]);
    apt
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_packages() {
        let list = "nftables installed\nlibuv1-dev installed\ntcpdump config-files\n\
                    tcpdump-extra installed\nlibuv1-dev installed\n";
        #[track_caller]
        fn check(needed: &[&str], list: &str, expected: &[&str]) {
            assert_eq!(missing(needed, list), expected);
        }
        check(&["nftables", "libuv1-dev"], list, &[]);
        check(&["nftables", "tcpdump", "llvm-22"], list, &["tcpdump", "llvm-22"]);
        check(&["nftables"], "", &["nftables"]);
    }

    #[test]
    fn node_versions() {
        assert_eq!(major("v20.20.2\n"), Some(20));
        assert_eq!(major("20.20.2"), None);
        assert_eq!(major(""), None);
    }
}
