//! What people make one file of their server with, and load it by: npm packages in the cache folder, for
//! the tests of the agent.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::npm;
use crate::cache::{self, Locked, Recipe};
use crate::{paths, process};

const NAME: &str = "bundlers";
const QUICK: Duration = Duration::from_secs(60);

/// Installs the packages unless they are there.
pub fn install(cache: &Locked) -> anyhow::Result<()> {
    cache.get_or_build(NAME, recipe()?, build)?;
    Ok(())
}

/// Names the finished folder to tests; one that is not there gets no variable.
pub fn name_to(command: &mut Command) -> anyhow::Result<()> {
    if let Some(folder) = cache::find(NAME, recipe()?)? {
        command.env("BUNDLERS", folder);
    }
    Ok(())
}

fn recipe() -> anyhow::Result<Recipe> {
    npm::recipe(&files())
}

fn files() -> PathBuf {
    paths::root().join("tests/bundlers")
}

/// Packages that can be loaded are good ones.
fn build(folder: &Path) -> anyhow::Result<()> {
    npm::install(folder, &files())?;
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
        let lock = std::fs::read_to_string(files().join("package-lock.json")).unwrap();
        assert!(lock.contains("\"node_modules/webpack\"") && !lock.contains("\"resolved\""));
        assert!(recipe().is_ok());
    }
}
