//! Licences, sources and double versions of all that is built in (`deny.toml`), by cargo-deny, where it is
//! installed.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::{paths, process};

const QUICK: Duration = Duration::from_secs(60);

/// Advisories are left out: their database comes from the network.
const WHAT: [&str; 3] = ["bans", "licenses", "sources"];

/// Runs it, or says why not.
pub fn check() -> anyhow::Result<Option<String>> {
    let mut version = cargo_deny();
    version.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    if !version.status().is_ok_and(|status| status.success()) {
        return Ok(Some("cargo-deny is missing: `cargo install cargo-deny`".to_owned()));
    }
    let mut deny = cargo_deny();
    deny.args(["--offline", "--locked", "check", "--hide-inclusion-graph"]).args(WHAT);
    process::run(&mut deny, QUICK)?;
    Ok(None)
}

fn cargo_deny() -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(paths::root()).arg("deny");
    command
}
