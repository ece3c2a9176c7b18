//! What the page of the WebRTC tests is bundled from, and the bundler: npm packages in the cache
//! folder. The tests bundle it themselves, so that a change of the page needs no set-up.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::ensure;

use super::npm;
use crate::process;

/// The packages.
pub const BUNDLE: npm::Bundle =
    npm::Bundle { name: "webrtc-page", variable: "WEBRTC_PAGE", files: "tests/webrtc" };

const QUICK: Duration = Duration::from_secs(60);

/// Packages from which the page can be bundled are good ones.
pub fn check(folder: &Path) -> anyhow::Result<()> {
    let mut esbuild = Command::new(folder.join("node_modules/.bin/esbuild"));
    esbuild.arg(BUNDLE.files().join("page.js")).arg("--bundle").arg("--log-level=warning");
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
        let lock = std::fs::read_to_string(BUNDLE.files().join("package-lock.json")).unwrap();
        assert!(
            lock.contains("\"node_modules/mediasoup-client\"") && !lock.contains("\"resolved\"")
        );
        assert!(BUNDLE.recipe().is_ok());
    }
}
