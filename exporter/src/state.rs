//! What the servers have told so far, kept so that the join is two look-ups.
//!
//! Events come in, already decoded; nothing here knows sockets, clocks or counters.

mod apply;
mod event;
mod places;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use indexmap::IndexMap;

use crate::model::{
    Consumer, ConsumerId, Direction, Encoding, JoinKey, PROBATION_SSRC, Peer, PeerId, Producer,
    ProducerId, RoomId, Transport, TransportId, Worker,
};
use crate::texts::Texts;

pub use self::apply::Bounds;
pub use self::event::*;

/// A producer's key: piped producers share their id with the original, on another transport.
pub type ProducerKey = (TransportId, ProducerId);

/// What a stream is to its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StreamRole {
    /// The encoding itself.
    Media,
    /// Retransmissions (RFC 4588).
    Rtx,
    /// mediasoup's bandwidth probation.
    Probation,
}

/// Who owns a stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Owner<'a> {
    /// Receives it.
    Producer(&'a Producer),
    /// Sends it.
    Consumer(&'a Consumer),
    /// The transport as a whole: probation.
    Transport,
}

/// All servers' objects. The public maps are for reading; change them through `put_*` and
/// `remove_*`, which keep the indexes. Their objects lie side by side, in no order that means
/// anything: all of them are visited at each scrape.
#[derive(Debug, Default)]
pub struct State {
    /// By process id.
    pub workers: IndexMap<u32, Worker>,
    /// By peer id.
    pub peers: IndexMap<PeerId, Peer>,
    /// By transport id.
    pub transports: IndexMap<TransportId, Transport>,
    /// By transport id and producer id.
    pub producers: IndexMap<ProducerKey, Producer>,
    /// By consumer id.
    pub consumers: IndexMap<ConsumerId, Consumer>,
    by_tuple: HashMap<JoinKey, TransportId>,
    /// The id of the producer where the stream is received, of the consumer where it is sent.
    by_ssrc: HashMap<(TransportId, Direction, u32), (Arc<str>, StreamRole)>,
    /// Grows with each change of an index.
    revision: u64,
    /// The revision at which a transport's SSRCs last changed.
    ssrcs_changed: HashMap<TransportId, u64>,
    texts: Texts,
    places: places::Places,
    sources: apply::Sources,
}

impl State {
    /// The transport that a 5-tuple belongs to.
    pub fn transport_by_tuple(&self, key: &JoinKey) -> Option<&Transport> {
        self.by_tuple.get(key).and_then(|id| self.transports.get(id))
    }

    /// The producer or consumer that a stream of a transport belongs to, and as what.
    pub fn owner(
        &self,
        transport: &TransportId,
        direction: Direction,
        ssrc: u32,
    ) -> Option<(Owner<'_>, StreamRole)> {
        if let Some((id, role)) = self.by_ssrc.get(&(transport.clone(), direction, ssrc)) {
            let owner = match direction {
                Direction::Receive => {
                    let key = (transport.clone(), ProducerId(id.clone()));
                    Owner::Producer(self.producers.get(&key)?)
                }
                Direction::Send => Owner::Consumer(self.consumers.get(&**id)?),
            };
            return Some((owner, *role));
        }
        (direction == Direction::Send && ssrc == PROBATION_SSRC)
            .then_some((Owner::Transport, StreamRole::Probation))
    }

    /// Grows whenever [`State::transport_by_tuple`] or [`State::owner`] may answer otherwise than
    /// before: who kept their answers need not ask again until then.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The revision at which [`State::owner`] last changed its answers for a transport.
    pub fn ssrcs_changed(&self, transport: &TransportId) -> u64 {
        self.ssrcs_changed.get(transport).copied().unwrap_or_default()
    }

    /// The 5-tuples that belong to transports: what the kernel should count as known.
    pub fn told(&self) -> HashSet<JoinKey> {
        self.by_tuple.keys().copied().collect()
    }

    /// Rooms by name: those that a server told, and those that are known by their routers only.
    pub fn rooms(&self) -> HashSet<&RoomId> {
        self.places
            .rooms()
            .chain(self.transports.values().filter_map(|t| t.room.as_ref()))
            .collect()
    }

    /// Number of peers in each room; a room without peers has its zero.
    pub fn peers_by_room(&self) -> HashMap<&RoomId, usize> {
        let mut counts: HashMap<&RoomId, usize> =
            self.rooms().into_iter().map(|room| (room, 0)).collect();
        for room in self.peers.values().filter_map(|peer| peer.room.as_ref()) {
            *counts.entry(room).or_default() += 1;
        }
        counts
    }

    /// Adds or replaces a worker.
    pub fn put_worker(&mut self, worker: Worker) {
        self.workers.insert(worker.pid, worker);
    }

    /// Adds or replaces a peer.
    pub fn put_peer(&mut self, mut peer: Peer) {
        let Peer { id, room, user_agent, .. } = &mut peer;
        self.texts.share_all([
            Some(&mut id.0),
            Some(user_agent),
            room.as_mut().map(|it| &mut it.0),
        ]);
        self.peers.insert(peer.id.clone(), peer);
    }

    /// Adds or replaces a transport.
    pub fn put_transport(&mut self, mut transport: Transport) {
        let Transport { id, room, peer, ice_state, dtls_state, .. } = &mut transport;
        self.texts.share_all([Some(&mut id.0), ice_state.as_mut(), dtls_state.as_mut()]);
        share_owner(&mut self.texts, room, peer);
        self.unindex_transport(&transport.id);
        self.revision += 1;
        for key in transport.tuples.iter().filter_map(|tuple| tuple.join_key()) {
            self.by_tuple.insert(key, transport.id.clone());
        }
        self.transports.insert(transport.id.clone(), transport);
    }

    /// Adds or replaces a producer.
    pub fn put_producer(&mut self, mut producer: Producer) {
        let Producer { id, transport, room, peer, codec, .. } = &mut producer;
        self.texts.share_all([Some(&mut id.0), Some(&mut transport.0), Some(codec)]);
        share_owner(&mut self.texts, room, peer);
        let key = (producer.transport.clone(), producer.id.clone());
        self.remove_producer(&key);
        self.index(&producer.transport, Direction::Receive, &producer.encodings, &producer.id.0);
        self.producers.insert(key, producer);
    }

    /// Adds or replaces a consumer.
    pub fn put_consumer(&mut self, mut consumer: Consumer) {
        // Nobody else names the consumer.
        let Consumer { producer, transport, room, peer, codec, .. } = &mut consumer;
        self.texts.share_all([Some(&mut producer.0), Some(&mut transport.0), Some(codec)]);
        share_owner(&mut self.texts, room, peer);
        self.remove_consumer(&consumer.id);
        self.index(&consumer.transport, Direction::Send, &consumer.encodings, &consumer.id.0);
        self.consumers.insert(consumer.id.clone(), consumer);
    }

    /// Forgets a transport; its producers and consumers are told closed on their own.
    pub fn remove_transport(&mut self, id: &TransportId) {
        self.unindex_transport(id);
        self.ssrcs_changed.remove(id);
    }

    fn unindex_transport(&mut self, id: &TransportId) {
        let Some(old) = self.transports.swap_remove(id) else { return };
        self.revision += 1;
        for key in old.tuples.iter().filter_map(|tuple| tuple.join_key()) {
            // Another transport may have taken the tuple since.
            if self.by_tuple.get(&key) == Some(id) {
                self.by_tuple.remove(&key);
            }
        }
    }

    /// Forgets a producer.
    pub fn remove_producer(&mut self, key: &ProducerKey) {
        let Some(old) = self.producers.swap_remove(key) else { return };
        self.unindex(&old.transport, Direction::Receive, &old.encodings, &old.id.0);
    }

    /// Forgets a consumer.
    pub fn remove_consumer(&mut self, id: &ConsumerId) {
        let Some(old) = self.consumers.swap_remove(id) else { return };
        self.unindex(&old.transport, Direction::Send, &old.encodings, &old.id.0);
    }

    fn index(
        &mut self,
        transport: &TransportId,
        direction: Direction,
        encodings: &[Encoding],
        owner: &Arc<str>,
    ) {
        self.touch_ssrcs(transport);
        for (ssrc, role) in ssrcs(encodings) {
            self.by_ssrc.insert((transport.clone(), direction, ssrc), (owner.clone(), role));
        }
    }

    fn unindex(
        &mut self,
        transport: &TransportId,
        direction: Direction,
        encodings: &[Encoding],
        owner: &Arc<str>,
    ) {
        self.touch_ssrcs(transport);
        for (ssrc, _) in ssrcs(encodings) {
            let key = (transport.clone(), direction, ssrc);
            // Another object may have taken the SSRC since.
            if self.by_ssrc.get(&key).is_some_and(|(current, _)| current == owner) {
                self.by_ssrc.remove(&key);
            }
        }
    }

    fn touch_ssrcs(&mut self, transport: &TransportId) {
        self.revision += 1;
        match self.ssrcs_changed.get_mut(transport) {
            Some(changed) => *changed = self.revision,
            // What is told of a transport that is not (any more) there changes no answer that anyone
            // could have kept: a transport that comes back is another revision.
            None if self.transports.contains_key(transport) => {
                self.ssrcs_changed.insert(transport.clone(), self.revision);
            }
            None => {}
        }
    }
}

fn share_owner(texts: &mut Texts, room: &mut Option<RoomId>, peer: &mut Option<PeerId>) {
    texts.share_all([room.as_mut().map(|it| &mut it.0), peer.as_mut().map(|it| &mut it.0)]);
}

fn ssrcs(encodings: &[Encoding]) -> impl Iterator<Item = (u32, StreamRole)> {
    encodings.iter().flat_map(|encoding| {
        let media = encoding.ssrc.map(|ssrc| (ssrc, StreamRole::Media));
        let rtx = encoding.rtx.map(|ssrc| (ssrc, StreamRole::Rtx));
        media.into_iter().chain(rtx)
    })
}

#[cfg(test)]
mod tests;
