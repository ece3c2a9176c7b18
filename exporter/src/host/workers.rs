//! Finds the SFU's processes on this host: mediasoup's workers, and what the operator named. Says
//! whose they are, where they are, and which sockets they have.
//!
//! All from /proc; nothing here asks the workers themselves. A process is taken for a worker by its own
//! word (see `recognise`), so nothing follows from that but that its own sockets count.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::RawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use globset::Glob;

use super::addresses::Foreign;
use super::namespaces::NamespaceCookie;
use super::procfs::{self, Identity, SocketLine, Stat};
use super::recognise::{Evidence, Named, Process};
use crate::model::Proto;

/// Processes looked at, workers found, workers of one user that is not root, and sockets of one
/// worker.
const MOST_PROCESSES: usize = 65_536;
pub(super) const MOST_WORKERS: usize = 2048;
pub(super) const MOST_OF_USER: usize = 512;
const MOST_SOCKETS: usize = 131_072;
/// Parents, grandparents and so on.
const MOST_ANCESTORS: usize = 16;
/// Longest command line and environment that are looked at.
const MOST_ARGUMENTS: u64 = 64 << 10;
/// Files that one pattern of files with process numbers stands for.
const MOST_FILES: usize = 64;
/// Prefixes that are taken from a network namespace: more than it has room for, so that it is seen
/// that there were more.
const MOST_PREFIXES: usize = 20_000;

/// A process of the SFU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerProcess {
    /// Process id, as this process sees it.
    pub pid: u32,
    /// When it started, in clock ticks since the host did: another process with the same number has
    /// another start.
    pub started: u64,
    /// Why it counts as the SFU's.
    pub evidence: Evidence,
    /// Its effective user.
    pub uid: u32,
    /// Its parent, that one's parent, and so on.
    pub ancestors: Vec<u32>,
    /// Its id in its own process namespace.
    pub inner_pid: u32,
    /// `--rtcMinPort` and `--rtcMaxPort`, where the command line has both.
    pub ports: Option<RangeInclusive<u16>>,
    /// Numbers of the sockets that it has open; `None` where the right to see them is missing.
    pub sockets: Option<Arc<HashSet<u64>>>,
    /// Of these, those that take packets at their port.
    pub open: Vec<OpenSocket>,
    /// There was time to find all of them.
    pub is_whole: bool,
    /// Ports that it has bound.
    pub bound: BTreeSet<u16>,
    /// Addresses that it listens on, each once; may hold unspecified addresses.
    pub listening: Vec<IpAddr>,
    /// Number of its network namespace; `None` where the right to see it is missing.
    pub namespace: Option<u64>,
    /// Number of its mount namespace.
    pub mounts: Option<u64>,
    /// The kernel's name for its network namespace; of another one it is known as soon as it has a
    /// socket there.
    pub cookie: NamespaceCookie,
    /// What is local in its network namespace, if that is not this process'.
    pub foreign: Option<Foreign>,
}

/// A socket of a worker that takes what comes to its port: UDP, or a TCP listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenSocket {
    /// Its number.
    pub number: u64,
    /// A descriptor that the worker has for it.
    pub descriptor: RawFd,
    /// Its protocol.
    pub proto: Proto,
    /// Where it is bound.
    pub local: SocketAddr,
}

/// Mediasoup's workers, by process id, now.
pub fn find() -> Vec<WorkerProcess> {
    Workers::new(&[]).map(|workers| workers.look().to_vec()).unwrap_or_default()
}

/// Numbers of the sockets that a process has open at this moment; `None` without the right to see them.
pub fn open_sockets(pid: u32) -> Option<HashSet<u64>> {
    let descriptors = descriptors(Path::new(&format!("/proc/{pid}/fd")))?;
    Some(descriptors.into_keys().collect())
}

/// When a process started, in clock ticks since the host did; `None`: there is none with this number.
pub fn started(pid: u32) -> Option<u64> {
    let stat = procfs::read_at_most(Path::new(&format!("/proc/{pid}/stat")), 4096).ok()?;
    Stat::parse(&stat).map(|stat| stat.started)
}

/// Looks for workers again and again; shared by all who want to know.
#[derive(Debug, Default)]
pub struct Workers {
    named: Vec<Named>,
    /// Held while somebody looks.
    memory: Mutex<Memory>,
    /// Beyond these bounds, at the last look.
    left_out: AtomicUsize,
    /// What the last look at all found.
    found: Mutex<Option<(Instant, Arc<[WorkerProcess]>)>>,
}

/// What need not be read twice.
#[derive(Debug, Default)]
struct Memory {
    /// Processes that are none of the SFU's.
    others: HashMap<u32, Other>,
    cookies: HashMap<(u32, u64), NamespaceCookie>,
}

/// A process that was looked into. Between its start and another program's it looks like its parent.
#[derive(Debug)]
struct Other {
    stat: Stat,
    looks: u8,
}

/// After so many looks with the same name and program, a process is what it is.
const ENOUGH_LOOKS: u8 = 3;

impl Workers {
    /// Mediasoup's workers and what is named as in `--sfu`.
    pub fn new(named: &[String]) -> Result<Self, globset::Error> {
        let named = named.iter().map(|text| Named::parse(text)).collect::<Result<_, _>>()?;
        Ok(Self { named, ..Self::default() })
    }

    /// Workers by process id, now. Processes that end meanwhile, or may not be looked into, are left
    /// out.
    pub fn look(&self) -> Arc<[WorkerProcess]> {
        let mut memory = self.memory();
        let (found, left_out) = Look::new(Path::new("/proc"), &self.named, &mut memory).find();
        let found: Arc<[WorkerProcess]> = found.into();
        self.left_out.store(left_out, Ordering::Relaxed);
        *self.found() = Some((Instant::now(), found.clone()));
        found
    }

    /// Workers that the last look at all had no room for.
    pub fn left_out(&self) -> usize {
        self.left_out.load(Ordering::Relaxed)
    }

    /// Those of these processes that are workers, now. Workers that share a network namespace share its reading.
    pub fn look_at(&self, pids: impl IntoIterator<Item = u32>) -> Vec<WorkerProcess> {
        let mut memory = self.memory();
        let mut look = Look::new(Path::new("/proc"), &self.named, &mut memory);
        pids.into_iter().filter_map(|pid| look.at(pid)).collect()
    }

    /// As they were found at most so long ago; or before that, where somebody is about to look: whoever makes a
    /// look long makes nobody else wait.
    pub fn within(&self, age: Duration) -> Arc<[WorkerProcess]> {
        let found = self.found().clone();
        match (found, self.memory.try_lock()) {
            (Some((at, found)), _) if at.elapsed() < age => found,
            (Some((_, found)), Err(TryLockError::WouldBlock)) => found,
            (_, memory) => {
                drop(memory);
                self.look()
            }
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn found(&self) -> MutexGuard<'_, Option<(Instant, Arc<[WorkerProcess]>)>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For the tables of sockets of all network namespaces in one look: root's workers come first.
const FOR_TABLES: Duration = Duration::from_secs(3);

/// The sockets of a network namespace, as far as there was time.
struct Table {
    lines: Vec<SocketLine>,
    is_whole: bool,
}

/// One look.
struct Look<'a> {
    proc: &'a Path,
    named: &'a [Named],
    memory: &'a mut Memory,
    own_namespace: Option<u64>,
    own_users: Option<u64>,
    own_cookie: NamespaceCookie,
    /// By network namespace, so that workers that share one share the reading.
    sockets: HashMap<u64, Arc<Table>>,
    /// All of them have to be read until then.
    until: Instant,
    prefixes: HashMap<u64, Vec<ipnet::IpNet>>,
}

impl<'a> Look<'a> {
    fn new(proc: &'a Path, named: &'a [Named], memory: &'a mut Memory) -> Self {
        let own = proc.join("self");
        Self {
            proc,
            named,
            memory,
            own_namespace: procfs::namespace(&proc.join("thread-self"), "net"),
            own_users: procfs::namespace(&own, "user"),
            own_cookie: NamespaceCookie::own().unwrap_or_default(),
            sockets: HashMap::new(),
            until: Instant::now() + FOR_TABLES,
            prefixes: HashMap::new(),
        }
    }

    /// Workers, and how many more there are than there is room for.
    fn find(mut self) -> (Vec<WorkerProcess>, usize) {
        let processes = self.processes();
        let by_file = self.by_file();
        self.memory.others.retain(|pid, _| processes.contains_key(pid));
        let mut found: Vec<(u32, Evidence)> = Vec::new();
        for (&pid, stat) in &processes {
            let evidence = match by_file.contains(&pid) {
                true => Some(Evidence::Operator),
                false => self.evidence(pid, stat),
            };
            found.extend(evidence.map(|evidence| (pid, evidence)));
        }
        // Nobody's processes take room from root's.
        let mut found: Vec<_> = found
            .into_iter()
            .filter_map(|(pid, evidence)| Some((pid, evidence, self.identity(pid)?)))
            .collect();
        found.sort_by_key(|(pid, _, identity)| (identity.uid != 0, *pid));
        let mut of_user: HashMap<u32, usize> = HashMap::new();
        let (mut workers, mut left_out) = (Vec::new(), 0);
        for (pid, evidence, identity) in found {
            let Some(stat) = processes.get(&pid) else { continue };
            let count = of_user.entry(identity.uid).or_default();
            *count += 1;
            if workers.len() >= MOST_WORKERS || (identity.uid != 0 && *count > MOST_OF_USER) {
                left_out += 1;
                continue;
            }
            let ancestors = ancestors(pid, &processes);
            workers.extend(self.worker(pid, stat, identity, evidence, ancestors));
        }
        let alive: HashSet<(u32, u64)> = workers.iter().map(|it| (it.pid, it.started)).collect();
        self.memory.cookies.retain(|process, _| alive.contains(process));
        workers.sort_by_key(|worker| worker.pid);
        (workers, left_out)
    }

    fn at(&mut self, pid: u32) -> Option<WorkerProcess> {
        let stat = self.stat(pid)?;
        let evidence = match self.by_file().contains(&pid) {
            true => Evidence::Operator,
            false => self.evidence(pid, &stat)?,
        };
        let ancestors = std::iter::successors(Some(stat.parent).filter(|&it| it != 0), |&pid| {
            self.stat(pid).map(|stat| stat.parent).filter(|&it| it != 0)
        });
        let ancestors = ancestors.take(MOST_ANCESTORS).collect();
        let identity = self.identity(pid)?;
        self.worker(pid, &stat, identity, evidence, ancestors)
    }

    fn processes(&self) -> BTreeMap<u32, Stat> {
        let Ok(entries) = fs::read_dir(self.proc) else { return BTreeMap::new() };
        entries
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .take(MOST_PROCESSES)
            .filter_map(|pid| Some((pid, self.stat(pid)?)))
            .collect()
    }

    fn directory(&self, pid: u32) -> PathBuf {
        self.proc.join(pid.to_string())
    }

    fn stat(&self, pid: u32) -> Option<Stat> {
        Stat::parse(&procfs::read_at_most(&self.directory(pid).join("stat"), 4096).ok()?)
    }

    fn identity(&self, pid: u32) -> Option<Identity> {
        Identity::parse(&procfs::read_at_most(&self.directory(pid).join("status"), 8192).ok()?)
    }

    fn evidence(&mut self, pid: u32, stat: &Stat) -> Option<Evidence> {
        let known = self.memory.others.get(&pid);
        let known = known.filter(|it| it.stat == *stat);
        let looks = known.map_or(0, |it| it.looks);
        if looks >= ENOUGH_LOOKS {
            return None;
        }
        let evidence = self.look_into(pid, stat);
        if evidence.is_none() {
            self.memory.others.insert(pid, Other { stat: stat.clone(), looks: looks + 1 });
        }
        evidence
    }

    fn look_into(&self, pid: u32, stat: &Stat) -> Option<Evidence> {
        let directory = self.directory(pid);
        let executable = fs::read_link(directory.join("exe")).unwrap_or_default();
        let executable = executable.to_string_lossy();
        let command_line =
            procfs::read_at_most(&directory.join("cmdline"), MOST_ARGUMENTS).unwrap_or_default();
        let has_version = || {
            let environment = procfs::read_at_most(&directory.join("environ"), MOST_ARGUMENTS);
            let environment = environment.unwrap_or_default();
            environment.split('\0').any(|word| word.starts_with("MEDIASOUP_VERSION="))
        };
        let process = Process {
            comm: &stat.comm,
            executable: &executable,
            command_line: &command_line,
            has_version: &has_version,
        };
        match self.named.iter().any(|named| named.is(&process)) {
            true => Some(Evidence::Operator),
            false => process.is_worker(),
        }
    }

    /// Processes that files name.
    fn by_file(&self) -> HashSet<u32> {
        let mut found = HashSet::new();
        for named in self.named {
            let Named::PidFile(path) = named else { continue };
            found.extend(files(Path::new(path)).iter().filter_map(|file| number_in(file)));
        }
        found
    }

    fn worker(
        &mut self,
        pid: u32,
        stat: &Stat,
        identity: Identity,
        evidence: Evidence,
        ancestors: Vec<u32>,
    ) -> Option<WorkerProcess> {
        let directory = self.directory(pid);
        let command_line = procfs::read_at_most(&directory.join("cmdline"), MOST_ARGUMENTS).ok()?;
        let namespace = procfs::namespace(&directory, "net");
        let descriptors = descriptors(&directory.join("fd"));
        let table = self.sockets_of(&directory, namespace);
        let (mut bound, mut listening) = (BTreeSet::new(), BTreeSet::new());
        let mut open = Vec::new();
        let mut own_socket = None;
        if let Some(descriptors) = &descriptors {
            for line in &table.lines {
                let Some(&descriptor) = descriptors.get(&line.inode) else { continue };
                own_socket = Some(descriptor);
                if line.listens || has_one_far_end(line, evidence) {
                    let SocketLine { inode: number, proto, local, .. } = *line;
                    open.push(OpenSocket { number, descriptor, proto, local });
                }
                if line.listens {
                    bound.insert(line.local.port());
                    listening.insert(line.local.ip());
                }
            }
        }
        let is_elsewhere = namespace.is_some_and(|it| self.own_namespace != Some(it));
        let cookie = match is_elsewhere {
            false => self.own_cookie,
            true => self.cookie((pid, stat.started), own_socket),
        };
        let foreign = namespace.filter(|_| is_elsewhere).map(|number| {
            let prefixes = self.prefixes.entry(number);
            let read = || procfs::local_prefixes(&directory, MOST_PREFIXES);
            let prefixes = prefixes.or_insert_with(read).clone();
            let users = procfs::namespace(&directory, "user");
            let is_unprivileged = users.is_none() || users != self.own_users;
            Foreign { namespace: cookie, is_unprivileged, prefixes }
        });
        // Whatever was read may be of another process, if this one has ended meanwhile.
        if self.stat(pid)?.started != stat.started {
            return None;
        }
        Some(WorkerProcess {
            pid,
            started: stat.started,
            evidence,
            uid: identity.uid,
            ancestors,
            inner_pid: identity.inner_pid,
            ports: port_range(&command_line),
            sockets: descriptors.map(|it| Arc::new(it.into_keys().collect())),
            open,
            is_whole: table.is_whole,
            bound,
            listening: listening.into_iter().collect(),
            namespace,
            mounts: procfs::namespace(&directory, "mnt"),
            cookie,
            foreign,
        })
    }

    fn sockets_of(&mut self, directory: &Path, namespace: Option<u64>) -> Arc<Table> {
        let until = self.until;
        let read = || {
            let (lines, is_whole) = procfs::sockets(directory, MOST_SOCKETS, until);
            Arc::new(Table { lines, is_whole })
        };
        match namespace {
            Some(number) => self.sockets.entry(number).or_insert_with(read).clone(),
            None => read(),
        }
    }

    /// A process may go to another network namespace and take its sockets along, but workers do not.
    fn cookie(&mut self, process: (u32, u64), socket: Option<RawFd>) -> NamespaceCookie {
        if let Some(cookie) = self.memory.cookies.get(&process) {
            return *cookie;
        }
        let Some(socket) = socket else { return NamespaceCookie::UNKNOWN };
        match NamespaceCookie::of_socket_in(process.0, socket) {
            Ok(cookie) => {
                self.memory.cookies.insert(process, cookie);
                cookie
            }
            Err(error) => {
                tracing::debug!("the network namespace of worker {}: {error}", process.0);
                NamespaceCookie::UNKNOWN
            }
        }
    }
}

/// A UDP socket of the SFU's that takes what one far end sends. Of a whole server that the operator named it may be
/// any, such as one that asks for names.
fn has_one_far_end(line: &SocketLine, evidence: Evidence) -> bool {
    line.proto == Proto::Udp && line.is_established && evidence != Evidence::Operator
}

fn ancestors(pid: u32, processes: &BTreeMap<u32, Stat>) -> Vec<u32> {
    let parent = |pid: &u32| processes.get(pid).map(|stat| stat.parent).filter(|&it| it != 0);
    std::iter::successors(parent(&pid), parent).take(MOST_ANCESTORS).collect()
}

/// Sockets that a process has open, by their number, each with a descriptor; `None` without the right
/// to see them.
fn descriptors(directory: &Path) -> Option<HashMap<u64, RawFd>> {
    let entries = fs::read_dir(directory).ok()?;
    let mut found = HashMap::new();
    for entry in entries.take(MOST_SOCKETS).flatten() {
        let link = match fs::read_link(entry.path()) {
            Ok(link) => link,
            // Whoever may list them need not be allowed to see what they are.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return None,
            Err(_) => continue,
        };
        let number = link.to_str().and_then(procfs::socket_inode);
        let descriptor = entry.file_name().to_str().and_then(|name| name.parse().ok());
        found.extend(number.zip(descriptor));
    }
    Some(found)
}

/// Both ends of the range from a NUL-separated command line.
fn port_range(command_line: &str) -> Option<RangeInclusive<u16>> {
    let argument = |name: &str| {
        let arguments = command_line.split('\0');
        let mut values = arguments.filter_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        values.next_back()?.parse::<u16>().ok()
    };
    let (first, last) = (argument("--rtcMinPort")?, argument("--rtcMaxPort")?);
    (first <= last).then_some(first..=last)
}

/// Files whose name matches the last part of a path.
fn files(pattern: &Path) -> Vec<PathBuf> {
    let name = pattern.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let (Some(folder), Ok(glob)) = (pattern.parent(), Glob::new(name)) else { return Vec::new() };
    if glob.glob() == globset::escape(name) {
        return vec![pattern.to_owned()];
    }
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let glob = glob.compile_matcher();
    let matching = entries.take(MOST_PROCESSES).filter_map(Result::ok);
    let matching = matching.filter(|entry| glob.is_match(entry.file_name()));
    matching.take(MOST_FILES).map(|entry| entry.path()).collect()
}

/// The number that a regular file holds. A FIFO in its place is not waited for.
fn number_in(path: &Path) -> Option<u32> {
    let mut options = fs::OpenOptions::new();
    let file =
        options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn command_lines_give_the_range() {
        let check = |words: &str, expected| assert_eq!(port_range(words), expected, "{words:?}");
        check(
            "/x/mediasoup-worker\0--logLevel=warn\0--rtcMinPort=40000\0--rtcMaxPort=49999\0",
            Some(40_000..=49_999),
        );
        check("mediasoup-worker\0--rtcMaxPort=2\0--rtcMinPort=1", Some(1..=2));
        check("mediasoup-worker\0--rtcMinPort=40000\0", None);
        check("mediasoup-worker\0--rtcMinPort=9\0--rtcMaxPort=8\0", None);
        check("mediasoup-worker\0--rtcMinPort=99999\0--rtcMaxPort=8\0", None);
        check("", None);
    }

    #[test]
    fn ancestors_are_followed_within_bounds() {
        let stat = |parent| Stat { comm: String::new(), parent, started: 1, image: [0; 2] };
        let processes = BTreeMap::from([(1, stat(0)), (5, stat(1)), (9, stat(5)), (20, stat(20))]);
        assert_eq!(ancestors(9, &processes), [5, 1]);
        assert!(ancestors(1, &processes).is_empty());
        assert_eq!(ancestors(20, &processes).len(), MOST_ANCESTORS);
    }

    /// Real processes of this test; needs no rights.
    #[test]
    fn processes_are_found_by_arguments_environment_and_name() {
        let folder = std::env::temp_dir().join(format!("mex-workers-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let start = |command: &mut Command| {
            command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
        };
        let mut children = [
            start(Command::new("sh").args(["-c", "read x", "--logLevel=warn", "--rtcMaxPort=2"])),
            start(
                Command::new("sh")
                    .args(["-c", "read x", "--logLevel=warn"])
                    .env("MEDIASOUP_VERSION", "3.15.8"),
            ),
            start(Command::new("sh").args(["-c", "read x"])),
            start(Command::new("sh").args(["-c", "read x"])),
        ];
        let file = folder.join("sfu-1.pid");
        fs::write(&file, format!("{}\n", children[2].id())).unwrap();
        let workers = Workers::new(&[folder.join("sfu-*.pid").display().to_string()]).unwrap();
        let evidence = |workers: &[WorkerProcess], pid: u32| {
            let found = workers.iter().find(|worker| worker.pid == pid);
            found.map(|worker| (worker.evidence, worker.ancestors.first().copied()))
        };
        let me = Some(std::process::id());
        for _ in 0..2 * ENOUGH_LOOKS {
            let found = workers.look();
            let expected = [Evidence::Arguments, Evidence::Environment, Evidence::Operator]
                .map(|it| Some((it, me)));
            let of_children: Vec<_> =
                children[..3].iter().map(|child| evidence(&found, child.id())).collect();
            // Between fork and exec a child looks as this process does.
            if of_children != expected {
                std::thread::yield_now();
                continue;
            }
            assert_eq!(evidence(&found, children[3].id()), None);
        }
        let found = workers.within(Duration::from_secs(600));
        assert!(found.iter().any(|worker| worker.pid == children[0].id()), "{found:?}");
        for child in &mut children {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        let found = workers.look();
        assert_eq!(evidence(&found, children[0].id()), None);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_number_is_read_from_a_regular_file_only() {
        let folder = std::env::temp_dir().join(format!("mex-pid-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let fifo = folder.join("fifo.pid");
        let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(made.success());
        assert_eq!(number_in(&fifo), None);
        for (text, expected) in [("4711\n", Some(4711)), ("", None), ("x", None), ("-1", None)] {
            let file = folder.join("a.pid");
            fs::write(&file, text).unwrap();
            assert_eq!(number_in(&file), expected, "{text}");
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
