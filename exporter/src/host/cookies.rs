//! The kernel's cookies for sockets (SO_COOKIE), by which its programs know them.
//!
//! Numbers of sockets as /proc shows them come in, cookies go out. Where `sock_diag` tells them, nobody's
//! socket is touched; another process' is borrowed for the question.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

use super::namespaces;
use super::netlink::Client;

/// Rows looked at: a busy host has many sockets that are not the SFU's.
const MOST_ROWS: usize = 1 << 20;

/// Asks in the network namespace in which it was made.
#[derive(Debug)]
pub struct Cookies(Client);

impl Cookies {
    /// Opens a socket for questions.
    pub fn new() -> io::Result<Self> {
        Client::new(NETLINK_SOCK_DIAG).map(Self)
    }

    /// Of all sockets that take what anybody sends, by their number.
    pub fn all(&mut self) -> io::Result<HashMap<u64, u64>> {
        let mut cookies = HashMap::new();
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
                    cookies.insert(row.header.inode.into(), cookie);
                })?;
            }
        }
        Ok(cookies)
    }
}

/// Of another process' socket, by its descriptor there (Linux 5.6). Needs the right to trace it.
pub fn of_socket_in(pid: u32, descriptor: RawFd) -> io::Result<u64> {
    of_socket(&namespaces::borrow_socket(pid, descriptor)?)
}

/// Of a socket of this process.
pub fn of_socket(socket: &impl AsFd) -> io::Result<u64> {
    let (mut cookie, mut length) = (0_u64, size_of::<u64>() as libc::socklen_t);
    // SAFETY: writes at most `length` bytes to a live word.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn both_ways_tell_the_same() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let listener = std::net::TcpListener::bind("[::1]:0").unwrap();
        let all = Cookies::new().unwrap().all().unwrap();
        for descriptor in [socket.as_raw_fd(), listener.as_raw_fd()] {
            let path = format!("/proc/self/fd/{descriptor}");
            let number = std::fs::metadata(path).unwrap().ino();
            let cookie = of_socket_in(std::process::id(), descriptor).unwrap();
            assert_eq!(all.get(&number), Some(&cookie));
        }
    }
}
