//! Network namespaces by the kernel's cookie, which unlike an inode number is never used again.
//!
//! Sockets come in, cookies go out. A process' sockets are borrowed for the question and nothing is
//! read from them.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// A network namespace, as `SO_NETNS_COOKIE` and `bpf_get_netns_cookie` name it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NamespaceCookie(pub u64);

/// `SO_NETNS_COOKIE` of most architectures (include/uapi/asm-generic/socket.h), unknown to libc.
const SO_NETNS_COOKIE: libc::c_int = 71;

impl NamespaceCookie {
    /// The host's first: cookies are given from 1 on, and it is the first to get one (Linux 5.14).
    pub const FIRST: Self = Self(1);
    /// No namespace has this one: it could not be asked for.
    pub const UNKNOWN: Self = Self(0);

    /// The namespace of the calling thread. Before Linux 5.14 there is no answer.
    pub fn own() -> io::Result<Self> {
        Self::of_socket(std::os::unix::net::UnixDatagram::unbound()?.as_fd())
    }

    /// The namespace in which a socket was made.
    pub fn of_socket(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let (mut cookie, mut length) = (0_u64, size_of::<u64>() as libc::socklen_t);
        // SAFETY: writes at most `length` bytes to a live word.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                SO_NETNS_COOKIE,
                (&raw mut cookie).cast(),
                &raw mut length,
            )
        };
        if result == 0 { Ok(Self(cookie)) } else { Err(io::Error::last_os_error()) }
    }

    /// The namespace of another process' socket, by its number there. Needs the right to trace the
    /// process (`CAP_SYS_PTRACE`), but none to enter its namespace; Linux 5.6.
    pub fn of_socket_in(pid: u32, descriptor: RawFd) -> io::Result<Self> {
        Self::of_socket(borrow_socket(pid, descriptor)?.as_fd())
    }
}

/// Another process' socket, by its number there.
pub(super) fn borrow_socket(pid: u32, descriptor: RawFd) -> io::Result<OwnedFd> {
    let process = descriptor_of(
        // SAFETY: pidfd_open takes two numbers.
        unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) },
    )?;
    descriptor_of(
        // SAFETY: pidfd_getfd takes a descriptor that is open, and two numbers.
        unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), descriptor, 0) },
    )
}

fn descriptor_of(result: libc::c_long) -> io::Result<OwnedFd> {
    match RawFd::try_from(result) {
        // SAFETY: the system call has just made it, so nobody else owns it.
        Ok(descriptor @ 0..) => Ok(unsafe { OwnedFd::from_raw_fd(descriptor) }),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_tells_its_namespace() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let own = NamespaceCookie::own().unwrap();
        assert_ne!(own, NamespaceCookie::UNKNOWN);
        assert_eq!(NamespaceCookie::of_socket(socket.as_fd()).unwrap(), own);
        let through = NamespaceCookie::of_socket_in(std::process::id(), socket.as_raw_fd());
        assert_eq!(through.unwrap(), own);
        assert!(NamespaceCookie::of_socket_in(std::process::id(), 1 << 20).is_err());
    }
}
