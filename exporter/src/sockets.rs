//! What the kernel knows of the SFU's sockets: drops, queues, and TCP's round trip times.
//!
//! Asked by netlink `sock_diag` in this process' network namespace and, where that is permitted, in
//! the workers' own; where it is not, /proc of a worker tells queues and drops of its namespace.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{
    ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags,
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use crate::host::netlink::Client;
use crate::host::workers::{self, WorkerProcess};
use crate::model::{Proto, SocketStats, TcpStats, canonical};

/// Sockets reported at most.
const MOST: usize = 262_144;
/// Rows looked at in one namespace: a busy host has many sockets that are not the SFU's.
const MOST_ROWS: usize = 1 << 20;

/// Sockets with a local port in the range, of this host and of the workers' network namespaces.
pub fn read(
    ports: &RangeInclusive<u16>,
    workers: &[WorkerProcess],
) -> io::Result<Vec<SocketStats>> {
    let mut sockets = Vec::new();
    diagnose(&mut Client::new(NETLINK_SOCK_DIAG)?, ports, &mut sockets)?;
    // One worker of each other namespace is enough.
    let foreign = workers.iter().filter(|worker| !worker.foreign.is_empty());
    let one_of_each: HashMap<Option<u64>, u32> =
        foreign.map(|worker| (worker.namespace, worker.pid)).collect();
    for pid in one_of_each.into_values() {
        let directory = PathBuf::from(format!("/proc/{pid}"));
        let asked = client_in(&directory.join("ns/net"))
            .and_then(|mut client| diagnose(&mut client, ports, &mut sockets));
        if let Err(error) = asked {
            tracing::debug!("sock_diag in the network namespace of worker {pid}: {error}");
            from_proc(&directory, ports, &mut sockets);
        }
    }
    Ok(sockets)
}

fn diagnose(
    client: &mut Client,
    ports: &RangeInclusive<u16>,
    sockets: &mut Vec<SocketStats>,
) -> io::Result<()> {
    for (family, any) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        for (protocol, proto) in [(IPPROTO_UDP, Proto::Udp), (IPPROTO_TCP, Proto::Tcp)] {
            let question = InetRequest {
                family,
                protocol,
                extensions: ExtensionFlags::SKMEMINFO | ExtensionFlags::INFO,
                states: StateFlags::all(),
                socket_id: any.clone(),
            };
            client.dump(SockDiagMessage::InetRequest(question), MOST_ROWS, |row| {
                let SockDiagMessage::InetResponse(row) = row else { return };
                if ports.contains(&row.header.socket_id.source_port) && sockets.len() < MOST {
                    sockets.push(socket(&row, proto));
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

fn from_proc(directory: &Path, ports: &RangeInclusive<u16>, sockets: &mut Vec<SocketStats>) {
    for (file, proto) in
        [("udp", Proto::Udp), ("udp6", Proto::Udp), ("tcp", Proto::Tcp), ("tcp6", Proto::Tcp)]
    {
        let Ok(text) = workers::read(&directory.join("net").join(file)) else { continue };
        let lines = workers::socket_table(&text, proto);
        let in_range = lines.filter(|line| ports.contains(&line.local.port()));
        sockets.extend(in_range.take(MOST.saturating_sub(sockets.len())).map(|line| SocketStats {
            proto,
            local: line.local,
            remote: remote(line.remote.ip(), line.remote.port()),
            drops: line.drops.unwrap_or(0),
            receive_queue_bytes: line.receive_queue.into(),
            send_queue_bytes: line.send_queue.into(),
            tcp: None,
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    /// Needs no rights: sock_diag answers everybody.
    #[test]
    fn real_sockets_are_told() {
        // Others may have the same port at another address.
        let at = |address: SocketAddr, proto: Proto| {
            let mut found = read(&(address.port()..=address.port()), &[]).unwrap();
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
