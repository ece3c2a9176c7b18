//! What the kernel knows of the SFU's sockets: drops, queues, and TCP's round trip times.
//!
//! Asked by netlink `sock_diag` in this process' network namespace and, where that is permitted, in
//! the workers' own; where it is not, /proc of a worker tells queues and drops of its namespace. Only
//! sockets that a worker has open are told of, and of TCP's those that listen or have a far end that
//! answered: what strangers begin and others do makes no series.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, Instant};

use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{
    ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags,
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use crate::host::netlink::{Client, needs};
use crate::host::procfs::{self, SocketLine};
use crate::host::workers::{self, WorkerProcess};
use crate::model::{Proto, SocketStats, TcpStats, canonical};

/// For what one scrape reads of sockets from /proc.
const FOR_TABLES: Duration = Duration::from_secs(1);
/// Sockets reported at most.
const MOST: usize = 262_144;
/// Rows looked at in one namespace: a busy host has many sockets that are not the SFU's.
const MOST_ROWS: usize = 1 << 20;

/// The workers' sockets, in all their network namespaces. `ports` is the operator's word for where they
/// are, and is taken where it may not be seen which sockets a worker has.
pub fn read(
    workers: &[WorkerProcess],
    ports: Option<&RangeInclusive<u16>>,
) -> io::Result<Vec<SocketStats>> {
    let until = Instant::now() + FOR_TABLES;
    let mut found = Found { sockets: Vec::new(), wanted: Wanted::default(), until, is_whole: true };
    // This host's first: there sock_diag needs no right.
    let mut by_namespace: BTreeMap<Option<u64>, Vec<&WorkerProcess>> = BTreeMap::new();
    for worker in workers {
        let elsewhere = worker.namespace.filter(|_| worker.foreign.is_some());
        by_namespace.entry(elsewhere).or_default().push(worker);
    }
    // Where time may run out, root's come first, and then those that were there before.
    let mut by_namespace: Vec<_> = by_namespace.into_iter().collect();
    by_namespace.sort_by_key(|(namespace, workers)| {
        let first = workers.iter().map(|worker| (worker.uid != 0, worker.started)).min();
        (namespace.is_some(), first)
    });
    for (namespace, workers) in by_namespace {
        found.wanted = Wanted::of(&workers, ports);
        // One worker is enough to find the way.
        let Some(pid) = workers.first().map(|worker| worker.pid) else { continue };
        let directory = PathBuf::from(format!("/proc/{pid}"));
        if namespace.is_none() {
            of_this_host(&directory, &mut found)?;
            continue;
        }
        let asked = client_in(&directory.join("ns/net"))
            .and_then(|mut client| diagnose(&mut client, &mut found));
        if let Err(error) = asked {
            tracing::debug!("sock_diag in the network namespace of worker {pid}: {error}");
            from_proc(&directory, &mut found);
        }
    }
    static WARNED: Once = Once::new();
    if !found.is_whole {
        WARNED.call_once(|| {
            tracing::warn!(
                "too many sockets to be looked at in time: queues and drops of some workers' sockets are missing"
            );
        });
    }
    Ok(found.sockets)
}

fn of_this_host(worker: &Path, found: &mut Found) -> io::Result<()> {
    static WARNED: Once = Once::new();
    let asked = Client::new(NETLINK_SOCK_DIAG).and_then(|mut client| diagnose(&mut client, found));
    match asked.map_err(|error| needs(error, "udp_diag tcp_diag")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            WARNED.call_once(|| {
                tracing::warn!(
                    "ask for sockets: {error}; until then queues and drops come from /proc, and there are no round \
                     trip times"
                );
            });
            from_proc(worker, found);
            Ok(())
        }
        asked => asked,
    }
}

/// Which sockets of a network namespace are the SFU's.
#[derive(Default)]
struct Wanted {
    inodes: HashSet<u64>,
    ports: Option<RangeInclusive<u16>>,
}

impl Wanted {
    /// What the workers have open at this moment.
    fn of(workers: &[&WorkerProcess], ports: Option<&RangeInclusive<u16>>) -> Self {
        let mut wanted = Self::default();
        for worker in workers {
            match workers::open_sockets(worker.pid) {
                Some(inodes) => wanted.inodes.extend(inodes),
                None => wanted.ports = ports.cloned(),
            }
        }
        wanted
    }

    /// Half-open connections and those that are over have no number.
    fn has(&self, inode: u64, port: u16) -> bool {
        let in_range = self.ports.as_ref().is_some_and(|ports| ports.contains(&port));
        inode != 0 && (self.inodes.contains(&inode) || in_range)
    }
}

struct Found {
    sockets: Vec<SocketStats>,
    wanted: Wanted,
    /// What has to be read from /proc has to be by then.
    until: Instant,
    /// There was time for all of it.
    is_whole: bool,
}

/// All of a network namespace's sockets that are wanted, or none.
fn diagnose(client: &mut Client, found: &mut Found) -> io::Result<()> {
    let before = found.sockets.len();
    let asked = ask(client, found);
    if asked.is_err() {
        found.sockets.truncate(before);
    }
    asked
}

fn ask(client: &mut Client, found: &mut Found) -> io::Result<()> {
    // An unconnected UDP socket has the state that a closed TCP connection would have.
    let of_udp = || StateFlags::ESTABLISHED | StateFlags::CLOSE;
    let of_tcp = || StateFlags::ESTABLISHED | StateFlags::LISTEN;
    for (family, any) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        for (protocol, proto, states) in
            [(IPPROTO_UDP, Proto::Udp, of_udp()), (IPPROTO_TCP, Proto::Tcp, of_tcp())]
        {
            let question = InetRequest {
                family,
                protocol,
                extensions: ExtensionFlags::SKMEMINFO | ExtensionFlags::INFO,
                states,
                socket_id: any.clone(),
            };
            client.dump(SockDiagMessage::InetRequest(question), MOST_ROWS, |row| {
                let SockDiagMessage::InetResponse(row) = row else { return };
                let (inode, port) = (row.header.inode.into(), row.header.socket_id.source_port);
                if port != 0 && found.wanted.has(inode, port) && found.sockets.len() < MOST {
                    found.sockets.push(socket(&row, proto));
                }
            })?;
        }
    }
    Ok(())
}

fn socket(row: &InetResponse, proto: Proto) -> SocketStats {
    let id = &row.header.socket_id;
    let mut stats = SocketStats {
        proto,
        local: canonical(SocketAddr::new(id.source_address, id.source_port)),
        remote: remote(id.destination_address, id.destination_port),
        drops: 0,
        receive_queue_bytes: row.header.recv_queue.into(),
        send_queue_bytes: row.header.send_queue.into(),
        tcp: None,
    };
    for attribute in &row.nlas {
        match attribute {
            Nla::MemInfo(memory) => {
                stats.drops = memory.drops.into();
                stats.receive_queue_bytes = memory.receive_queue.into();
                stats.send_queue_bytes = memory.bottom_send_queues.into();
            }
            Nla::TcpInfo(bytes) if stats.remote.is_some() => stats.tcp = tcp_info(bytes),
            _ => {}
        }
    }
    stats
}

/// `tcpi_rtt` and `tcpi_total_retrans` of `struct tcp_info` (include/uapi/linux/tcp.h), which only
/// ever grows at its end.
fn tcp_info(bytes: &[u8]) -> Option<TcpStats> {
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    Some(TcpStats { round_trip_time_us: word(68)?, retransmits: word(100)?.into() })
}

fn remote(address: IpAddr, port: u16) -> Option<SocketAddr> {
    (port != 0).then(|| canonical(SocketAddr::new(address, port)))
}

/// A client within another network namespace: sockets belong to the namespace that their thread was
/// in, so a thread goes there and comes to its end.
fn client_in(namespace: &Path) -> io::Result<Client> {
    let file = std::fs::File::open(namespace)?;
    let enter = move || {
        // SAFETY: setns takes a descriptor that is open, and changes this thread only.
        match unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } {
            0 => Client::new(NETLINK_SOCK_DIAG),
            _ => Err(io::Error::last_os_error()),
        }
    };
    let thread = std::thread::Builder::new().name("netns".into()).spawn(enter)?;
    thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
}

fn from_proc(directory: &Path, found: &mut Found) {
    let is_wanted = |line: &SocketLine| {
        let is_told = line.listens || line.is_established;
        is_told && found.wanted.has(line.inode, line.local.port())
    };
    let (lines, is_whole) = procfs::sockets(directory, MOST, found.until);
    found.is_whole &= is_whole;
    let wanted = lines.into_iter().filter(is_wanted);
    let room = MOST.saturating_sub(found.sockets.len());
    found.sockets.extend(wanted.take(room).map(|line| SocketStats {
        proto: line.proto,
        local: line.local,
        remote: remote(line.remote.ip(), line.remote.port()),
        drops: line.drops.unwrap_or(0),
        receive_queue_bytes: line.receive_queue.into(),
        send_queue_bytes: line.send_queue.into(),
        tcp: None,
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::workers::Workers;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::process::{Child, Command, Stdio};

    /// This process, as if the operator had named it with `--sfu`.
    fn this_process() -> Vec<WorkerProcess> {
        let name = std::env::current_exe().unwrap();
        let workers = Workers::new(&[globset::escape(name.to_str().unwrap())]).unwrap();
        let mut found = workers.look().to_vec();
        found.retain(|worker| worker.pid == std::process::id());
        assert_eq!(found.len(), 1);
        found
    }

    /// Needs no rights: sock_diag answers everybody.
    #[test]
    fn real_sockets_are_told() {
        let at = |address: SocketAddr, proto: Proto| {
            let mut found = read(&this_process(), None).unwrap();
            found.retain(|socket| (socket.local, socket.proto) == (address, proto));
            found
        };
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = udp.local_addr().unwrap();
        udp.send_to(&[0; 100], address).unwrap();
        let found = at(address, Proto::Udp);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].remote, None);
        assert!(found[0].receive_queue_bytes >= 100 && found[0].tcp.is_none());

        let listener = TcpListener::bind("[::1]:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        client.write_all(b"hello").unwrap();
        let found = at(address, Proto::Tcp);
        let connected = found.iter().find(|socket| socket.remote.is_some()).unwrap();
        assert_eq!(connected.remote, Some(accepted.peer_addr().unwrap()));
        assert!(connected.tcp.is_some_and(|tcp| tcp.round_trip_time_us > 0));
        assert!(found.iter().any(|socket| socket.remote.is_none() && socket.tcp.is_none()));
    }

    /// Another program's connections, and those that nobody has accepted yet, are no worker's.
    #[test]
    fn others_sockets_are_not_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut other = Other::connect(address);
        let (accepted, far) = listener.accept().unwrap();
        let waiting = Other::connect(address);
        let told = |workers: &[WorkerProcess], ports: Option<&RangeInclusive<u16>>| {
            let mut found = read(workers, ports).unwrap();
            found.retain(|it| it.proto == Proto::Tcp && [it.local, far].contains(&address));
            found.into_iter().map(|it| it.remote).collect::<Vec<_>>()
        };
        let mut of_this = told(&this_process(), None);
        of_this.sort();
        assert_eq!(of_this, [None, Some(far)]);
        // Both ends are over, one of them waits for what may still be on its way.
        drop(accepted);
        other.end();
        drop(waiting);
        assert_eq!(told(&this_process(), None), [None]);
        // Not even a range of ports helps to connections without an owner.
        let port = address.port();
        assert_eq!(told(&this_process(), Some(&(port..=port))), [None]);
        assert_eq!(told(&[], None), []);
    }

    /// A program that has one connection.
    struct Other(Child);

    impl Other {
        fn connect(to: SocketAddr) -> Self {
            let script = format!("exec 3<>/dev/tcp/{}/{}; echo; read x", to.ip(), to.port());
            let mut command = Command::new("bash");
            command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.spawn().unwrap();
            let mut line = [0];
            std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
            Self(child)
        }

        fn end(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    impl Drop for Other {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_short_tcp_info_of_an_old_kernel_is_no_answer() {
        assert_eq!(tcp_info(&[0; 100]), None);
        let mut bytes = [0; 104];
        bytes[68..72].copy_from_slice(&1234_u32.to_ne_bytes());
        bytes[100] = 7;
        let expected = TcpStats { round_trip_time_us: 1234, retransmits: 7 };
        assert_eq!(tcp_info(&bytes), Some(expected));
    }
}
