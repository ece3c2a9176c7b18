//! Asks and changes where things are, of a whole state.

use foldhash::HashSet;
use smallvec::SmallVec;

use super::State;
use super::event::Owned;
use super::places::{Place, Places, Room, RoomRef, Router, best, claim, unclaim};
use super::sources::{Kind, Reason};
use crate::model::{
    PeerId, PeerKey, Producer, RoomId, RoomKey, RouterId, SourceId, Transport, TransportKind,
};

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
