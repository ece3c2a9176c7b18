//! mediasoup, with workers that are compiled from the sources in its npm package.
//!
//! The worker's build would fetch every C library as source from where no registry reaches; the
//! files in `xtask/mediasoup/subprojects` take the system's libraries in their place.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use super::npm;
use crate::cache::{self, Locked, Recipe};
use crate::{paths, process};

/// 3.12 speaks JSON with its worker, 3.15 FlatBuffers, and their dumps differ; 3.27 is what people
/// run now. It asks for Node 22, and runs on 20.
pub const VERSIONS: [&str; 3] = ["3.12.16", "3.15.8", "3.27.1"];

const MESON: &str = "meson==1.5.2";
const OPTIONS: &[&str] = &["--buildtype=release", "-Db_ndebug=true", "-Dwarning_level=0"];

const QUICK: Duration = Duration::from_secs(120);
const DOWNLOAD: Duration = Duration::from_secs(10 * 60);
/// Three to ten minutes on two idle cores; several times that beside other builds.
const BUILD: Duration = Duration::from_secs(60 * 60);

/// Builds `version` unless it is there.
pub fn install(cache: &Locked, version: &str) -> anyhow::Result<()> {
    cache.get_or_build(&name(version), recipe(version)?, |folder| build(folder, version))?;
    Ok(())
}

/// The finished folder, which holds `node_modules`.
pub fn find(version: &str) -> anyhow::Result<Option<PathBuf>> {
    cache::find(&name(version), recipe(version)?)
}

/// Names the finished folders to tests; one that is not there gets no variable.
pub fn name_to(command: &mut Command) -> anyhow::Result<()> {
    for version in VERSIONS {
        if let Some(folder) = find(version)? {
            command.env(variable(version), folder);
        }
    }
    Ok(())
}

/// The environment variable that names the finished folder to tests: `MEDIASOUP_3_12_16`.
fn variable(version: &str) -> String {
    format!("MEDIASOUP_{}", version.replace('.', "_"))
}

fn name(version: &str) -> String {
    format!("mediasoup-{version}")
}

fn recipe(version: &str) -> anyhow::Result<Recipe> {
    let recipe = Recipe::new().text(MESON).text(&OPTIONS.join(" "));
    recipe.folder(&files().join("subprojects"))?.folder(&files().join(version))
}

fn files() -> PathBuf {
    paths::root().join("xtask/mediasoup")
}

/// Leaves in `folder`: package.json, its lock file, and node_modules with the worker's binary where
/// mediasoup looks for it.
fn build(folder: &Path, version: &str) -> anyhow::Result<()> {
    // mediasoup's own install script would download a worker.
    npm::install(folder, &files().join(version))?;
    let worker = folder.join("node_modules/mediasoup/worker");
    compile(&worker, &meson(folder)?)?;
    check(folder)?;
    cache::remove(&worker.join("build"))?;
    cache::remove(&folder.join("meson"))
}

/// meson in a virtual environment: Debian 12's is older than the worker asks for.
fn meson(folder: &Path) -> anyhow::Result<PathBuf> {
    let venv = folder.join("meson");
    process::run(Command::new("/usr/bin/python3").args(["-m", "venv"]).arg(&venv), QUICK)?;
    let mut pip = Command::new(venv.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check", MESON]);
    process::run(&mut pip, DOWNLOAD)?;
    Ok(venv.join("bin/meson"))
}

fn compile(worker: &Path, meson: &Path) -> anyhow::Result<()> {
    use_system_libraries(&worker.join("subprojects"))?;
    let mut setup = Command::new(meson);
    setup.current_dir(worker).args(["setup", "build"]).args(OPTIONS);
    let declared = cache::read(&worker.join("meson_options.txt"))?;
    if String::from_utf8_lossy(&declared).contains("'ms_disable_liburing'") {
        setup.arg("-Dms_disable_liburing=true");
    }
    process::run(&mut setup, QUICK)?;

    let build = worker.join("build");
    let ninja = |target| {
        let mut ninja = Command::new("ninja");
        ninja.arg("-C").arg(&build).arg(target);
        process::run(&mut ninja, BUILD)
    };
    // Builds before 3.27 do not say that the worker's sources need the generated headers.
    let says_so = worker.join("fbs/FBS/meson.build").is_file();
    if worker.join("fbs").is_dir() && !says_so {
        ninja("fbs/FBS")?;
    }
    ninja("mediasoup-worker")?;

    let release = worker.join("out/Release");
    cache::create(&release)?;
    let mut strip = Command::new("strip");
    strip.arg("-o").arg(release.join("mediasoup-worker")).arg(build.join("mediasoup-worker"));
    process::run(&mut strip, QUICK)
}

fn use_system_libraries(subprojects: &Path) -> anyhow::Result<()> {
    cache::remove(subprojects)?;
    let ours = files().join("subprojects");
    for file in cache::files_below(&ours)? {
        let copy = subprojects.join(file.strip_prefix(&ours)?);
        cache::create(copy.parent().context("a file lies in a folder")?)?;
        fs::copy(&file, &copy).with_context(|| format!("copy {}", file.display()))?;
    }
    Ok(())
}

/// A worker that forwards a packet is a good one.
fn check(folder: &Path) -> anyhow::Result<()> {
    let mut node = Command::new("node");
    node.arg(files().join("check.js")).env("NODE_PATH", folder.join("node_modules"));
    node.env_remove("MEDIASOUP_WORKER_BIN");
    process::run(&mut node, QUICK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_has_a_recipe_and_a_variable_of_its_own() {
        assert_eq!(variable("3.12.16"), "MEDIASOUP_3_12_16");
        for version in VERSIONS {
            assert!(find(version).is_ok());
            let lock = fs::read_to_string(files().join(version).join("package-lock.json")).unwrap();
            assert!(lock.contains(&format!("\"mediasoup\": \"{version}\"")));
            assert!(!lock.contains("\"resolved\""), "the lock file names a registry's host");
        }
    }
}
