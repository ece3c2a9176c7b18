//! A packet socket (packet(7)): opened, filtered, given room, and asked what it lost. Who hears what on it is its
//! owner's to know.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::host::classic_bpf::Instruction;

/// Asked of the kernel for what waits to be read; it gives what net.core.rmem_max allows.
const BUFFER: libc::c_int = 8 << 20;

/// A socket that hears nothing before it is bound, so nothing unfiltered ever waits in it. Needs CAP_NET_RAW.
pub fn open() -> io::Result<OwnedFd> {
    // SAFETY: socket takes numbers only.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just opened, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Lets through what this program does, from the next packet on.
pub fn filter(socket: &OwnedFd, mut code: Vec<Instruction>) -> io::Result<()> {
    let program = libc::sock_fprog { len: code.len() as u16, filter: code.as_mut_ptr() };
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

/// As much room for what waits to be read as is permitted.
pub fn enlarge(socket: &OwnedFd) -> io::Result<()> {
    set(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &BUFFER)
        .or_else(|_| set(socket, libc::SOL_SOCKET, libc::SO_RCVBUF, &BUFFER))
}

/// Switches something on.
pub fn enable(socket: &OwnedFd, level: libc::c_int, option: libc::c_int) -> io::Result<()> {
    set(socket, level, option, &(1 as libc::c_int))
}

fn set<T>(socket: &OwnedFd, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
    let (value, length) = (std::ptr::from_ref(value).cast(), size_of::<T>() as libc::socklen_t);
    // SAFETY: the kernel reads one `T` from a live reference; a filter's instructions, which it
    // points to, live as long as the caller's vector.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value, length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What came through the filter since this was last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Packets, those without room among them.
    pub packets: u64,
    /// Packets for which the socket had no room.
    pub lost: u64,
}

/// What the kernel counted; nothing where it does not say.
pub fn statistics(socket: &OwnedFd) -> Statistics {
    // struct tpacket_stats: packets, drops among them. Reading it sets both to zero.
    let mut counted = [0_u32; 2];
    let mut length = size_of_val(&counted) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to a live array of that size.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            counted.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    let [packets, lost] = if result == 0 { counted.map(u64::from) } else { [0; 2] };
    Statistics { packets, lost }
}
