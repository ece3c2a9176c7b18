//! Where things are: which room a router serves, which router a transport is in, which peer owns
//! what. Servers tell these in any order and from two sides; each change settles what depends on it.
//!
//! Only the `room`, `peer` and `pid` fields of [`State`]'s objects are written here.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use super::{Owned, RouterId, State};
use crate::model::{ConsumerId, PeerId, ProducerId, RoomId, TransportId, TransportKind};

/// The relations between objects, and their indexes.
#[derive(Debug, Default)]
pub(super) struct Places {
    routers: HashMap<RouterId, Router>,
    rooms: HashMap<RoomId, Room>,
    room_of_session: HashMap<Arc<str>, RoomId>,
    room_of_router: HashMap<RouterId, RoomId>,
    routers_of_session: HashMap<Arc<str>, HashSet<RouterId>>,
    router_of: HashMap<TransportId, RouterId>,
    transports_of: HashMap<RouterId, HashSet<TransportId>>,
    producers_on: HashMap<TransportId, HashSet<ProducerId>>,
    consumers_on: HashMap<TransportId, HashSet<ConsumerId>>,
    transports_of_producer: HashMap<ProducerId, HashSet<TransportId>>,
    /// Told by a server that knows its peers' objects.
    owner_of: HashMap<Owned, PeerId>,
    /// What a producer's `appData` says.
    announced: HashMap<ProducerId, PeerId>,
    /// Objects to settle again when a peer changes its room.
    of_peer: HashMap<PeerId, HashSet<Owned>>,
}

#[derive(Debug)]
struct Router {
    pid: u32,
    session: Option<Arc<str>>,
}

#[derive(Debug)]
struct Room {
    sessions: Vec<Arc<str>>,
    routers: Vec<RouterId>,
}

impl Places {
    pub(super) fn rooms(&self) -> impl Iterator<Item = &RoomId> {
        self.rooms.keys()
    }

    pub(super) fn room_count(&self) -> usize {
        self.rooms.len()
    }

    pub(super) fn router_count(&self) -> usize {
        self.routers.len()
    }

    pub(super) fn owner_count(&self) -> usize {
        self.owner_of.len()
    }

    pub(super) fn owns(&self, object: &Owned) -> bool {
        self.owner_of.contains_key(object)
    }

    /// What is on a transport.
    pub(super) fn on_transport(&self, id: &TransportId) -> (Vec<ProducerId>, Vec<ConsumerId>) {
        (members(&self.producers_on, id), members(&self.consumers_on, id))
    }

    /// The room of a router by name, and the session that stands in for it.
    fn rooms_of_router(&self, id: &RouterId) -> (Option<RoomId>, Option<RoomId>) {
        let session = self.routers.get(id).and_then(|router| router.session.as_ref());
        let named = self
            .room_of_router
            .get(id)
            .or_else(|| session.and_then(|session| self.room_of_session.get(session)));
        (named.cloned(), session.map(|session| RoomId(session.clone())))
    }
}

impl State {
    pub(super) fn place_router(&mut self, id: RouterId, pid: u32, session: Option<Arc<str>>) {
        self.unplace_session(&id);
        if let Some(session) = &session {
            let routers = self.places.routers_of_session.entry(session.clone()).or_default();
            routers.insert(id.clone());
        }
        self.places.routers.insert(id.clone(), Router { pid, session });
        self.settle_router(&id);
    }

    pub(super) fn unplace_router(&mut self, id: &RouterId) {
        self.unplace_session(id);
        self.places.routers.remove(id);
        self.settle_router(id);
    }

    fn unplace_session(&mut self, id: &RouterId) {
        let session = self.places.routers.get(id).and_then(|router| router.session.clone());
        if let Some(session) = session {
            leave(&mut self.places.routers_of_session, &session, id);
        }
    }

    pub(super) fn place_room(
        &mut self,
        id: RoomId,
        sessions: Vec<Arc<str>>,
        routers: Vec<RouterId>,
    ) {
        let mut touched = self.release_room(&id);
        for session in &sessions {
            self.places.room_of_session.insert(session.clone(), id.clone());
            touched.extend(members(&self.places.routers_of_session, session));
        }
        for router in &routers {
            self.places.room_of_router.insert(router.clone(), id.clone());
            touched.insert(router.clone());
        }
        self.places.rooms.insert(id, Room { sessions, routers });
        touched.iter().for_each(|router| self.settle_router(router));
    }

    pub(super) fn unplace_room(&mut self, id: &RoomId) {
        let touched = self.release_room(id);
        touched.iter().for_each(|router| self.settle_router(router));
    }

    /// Forgets a room's sessions and routers; returns the routers that it served.
    fn release_room(&mut self, id: &RoomId) -> HashSet<RouterId> {
        let places = &mut self.places;
        let Some(old) = places.rooms.remove(id) else { return HashSet::new() };
        let mut touched = HashSet::new();
        for session in &old.sessions {
            // The session may have moved to another room since.
            if places.room_of_session.get(session) == Some(id) {
                places.room_of_session.remove(session);
                touched.extend(members(&places.routers_of_session, session));
            }
        }
        for router in old.routers {
            if places.room_of_router.get(&router) == Some(id) {
                places.room_of_router.remove(&router);
                touched.insert(router);
            }
        }
        touched
    }

    pub(super) fn place_transport(&mut self, id: &TransportId, router: RouterId) {
        if let Some(old) = self.places.router_of.insert(id.clone(), router.clone()) {
            leave(&mut self.places.transports_of, &old, id);
        }
        self.places.transports_of.entry(router).or_default().insert(id.clone());
        self.settle_transport(id);
    }

    pub(super) fn unplace_transport(&mut self, id: &TransportId) {
        let peer = self.transports.get(id).and_then(|transport| transport.peer.clone());
        self.follow(Owned::Transport(id.clone()), peer, None);
        if let Some(router) = self.places.router_of.remove(id) {
            leave(&mut self.places.transports_of, &router, id);
        }
    }

    pub(super) fn place_producer(
        &mut self,
        transport: &TransportId,
        id: &ProducerId,
        announced: Option<PeerId>,
    ) {
        let places = &mut self.places;
        places.producers_on.entry(transport.clone()).or_default().insert(id.clone());
        places.transports_of_producer.entry(id.clone()).or_default().insert(transport.clone());
        if let Some(peer) = announced {
            places.announced.insert(id.clone(), peer);
            // It may be the first to tell whose the transport is.
            if self.transports.get(transport).is_some_and(|transport| transport.peer.is_none()) {
                self.settle_transport(transport);
            }
        }
        self.settle_producer(transport, id);
    }

    pub(super) fn unplace_producer(&mut self, transport: &TransportId, id: &ProducerId) {
        let key = (transport.clone(), id.clone());
        let peer = self.producers.get(&key).and_then(|producer| producer.peer.clone());
        self.follow(Owned::Producer(id.clone()), peer, None);
        leave(&mut self.places.producers_on, transport, id);
        leave(&mut self.places.transports_of_producer, id, transport);
        if !self.places.transports_of_producer.contains_key(id) {
            self.places.announced.remove(id);
        }
    }

    pub(super) fn place_consumer(&mut self, transport: &TransportId, id: &ConsumerId) {
        self.places.consumers_on.entry(transport.clone()).or_default().insert(id.clone());
        self.settle_consumer(id);
    }

    pub(super) fn unplace_consumer(&mut self, transport: &TransportId, id: &ConsumerId) {
        let peer = self.consumers.get(id).and_then(|consumer| consumer.peer.clone());
        self.follow(Owned::Consumer(id.clone()), peer, None);
        leave(&mut self.places.consumers_on, transport, id);
    }

    pub(super) fn place_owner(&mut self, object: Owned, peer: PeerId) {
        self.places.owner_of.insert(object.clone(), peer);
        self.settle(&object);
    }

    pub(super) fn unplace_owner(&mut self, object: &Owned) {
        if self.places.owner_of.remove(object).is_some() {
            self.settle(object);
        }
    }

    /// Settles what belongs to a peer whose room changed.
    pub(super) fn settle_peer(&mut self, peer: &PeerId) {
        for object in members(&self.places.of_peer, peer) {
            self.settle(&object);
        }
    }

    fn settle(&mut self, object: &Owned) {
        match object {
            Owned::Transport(id) => self.settle_transport(id),
            Owned::Consumer(id) => self.settle_consumer(id),
            Owned::Producer(id) => {
                for transport in members(&self.places.transports_of_producer, id) {
                    self.settle_producer(&transport, id);
                }
            }
        }
    }

    fn settle_router(&mut self, id: &RouterId) {
        for transport in members(&self.places.transports_of, id) {
            self.settle_transport(&transport);
        }
    }

    fn settle_transport(&mut self, id: &TransportId) {
        let peer = self.peer_of_transport(id);
        let room = self.room_of(id, peer.as_ref());
        let pid = self.pid_of(id);
        let Some(transport) = self.transports.get_mut(id) else { return };
        let old = std::mem::replace(&mut transport.peer, peer.clone());
        transport.room = room;
        transport.pid = pid;
        self.follow(Owned::Transport(id.clone()), old, peer);
        let (producers, consumers) = self.places.on_transport(id);
        producers.iter().for_each(|producer| self.settle_producer(id, producer));
        consumers.iter().for_each(|consumer| self.settle_consumer(consumer));
    }

    fn settle_producer(&mut self, transport: &TransportId, id: &ProducerId) {
        let told = self.places.owner_of.get(&Owned::Producer(id.clone()));
        let peer = told.or_else(|| self.places.announced.get(id)).cloned();
        let peer = peer.or_else(|| self.transports.get(transport)?.peer.clone());
        let room = self.room_of(transport, peer.as_ref());
        let key = (transport.clone(), id.clone());
        let Some(producer) = self.producers.get_mut(&key) else { return };
        producer.room = room;
        let old = std::mem::replace(&mut producer.peer, peer.clone());
        self.follow(Owned::Producer(id.clone()), old, peer);
    }

    fn settle_consumer(&mut self, id: &ConsumerId) {
        let Some(consumer) = self.consumers.get(id) else { return };
        let transport = consumer.transport.clone();
        let told = self.places.owner_of.get(&Owned::Consumer(id.clone())).cloned();
        let peer = told.or_else(|| self.transports.get(&transport)?.peer.clone());
        let room = self.room_of(&transport, peer.as_ref());
        let Some(consumer) = self.consumers.get_mut(id) else { return };
        consumer.room = room;
        let old = std::mem::replace(&mut consumer.peer, peer.clone());
        self.follow(Owned::Consumer(id.clone()), old, peer);
    }

    /// Told, or else whoever announces a producer on it. A pipe transport is nobody's.
    fn peer_of_transport(&self, id: &TransportId) -> Option<PeerId> {
        if let Some(peer) = self.places.owner_of.get(&Owned::Transport(id.clone())) {
            return Some(peer.clone());
        }
        let transport = self.transports.get(id)?;
        if transport.kind == TransportKind::Pipe {
            return None;
        }
        let producers = self.places.producers_on.get(id)?;
        producers.iter().find_map(|producer| self.places.announced.get(producer)).cloned()
    }

    /// The router's room; else the peer's, which tells more than a bare session does.
    fn room_of(&self, transport: &TransportId, peer: Option<&PeerId>) -> Option<RoomId> {
        let router = self.places.router_of.get(transport);
        let (named, session) =
            router.map(|router| self.places.rooms_of_router(router)).unwrap_or_default();
        let of_peer = || self.peers.get(peer?)?.room.clone();
        named.or_else(of_peer).or(session)
    }

    fn pid_of(&self, transport: &TransportId) -> u32 {
        let router = self.places.router_of.get(transport);
        router.and_then(|router| self.places.routers.get(router)).map_or(0, |router| router.pid)
    }

    fn follow(&mut self, object: Owned, old: Option<PeerId>, new: Option<PeerId>) {
        if old == new {
            return;
        }
        if let Some(old) = old {
            leave(&mut self.places.of_peer, &old, &object);
        }
        if let Some(new) = new {
            self.places.of_peer.entry(new).or_default().insert(object);
        }
    }
}

fn members<K: Hash + Eq, V: Clone>(index: &HashMap<K, HashSet<V>>, key: &K) -> Vec<V> {
    index.get(key).map(|set| set.iter().cloned().collect()).unwrap_or_default()
}

fn leave<K: Hash + Eq, V: Hash + Eq>(index: &mut HashMap<K, HashSet<V>>, key: &K, value: &V) {
    if let Some(set) = index.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            index.remove(key);
        }
    }
}
