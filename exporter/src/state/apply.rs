//! Events into objects: who told what, in which of its connections, and within which bounds.
//!
//! A source that reconnects tells everything anew; what it had told before stays until the new
//! telling is complete and goes then, unless it was told again. So a reconnect shows no gap.
//!
//! A source speaks of its own only: what another one told it neither changes nor takes back.

use std::sync::Arc;

use super::encodings::{carry_over, learn_scores, learn_stats};
use super::ladder::States;
use super::places::Child;
use super::sources::{Key, Kind, Reason};
use super::{
    ConsumerState, ConsumerTold, EncodingStats, Event, Gone, Owned, ProducerKey, ProducerTold,
    SourceId, State, TransportState, TransportTold, cost, ssrcs,
};
use crate::model::{
    Consumer, ConsumerId, Direction, Peer, PeerId, PeerKey, Producer, RoomId, RoomKey, RouterId,
    Transport, TransportId, TransportKind,
};

impl State {
    /// Takes in what a source told.
    pub fn apply(&mut self, source: SourceId, event: Event) {
        match event {
            Event::Met(standing) => {
                if self.sources.meet(source, standing) {
                    // Whom it speaks for, and whether it is believed, is another matter now.
                    self.settle_owners();
                    self.all_unsettled = true;
                }
            }
            Event::Hello(_) => self.sources.begin(source),
            Event::Synced => self.sweep(source, false),
            Event::Forget => {
                self.sweep(source, true);
                self.sources.close(source);
            }
            Event::Worker { pid } => {
                if self.admit(source, Gone::Worker(pid), None) && self.workers.insert((source, pid))
                {
                    self.sources.charge(source, 0, cost::worker());
                }
            }
            Event::Router { id, pid, session } => self.new_router(source, id, pid, session),
            Event::Room { id, sessions, routers } => {
                let sessions = sessions.into_iter().map(RoomId).collect();
                self.new_room(RoomKey { source, id }, sessions, routers);
            }
            Event::Peer { id, room, display_name, user_agent } => {
                self.new_peer(Peer { id, source, room, display_name, user_agent });
            }
            Event::Transport(told) => self.new_transport(source, told),
            Event::TransportState { id, state } => self.transport_state(source, &id, state),
            Event::Producer(told) => self.new_producer(source, told),
            Event::ProducerState { id, transport, state } => {
                self.change_producer(source, &(transport, id), |producer, limit| {
                    producer.paused = state.paused;
                    learn_scores(&mut producer.encodings, &state, limit)
                });
            }
            Event::ProducerStats { id, transport, stats } => {
                self.change_producer(source, &(transport, id), |producer, limit| {
                    learn_stats(&mut producer.encodings, stats, limit)
                });
            }
            Event::Consumer(told) => self.new_consumer(source, told),
            Event::ConsumerState { id, state } => {
                if let Some(consumer) = self.own_consumer(source, &id) {
                    take_state(consumer, state);
                }
            }
            Event::ConsumerStats { id, stats } => {
                if let Some(consumer) = self.own_consumer(source, &id) {
                    take_stats(consumer, stats);
                }
            }
            Event::Own { peer, objects } => self.own(source, &peer, objects),
            Event::Disown(objects) => {
                for object in objects {
                    // Whatever others say of the object stays.
                    self.forget(source, &Key::Owner(object));
                }
            }
            Event::Gone(gone) => {
                let teller = self.teller(source, &gone);
                if teller.is_some_and(|teller| teller != source) {
                    self.refuse_foreign(source, kind_of(&gone));
                } else {
                    self.forget(source, &Key::Object(gone));
                }
            }
            Event::Beat(_) | Event::Failed { .. } => {}
        }
    }

    /// Whether a source may tell an object. Who told it first has it, unless somebody answers for the
    /// source and nobody for the other one: then what that one told was not its to say.
    fn admit(&mut self, source: SourceId, object: Gone, teller: Option<SourceId>) -> bool {
        let outranked = teller.filter(|teller| self.sources.outranks(source, *teller));
        let Some(outranked) = outranked else {
            return self.sources.admit(source, Key::Object(object), teller);
        };
        self.refuse_foreign(outranked, kind_of(&object));
        self.take(outranked, &Key::Object(object.clone()), false);
        self.sources.admit(source, Key::Object(object), None)
    }

    fn refuse_foreign(&mut self, source: SourceId, kind: Kind) {
        self.sources.refuse(source, Reason::Foreign, kind, 1);
    }

    /// Who told an object that goes by this name when `source` speaks of it.
    fn teller(&self, source: SourceId, object: &Gone) -> Option<SourceId> {
        match object {
            // These are each source's own, whatever others call theirs.
            Gone::Worker(_) | Gone::Room(_) | Gone::Peer(_) => Some(source),
            Gone::Router(id) => self.places.routers.get(id).map(|it| it.source),
            Gone::Transport(id) => self.transports.get(id).map(|it| it.source),
            Gone::Producer(transport, id) => {
                let key = (transport.clone(), id.clone());
                self.producers.get(&key).map(|it| it.source)
            }
            Gone::Consumer(id) => self.consumers.get(id).map(|it| it.source),
        }
    }

    /// Forgets what a source told in earlier connections and not again, or all that it told.
    fn sweep(&mut self, source: SourceId, all: bool) {
        let mut gone = 0;
        while let Some(key) = self.sources.next_stale(source, all) {
            self.take(source, &key, !all);
            gone += 1;
        }
        self.sources.shrink(source);
        // So that it costs what goes a constant share.
        if 4 * gone >= self.texts.len() {
            self.texts.forget_unused();
        }
    }

    /// Takes back what a source told, because it is no more.
    fn forget(&mut self, source: SourceId, key: &Key) {
        self.take(source, key, true);
    }

    /// As [`Self::forget`], or because nothing more is heard of it: then nobody knows whose its packets
    /// are.
    fn take(&mut self, source: SourceId, key: &Key, has_closed: bool) {
        let bytes = self.cost(source, key);
        if !self.sources.remove(source, key, bytes) {
            return;
        }
        match key {
            Key::Owner(object) => self.unclaim_owner(object, source),
            Key::Object(Gone::Worker(pid)) => {
                self.workers.swap_remove(&(source, *pid));
            }
            Key::Object(Gone::Router(id)) => self.remove_router(id),
            Key::Object(Gone::Room(id)) => self.remove_room(&RoomKey { source, id: id.clone() }),
            Key::Object(Gone::Peer(id)) => self.remove_peer(&PeerKey { source, id: id.clone() }),
            Key::Object(Gone::Transport(id)) => {
                self.take_children(id, has_closed, |teller| teller == source);
                self.take_transport(id, has_closed);
            }
            Key::Object(Gone::Producer(transport, id)) => {
                self.take_producer(&(transport.clone(), id.clone()), has_closed);
            }
            Key::Object(Gone::Consumer(id)) => self.take_consumer(id, has_closed),
        }
    }

    /// What an object that a source told was charged with.
    fn cost(&self, source: SourceId, key: &Key) -> usize {
        let bytes = match key {
            Key::Owner(object) => Some(cost::owner(object)),
            Key::Object(Gone::Worker(_)) => Some(cost::worker()),
            Key::Object(Gone::Router(id)) => {
                self.places.routers.get(id).map(|router| cost::router(id, router))
            }
            Key::Object(Gone::Room(id)) => {
                let key = RoomKey { source, id: id.clone() };
                self.places.rooms.get(&key).map(|room| cost::room(&key, room))
            }
            Key::Object(Gone::Peer(id)) => {
                self.peers.get(&PeerKey { source, id: id.clone() }).map(cost::peer)
            }
            Key::Object(Gone::Transport(id)) => self.transports.get(id).map(cost::transport),
            Key::Object(Gone::Producer(transport, id)) => {
                self.producers.get(&(transport.clone(), id.clone())).map(cost::producer)
            }
            Key::Object(Gone::Consumer(id)) => self.consumers.get(id).map(cost::consumer),
        };
        bytes.unwrap_or_default()
    }

    /// Charges what an object takes now instead of before.
    fn charge(&mut self, source: SourceId, key: &Key, before: usize) {
        let after = self.cost(source, key);
        self.sources.charge(source, before, after);
    }

    /// Forgets what some sources told to be on a transport.
    fn take_children(
        &mut self,
        transport: &TransportId,
        has_closed: bool,
        whose: impl Fn(SourceId) -> bool,
    ) {
        let node = self.places.nodes.get(transport);
        let children: Vec<Child> =
            node.map(|node| node.children.iter().cloned().collect()).unwrap_or_default();
        for child in children {
            let object = match child {
                Child::Producer(id) => Gone::Producer(transport.clone(), id),
                Child::Consumer(id) => Gone::Consumer(id),
            };
            if let Some(teller) = self.teller(SourceId::default(), &object)
                && whose(teller)
            {
                self.take(teller, &Key::Object(object), has_closed);
            }
        }
    }

    fn new_router(&mut self, source: SourceId, id: RouterId, pid: u32, session: Option<Arc<str>>) {
        let object = Gone::Router(id.clone());
        if !self.admit(source, object.clone(), self.teller(source, &object)) {
            return;
        }
        let key = Key::Object(object);
        let before = self.cost(source, &key);
        self.put_router(id, source, pid, session.map(RoomId));
        self.charge(source, &key, before);
    }

    fn new_room(&mut self, room: RoomKey, mut sessions: Vec<RoomId>, mut routers: Vec<RouterId>) {
        let source = room.source;
        let object = Gone::Room(room.id.clone());
        if !self.admit(source, object.clone(), None) {
            return;
        }
        let left_out = cut(&mut sessions, self.sources.bounds.links)
            + cut(&mut routers, self.sources.bounds.links);
        self.sources.refuse(source, Reason::Full, Kind::Link, left_out);
        let key = Key::Object(object);
        let before = self.cost(source, &key);
        self.put_room(room, sessions.into(), routers.into());
        self.charge(source, &key, before);
    }

    fn new_peer(&mut self, peer: Peer) {
        let source = peer.source;
        let object = Gone::Peer(peer.id.clone());
        if self.admit(source, object.clone(), None) {
            let key = Key::Object(object);
            let before = self.cost(source, &key);
            self.put_peer(peer);
            self.charge(source, &key, before);
        }
    }

    fn own(&mut self, source: SourceId, peer: &PeerId, objects: Vec<Owned>) {
        for object in objects {
            let known = self.claims_owner(&object, source);
            let key = Key::Owner(object.clone());
            if !self.sources.admit(source, key.clone(), None) {
                continue;
            }
            if !known {
                self.charge(source, &key, 0);
            }
            if !self.claim_owner(&object, PeerKey { source, id: peer.clone() }) {
                self.sources.refuse(source, Reason::Full, Kind::Owner, 1);
                self.forget(source, &key);
            }
        }
    }

    fn new_transport(&mut self, source: SourceId, told: TransportTold) {
        let TransportTold { id, router, kind, state: TransportState { mut tuples, ice, dtls } } =
            told;
        let object = Gone::Transport(id.clone());
        if !self.admit(source, object.clone(), self.teller(source, &object)) {
            return;
        }
        if self.places.nodes.get(&id).is_some_and(|node| node.source != source) {
            // What another source said to be on it was not its to say.
            self.take_children(&id, false, |teller| teller != source);
        }
        let left_out = cut(&mut tuples, self.sources.bounds.tuples);
        self.sources.refuse(source, Reason::Full, Kind::Connection, left_out);
        let owner = self.owner_of(&Owned::Transport(id.clone()), source);
        let key = Key::Object(object);
        let before = self.cost(source, &key);
        let (ice_state, dtls_state) = (ice, dtls);
        let states = self.transports.get(&id).map(States::of);
        let new = Transport {
            id: id.clone(),
            source,
            kind,
            router,
            owner,
            tuples,
            ice_state,
            dtls_state,
        };
        self.put_transport(new);
        self.climb(&id, states);
        self.charge(source, &key, before);
    }

    fn transport_state(&mut self, source: SourceId, id: &TransportId, mut state: TransportState) {
        let Some(transport) = self.transports.get_mut(id) else { return };
        if transport.source != source {
            return self.refuse_foreign(source, Kind::Transport);
        }
        let before = cost::transport(transport);
        let left_out = cut(&mut state.tuples, self.sources.bounds.tuples);
        let TransportState { tuples, ice, dtls } = state;
        let states = States::of(transport);
        (transport.ice_state, transport.dtls_state) = (ice, dtls);
        let changed = transport.tuples != tuples;
        let changed = changed.then(|| Transport { tuples, ..transport.clone() });
        self.sources.refuse(source, Reason::Full, Kind::Connection, left_out);
        if let Some(changed) = changed {
            self.put_transport(changed);
        }
        self.climb(id, Some(states));
        self.charge(source, &Key::Object(Gone::Transport(id.clone())), before);
    }

    /// A transport's ICE and DTLS were told; `before` is what they were, had it been told before.
    fn climb(&mut self, id: &TransportId, before: Option<States>) {
        let is_webrtc = |it: &&Transport| it.kind == TransportKind::WebRtc;
        let Some(transport) = self.transports.get(id).filter(is_webrtc) else { return };
        let now = States::of(transport);
        if let Some(before) = before {
            self.ladder.follow(&before, &now);
        }
        if let Some(node) = self.places.nodes.get_mut(id) {
            node.reached = node.reached.max(now.rung());
        }
    }

    /// Whether a transport is another source's.
    fn is_foreign(&self, source: SourceId, transport: &TransportId) -> bool {
        self.places.nodes.get(transport).is_some_and(|node| node.source != source)
    }

    fn new_producer(&mut self, source: SourceId, told: ProducerTold) {
        let ProducerTold { id, transport, kind, codec, peer, mut encodings, state } = told;
        if self.is_foreign(source, &transport) {
            return self.refuse_foreign(source, Kind::Producer);
        }
        if !self.places.has_room_for_copy(&transport, &id) {
            return self.sources.refuse(source, Reason::Full, Kind::Producer, 1);
        }
        let object = Gone::Producer(transport.clone(), id.clone());
        if !self.admit(source, object.clone(), self.teller(source, &object)) {
            return;
        }
        let limit = self.sources.bounds.encodings;
        let left_out = cut(&mut encodings, limit) + learn_scores(&mut encodings, &state, limit);
        self.sources.refuse(source, Reason::Full, Kind::Encoding, left_out);
        let place = (transport, id);
        if let Some(old) = self.producers.get(&place) {
            carry_over(&mut encodings, &old.encodings);
        }
        encodings.shrink_to_fit();
        let key = Key::Object(object);
        let before = self.cost(source, &key);
        let (transport, id) = place;
        let owner = self.owner_of(&Owned::Producer(id.clone()), source);
        let (announced, paused) = (peer, state.paused);
        self.put_producer(Producer {
            id,
            source,
            transport,
            owner,
            announced,
            kind,
            codec,
            encodings,
            paused,
        });
        self.charge(source, &key, before);
    }

    /// Changes a producer in place, and its index only where its SSRCs changed. The change gets the
    /// bound on encodings, and returns how many were left out.
    fn change_producer(
        &mut self,
        source: SourceId,
        key: &ProducerKey,
        change: impl FnOnce(&mut Producer, usize) -> usize,
    ) {
        let Some(producer) = self.producers.get_mut(key) else { return };
        if producer.source != source {
            return self.refuse_foreign(source, Kind::Producer);
        }
        let (before, old) = (cost::producer(producer), producer.encodings.clone());
        let left_out = change(producer, self.sources.bounds.encodings);
        let (after, new) = (cost::producer(producer), producer.encodings.clone());
        super::share_rids(&mut self.texts, &mut producer.encodings);
        self.sources.charge(source, before, after);
        self.sources.refuse(source, Reason::Full, Kind::Encoding, left_out);
        if !ssrcs(&old).eq(ssrcs(&new)) {
            let (transport, owner) = (&key.0, &key.1.0);
            self.unindex(transport, Direction::Receive, &old, owner);
            self.index(transport, Direction::Receive, &new, owner);
        }
    }

    fn new_consumer(&mut self, source: SourceId, told: ConsumerTold) {
        let ConsumerTold { id, producer, transport, kind, codec, mut encodings, state } = told;
        if self.is_foreign(source, &transport) {
            return self.refuse_foreign(source, Kind::Consumer);
        }
        let object = Gone::Consumer(id.clone());
        if !self.admit(source, object.clone(), self.teller(source, &object)) {
            return;
        }
        let left_out = cut(&mut encodings, self.sources.bounds.encodings);
        self.sources.refuse(source, Reason::Full, Kind::Encoding, left_out);
        if let Some(old) = self.consumers.get(&id) {
            carry_over(&mut encodings, &old.encodings);
        }
        encodings.shrink_to_fit();
        let key = Key::Object(object);
        let before = self.cost(source, &key);
        let owner = self.owner_of(&Owned::Consumer(id.clone()), source);
        let mut consumer = Consumer {
            id,
            source,
            producer,
            transport,
            owner,
            kind,
            codec,
            encodings,
            score: None,
            producer_score: None,
            spatial_layer: None,
            temporal_layer: None,
            paused: false,
            producer_paused: false,
        };
        take_state(&mut consumer, state);
        self.put_consumer(consumer);
        self.charge(source, &key, before);
    }

    fn own_consumer(&mut self, source: SourceId, id: &ConsumerId) -> Option<&mut Consumer> {
        let teller = self.consumers.get(id)?.source;
        if teller != source {
            self.refuse_foreign(source, Kind::Consumer);
            return None;
        }
        self.consumers.get_mut(id)
    }
}

fn kind_of(object: &Gone) -> Kind {
    Key::Object(object.clone()).kind()
}

/// Cuts a list at its bound, and returns how many were left out.
fn cut<T>(list: &mut Vec<T>, bound: usize) -> usize {
    let left_out = list.len().saturating_sub(bound);
    if left_out > 0 {
        list.truncate(bound);
        list.shrink_to_fit();
    }
    left_out
}

fn take_state(consumer: &mut Consumer, state: ConsumerState) {
    consumer.score = state.score;
    consumer.producer_score = state.producer_score;
    consumer.spatial_layer = state.layers.map(|layers| layers.0);
    consumer.temporal_layer = state.layers.map(|layers| layers.1);
    consumer.paused = state.paused;
    consumer.producer_paused = state.producer_paused;
    // A consumer with one encoding is scored as a whole.
    if let [encoding] = consumer.encodings.as_mut_slice() {
        encoding.score = state.score;
    }
}

fn take_stats(consumer: &mut Consumer, stats: Vec<EncodingStats>) {
    for told in stats {
        let mut encodings = consumer.encodings.iter_mut();
        if let Some(encoding) = encodings.find(|encoding| encoding.ssrc == Some(told.ssrc)) {
            encoding.stats = Some(told.stats);
        }
    }
}
