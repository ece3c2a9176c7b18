//! The cache folder: finished tools, each in a folder named by the digest of its recipe.
//!
//! An entry is built in a scratch folder and renamed when it is complete and checked, so an
//! interrupted build is never taken for a finished one. `<cache>/<name>` is a link to the newest
//! entry of that name, for people and for tests that are run by hand.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use sha2::{Digest as _, Sha256};

use crate::paths;

/// Longer than every cold build together takes on a slow machine.
const LOCK_LIMIT: Duration = Duration::from_secs(80 * 60);

/// The digest of everything that a tool is made from.
pub struct Recipe(Sha256);

impl Recipe {
    /// The recipe's first ingredients: the processor and the system that it is built on, because
    /// the tools link to the system's libraries.
    pub fn new() -> Self {
        let system = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let release = system
            .lines()
            .filter(|line| line.starts_with("ID=") || line.starts_with("VERSION_ID="));
        let recipe = Self(Sha256::new()).text(std::env::consts::ARCH);
        release.fold(recipe, Self::text)
    }

    /// Adds a version, a flag or the like.
    pub fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    /// Adds every file below `folder`, its path and its content.
    pub fn folder(mut self, folder: &Path) -> anyhow::Result<Self> {
        for file in files_below(folder)? {
            let content = read(&file)?;
            let name = file.strip_prefix(folder)?.to_str().context("a file's name is not UTF-8")?;
            self = self.text(name).bytes(&content);
        }
        Ok(self)
    }

    /// The length stands first, so that no two lists of ingredients give the same bytes.
    fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// Enough of the digest to name a folder.
    fn name(self) -> String {
        hex(&self.0.finalize())[..16].to_owned()
    }
}

/// The digest of `bytes` as `sha256sum` prints it.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Every file below `folder`, in the order of their paths.
pub fn files_below(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let listed = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    for item in listed {
        let item = item.with_context(|| format!("list {}", folder.display()))?;
        match item.file_type()?.is_dir() {
            true => files.extend(files_below(&item.path())?),
            false => files.push(item.path()),
        }
    }
    files.sort();
    Ok(files)
}

/// A whole file; the error names it.
pub fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(file).with_context(|| format!("read {}", file.display()))
}

/// A finished entry, if it is there. Takes no lock: an entry never changes once it has its name.
pub fn find(name: &str, recipe: Recipe) -> anyhow::Result<Option<PathBuf>> {
    let entry = entry(&paths::cache()?, name, recipe);
    Ok(entry.is_dir().then_some(entry))
}

fn entry(cache: &Path, name: &str, recipe: Recipe) -> PathBuf {
    cache.join("store").join(format!("{name}-{}", recipe.name()))
}

/// The right to change the cache folder, held until it is dropped.
pub struct Locked {
    folder: PathBuf,
    _lock: File,
}

/// Waits until no other run changes the cache folder.
pub fn lock() -> anyhow::Result<Locked> {
    lock_at(paths::cache()?)
}

fn lock_at(folder: PathBuf) -> anyhow::Result<Locked> {
    create(&folder.join("store"))?;
    let path = folder.join("lock");
    let lock = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    let deadline = Instant::now() + LOCK_LIMIT;
    let mut told = false;
    loop {
        match lock.try_lock() {
            Ok(()) => break,
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("lock {}", path.display()));
            }
            Err(TryLockError::WouldBlock) if Instant::now() > deadline => {
                bail!("another run has held {} for {LOCK_LIMIT:?}: end it", path.display());
            }
            Err(TryLockError::WouldBlock) => {
                if !std::mem::replace(&mut told, true) {
                    eprintln!("waiting for another set-up, which holds {}", path.display());
                }
                // flock has no wait with a limit.
                thread::sleep(Duration::from_millis(500));
            }
        }
    }
    // We hold the lock, so whatever is being built there was interrupted.
    remove(&folder.join("building"))?;
    Ok(Locked { folder, _lock: lock })
}

impl Locked {
    /// The entry, built by `build` in the scratch folder that it is given unless it is there.
    pub fn get_or_build(
        &self,
        name: &str,
        recipe: Recipe,
        build: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<PathBuf> {
        let entry = entry(&self.folder, name, recipe);
        if !entry.is_dir() {
            let scratch = self.folder.join("building").join(name);
            create(&scratch)?;
            build(&scratch).with_context(|| format!("build {name}"))?;
            fs::rename(&scratch, &entry)
                .with_context(|| format!("rename {} to {}", scratch.display(), entry.display()))?;
        }
        self.link(name, &entry)?;
        Ok(entry)
    }

    /// Points `<cache>/<name>` to `entry`, at no moment to nothing.
    fn link(&self, name: &str, entry: &Path) -> anyhow::Result<()> {
        let (link, new) = (self.folder.join(name), self.folder.join("building.link"));
        let target = entry.strip_prefix(&self.folder)?;
        if fs::read_link(&link).is_ok_and(|current| current == target) {
            return Ok(());
        }
        remove(&new)?;
        symlink(target, &new)
            .and_then(|()| fs::rename(&new, &link))
            .with_context(|| format!("link {} to {}", link.display(), target.display()))
    }
}

/// Creates a folder and its parents; the error names it.
pub fn create(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))
}

/// Removes a folder or a file; it need not be there.
pub fn remove(path: &Path) -> anyhow::Result<()> {
    let removed = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(text: &str) -> Recipe {
        Recipe(Sha256::new()).text(text)
    }

    #[test]
    fn recipes_differ_where_their_ingredients_do() {
        assert_eq!(recipe("a").text("b").name(), recipe("a").text("b").name());
        assert_ne!(recipe("a").text("b").name(), recipe("ab").name());
        assert_ne!(recipe("ab").text("").name(), recipe("ab").name());
        assert_eq!(recipe("").name().len(), 16);
    }

    #[test]
    fn digest_is_sha256sums() {
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(b"abc"), expected);
    }

    #[test]
    fn an_entry_is_built_once_and_only_when_complete() {
        let folder = std::env::temp_dir().join(format!("xtask-cache-test-{}", std::process::id()));
        let cache = lock_at(folder.clone()).unwrap();

        let failed = cache.get_or_build("tool", recipe("1"), |scratch| {
            fs::write(scratch.join("half"), "")?;
            bail!("no compiler")
        });
        assert_eq!(format!("{:#}", failed.unwrap_err()), "build tool: no compiler");
        assert!(!entry(&folder, "tool", recipe("1")).exists());
        drop(cache);

        let cache = lock_at(folder.clone()).unwrap();
        let build = |scratch: &Path| Ok(fs::write(scratch.join("whole"), "")?);
        let built = cache.get_or_build("tool", recipe("1"), build).unwrap();
        assert!(built.join("whole").is_file() && !built.join("half").exists());
        let again = cache.get_or_build("tool", recipe("1"), |_| bail!("built twice")).unwrap();
        assert_eq!(again, built);

        let newer = cache.get_or_build("tool", recipe("2"), build).unwrap();
        assert_ne!(newer, built);
        assert_eq!(folder.join("tool").canonicalize().unwrap(), newer.canonicalize().unwrap());
        fs::remove_dir_all(folder).unwrap();
    }
}
