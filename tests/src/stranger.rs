//! Somebody who sends to an RTP port from addresses that are not its own. It sends from a test's
//! namespace only, and only as much as is asked for.

use std::ffi::c_int;
use std::io::Error;
use std::net::{Ipv4Addr, SocketAddrV4};
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

fn raw_socket() -> Result<OwnedFd> {
    // SAFETY: socket takes three integers; what it returns is checked before it is owned.
    let descriptor = unsafe {
        libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_RAW)
    };
    ensure!(descriptor >= 0, Error::last_os_error());
    // SAFETY: the descriptor was just made and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// IPv4 and UDP headers and the payload. The kernel writes the length, id and checksum of the
/// former; the latter's checksum is left out, as IPv4 permits (RFC 768).
fn datagram(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, libc::IPPROTO_UDP as u8, 0, 0];
    bytes.extend(from.ip().octets());
    bytes.extend(to.ip().octets());
    bytes.extend(from.port().to_be_bytes());
    bytes.extend(to.port().to_be_bytes());
    bytes.extend(u16::try_from(8 + payload.len())?.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    Ok(bytes)
}

fn send(socket: &OwnedFd, datagram: &[u8], to: SocketAddrV4) -> Result<()> {
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(to.ip().octets()) },
        sin_zero: [0; 8],
    };
    // SAFETY: buffer and address are as long as their lengths say, and live through the call.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            datagram.as_ptr().cast(),
            datagram.len(),
            0 as c_int,
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    ensure!(sent == datagram.len() as isize, Error::last_os_error());
    Ok(())
}
