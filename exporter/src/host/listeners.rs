//! Unix sockets on which somebody listens under a name that is looked for, in whichever network and
//! mount namespace of this host.
//!
//! Only `/proc` is read. A name in `/proc/PID/net/unix` is what its owner chose to call it, and may even
//! hold a line feed: what is found here is where to look, and proves nothing. Who it is shows when the
//! socket is connected to.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::procfs::{self, read};

/// Processes that are looked at.
const MOST_PROCESSES: usize = 65_536;
/// Descriptors of one process that are looked at.
const MOST_DESCRIPTORS: usize = 16_384;
/// Sockets of wanted names in one network namespace.
const MOST_SOCKETS: usize = 262_144;
/// Names of one socket: it has one, and lines that others forged may give it more.
const MOST_NAMES: usize = 8;

/// A socket on which a process listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    /// A process that has it open; `None` where the right to see that is missing.
    pub pid: Option<u32>,
    /// Its name, as that process sees it.
    pub path: PathBuf,
    /// Number of the socket: another socket at the same path has another one.
    pub inode: u64,
    /// The process has another mount namespace or another root than this one: its paths begin at
    /// `/proc/PID/root`.
    pub elsewhere: bool,
}

/// Everyone who listens under a name for which `wanted` is true. Of processes that may not be looked
/// into only those are found that share this one's network namespace, without their number.
pub fn find(wanted: impl Fn(&str) -> bool) -> Vec<Listener> {
    find_below(Path::new("/proc"), wanted)
}

fn find_below(proc: &Path, wanted: impl Fn(&str) -> bool) -> Vec<Listener> {
    let pids = processes(proc);
    let mut names: HashMap<u64, Vec<String>> = HashMap::new();
    for &pid in one_in_each_network(proc, &pids).values() {
        let table = read(&proc.join(pid.to_string()).join("net/unix")).unwrap_or_default();
        for (inode, path) in listening(&table).filter(|(_, path)| wanted(path)).take(MOST_SOCKETS) {
            let of_socket: &mut Vec<String> = names.entry(inode).or_default();
            if of_socket.len() < MOST_NAMES && !of_socket.contains(&path) {
                of_socket.push(path);
            }
        }
    }
    // Most of the time nobody new listens, and no process' descriptors need be read.
    if names.is_empty() {
        return Vec::new();
    }
    let own_root = Root::of(&proc.join("self"));
    let mut found = Vec::new();
    for pid in pids {
        let directory = proc.join(pid.to_string());
        for inode in sockets(&directory) {
            let Some(paths) = names.remove(&inode) else { continue };
            let elsewhere = Root::of(&directory) != own_root;
            found.extend(paths.into_iter().map(|path| Listener {
                pid: Some(pid),
                path: path.into(),
                inode,
                elsewhere,
            }));
        }
        if names.is_empty() {
            return found;
        }
    }
    let here = read(&proc.join("self/net/unix")).unwrap_or_default();
    let here = listening(&here).filter(|(inode, _)| names.contains_key(inode));
    found.extend(here.map(|(inode, path)| Listener {
        pid: None,
        path: path.into(),
        inode,
        elsewhere: false,
    }));
    found
}

fn processes(proc: &Path) -> Vec<u32> {
    let entries = fs::read_dir(proc).into_iter().flatten().take(MOST_PROCESSES);
    let mut pids: Vec<u32> =
        entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    // A server is older than what it started, which may have inherited its socket.
    pids.sort_unstable();
    pids
}

/// A process for each network namespace; those whose namespace may not be seen share one entry.
fn one_in_each_network(proc: &Path, pids: &[u32]) -> BTreeMap<Option<PathBuf>, u32> {
    let mut representatives = BTreeMap::new();
    for &pid in pids {
        let namespace = fs::read_link(proc.join(pid.to_string()).join("ns/net")).ok();
        representatives.entry(namespace).or_insert(pid);
    }
    representatives
}

/// Where a process' paths begin.
#[derive(PartialEq, Eq)]
struct Root {
    namespace: Option<PathBuf>,
    root: Option<PathBuf>,
}

impl Root {
    fn of(directory: &Path) -> Self {
        let link = |name: &str| fs::read_link(directory.join(name)).ok();
        Self { namespace: link("ns/mnt"), root: link("root") }
    }
}

fn sockets(directory: &Path) -> HashSet<u64> {
    let entries = fs::read_dir(directory.join("fd")).into_iter().flatten();
    let links =
        entries.take(MOST_DESCRIPTORS).filter_map(|entry| entry.ok()?.path().read_link().ok());
    links.filter_map(|link| procfs::socket_inode(link.to_str()?)).collect()
}

/// Inode and name of each socket of /proc/PID/net/unix on which somebody listens: those with the flag
/// __SO_ACCEPTCON. Abstract sockets, whose names begin with `@`, have no place in a file system.
fn listening(table: &str) -> impl Iterator<Item = (u64, String)> {
    const ACCEPTS: u32 = 0x1_0000;
    table.lines().skip(1).filter_map(|line| {
        // Num RefCount Protocol Flags Type St Inode Path; the inode is padded, and a path may hold spaces.
        let mut words = line.splitn(7, ' ');
        let flags = u32::from_str_radix(words.nth(3)?, 16).ok()?;
        let (inode, path) = words.nth(2)?.trim_start().split_once(' ')?;
        let is_wanted = flags & ACCEPTS != 0 && path.starts_with('/');
        Some((inode.parse().ok().filter(|_| is_wanted)?, path.to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_listening_sockets_with_a_path_are_read() {
        let table = "\
Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 12345 /tmp/a socket.sock
0000000000000000: 00000003 00000000 00000000 0001 03 63672
0000000000000000: 00000003 00000000 00000000 0001 03 63673 /tmp/connected.sock
0000000000000000: 00000002 00000000 00010000 0001 01   777 /run/short.sock
0000000000000000: 00000002 00000000 00010000 0001 01 12346 @abstract
forged /tmp/x
";
        let found: Vec<(u64, String)> = listening(table).collect();
        assert_eq!(
            found,
            [(12345, "/tmp/a socket.sock".to_owned()), (777, "/run/short.sock".to_owned())]
        );
    }

    #[test]
    fn a_socket_of_this_process_is_found() {
        let name = format!("mediasoup-exporter-listeners-{}.sock", std::process::id());
        let path = std::env::temp_dir().join(&name);
        let _ = fs::remove_file(&path);
        let socket = UnixListener::bind(&path).unwrap();
        let found = find(|path| path.ends_with(&name));
        drop(socket);
        fs::remove_file(&path).unwrap();
        let [found] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(
            (found.pid, &found.path, found.elsewhere),
            (Some(std::process::id()), &path, false)
        );
        assert!(find(|path| path.ends_with(&name)).is_empty());
    }
}
