use std::collections::BTreeMap;

use super::*;
use crate::host::namespaces::NamespaceCookie;
use crate::host::recognise::Evidence;
use crate::model::Proto;

const HERE: NamespaceCookie = NamespaceCookie(1);

/// Tables that hold what they are told, as the kernel's do.
#[derive(Default)]
struct Told {
    admitted: BTreeMap<u32, u32>,
    ignored: Vec<u32>,
    owned: BTreeMap<SocketId, Socket>,
    verified: Vec<SocketId>,
    joined: Vec<SocketId>,
    /// Ports.
    swept: usize,
    closed: Vec<End>,
    seen: VecDeque<Seen>,
    lost: u64,
}

impl OwnedTables for Told {
    const MOST_SOCKETS: u32 = 1000;
    const MOST_SHARERS: usize = 2;

    fn admit(&mut self, pid: u32, quota: u32) -> io::Result<bool> {
        self.admitted.insert(pid, quota);
        Ok(true)
    }

    fn dismiss(&mut self, pid: u32) -> io::Result<()> {
        self.admitted.remove(&pid);
        Ok(())
    }

    fn ignore(&mut self, pid: u32, _: &Comm) -> io::Result<()> {
        self.ignored.push(pid);
        Ok(())
    }

    fn own(&mut self, id: SocketId, socket: &Socket) -> io::Result<bool> {
        self.owned.insert(id, *socket);
        Ok(true)
    }

    fn join(&mut self, id: SocketId, _: &Socket) -> io::Result<()> {
        self.joined.push(id);
        Ok(())
    }

    fn disown(&mut self, id: SocketId) -> io::Result<()> {
        self.owned.remove(&id);
        Ok(())
    }

    fn verify(&mut self, id: SocketId) -> io::Result<bool> {
        self.verified.push(id);
        Ok(true)
    }

    fn close(&mut self, end: &End) -> io::Result<()> {
        self.closed.push(*end);
        Ok(())
    }

    fn all(&mut self) -> io::Result<Option<HashMap<SocketId, Socket>>> {
        Ok(Some(self.owned.iter().map(|(&id, &socket)| (id, socket)).collect()))
    }

    fn sweep(&mut self, is_kept: impl Fn(Proto, u16) -> bool) -> io::Result<()> {
        self.swept = (1..=u16::MAX).filter(|&port| !is_kept(Proto::Udp, port)).count();
        Ok(())
    }

    fn seen(&mut self) -> Option<Seen> {
        self.seen.pop_front()
    }

    fn lost(&self) -> u64 {
        self.lost
    }
}

fn keeper() -> Keeper<Told> {
    Keeper::new(Told::default(), Arc::default(), Arc::default(), None)
}

fn worker(pid: u32, uid: u32, open: &[(u64, &str)]) -> WorkerProcess {
    let socket = |&(number, local): &(u64, &str)| OpenSocket {
        number,
        descriptor: 3,
        proto: Proto::Udp,
        local: local.parse().unwrap(),
    };
    WorkerProcess {
        pid,
        started: 1,
        evidence: Evidence::Executable,
        uid,
        ancestors: Vec::new(),
        inner_pid: pid,
        ports: None,
        sockets: Some(Arc::default()),
        open: open.iter().map(socket).collect(),
        is_whole: true,
        bound: Default::default(),
        listening: Vec::new(),
        namespace: Some(1),
        mounts: None,
        cookie: HERE,
        foreign: None,
    }
}

fn end(local: &str) -> End {
    End::new(HERE, Proto::Udp, local.parse().unwrap())
}

fn seen(cookie: u64, pid: u32, local: &str, happened: Happened) -> Seen {
    let socket = Socket { pid, end: end(local) };
    Seen { id: SocketId::cookie(cookie), socket, comm: [0; 16], happened }
}

/// A process that there is not: numbers are smaller than 4 million.
const NOBODY: u32 = 1 << 30;

#[test]
fn who_only_calls_himself_a_worker_loses_his_sockets() {
    let mut keeper = keeper();
    keeper.tables.seen.extend([
        seen(1, NOBODY, "0.0.0.0:443", Happened::Owned),
        seen(2, NOBODY + 1, "0.0.0.0:444", Happened::Bound),
    ]);
    keeper.hear_all().unwrap();
    keeper.tables.ignored.sort_unstable();
    assert_eq!(keeper.tables.ignored, [NOBODY, NOBODY + 1]);
    assert!(keeper.tables.owned.is_empty() && keeper.claimed.is_empty());
    assert_eq!(keeper.ownership.owner(HERE, Proto::Udp, 443), None);
}

#[test]
fn a_worker_keeps_what_it_bound_before_it_was_known() {
    let mut keeper = keeper();
    let socket = Socket { pid: 7, end: end("0.0.0.0:443") };
    keeper.ownership.insert(SocketId::cookie(1), socket);
    keeper.claimed.insert(SocketId::cookie(1), 7);
    keeper.claimed.insert(SocketId::cookie(2), 8);
    assert!(keeper.admit(&worker(7, 0, &[]), 100).unwrap());
    assert!(!keeper.admit(&worker(7, 0, &[]), 100).unwrap());
    assert_eq!(keeper.tables.verified, [SocketId::cookie(1)]);
    assert_eq!(keeper.tables.admitted, BTreeMap::from([(7, 100)]));
    assert_eq!(keeper.claimed.len(), 1);
}

#[test]
fn what_ended_is_closed_when_nothing_trails_any_more() {
    let mut keeper = keeper();
    let now = Instant::now();
    keeper.ownership.insert(SocketId::cookie(1), Socket { pid: 7, end: end("0.0.0.0:443") });
    keeper.tables.seen.push_back(seen(1, 7, "0.0.0.0:443", Happened::Released));
    keeper.hear_all().unwrap();
    keeper.close_lingering(now + LINGER / 2).unwrap();
    assert!(keeper.tables.closed.is_empty());
    keeper.close_lingering(now + 2 * LINGER).unwrap();
    assert_eq!(keeper.tables.closed, [end("0.0.0.0:443")]);
    assert!(keeper.lingering.is_empty());
}

#[test]
fn a_number_that_became_another_process_is_dismissed() {
    let mut keeper = keeper();
    keeper.admit(&worker(7, 0, &[]), 100).unwrap();
    let socket = Socket { pid: 7, end: end("0.0.0.0:443") };
    keeper.ownership.insert(SocketId::cookie(1), socket);
    keeper.tables.owned.insert(SocketId::cookie(1), socket);
    keeper.dismiss_others(&[worker(7, 0, &[])]).unwrap();
    assert_eq!(keeper.tables.admitted.len(), 1);
    keeper.dismiss_others(&[WorkerProcess { started: 2, ..worker(7, 0, &[]) }]).unwrap();
    assert!(keeper.tables.admitted.is_empty() && keeper.tables.owned.is_empty());
    assert_eq!(keeper.ownership.owner(HERE, Proto::Udp, 443), None);
}

#[test]
fn by_looking_only_sockets_come_and_go_with_their_numbers() {
    let mut keeper = keeper();
    let before = [worker(7, 0, &[(11, "0.0.0.0:443"), (12, "0.0.0.0:444")])];
    keeper.admit(&before[0], 100).unwrap();
    // Nobody has this process, so nothing that is found is still open.
    let mut keep = |workers: &[WorkerProcess]| {
        keeper.drop_unseen(workers).unwrap();
        for worker in workers {
            for open in &worker.open {
                let end = End::new(worker.cookie, open.proto, open.local);
                let socket = Socket { pid: worker.pid, end };
                keeper.own(SocketId::made_up(open.number), socket).unwrap();
            }
        }
        keeper.tables.owned.keys().copied().collect::<Vec<_>>()
    };
    assert_eq!(keep(&before), [SocketId::made_up(11), SocketId::made_up(12)]);
    let after = [worker(7, 0, &[(12, "0.0.0.0:444"), (13, "0.0.0.0:445")])];
    assert_eq!(keep(&after), [SocketId::made_up(12), SocketId::made_up(13)]);
}

#[test]
fn nobodys_processes_have_more_than_half_of_the_room() {
    let workers: Vec<WorkerProcess> =
        (1..=5).map(|pid| worker(pid, if pid == 1 { 0 } else { 1000 }, &[])).collect();
    assert_eq!(quotas(&workers, 1000), HashMap::from([(0, 500), (1000, 125)]));
    assert_eq!(quotas(&workers[..1], 1 << 20), HashMap::from([(0, MOST_OF_PROCESS)]));
}

#[test]
fn what_was_lost_asks_for_a_look() {
    let mut keeper = keeper();
    assert!(keeper.hear_all().unwrap());
    keeper.tables.lost = 3;
    assert!(!keeper.hear_all().unwrap());
    assert!(keeper.hear_all().unwrap());
}

#[test]
fn processes_that_bind_are_looked_into_so_often_only() {
    let start = Instant::now();
    let mut tokens = Tokens::new(start);
    let mut taken = |at| (0..1000).filter(|_| tokens.take(at)).count();
    assert_eq!(taken(start), LOOKS_PER_SECOND as usize);
    assert_eq!(taken(start + Duration::from_millis(500)), LOOKS_PER_SECOND as usize / 2);
    assert_eq!(taken(start + Duration::from_secs(60)), LOOKS_PER_SECOND as usize);
}

/// The ring had no room: what happened to sockets meanwhile is read from the tables.
#[test]
fn what_was_lost_is_set_right() {
    let mut keeper = keeper();
    let known = worker(4711, 0, &[]);
    keeper.admit(&known, 100).unwrap();
    let socket = |pid, port: u16| Socket { pid, end: end(&format!("192.0.2.1:{port}")) };
    let (closed, stays, bound, nobodys) =
        (SocketId::cookie(1), SocketId::cookie(2), SocketId::cookie(3), SocketId::cookie(4));
    for (id, port) in [(closed, 1000), (stays, 1001)] {
        assert!(keeper.own(id, socket(4711, port)).unwrap());
    }
    keeper.tables.owned.remove(&closed);
    keeper.tables.owned.insert(bound, socket(4711, 1002));
    keeper.tables.owned.insert(nobodys, socket(4712, 1003));
    keeper.tables.lost += 4;
    assert!(!keeper.hear_all().unwrap());
    let now = Instant::now();
    let mut restored = keeper.reconcile(now).unwrap();
    restored.sort();
    assert_eq!(restored, [(bound, 4711), (nobodys, 4712)]);
    let mut ids = keeper.ownership.sockets(|id, _| Some(id));
    ids.sort();
    assert_eq!(ids, [stays, bound, nobodys]);
    assert!(keeper.lingering.contains_key(&socket(4711, 1000).end));
    // Once nothing trails any more, all ports but those that do are looked through.
    assert_eq!(keeper.tables.swept, 0);
    assert!(keeper.reconcile(now + LINGER).unwrap().is_empty());
    assert_eq!(keeper.tables.swept, usize::from(u16::MAX) - 1);
    keeper.tables.swept = 0;
    keeper.reconcile(now + LINGER).unwrap();
    assert_eq!(keeper.tables.swept, 0, "once");
}
