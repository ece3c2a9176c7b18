//! Finds the `mediasoup-worker` processes of this host, the ports they were given and the addresses
//! they listen on, all from /proc.
//!
//! The parsers take text. Nothing here asks the workers themselves.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::Path;

use crate::model::{Proto, canonical};

/// The range of a worker that was given none.
pub const DEFAULT_PORTS: RangeInclusive<u16> = 10_000..=59_999;

/// Processes looked at, workers found, and sockets of one worker.
const MOST_PROCESSES: usize = 65_536;
const MOST_WORKERS: usize = 1024;
const MOST_SOCKETS: usize = 131_072;
/// Longest file that is read: 131,072 sockets of 180 bytes.
const MOST_BYTES: u64 = 24 << 20;

/// A running worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerProcess {
    /// Process id.
    pub pid: u32,
    /// `--rtcMinPort` and `--rtcMaxPort`, where the command line has both.
    pub ports: Option<RangeInclusive<u16>>,
    /// Ports that it has bound, whatever the command line says (a WebRtcServer may be outside of the
    /// range); empty where the right to see its descriptors is missing.
    pub bound: BTreeSet<u16>,
    /// Addresses that it listens on, each once; may hold unspecified addresses.
    pub listening: Vec<IpAddr>,
    /// Number of its network namespace; `None` where the right to see it is missing.
    pub namespace: Option<u64>,
    /// The addresses of its network namespace, if that is not this process'.
    pub foreign: Vec<IpAddr>,
}

/// Workers by process id. Processes that end meanwhile, or may not be looked into, are left out.
pub fn find() -> Vec<WorkerProcess> {
    find_below(Path::new("/proc"))
}

/// The range of ports that holds all workers' ports; `None` without a worker.
pub fn ports(workers: &[WorkerProcess]) -> Option<RangeInclusive<u16>> {
    let ranges = workers.iter().map(|worker| worker.ports.clone().unwrap_or(DEFAULT_PORTS));
    let bound = workers.iter().flat_map(|worker| worker.bound.iter().map(|&port| port..=port));
    ranges
        .chain(bound)
        .reduce(|one, other| *one.start().min(other.start())..=*one.end().max(other.end()))
}

fn find_below(proc: &Path) -> Vec<WorkerProcess> {
    let Ok(entries) = fs::read_dir(proc) else { return Vec::new() };
    let mut workers: Vec<WorkerProcess> = entries
        .take(MOST_PROCESSES)
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| look_at(proc, pid))
        .take(MOST_WORKERS)
        .collect();
    workers.sort_by_key(|worker| worker.pid);
    workers
}

fn look_at(proc: &Path, pid: u32) -> Option<WorkerProcess> {
    let directory = proc.join(pid.to_string());
    // Cut to 15 bytes by the kernel; cheap to read for each process of the host.
    if !read(&directory.join("comm")).ok()?.starts_with("mediasoup-worke") {
        return None;
    }
    let ports = port_range(&read(&directory.join("cmdline")).ok()?);
    let own = socket_inodes(&directory.join("fd"));
    let range = ports.clone().unwrap_or(DEFAULT_PORTS);
    let mut bound = BTreeSet::new();
    let mut listening = BTreeSet::new();
    for (file, proto) in
        [("udp", Proto::Udp), ("udp6", Proto::Udp), ("tcp", Proto::Tcp), ("tcp6", Proto::Tcp)]
    {
        let Ok(text) = read(&directory.join("net").join(file)) else { continue };
        for socket in socket_table(&text, proto).take(MOST_SOCKETS) {
            let port = socket.local.port();
            let of_worker = match &own {
                Some(own) => own.contains(&socket.inode),
                // Without the right to see whose socket it is, the range has to do.
                None => range.contains(&port),
            };
            if of_worker && socket.listens {
                listening.insert(socket.local.ip());
                if own.is_some() {
                    bound.insert(port);
                }
            }
        }
    }
    let namespace = namespace_of(&directory);
    let foreign = match (namespace, namespace_of(&proc.join("self"))) {
        (Some(one), Some(other)) if one != other => addresses(&directory),
        _ => Vec::new(),
    };
    Some(WorkerProcess {
        pid,
        ports,
        bound,
        listening: listening.into_iter().collect(),
        namespace,
        foreign,
    })
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

/// One line of /proc/PID/net/{udp,udp6,tcp,tcp6}.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketLine {
    /// This end, never IPv4-mapped.
    pub local: SocketAddr,
    /// The far end; port 0 where there is none.
    pub remote: SocketAddr,
    /// Takes what anybody sends: an unconnected UDP socket, or a TCP socket that listens.
    pub listens: bool,
    /// Bytes waiting to be sent.
    pub send_queue: u32,
    /// Bytes waiting to be read.
    pub receive_queue: u32,
    /// Number of the socket.
    pub inode: u64,
    /// Datagrams dropped for want of room (UDP only).
    pub drops: Option<u64>,
}

/// The lines of a socket table, without its heading and without what cannot be read.
pub fn socket_table(text: &str, proto: Proto) -> impl Iterator<Item = SocketLine> {
    text.lines().skip(1).filter_map(move |line| socket_line(line, proto))
}

fn socket_line(line: &str, proto: Proto) -> Option<SocketLine> {
    // sl local remote st tx:rx tr:when retransmits uid timeout inode ref pointer drops
    let mut words = line.split_ascii_whitespace().skip(1);
    let local = canonical(hex_address(words.next()?)?);
    let remote = canonical(hex_address(words.next()?)?);
    let state = u8::from_str_radix(words.next()?, 16).ok()?;
    let (send, receive) = words.next()?.split_once(':')?;
    let inode = words.nth(4)?.parse().ok()?;
    let drops = match proto {
        Proto::Udp => words.nth(2).and_then(|word| word.parse().ok()),
        Proto::Tcp => None,
    };
    // TCP_LISTEN; an unconnected UDP socket has the number of TCP_CLOSE.
    let listens = state == if proto == Proto::Tcp { 10 } else { 7 };
    Some(SocketLine {
        local,
        remote,
        listens,
        send_queue: u32::from_str_radix(send, 16).ok()?,
        receive_queue: u32::from_str_radix(receive, 16).ok()?,
        inode,
        drops,
    })
}

/// `0100007F:1F90`: words of 32 bits in host order, the port as a number.
fn hex_address(word: &str) -> Option<SocketAddr> {
    let (address, port) = word.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok();
    let ip: IpAddr = match address.len() {
        8 => Ipv4Addr::from(word(0)?.to_ne_bytes()).into(),
        32 => {
            let mut octets = [0; 16];
            for at in 0..4 {
                octets[at * 4..at * 4 + 4].copy_from_slice(&word(at)?.to_ne_bytes());
            }
            Ipv6Addr::from(octets).into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Numbers of the sockets that a process has open; `None` without the right to see them.
fn socket_inodes(directory: &Path) -> Option<HashSet<u64>> {
    let entries = fs::read_dir(directory).ok()?;
    let links =
        entries.take(MOST_SOCKETS).filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    Some(links.filter_map(|link| socket_inode(link.to_str()?)).collect())
}

fn socket_inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

fn namespace_of(directory: &Path) -> Option<u64> {
    let link = fs::read_link(directory.join("ns/net")).ok()?;
    link.to_str()?.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

fn addresses(directory: &Path) -> Vec<IpAddr> {
    let v4 = read(&directory.join("net/fib_trie")).unwrap_or_default();
    let v6 = read(&directory.join("net/if_inet6")).unwrap_or_default();
    let all: BTreeSet<IpAddr> = local_ipv4(&v4)
        .map(IpAddr::from)
        .chain(local_ipv6(&v6).map(IpAddr::from))
        .filter(|address| !address.is_loopback())
        .collect();
    all.into_iter().collect()
}

/// Local addresses of /proc/net/fib_trie: an address' line, then `/32 host LOCAL` below it.
fn local_ipv4(text: &str) -> impl Iterator<Item = Ipv4Addr> {
    let mut last = None;
    text.lines().filter_map(move |line| {
        if let Some(address) = line.trim_start().strip_prefix("|-- ") {
            last = address.trim().parse().ok();
        }
        line.trim().starts_with("/32 host LOCAL").then_some(last).flatten()
    })
}

/// Addresses of /proc/net/if_inet6: 32 hexadecimal digits at the beginning of each line.
fn local_ipv6(text: &str) -> impl Iterator<Item = Ipv6Addr> {
    text.lines().filter_map(|line| {
        let digits = line.split_ascii_whitespace().next()?;
        (digits.len() == 32).then(|| u128::from_str_radix(digits, 16).ok())?.map(Ipv6Addr::from)
    })
}

/// The beginning of a file of /proc, as text.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MOST_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn several_workers_share_one_range() {
        let worker = |ports, bound: &[u16]| WorkerProcess {
            pid: 1,
            ports,
            bound: bound.iter().copied().collect(),
            listening: vec![],
            namespace: None,
            foreign: vec![],
        };
        assert_eq!(ports(&[]), None);
        assert_eq!(ports(&[worker(None, &[])]), Some(DEFAULT_PORTS));
        let two = [worker(Some(40_000..=41_000), &[]), worker(Some(45_000..=46_000), &[44_444, 3])];
        assert_eq!(ports(&two), Some(3..=46_000));
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn socket_tables_are_read() {
        let udp = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
 1024: 0100007F:9C40 00000000:0000 07 00000000:00000300 00:00000000 00000000  1000        0 12345 2 0000000000000000 17
 1025: 0101A8C0:9C41 0201A8C0:1389 01 00000010:00000000 00:00000000 00000000  1000        0 12346 2 0000000000000000 0
 garbage
";
        let rows: Vec<SocketLine> = socket_table(udp, Proto::Udp).collect();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].local, "127.0.0.1:40000".parse().unwrap());
        assert!(rows[0].listens && !rows[1].listens);
        assert_eq!((rows[0].inode, rows[0].drops, rows[0].receive_queue), (12345, Some(17), 0x300));
        assert_eq!((rows[1].remote, rows[1].send_queue), ("192.168.1.2:5001".parse().unwrap(), 16));

        let tcp = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0000000000000000FFFF00000100007F:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 777 1 0000000000000000 100 0 0 10 0
   1: B80D0120000000000000000001000000:9C40 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 778 1 0000000000000000 100 0 0 10 0
";
        let rows: Vec<SocketLine> = socket_table(tcp, Proto::Tcp).collect();
        assert_eq!(rows[0].local, "127.0.0.1:8080".parse().unwrap());
        assert_eq!(rows[1].local, "[2001:db8::1]:40000".parse().unwrap());
        assert!(rows[1].listens && rows[1].drops.is_none());
    }

    #[test]
    fn a_namespaces_own_addresses_are_read() {
        let trie = "Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 172.17.0.0/16 2 0 2
        |-- 172.17.0.0
           /16 link UNICAST
        |-- 172.17.0.2
           /32 host LOCAL
        |-- 172.17.255.255
           /32 link BROADCAST
";
        let found: Vec<Ipv4Addr> = local_ipv4(trie).collect();
        assert_eq!(found, [Ipv4Addr::new(172, 17, 0, 2)]);
        let inet6 = "fe800000000000000042acfffe110002 06 40 20 80     eth0\nshort\n";
        let found: Vec<Ipv6Addr> = local_ipv6(inet6).collect();
        assert_eq!(found, ["fe80::42:acff:fe11:2".parse::<Ipv6Addr>().unwrap()]);
    }

    #[test]
    fn links_of_descriptors_name_sockets() {
        let check = |link, expected| assert_eq!(socket_inode(link), expected);
        check("socket:[4711]", Some(4711));
        check("pipe:[4711]", None);
        check("/dev/null", None);
    }
}
