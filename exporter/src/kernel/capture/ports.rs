//! Which ports are looked at, in this process: what the kernel program's tables of owned sockets are there.
//!
//! Sockets come in as they are found; threads that hear packets ask at the same time.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use exporter_ebpf::abi::{Comm, TCP, UDP};
use exporter_ebpf::ports::{self, PortSet, WORDS, place};

use crate::host::ownership::{End, Socket, SocketId};
use crate::kernel::owners::{OwnedTables, Seen};
use crate::model::Proto;

/// Ports whose packets are looked at.
#[derive(Debug)]
pub(super) struct Open([AtomicU32; WORDS]);

impl PortSet for &Open {
    fn contains(self, proto: u8, port: u16) -> bool {
        let (word, bit) = place(proto, port);
        self.0[word].load(Ordering::Relaxed) & bit != 0
    }
}

impl Open {
    /// Those of a range, of both protocols; an empty one holds none.
    pub(super) fn range(range: &RangeInclusive<u16>) -> Self {
        Self(ports::of_range(*range.start(), *range.end()).map(AtomicU32::new))
    }

    fn set(&self, (port, proto): Port, is_open: bool) {
        let proto = if proto == Proto::Tcp { TCP } else { UDP };
        let (word, bit) = place(proto, port.to_be());
        match is_open {
            true => self.0[word].fetch_or(bit, Ordering::Relaxed),
            false => self.0[word].fetch_and(!bit, Ordering::Relaxed),
        };
    }
}

type Port = (u16, Proto);

/// No port: its first is behind its last.
#[expect(clippy::reversed_empty_ranges, reason = "that is what makes it empty")]
pub(super) const NONE: RangeInclusive<u16> = 1..=0;

/// Sockets that are owned, and the ports that are open for them.
#[derive(Debug)]
pub(super) struct Owned {
    open: Arc<Open>,
    ports: BTreeSet<Port>,
    sockets: HashMap<SocketId, Port>,
    counts: HashMap<Port, u32>,
}

impl Owned {
    pub(super) fn new(open: Arc<Open>) -> Self {
        Self { open, ports: BTreeSet::new(), sockets: HashMap::new(), counts: HashMap::new() }
    }

    /// The smallest range that holds all ports that are open.
    pub(super) fn range(&self) -> RangeInclusive<u16> {
        match (self.ports.first(), self.ports.last()) {
            (Some((first, _)), Some((last, _))) => *first..=*last,
            _ => NONE,
        }
    }

    /// How many sockets.
    pub(super) fn len(&self) -> usize {
        self.sockets.len()
    }
}

impl OwnedTables for Owned {
    const MOST_SOCKETS: u32 = 1 << 18;
    /// They are counted, whoever they are.
    const MOST_SHARERS: usize = 0;

    fn admit(&mut self, _: u32, _: u32) -> io::Result<bool> {
        Ok(true)
    }

    fn dismiss(&mut self, _: u32) -> io::Result<()> {
        Ok(())
    }

    fn ignore(&mut self, _: u32, _: &Comm) -> io::Result<()> {
        Ok(())
    }

    fn own(&mut self, id: SocketId, socket: &Socket) -> io::Result<bool> {
        if self.sockets.contains_key(&id) {
            return Ok(true);
        }
        if self.sockets.len() >= Self::MOST_SOCKETS as usize {
            return Ok(false);
        }
        let port = (socket.end.local.port(), socket.end.proto);
        self.sockets.insert(id, port);
        *self.counts.entry(port).or_default() += 1;
        if self.ports.insert(port) {
            self.open.set(port, true);
        }
        Ok(true)
    }

    fn join(&mut self, _: SocketId, _: &Socket) -> io::Result<()> {
        Ok(())
    }

    fn disown(&mut self, id: SocketId) -> io::Result<()> {
        if let Some(port) = self.sockets.remove(&id)
            && let Some(count) = self.counts.get_mut(&port)
        {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&port);
            }
        }
        Ok(())
    }

    fn verify(&mut self, _: SocketId) -> io::Result<bool> {
        Ok(true)
    }

    fn close(&mut self, end: &End) -> io::Result<()> {
        let port = (end.local.port(), end.proto);
        if !self.counts.contains_key(&port) && self.ports.remove(&port) {
            self.open.set(port, false);
        }
        Ok(())
    }

    fn all(&mut self) -> io::Result<Option<HashMap<SocketId, Socket>>> {
        Ok(None)
    }

    fn sweep(&mut self, _: impl Fn(Proto, u16) -> bool) -> io::Result<()> {
        Ok(())
    }

    /// Nobody sees them being bound.
    fn seen(&mut self) -> Option<Seen> {
        None
    }

    fn lost(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::namespaces::NamespaceCookie;

    fn socket(local: &str) -> Socket {
        let namespace = NamespaceCookie(1);
        Socket { pid: 1, end: End::new(namespace, Proto::Udp, local.parse().unwrap()) }
    }

    #[test]
    fn a_port_stays_open_until_it_is_closed_and_nobody_has_it() {
        let open = Arc::new(Open::range(&NONE));
        let mut owned = Owned::new(open.clone());
        let is_open = |port: u16| (&*open).contains(UDP, port.to_be());
        let [one, other] = ["192.0.2.1:443", "0.0.0.0:443"].map(socket);
        for (number, socket) in [(1, &one), (2, &other)] {
            assert!(owned.own(SocketId::made_up(number), socket).unwrap());
        }
        assert!(owned.own(SocketId::made_up(3), &socket("0.0.0.0:40000")).unwrap());
        assert!(is_open(443) && is_open(40_000) && !is_open(444));
        assert!(!(&*open).contains(TCP, 443_u16.to_be()));
        assert_eq!((owned.range(), owned.len()), (443..=40_000, 3));
        owned.disown(SocketId::made_up(1)).unwrap();
        owned.close(&one.end).unwrap();
        assert!(is_open(443), "the other has it");
        owned.disown(SocketId::made_up(2)).unwrap();
        assert!(is_open(443), "what trails is its own");
        owned.close(&one.end).unwrap();
        assert!(!is_open(443));
        assert_eq!((owned.range(), owned.len()), (40_000..=40_000, 1));
    }

    #[test]
    fn without_ports_nothing_is_looked_at() {
        let owned = Owned::new(Arc::new(Open::range(&NONE)));
        assert!(owned.range().is_empty());
        assert!(!(&*owned.open).contains(UDP, 0));
    }
}
