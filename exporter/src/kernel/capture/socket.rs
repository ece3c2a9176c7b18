//! One packet socket: opened, filtered and bound, then read through pnet.
//!
//! Frames come out with what the kernel says about aggregates; what they mean is not known here.

use std::io;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use pnet_datalink::{Channel, Config, DataLinkReceiver, NetworkInterface};

use super::filter::{Filter, LONG, LONGEST_SINGLE, SHORT};
use crate::host::interfaces::Attach;
use crate::host::packet_socket;

/// How long a thread may take to notice that it should end.
const PATIENCE: Duration = Duration::from_millis(200);
/// Errors in a row after which a socket is given up.
const MOST_ERRORS: u32 = 100;
/// `struct virtio_net_hdr`, which PACKET_VNET_HDR puts before each frame.
const PREFIX: usize = 10;
const PACKET_VNET_HDR: libc::c_int = 15;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_SEGMENTS: u8 = 5;
const GSO_ECN: u8 = 0x80;

/// A frame, or as much of it as was copied.
#[derive(Debug)]
pub(super) struct Heard<'a> {
    pub(super) bytes: &'a [u8],
    /// Of the whole frame; where only its beginning was copied, at least as much.
    pub(super) length: u32,
    /// Payload bytes of each packet of an aggregate; 0 for a single packet.
    pub(super) segment: u32,
}

/// The socket's second descriptor, for its statistics; pnet owns the first.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    has_prefix: bool,
}

impl Socket {
    /// Whether packet sockets are permitted at all.
    pub(super) fn probe() -> io::Result<()> {
        packet_socket::open().map(drop)
    }

    /// A socket that hears what the filter lets through on one interface.
    pub(super) fn open(
        attach: &Attach,
        filter: &Filter,
    ) -> io::Result<(Self, Box<dyn DataLinkReceiver>)> {
        let fd = packet_socket::open()?;
        packet_socket::filter(&fd, filter.compile())?;
        packet_socket::enlarge(&fd)?;
        let has_prefix = packet_socket::enable(&fd, libc::SOL_PACKET, PACKET_VNET_HDR).is_ok();
        let kept = fd.as_fd().try_clone_to_owned()?;
        let interface = NetworkInterface {
            name: attach.name.clone(),
            description: String::new(),
            index: attach.index,
            mac: None,
            ips: Vec::new(),
            flags: 0,
        };
        let config = Config {
            read_buffer_size: PREFIX + LONG as usize,
            // Never written to.
            write_buffer_size: 0,
            read_timeout: Some(PATIENCE),
            promiscuous: false,
            // pnet closes it, also where it fails.
            socket_fd: Some(fd.into_raw_fd()),
            ..Config::default()
        };
        match pnet_datalink::channel(&interface, config)? {
            Channel::Ethernet(_, receiver) => Ok((Self { fd: kept, has_prefix }, receiver)),
            _ => Err(io::Error::other("pnet opened a channel of an unknown kind")),
        }
    }

    /// Lets through what another filter does, from the next packet on.
    pub(super) fn refilter(&self, filter: &Filter) -> io::Result<()> {
        packet_socket::filter(&self.fd, filter.compile())
    }

    /// Reads until told to stop, or until the interface is gone.
    pub(super) fn listen(
        &self,
        mut receiver: Box<dyn DataLinkReceiver>,
        stop: &AtomicBool,
        lost: &AtomicU64,
        mut hear: impl FnMut(Heard<'_>),
    ) -> io::Result<()> {
        let mut errors = 0;
        while !stop.load(Ordering::Relaxed) {
            match receiver.next() {
                Ok(bytes) => {
                    errors = 0;
                    match split(bytes, self.has_prefix) {
                        Some(heard) => hear(heard),
                        None => drop(lost.fetch_add(1, Ordering::Relaxed)),
                    }
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::TimedOut
                    | io::ErrorKind::Interrupted
                    | io::ErrorKind::WouldBlock => {}
                    // An aggregate that the kernel cannot describe in the prefix; it is gone.
                    io::ErrorKind::InvalidInput => drop(lost.fetch_add(1, Ordering::Relaxed)),
                    _ => {
                        // pnet polls and does not fetch the error that the socket reports (the
                        // interface went down or away), which would be reported forever.
                        let _ = take_error(&self.fd);
                        errors += 1;
                        if errors > MOST_ERRORS {
                            return Err(error);
                        }
                    }
                },
            }
        }
        Ok(())
    }

    /// Packets for which the socket had no room, since the last call.
    pub(super) fn lost_since(&self) -> u64 {
        packet_socket::statistics(&self.fd).lost
    }
}

/// Takes the prefix off.
fn split(bytes: &[u8], has_prefix: bool) -> Option<Heard<'_>> {
    let mut segment = 0;
    let mut frame = bytes;
    if has_prefix {
        let (prefix, rest) = bytes.split_at_checked(PREFIX)?;
        frame = rest;
        if matches!(prefix[1] & !GSO_ECN, GSO_TCPV4 | GSO_TCPV6 | GSO_UDP_SEGMENTS) {
            segment = u16::from_ne_bytes([prefix[4], prefix[5]]).into();
        }
    }
    let length = u32::try_from(frame.len()).ok()?;
    let length = if length == SHORT { LONGEST_SINGLE } else { length };
    Some(Heard { bytes: frame, length, segment })
}

fn take_error(fd: &OwnedFd) -> io::Result<libc::c_int> {
    let mut error: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the kernel writes one integer to a live reference.
    let result = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ERROR,
            (&raw mut error).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(error) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_tells_aggregates() {
        let check = |kind: u8, size: u16, expected| {
            let mut bytes = vec![0, kind, 0, 0];
            bytes.extend(size.to_ne_bytes());
            bytes.extend([0; 4 + 60]);
            let heard = split(&bytes, true).unwrap();
            assert_eq!((heard.segment, heard.bytes.len(), heard.length), (expected, 60, 60));
        };
        check(0, 0, 0);
        check(GSO_UDP_SEGMENTS, 1200, 1200);
        check(GSO_TCPV4 | GSO_ECN, 1448, 1448);
        // A datagram larger than the link, to be cut into fragments, is still one datagram.
        check(3, 1480, 0);
        assert!(split(&[0; 9], true).is_none());
        assert_eq!(split(&[0; 256], false).unwrap().length, LONGEST_SINGLE);
    }
}
