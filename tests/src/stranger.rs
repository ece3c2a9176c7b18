//! Somebody who sends to an RTP port from addresses that are not its own. It sends from a test's
//! namespace only, and only as much as is asked for.

use std::ffi::c_int;
use std::io::Error;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result, ensure};

use crate::netns::Netns;

/// Where the forged addresses begin: TEST-NET-3 and on (RFC 5737), which nobody has.
pub const FIRST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 0);
/// The port that all forged packets come from.
pub const PORT: u16 = 6666;

/// Sends `payload` to `to` once from each of so many addresses, the first being [`FIRST`].
pub fn forge(host: &Netns, addresses: u8, to: SocketAddrV4, payload: &[u8]) -> Result<()> {
    host.run_in(|| {
        let socket = raw_socket().context("open a raw socket (needs CAP_NET_RAW)")?;
        for number in 0..addresses {
            let [a, b, c, _] = FIRST.octets();
            let from = SocketAddrV4::new(Ipv4Addr::new(a, b, c, number), PORT);
            send(&socket, &datagram(from, to, payload)?, to).context("send a forged packet")?;
        }
        Ok(())
    })
}

/// Sends from addresses and ports at random: 198.18.0.0/15 (RFC 2544) and 2001:db8::/32 (RFC 3849), which nobody
/// has.
#[derive(Debug)]
pub struct Forger {
    v4: OwnedFd,
    v6: OwnedFd,
    random: u64,
}

impl Forger {
    /// In this namespace.
    pub fn new(host: &Netns) -> Result<Self> {
        let raw = |family| host.run_in(|| raw_socket_of(family));
        let (v4, v6) = (raw(libc::AF_INET)?, raw(libc::AF_INET6)?);
        Ok(Self { v4, v6, random: 0x9e37_79b9_7f4a_7c15 })
    }

    /// A number that nobody expects; a sequence that is always the same (xorshift64).
    pub fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// One UDP datagram. Whether there is room for it on its way is not looked at.
    pub fn datagram(&mut self, to: SocketAddr, payload: &[u8]) -> Result<()> {
        let random = self.random();
        let port = 1024 | random as u16;
        match to {
            SocketAddr::V4(to) => {
                let from = SocketAddrV4::new(forged_v4(random), port);
                ignore_full(send(&self.v4, &datagram(from, to, payload)?, to))
            }
            SocketAddr::V6(to) => {
                ignore_full(send_v6(&self.v6, &datagram_v6(random, port, to, payload)?, to))
            }
        }
    }

    /// One TCP segment that asks for a connection.
    pub fn syn(&mut self, to: SocketAddrV4) -> Result<()> {
        let random = self.random();
        let from = SocketAddrV4::new(forged_v4(random), 1024 | random as u16);
        let mut bytes = ipv4(from, to, libc::IPPROTO_TCP as u8);
        bytes.extend(from.port().to_be_bytes());
        bytes.extend(to.port().to_be_bytes());
        // Number, no acknowledgement, 20 bytes of header, SYN, window; no checksum: it gets no further than
        // the socket.
        bytes.extend((random as u32).to_be_bytes());
        bytes.extend([0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
        ignore_full(send(&self.v4, &bytes, to))
    }
}

fn forged_v4(random: u64) -> Ipv4Addr {
    Ipv4Addr::from_bits(0xc612_0000 | (random >> 16) as u32 & 0x1_ffff)
}

/// A queue that is full is no fault of a flood's.
fn ignore_full(sent: Result<()>) -> Result<()> {
    match &sent {
        Err(error) if error.downcast_ref::<Error>().is_some_and(is_full) => Ok(()),
        _ => sent,
    }
}

fn is_full(error: &Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EAGAIN | libc::EPERM))
}

fn raw_socket() -> Result<OwnedFd> {
    raw_socket_of(libc::AF_INET)
}

fn raw_socket_of(family: c_int) -> Result<OwnedFd> {
    // SAFETY: socket takes three integers; what it returns is checked before it is owned.
    let descriptor =
        unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_RAW) };
    ensure!(descriptor >= 0, Error::last_os_error());
    // SAFETY: the descriptor was just made and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// IPv4 and UDP headers and the payload. The kernel writes the length, id and checksum of the
/// former; the latter's checksum is left out, as IPv4 permits (RFC 768).
fn datagram(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = ipv4(from, to, libc::IPPROTO_UDP as u8);
    bytes.extend(from.port().to_be_bytes());
    bytes.extend(to.port().to_be_bytes());
    bytes.extend(u16::try_from(8 + payload.len())?.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    Ok(bytes)
}

fn ipv4(from: SocketAddrV4, to: SocketAddrV4, proto: u8) -> Vec<u8> {
    let mut bytes = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, proto, 0, 0];
    bytes.extend(from.ip().octets());
    bytes.extend(to.ip().octets());
    bytes
}

/// As [`datagram`], but for the checksum, which IPv6 wants and nobody who only counts looks at.
fn datagram_v6(random: u64, port: u16, to: SocketAddrV6, payload: &[u8]) -> Result<Vec<u8>> {
    let length = u16::try_from(8 + payload.len())?;
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend(length.to_be_bytes());
    bytes.extend([libc::IPPROTO_UDP as u8, 64, 0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0]);
    bytes.extend(random.to_be_bytes());
    bytes.extend(to.ip().octets());
    bytes.extend(port.to_be_bytes());
    bytes.extend(to.port().to_be_bytes());
    bytes.extend(length.to_be_bytes());
    bytes.extend([0xff, 0xff]);
    bytes.extend(payload);
    Ok(bytes)
}

fn send_v6(socket: &OwnedFd, datagram: &[u8], to: SocketAddrV6) -> Result<()> {
    let address = libc::sockaddr_in6 {
        sin6_family: libc::AF_INET6 as libc::sa_family_t,
        sin6_port: 0,
        sin6_flowinfo: 0,
        sin6_addr: libc::in6_addr { s6_addr: to.ip().octets() },
        sin6_scope_id: 0,
    };
    let length = size_of_val(&address) as libc::socklen_t;
    send_to(socket, datagram, (&raw const address).cast(), length)
}

fn send(socket: &OwnedFd, datagram: &[u8], to: SocketAddrV4) -> Result<()> {
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(to.ip().octets()) },
        sin_zero: [0; 8],
    };
    let length = size_of_val(&address) as libc::socklen_t;
    send_to(socket, datagram, (&raw const address).cast(), length)
}

fn send_to(
    socket: &OwnedFd,
    datagram: &[u8],
    address: *const libc::sockaddr,
    length: libc::socklen_t,
) -> Result<()> {
    // SAFETY: buffer and address are as long as their lengths say, and live through the call.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            datagram.as_ptr().cast(),
            datagram.len(),
            0 as c_int,
            address,
            length,
        )
    };
    ensure!(sent == datagram.len() as isize, Error::last_os_error());
    Ok(())
}
