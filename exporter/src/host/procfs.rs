//! What the files of /proc say, and reading them within bounds.
//!
//! The parsers take text and know no file; only [`read`] and its like touch the disk.

use std::fs;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Instant;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::model::{Proto, canonical};

/// Longest file that is read: 131,072 sockets of 180 bytes.
const MOST_BYTES: u64 = 24 << 20;

/// The beginning of a file, as text.
pub fn read(path: &Path) -> io::Result<String> {
    read_at_most(path, MOST_BYTES)
}

/// The beginning of a file, up to so many bytes.
pub fn read_at_most(path: &Path, bytes: u64) -> io::Result<String> {
    let mut content = Vec::new();
    fs::File::open(path)?.take(bytes).read_to_end(&mut content)?;
    Ok(String::from_utf8_lossy(&content).into_owned())
}

/// Where file systems of this kind are mounted, by /proc/PID/mounts: `cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0`.
pub fn mounted<'a>(mounts: &'a str, kind: &str) -> impl Iterator<Item = &'a str> {
    mounts.lines().filter_map(move |line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let path = words.next()?;
        (words.next()? == kind).then_some(path)
    })
}

/// What a process is, by /proc/PID/stat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Its name, at most 15 bytes; of its own choice.
    pub comm: String,
    /// Its parent.
    pub parent: u32,
    /// When it started, in clock ticks since the host did. With its number it names one process for
    /// ever.
    pub started: u64,
    /// Where the kernel put its program's code and stack: elsewhere with each `exec`. Zeros where the right to
    /// see that is missing.
    pub image: [u64; 2],
}

impl Stat {
    /// The name is in parentheses and may hold some itself.
    pub fn parse(text: &str) -> Option<Self> {
        let (head, tail) = text.rsplit_once(')')?;
        let comm = head.split_once('(')?.1.to_owned();
        // state parent …; the start is the file's 22nd word, the code's the 26th, the stack's the 28th.
        let mut words = tail.split_ascii_whitespace();
        let parent = words.nth(1)?.parse().ok()?;
        let started = words.nth(17)?.parse().ok()?;
        let mut number = |skip| words.nth(skip).and_then(|word| word.parse().ok()).unwrap_or(0);
        let image = [number(3), number(1)];
        Some(Self { comm, parent, started, image })
    }
}

/// What /proc/PID/status tells besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Effective user.
    pub uid: u32,
    /// Its number in its own process namespace.
    pub inner_pid: u32,
}

impl Identity {
    /// From the file's lines.
    pub fn parse(text: &str) -> Option<Self> {
        let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        let uid = line("Uid:")?.split_ascii_whitespace().nth(1)?.parse().ok()?;
        let inner_pid = line("NSpid:")?.split_ascii_whitespace().next_back()?.parse().ok()?;
        Some(Self { uid, inner_pid })
    }
}

/// One line of /proc/PID/net/{udp,udp6,tcp,tcp6}.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketLine {
    /// Protocol of the table.
    pub proto: Proto,
    /// This end, never IPv4-mapped.
    pub local: SocketAddr,
    /// The far end; port 0 where there is none.
    pub remote: SocketAddr,
    /// Takes what anybody sends: an unconnected UDP socket, or a TCP socket that listens.
    pub listens: bool,
    /// Has a far end that answered: a connected UDP socket, or an established TCP connection.
    pub is_established: bool,
    /// Bytes waiting to be sent.
    pub send_queue: u32,
    /// Bytes waiting to be read.
    pub receive_queue: u32,
    /// Number of the socket.
    pub inode: u64,
    /// Datagrams dropped for want of room (UDP only).
    pub drops: Option<u64>,
}

/// All sockets of the network namespace of a process, at most so many of each table. False: there was not the time
/// to read all. The kernel walks its table of all namespaces' UDP sockets from the beginning for each page of such a
/// file, so that whoever has many sockets makes this long, in whatever namespace.
pub fn sockets(process: &Path, most: usize, until: Instant) -> (Vec<SocketLine>, bool) {
    let tables =
        [("udp", Proto::Udp), ("udp6", Proto::Udp), ("tcp", Proto::Tcp), ("tcp6", Proto::Tcp)];
    let (mut sockets, mut is_whole) = (Vec::new(), true);
    for (file, proto) in tables {
        if let Ok((text, is_all)) = read_until(&process.join("net").join(file), until) {
            sockets.extend(socket_table(&text, proto).take(most));
            is_whole &= is_all;
        }
    }
    (sockets, is_whole)
}

/// The beginning of a file, as much as there is time for, and whether that is all.
fn read_until(path: &Path, until: Instant) -> io::Result<(String, bool)> {
    let mut file = fs::File::open(path)?;
    let (mut content, mut page) = (Vec::new(), [0; 16 << 10]);
    loop {
        let length = file.read(&mut page)?;
        content.extend_from_slice(&page[..length]);
        let is_all = length == 0;
        if is_all || content.len() as u64 >= MOST_BYTES || Instant::now() >= until {
            // A line may be cut off; none of its words that matter is read then.
            return Ok((String::from_utf8_lossy(&content).into_owned(), is_all));
        }
    }
}

/// The lines of a socket table, without its heading and without what cannot be read.
pub fn socket_table(text: &str, proto: Proto) -> impl Iterator<Item = SocketLine> {
    text.lines().skip(1).filter_map(move |line| socket_line(line, proto))
}

fn socket_line(line: &str, proto: Proto) -> Option<SocketLine> {
    /// include/net/tcp_states.h; an unconnected UDP socket has the number of TCP_CLOSE.
    const ESTABLISHED: u8 = 1;
    const CLOSE: u8 = 7;
    const LISTEN: u8 = 10;
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
    Some(SocketLine {
        proto,
        local,
        remote,
        listens: state == if proto == Proto::Tcp { LISTEN } else { CLOSE },
        is_established: state == ESTABLISHED,
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

/// `socket:[4711]`, which a descriptor of a socket leads to.
pub fn socket_inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// The number of a namespace (`net`, `mnt`, `user`) of a process; `None` without the right to see it.
pub fn namespace(process: &Path, kind: &str) -> Option<u64> {
    let link = fs::read_link(process.join("ns").join(kind)).ok()?;
    link.to_str()?.split_once(":[")?.1.strip_suffix(']')?.parse().ok()
}

/// Whether this process has the host's process numbers and sees all of its cgroups. The first namespace of
/// each kind has a number that never changes (`PROC_PID_INIT_INO` and its like in the kernel).
pub fn is_in_first_namespaces() -> bool {
    const FIRST: [(&str, u64); 2] = [("pid", 0xeffffffc), ("cgroup", 0xeffffffb)];
    FIRST.iter().all(|(kind, number)| namespace(Path::new("/proc/self"), kind) == Some(*number))
}

/// Prefixes that are local in the network namespace of a process, loopback apart.
pub fn local_prefixes(process: &Path, most: usize) -> Vec<IpNet> {
    let v4 = read(&process.join("net/fib_trie")).unwrap_or_default();
    let v6 = read(&process.join("net/ipv6_route")).unwrap_or_default();
    let v4 = local_ipv4(&v4).map(IpNet::from);
    let mut prefixes: Vec<IpNet> = v4.chain(local_ipv6(&v6).map(IpNet::from)).collect();
    prefixes.retain(|prefix| !prefix.addr().is_loopback());
    prefixes.sort_unstable();
    prefixes.dedup();
    prefixes.truncate(most);
    prefixes
}

/// Local routes of /proc/net/fib_trie: a prefix' line, then `/32 host LOCAL` below it.
fn local_ipv4(text: &str) -> impl Iterator<Item = Ipv4Net> {
    let mut last: Option<Ipv4Addr> = None;
    text.lines().map(str::trim).filter_map(move |line| {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse().ok();
        }
        let (length, kind) = line.strip_prefix('/')?.split_once(' ')?;
        kind.ends_with(" LOCAL").then(|| Ipv4Net::new(last?, length.parse().ok()?).ok())?
    })
}

/// Local routes of /proc/net/ipv6_route: destination, its length, …, flags, interface.
fn local_ipv6(text: &str) -> impl Iterator<Item = Ipv6Net> {
    const RTF_LOCAL: u32 = 0x8000_0000;
    text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (digits, length) = (words.next()?, words.next()?);
        let flags = u32::from_str_radix(words.nth(6)?, 16).ok()?;
        let address = u128::from_str_radix(digits, 16).ok()?;
        let length = u8::from_str_radix(length, 16).ok()?;
        (flags & RTF_LOCAL != 0).then(|| Ipv6Net::new(address.into(), length).ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_may_hold_anything() {
        let text = "4711 (a) R (b) S 4242 4711 4711 0 -1 4194560 1 0 0 0 2 3 0 0 20 0 4 0 987654 1 2 3 4 5 6 7";
        let expected =
            Stat { comm: "a) R (b".to_owned(), parent: 4242, started: 987_654, image: [4, 6] };
        assert_eq!(Stat::parse(text), Some(expected));
        for text in ["", "1 (", "1 (a) S", "1 (a) S x"] {
            assert_eq!(Stat::parse(text), None, "{text}");
        }
        let own = Stat::parse(&read(Path::new("/proc/self/stat")).unwrap()).unwrap();
        assert!(own.parent > 0 && own.started > 0 && !own.image.contains(&0));
    }

    #[test]
    fn a_process_in_a_container_has_two_numbers() {
        let text = "Name:\\tx\nUid:\t1000\t1001\t1000\t1000\nNSpid:\t4711\t17\n";
        assert_eq!(Identity::parse(text), Some(Identity { uid: 1001, inner_pid: 17 }));
        assert_eq!(Identity::parse("Uid:\t0\t0\t0\t0\n"), None);
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
        assert!(rows[0].listens && !rows[1].listens && rows[1].is_established);
        assert_eq!((rows[0].inode, rows[0].drops, rows[0].receive_queue), (12345, Some(17), 0x300));
        assert_eq!((rows[1].remote, rows[1].send_queue), ("192.168.1.2:5001".parse().unwrap(), 16));

        let tcp = "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0000000000000000FFFF00000100007F:1F90 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 777 1 0000000000000000 100 0 0 10 0
   1: B80D0120000000000000000001000000:9C40 00000000000000000000000000000000:0000 03 00000000:00000000 00:00000000 00000000     0        0 778 1 0000000000000000 100 0 0 10 0
";
        let rows: Vec<SocketLine> = socket_table(tcp, Proto::Tcp).collect();
        assert_eq!(rows[0].local, "127.0.0.1:8080".parse().unwrap());
        assert_eq!(rows[1].local, "[2001:db8::1]:40000".parse().unwrap());
        assert!(rows[0].listens && rows[0].drops.is_none());
        assert!(!rows[1].listens && !rows[1].is_established);
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
        |-- 192.0.2.0
           /24 host LOCAL
";
        let found: Vec<String> = local_ipv4(trie).map(|it| it.to_string()).collect();
        assert_eq!(found, ["172.17.0.2/32", "192.0.2.0/24"]);
        let routes = "\
fe80000000000000000000000000aaaa 80 00000000000000000000000000000000 00 00000000000000000000000000000000 00000000 00000002 00000000 80200001     eth0
20010db8000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000400 00000001 00000000 80200001       lo
20010db9000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000400 00000001 00000000 00000001     eth0
short
";
        let found: Vec<String> = local_ipv6(routes).map(|it| it.to_string()).collect();
        assert_eq!(found, ["fe80::aaaa/128", "2001:db8::/64"]);
    }

    #[test]
    fn links_of_descriptors_name_sockets() {
        let check = |link, expected| assert_eq!(socket_inode(link), expected);
        check("socket:[4711]", Some(4711));
        check("pipe:[4711]", None);
        check("/dev/null", None);
    }
}
