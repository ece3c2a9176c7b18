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
    /// Where its paths begin.
    pub view: View,
}

/// Where a process' paths begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum View {
    /// Where this one's do.
    Own,
    /// At the root of the host's first process, which a service manager may have given this one another than.
    Hosts,
    /// At a root of its own, as in a container: `/proc/PID/root`.
    Other,
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
    let roots = [View::Own, View::Hosts].into_iter().zip(["self", "1"]);
    let roots = roots.map(|(view, process)| (view, Root::of(&proc.join(process))));
    let roots: Vec<(View, Root)> = roots.filter_map(|(view, root)| Some((view, root?))).collect();
    let mut found = Vec::new();
    for pid in pids {
        let directory = proc.join(pid.to_string());
        for inode in sockets(&directory) {
            let Some(paths) = names.remove(&inode) else { continue };
            let root = Root::of(&directory);
            let same = roots.iter().find(|(_, known)| Some(known) == root.as_ref());
            let view = same.map_or(View::Other, |(view, _)| *view);
            found.extend(paths.into_iter().map(|path| Listener {
                pid: Some(pid),
                path: path.into(),
                inode,
                view,
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
        view: View::Own,
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

/// A process for each network namespace that can be seen from here.
pub(super) fn one_process_of_each_network() -> Vec<u32> {
    let proc = Path::new("/proc");
    one_in_each_network(proc, &processes(proc)).into_values().collect()
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

/// Mount namespace and root.
#[derive(PartialEq, Eq)]
struct Root {
    namespace: PathBuf,
    root: PathBuf,
}

impl Root {
    /// `None` without the right to see it: two that are not seen need not be the same.
    fn of(directory: &Path) -> Option<Self> {
        let link = |name: &str| fs::read_link(directory.join(name)).ok();
        Some(Self { namespace: link("ns/mnt")?, root: link("root")? })
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
            (found.pid, &found.path, found.view),
            (Some(std::process::id()), &path, View::Own)
        );
        assert!(find(|path| path.ends_with(&name)).is_empty());
    }

    #[test]
    fn a_view_is_known_by_namespace_and_root_and_never_by_what_cannot_be_seen() {
        let proc =
            std::env::temp_dir().join(format!("mediasoup-exporter-views-{}", std::process::id()));
        let link = |process: &str, name: &str, target: &str| {
            let path = proc.join(process).join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(target, path).unwrap();
        };
        let table = "Num\n0: 00000002 00000000 00010000 0001 01 INODE /tmp/console.sock\n";
        let views =
            [("self", "own"), ("1", "host"), ("70", "host"), ("80", "container"), ("90", "own")];
        for (at, (process, namespace)) in (10..).zip(views) {
            link(process, "ns/mnt", namespace);
            link(process, "root", "/");
            link(process, "ns/net", process);
            link(process, "fd/3", &format!("socket:[{at}]"));
            let path = proc.join(process).join("net/unix");
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, table.replace("INODE", &at.to_string())).unwrap();
        }
        // Nobody may look into this one.
        link("95", "ns/net", "95");
        link("95", "fd/3", "socket:[20]");
        fs::create_dir_all(proc.join("95/net")).unwrap();
        fs::write(proc.join("95/net/unix"), table.replace("INODE", "20")).unwrap();
        let found = find_below(&proc, |_| true);
        fs::remove_dir_all(&proc).unwrap();
        let views: Vec<_> = found.iter().filter_map(|it| Some((it.pid?, it.view))).collect();
        let hosts = [(1, View::Hosts), (70, View::Hosts)];
        assert_eq!(
            views,
            [&hosts[..], &[(80, View::Other), (90, View::Own), (95, View::Other)]].concat()
        );
    }
}
