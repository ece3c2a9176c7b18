//! The checks and tests, in the order in which they run: quick ones that say most come first.

use std::process::Command;
use std::time::Duration;

use super::deny;
use crate::setup::{bundlers, kernels, mediasoup, page};
use crate::{arm64, ebpf, paths};

/// One check, or one run of tests.
pub struct Step {
    /// What the table of durations calls it.
    pub name: String,
    /// What to do.
    pub action: Action,
    /// Whether its output holds libtest's summaries; otherwise the whole step counts as one check.
    pub is_tests: bool,
}

/// What a step does.
pub enum Action {
    /// Runs here; the commands in it have limits of their own. May tell what it could not do.
    Own(Box<dyn FnOnce() -> anyhow::Result<Option<String>>>),
    /// Runs a command that is ended after this time.
    Command(Command, Duration),
}

const MINUTE: Duration = Duration::from_secs(60);
const QUICK: Duration = MINUTE;
const BUILD: Duration = Duration::from_secs(15 * 60);
/// Twice what all of them take on two processors that have other work, too.
const TESTS: Duration = Duration::from_secs(50 * 60);

impl Step {
    /// A check that runs in this program.
    pub fn own(
        name: &str,
        action: impl FnOnce() -> anyhow::Result<Option<String>> + 'static,
    ) -> Self {
        Self { name: name.to_owned(), action: Action::Own(Box::new(action)), is_tests: false }
    }

    fn check(name: &str, command: Command, limit: Duration) -> Self {
        Self { name: name.to_owned(), action: Action::Command(command, limit), is_tests: false }
    }

    fn tests(name: &str, command: Command) -> Self {
        Self { name: name.to_owned(), action: Action::Command(command, TESTS), is_tests: true }
    }
}

/// Every check and test.
pub fn all() -> anyhow::Result<Vec<Step>> {
    let deny = ["--", "-D", "warnings"];
    let mut steps = vec![
        Step::check("format", cargo(["fmt", "--all", "--check"]), QUICK),
        Step::check("format: kernel program", kernel(["fmt", "--check"]), QUICK),
        Step::own("kernel object", ebpf::check),
        Step::own("dependencies", deny::check),
        Step::check(
            "clippy",
            with(cargo(["clippy", "--workspace", "--all-targets", "--locked"]), deny),
            BUILD,
        ),
        Step::check(
            "clippy: kernel program",
            with(kernel(["clippy", "--lib", "--tests", "--locked"]), deny),
            BUILD,
        ),
        Step::check("documentation", documentation(), BUILD),
    ];
    steps.extend(tests(&[])?);
    Ok(steps)
}

/// The tests whose name contains one of `filter`, and nothing else.
pub fn filtered(filter: &[String]) -> anyhow::Result<Vec<Step>> {
    tests(filter)
}

fn tests(filter: &[String]) -> anyhow::Result<Vec<Step>> {
    let unit =
        cargo(["test", "--workspace", "--exclude", "exporter-tests", "--locked", "--no-fail-fast"]);
    let kernel = kernel(["test", "--lib", "--locked"]);
    let mut system = cargo(["test", "--package", "exporter-tests", "--locked", "--no-fail-fast"]);
    // An error of these says where it arose by itself; the way there would hide it.
    system.env("RUST_LIB_BACKTRACE", "0");
    mediasoup::name_to(&mut system)?;
    kernels::name_to(&mut system)?;
    page::BUNDLE.name_to(&mut system)?;
    bundlers::BUNDLE.name_to(&mut system)?;
    system.env("MEDIASOUP_EXPORTER_BIN", paths::target().join("debug/mediasoup-exporter"));
    Ok(vec![
        Step::tests("tests: kernel program", with_filter(kernel, filter, &[])),
        on_arm64(filter),
        Step::tests("tests: units", with_filter(unit, filter, &[])),
        Step::check(
            "exporter's binary",
            cargo(["build", "--package", "mediasoup-exporter", "--locked"]),
            BUILD,
        ),
        // They share the kernel, network namespaces and this machine's two cores. What they print
        // passes through, so that a skipped one says so and a hanging one can be seen.
        Step::tests(
            "tests: system",
            with_filter(system, filter, &["--test-threads=1", "--nocapture"]),
        ),
    ])
}

/// The kernel program's parser and tables on another processor.
fn on_arm64(filter: &[String]) -> Step {
    const NAME: &str = "tests: kernel program, arm64";
    if let Some(missing) = arm64::missing() {
        return Step::own(NAME, || Ok(Some(missing)));
    }
    let mut tests = kernel(["test", "--lib", "--locked"]);
    arm64::tell(&mut tests);
    // So that the emulator needs no C library of the target's.
    tests.env("RUSTFLAGS", "-Ctarget-feature=+crt-static");
    Step::tests(NAME, with_filter(tests, filter, &[]))
}

fn documentation() -> Command {
    let mut doc =
        cargo(["doc", "--workspace", "--no-deps", "--document-private-items", "--locked"]);
    doc.env("RUSTDOCFLAGS", "-D warnings");
    doc
}

fn cargo<const N: usize>(arguments: [&str; N]) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(paths::root()).args(arguments);
    cargo
}

/// cargo for the kernel program's package, which is no member of the workspace: here its library,
/// compiled for this machine.
fn kernel<const N: usize>(arguments: [&str; N]) -> Command {
    let mut cargo = cargo(arguments);
    cargo.arg("--manifest-path").arg(paths::kernel_program().join("Cargo.toml"));
    cargo.env("CARGO_TARGET_DIR", paths::target().join("ebpf-host"));
    cargo
}

fn with<const N: usize>(mut command: Command, arguments: [&str; N]) -> Command {
    command.args(arguments);
    command
}

fn with_filter(mut command: Command, filter: &[String], options: &[&str]) -> Command {
    command.arg("--").args(options).args(filter);
    command
}
