//! Looks for servers: sockets on which somebody listens under a known name, wherever on this host, or
//! what the operator named; and the workers, whose ancestors are servers.
//!
//! Reads `/proc` and names of files. Nothing is connected to, and whom to believe is decided elsewhere.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::trust::Party;
use super::{options, place};
use crate::host::listeners::{self, Listener, View};
use crate::host::procfs::{self, Identity};
use crate::host::workers::{WorkerProcess, Workers};

/// Sockets that one pattern of the operator's stands for at most.
const MOST_OF_PATTERN: usize = 256;

/// A socket that may be a server's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// How this process reaches it.
    pub(super) path: PathBuf,
    /// Who listens, by `/proc`; by the socket's owner, where the right to see more is missing; `None`
    /// where nobody does. Only connecting makes sure.
    pub(super) party: Option<Party>,
    /// The socket's number; 0 where it is not known.
    pub(super) inode: u64,
    /// By the operator.
    pub(super) named: bool,
}

/// What a look found.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) candidates: Vec<Candidate>,
    /// Workers' ancestors, with their users.
    pub(super) ancestors: BTreeMap<u32, u32>,
    pub(super) workers: Arc<[WorkerProcess]>,
    /// Patterns of the operator's that stand for no socket.
    pub(super) unmatched: Vec<PathBuf>,
}

/// Only what the operator named, without a look at the host.
pub(super) fn named_only(patterns: &[PathBuf]) -> Found {
    let (candidates, unmatched) = all_named(patterns);
    Found { candidates, ancestors: BTreeMap::new(), workers: Arc::default(), unmatched }
}

/// What is looked for.
#[derive(Clone, Debug)]
pub(super) struct Search {
    /// Known names are looked for.
    pub(super) is_wide: bool,
    /// Paths and patterns of the operator's.
    pub(super) named: Vec<PathBuf>,
    /// Where known names are, in each mount namespace.
    pub(super) folder: PathBuf,
    pub(super) workers: Arc<Workers>,
    /// Workers may have been found so long ago.
    pub(super) age: Duration,
}

impl Search {
    /// Reads directories of every process: not for the runtime's own threads.
    pub(super) fn look(&self) -> Found {
        let workers = self.workers.within(self.age);
        let (mut candidates, unmatched) = all_named(&self.named);
        if self.is_wide {
            candidates.extend(self.known());
        }
        // Several sockets can have had one name, and only connecting tells to which the path leads; what the
        // operator named is believed whoever it is.
        candidates
            .sort_by(|one, other| one.path.cmp(&other.path).then(other.named.cmp(&one.named)));
        Found { candidates, ancestors: ancestors(&workers), workers, unmatched }
    }

    fn known(&self) -> Vec<Candidate> {
        known_sockets(&self.folder).into_iter().map(candidate).collect()
    }
}

/// Who listens under a known name in this folder, in whatever mount namespace.
pub fn known_sockets(folder: &Path) -> Vec<Listener> {
    listeners::find(|path: &str| {
        let path = Path::new(path);
        path.parent() == Some(folder) && path.file_name().is_some_and(is_known)
    })
}

/// One of the names that servers' consoles and agents have.
fn is_known(name: &OsStr) -> bool {
    let consoles = options::KNOWN_SOCKETS.iter().filter_map(|path| Path::new(path).file_name());
    let (beginning, end) = options::AGENT_SOCKETS;
    let is_agents = |name: &str| name.starts_with(beginning) && name.ends_with(end);
    consoles.into_iter().any(|known| known == name) || name.to_str().is_some_and(is_agents)
}

fn candidate(listener: Listener) -> Candidate {
    let Listener { pid, path, inode, view } = listener;
    let path = match (pid, view) {
        (Some(pid), View::Other) => below_root(pid, &path),
        (_, View::Hosts) => below_root(1, &path),
        _ => path,
    };
    let party = match pid {
        Some(pid) => user(pid).map(|uid| Party { pid: Some(pid), uid }),
        None => place::owner(&path).map(|uid| Party { pid: None, uid }),
    };
    Candidate { path, party, inode, named: false }
}

fn below_root(pid: u32, path: &Path) -> PathBuf {
    Path::new("/proc")
        .join(pid.to_string())
        .join("root")
        .join(path.strip_prefix("/").unwrap_or(path))
}

/// What paths and patterns of the operator's stand for, and those that stand for nothing.
fn all_named(patterns: &[PathBuf]) -> (Vec<Candidate>, Vec<PathBuf>) {
    let (mut candidates, mut unmatched) = (Vec::new(), Vec::new());
    for pattern in patterns {
        let found = named(pattern);
        if found.is_empty() {
            unmatched.push(pattern.clone());
        }
        candidates.extend(found);
    }
    (candidates, unmatched)
}

/// What a path or pattern of the operator's stands for; a path stands for itself, there or not, unless it
/// is a socket in the host's view only.
fn named(pattern: &Path) -> Vec<Candidate> {
    let candidate = |path| Candidate { path, party: None, inode: 0, named: true };
    let is_pattern = pattern.to_str().is_some_and(|text| text.contains(['*', '?', '[']));
    if !is_pattern || place::is_socket(pattern) {
        let is_only_there = |there: &PathBuf| !place::is_socket(pattern) && place::is_socket(there);
        let there = of_the_hosts(pattern).filter(is_only_there);
        return vec![candidate(there.unwrap_or_else(|| pattern.to_owned()))];
    }
    let here = matching(pattern);
    let paths = match of_the_hosts(pattern) {
        Some(pattern) if here.is_empty() => matching(&pattern),
        _ => here,
    };
    paths.into_iter().map(candidate).collect()
}

/// A path as the host's first process sees it, where a service manager has given this process a view of its
/// own: another `/tmp`, no `/home`.
fn of_the_hosts(path: &Path) -> Option<PathBuf> {
    let view = |process: &str| procfs::namespace(Path::new(process), "mnt");
    let is_own_view = view("/proc/1")? != view("/proc/self")?;
    (is_own_view && path.is_absolute() && !place::is_elsewhere(path)).then(|| below_root(1, path))
}

/// Sockets that a pattern stands for.
fn matching(pattern: &Path) -> Vec<PathBuf> {
    let paths = pattern.to_str().and_then(|pattern| glob::glob(pattern).ok());
    let paths = paths.into_iter().flatten().flatten().filter(|path| place::is_socket(path));
    paths.take(MOST_OF_PATTERN).collect()
}

/// Process 1 starts everything, and is nobody's server.
fn ancestors(workers: &[WorkerProcess]) -> BTreeMap<u32, u32> {
    let all = workers.iter().flat_map(|worker| worker.ancestors.iter().copied());
    let mut ancestors = BTreeMap::new();
    for pid in all.filter(|pid| *pid > 1 && *pid != std::process::id()) {
        if !ancestors.contains_key(&pid)
            && let Some(uid) = user(pid)
        {
            ancestors.insert(pid, uid);
        }
    }
    ancestors
}

/// The effective user of a process.
fn user(pid: u32) -> Option<u32> {
    let status = procfs::read(Path::new(&format!("/proc/{pid}/status"))).ok()?;
    Identity::parse(&status).map(|identity| identity.uid)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn names_of_consoles_and_agents_are_known() {
        let check =
            |name: &str, expected| assert_eq!(is_known(OsStr::new(name)), expected, "{name}");
        check("edumeet-server.sock", true);
        check("mediasoup-exporter-agent-12.sock", true);
        check("mediasoup-exporter-agent-12", false);
        check("docker.sock", false);
    }

    #[test]
    fn the_operators_paths_stand_for_themselves_and_patterns_for_what_is_there() {
        let folder = std::env::temp_dir().join(format!("mex-search-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let _sockets =
            ["a.sock", "b.sock"].map(|name| UnixListener::bind(folder.join(name)).unwrap());
        std::fs::write(folder.join("c.sock"), "no socket").unwrap();
        let check = |pattern: &str, expected: &[&str]| {
            let found = named(&folder.join(pattern));
            assert!(found.iter().all(|candidate| candidate.named));
            let paths: Vec<PathBuf> = found.into_iter().map(|candidate| candidate.path).collect();
            let expected: Vec<PathBuf> = expected.iter().map(|name| folder.join(name)).collect();
            assert_eq!(paths, expected, "{pattern}");
        };
        check("*.sock", &["a.sock", "b.sock"]);
        check("[a]*", &["a.sock"]);
        check("absent.sock", &["absent.sock"]);
        check("absent*", &[]);
        let patterns = ["a*", "absent*", "absent.sock"].map(|name| folder.join(name));
        assert_eq!(all_named(&patterns).1, [folder.join("absent*")]);
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn who_listens_is_told_with_its_user() {
        let folder = std::env::temp_dir().join(format!("mex-known-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("edumeet-server.sock");
        let _socket = UnixListener::bind(&path).unwrap();
        std::os::unix::fs::symlink(&path, folder.join("mediasoup-demo.sock")).unwrap();
        let workers = Arc::new(Workers::new(&[]).unwrap());
        let age = Duration::ZERO;
        let search = Search { is_wide: true, named: vec![], folder: folder.clone(), workers, age };
        let mut found = search.look().candidates;
        found.iter_mut().for_each(|candidate| candidate.inode = 0);
        std::fs::remove_dir_all(&folder).unwrap();
        // SAFETY: geteuid has no preconditions and cannot fail.
        let uid = unsafe { libc::geteuid() };
        let party = Some(Party { pid: Some(std::process::id()), uid });
        assert_eq!(found, [Candidate { path, party, inode: 0, named: false }]);
    }
}
