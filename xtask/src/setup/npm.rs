//! npm packages at the versions of a committed lock file, without their install scripts.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use crate::cache::{self, Recipe};
use crate::process;

const DOWNLOAD: Duration = Duration::from_secs(10 * 60);

/// What it takes, in a folder of the checkout.
const FILES: [&str; 2] = ["package.json", "package-lock.json"];

/// What the packages of a folder of the checkout are made of.
pub fn recipe(from: &Path) -> anyhow::Result<Recipe> {
    FILES.into_iter().try_fold(Recipe::new(), |recipe, name| {
        let content = cache::read(&from.join(name))?;
        Ok(recipe.text(&String::from_utf8_lossy(&content)))
    })
}

/// Leaves in `folder`: both files of `from`, and `node_modules`.
pub fn install(folder: &Path, from: &Path) -> anyhow::Result<()> {
    for name in FILES {
        let file = from.join(name);
        fs::copy(&file, folder.join(name)).with_context(|| format!("copy {}", file.display()))?;
    }
    let mut npm = Command::new("npm");
    npm.current_dir(folder).args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]);
    process::run(&mut npm, DOWNLOAD)
}
