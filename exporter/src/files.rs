//! Files that flags name and that may be other ones while the exporter runs: databases, keys, tokens.
//!
//! Each is looked at again and again, and read anew when it is another file or was written to. Content
//! goes out to whoever uses it, who says whether it is any good; what is not leaves all as it was. Reads
//! the file that it has looked at, by descriptor.

use std::fs::{Metadata, OpenOptions};
use std::future::Future;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use tokio::signal::unix::Signal;

/// Files that are read at most: a geographic database has 60 to 120 MB.
const MOST_BYTES: u64 = 1 << 30;
/// Between two looks that nobody asked for.
const PAUSE: Duration = Duration::from_secs(10);

/// Which file it was, and as of when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
}

/// A file's content, and which file that was.
#[derive(Debug)]
pub struct Content {
    /// All of it.
    pub bytes: Vec<u8>,
    /// Of the file that was read.
    pub identity: Identity,
    /// Everybody on the host may read it.
    pub is_public: bool,
}

/// Reads a file as a whole: a regular one, of a size that can be meant.
pub fn read(path: &Path) -> anyhow::Result<Content> {
    // Whoever can put a FIFO there must not hold up who reads.
    let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let told = file.metadata()?;
    let identity = Identity::from(&told);
    ensure!(told.is_file(), "this is no regular file");
    ensure!(identity.size <= MOST_BYTES, "{} bytes are too many", identity.size);
    let mut bytes = Vec::with_capacity(identity.size as usize);
    file.by_ref().take(MOST_BYTES).read_to_end(&mut bytes)?;
    Ok(Content { bytes, identity, is_public: told.mode() & 0o004 != 0 })
}

impl From<&Metadata> for Identity {
    fn from(told: &Metadata) -> Self {
        Self {
            file: (told.dev(), told.ino()),
            size: told.len(),
            modified: (told.mtime(), told.mtime_nsec()),
        }
    }
}

/// Takes a file's new content.
pub type Take = Box<dyn FnMut(Vec<u8>) -> anyhow::Result<()> + Send>;

/// A file that is looked at.
struct Watched {
    flag: &'static str,
    path: PathBuf,
    /// As it was last read, or could not be.
    seen: Option<Identity>,
    take: Take,
    /// What was said of it last.
    fault: Option<String>,
}

/// What came of reading a file again.
#[derive(Debug)]
pub struct Reload<'a> {
    /// The file.
    pub path: &'a Path,
    /// When; `None`: what it has now is not used.
    pub taken: Option<SystemTime>,
}

/// Reads files that belong together, and takes what they have; tells which they are now.
pub type TakeAll = Box<dyn FnMut() -> anyhow::Result<Members> + Send>;

/// Files that belong together, as they were read.
pub type Members = Vec<(PathBuf, Identity)>;

/// A file and those that it names, which are taken together.
struct Together {
    flag: &'static str,
    path: PathBuf,
    members: Vec<(PathBuf, Option<Identity>)>,
    take: TakeAll,
    fault: Option<String>,
}

/// All of them.
#[derive(Default)]
pub struct Files {
    single: Vec<Watched>,
    together: Vec<Together>,
}

impl Files {
    /// Looks at a file from now on, which was read as this one.
    pub fn watch(&mut self, flag: &'static str, path: PathBuf, seen: Identity, take: Take) {
        self.single.push(Watched { flag, path, seen: Some(seen), take, fault: None });
    }

    /// Looks from now on at a file, and at those that it names: when one of them is another, all are taken anew.
    pub fn watch_together(
        &mut self,
        flag: &'static str,
        path: PathBuf,
        members: Members,
        take: TakeAll,
    ) {
        let members = members.into_iter().map(|(path, seen)| (path, Some(seen))).collect();
        self.together.push(Together { flag, path, members, take, fault: None });
    }

    /// Their paths.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        let single = self.single.iter().map(|file| file.path.as_path());
        single.chain(self.together.iter().map(|file| file.path.as_path()))
    }

    /// Looks at all of them: not for the runtime's own threads.
    pub fn look(&mut self, report: &dyn Fn(Reload<'_>)) {
        for file in &mut self.single {
            if let Some(is_taken) = file.look() {
                report(Reload { path: &file.path, taken: is_taken.then(SystemTime::now) });
            }
        }
        for file in &mut self.together {
            if let Some(is_taken) = file.look() {
                report(Reload { path: &file.path, taken: is_taken.then(SystemTime::now) });
            }
        }
    }

    /// Looks at them until the end, and at once when a signal asks for it.
    pub async fn follow(
        mut self,
        asked: &mut Signal,
        report: impl Fn(Reload<'_>) + Clone + Send + 'static,
        shutdown: impl Future<Output = ()>,
    ) {
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => return,
                Some(()) = asked.recv() => {}
                () = tokio::time::sleep(PAUSE) => {}
            }
            let report = report.clone();
            let looked = tokio::task::spawn_blocking(move || {
                self.look(&report);
                self
            });
            match looked.await {
                Ok(files) => self = files,
                Err(error) => return tracing::error!("look at files: {error}"),
            }
        }
    }
}

impl Watched {
    /// Whether what it has now is used; `None`: it is as it was.
    fn look(&mut self) -> Option<bool> {
        let found = found(&self.path);
        if found == self.seen {
            return None;
        }
        self.seen = found;
        let taken = read(&self.path).context("read it").and_then(|content| {
            self.seen = Some(content.identity);
            (self.take)(content.bytes)
        });
        Some(is_taken(taken, self.flag, &self.path, &mut self.fault))
    }
}

impl Together {
    /// As [`Watched::look`].
    fn look(&mut self) -> Option<bool> {
        if self.members.iter().all(|(path, seen)| found(path) == *seen) {
            return None;
        }
        let taken = (self.take)();
        match &taken {
            Ok(members) => {
                self.members =
                    members.iter().map(|(path, seen)| (path.clone(), Some(*seen))).collect();
            }
            // What is bad is not read again before it changes.
            Err(_) => self.members.iter_mut().for_each(|(path, seen)| *seen = found(path)),
        }
        Some(is_taken(taken.map(drop), self.flag, &self.path, &mut self.fault))
    }
}

/// Which file is at a path now, if any.
fn found(path: &Path) -> Option<Identity> {
    std::fs::metadata(path).ok().map(|told| Identity::from(&told))
}

/// Says what came of reading again, a fault once.
fn is_taken(taken: anyhow::Result<()>, flag: &str, path: &Path, told: &mut Option<String>) -> bool {
    let path = path.display();
    match taken {
        Ok(()) => {
            tracing::info!("{flag} {path} has changed, and is read again");
            *told = None;
            true
        }
        Err(error) => {
            let fault = format!("{error:#}");
            if told.as_ref() != Some(&fault) {
                tracing::warn!(
                    "{flag} {path} has changed and cannot be used ({fault}): what it had before holds on"
                );
            }
            *told = Some(fault);
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn a_file_is_read_again_when_it_is_another_one() {
        let folder = std::env::temp_dir().join(format!("mex-files-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("key");
        let put = |text: &str| {
            // As geoipupdate and editors do it.
            fs::write(folder.join("new"), text).unwrap();
            fs::rename(folder.join("new"), &path).unwrap();
        };
        put("one");
        let (taken, mut files) = (Arc::new(Mutex::new(Vec::new())), Files::default());
        let takes = taken.clone();
        let take: Take = Box::new(move |bytes| {
            ensure!(bytes != b"bad", "it is bad");
            takes.lock().unwrap().push(String::from_utf8(bytes)?);
            Ok(())
        });
        files.watch("--key", path.clone(), read(&path).unwrap().identity, take);
        let mut look = || {
            let reloads = Mutex::new(Vec::new());
            files.look(&|reload| reloads.lock().unwrap().push(reload.taken.is_some()));
            (reloads.into_inner().unwrap(), taken.lock().unwrap().clone())
        };
        assert_eq!(look(), (vec![], vec![]));
        put("two");
        assert_eq!(look(), (vec![true], vec!["two".to_owned()]));
        assert_eq!(look().0, [false; 0]);
        put("bad");
        assert_eq!(look(), (vec![false], vec!["two".to_owned()]));
        assert_eq!(look().0, [false; 0], "once for each file that is bad");
        fs::remove_file(&path).unwrap();
        assert_eq!(look().0, [false]);
        assert_eq!(look().0, [false; 0]);
        fs::create_dir(&path).unwrap();
        assert_eq!(look().0, [false], "a folder");
        fs::remove_dir(&path).unwrap();
        put("three");
        assert_eq!(look(), (vec![true], vec!["two".to_owned(), "three".to_owned()]));
        fs::remove_dir_all(&folder).unwrap();
    }
}
