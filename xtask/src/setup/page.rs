//! What the page of the WebRTC tests is bundled from, and the bundler: npm packages in the cache
//! folder. The tests bundle it themselves, so that a change of the page needs no set-up.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::ensure;

use super::npm;
use crate::cache::{self, Locked, Recipe};
use crate::{paths, process};

const NAME: &str = "webrtc-page";
const QUICK: Duration = Duration::from_secs(60);

/// Installs the packages unless they are there.
pub fn install(cache: &Locked) -> anyhow::Result<()> {
    cache.get_or_build(NAME, recipe()?, build)?;
    Ok(())
}

/// Names the finished folder to tests; one that is not there gets no variable.
pub fn name_to(command: &mut Command) -> anyhow::Result<()> {
    if let Some(folder) = cache::find(NAME, recipe()?)? {
        command.env("WEBRTC_PAGE", folder);
    }
    Ok(())
}

fn recipe() -> anyhow::Result<Recipe> {
    npm::recipe(&files())
}

fn files() -> PathBuf {
    paths::root().join("tests/webrtc")
}

/// Packages from which the page can be bundled are good ones.
fn build(folder: &Path) -> anyhow::Result<()> {
    npm::install(folder, &files())?;
    let mut esbuild = Command::new(folder.join("node_modules/.bin/esbuild"));
    esbuild.arg(files().join("page.js")).arg("--bundle").arg("--log-level=warning");
    esbuild.env("NODE_PATH", folder.join("node_modules"));
    let bundle = process::read(&mut esbuild, QUICK)?;
    ensure!(!bundle.is_empty(), "esbuild made nothing of the page");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_file_names_no_host() {
        let lock = std::fs::read_to_string(files().join("package-lock.json")).unwrap();
        assert!(
            lock.contains("\"node_modules/mediasoup-client\"") && !lock.contains("\"resolved\"")
        );
        assert!(recipe().is_ok());
    }
}
