//! npm packages at the versions of a committed lock file, without their install scripts, in a folder of
//! the cache that tests find by a variable.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use crate::cache::{self, Locked, Recipe};
use crate::{paths, process};

const DOWNLOAD: Duration = Duration::from_secs(10 * 60);

/// Packages that are installed together.
pub struct Bundle {
    /// The folder in the cache.
    pub name: &'static str,
    /// The variable that names it to tests.
    pub variable: &'static str,
    /// Both of [`FILES`] are in this folder of the checkout.
    pub files: &'static str,
}

impl Bundle {
    /// Installs the packages unless they are there, and sees whether they are good ones.
    pub fn install(
        &self,
        cache: &Locked,
        check: fn(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        cache.get_or_build(self.name, self.recipe()?, |folder| {
            install(folder, &self.files())?;
            check(folder)
        })?;
        Ok(())
    }

    /// Names the finished folder to tests; one that is not there gets no variable.
    pub fn name_to(&self, command: &mut Command) -> anyhow::Result<()> {
        if let Some(folder) = cache::find(self.name, self.recipe()?)? {
            command.env(self.variable, folder);
        }
        Ok(())
    }

    /// What they are made of.
    pub fn recipe(&self) -> anyhow::Result<Recipe> {
        recipe(&self.files())
    }

    /// Where their files are.
    pub fn files(&self) -> PathBuf {
        paths::root().join(self.files)
    }
}

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
