//! Who has which local port: the one place in the house that knows.
//!
//! Sockets of the SFU's processes come in as they are found, bound and closed; whoever asks is told who
//! owns a port, by network namespace. No I/O here: sockets are found by `workers`, and their binding
//! and closing is seen by the kernel's programs, where there are some.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::namespaces::NamespaceCookie;
use crate::model::{Proto, canonical};

/// Addresses of one process and port that are told.
const MOST_ADDRESSES: usize = 8;
/// For so long a port that nobody has is its last owner's: longer than a server takes to say that it closed one.
const KEPT: Duration = Duration::from_secs(60);
/// Ports of which that is known.
const MOST_LEFT: usize = 1 << 16;

/// A local end that a socket is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct End {
    /// Its network namespace.
    pub namespace: NamespaceCookie,
    /// Its protocol.
    pub proto: Proto,
    /// Its address, never IPv4-mapped; `0.0.0.0` stands for all of IPv4, `::` for all of both.
    pub local: SocketAddr,
    /// Its `::` stands for all of IPv6 only (IPV6_V6ONLY). False with every other address.
    pub is_v6_only: bool,
}

/// A socket of one of the SFU's processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Socket {
    /// The process.
    pub pid: u32,
    /// Where it is bound.
    pub end: End,
}

/// What a socket is known by: the kernel's cookie for it, or where that cannot be known, its number,
/// which is marked as such.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(u64);

impl SocketId {
    /// Cookies count up from one.
    const MADE_UP: u64 = 1 << 63;

    /// By the kernel's cookie (SO_COOKIE).
    pub const fn cookie(cookie: u64) -> Self {
        Self(cookie & !Self::MADE_UP)
    }

    /// By the number that /proc shows.
    pub const fn made_up(number: u64) -> Self {
        Self(number | Self::MADE_UP)
    }

    /// The kernel does not know it by this.
    pub const fn is_made_up(self) -> bool {
        self.0 & Self::MADE_UP != 0
    }

    /// As a number.
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// All sockets that are owned; shared by all who ask and the one who knows.
#[derive(Debug, Default)]
pub struct Ownership {
    is_unknown: bool,
    registry: RwLock<Registry>,
    /// `None` until the host was looked at.
    local: RwLock<Option<Prefixes>>,
}

/// What is local: single addresses, and the networks that are so as a whole.
#[derive(Debug, Default)]
struct Prefixes {
    addresses: HashSet<IpAddr>,
    networks: Vec<IpNet>,
}

impl Ownership {
    /// Of a host where nobody can know whose a port is, so that all questions stay open (`--ports`).
    pub fn unknown() -> Self {
        Self { is_unknown: true, ..Self::default() }
    }

    /// The process that owns a port in a network namespace, at whatever address; of several the first.
    pub fn owner(&self, namespace: NamespaceCookie, proto: Proto, port: u16) -> Option<u32> {
        let registry = self.registry();
        let mut at_port = registry.at(proto, port);
        at_port.find(|socket| socket.end.namespace == namespace).map(|socket| socket.pid)
    }

    /// Whether a process owns a port. `None`: nobody can know.
    pub fn owns(&self, pid: u32, proto: Proto, port: u16) -> Option<bool> {
        match self.is_unknown {
            true => None,
            false => Some(self.registry().at(proto, port).any(|socket| socket.pid == pid)),
        }
    }

    /// The addresses at which a process has bound a port, a few at most. `None`: nobody can
    /// know. A socket closes before its server can say so, and a server may say late what was: a port that nobody has
    /// taken since is its last owner's for a while.
    pub fn bound<T: FromIterator<IpAddr>>(&self, pid: u32, proto: Proto, port: u16) -> Option<T> {
        if self.is_unknown {
            return None;
        }
        let registry = self.registry();
        let own = registry.last_at(pid, proto, port, Instant::now());
        Some(own.map(|socket| socket.end.local.ip()).take(MOST_ADDRESSES).collect())
    }

    /// What is taken for local from now on.
    pub fn set_local(&self, prefixes: impl Iterator<Item = IpNet>) {
        let (addresses, networks): (Vec<_>, Vec<_>) =
            prefixes.partition(|it| it.prefix_len() == it.max_prefix_len());
        let addresses = addresses.iter().map(IpNet::addr).collect();
        let local = Some(Prefixes { addresses, networks });
        *self.local.write().unwrap_or_else(PoisonError::into_inner) = local;
    }

    /// Whether an address is taken for local. `None`: nobody has looked yet.
    pub fn is_local(&self, address: IpAddr) -> Option<bool> {
        let local = self.local.read().unwrap_or_else(PoisonError::into_inner);
        let Prefixes { addresses, networks } = local.as_ref()?;
        Some(addresses.contains(&address) || networks.iter().any(|it| it.contains(&address)))
    }

    /// Whether somebody owns a local end.
    pub fn has(&self, end: &End) -> bool {
        self.registry().at(end.proto, end.local.port()).any(|socket| socket.end.takes(end))
    }

    /// The sockets that have an end, the oldest first, a few at most.
    pub fn sharers(&self, end: &End, most: usize) -> Vec<(SocketId, Socket)> {
        let registry = self.registry();
        let ids = registry.ports.get(&(end.proto, end.local.port()));
        let all = ids.into_iter().flatten();
        let all = all.filter_map(|id| Some((*id, *registry.sockets.get(id)?)));
        all.filter(|(_, socket)| socket.end == *end).take(most).collect()
    }

    /// All sockets, by whatever is wanted of them.
    pub fn sockets<T>(&self, mut each: impl FnMut(SocketId, &Socket) -> Option<T>) -> Vec<T> {
        let registry = self.registry();
        registry.sockets.iter().filter_map(|(&id, socket)| each(id, socket)).collect()
    }

    /// A socket is owned. False: it was already.
    pub fn insert(&self, id: SocketId, socket: Socket) -> bool {
        self.change().insert(id, socket)
    }

    /// A socket is no longer owned.
    pub fn remove(&self, id: SocketId) -> Option<Socket> {
        self.change().remove(id, Instant::now())
    }

    fn registry(&self) -> RwLockReadGuard<'_, Registry> {
        // Nothing panics between two changes that belong together.
        self.registry.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, Registry> {
        self.registry.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl End {
    /// What is sent to `end` comes to a socket here.
    fn takes(&self, end: &Self) -> bool {
        let takes_address = match self.local.ip() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => end.local.is_ipv4(),
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => end.local.is_ipv6() || !self.is_v6_only,
            address => address == end.local.ip(),
        };
        let port = |end: &Self| (end.namespace, end.proto, end.local.port());
        takes_address && port(self) == port(end)
    }

    /// With an address that is never IPv4-mapped.
    pub fn new(namespace: NamespaceCookie, proto: Proto, local: SocketAddr) -> Self {
        Self { namespace, proto, local: canonical(local), is_v6_only: false }
    }

    /// Whether it can take both families, by its address.
    pub fn may_take_both(&self) -> bool {
        self.local.ip() == Ipv6Addr::UNSPECIFIED
    }

    /// As it is when its socket takes IPv6 only, or does not.
    pub fn with_v6_only(self, is_v6_only: bool) -> Self {
        Self { is_v6_only: is_v6_only && self.may_take_both(), ..self }
    }
}

#[derive(Debug, Default)]
struct Registry {
    sockets: HashMap<SocketId, Socket>,
    ports: HashMap<(Proto, u16), Vec<SocketId>>,
    /// Of ports that nobody has now, who had them last, and since when not.
    last: HashMap<(Proto, u16), Vec<(Socket, Instant)>>,
    /// In which order those were left.
    left: VecDeque<((Proto, u16), Instant)>,
}

impl Registry {
    fn at(&self, proto: Proto, port: u16) -> impl Iterator<Item = &Socket> {
        let ids = self.ports.get(&(proto, port)).map(Vec::as_slice).unwrap_or_default();
        ids.iter().filter_map(|id| self.sockets.get(id))
    }

    /// What a process has at a port, or had.
    fn last_at(
        &self,
        pid: u32,
        proto: Proto,
        port: u16,
        now: Instant,
    ) -> impl Iterator<Item = &Socket> {
        let last = self.last.get(&(proto, port)).map(Vec::as_slice).unwrap_or_default();
        let last = last.iter().filter(move |(_, since)| now.duration_since(*since) < KEPT);
        let all = self.at(proto, port).chain(last.map(|(socket, _)| socket));
        all.filter(move |socket| socket.pid == pid)
    }

    fn insert(&mut self, id: SocketId, socket: Socket) -> bool {
        if self.sockets.contains_key(&id) {
            return false;
        }
        self.sockets.insert(id, socket);
        let port = (socket.end.proto, socket.end.local.port());
        self.ports.entry(port).or_default().push(id);
        self.last.remove(&port);
        true
    }

    fn keep(&mut self, port: (Proto, u16), socket: Socket, now: Instant) {
        let is_due = |since: Instant| now.duration_since(since) >= KEPT;
        while let Some((port, since)) = self.left.front().copied()
            && (is_due(since) || self.left.len() >= MOST_LEFT)
        {
            self.left.pop_front();
            if let Some(last) = self.last.get_mut(&port) {
                last.retain(|(_, left)| *left > since);
                if last.is_empty() {
                    self.last.remove(&port);
                }
            }
        }
        let last = self.last.entry(port).or_default();
        if last.len() < MOST_ADDRESSES {
            last.push((socket, now));
            self.left.push_back((port, now));
        }
    }

    fn remove(&mut self, id: SocketId, now: Instant) -> Option<Socket> {
        let socket = self.sockets.remove(&id)?;
        let port = (socket.end.proto, socket.end.local.port());
        if let Some(ids) = self.ports.get_mut(&port) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.ports.remove(&port);
                self.keep(port, socket, now);
            }
        }
        Some(socket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: NamespaceCookie = NamespaceCookie(1);
    const THERE: NamespaceCookie = NamespaceCookie(2);

    fn end(namespace: NamespaceCookie, local: &str) -> End {
        End::new(namespace, Proto::Udp, local.parse().unwrap())
    }

    #[test]
    fn a_port_that_nobody_took_is_its_last_owners_for_a_while() {
        let (mut registry, now) = (Registry::default(), Instant::now());
        let socket = |pid| Socket { pid, end: end(HERE, "192.0.2.1:443") };
        let has = |registry: &Registry, pid, after: Duration| {
            registry.last_at(pid, Proto::Udp, 443, now + after).count()
        };
        registry.insert(SocketId::cookie(1), socket(10));
        registry.remove(SocketId::cookie(1), now);
        let moment = Duration::from_secs(1);
        assert_eq!((has(&registry, 10, moment), has(&registry, 11, moment)), (1, 0));
        assert_eq!(has(&registry, 10, KEPT), 0, "not for good");
        registry.insert(SocketId::cookie(2), socket(11));
        assert_eq!(
            (has(&registry, 10, moment), has(&registry, 11, moment)),
            (0, 1),
            "another's now"
        );
        registry.remove(SocketId::cookie(2), now + KEPT);
        assert_eq!(has(&registry, 11, KEPT + moment), 1);
        for cookie in 3..3 + 2 * MOST_LEFT as u64 {
            let end = end(HERE, &format!("192.0.2.1:{}", cookie % 60_000 + 1));
            registry.insert(SocketId::cookie(cookie), Socket { pid: 1, end });
            registry.remove(SocketId::cookie(cookie), now + KEPT);
        }
        assert!(registry.left.len() <= MOST_LEFT && registry.last.len() <= MOST_LEFT);
    }

    fn owned(sockets: &[(u64, u32, End)]) -> Ownership {
        let ownership = Ownership::default();
        for &(cookie, pid, end) in sockets {
            assert!(ownership.insert(SocketId::cookie(cookie), Socket { pid, end }));
        }
        ownership
    }

    #[test]
    fn a_port_is_its_owners_in_its_namespace() {
        let ownership = owned(&[
            (1, 10, end(HERE, "192.0.2.1:443")),
            (2, 11, end(THERE, "0.0.0.0:443")),
            (3, 11, end(THERE, "0.0.0.0:444")),
        ]);
        assert_eq!(ownership.owner(HERE, Proto::Udp, 443), Some(10));
        assert_eq!(ownership.owner(THERE, Proto::Udp, 443), Some(11));
        assert_eq!(ownership.owner(HERE, Proto::Udp, 444), None);
        assert_eq!(ownership.owner(HERE, Proto::Tcp, 443), None);
        assert_eq!(ownership.owns(10, Proto::Udp, 443), Some(true));
        assert_eq!(ownership.owns(10, Proto::Udp, 444), Some(false));
        assert_eq!(Ownership::unknown().owns(10, Proto::Udp, 443), None);
    }

    #[test]
    fn a_port_is_owned_until_the_last_socket_goes() {
        let both = [(1, 10, end(HERE, "0.0.0.0:443")), (2, 10, end(HERE, "0.0.0.0:443"))];
        let ownership = owned(&both);
        assert!(!ownership.insert(SocketId::cookie(2), Socket { pid: 3, end: both[0].2 }));
        for (cookie, is_left) in [(2, true), (1, false)] {
            assert!(ownership.remove(SocketId::cookie(cookie)).is_some());
            assert!(ownership.remove(SocketId::cookie(cookie)).is_none());
            assert_eq!(ownership.owner(HERE, Proto::Udp, 443).is_some(), is_left);
        }
        assert!(ownership.sockets(|id, _| Some(id)).is_empty());
    }

    #[test]
    fn an_address_may_stand_for_many() {
        let check = |bound: &str, taken: [bool; 3]| {
            let ownership = owned(&[(1, 10, end(HERE, bound))]);
            let ends = ["192.0.2.1:443", "192.0.2.2:443", "[2001:db8::1]:443"];
            let found = ends.map(|local| ownership.has(&end(HERE, local)));
            assert_eq!(found, taken, "{bound}");
            assert!(!ownership.has(&end(THERE, "192.0.2.1:443")));
            assert!(!ownership.has(&end(HERE, "192.0.2.1:444")));
        };
        check("192.0.2.1:443", [true, false, false]);
        check("[::ffff:192.0.2.1]:443", [true, false, false]);
        check("0.0.0.0:443", [true, true, false]);
        check("[::]:443", [true, true, true]);
        check("[2001:db8::1]:443", [false, false, true]);
    }

    #[test]
    fn a_socket_for_ipv6_only_leaves_ipv4_to_others() {
        let ownership = owned(&[(1, 10, end(HERE, "[::]:443").with_v6_only(true))]);
        let ends = ["192.0.2.1:443", "[2001:db8::1]:443"];
        assert_eq!(ends.map(|local| ownership.has(&end(HERE, local))), [false, true]);
        let specific = end(HERE, "[2001:db8::1]:443");
        assert_eq!(specific.with_v6_only(true), specific, "an address has one family anyway");
    }

    #[test]
    fn made_up_ids_meet_no_cookies() {
        assert_ne!(SocketId::cookie(7), SocketId::made_up(7));
        assert!(SocketId::made_up(7).is_made_up() && !SocketId::cookie(7).is_made_up());
    }
}
