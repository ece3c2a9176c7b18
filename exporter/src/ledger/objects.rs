//! The ledger of what the servers told: rooms, peers, transports, producers and consumers.
//!
//! A state comes in; the label text of each object, its gauges, and its monotonic byte count go out.
//! Text is made when an object is new or what it says changes, and kept. Gauges are those of the last
//! update: a closed object has none. Byte counts stay for the grace.

use std::sync::Arc;

use foldhash::HashMap;

use crate::labels::block::{self, Block};
use crate::labels::text::{clean, fits, limit};
use crate::labels::{Held, Tick, Word};
use crate::ledger::contract::{ContractLabels, ContractSeries, Totals};
use crate::ledger::owners::{PeerText, Placed, TransportText, stamp};
use crate::ledger::series::{GRACE, SeriesId, Table};
use crate::ledger::turn::Turn;
use crate::model::{
    Consumer, ConsumerId, Encoding, MediaKind, Peer, PeerKey, Producer, RoomKey, Transport,
    TransportId,
};
use crate::state::{Ladder, ProducerKey, RoomRef, State};

/// Families that one producer has a series in, the contract's apart.
const PRODUCER_SERIES: u64 = 8;
/// Families that one consumer has a series in, the contract's apart.
const CONSUMER_SERIES: u64 = 10;
/// Kinds and codecs whose text is shared; more than any server has.
const MEDIA: usize = 256;

/// The ledger of the servers' objects.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    /// Rooms of the same name are several rooms.
    pub(crate) rooms: Table<RoomKey, RoomText>,
    /// Number of peers, by rooms' labels: rooms whose labels read the same are counted together.
    pub(crate) room_peers: Table<Arc<str>, u64>,
    peers: Table<PeerKey, PeerText>,
    /// By peers' labels: those that read the same are shown once.
    pub(crate) peer_infos: Table<Arc<str>, ()>,
    pub(crate) transports: Table<TransportId, TransportText>,
    pub(crate) producers: Table<ProducerKey, Object>,
    pub(crate) consumers: Table<ConsumerId, Object>,
    /// The contract's series: producers', then consumers'.
    pub(crate) contract: [Table<ContractLabels, ContractSeries>; 2],
    /// Rooms that are open now, rather than shown for their grace.
    pub(crate) open_rooms: u64,
    pub(crate) ladder: Ladder,
    updates: u64,
    /// Of the last update.
    pub(crate) tick: Tick,
    stamps: u64,
    media: HashMap<(MediaKind, Arc<str>), Arc<str>>,
}

/// A room's label, and where its peers are counted.
#[derive(Clone, Debug)]
pub(crate) struct RoomText {
    labels: Arc<str>,
    series: Option<SeriesId>,
    /// The update that found it last.
    update: u64,
    /// So that its name stays as it is shown.
    word: Held,
    /// How often the key of names had changed by then.
    round: u64,
}

/// A producer or a consumer.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    /// `{transport_id="…",id="…"`
    pub(crate) ids: Arc<str>,
    /// `peer_id` and `room_id`.
    pub(crate) who: Arc<str>,
    /// `kind` and `codec`.
    pub(crate) media: Arc<str>,
    /// The id of the producer that is consumed, escaped; empty for a producer.
    pub(crate) consumed: Arc<str>,
    pub(crate) gauges: Gauges,
    /// Its ids are whole in the labels. Cut, they could read as another's, so it is not shown by itself.
    pub(crate) is_whole: bool,
    peer: Option<PeerKey>,
    stamps: [u64; 2],
    /// Where its transport is, so that it need not be looked for.
    transport: Option<SeriesId>,
    prefix: Option<Arc<str>>,
    series: Option<SeriesId>,
    pub(crate) totals: Totals,
}

/// What is true of an object now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Gauges {
    pub(crate) paused: bool,
    pub(crate) score: Option<u8>,
    pub(crate) spatial_layer: Option<u8>,
    pub(crate) temporal_layer: Option<u8>,
    /// Of all encodings together.
    pub(crate) packets_lost: Option<i64>,
    /// The worst of its encodings, 256ths.
    pub(crate) fraction_lost: Option<u8>,
    /// The worst of its encodings, microseconds.
    pub(crate) round_trip_time: Option<u64>,
}

/// What an update needs to know of a producer or consumer.
struct Told<'a> {
    transport: &'a TransportId,
    id: &'a Arc<str>,
    /// If it is not the transport's.
    peer: Option<PeerKey>,
    consumed: Option<&'a Arc<str>>,
    encodings: &'a [Encoding],
    gauges: Gauges,
    side: usize,
}

impl Objects {
    /// Takes the servers' state in.
    pub(crate) fn update(&mut self, state: &State, turn: &mut Turn<'_>) {
        // What is not for this ledger: workers are only their routers' process ids.
        let State { peers, transports, producers, consumers, .. } = state;
        self.updates += 1;
        self.tick = turn.tick;
        self.open_rooms = 0;
        self.ladder = state.ladder();
        for room in self.room_peers.iter_mut() {
            room.values = 0;
        }
        for room in state.told_rooms() {
            self.touch_room(room, 0, turn);
        }
        for peer in peers.values() {
            if let Some(id) = &peer.room {
                self.touch_room(RoomRef { source: peer.source, id }, 1, turn);
            }
            self.take_peer(peer, turn);
        }
        let mut counted = foldhash::HashSet::default();
        for transport in transports.values() {
            self.take_transport(transport, state, &mut counted, turn);
        }
        for series in self.contract.iter_mut().flat_map(Table::iter_mut) {
            series.values.score = None;
        }
        let mut before = None;
        for (key, producer) in producers {
            before = self.take_producer(key, producer, state, before, turn).or(before);
        }
        let mut before = None;
        for (id, consumer) in consumers {
            before = self.take_consumer(id, consumer, before, turn).or(before);
        }
        self.retire(turn);
    }

    fn touch_room(&mut self, room: RoomRef<'_>, peers: u64, turn: &mut Turn<'_>) {
        let Self { rooms, room_peers, open_rooms, updates, .. } = self;
        let key = room.to_key();
        let name = room.id.as_str();
        let id = rooms.find(&key).unwrap_or_else(|| {
            let text = RoomText::new(name, turn);
            rooms.open(key, text, turn.tick)
        });
        let Some(room) = rooms.get_mut(id) else { return };
        room.touch(turn.tick);
        let RoomText { word, round, update, .. } = &room.values;
        if turn.labels.take_back(Word::Room, name, word, *round) {
            // Nobody is in it who would show that both names are one room's.
            room.values = RoomText { update: *update, ..RoomText::new(name, turn) };
        }
        if std::mem::replace(&mut room.values.update, *updates) != *updates {
            *open_rooms += 1;
        }
        room.values.series = show(room_peers, room.values.series, &room.values.labels, turn);
        if let Some(series) = room.values.series.and_then(|id| room_peers.get_mut(id)) {
            series.values += peers;
        }
    }

    fn take_peer(&mut self, peer: &Peer, turn: &mut Turn<'_>) {
        let Self { peers, peer_infos, stamps, .. } = self;
        let key = peer.key();
        let known = peers.find(&key);
        let id = known.unwrap_or_else(|| {
            *stamps += 1;
            peers.open(key, PeerText::new(peer, *stamps, turn), turn.tick)
        });
        let Some(known) = peers.get_mut(id) else { return };
        known.touch(turn.tick);
        if known.values.peer != *peer {
            *stamps += 1;
            let old = std::mem::replace(&mut known.values, PeerText::new(peer, *stamps, turn));
            if old.labels == known.values.labels {
                known.values.series = old.series;
            } else if let Some(id) = old.series
                && peer_infos.remove_unshared(id)
            {
                turn.capacity.give_back(1);
            }
        }
        known.values.series = show(peer_infos, known.values.series, &known.values.labels, turn);
    }

    fn take_transport<'a>(
        &mut self,
        transport: &Transport,
        state: &'a State,
        counted: &mut foldhash::HashSet<(RoomRef<'a>, PeerKey)>,
        turn: &mut Turn<'_>,
    ) {
        let place = state.place(transport);
        if let Some(room) = state.room_at(&place, place.peer.as_ref()) {
            // Servers that do not tell peers may still tell whose a transport is. A peer that was told
            // without a room is in none: it waits in the lobby, or is on its way in.
            let peer = place.peer.as_ref().filter(|peer| !state.peers.contains_key(*peer));
            let is_new = peer.is_some_and(|peer| counted.insert((room, peer.clone())));
            self.touch_room(room, is_new.into(), turn);
        }
        let placed = Placed::from(&place);
        let peer = placed.peer.as_ref().and_then(|peer| self.peers.find(peer));
        let peer = peer.and_then(|id| self.peers.get(id)).map(|peer| &peer.values);
        if let Some(id) = self.transports.find(&transport.id)
            && let Some(known) = self.transports.get_mut(id)
        {
            known.touch(turn.tick);
            known.values.update(transport, placed, peer, &mut self.stamps, turn);
            return;
        }
        let mut text = TransportText::new(transport, placed, turn.capacity.take(1));
        text.rebuild(peer, &mut self.stamps, turn);
        self.transports.open(transport.id.clone(), text, turn.tick);
    }

    fn take_producer(
        &mut self,
        key: &ProducerKey,
        producer: &Producer,
        state: &State,
        before: Option<SeriesId>,
        turn: &mut Turn<'_>,
    ) -> Option<SeriesId> {
        let Producer {
            id,
            source: _,
            transport,
            owner: _,
            announced: _,
            kind,
            codec,
            encodings,
            paused,
        } = producer;
        let gauges = Gauges {
            paused: *paused,
            // One encoding may be switched off by the sender: the best one says how well it sends.
            score: encodings.iter().filter_map(|encoding| encoding.score).max(),
            ..Gauges::of(encodings)
        };
        let (id, consumed, side) = (&id.0, None, 0);
        let near = self.transports.find(transport).and_then(|id| self.transports.get(id));
        let near = near.and_then(|text| text.values.placed.peer.as_ref());
        let peer = state.peer_of_producer(producer, near);
        let told = Told { transport, id, peer, consumed, encodings, gauges, side };
        let known = match self.producers.follow(before, key) {
            Some(known) => known,
            None if !turn.capacity.take(PRODUCER_SERIES) => return None,
            None => {
                let media = self.media(*kind, codec, turn);
                self.producers.open(key.clone(), Object::new(&told, media, turn), turn.tick)
            }
        };
        let Self { transports, peers, contract, producers, .. } = self;
        if let Some(object) = producers.get_mut(known) {
            object.touch(turn.tick);
            object.values.update(&told, transports, peers, &mut contract[0], turn);
        }
        Some(known)
    }

    fn take_consumer(
        &mut self,
        key: &ConsumerId,
        consumer: &Consumer,
        before: Option<SeriesId>,
        turn: &mut Turn<'_>,
    ) -> Option<SeriesId> {
        let Consumer {
            id,
            source: _,
            producer,
            transport,
            owner,
            kind,
            codec,
            encodings,
            score,
            // The producer has a score of its own.
            producer_score: _,
            spatial_layer,
            temporal_layer,
            paused,
            producer_paused,
        } = consumer;
        let gauges = Gauges {
            paused: *paused || *producer_paused,
            score: *score,
            spatial_layer: *spatial_layer,
            temporal_layer: *temporal_layer,
            ..Gauges::of(encodings)
        };
        let (id, consumed, side) = (&id.0, Some(&producer.0), 1);
        let peer = owner.clone();
        let told = Told { transport, id, peer, consumed, encodings, gauges, side };
        let known = match self.consumers.follow(before, key) {
            Some(known) => known,
            None if !turn.capacity.take(CONSUMER_SERIES) => return None,
            None => {
                let media = self.media(*kind, codec, turn);
                self.consumers.open(key.clone(), Object::new(&told, media, turn), turn.tick)
            }
        };
        let Self { transports, peers, contract, consumers, .. } = self;
        if let Some(object) = consumers.get_mut(known) {
            object.touch(turn.tick);
            object.values.update(&told, transports, peers, &mut contract[1], turn);
        }
        Some(known)
    }

    /// `kind` and `codec`; most objects share theirs with many others.
    fn media(&mut self, kind: MediaKind, codec: &Arc<str>, turn: &mut Turn<'_>) -> Arc<str> {
        if let Some(text) = self.media.get(&(kind, codec.clone())) {
            return text.clone();
        }
        let clean = clean(codec, limit::WORD, &mut turn.labels.text);
        let text = Block::middle().label("kind", kind.as_str()).label("codec", &clean).finish();
        if self.media.len() < MEDIA {
            self.media.insert((kind, codec.clone()), text.clone());
        }
        text
    }

    fn retire(&mut self, turn: &mut Turn<'_>) {
        let Self {
            rooms,
            room_peers,
            peers,
            peer_infos,
            transports,
            producers,
            consumers,
            contract,
            ..
        } = self;
        let (tick, room) = (turn.tick, &mut *turn.capacity);
        rooms.retire(tick, 0, |_| false, drop);
        room_peers.retire(tick, 0, |_| false, |_| room.give_back(1));
        peers.retire(tick, 0, |_| false, drop);
        peer_infos.retire(tick, 0, |_| false, |()| room.give_back(1));
        transports.retire(
            tick,
            0,
            |_| false,
            |transport| {
                room.give_back(u64::from(transport.has_room));
            },
        );
        producers.retire(tick, 0, |_| false, |_| room.give_back(PRODUCER_SERIES));
        consumers.retire(tick, 0, |_| false, |_| room.give_back(CONSUMER_SERIES));
        for table in contract {
            table.retire(tick, GRACE, |_| false, |_| room.give_back(ContractSeries::FAMILIES));
        }
    }
}

/// Keeps the series of these labels, or opens one; others may have the same labels.
fn show<T: Clone + Default>(
    table: &mut Table<Arc<str>, T>,
    known: Option<SeriesId>,
    labels: &Arc<str>,
    turn: &mut Turn<'_>,
) -> Option<SeriesId> {
    let id = known.filter(|id| table.get(*id).is_some()).or_else(|| table.join(labels));
    let id = id.or_else(|| {
        turn.capacity.take(1).then(|| table.open(labels.clone(), T::default(), turn.tick))
    });
    if let Some(series) = id.and_then(|id| table.get_mut(id)) {
        series.touch(turn.tick);
    }
    id
}

impl RoomText {
    fn new(name: &str, turn: &mut Turn<'_>) -> Self {
        let text = turn.labels.word(Word::Room, name);
        let labels = Block::open().label("room_id", &text).close();
        let (word, round) = (text.hold(), turn.labels.round());
        Self { labels, series: None, update: 0, word, round }
    }
}

impl Object {
    fn new(told: &Told<'_>, media: Arc<str>, turn: &mut Turn<'_>) -> Self {
        let ids = turn.labels.object(told.transport.as_str(), told.id);
        let is_whole = [told.transport.as_str(), told.id].iter().all(|id| fits(id, limit::ID));
        let counts = &mut turn.labels.text;
        let consumed = told.consumed.map(|id| block::value(id, limit::ID, counts));
        Self {
            ids,
            who: "".into(),
            media,
            consumed: consumed.unwrap_or_else(|| "".into()),
            gauges: Gauges::default(),
            is_whole,
            peer: None,
            stamps: [u64::MAX; 2],
            transport: None,
            prefix: None,
            series: None,
            totals: Totals::default(),
        }
    }

    fn update(
        &mut self,
        told: &Told<'_>,
        transports: &Table<TransportId, TransportText>,
        peers: &Table<PeerKey, PeerText>,
        contract: &mut Table<ContractLabels, ContractSeries>,
        turn: &mut Turn<'_>,
    ) {
        self.gauges = told.gauges;
        self.totals.take(told.encodings);
        let known = self.transport.and_then(|id| transports.get(id));
        if known.is_none_or(|text| text.labels != *told.transport) {
            self.transport = transports.find(told.transport);
        }
        let transport = self.transport.and_then(|id| transports.get(id)).map(|text| &text.values);
        // The transport's stamp speaks for its own peer.
        let owner = transport.and_then(|text| text.placed.peer.as_ref());
        let peer = told.peer.as_ref().filter(|peer| Some(*peer) != owner);
        let peer = peer.and_then(|peer| peers.find(peer));
        let peer = peer.and_then(|id| peers.get(id)).map(|text| &text.values);
        let stamps = [transport.map_or(0, |text| text.stamp), stamp(peer)];
        if stamps != self.stamps || self.peer != told.peer {
            self.stamps = stamps;
            self.peer = told.peer.clone();
            let old = self.prefix.clone();
            self.name(told, transport, peers, turn);
            if old != self.prefix {
                self.unname(contract, turn);
            }
        }
        self.count(told, contract, turn);
    }

    fn name(
        &mut self,
        told: &Told<'_>,
        transport: Option<&TransportText>,
        peers: &Table<PeerKey, PeerText>,
        turn: &mut Turn<'_>,
    ) {
        // An object of a transport that is not (yet) told has no ends to show.
        let Some(transport) = transport else { return self.prefix = None };
        let peer = told.peer.as_ref().filter(|peer| Some(*peer) != transport.placed.peer.as_ref());
        let who = match peer {
            None => transport.who.clone(),
            Some(peer) => {
                let text = peers.find(peer).and_then(|id| peers.get(id));
                transport.who(Some(peer), text.map(|text| &text.values), turn)
            }
        };
        (self.prefix, self.who) = (who.prefix, who.info);
    }

    /// The contract's labels changed. When nobody else counts under the old ones, the bytes go along.
    fn unname(
        &mut self,
        contract: &mut Table<ContractLabels, ContractSeries>,
        turn: &mut Turn<'_>,
    ) {
        let Some(id) = self.series.take() else { return };
        if contract.get_mut(id).is_some_and(|series| !series.shared)
            && let Some(old) = contract.vacate(id, turn.tick)
        {
            turn.capacity.give_back(ContractSeries::FAMILIES);
            self.totals.put_back(&old);
        }
    }

    fn count(
        &mut self,
        told: &Told<'_>,
        contract: &mut Table<ContractLabels, ContractSeries>,
        turn: &mut Turn<'_>,
    ) {
        if self.series.is_none() {
            let Some(prefix) = &self.prefix else { return };
            let labels = ContractLabels::new(prefix, &self.ids, &self.media, told.side, turn.quiet);
            self.series = contract.join(&labels).or_else(|| {
                if contract.rests(&labels) {
                    return None;
                }
                let has_room = turn.capacity.take(ContractSeries::FAMILIES);
                has_room.then(|| contract.open(labels, ContractSeries::default(), turn.tick))
            });
        }
        if let Some(series) = self.series.and_then(|id| contract.get_mut(id)) {
            series.touch(turn.tick);
            series.values.take(&mut self.totals, told.gauges.score);
        }
    }
}

impl Gauges {
    fn of(encodings: &[Encoding]) -> Self {
        let mut gauges = Self::default();
        for stats in encodings.iter().filter_map(|encoding| encoding.stats.as_ref()) {
            let lost = gauges.packets_lost.get_or_insert(0);
            *lost = lost.saturating_add(stats.packets_lost);
            gauges.fraction_lost = gauges.fraction_lost.max(Some(stats.fraction_lost));
            let micros = stats.round_trip_time.filter(|time| *time >= 0.0);
            let micros = micros.map(|milliseconds| (milliseconds * 1000.0) as u64);
            gauges.round_trip_time = gauges.round_trip_time.max(micros);
        }
        gauges
    }
}
