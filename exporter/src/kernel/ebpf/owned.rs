//! What is owned, as the kernel's programs have it: userspace tells them what it knows, and hears of them what
//! they saw.
//!
//! Sockets and processes go in, what happened to sockets comes out. Whose a socket is, is decided
//! elsewhere.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use aya::maps::{MapData, RingBuf};
use exporter_ebpf::abi::{
    Bind, Comm, Happened, MAPPED, Nobody, OWNERSHIPS, Order, Own, OwnedSocket, Ownership, PortKey,
    SHARERS, Sharers, TCP, UDP,
};
use exporter_ebpf::ports::WORDS;

use super::batch::Reader;
use super::mapping::{Access, Mapping};
use super::sys::{self, Plain};
use crate::host::namespaces::NamespaceCookie;
use crate::host::ownership::{End, Socket, SocketId};
use crate::kernel::owners::{OwnedTables, Seen};
use crate::model::Proto;

// SAFETY: `abi` asserts its size, which is that of its fields; all of them are integers.
unsafe impl Plain for Own {}
// SAFETY: as above.
unsafe impl Plain for Nobody {}
// SAFETY: as above.
unsafe impl Plain for OwnedSocket {}
// SAFETY: as above.
unsafe impl Plain for PortKey {}
// SAFETY: as above.
unsafe impl Plain for Sharers {}

/// Owned sockets of processes that are known for workers.
pub(in crate::kernel) const MOST_SOCKETS: u32 = 1 << 18;
/// Owned sockets of processes of which only the name is known, as yet.
pub(in crate::kernel) const MOST_CLAIMED: u32 = 1 << 10;
/// Local ends that somebody has or had a moment ago.
pub(in crate::kernel) const MOST_ENDS: u32 = 1 << 18;
/// Entries of a table that are read: all.
const MOST_READ: usize = (MOST_SOCKETS + MOST_CLAIMED) as usize;

/// Descriptors of the tables and of the program that changes them, and the ring.
pub(in crate::kernel) struct OwnedFds {
    pub(in crate::kernel) sockets: OwnedFd,
    pub(in crate::kernel) ends: OwnedFd,
    pub(in crate::kernel) processes: OwnedFd,
    pub(in crate::kernel) nobodies: OwnedFd,
    pub(in crate::kernel) undecided: OwnedFd,
    pub(in crate::kernel) sums: OwnedFd,
    pub(in crate::kernel) own: OwnedFd,
    pub(in crate::kernel) ring: RingBuf<MapData>,
}

/// The tables.
pub(in crate::kernel) struct Owned {
    fds: OwnedFds,
    sums: Mapping<AtomicU64>,
}

impl Owned {
    pub(in crate::kernel) fn new(fds: OwnedFds) -> anyhow::Result<Self> {
        let sums = Mapping::new(fds.sums.as_fd(), OWNERSHIPS, Access::Read);
        let sums = sums.context("map the table OWNERSHIP")?;
        Ok(Self { fds, sums })
    }

    /// Has packets of all these ports looked at.
    pub(in crate::kernel) fn open(&self, ports: &[u32; WORDS]) -> io::Result<()> {
        for (word, bits) in (0..).zip(ports).filter(|(_, bits)| **bits != 0) {
            self.order(&Own { order: Order::Open as u32, word, bits: *bits, ..Own::default() })?;
        }
        Ok(())
    }

    /// One of the sums.
    pub(in crate::kernel) fn sum(&self, which: Ownership) -> u64 {
        // SAFETY: mapped as long as `self` lives, and only accessed atomically.
        unsafe { &*self.sums.at(which as usize) }.load(Ordering::Relaxed)
    }

    /// Readable when the programs saw something.
    pub(in crate::kernel) fn ring(&self) -> BorrowedFd<'_> {
        self.fds.ring.as_fd()
    }

    fn order_for(&self, order: Order, id: SocketId, socket: &Socket) -> io::Result<bool> {
        let socket = OwnedSocket { end: key(&socket.end), process: socket.pid, is_verified: 1 };
        let (order, cookie) = (order as u32, id.number());
        self.order(&Own { order, cookie, socket, ..Own::default() })
    }

    fn order(&self, order: &Own) -> io::Result<bool> {
        sys::test_run(self.fds.own.as_fd(), order).map(|done| done == 1)
    }
}

impl OwnedTables for Owned {
    const MOST_SOCKETS: u32 = MOST_SOCKETS;
    const MOST_SHARERS: usize = SHARERS;

    fn admit(&mut self, pid: u32, quota: u32) -> io::Result<bool> {
        let socket = OwnedSocket { process: pid, ..OwnedSocket::default() };
        sys::remove(self.fds.undecided.as_fd(), &pid)?;
        self.order(&Own { order: Order::Admit as u32, bits: quota, socket, ..Own::default() })
    }

    fn dismiss(&mut self, pid: u32) -> io::Result<()> {
        sys::remove(self.fds.processes.as_fd(), &pid).map(drop)
    }

    fn ignore(&mut self, pid: u32, comm: &Comm) -> io::Result<()> {
        sys::remove(self.fds.undecided.as_fd(), &pid)?;
        sys::put(self.fds.nobodies.as_fd(), &Nobody { comm: *comm, process: pid }, &1_u8)
    }

    fn own(&mut self, id: SocketId, socket: &Socket) -> io::Result<bool> {
        self.order_for(Order::Own, id, socket)
    }

    fn join(&mut self, id: SocketId, socket: &Socket) -> io::Result<()> {
        self.order_for(Order::Join, id, socket).map(drop)
    }

    fn disown(&mut self, id: SocketId) -> io::Result<()> {
        let cookie = id.number();
        self.order(&Own { order: Order::Disown as u32, cookie, ..Own::default() }).map(drop)
    }

    fn verify(&mut self, id: SocketId) -> io::Result<bool> {
        self.order(&Own { order: Order::Verify as u32, cookie: id.number(), ..Own::default() })
    }

    fn close(&mut self, end: &End) -> io::Result<()> {
        let socket = Socket { pid: 0, end: *end };
        for order in [Order::Close, Order::Forget] {
            self.order_for(order, SocketId::cookie(0), &socket)?;
        }
        Ok(())
    }

    fn all(&mut self) -> io::Result<Option<HashMap<SocketId, Socket>>> {
        let mut all = HashMap::new();
        let mut reader = Reader::<u64, OwnedSocket>::new();
        reader.read(self.fds.sockets.as_fd(), MOST_READ, |cookie, owned| {
            all.insert(id(*cookie), Socket { pid: owned.process, end: end(&owned.end) });
        })?;
        Ok(Some(all))
    }

    fn sweep(&mut self, is_kept: impl Fn(Proto, u16) -> bool) -> io::Result<()> {
        let mut left = Vec::new();
        let mut reader = Reader::<PortKey, Sharers>::new();
        reader.read(self.fds.ends.as_fd(), MOST_ENDS as usize, |key, sharers| {
            if *sharers == [0; SHARERS] {
                left.push(end(key));
            }
        })?;
        let cookie = SocketId::cookie(0);
        for end in left {
            self.order_for(Order::Forget, cookie, &Socket { pid: 0, end })?;
        }
        for proto in [Proto::Udp, Proto::Tcp] {
            for port in (1..=u16::MAX).filter(|&port| !is_kept(proto, port)) {
                let end =
                    End::new(NamespaceCookie::UNKNOWN, proto, (Ipv4Addr::UNSPECIFIED, port).into());
                self.order_for(Order::Close, cookie, &Socket { pid: 0, end })?;
            }
        }
        Ok(())
    }

    fn seen(&mut self) -> Option<Seen> {
        loop {
            let entry = self.fds.ring.next()?;
            let Some(bytes) = entry.first_chunk() else { continue };
            // SAFETY: as many bytes as a `Bind` has, and any bytes make one.
            let bind = unsafe { std::mem::transmute::<[u8; size_of::<Bind>()], Bind>(*bytes) };
            if let Some(seen) = seen(&bind) {
                return Some(seen);
            }
        }
    }

    fn lost(&self) -> u64 {
        self.sum(Ownership::Lost)
    }
}

/// The key of an end in its table.
fn key(end: &End) -> PortKey {
    let proto = match end.proto {
        Proto::Udp => UDP,
        Proto::Tcp => TCP,
    };
    let NamespaceCookie(namespace) = end.namespace;
    match end.local.ip() {
        IpAddr::V4(address) => {
            PortKey::v4(namespace, u32::from_ne_bytes(address.octets()), proto, end.local.port())
        }
        IpAddr::V6(address) => {
            let octets = address.octets();
            let (words, _) = octets.as_chunks();
            let words = std::array::from_fn(|at| u32::from_ne_bytes(words[at]));
            let key = PortKey::v6(namespace, words, proto, end.local.port());
            PortKey { v6_only: end.is_v6_only.into(), ..key }
        }
    }
}

/// The inverse of [`key`].
fn end(key: &PortKey) -> End {
    let proto = if key.proto == TCP { Proto::Tcp } else { Proto::Udp };
    let ip = match key.address {
        [0, 0, MAPPED, address] => IpAddr::from(address.to_ne_bytes()),
        words => {
            let mut octets = [0_u8; 16];
            for (to, word) in octets.as_chunks_mut().0.iter_mut().zip(words) {
                *to = word.to_ne_bytes();
            }
            IpAddr::from(octets)
        }
    };
    let end = End::new(NamespaceCookie(key.namespace), proto, (ip, key.port).into());
    end.with_v6_only(key.v6_only != 0)
}

fn seen(bind: &Bind) -> Option<Seen> {
    let happened = [Happened::Owned, Happened::Bound, Happened::Released, Happened::Refused];
    let happened = happened.into_iter().find(|&it| it as u32 == bind.happened)?;
    let socket = Socket { pid: bind.socket.process, end: end(&bind.socket.end) };
    Some(Seen { id: id(bind.cookie), socket, comm: bind.comm, happened })
}

/// The kernel knows a socket that it was told by a made-up number by that number.
fn id(cookie: u64) -> SocketId {
    match cookie >> 63 {
        0 => SocketId::cookie(cookie),
        _ => SocketId::made_up(cookie),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_leads_to_its_key_and_back() {
        let texts = ["192.0.2.1:443", "0.0.0.0:1", "[::]:2", "[2001:db8::1]:65535"];
        for (text, proto) in texts.into_iter().zip([Proto::Udp, Proto::Tcp].into_iter().cycle()) {
            let before = End::new(NamespaceCookie(7), proto, text.parse().unwrap());
            assert_eq!(end(&key(&before)), before);
            let before = before.with_v6_only(true);
            assert_eq!(end(&key(&before)), before);
        }
        let mapped = End::new(NamespaceCookie(7), Proto::Udp, "192.0.2.1:1".parse().unwrap());
        assert_eq!(key(&mapped).address, [0, 0, MAPPED, u32::from_ne_bytes([192, 0, 2, 1])]);
    }
}
