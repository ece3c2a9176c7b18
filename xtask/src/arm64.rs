//! Building for arm64 on another processor, and running what was built by emulation.

use std::process::Command;
use std::time::Duration;

use crate::process;

/// The target.
pub const TARGET: &str = "aarch64-unknown-linux-gnu";
/// What links for it and runs it (Debian's names).
pub const PACKAGES: &[&str] =
    &["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "qemu-user-static"];

const LINKER: &str = "aarch64-linux-gnu-gcc";
const EMULATOR: &str = "qemu-aarch64-static";
const QUICK: Duration = Duration::from_secs(60);
const DOWNLOAD: Duration = Duration::from_secs(10 * 60);

/// Has cargo build for it and run by emulation.
pub fn tell(cargo: &mut Command) {
    cargo.args(["--target", TARGET]);
    cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", LINKER);
    cargo.env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", EMULATOR);
    cargo.env("CC_aarch64_unknown_linux_gnu", LINKER);
}

/// Runs a program that was built for it.
pub fn run(program: &std::path::Path) -> Command {
    let mut command = Command::new(EMULATOR);
    command.arg(program);
    command
}

/// What is missing for it; `None`: nothing.
pub fn missing() -> Option<String> {
    for tool in [LINKER, EMULATOR] {
        if process::read(Command::new(tool).arg("--version"), QUICK).is_err() {
            return Some(format!("{tool} is not installed"));
        }
    }
    (!has_target()).then(|| {
        format!("Rust's library for {TARGET} is not installed: `rustup target add {TARGET}`")
    })
}

/// Installs Rust's library for it, where rustup can. What then is missing is said by who needs it.
pub fn install() {
    if !has_target() {
        let mut add = Command::new("rustup");
        if let Err(error) = process::run(add.args(["target", "add", TARGET]), DOWNLOAD) {
            eprintln!("setup: no Rust library for {TARGET}: {error:#}");
        }
    }
}

fn has_target() -> bool {
    let mut print = Command::new("rustc");
    let libraries = print.args(["--print", "target-libdir", "--target", TARGET]);
    process::read(libraries, QUICK).is_ok_and(|path| std::path::Path::new(path.trim()).is_dir())
}
