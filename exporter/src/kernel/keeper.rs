//! Keeps what is owned up to date: looks for the SFU's processes and their sockets, hears of sockets that
//! are bound and closed, and writes both into the kernel's tables and into the house's [`Ownership`].
//!
//! Whether a process is the SFU's is decided in `host::workers`. What is done with that is decided here, and
//! carried out by [`OwnedTables`], which are the kernel program's or the packet capture's.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use exporter_ebpf::abi::{Comm, Happened};

use super::owners::{OwnedTables, Seen};
use crate::host::cookies::{self, Cookies, Kernels};
use crate::host::namespaces::NamespaceCookie;
use crate::host::ownership::{End, Ownership, Socket, SocketId};
use crate::host::workers::{self, OpenSocket, WorkerProcess, Workers};
use crate::model::Proto;

/// What trails after a socket is its own for so long: what a closed TCP connection still sends, and what
/// the far side sends until it knows.
const LINGER: Duration = Duration::from_secs(60);
/// Sockets of one process.
const MOST_OF_PROCESS: u32 = 16_384;
/// Processes that are looked into in a second, because they bound a socket: each takes some hundred
/// microseconds. Beyond that the next look at all has to do.
const LOOKS_PER_SECOND: u32 = 200;
/// Network namespaces that are remembered.
const MOST_NAMESPACES: usize = 4096;
/// Between two looks at all processes that what was heard asks for.
const PAUSE: Duration = Duration::from_secs(1);

/// Knows what is owned, and who may own.
pub(super) struct Keeper<T> {
    tables: T,
    ownership: Arc<Ownership>,
    workers: Arc<Workers>,
    /// Of sockets in this network namespace; `None` where nobody sees them by their cookies.
    cookies: Option<Cookies>,
    admitted: HashMap<u32, Admitted>,
    /// Owned by their process' name only.
    claimed: HashMap<SocketId, u32>,
    /// Ends that are owned no more, and since when.
    lingering: HashMap<End, Instant>,
    backlog: VecDeque<Seen>,
    looks: Tokens,
    /// When all processes were looked at, and whether they should be again.
    looked: Option<Instant>,
    is_due: bool,
    lost: u64,
    /// Something was lost, and has to be set right.
    is_doubtful: bool,
    /// Ports and ends may be left of what was lost: when nothing trails any more.
    sweep: Option<Instant>,
    refused: u64,
    /// Workers whose sockets may not be seen, of whom a warning has told.
    hidden: HashSet<u32>,
    /// Network namespaces in which sockets were seen to be bound.
    namespaces: HashSet<NamespaceCookie>,
}

/// Sockets that were just seen, by what /proc shows of them.
type Hints = HashMap<Socket, Vec<(SocketId, End)>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Admitted {
    started: u64,
    quota: u32,
}

impl<T: OwnedTables> Keeper<T> {
    /// With `by_cookie`, sockets' binding and closing is seen by whoever has the tables.
    pub(super) fn new(
        tables: T,
        ownership: Arc<Ownership>,
        workers: Arc<Workers>,
        cookies: Option<Cookies>,
    ) -> Self {
        Self {
            tables,
            ownership,
            workers,
            cookies,
            admitted: HashMap::new(),
            claimed: HashMap::new(),
            lingering: HashMap::new(),
            backlog: VecDeque::new(),
            looks: Tokens::new(Instant::now()),
            looked: None,
            is_due: false,
            lost: 0,
            is_doubtful: false,
            sweep: None,
            refused: 0,
            hidden: HashSet::new(),
            namespaces: HashSet::new(),
        }
    }

    pub(super) fn tables(&self) -> &T {
        &self.tables
    }

    /// Sockets that there was no room for, found by looking.
    pub(super) fn refused(&self) -> u64 {
        self.refused
    }

    /// Looks at all processes of the host.
    pub(super) fn look(&mut self) -> io::Result<()> {
        self.hear_all()?;
        (self.looked, self.is_due) = (Some(Instant::now()), false);
        let restored = self.reconcile(Instant::now())?;
        let workers = self.workers.look();
        self.dismiss_others(&workers)?;
        let quotas = quotas(&workers, T::MOST_SOCKETS);
        let mut new = Vec::new();
        for worker in workers.iter() {
            if self.admit(worker, quotas[&worker.uid])? {
                new.push(worker.pid);
            }
        }
        // Nobody was asked who bound them.
        for (id, pid) in restored {
            if !self.admitted.contains_key(&pid) {
                self.disown(id)?;
            }
        }
        self.drop_unseen(&workers)?;
        self.adopt(&workers, &HashMap::new())?;
        // What they bound between being looked at and being admitted.
        let again = self.workers.look_at(new);
        self.adopt(&again, &HashMap::new())?;
        self.warn_of_hidden(&workers);
        self.close_lingering(Instant::now())
    }

    /// Takes in what happened to sockets since. Where that was too much to be told, or to be looked into,
    /// it looks at all processes, though no more than once a second. True: a socket was bound in a network
    /// namespace of which nothing was heard before.
    pub(super) fn hear(&mut self) -> io::Result<bool> {
        let known = self.namespaces.len();
        self.is_due |= !self.hear_all()?;
        let rests = self.looked.is_none_or(|at| at.elapsed() >= PAUSE);
        if self.is_due && rests {
            self.look()?;
        }
        Ok(self.namespaces.len() > known)
    }

    /// From now on sockets are seen by their cookies, or nobody sees them. Those that were known the other way
    /// are found anew.
    pub(super) fn know_by(&mut self, cookies: Option<Cookies>) -> io::Result<()> {
        self.cookies = cookies;
        for id in self.ownership.sockets(|id, _| Some(id)) {
            self.disown(id)?;
        }
        self.look()
    }

    /// Whether a socket was seen to be bound; what else was seen is kept for later.
    pub(super) fn has_seen(&mut self, id: SocketId) -> Option<Seen> {
        let mut found = None;
        while let Some(seen) = self.tables.seen() {
            match seen.id == id {
                true => found = Some(seen),
                false => self.backlog.push_back(seen),
            }
        }
        found
    }

    fn hear_all(&mut self) -> io::Result<bool> {
        let mut unknown: HashMap<u32, Comm> = HashMap::new();
        let mut hints: Hints = HashMap::new();
        let mut binding = HashSet::new();
        while let Some(seen) = self.next_seen() {
            let Seen { id, socket, comm, happened } = seen;
            match happened {
                Happened::Owned => {
                    self.lingering.remove(&socket.end);
                    self.ownership.insert(id, socket);
                    self.note_namespace(socket.end.namespace);
                    if self.admitted.contains_key(&socket.pid) {
                        binding.insert(socket.pid);
                    } else {
                        self.claimed.insert(id, socket.pid);
                        unknown.insert(socket.pid, comm);
                    }
                }
                Happened::Released => self.gone(id)?,
                Happened::Bound | Happened::Refused => {
                    hints.entry(as_proc_shows(&socket)).or_default().push((id, socket.end));
                    unknown.insert(socket.pid, comm);
                }
            }
        }
        // A number may have become another process'.
        for pid in binding {
            let started = self.admitted.get(&pid).map(|it| it.started);
            if workers::started(pid) != started {
                self.dismiss(pid)?;
                unknown.entry(pid).or_default();
            }
        }
        let lost = self.tables.lost();
        let mut is_complete = std::mem::replace(&mut self.lost, lost) == lost;
        let now = Instant::now();
        self.is_doubtful |= !is_complete;
        unknown.remove(&std::process::id());
        unknown.retain(|_, _| {
            let is_left = self.looks.take(now);
            is_complete &= is_left;
            is_left
        });
        self.decide(&unknown, &hints)?;
        Ok(is_complete)
    }

    /// Finds out who bound sockets.
    fn decide(&mut self, unknown: &HashMap<u32, Comm>, hints: &Hints) -> io::Result<()> {
        if unknown.is_empty() {
            return Ok(());
        }
        let workers = self.workers.look_at(unknown.keys().copied());
        let mut new = Vec::new();
        for worker in &workers {
            // Its share is seen when all are.
            let quota = self.admitted.get(&worker.pid).map_or(MOST_OF_PROCESS / 4, |it| it.quota);
            if self.admit(worker, quota)? {
                new.push(worker.pid);
            }
            self.note_namespace(worker.cookie);
        }
        self.adopt(&workers, hints)?;
        // What they bound between being looked at and being admitted.
        let again = self.workers.look_at(new);
        self.adopt(&again, hints)?;
        let found: HashSet<u32> = workers.iter().map(|worker| worker.pid).collect();
        let others = unknown.iter().filter(|(pid, _)| !found.contains(pid));
        others.into_iter().try_for_each(|(&pid, comm)| self.refuse(pid, comm))
    }

    /// Once there are too many, none is new: the next look finds them.
    fn note_namespace(&mut self, namespace: NamespaceCookie) {
        if self.namespaces.len() < MOST_NAMESPACES && namespace != NamespaceCookie::UNKNOWN {
            self.namespaces.insert(namespace);
        }
    }

    /// After something was lost: who owns what is read from the tables, and once nothing trails any more what
    /// nobody owns is taken out of them. Tells the sockets that were not known, each with its process.
    fn reconcile(&mut self, now: Instant) -> io::Result<Vec<(SocketId, u32)>> {
        if self.sweep.is_some_and(|due| due <= now) {
            self.sweep = None;
            let trailing: HashSet<(Proto, u16)> =
                self.lingering.keys().map(|end| (end.proto, end.local.port())).collect();
            self.tables.sweep(|proto, port| trailing.contains(&(proto, port)))?;
        }
        let mut restored = Vec::new();
        if !std::mem::take(&mut self.is_doubtful) {
            return Ok(restored);
        }
        self.sweep = Some(now + LINGER);
        let Some(all) = self.tables.all()? else { return Ok(restored) };
        for id in self.ownership.sockets(|id, _| (!all.contains_key(&id)).then_some(id)) {
            self.gone(id)?;
        }
        for (id, socket) in all {
            if self.ownership.insert(id, socket) {
                self.lingering.remove(&socket.end);
                restored.push((id, socket.pid));
            }
        }
        Ok(restored)
    }

    fn next_seen(&mut self) -> Option<Seen> {
        self.backlog.pop_front().or_else(|| self.tables.seen())
    }

    /// A process is no worker, whatever it calls itself.
    fn refuse(&mut self, pid: u32, comm: &Comm) -> io::Result<()> {
        self.tables.ignore(pid, comm)?;
        let claimed: Vec<SocketId> =
            self.claimed.iter().filter(|(_, of)| **of == pid).map(|(&id, _)| id).collect();
        claimed.into_iter().try_for_each(|id| self.disown(id))
    }

    /// Processes that have ended, or are others under their numbers.
    fn dismiss_others(&mut self, workers: &[WorkerProcess]) -> io::Result<()> {
        let found: HashMap<u32, u64> = workers.iter().map(|it| (it.pid, it.started)).collect();
        let is_gone =
            |(pid, it): (&u32, &Admitted)| (found.get(pid) != Some(&it.started)).then_some(*pid);
        let gone: Vec<u32> = self.admitted.iter().filter_map(is_gone).collect();
        gone.into_iter().try_for_each(|pid| self.dismiss(pid))
    }

    fn dismiss(&mut self, pid: u32) -> io::Result<()> {
        for id in self.ownership.sockets(|id, socket| (socket.pid == pid).then_some(id)) {
            self.disown(id)?;
        }
        self.admitted.remove(&pid);
        self.tables.dismiss(pid)
    }

    /// True: it was not before.
    fn admit(&mut self, worker: &WorkerProcess, quota: u32) -> io::Result<bool> {
        let admitted = Admitted { started: worker.started, quota };
        if self.admitted.get(&worker.pid) == Some(&admitted) {
            return Ok(false);
        }
        if !self.tables.admit(worker.pid, quota)? {
            tracing::debug!("no room for worker {}", worker.pid);
            return Ok(false);
        }
        let is_new = self.admitted.insert(worker.pid, admitted).is_none();
        let of_it = |(id, of): (&SocketId, &u32)| (*of == worker.pid).then_some(*id);
        let claimed: Vec<SocketId> = self.claimed.iter().filter_map(of_it).collect();
        for id in claimed {
            // Without room among the others it stays where it is, and is owned all the same.
            self.tables.verify(id)?;
            self.claimed.remove(&id);
        }
        Ok(is_new)
    }

    /// Owns the sockets of workers that are not owned yet. `hints` are those that were just seen.
    fn adopt(&mut self, workers: &[WorkerProcess], hints: &Hints) -> io::Result<()> {
        let mut have: HashMap<Socket, u32> = HashMap::new();
        self.ownership.sockets(|_, socket| {
            *have.entry(as_proc_shows(socket)).or_default() += 1;
            None::<()>
        });
        let mut told = None;
        for worker in workers {
            if !self.admitted.contains_key(&worker.pid) {
                continue;
            }
            let mut groups: HashMap<Socket, Vec<&OpenSocket>> = HashMap::new();
            for open in &worker.open {
                let end = End::new(worker.cookie, open.proto, open.local);
                groups.entry(Socket { pid: worker.pid, end }).or_default().push(open);
            }
            let mut new = Vec::new();
            for (socket, opens) in groups {
                if have.get(&socket).is_some_and(|&have| have as usize >= opens.len()) {
                    continue;
                }
                let hinted = hints.get(&socket).filter(|hinted| hinted.len() == opens.len());
                for (at, open) in opens.into_iter().enumerate() {
                    let (id, end) = match hinted {
                        Some(hinted) => hinted[at],
                        None => self.identify(worker, open, socket.end, &mut told),
                    };
                    if self.own(id, Socket { end, ..socket })? {
                        new.push((id, open.number));
                    }
                }
            }
            self.drop_closed(worker, &new)?;
        }
        Ok(())
    }

    /// The kernel's cookie for a socket, if it can be had, and whether it takes IPv6 only.
    fn identify(
        &mut self,
        worker: &WorkerProcess,
        open: &OpenSocket,
        end: End,
        told: &mut Option<HashMap<u64, Kernels>>,
    ) -> (SocketId, End) {
        let is_seen = self.cookies.is_some();
        let told = told.get_or_insert_with(|| {
            let all = self.cookies.as_mut().map(Cookies::all);
            all.and_then(Result::ok).unwrap_or_default()
        });
        let found = match told.get(&open.number) {
            Some(&found) => Ok(found),
            // Where nobody sees sockets, the number that /proc shows will do.
            None if !is_seen && !end.may_take_both() => {
                return (SocketId::made_up(open.number), end);
            }
            None => cookies::of_socket_in(worker.pid, open.descriptor),
        };
        if let Err(error) = &found {
            tracing::debug!("the cookie of a socket of worker {}: {error}", worker.pid);
        }
        let id = match &found {
            Ok(found) if is_seen => SocketId::cookie(found.cookie),
            _ => SocketId::made_up(open.number),
        };
        (id, end.with_v6_only(found.is_ok_and(|found| found.is_v6_only)))
    }

    /// True: it is new.
    fn own(&mut self, id: SocketId, socket: Socket) -> io::Result<bool> {
        if !self.tables.own(id, &socket)? {
            if self.refused == 0 {
                tracing::warn!(
                    "no room for the sockets of worker {}: packets to some of its ports are not \
                     counted",
                    socket.pid
                );
            }
            self.refused += 1;
            return Ok(false);
        }
        self.lingering.remove(&socket.end);
        let is_new = self.ownership.insert(id, socket);
        if is_new {
            // The kernel may have owned it by its process' name, and could not tell.
            self.tables.verify(id)?;
        }
        Ok(is_new)
    }

    /// A socket that was closed between being found and being owned was not seen to be closed.
    fn drop_closed(&mut self, worker: &WorkerProcess, new: &[(SocketId, u64)]) -> io::Result<()> {
        if new.is_empty() {
            return Ok(());
        }
        let open = workers::open_sockets(worker.pid).unwrap_or_default();
        for (id, _) in new.iter().filter(|(_, number)| !open.contains(number)) {
            self.disown(*id)?;
        }
        Ok(())
    }

    /// Nobody sees a socket being closed that is known by a made-up number.
    fn drop_unseen(&mut self, workers: &[WorkerProcess]) -> io::Result<()> {
        let open = workers.iter().flat_map(|it| &it.open).map(|it| SocketId::made_up(it.number));
        let open: HashSet<SocketId> = open.collect();
        // Of those that there was no time to look at, nothing follows.
        let partly: HashSet<u32> =
            workers.iter().filter(|it| !it.is_whole).map(|it| it.pid).collect();
        let unseen = |id: SocketId, socket: &Socket| {
            id.is_made_up() && !open.contains(&id) && !partly.contains(&socket.pid)
        };
        for id in self.ownership.sockets(|id, socket| unseen(id, socket).then_some(id)) {
            self.disown(id)?;
        }
        Ok(())
    }

    fn disown(&mut self, id: SocketId) -> io::Result<()> {
        self.tables.disown(id)?;
        self.gone(id)
    }

    fn gone(&mut self, id: SocketId) -> io::Result<()> {
        self.claimed.remove(&id);
        let Some(Socket { end, .. }) = self.ownership.remove(id) else { return Ok(()) };
        self.lingering.insert(end, Instant::now());
        // Its place at the end goes to one that found none.
        for (id, socket) in self.ownership.sharers(&end, T::MOST_SHARERS) {
            self.tables.join(id, &socket)?;
        }
        Ok(())
    }

    fn close_lingering(&mut self, now: Instant) -> io::Result<()> {
        let is_over =
            |(end, since): (&End, &Instant)| (now.duration_since(*since) >= LINGER).then_some(*end);
        let over: Vec<End> = self.lingering.iter().filter_map(is_over).collect();
        for end in over {
            self.tables.close(&end)?;
            self.lingering.remove(&end);
        }
        Ok(())
    }

    fn warn_of_hidden(&mut self, workers: &[WorkerProcess]) {
        let hidden = workers.iter().filter(|it| it.sockets.is_none()).map(|it| it.pid);
        let hidden: HashSet<u32> = hidden.collect();
        if let Some(pid) = hidden.difference(&self.hidden).next()
            && self.hidden.is_empty()
        {
            tracing::warn!(
                "may not see which sockets worker {pid} has: packets to its ports are not counted; run \
                 as root, or with CAP_SYS_PTRACE, or name the ports with --ports"
            );
        }
        self.hidden = hidden;
    }
}

/// /proc does not show which sockets take IPv6 only.
fn as_proc_shows(socket: &Socket) -> Socket {
    Socket { end: socket.end.with_v6_only(false), ..*socket }
}

/// What each process of a user may own: one user's processes have no more than half of all room together.
fn quotas(workers: &[WorkerProcess], room: u32) -> HashMap<u32, u32> {
    let mut processes: HashMap<u32, u32> = HashMap::new();
    for worker in workers {
        *processes.entry(worker.uid).or_default() += 1;
    }
    let share = |count: u32| (room / 2 / count).min(MOST_OF_PROCESS);
    processes.into_iter().map(|(uid, count)| (uid, share(count))).collect()
}

/// So many a second, and as many at once.
#[derive(Debug)]
struct Tokens {
    left: f64,
    at: Instant,
}

impl Tokens {
    fn new(now: Instant) -> Self {
        Self { left: LOOKS_PER_SECOND.into(), at: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        let since = now.duration_since(self.at).as_secs_f64();
        let most = f64::from(LOOKS_PER_SECOND);
        (self.left, self.at) = ((self.left + since * most).min(most), now);
        let is_left = self.left >= 1.0;
        self.left -= f64::from(u8::from(is_left));
        is_left
    }
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
