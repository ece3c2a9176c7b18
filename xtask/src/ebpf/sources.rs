//! The digests of everything that the kernel object is made from, as `sha256sum` writes them, so
//! that `sha256sum --check prebuilt/SOURCES.sha256` in `exporter-ebpf` tells the same.

use std::collections::BTreeMap;

use anyhow::Context as _;

use crate::{cache, paths};

/// Files of what [`super::build::objects`] makes, in its order.
pub const OBJECTS: [&str; 2] = ["exporter-ebpf.o", "baseline.o"];

/// Digest by path, relative to `exporter-ebpf`.
pub type Digests = BTreeMap<String, String>;

/// The sources as they are now: the manifest, the lock file and everything below `src`.
pub fn digests() -> anyhow::Result<Digests> {
    let folder = paths::kernel_program();
    let mut files = vec![folder.join("Cargo.toml"), folder.join("Cargo.lock")];
    files.extend(cache::files_below(&folder.join("src"))?);
    // Editors' backups and hidden files are no sources, but everything that could be included is.
    files.retain(|file| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        !name.starts_with('.') && !name.ends_with('~')
    });
    let mut digests = Digests::new();
    for file in files {
        let path = file.strip_prefix(&folder)?.to_str().context("a source's name is not UTF-8")?;
        digests.insert(path.to_owned(), cache::sha256(&cache::read(&file)?));
    }
    Ok(digests)
}

/// The list that is committed: the sources and the objects themselves.
pub fn list(sources: &Digests, objects: &[Vec<u8>; 2]) -> String {
    let mut all = sources.clone();
    for (name, object) in OBJECTS.iter().zip(objects) {
        all.insert(format!("prebuilt/{name}"), cache::sha256(object));
    }
    all.iter().map(|(path, digest)| format!("{digest}  {path}\n")).collect()
}

/// The paths that one list has and the other has not, or with another digest.
pub fn differing(recorded: &str, now: &str) -> Vec<String> {
    let (recorded, now) = (parse(recorded), parse(now));
    let mut differing: Vec<String> = recorded
        .iter()
        .filter(|(path, digest)| now.get(*path) != Some(digest))
        .map(|(path, _)| path.clone())
        .collect();
    differing.extend(now.into_keys().filter(|path| !recorded.contains_key(path)));
    differing.sort();
    differing
}

fn parse(list: &str) -> Digests {
    let lines = list.lines().filter_map(|line| line.split_once("  "));
    lines.map(|(digest, path)| (path.to_owned(), digest.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(recorded: &str, now: &str, expected: &[&str]) {
        assert_eq!(differing(recorded, now), expected);
    }

    #[test]
    fn differing_sources() {
        check("1  a\n2  b\n", "2  b\n1  a\n", &[]);
        check("1  a\n2  b\n", "1  a\n3  b\n", &["b"]);
        check("1  a\n", "1  a\n3  b\n", &["b"]);
        check("1  a\n2  b\n", "2  b\n", &["a"]);
        check("", "", &[]);
    }

    #[test]
    fn a_list_names_the_objects_and_reads_back() {
        let sources = Digests::from([("src/main.rs".to_owned(), "1".to_owned())]);
        let list = list(&sources, &[b"abc".to_vec(), vec![]]);
        assert!(list.contains("ad  prebuilt/exporter-ebpf.o\n") && list.contains("ba7816bf"));
        assert!(list.contains("  prebuilt/baseline.o\n"));
        assert_eq!(parse(&list)["src/main.rs"], "1");
    }

    #[test]
    fn the_sources_are_found() {
        let digests = digests().unwrap();
        for file in ["Cargo.toml", "Cargo.lock", "src/main.rs"] {
            assert!(digests.contains_key(file), "{file} is missing");
        }
    }
}
