//! Events into objects: who told what, in which of its connections, and within which bounds.
//!
//! A source that reconnects tells everything anew; what it had told before stays until the new
//! telling is complete and goes then, unless it was told again. So a reconnect shows no gap.

use std::collections::HashMap;
use std::mem;

use super::{
    ConsumerState, ConsumerTold, EncodingStats, Event, Gone, Owned, ProducerState, ProducerTold,
    SourceId, State, TransportState, TransportTold, ssrcs,
};
use crate::model::{
    Consumer, ConsumerId, Direction, Encoding, Peer, PeerId, Producer, ProducerId, Transport,
    TransportId, Worker,
};

/// How many objects of each kind the state holds at most, over all sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Workers.
    pub workers: usize,
    /// Routers, and rooms.
    pub rooms: usize,
    /// Peers.
    pub peers: usize,
    /// Transports.
    pub transports: usize,
    /// Producers, and as many consumers times four.
    pub producers: usize,
    /// Encodings of one producer or consumer.
    pub encodings: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            workers: 1024,
            rooms: 32_768,
            peers: 65_536,
            transports: 131_072,
            producers: 131_072,
            encodings: 64,
        }
    }
}

/// Who told what.
#[derive(Debug, Default)]
pub(super) struct Sources {
    bounds: Bounds,
    /// Number of the connection that a source is in.
    generations: HashMap<SourceId, u64>,
    told: HashMap<Gone, Stamp>,
    owned: HashMap<Owned, Stamp>,
    dropped: HashMap<&'static str, u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    source: SourceId,
    generation: u64,
}

impl State {
    /// A state with other bounds than the default ones.
    pub fn with_bounds(bounds: Bounds) -> Self {
        Self { sources: Sources { bounds, ..Sources::default() }, ..Self::default() }
    }

    /// Objects that a bound turned away, by kind, in all.
    pub fn dropped(&self) -> &HashMap<&'static str, u64> {
        &self.sources.dropped
    }

    /// Takes in what a source told.
    pub fn apply(&mut self, source: SourceId, event: Event) {
        match event {
            Event::Hello(_) => *self.sources.generations.entry(source).or_default() += 1,
            Event::Synced => self.sweep(source, self.generation(source)),
            Event::Forget => self.sweep(source, u64::MAX),
            Event::Worker { pid } => {
                if self.admit(source, Gone::Worker(pid)) {
                    self.put_worker(Worker { pid });
                }
            }
            Event::Router { id, pid, session } => {
                if self.admit(source, Gone::Router(id.clone())) {
                    self.place_router(id, pid, session);
                }
            }
            Event::Room { id, sessions, routers } => {
                if self.admit(source, Gone::Room(id.clone())) {
                    self.place_room(id, sessions, routers);
                }
            }
            Event::Peer { id, room, display_name, user_agent } => {
                if self.admit(source, Gone::Peer(id.clone())) {
                    self.put_peer(Peer { id: id.clone(), room, display_name, user_agent });
                    self.settle_peer(&id);
                }
            }
            Event::Transport(told) => self.new_transport(source, told),
            Event::TransportState { id, state } => self.transport_state(&id, state),
            Event::Producer(told) => self.new_producer(source, told),
            Event::ProducerState { id, transport, state } => {
                self.producer_state(&(transport, id), &state);
            }
            Event::ProducerStats { id, transport, stats } => {
                let limit = self.sources.bounds.encodings;
                self.change_producer(&(transport, id), |producer| {
                    learn_stats(&mut producer.encodings, stats, limit);
                });
            }
            Event::Consumer(told) => self.new_consumer(source, told),
            Event::ConsumerState { id, state } => self.consumer_state(&id, state),
            Event::ConsumerStats { id, stats } => self.consumer_stats(&id, stats),
            Event::Own { peer, objects } => self.own(source, &peer, objects),
            Event::Disown(objects) => self.disown(source, &objects),
            Event::Gone(gone) => {
                if self.sources.told.get(&gone).is_some_and(|stamp| stamp.source == source) {
                    self.forget(&gone);
                }
            }
            Event::Beat(_) | Event::Failed { .. } => {}
        }
    }

    fn generation(&self, source: SourceId) -> u64 {
        self.sources.generations.get(&source).copied().unwrap_or_default()
    }

    /// Stamps an object with its teller, unless it is new and its kind is full.
    fn admit(&mut self, source: SourceId, object: Gone) -> bool {
        let stamp = Stamp { source, generation: self.generation(source) };
        if let Some(old) = self.sources.told.get_mut(&object) {
            *old = stamp;
            return true;
        }
        let bounds = self.sources.bounds;
        let (kind, entries, bound) = match &object {
            Gone::Worker(_) => ("workers", self.workers.len(), bounds.workers),
            Gone::Router(_) => ("routers", self.places.router_count(), bounds.rooms),
            Gone::Room(_) => ("rooms", self.places.room_count(), bounds.rooms),
            Gone::Peer(_) => ("peers", self.peers.len(), bounds.peers),
            Gone::Transport(_) => ("transports", self.transports.len(), bounds.transports),
            Gone::Producer(..) => ("producers", self.producers.len(), bounds.producers),
            Gone::Consumer(_) => ("consumers", self.consumers.len(), bounds.producers * 4),
        };
        if entries >= bound {
            *self.sources.dropped.entry(kind).or_default() += 1;
            return false;
        }
        self.sources.told.insert(object, stamp);
        true
    }

    /// Forgets what a source told before the given connection.
    fn sweep(&mut self, source: SourceId, generation: u64) {
        let old = |stamp: &Stamp| stamp.source == source && stamp.generation < generation;
        for object in stale(&self.sources.told, old) {
            self.forget(&object);
        }
        self.disown(source, &stale(&self.sources.owned, old));
        self.texts.forget_unused();
    }

    fn forget(&mut self, gone: &Gone) {
        self.sources.told.remove(gone);
        match gone {
            Gone::Worker(pid) => {
                self.workers.swap_remove(pid);
            }
            Gone::Router(id) => self.unplace_router(id),
            Gone::Room(id) => self.unplace_room(id),
            Gone::Peer(id) => {
                self.peers.swap_remove(id);
                self.settle_peer(id);
            }
            Gone::Transport(id) => self.forget_transport(id),
            Gone::Producer(transport, id) => {
                self.unplace_producer(transport, id);
                self.remove_producer(&(transport.clone(), id.clone()));
            }
            Gone::Consumer(id) => {
                if let Some(transport) = self.consumers.get(id).map(|c| c.transport.clone()) {
                    self.unplace_consumer(&transport, id);
                }
                self.remove_consumer(id);
            }
        }
    }

    fn forget_transport(&mut self, id: &TransportId) {
        let (producers, consumers) = self.places.on_transport(id);
        for producer in producers {
            self.forget(&Gone::Producer(id.clone(), producer));
        }
        for consumer in consumers {
            self.forget(&Gone::Consumer(consumer));
        }
        self.unplace_transport(id);
        self.remove_transport(id);
    }

    fn own(&mut self, source: SourceId, peer: &PeerId, objects: Vec<Owned>) {
        let stamp = Stamp { source, generation: self.generation(source) };
        let bound = self.sources.bounds.producers * 6;
        for object in objects {
            if !self.places.owns(&object) && self.places.owner_count() >= bound {
                *self.sources.dropped.entry("owners").or_default() += 1;
                continue;
            }
            self.sources.owned.insert(object.clone(), stamp);
            self.place_owner(object, peer.clone());
        }
    }

    fn disown(&mut self, source: SourceId, objects: &[Owned]) {
        for object in objects {
            if self.sources.owned.get(object).is_some_and(|stamp| stamp.source == source) {
                self.sources.owned.remove(object);
                self.unplace_owner(object);
            }
        }
    }

    fn new_transport(&mut self, source: SourceId, told: TransportTold) {
        if !self.admit(source, Gone::Transport(told.id.clone())) {
            return;
        }
        let old = self.transports.get(&told.id);
        let (room, peer) = old.map(|old| (old.room.clone(), old.peer.clone())).unwrap_or_default();
        self.put_transport(Transport {
            id: told.id.clone(),
            kind: told.kind,
            pid: 0,
            room,
            peer,
            tuples: told.state.tuples,
            ice_state: told.state.ice,
            dtls_state: told.state.dtls,
        });
        self.place_transport(&told.id, told.router);
    }

    fn transport_state(&mut self, id: &TransportId, state: TransportState) {
        let Some(transport) = self.transports.get_mut(id) else { return };
        transport.ice_state = state.ice;
        transport.dtls_state = state.dtls;
        if transport.tuples != state.tuples {
            let changed = Transport { tuples: state.tuples, ..transport.clone() };
            self.put_transport(changed);
        }
    }

    fn new_producer(&mut self, source: SourceId, told: ProducerTold) {
        let key = (told.transport.clone(), told.id.clone());
        if !self.admit(source, Gone::Producer(key.0.clone(), key.1.clone())) {
            return;
        }
        let mut encodings = told.encodings;
        learn_scores(&mut encodings, &told.state, self.sources.bounds.encodings);
        let old = self.producers.get(&key);
        if let Some(old) = old {
            carry_over(&mut encodings, &old.encodings);
        }
        let (room, peer) = old.map(|old| (old.room.clone(), old.peer.clone())).unwrap_or_default();
        self.put_producer(Producer {
            id: told.id,
            transport: told.transport,
            room,
            peer,
            kind: told.kind,
            codec: told.codec,
            encodings,
            paused: told.state.paused,
        });
        self.place_producer(&key.0, &key.1, told.peer);
    }

    fn producer_state(&mut self, key: &(TransportId, ProducerId), state: &ProducerState) {
        let limit = self.sources.bounds.encodings;
        self.change_producer(key, |producer| {
            producer.paused = state.paused;
            learn_scores(&mut producer.encodings, state, limit);
        });
    }

    /// Changes a producer in place, and its index only where its SSRCs changed.
    fn change_producer(
        &mut self,
        key: &(TransportId, ProducerId),
        change: impl FnOnce(&mut Producer),
    ) {
        let Some(producer) = self.producers.get_mut(key) else { return };
        let before = producer.encodings.clone();
        change(producer);
        if !ssrcs(&before).eq(ssrcs(&producer.encodings)) {
            let after = producer.encodings.clone();
            let (transport, ProducerId(owner)) = key;
            self.unindex(transport, Direction::Receive, &before, owner);
            self.index(transport, Direction::Receive, &after, owner);
        }
    }

    fn new_consumer(&mut self, source: SourceId, told: ConsumerTold) {
        let id = told.id.clone();
        if !self.admit(source, Gone::Consumer(id.clone())) {
            return;
        }
        let mut encodings = told.encodings;
        let old = self.consumers.get(&id).map(|old| {
            carry_over(&mut encodings, &old.encodings);
            (old.room.clone(), old.peer.clone(), old.transport.clone())
        });
        let (room, peer) = old.map_or((None, None), |(room, peer, transport)| {
            if transport != told.transport {
                self.unplace_consumer(&transport, &id);
            }
            (room, peer)
        });
        let transport = told.transport.clone();
        self.put_consumer(Consumer {
            id: told.id,
            producer: told.producer,
            transport: told.transport,
            room,
            peer,
            kind: told.kind,
            codec: told.codec,
            encodings,
            score: None,
            producer_score: None,
            spatial_layer: None,
            temporal_layer: None,
            paused: false,
            producer_paused: false,
        });
        self.consumer_state(&id, told.state);
        self.place_consumer(&transport, &id);
    }

    fn consumer_state(&mut self, id: &ConsumerId, state: ConsumerState) {
        let Some(consumer) = self.consumers.get_mut(id) else { return };
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

    fn consumer_stats(&mut self, id: &ConsumerId, stats: Vec<EncodingStats>) {
        let Some(consumer) = self.consumers.get_mut(id) else { return };
        for told in stats {
            let encoding = consumer.encodings.iter_mut().find(|e| e.ssrc == Some(told.ssrc));
            if let Some(encoding) = encoding {
                encoding.stats = Some(told.stats);
            }
        }
    }
}

fn stale<K: Clone>(told: &HashMap<K, Stamp>, old: impl Fn(&Stamp) -> bool) -> Vec<K> {
    told.iter().filter(|(_, stamp)| old(stamp)).map(|(key, _)| key.clone()).collect()
}

/// Scores come by SSRC; a RID's first score is what tells its SSRC.
fn learn_scores(encodings: &mut Vec<Encoding>, state: &ProducerState, limit: usize) {
    for told in &state.scores {
        if let Some(encoding) = encoding_of(encodings, told.ssrc, told.rid.as_deref(), limit) {
            encoding.score = Some(told.score);
        }
    }
}

fn learn_stats(encodings: &mut Vec<Encoding>, stats: Vec<EncodingStats>, limit: usize) {
    for told in stats {
        if let Some(encoding) = encoding_of(encodings, told.ssrc, told.rid.as_deref(), limit) {
            encoding.rtx = told.rtx.or(encoding.rtx);
            encoding.stats = Some(told.stats);
        }
    }
}

/// The encoding of an SSRC: by the SSRC; else by the RID, whose SSRC may be new or another now;
/// else one that was signalled with neither; else a new one.
fn encoding_of<'a>(
    encodings: &'a mut Vec<Encoding>,
    ssrc: u32,
    rid: Option<&str>,
    limit: usize,
) -> Option<&'a mut Encoding> {
    let by_rid = |encoding: &Encoding| rid.is_some() && encoding.rid.as_deref() == rid;
    let bare = |encoding: &Encoding| encoding.ssrc.is_none() && encoding.rid.is_none();
    let place = encodings
        .iter()
        .position(|encoding| encoding.ssrc == Some(ssrc))
        .or_else(|| encodings.iter().position(by_rid))
        .or_else(|| encodings.iter().position(bare));
    let place = match place {
        Some(place) => place,
        None if encodings.len() < limit => {
            let rid = rid.map(Into::into);
            encodings.push(Encoding { ssrc: None, rtx: None, rid, score: None, stats: None });
            encodings.len() - 1
        }
        None => return None,
    };
    let encoding = &mut encodings[place];
    if encoding.ssrc != Some(ssrc) {
        // Another SSRC is another stream: its figures begin anew.
        let rid = mem::take(&mut encoding.rid);
        let rtx = if encoding.ssrc.is_none() { encoding.rtx } else { None };
        *encoding = Encoding { ssrc: Some(ssrc), rtx, rid, score: None, stats: None };
    }
    Some(encoding)
}

/// Keeps what was learned of encodings that are told anew.
fn carry_over(encodings: &mut [Encoding], old: &[Encoding]) {
    for encoding in encodings.iter_mut().filter(|encoding| encoding.ssrc.is_some()) {
        if let Some(old) = old.iter().find(|old| old.ssrc == encoding.ssrc) {
            encoding.rtx = encoding.rtx.or(old.rtx);
            encoding.stats = encoding.stats.or(old.stats);
        }
    }
}
