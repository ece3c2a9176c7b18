//! Where things are: which room a router serves, which router a transport is in, which peer owns
//! what. Servers tell these in any order and from two sides, so nothing is copied from one object to
//! another: each claim is kept where it was told, and put together when somebody asks. Hence a line
//! costs the same however many objects it concerns.

use std::hash::Hash;

use foldhash::HashMap;
use foldhash::fast::RandomState;
use indexmap::{IndexMap, IndexSet};
use smallvec::SmallVec;

use super::event::Owned;
use super::ladder::Rung;
use super::sources::Sources;
use crate::model::{
    ConsumerId, PeerId, PeerKey, Producer, ProducerId, RoomId, RoomKey, RouterId, SourceId,
    TransportId,
};

/// Sources that may claim the same thing at a time.
pub(super) const CLAIMANTS: usize = 8;
/// Transports that one producer's copies may be on: the original and its pipes to other routers.
pub(super) const COPIES: usize = 256;

/// The relations between objects, and their indexes.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) routers: HashMap<RouterId, Router>,
    pub(super) transports_of: HashMap<RouterId, IndexSet<TransportId, RandomState>>,
    pub(super) rooms: HashMap<RoomKey, Room>,
    pub(super) rooms_of_router: HashMap<RouterId, Claims<RoomKey>>,
    pub(super) sessions: HashMap<RoomId, Session>,
    /// Told by a server that knows its peers' objects.
    pub(super) owners: HashMap<Owned, Claims<PeerKey>>,
    pub(super) nodes: HashMap<TransportId, Node>,
    /// Where a producer is: piped ones share their id.
    pub(super) copies: HashMap<ProducerId, SmallVec<[TransportId; 1]>>,
}

/// What several sources say of one thing, each once.
pub(super) type Claims<T> = SmallVec<[T; 1]>;

#[derive(Debug)]
pub(super) struct Router {
    pub(super) source: SourceId,
    pub(super) pid: u32,
    /// The host's number of that process, where it is known.
    pub(super) worker: Option<u32>,
    /// The process is a worker of the source's, as far as can be known.
    pub(super) is_own: bool,
    pub(super) session: Option<RoomId>,
}

#[derive(Debug)]
pub(super) struct Room {
    pub(super) sessions: Box<[RoomId]>,
    pub(super) routers: Box<[RouterId]>,
}

#[derive(Debug, Default)]
pub(super) struct Session {
    pub(super) rooms: Claims<RoomKey>,
    /// How many routers of each source serve it.
    pub(super) routers: SmallVec<[(SourceId, u32); 1]>,
}

/// What is on a transport, which itself may not have been told yet.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// Who told the transport, or else the first thing on it.
    pub(super) source: SourceId,
    pub(super) children: IndexSet<Child, RandomState>,
    /// Producers on it that name their peer.
    pub(super) announcers: IndexMap<ProducerId, PeerId, RandomState>,
    /// The state's revision when its SSRCs last changed.
    pub(super) ssrcs_changed: u64,
    /// How far the transport came until now.
    pub(super) reached: Rung,
}

/// A producer or consumer on a transport.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Child {
    Producer(ProducerId),
    Consumer(ConsumerId),
}

/// A room, named by whoever told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomRef<'a> {
    /// Who told it.
    pub source: SourceId,
    /// Its name.
    pub id: &'a RoomId,
}

impl RoomRef<'_> {
    /// What the room is known by.
    pub fn to_key(self) -> RoomKey {
        RoomKey { source: self.source, id: self.id.clone() }
    }
}

impl<'a> From<&'a RoomKey> for RoomRef<'a> {
    fn from(key: &'a RoomKey) -> Self {
        Self { source: key.source, id: &key.id }
    }
}

/// Where a transport is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// Process id of its worker; 0 where it is not known, or not the source's own.
    pub pid: u32,
    /// The room that its router serves, by name.
    pub room: Option<RoomRef<'a>>,
    /// The router's session, which stands in for a room that has no name. It is none itself: a room may
    /// have several, and one that has ended may leave its own behind.
    pub session: Option<RoomRef<'a>>,
    /// Who owns it.
    pub peer: Option<PeerKey>,
}

impl Places {
    /// The room of a router by name.
    pub(super) fn room_of_router<'a>(
        &'a self,
        id: &RouterId,
        router: &Router,
        sources: &Sources,
    ) -> Option<&'a RoomKey> {
        let claims = self.rooms_of_router.get(id);
        claims.and_then(|claims| best(claims, router.source, sources)).or_else(|| {
            let session = self.sessions.get(router.session.as_ref()?)?;
            best(&session.rooms, router.source, sources)
        })
    }

    pub(super) fn transports_of(&self, router: &RouterId) -> impl Iterator<Item = &TransportId> {
        self.transports_of.get(router).into_iter().flatten()
    }

    /// A transport is in this router now.
    pub(super) fn move_transport(
        &mut self,
        id: &TransportId,
        old: Option<&RouterId>,
        new: Option<&RouterId>,
    ) {
        if old == new {
            return;
        }
        if let Some(old) = old
            && let Some(transports) = self.transports_of.get_mut(old)
        {
            transports.swap_remove(id);
            if transports.is_empty() {
                self.transports_of.remove(old);
            }
        }
        if let Some(new) = new {
            self.transports_of.entry(new.clone()).or_default().insert(id.clone());
        }
    }

    /// What is on a transport.
    pub(super) fn node(&mut self, transport: &TransportId, source: SourceId) -> &mut Node {
        let fresh = || Node { source, ..Node::default() };
        self.nodes.entry(transport.clone()).or_insert_with(fresh)
    }

    /// Whether another producer of this id may be put on a transport.
    pub(super) fn has_room_for_copy(&self, transport: &TransportId, id: &ProducerId) -> bool {
        let copies = self.copies.get(id);
        copies.is_none_or(|copies| copies.len() < COPIES || copies.contains(transport))
    }

    pub(super) fn place_producer(&mut self, producer: &Producer) {
        let Producer { id, source, transport, announced, .. } = producer;
        let node = self.node(transport, *source);
        node.children.insert(Child::Producer(id.clone()));
        match announced {
            Some(peer) => drop(node.announcers.insert(id.clone(), peer.clone())),
            None => drop(node.announcers.swap_remove(id)),
        }
        let copies = self.copies.entry(id.clone()).or_default();
        if !copies.contains(transport) {
            copies.push(transport.clone());
        }
    }

    pub(super) fn unplace_producer(&mut self, transport: &TransportId, id: &ProducerId) {
        if let Some(node) = self.nodes.get_mut(transport) {
            node.announcers.swap_remove(id);
        }
        self.unplace(transport, &Child::Producer(id.clone()));
        unclaim(&mut self.copies, id, |on| on == transport);
    }

    pub(super) fn place_consumer(
        &mut self,
        transport: &TransportId,
        source: SourceId,
        id: &ConsumerId,
    ) {
        self.node(transport, source).children.insert(Child::Consumer(id.clone()));
    }

    pub(super) fn unplace_consumer(&mut self, transport: &TransportId, id: &ConsumerId) {
        self.unplace(transport, &Child::Consumer(id.clone()));
    }

    fn unplace(&mut self, transport: &TransportId, child: &Child) {
        if let Some(node) = self.nodes.get_mut(transport) {
            node.children.swap_remove(child);
        }
    }
}

pub(super) trait Sourced: PartialEq {
    fn source(&self) -> SourceId;
}

impl Sourced for RoomKey {
    fn source(&self) -> SourceId {
        self.source
    }
}

impl Sourced for PeerKey {
    fn source(&self) -> SourceId {
        self.source
    }
}

/// Adds a claim, instead of an older one of the same source; false when there are too many.
pub(super) fn claim<T: Sourced>(claims: &mut Claims<T>, new: T) -> bool {
    match claims.iter().position(|old| old.source() == new.source()) {
        Some(at) => claims[at] = new,
        None if claims.len() < CLAIMANTS => claims.push(new),
        None => return false,
    }
    true
}

/// Takes claims back.
pub(super) fn unclaim<K: Hash + Eq, T>(
    all: &mut HashMap<K, SmallVec<[T; 1]>>,
    key: &K,
    gone: impl Fn(&T) -> bool,
) {
    if let Some(claims) = all.get_mut(key) {
        claims.retain(|claim| !gone(claim));
        if claims.is_empty() {
            all.remove(key);
        }
    }
}

/// The claim that holds on what `teller` told: its own, or else the first of those that may speak for it.
pub(super) fn best<'a, T: Sourced>(
    claims: &'a Claims<T>,
    teller: SourceId,
    sources: &Sources,
) -> Option<&'a T> {
    let own = claims.iter().find(|claim| claim.source() == teller);
    own.or_else(|| claims.iter().find(|claim| sources.may_speak_for(claim.source(), teller)))
}
