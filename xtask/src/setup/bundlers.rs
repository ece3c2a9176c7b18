//! What people make one file of their server with, and load it by: npm packages in the cache folder, for
//! the tests of the agent.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::npm;
use crate::process;

/// The packages.
pub const BUNDLE: npm::Bundle =
    npm::Bundle { name: "bundlers", variable: "BUNDLERS", files: "tests/bundlers" };

const QUICK: Duration = Duration::from_secs(60);

/// Packages that can be loaded are good ones.
pub fn check(folder: &Path) -> anyhow::Result<()> {
    let mut node = Command::new("node");
    node.current_dir(folder).args(["--import", "tsx", "--eval"]);
    node.arg("require('esbuild').transformSync(''); require('webpack')");
    process::run(&mut node, QUICK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_file_names_no_host() {
        let lock = std::fs::read_to_string(BUNDLE.files().join("package-lock.json")).unwrap();
        assert!(lock.contains("\"node_modules/webpack\"") && !lock.contains("\"resolved\""));
        assert!(BUNDLE.recipe().is_ok());
    }
}
