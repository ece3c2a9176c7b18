//! Where things are: folders of the checkout and the cache folder. Creates nothing.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// The checkout that this program was built in.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace's root")
}

/// The kernel program's package, which is no member of the workspace.
pub fn kernel_program() -> PathBuf {
    root().join("exporter-ebpf")
}

/// Where cargo puts what it builds.
pub fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => root().join(folder),
        None => root().join("target"),
    }
}

/// The folder that keeps downloaded and compiled tools between runs, outside of every checkout.
pub fn cache() -> anyhow::Result<PathBuf> {
    let named =
        |variable| env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    cache_of(named("MEDIASOUP_EXPORTER_CACHE"), named("XDG_CACHE_HOME"), named("HOME"))
        .context("find the cache folder: set MEDIASOUP_EXPORTER_CACHE to an absolute path, or HOME")
}

/// A relative path is refused: it would name another folder in each working directory.
fn cache_of(ours: Option<PathBuf>, xdg: Option<PathBuf>, home: Option<PathBuf>) -> Option<PathBuf> {
    let folder = match (ours, xdg, home) {
        (Some(ours), _, _) => ours,
        // The XDG base directory specification has relative paths ignored.
        (None, Some(xdg), _) if xdg.is_absolute() => xdg.join("mediasoup-exporter"),
        (None, _, Some(home)) => home.join(".cache/mediasoup-exporter"),
        (None, _, None) => return None,
    };
    folder.is_absolute().then_some(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(ours: &str, xdg: &str, home: &str, expected: Option<&str>) {
        let path = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
        assert_eq!(cache_of(path(ours), path(xdg), path(home)), expected.map(PathBuf::from));
    }

    #[test]
    fn cache_folder_by_precedence() {
        check("/ours", "/xdg", "/home/me", Some("/ours"));
        check("", "/xdg", "/home/me", Some("/xdg/mediasoup-exporter"));
        check("", "xdg", "/home/me", Some("/home/me/.cache/mediasoup-exporter"));
        check("", "", "/home/me", Some("/home/me/.cache/mediasoup-exporter"));
        check("ours", "/xdg", "/home/me", None);
        check("", "", "", None);
    }
}
