//! The kernel's cookies for sockets (SO_COOKIE), by which its programs know them, and what /proc does not show
//! of them.
//!
//! Numbers of sockets as /proc shows them come in, [`Kernels`] go out. Where `sock_diag` tells them, nobody's
//! socket is touched; another process' is borrowed for the question.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP};
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use super::namespaces;
use super::netlink::Client;

/// Rows looked at: a busy host has many sockets that are not the SFU's.
const MOST_ROWS: usize = 1 << 20;

/// What the kernel says of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernels {
    /// Its cookie.
    pub cookie: u64,
    /// It takes IPv6 only (IPV6_V6ONLY).
    pub is_v6_only: bool,
}

/// Asks in the network namespace in which it was made.
#[derive(Debug)]
pub struct Cookies(Client);

impl Cookies {
    /// Opens a socket for questions.
    pub fn new() -> io::Result<Self> {
        Client::new(NETLINK_SOCK_DIAG).map(Self)
    }

    /// Of all sockets of UDP, and TCP's listeners, by their number.
    pub fn all(&mut self) -> io::Result<HashMap<u64, Kernels>> {
        let mut found = HashMap::new();
        for (family, any) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
            let tables = [(IPPROTO_UDP, StateFlags::all()), (IPPROTO_TCP, StateFlags::LISTEN)];
            for (protocol, states) in tables {
                let question = InetRequest {
                    family,
                    protocol,
                    extensions: ExtensionFlags::empty(),
                    states,
                    socket_id: any.clone(),
                };
                self.0.dump(SockDiagMessage::InetRequest(question), MOST_ROWS, |row| {
                    let SockDiagMessage::InetResponse(row) = row else { return };
                    let cookie = u64::from_ne_bytes(row.header.socket_id.cookie);
                    // Told of sockets that take what anybody sends (Linux 3.10).
                    let is_v6_only = row.nlas.iter().any(|nla| matches!(nla, Nla::SkV6Only(true)));
                    found.insert(row.header.inode.into(), Kernels { cookie, is_v6_only });
                })?;
            }
        }
        Ok(found)
    }
}

/// Of another process' socket, by its descriptor there (Linux 5.6). Needs the right to trace it.
pub fn of_socket_in(pid: u32, descriptor: RawFd) -> io::Result<Kernels> {
    of_socket(&namespaces::borrow_socket(pid, descriptor)?)
}

/// Of a socket of this process.
pub fn of_socket(socket: &impl AsFd) -> io::Result<Kernels> {
    let cookie = option(socket, libc::SOL_SOCKET, libc::SO_COOKIE, 0_u64)?;
    // One of IPv4 has no such option.
    let is_v6_only = option(socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 0_i32).unwrap_or(0) != 0;
    Ok(Kernels { cookie, is_v6_only })
}

/// A socket's option that is a number.
fn option<T: Copy>(
    socket: &impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    mut value: T,
) -> io::Result<T> {
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: writes at most `length` bytes to a live number, which any bytes make.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            (&raw mut value).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::os::unix::fs::MetadataExt;

    use socket2::{Domain, Socket, Type};

    use super::*;

    #[test]
    fn both_ways_tell_the_same() {
        let any = |is_v6_only| {
            let socket = Socket::new(Domain::IPV6, Type::DGRAM, None).unwrap();
            socket.set_only_v6(is_v6_only).unwrap();
            socket.bind(&"[::]:0".parse::<SocketAddr>().unwrap().into()).unwrap();
            socket
        };
        let (both, only_v6) = (any(false), any(true));
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let all = Cookies::new().unwrap().all().unwrap();
        for (descriptor, is_v6_only) in [
            (socket.as_raw_fd(), false),
            (listener.as_raw_fd(), false),
            (both.as_raw_fd(), false),
            (only_v6.as_raw_fd(), true),
        ] {
            let path = format!("/proc/self/fd/{descriptor}");
            let number = std::fs::metadata(path).unwrap().ino();
            let told = of_socket_in(std::process::id(), descriptor).unwrap();
            assert_eq!(told.is_v6_only, is_v6_only);
            assert_eq!(all.get(&number), Some(&told));
        }
    }
}
