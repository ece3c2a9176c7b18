//! What the servers have told so far, kept so that the join is two look-ups.
//!
//! Events come in, already decoded; nothing here knows sockets, clocks or counters. What the host knows
//! of processes and ports is handed in ([`Ownership`]).

mod apply;
mod closed;
mod cost;
mod encodings;
mod event;
mod ladder;
mod ownership;
mod places;
mod role;
mod sources;
mod tuples;
mod whereabouts;

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::HashMap;
use foldhash::fast::RandomState;
use indexmap::{IndexMap, IndexSet};

use crate::model::{
    Clock, Consumer, ConsumerId, Direction, Encoding, JoinKey, PROBATION_SSRC, Peer, PeerKey,
    Producer, ProducerId, Transport, TransportId, TransportKind, Tuple,
};
use crate::texts::Texts;

pub use self::closed::ClosedOwner;
pub use self::event::*;
pub use self::ladder::{Ladder, Rung, Stage};
pub use self::ownership::{Bound, Ownership, Unknown};
pub use self::places::{Place, RoomRef};
pub use self::role::StreamRole;
pub use self::sources::{Bounds, Kind, Reason};
pub use self::tuples::Refused;
use self::tuples::{Claim, Effect, Told, Worth};

/// A producer's key: piped producers share their id with the original, on another transport.
pub type ProducerKey = (TransportId, ProducerId);

/// Who owns a stream.
#[derive(Clone, Copy, Debug)]
pub enum Owner<'a> {
    /// Receives it.
    Producer(&'a Producer),
    /// Sends it.
    Consumer(&'a Consumer),
    /// The transport as a whole: probation.
    Transport,
    /// Had it until a moment ago.
    Closed(&'a ClosedOwner),
}

/// Who has a 5-tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder<'a> {
    /// The transport.
    pub transport: &'a TransportId,
    /// It has closed, or has another tuple now: what still comes is its own, and nobody else claims it.
    pub closed: bool,
    /// The number of its claim; see [`State::seen`].
    pub claim: u64,
}

/// Told connections of which no packet was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unseen {
    /// Those on ports that are none of their servers' workers', as the host says.
    pub port: UnseenOf,
    /// Those of sockets that are bound to addresses which are not taken for this host's.
    pub address: UnseenOf,
    /// The others.
    pub others: UnseenOf,
}

/// Those of one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnseenOf {
    /// How many.
    pub count: u64,
    /// The transport of one.
    pub first: Option<TransportId>,
}

/// Seconds in which packets of a connection should have been seen.
const SEEN_WITHIN: u64 = 10;
/// Lost transports that wait for somebody to ask; further ones look as if they had closed.
const MOST_LOST: usize = 1 << 16;

/// All servers' objects. The public maps are for reading; change them through [`State::apply`], or
/// `put_*` and `remove_*`, which keep the indexes. Their objects lie side by side, in no order that
/// means anything: all of them are visited at each scrape.
#[derive(Debug)]
pub struct State {
    /// Process ids, each by who told it: containers number their processes alike.
    pub workers: IndexSet<(SourceId, u32), RandomState>,
    /// By who told it and peer id.
    pub peers: IndexMap<PeerKey, Peer, RandomState>,
    /// By transport id.
    pub transports: IndexMap<TransportId, Transport, RandomState>,
    /// By transport id and producer id.
    pub producers: IndexMap<ProducerKey, Producer, RandomState>,
    /// By consumer id.
    pub consumers: IndexMap<ConsumerId, Consumer, RandomState>,
    tuples: tuples::Tuples,
    /// The id of the producer where the stream is received, of the consumer where it is sent.
    by_ssrc: HashMap<(TransportId, Direction, u32), (Arc<str>, StreamRole)>,
    /// Asked only when nobody else answers.
    closed: closed::Streams,
    /// Seconds, as the caller counts them.
    now: u64,
    /// Grows with each change of an index.
    revision: u64,
    texts: Texts,
    places: places::Places,
    sources: sources::Sources,
    ownership: Arc<dyn Ownership>,
    /// Routers whose transports' tuples are to be looked at again.
    unsettled: IndexSet<RouterId, RandomState>,
    /// All are.
    all_unsettled: bool,
    /// Objects that were looked at again, in all.
    settled: u64,
    /// Transports of which nothing more is heard though they did not close, until somebody asks.
    lost: Vec<Arc<str>>,
    ladder: Ladder,
}

impl Default for State {
    fn default() -> Self {
        Self::with_bounds(Bounds::default())
    }
}

impl State {
    /// A state with other bounds than the default ones.
    pub fn with_bounds(bounds: Bounds) -> Self {
        Self {
            workers: IndexSet::default(),
            peers: IndexMap::default(),
            transports: IndexMap::default(),
            producers: IndexMap::default(),
            consumers: IndexMap::default(),
            tuples: tuples::Tuples::default(),
            by_ssrc: HashMap::default(),
            closed: closed::Streams::default(),
            now: 0,
            revision: 0,
            texts: Texts::default(),
            places: places::Places::default(),
            sources: sources::Sources::new(bounds),
            ownership: Arc::new(Unknown),
            unsettled: IndexSet::default(),
            all_unsettled: false,
            settled: 0,
            lost: Vec::new(),
            ladder: Ladder::default(),
        }
    }

    /// The transport that a 5-tuple belongs to, or did until a moment ago.
    pub fn holder(&self, tuple: &Tuple) -> Option<Holder<'_>> {
        let claim = self.tuples.holder(&tuple.join_key(), Some(tuple.local.ip()))?;
        let closed = claim.closed.is_some();
        Some(Holder { transport: &claim.transport, closed, claim: claim.number })
    }

    /// Whether a transport has a 5-tuple now, at whatever local address.
    pub fn has_tuple(&self, transport: &TransportId, key: &JoinKey) -> bool {
        self.tuples.has(key, transport)
    }

    /// The producer or consumer that a stream of a transport belongs to, or did until a moment ago, and
    /// as what.
    pub fn owner(
        &self,
        transport: &TransportId,
        direction: Direction,
        ssrc: u32,
    ) -> Option<(Owner<'_>, StreamRole)> {
        let key = (transport.clone(), direction, ssrc);
        if let Some((id, role)) = self.by_ssrc.get(&key) {
            let owner = match direction {
                Direction::Receive => {
                    let key = (transport.clone(), ProducerId(id.clone()));
                    Owner::Producer(self.producers.get(&key)?)
                }
                Direction::Send => Owner::Consumer(self.consumers.get(&**id)?),
            };
            return Some((owner, *role));
        }
        if direction == Direction::Send && ssrc == PROBATION_SSRC {
            return Some((Owner::Transport, StreamRole::Probation));
        }
        self.closed.get(&key).map(|owner| (Owner::Closed(owner), owner.role))
    }

    /// A reading was taken, at this time: what closed long ago is forgotten. Seconds, from whenever.
    pub fn pass(&mut self, now: u64) {
        self.now = now;
        self.revision += u64::from(self.tuples.expire(now));
        while let Some(transport) = self.closed.expire(now.saturating_sub(closed::KEPT)) {
            self.touch_ssrcs(&transport);
        }
    }

    /// Packets of these claims, as [`Holder::claim`] names them, were seen.
    pub fn seen(&mut self, claims: impl IntoIterator<Item = u64>) {
        claims.into_iter().for_each(|claim| self.tuples.seen(claim));
    }

    /// Told connections of which no packet was seen, though a reading was taken since and time enough
    /// has passed. Between servers nothing is to be expected before something is produced or consumed,
    /// on ports that are not counted nothing is at all, and a server that ended is kept, but its worker
    /// has no port any more.
    pub fn unseen(
        &self,
        is_counted: impl Fn(u16) -> bool,
        speaks: impl Fn(SourceId) -> bool,
    ) -> Unseen {
        let mut unseen = Unseen::default();
        let unseen_claims = self.tuples.unseen((self.now + 1).saturating_sub(SEEN_WITHIN));
        let is_expected =
            |claim: &Claim, key: &JoinKey| is_counted(key.local_port) && speaks(claim.source);
        for (claim, _) in unseen_claims.filter(|(claim, key)| is_expected(claim, key)) {
            let (id, worth) = (&claim.transport, &claim.worth);
            let kind = self.transports.get(id).map(|transport| transport.kind);
            let has_children =
                || self.places.nodes.get(id).is_some_and(|node| !node.children.is_empty());
            if kind == Some(TransportKind::WebRtc) || has_children() {
                let of = match worth {
                    Worth::Refused => &mut unseen.port,
                    Worth::Owned(bound) if self.is_nowhere_local(bound) => &mut unseen.address,
                    Worth::Owned(_) | Worth::Believed => &mut unseen.others,
                };
                of.count += 1;
                of.first.get_or_insert_with(|| id.clone());
            }
        }
        unseen
    }

    fn is_nowhere_local(&self, bound: &Bound) -> bool {
        let is_foreign = |address: &IpAddr| {
            !address.is_unspecified() && self.ownership.is_local(*address) == Some(false)
        };
        bound.iter().all(is_foreign)
    }

    /// Grows whenever [`State::holder`] or [`State::owner`] may answer otherwise than
    /// before: who kept their answers need not ask again until then.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The revision at which [`State::owner`] last changed its answers for a transport.
    pub fn ssrcs_changed(&self, transport: &TransportId) -> u64 {
        self.places.nodes.get(transport).map_or(0, |node| node.ssrcs_changed)
    }

    /// The 5-tuples that belong to transports: what the kernel should count as known.
    pub fn told(&self) -> HashSet<JoinKey> {
        self.tuples.held().copied().collect()
    }

    /// Tuples that transports claim in vain, now.
    pub fn refused_tuples(&self) -> Refused {
        self.tuples.refused()
    }

    /// What was refused, in all.
    pub fn refused(&self, reason: Reason, kind: Kind) -> u64 {
        self.sources.refused(reason, kind)
    }

    /// What of one source was refused, in all.
    pub fn refused_of(&self, source: SourceId) -> u64 {
        self.sources.refused_of(source)
    }

    /// How far WebRTC transports came, since the start.
    pub fn ladder(&self) -> Ladder {
        self.ladder
    }

    /// Bytes that all objects take, as estimated.
    pub fn bytes(&self) -> usize {
        self.sources.bytes()
    }

    /// The host was looked at: what it says of processes and ports holds from the next
    /// [`State::settle`] on.
    pub fn observe(&mut self, ownership: Arc<dyn Ownership>) {
        self.ownership = ownership;
        self.all_unsettled = true;
    }

    /// Looks again at what depends on others: tuples on their routers' processes and on the host. Events
    /// only note that this is due, so that none of them costs more than another; call it before the
    /// state is asked.
    pub fn settle(&mut self) {
        let routers = std::mem::take(&mut self.unsettled);
        if std::mem::take(&mut self.all_unsettled) {
            let routers: Vec<RouterId> = self.places.routers.keys().cloned().collect();
            routers.iter().for_each(|router| self.settle_router(router));
            let transports: Vec<TransportId> = self.transports.keys().cloned().collect();
            transports.iter().for_each(|transport| self.settle_tuples(transport));
            return;
        }
        for router in &routers {
            self.settle_router(router);
            let transports: Vec<TransportId> = self.places.transports_of(router).cloned().collect();
            transports.iter().for_each(|transport| self.settle_tuples(transport));
        }
    }

    fn settle_router(&mut self, id: &RouterId) {
        self.settled += 1;
        let Some((source, pid)) = self.places.routers.get(id).map(|it| (it.source, it.pid)) else {
            return;
        };
        let (worker, is_own) = self.look_up_worker(source, pid);
        if let Some(router) = self.places.routers.get_mut(id) {
            router.is_own = is_own;
            router.worker = worker;
        }
    }

    fn settle_tuples(&mut self, id: &TransportId) {
        self.settled += 1;
        let Some(transport) = self.transports.get(id) else { return };
        let source = transport.source;
        let judged: Vec<(JoinKey, Worth)> =
            keys(transport).map(|key| (key, self.worth(transport, &key))).collect();
        for (key, worth) in judged {
            let effect = self.tuples.judge(key, id, worth);
            self.note(source, effect);
        }
    }

    /// What the host knows of a transport's claim on a tuple.
    fn worth(&self, transport: &Transport, key: &JoinKey) -> Worth {
        let source = transport.source;
        let router = self.places.routers.get(&transport.router);
        let router = router.filter(|router| router.source == source && router.pid != 0);
        let bound = match router.map(|router| (router.worker, router.is_own)) {
            Some((Some(worker), _)) => self.ownership.bound(worker, key.proto, key.local_port),
            Some((None, false)) => Some(Bound::new()),
            Some((None, true)) | None => None,
        };
        match bound {
            Some(bound) if !bound.is_empty() => Worth::Owned(bound),
            None if self.sources.standing(source).vouched => Worth::Believed,
            _ => Worth::Refused,
        }
    }

    /// The host's number of a source's worker, where that is known; and whether it is, as far as can be
    /// known, the source's.
    fn look_up_worker(&self, source: SourceId, pid: u32) -> (Option<u32>, bool) {
        if pid == 0 {
            return (None, true);
        }
        match self.ownership.worker(source, pid) {
            Some(worker) => (worker, worker.is_some()),
            None => (None, self.sources.standing(source).vouched),
        }
    }

    /// Where what a source closed is remembered, and how much of it.
    fn closed_space(&self, source: SourceId) -> (sources::Share, usize) {
        (self.sources.share(source), self.sources.bounds.closed)
    }

    fn note(&mut self, source: SourceId, effect: Effect) {
        self.revision += u64::from(effect.moved);
        let Refused { port, foreign } = effect.refused;
        let forgotten = usize::from(effect.forgotten);
        self.sources.refuse(source, Reason::Full, Kind::Closed, forgotten);
        self.sources.refuse(source, Reason::Port, Kind::Connection, port);
        self.sources.refuse(source, Reason::Foreign, Kind::Connection, foreign);
    }

    /// Adds or replaces a peer.
    pub fn put_peer(&mut self, mut peer: Peer) {
        let Peer { id, room, user_agent, .. } = &mut peer;
        self.texts.share_all([
            Some(&mut id.0),
            Some(user_agent),
            room.as_mut().map(|it| &mut it.0),
        ]);
        self.peers.insert(peer.key(), peer);
    }

    /// Forgets a peer.
    pub fn remove_peer(&mut self, key: &PeerKey) {
        self.peers.swap_remove(key);
    }

    /// Adds or replaces a transport.
    pub fn put_transport(&mut self, mut transport: Transport) {
        let Transport { id, router, owner, tuples, ice_state, dtls_state, .. } = &mut transport;
        self.texts.share_all([
            Some(&mut id.0),
            Some(router),
            ice_state.as_mut(),
            dtls_state.as_mut(),
        ]);
        self.texts.share_all(tuples.iter_mut().map(|tuple| Some(&mut tuple.local_address)));
        share_owner(&mut self.texts, owner);
        let id = transport.id.clone();
        let old = self.transports.get(&id);
        self.places.move_transport(&id, old.map(|old| &old.router), Some(&transport.router));
        let gone: Vec<JoinKey> = old.into_iter().flat_map(keys).collect();
        for key in gone.into_iter().filter(|old| !keys(&transport).any(|new| new == *old)) {
            let space = self.closed_space(transport.source);
            let effect = self.tuples.close(key, &id, space, self.now);
            self.note(transport.source, effect);
        }
        self.places.node(&id, transport.source).source = transport.source;
        for tuple in &transport.tuples {
            let Some(key) = tuple.join_key() else { continue };
            let worth = self.worth(&transport, &key);
            let (source, address) = (transport.source, tuples::address(tuple));
            let told = Told { transport: &id, source, address };
            let effect = self.tuples.claim(key, told, worth, self.now);
            self.note(source, effect);
        }
        self.transports.insert(id, transport);
    }

    /// Adds or replaces a producer.
    pub fn put_producer(&mut self, mut producer: Producer) {
        let Producer { id, transport, owner, announced, codec, encodings, .. } = &mut producer;
        let announced = announced.as_mut().map(|it| &mut it.0);
        self.texts.share_all([Some(&mut id.0), Some(&mut transport.0), Some(codec), announced]);
        share_owner(&mut self.texts, owner);
        share_rids(&mut self.texts, encodings);
        let key = (producer.transport.clone(), producer.id.clone());
        self.unindex_producer(&key);
        self.places.place_producer(&producer);
        self.index(&producer.transport, Direction::Receive, &producer.encodings, &producer.id.0);
        self.producers.insert(key, producer);
    }

    /// Adds or replaces a consumer.
    pub fn put_consumer(&mut self, mut consumer: Consumer) {
        // Nobody else names the consumer.
        let Consumer { producer, transport, owner, codec, encodings, .. } = &mut consumer;
        self.texts.share_all([Some(&mut producer.0), Some(&mut transport.0), Some(codec)]);
        share_owner(&mut self.texts, owner);
        share_rids(&mut self.texts, encodings);
        let old = self.consumers.get(&consumer.id).map(|old| old.transport.clone());
        self.unindex_consumer(&consumer.id);
        if let Some(old) = old.filter(|old| *old != consumer.transport) {
            self.places.unplace_consumer(&old, &consumer.id);
            self.prune(&old);
        }
        self.places.place_consumer(&consumer.transport, consumer.source, &consumer.id);
        self.index(&consumer.transport, Direction::Send, &consumer.encodings, &consumer.id.0);
        self.consumers.insert(consumer.id.clone(), consumer);
    }

    /// A transport has closed; its producers and consumers are told closed on their own.
    pub fn remove_transport(&mut self, id: &TransportId) {
        self.take_transport(id, true);
    }

    /// A producer has closed.
    pub fn remove_producer(&mut self, key: &ProducerKey) {
        self.take_producer(key, true);
    }

    /// A consumer has closed.
    pub fn remove_consumer(&mut self, id: &ConsumerId) {
        self.take_consumer(id, true);
    }

    /// Transports of which nothing more is heard though they did not close, since this was last asked.
    pub fn take_lost(&mut self) -> Vec<Arc<str>> {
        std::mem::take(&mut self.lost)
    }

    /// Forgets a transport. If it has closed, rather than that nothing more is heard of it, what still
    /// comes is its own.
    fn take_transport(&mut self, id: &TransportId, has_closed: bool) {
        let Some(old) = self.transports.swap_remove(id) else { return };
        let reached = self.places.nodes.get_mut(id).map(|node| std::mem::take(&mut node.reached));
        if has_closed && old.kind == TransportKind::WebRtc {
            self.ladder.close(reached.unwrap_or_default());
        }
        if !has_closed && self.lost.len() < MOST_LOST {
            // A copy: the text itself is to go with the transport.
            self.lost.push((*id.0).into());
        }
        for key in keys(&old) {
            let effect = match has_closed {
                true => self.tuples.close(key, id, self.closed_space(old.source), self.now),
                false => self.tuples.drop(key, id),
            };
            self.note(old.source, effect);
        }
        self.places.move_transport(id, Some(&old.router), None);
        self.prune(id);
    }

    fn take_producer(&mut self, key: &ProducerKey, has_closed: bool) {
        if let Some(old) = self.producers.get(key).filter(|_| has_closed) {
            let Producer { source, kind, ref codec, .. } = *old;
            let clock = kind.clock(codec);
            let streams: Vec<_> = ssrcs(&old.encodings).collect();
            self.keep(source, &key.0, Direction::Receive, &key.1.0, clock, streams);
        }
        self.unindex_producer(key);
        if self.producers.swap_remove(key).is_some() {
            self.places.unplace_producer(&key.0, &key.1);
            self.prune(&key.0);
        }
    }

    fn take_consumer(&mut self, id: &ConsumerId, has_closed: bool) {
        if let Some(old) = self.consumers.get(id).filter(|_| has_closed) {
            let Consumer { source, kind, ref codec, ref transport, .. } = *old;
            let (clock, transport) = (kind.clock(codec), transport.clone());
            let streams: Vec<_> = ssrcs(&old.encodings).collect();
            self.keep(source, &transport, Direction::Send, &id.0, clock, streams);
        }
        self.unindex_consumer(id);
        if let Some(old) = self.consumers.swap_remove(id) {
            self.places.unplace_consumer(&old.transport, id);
            self.prune(&old.transport);
        }
    }

    /// Remembers whose streams these are: their owner closes.
    fn keep(
        &mut self,
        source: SourceId,
        transport: &TransportId,
        direction: Direction,
        owner: &Arc<str>,
        clock: Option<Clock>,
        streams: Vec<(u32, StreamRole)>,
    ) {
        for (ssrc, role) in streams {
            let key = (transport.clone(), direction, ssrc);
            // Another object may have taken the SSRC since.
            if self.by_ssrc.get(&key).is_none_or(|(current, _)| current != owner) {
                continue;
            }
            let (share, most) = self.closed_space(source);
            let has_room =
                self.closed.keep(share, key, (owner.clone(), role, clock), self.now, most);
            self.sources.refuse(source, Reason::Full, Kind::Closed, usize::from(!has_room));
        }
    }

    /// Forgets what is known of a transport that is not there and has nothing on it.
    fn prune(&mut self, id: &TransportId) {
        let empty = self.places.nodes.get(id).is_some_and(|node| node.children.is_empty());
        if empty && !self.transports.contains_key(id) {
            self.places.nodes.remove(id);
        }
    }

    fn unindex_producer(&mut self, key: &ProducerKey) {
        if let Some(old) = self.producers.get_mut(key) {
            let encodings = std::mem::take(&mut old.encodings);
            self.unindex(&key.0, Direction::Receive, &encodings, &key.1.0);
        }
    }

    fn unindex_consumer(&mut self, id: &ConsumerId) {
        if let Some(old) = self.consumers.get_mut(id) {
            let (encodings, transport) =
                (std::mem::take(&mut old.encodings), old.transport.clone());
            self.unindex(&transport, Direction::Send, &encodings, &id.0);
        }
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
        if let Some(node) = self.places.nodes.get_mut(transport) {
            node.ssrcs_changed = self.revision;
        }
    }
}

fn keys(transport: &Transport) -> impl Iterator<Item = JoinKey> {
    transport.tuples.iter().filter_map(|tuple| tuple.join_key())
}

fn share_owner(texts: &mut Texts, owner: &mut Option<PeerKey>) {
    texts.share_all([owner.as_mut().map(|it| &mut it.id.0)]);
}

fn share_rids(texts: &mut Texts, encodings: &mut [Encoding]) {
    texts.share_all(encodings.iter_mut().map(|encoding| encoding.rid.as_mut()));
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
