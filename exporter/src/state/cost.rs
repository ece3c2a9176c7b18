//! How much memory an object takes in the state, its indexes and its text included. Estimates, for bounds:
//! a test holds them against what the allocator says. Texts that several objects share are counted
//! with each of them, so the sum is rather too high than too low.

use std::mem::size_of;

use super::event::Owned;
use super::places::{Child, Node, Room, Router};
use super::role::StreamRole;
use super::sources::Key;
use crate::model::{
    Consumer, ConsumerId, Encoding, JoinKey, Peer, PeerKey, Producer, ProducerId, RoomKey,
    ServerTuple, Transport, TransportId,
};

/// An entry of a hash map or of an ordered one: the key's place, its hash, and room to grow.
const ENTRY: usize = 40;
/// An allocation's own.
const ALLOCATION: usize = 16;
/// A text that is shared: two counters, the allocation, and its entry among the known texts.
const TEXT: usize = 16 + ALLOCATION + 32;

pub(super) fn worker() -> usize {
    account() + size_of::<u32>() + ENTRY
}

pub(super) fn router(id: &str, router: &Router) -> usize {
    let session = router.session.as_ref().map_or(0, |session| text(session.as_str()) + 160);
    account() + text(id) + size_of::<Router>() + 2 * ENTRY + session
}

pub(super) fn room(key: &RoomKey, room: &Room) -> usize {
    let links = room.sessions.iter().map(|session| session.as_str());
    let links = links.chain(room.routers.iter().map(|router| &**router));
    let link = |id: &str| text(id) + 176 + ENTRY;
    account() + text(key.id.as_str()) + size_of::<Room>() + ENTRY + links.map(link).sum::<usize>()
}

pub(super) fn peer(peer: &Peer) -> usize {
    let Peer { id, source: _, room, display_name, user_agent } = peer;
    let texts = [id.as_str(), display_name, user_agent].map(text).iter().sum::<usize>();
    let room = room.as_ref().map_or(0, |room| text(room.as_str()));
    account() + size_of::<Peer>() + size_of::<PeerKey>() + ENTRY + texts + room
}

pub(super) fn transport(transport: &Transport) -> usize {
    let Transport { id, router, tuples, ice_state, dtls_state, .. } = transport;
    let texts = [Some(id.as_str()), Some(router), ice_state.as_deref(), dtls_state.as_deref()];
    let tuple = |tuple: &ServerTuple| {
        let claim = 3 * size_of::<JoinKey>() + 320 + 2 * ENTRY;
        size_of::<ServerTuple>() + text(&tuple.local_address) + claim
    };
    let own = size_of::<Transport>() + size_of::<TransportId>() + ENTRY;
    let node = size_of::<Node>() + size_of::<TransportId>() + ENTRY;
    let texts = texts.into_iter().flatten().map(text).sum::<usize>();
    account() + own + node + ENTRY + texts + tuples.iter().map(tuple).sum::<usize>()
}

pub(super) fn producer(producer: &Producer) -> usize {
    let Producer { id, transport, announced, codec, encodings: list, .. } = producer;
    let texts = [Some(id.as_str()), Some(transport.as_str()), Some(codec)];
    let announced = announced.as_ref().map_or(0, |peer| text(peer.as_str()) + 64 + ENTRY);
    let texts = texts.into_iter().flatten().map(text).sum::<usize>();
    let own = size_of::<Producer>() + 2 * size_of::<TransportId>() + ENTRY;
    account() + own + child() + 64 + texts + announced + encodings(list)
}

pub(super) fn consumer(consumer: &Consumer) -> usize {
    let Consumer { id, producer, transport, codec, encodings: list, .. } = consumer;
    let texts = [id.as_str(), producer.as_str(), transport.as_str(), codec];
    let own = size_of::<Consumer>() + size_of::<TransportId>() + ENTRY;
    account() + own + child() + texts.into_iter().map(text).sum::<usize>() + encodings(list)
}

pub(super) fn owner(object: &Owned) -> usize {
    let (Owned::Transport(TransportId(id))
    | Owned::Producer(ProducerId(id))
    | Owned::Consumer(ConsumerId(id))) = object;
    account() + text(id) + size_of::<Owned>() + size_of::<PeerKey>() + 64 + ENTRY
}

/// The teller's entry.
fn account() -> usize {
    size_of::<Key>() + ENTRY
}

/// The transport's entry.
fn child() -> usize {
    size_of::<Child>() + ENTRY
}

fn encodings(encodings: &[Encoding]) -> usize {
    let index = size_of::<(TransportId, u32, TransportId, StreamRole)>() + ENTRY;
    let ssrcs = |it: &Encoding| usize::from(it.ssrc.is_some()) + usize::from(it.rtx.is_some());
    let one = |it: &Encoding| {
        size_of::<Encoding>() + ssrcs(it) * index + it.rid.as_deref().map_or(0, text)
    };
    encodings.iter().map(one).sum::<usize>() + ALLOCATION
}

fn text(text: &str) -> usize {
    text.len() + TEXT
}
