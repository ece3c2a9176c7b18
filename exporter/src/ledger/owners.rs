//! The labels of peers and transports, from which those of producers and consumers are put together.
//!
//! What a server told comes in, label text goes out. Each change of a text gets a stamp, so that whoever
//! made something of it can see that it must be made anew.

use std::sync::Arc;

use crate::labels::block::{self, Block};
use crate::labels::text::{clean, fits, limit};
use crate::labels::{Held, Word};
use crate::ledger::series::SeriesId;
use crate::ledger::turn::Turn;
use crate::model::{Peer, PeerKey, RoomId, ServerTuple, Transport, TransportKind};
use crate::state::Place;

/// A peer's labels.
#[derive(Clone, Debug)]
pub(crate) struct PeerText {
    /// Of the info family.
    pub(crate) labels: Arc<str>,
    /// Where they are shown, with those of all peers whose labels read the same; `None` when there was
    /// no room.
    pub(crate) series: Option<SeriesId>,
    pub(crate) peer: Peer,
    /// Where `display_name` and `user_agent` begin in the labels.
    names: usize,
    /// So that the words in the labels stay as they are shown.
    _words: [Held; 4],
    pub(crate) stamp: u64,
}

/// A transport's labels.
#[derive(Clone, Debug)]
pub(crate) struct TransportText {
    /// Of the info family; `None` while its far end's label is undecided or there is no room for it.
    pub(crate) labels: Option<Arc<str>>,
    pub(crate) has_room: bool,
    /// Its far end's label is undecided. What was shown before stays until it is.
    waits: bool,
    peer_stamp: u64,
    pub(crate) transport: Transport,
    pub(crate) placed: Placed,
    remote: Option<Arc<str>>,
    /// Bytes at the end of the prefix, from `transport_id` to `remote_addr`.
    ends: usize,
    /// For the objects that name no other room and peer than the transport.
    pub(crate) who: Who,
    /// So that room and peer stay as they are shown.
    words: [Held; 2],
    pub(crate) stamp: u64,
}

/// What is said of a transport's place: names only, whoever told them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Placed {
    pid: u32,
    room: Option<RoomId>,
    session: Option<RoomId>,
    pub(crate) peer: Option<PeerKey>,
}

impl From<&Place<'_>> for Placed {
    fn from(Place { pid, room, session, peer }: &Place<'_>) -> Self {
        let name = |room: crate::state::RoomRef<'_>| room.id.clone();
        Self { pid: *pid, room: room.map(name), session: session.map(name), peer: peer.clone() }
    }
}

impl Placed {
    /// As [`State::room_or_session_at`](crate::state::State::room_or_session_at).
    fn room<'a>(&'a self, peer: Option<&'a PeerText>) -> &'a str {
        let of_peer = peer.and_then(|peer| peer.peer.room.as_ref());
        let room = self.room.as_ref().or(of_peer).or(self.session.as_ref());
        room.map_or("", RoomId::as_str)
    }
}

/// What the contract's labels and the info families say of an object's owner.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Who {
    /// From the opening brace to `remote_addr`; `None` while that is undecided.
    pub(crate) prefix: Option<Arc<str>>,
    /// `peer_id` and `room_id`.
    pub(crate) info: Arc<str>,
}

impl PeerText {
    pub(crate) fn new(peer: &Peer, stamp: u64, turn: &mut Turn<'_>) -> Self {
        let Peer { id, source: _, room, display_name, user_agent } = peer;
        let room = room.as_ref().map_or("", RoomId::as_str);
        let words = [
            (Word::Peer, id.as_str()),
            (Word::Room, room),
            (Word::DisplayName, display_name),
            (Word::UserAgent, user_agent),
        ];
        let words = words.map(|(word, text)| turn.labels.word(word, text));
        let [id, room, display_name, user_agent] = &words;
        let block = Block::open().label("peer_id", id).label("room_id", room);
        let names = block.length() + ",".len();
        let block = block.label("display_name", display_name).label("user_agent", user_agent);
        let (labels, _words) = (block.close(), words.each_ref().map(|word| word.hold()));
        Self { labels, series: None, peer: peer.clone(), names, _words, stamp }
    }

    /// `display_name` and `user_agent`.
    fn names(&self) -> &str {
        &self.labels[self.names..self.labels.len() - block::CLOSE.len()]
    }
}

impl TransportText {
    pub(crate) fn new(transport: &Transport, placed: Placed, has_room: bool) -> Self {
        Self {
            labels: None,
            has_room,
            waits: false,
            peer_stamp: 0,
            transport: transport.clone(),
            placed,
            remote: None,
            ends: 0,
            who: Who { prefix: None, info: "".into() },
            words: [None, None],
            stamp: 0,
        }
    }

    /// Takes in what the server tells now; text is made anew only where something changed.
    pub(crate) fn update(
        &mut self,
        transport: &Transport,
        placed: Placed,
        peer: Option<&PeerText>,
        stamps: &mut u64,
        turn: &mut Turn<'_>,
    ) {
        let changed = self.transport != *transport || self.placed != placed;
        if self.remote_end() != remote_end(transport) {
            self.remote = None;
        }
        if changed {
            self.transport = transport.clone();
            self.placed = placed;
        }
        let renamed = self.peer_stamp != stamp(peer);
        let admitted = !self.has_room && turn.capacity.take(1);
        self.has_room |= admitted;
        if self.waits || changed || renamed || admitted {
            self.rebuild(peer, stamps, turn);
        }
    }

    fn remote_end(&self) -> Option<&ServerTuple> {
        remote_end(&self.transport)
    }

    /// Makes all text anew.
    pub(crate) fn rebuild(
        &mut self,
        peer: Option<&PeerText>,
        stamps: &mut u64,
        turn: &mut Turn<'_>,
    ) {
        let key = self.remote_end().and_then(ServerTuple::join_key);
        if let (None, Some(key)) = (&self.remote, &key) {
            self.remote = turn.labels.remote(key);
        }
        self.waits = key.is_some() && self.remote.is_none();
        let words = [
            (Word::Room, self.placed.room(peer)),
            (Word::Peer, peer_id(self.placed.peer.as_ref())),
        ];
        self.words = words.map(|(word, text)| turn.labels.word(word, text).hold());
        let ends = match self.waits {
            true => self.shown_ends().map(Arc::from),
            false => Some(self.ends(turn)),
        };
        if !self.waits {
            // Cut, it could read as another one.
            let is_shown = self.has_room && fits(self.transport.id.as_str(), limit::ID);
            self.labels = is_shown.then(|| self.info(peer, turn));
        }
        self.who = self.who_at(ends.as_deref(), self.placed.peer.as_ref(), peer, turn);
        self.ends = ends.map_or(0, |ends| ends.len());
        self.peer_stamp = stamp(peer);
        *stamps += 1;
        self.stamp = *stamps;
    }

    fn ends(&self, turn: &mut Turn<'_>) -> Arc<str> {
        let id = if turn.quiet { "" } else { self.transport.id.as_str() };
        let (proto, local) = self.local();
        Block::middle()
            .label("transport_id", &clean(id, limit::ID, &mut turn.labels.text))
            .label("proto", proto)
            .label("local_addr", &clean(&local, limit::HOST_NAME, &mut turn.labels.text))
            .label("remote_addr", self.remote.as_deref().unwrap_or(""))
            .finish()
    }

    fn local(&self) -> (&'static str, String) {
        let Some(tuple) = self.transport.tuples.first() else { return ("", String::new()) };
        let ServerTuple { proto, local_address, local_port, remote: _ } = tuple;
        let local = match local_address.contains(':') {
            true => format!("[{local_address}]:{local_port}"),
            false => format!("{local_address}:{local_port}"),
        };
        (proto.as_str(), local)
    }

    fn info(&self, owner: Option<&PeerText>, turn: &mut Turn<'_>) -> Arc<str> {
        // The place says what owner and router mean.
        let Transport {
            id,
            source: _,
            kind,
            router: _,
            owner: _,
            tuples: _,
            ice_state,
            dtls_state,
        } = &self.transport;
        let Placed { pid, peer, .. } = &self.placed;
        let place = turn.labels.locate(self.remote_end().and_then(|tuple| tuple.remote));
        let room = turn.labels.word(Word::Room, self.placed.room(owner));
        let peer = turn.labels.word(Word::Peer, peer_id(peer.as_ref()));
        let counts = &mut turn.labels.text;
        let (proto, local) = self.local();
        let block = Block::open()
            .label("transport_id", &clean(id.as_str(), limit::ID, counts))
            .label("kind", kind_text(*kind))
            .label("pid", itoa::Buffer::new().format(*pid))
            .label("room_id", &room)
            .label("peer_id", &peer)
            .label("proto", proto)
            .label("local_addr", &clean(&local, limit::HOST_NAME, counts))
            .label("remote_addr", self.remote.as_deref().unwrap_or(""))
            .label("ice_state", &clean(ice_state.as_deref().unwrap_or(""), limit::WORD, counts))
            .label("dtls_state", &clean(dtls_state.as_deref().unwrap_or(""), limit::WORD, counts));
        match place {
            None => block,
            Some(place) => block
                .label("country", &clean(&place.country, limit::WORD, counts))
                .label("city", &clean(&place.city, limit::WORD, counts))
                .label("asn", &place.asn)
                .label("as_org", &clean(&place.as_org, limit::WORD, counts)),
        }
        .close()
    }

    /// From `transport_id` to `remote_addr`; `None` while the far end's label is undecided.
    fn shown_ends(&self) -> Option<&str> {
        self.who.prefix.as_deref().map(|prefix| &prefix[prefix.len() - self.ends..])
    }

    /// The labels of an owner's things on this transport.
    pub(crate) fn who(
        &self,
        peer: Option<&PeerKey>,
        text: Option<&PeerText>,
        turn: &mut Turn<'_>,
    ) -> Who {
        self.who_at(self.shown_ends(), peer, text, turn)
    }

    fn who_at(
        &self,
        ends: Option<&str>,
        peer: Option<&PeerKey>,
        text: Option<&PeerText>,
        turn: &mut Turn<'_>,
    ) -> Who {
        let room = turn.labels.word(Word::Room, self.placed.room(text));
        let peer = turn.labels.word(Word::Peer, peer_id(peer));
        let info = Block::middle().label("peer_id", &peer).label("room_id", &room).finish();
        let prefix = ends.map(|ends| {
            let names = text.map_or(NO_NAMES, PeerText::names);
            let who = Block::open()
                .label("pid", itoa::Buffer::new().format(self.placed.pid))
                .label("room_id", &room)
                .label("peer_id", &peer)
                .finish();
            format!("{who},{names},{ends}").into()
        });
        Who { prefix, info }
    }
}

fn peer_id(peer: Option<&PeerKey>) -> &str {
    peer.map_or("", |peer| peer.id.as_str())
}

/// Of a peer that nobody told.
const NO_NAMES: &str = r#"display_name="",user_agent="""#;

/// The peer's stamp; zero for nobody.
pub(crate) fn stamp(peer: Option<&PeerText>) -> u64 {
    peer.map_or(0, |peer| peer.stamp)
}

/// RTP's tuple: the first one. (RTCP's, where it is another, comes second.)
fn remote_end(transport: &Transport) -> Option<&ServerTuple> {
    transport.tuples.first()
}

fn kind_text(kind: TransportKind) -> &'static str {
    match kind {
        TransportKind::WebRtc => "webrtc",
        TransportKind::Plain => "plain",
        TransportKind::Pipe => "pipe",
        TransportKind::Direct => "direct",
    }
}
