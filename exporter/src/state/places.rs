//! Where things are: which room a router serves, which router a transport is in, which peer owns
//! what. Servers tell these in any order and from two sides, so nothing is copied from one object to
//! another: each claim is kept where it was told, and put together when somebody asks. Hence a line
//! costs the same however many objects it concerns.

use std::hash::Hash;

use foldhash::fast::RandomState;
use foldhash::{HashMap, HashSet};
use indexmap::{IndexMap, IndexSet};
use smallvec::SmallVec;

use super::sources::{Kind, Reason, Sources};
use super::{Owned, State};
use crate::model::{
    ConsumerId, PeerId, PeerKey, Producer, ProducerId, RoomId, RoomKey, RouterId, SourceId,
    Transport, TransportId, TransportKind,
};

/// Sources that may claim the same thing at a time.
const CLAIMANTS: usize = 8;
/// Transports that one producer's copies may be on: the original and its pipes to other routers.
pub(super) const COPIES: usize = 256;

/// The relations between objects, and their indexes.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) routers: HashMap<RouterId, Router>,
    transports_of: HashMap<RouterId, IndexSet<TransportId, RandomState>>,
    pub(super) rooms: HashMap<RoomKey, Room>,
    rooms_of_router: HashMap<RouterId, Claims<RoomKey>>,
    sessions: HashMap<RoomId, Session>,
    /// Told by a server that knows its peers' objects.
    owners: HashMap<Owned, Claims<PeerKey>>,
    pub(super) nodes: HashMap<TransportId, Node>,
    /// Where a producer is: piped ones share their id.
    copies: HashMap<ProducerId, SmallVec<[TransportId; 1]>>,
}

/// What several sources say of one thing, each once.
type Claims<T> = SmallVec<[T; 1]>;

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
struct Session {
    rooms: Claims<RoomKey>,
    /// How many routers of each source serve it.
    routers: SmallVec<[(SourceId, u32); 1]>,
}

/// What is on a transport, which itself may not have been told yet.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// Who told the transport, or else the first thing on it.
    pub(super) source: SourceId,
    pub(super) children: IndexSet<Child, RandomState>,
    /// Producers on it that name their peer.
    announcers: IndexMap<ProducerId, PeerId, RandomState>,
    /// The state's revision when its SSRCs last changed.
    pub(super) ssrcs_changed: u64,
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

impl State {
    /// Where a transport is.
    pub fn place(&self, transport: &Transport) -> Place<'_> {
        let Places { routers, .. } = &self.places;
        let router = routers.get_key_value(&transport.router);
        let router = router.filter(|(_, router)| router.source == transport.source);
        let peer = self.peer_of_transport(transport);
        let Some((id, router)) = router else {
            return Place { pid: 0, room: None, session: None, peer };
        };
        let session = router.session.as_ref();
        Place {
            pid: if router.is_own { router.worker.unwrap_or(router.pid) } else { 0 },
            room: self.places.room_of_router(id, router, &self.sources).map(RoomRef::from),
            session: session.map(|id| RoomRef { source: router.source, id }),
            peer,
        }
    }

    /// The room of something at a place that belongs to this peer: the router's, or else the peer's. A
    /// session is no room.
    pub fn room_at<'a>(&'a self, place: &Place<'a>, peer: Option<&PeerKey>) -> Option<RoomRef<'a>> {
        let of_peer = || {
            let peer = self.peers.get(peer?)?;
            Some(RoomRef { source: peer.source, id: peer.room.as_ref()? })
        };
        place.room.or_else(of_peer)
    }

    /// What something there is said to be in: the room, or the session that stands in for one.
    pub fn room_or_session_at<'a>(
        &'a self,
        place: &Place<'a>,
        peer: Option<&PeerKey>,
    ) -> Option<RoomRef<'a>> {
        self.room_at(place, peer).or(place.session)
    }

    /// Who owns a producer by what is told of itself, not of its transport. `near` is who owns the
    /// transport: mostly they are the same.
    pub fn peer_of_producer(&self, producer: &Producer, near: Option<&PeerKey>) -> Option<PeerKey> {
        if producer.owner.is_some() {
            return producer.owner.clone();
        }
        let announced = producer.announced.as_ref()?;
        let known = near.filter(|near| near.id == *announced);
        Some(known.cloned().unwrap_or_else(|| self.announced(producer.source, announced)))
    }

    /// Told, or else whoever announces a producer on it. A pipe transport is nobody's.
    fn peer_of_transport(&self, transport: &Transport) -> Option<PeerKey> {
        if transport.owner.is_some() || transport.kind == TransportKind::Pipe {
            return transport.owner.clone();
        }
        let (_, peer) = self.places.nodes.get(&transport.id)?.announcers.first()?;
        Some(self.announced(transport.source, peer))
    }

    /// The peer that a source's `appData` means: its own, or one of another that may speak for it.
    fn announced(&self, source: SourceId, id: &PeerId) -> PeerKey {
        let key = |source| PeerKey { source, id: id.clone() };
        let own = key(source);
        if self.peers.contains_key(&own) {
            return own;
        }
        let others = self.sources.speakers_of_peers(source).map(key);
        others.into_iter().find(|key| self.peers.contains_key(key)).unwrap_or(own)
    }

    /// Rooms that servers told.
    pub fn told_rooms(&self) -> impl Iterator<Item = RoomRef<'_>> {
        self.places.rooms.keys().map(RoomRef::from)
    }

    /// Rooms that servers told, and those that are known by their peers only.
    pub fn rooms(&self) -> HashSet<RoomRef<'_>> {
        let of_peers = self
            .peers
            .values()
            .filter_map(|peer| Some(RoomRef { source: peer.source, id: peer.room.as_ref()? }));
        self.told_rooms().chain(of_peers).collect()
    }

    /// Adds or replaces a router.
    pub fn put_router(
        &mut self,
        id: RouterId,
        source: SourceId,
        pid: u32,
        session: Option<RoomId>,
    ) {
        self.leave_session(&id);
        if let Some(session) = &session {
            let routers = &mut self.places.sessions.entry(session.clone()).or_default().routers;
            match routers.iter_mut().find(|(of, _)| *of == source) {
                Some((_, count)) => *count += 1,
                None => routers.push((source, 1)),
            }
        }
        let (worker, is_own) = self.look_up_worker(source, pid);
        let router = Router { source, pid, worker, is_own, session };
        let old = self.places.routers.insert(id.clone(), router);
        let moved = old.is_none_or(|old| (old.source, old.pid) != (source, pid));
        if moved && self.places.transports_of.contains_key(&id) {
            self.unsettled.insert(id);
        }
    }

    /// Forgets a router.
    pub fn remove_router(&mut self, id: &RouterId) {
        self.leave_session(id);
        if self.places.routers.remove(id).is_some() && self.places.transports_of.contains_key(id) {
            self.unsettled.insert(id.clone());
        }
    }

    fn leave_session(&mut self, id: &RouterId) {
        let Some(router) = self.places.routers.get(id) else { return };
        let Some(name) = &router.session else { return };
        let Some(session) = self.places.sessions.get_mut(name) else { return };
        session.routers.iter_mut().filter(|it| it.0 == router.source).for_each(|it| it.1 -= 1);
        session.routers.retain(|(_, count)| *count > 0);
        if session.routers.is_empty() && session.rooms.is_empty() {
            self.places.sessions.remove(name);
        }
    }

    /// Adds or replaces a room, with the sessions and routers that it claims.
    pub fn put_room(&mut self, key: RoomKey, sessions: Box<[RoomId]>, routers: Box<[RouterId]>) {
        self.remove_room(&key);
        let Self { places, sources, .. } = self;
        let source = key.source;
        let (mut full, mut spoken_for) = (0, 0);
        for id in &sessions {
            let session = places.sessions.entry(id.clone()).or_default();
            full += usize::from(!claim(&mut session.rooms, key.clone()));
            let others = session.routers.iter().filter(|it| !sources.may_speak_for(source, it.0));
            spoken_for += others.count();
        }
        for id in &routers {
            let rooms = places.rooms_of_router.entry(id.clone()).or_default();
            full += usize::from(!claim(rooms, key.clone()));
            let teller = places.routers.get(id).map(|router| router.source);
            let refused = teller.is_some_and(|teller| !sources.may_speak_for(source, teller));
            spoken_for += usize::from(refused);
        }
        sources.refuse(source, Reason::Full, Kind::Link, full);
        sources.refuse(source, Reason::Standing, Kind::Link, spoken_for);
        places.rooms.insert(key, Room { sessions, routers });
    }

    /// Forgets a room and what it claims.
    pub fn remove_room(&mut self, key: &RoomKey) {
        let places = &mut self.places;
        let Some(old) = places.rooms.remove(key) else { return };
        for id in &old.sessions {
            let Some(session) = places.sessions.get_mut(id) else { continue };
            // The session may have moved to another room since.
            session.rooms.retain(|room| room != key);
            if session.routers.is_empty() && session.rooms.is_empty() {
                places.sessions.remove(id);
            }
        }
        for id in &old.routers {
            unclaim(&mut places.rooms_of_router, id, |room| room == key);
        }
    }

    /// Notes what a source says of an object's owner; false when there is no room for that.
    pub(super) fn claim_owner(&mut self, object: &Owned, peer: PeerKey) -> bool {
        let source = peer.source;
        let claims = self.places.owners.entry(object.clone()).or_default();
        if !claim(claims, peer) {
            return false;
        }
        let refused = self.tellers(object).any(|it| !self.sources.may_speak_for(source, it));
        self.sources.refuse(source, Reason::Standing, Kind::Owner, usize::from(refused));
        self.settle_owner(object);
        true
    }

    /// A source says no more whose an object is.
    pub(super) fn unclaim_owner(&mut self, object: &Owned, source: SourceId) {
        unclaim(&mut self.places.owners, object, |peer| peer.source == source);
        self.settle_owner(object);
    }

    /// Whether this source says whose an object is.
    pub(super) fn claims_owner(&self, object: &Owned, source: SourceId) -> bool {
        let claims = self.places.owners.get(object);
        claims.is_some_and(|claims| claims.iter().any(|peer| peer.source == source))
    }

    /// Who owns an object that this source tells.
    pub(super) fn owner_of(&mut self, object: &Owned, teller: SourceId) -> Option<PeerKey> {
        let claims = self.places.owners.get(object)?;
        let owner = best(claims, teller, &self.sources).cloned();
        let unheard = claims.iter().filter(|it| !self.sources.may_speak_for(it.source, teller));
        let unheard: SmallVec<[SourceId; 1]> = unheard.map(|peer| peer.source).collect();
        for source in unheard {
            self.sources.refuse(source, Reason::Standing, Kind::Owner, 1);
        }
        owner
    }

    /// Who told an object; a producer may be on several transports.
    fn tellers<'a>(&'a self, object: &'a Owned) -> impl Iterator<Item = SourceId> + use<'a> {
        let (transport, consumer, copies) = match object {
            Owned::Transport(id) => (self.transports.get(id), None, None),
            Owned::Consumer(id) => (None, self.consumers.get(id), None),
            Owned::Producer(id) => (None, None, self.places.copies.get(id).map(|on| (id, on))),
        };
        let copies = copies.into_iter().flat_map(|(id, on)| on.iter().map(move |on| (on, id)));
        let copies = copies.filter_map(|(on, id)| self.producers.get(&(on.clone(), id.clone())));
        let sources = copies.map(|producer| producer.source);
        sources.chain(transport.map(|it| it.source)).chain(consumer.map(|it| it.source))
    }

    /// Looks again whose an object is.
    fn settle_owner(&mut self, object: &Owned) {
        let Self { places, sources, transports, producers, consumers, .. } = self;
        let claims = places.owners.get(object);
        let owner = |teller| best(claims?, teller, sources).cloned();
        match object {
            Owned::Transport(id) => {
                if let Some(transport) = transports.get_mut(id) {
                    transport.owner = owner(transport.source);
                }
            }
            Owned::Consumer(id) => {
                if let Some(consumer) = consumers.get_mut(id) {
                    consumer.owner = owner(consumer.source);
                }
            }
            Owned::Producer(id) => {
                for on in places.copies.get(id).into_iter().flatten() {
                    if let Some(producer) = producers.get_mut(&(on.clone(), id.clone())) {
                        producer.owner = owner(producer.source);
                    }
                }
            }
        }
    }

    /// Looks again whose everything is: it is known anew who may speak for whom.
    pub(super) fn settle_owners(&mut self) {
        let objects: Vec<Owned> = self.places.owners.keys().cloned().collect();
        objects.iter().for_each(|object| self.settle_owner(object));
    }
}

impl Places {
    /// The room of a router by name.
    fn room_of_router<'a>(
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

trait Sourced: PartialEq {
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
fn claim<T: Sourced>(claims: &mut Claims<T>, new: T) -> bool {
    match claims.iter().position(|old| old.source() == new.source()) {
        Some(at) => claims[at] = new,
        None if claims.len() < CLAIMANTS => claims.push(new),
        None => return false,
    }
    true
}

/// Takes claims back.
fn unclaim<K: Hash + Eq, T>(
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
fn best<'a, T: Sourced>(
    claims: &'a Claims<T>,
    teller: SourceId,
    sources: &Sources,
) -> Option<&'a T> {
    let own = claims.iter().find(|claim| claim.source() == teller);
    own.or_else(|| claims.iter().find(|claim| sources.may_speak_for(claim.source(), teller)))
}
