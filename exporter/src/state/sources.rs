//! Who told what: each object has one teller, and each teller a share of the space.
//!
//! Keys and estimates come in, a yes or no goes out, and every no is counted. What the objects are is
//! none of this file's business.
//!
//! A source for which somebody answers has a share of its own. All others of one user have one together:
//! whoever can start one server can start two. Both kinds have [`SHARES`] shares, so that users who can
//! start servers take nothing from the host's own.

use std::collections::BTreeMap;

use foldhash::HashMap;
use foldhash::fast::RandomState;
use indexmap::IndexSet;

use super::event::{Gone, Owned, Standing};
use crate::model::SourceId;

/// How much one share holds, at most.
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
    /// Producers, and as many consumers times four. Owners told: six times as many.
    pub producers: usize,
    /// Bytes of memory that all of it takes, as estimated.
    pub bytes: usize,
    /// Encodings of one producer or consumer. Simulcast has three in every browser, and mediasoup has no
    /// other use for several.
    pub encodings: usize,
    /// Tuples of one transport: RTP's, and RTCP's where it is another.
    pub tuples: usize,
    /// Sessions of one room, and routers of one room.
    pub links: usize,
    /// Connections that closed a moment ago, and streams times four.
    pub closed: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            workers: 1024,
            rooms: 32_768,
            peers: 65_536,
            transports: 131_072,
            producers: 131_072,
            bytes: 256 << 20,
            encodings: 8,
            tuples: 4,
            links: 64,
            closed: 32_768,
        }
    }
}

/// How many shares may be full, of sources for which somebody answers, and of users.
pub(super) const SHARES: usize = 2;

/// Whose bounds an object counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Share {
    /// A source's own, because somebody answers for it.
    Vouched(SourceId),
    /// All that a user's other sources told.
    User(u32),
}

impl Share {
    /// Which of the two kinds it is.
    pub(super) fn kind(self) -> usize {
        usize::from(matches!(self, Self::User(_)))
    }
}

/// What was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A worker.
    Worker,
    /// A router.
    Router,
    /// A room.
    Room,
    /// A peer.
    Peer,
    /// A transport.
    Transport,
    /// A producer.
    Producer,
    /// A consumer.
    Consumer,
    /// Whose an object is.
    Owner,
    /// An encoding of a producer or consumer.
    Encoding,
    /// A 5-tuple of a transport.
    Connection,
    /// That a session or router belongs to a room.
    Link,
    /// What closed a moment ago.
    Closed,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Worker,
        Self::Router,
        Self::Room,
        Self::Peer,
        Self::Transport,
        Self::Producer,
        Self::Consumer,
        Self::Owner,
        Self::Encoding,
        Self::Connection,
        Self::Link,
        Self::Closed,
    ];

    /// One word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Router => "router",
            Self::Room => "room",
            Self::Peer => "peer",
            Self::Transport => "transport",
            Self::Producer => "producer",
            Self::Consumer => "consumer",
            Self::Owner => "owner",
            Self::Encoding => "encoding",
            Self::Connection => "connection",
            Self::Link => "link",
            Self::Closed => "closed",
        }
    }
}

/// Why it was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// There is no room for it.
    Full,
    /// Another source told it, or has it.
    Foreign,
    /// It is of another source's objects, for which this source may not speak.
    Standing,
    /// The port is none of the source's workers'.
    Port,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Full, Self::Foreign, Self::Standing, Self::Port];

    /// One word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Foreign => "foreign",
            Self::Standing => "standing",
            Self::Port => "port",
        }
    }
}

/// What an account holds: an object, or a word on whose one is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Object(Gone),
    Owner(Owned),
}

impl Key {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Object(Gone::Worker(_)) => Kind::Worker,
            Self::Object(Gone::Router(_)) => Kind::Router,
            Self::Object(Gone::Room(_)) => Kind::Room,
            Self::Object(Gone::Peer(_)) => Kind::Peer,
            Self::Object(Gone::Transport(_)) => Kind::Transport,
            Self::Object(Gone::Producer(..)) => Kind::Producer,
            Self::Object(Gone::Consumer(_)) => Kind::Consumer,
            Self::Owner(_) => Kind::Owner,
        }
    }
}

impl Bounds {
    fn of(&self, kind: Kind) -> usize {
        match kind {
            Kind::Worker => self.workers,
            Kind::Router | Kind::Room => self.rooms,
            Kind::Peer => self.peers,
            Kind::Transport => self.transports,
            Kind::Producer => self.producers,
            Kind::Consumer => self.producers * 4,
            Kind::Owner => self.producers * 6,
            Kind::Encoding => self.encodings,
            Kind::Connection => self.tuples,
            Kind::Link => self.links,
            Kind::Closed => self.closed,
        }
    }
}

/// All accounts.
#[derive(Debug, Default)]
pub(super) struct Sources {
    pub(super) bounds: Bounds,
    accounts: BTreeMap<SourceId, Account>,
    shares: BTreeMap<Share, Use>,
    /// By [`Share::kind`].
    all: [Use; 2],
    refusals: HashMap<(Reason, Kind), u64>,
}

/// What one source told.
#[derive(Debug, Default)]
struct Account {
    standing: Option<Standing>,
    /// Told in the connection that it is in.
    fresh: IndexSet<Key, RandomState>,
    /// Told in an earlier one, and not again yet.
    stale: IndexSet<Key, RandomState>,
    uses: Use,
    refused: u64,
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default)]
struct Use {
    objects: [usize; Kind::ALL.len()],
    bytes: usize,
}

impl Use {
    fn has_room(&self, kind: Kind, bounds: &Bounds, times: usize) -> bool {
        self.objects[kind as usize] < bounds.of(kind) * times && self.bytes < bounds.bytes * times
    }

    fn change(&mut self, before: usize, after: usize) {
        self.bytes = (self.bytes + after).saturating_sub(before);
    }

    fn add(&mut self, other: &Self) {
        for (mine, others) in self.objects.iter_mut().zip(other.objects) {
            *mine += others;
        }
        self.bytes += other.bytes;
    }

    fn take(&mut self, other: &Self) {
        for (mine, others) in self.objects.iter_mut().zip(other.objects) {
            *mine -= others;
        }
        self.bytes = self.bytes.saturating_sub(other.bytes);
    }

    fn is_nothing(&self) -> bool {
        self.bytes == 0 && self.objects.iter().all(|count| *count == 0)
    }
}

impl Sources {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, ..Self::default() }
    }

    /// Notes who a source is; true when that is not what it was before.
    pub(super) fn meet(&mut self, source: SourceId, standing: Standing) -> bool {
        let (before, share) = (self.standing(source), self.share(source));
        self.account(source).standing = Some(standing);
        if self.share(source) != share {
            let uses = self.account(source).uses;
            self.change_share(share, |it| it.take(&uses));
            self.change_share(self.share(source), |it| it.add(&uses));
        }
        before != standing
    }

    pub(super) fn share(&self, source: SourceId) -> Share {
        match self.standing(source) {
            Standing { vouched: true, .. } => Share::Vouched(source),
            Standing { uid, vouched: false } => Share::User(uid),
        }
    }

    /// Somebody answers for the source, and nobody for the other one.
    pub(super) fn outranks(&self, source: SourceId, other: SourceId) -> bool {
        self.standing(source).vouched && !self.standing(other).vouched
    }

    pub(super) fn standing(&self, source: SourceId) -> Standing {
        let account = self.accounts.get(&source);
        account.and_then(|account| account.standing).unwrap_or(Standing::VOUCHED)
    }

    pub(super) fn may_speak_for(&self, source: SourceId, other: SourceId) -> bool {
        source == other || self.standing(source).may_speak_for(self.standing(other))
    }

    /// Other sources that may speak for this one and have told peers.
    pub(super) fn speakers_of_peers(&self, of: SourceId) -> impl Iterator<Item = SourceId> {
        let tells = |account: &Account| account.uses.objects[Kind::Peer as usize] > 0;
        let others = self.accounts.iter().filter(move |(id, account)| **id != of && tells(account));
        others.map(|(id, _)| *id).filter(move |id| self.may_speak_for(*id, of))
    }

    /// Lets a source tell an object, unless `teller` is another one or there is no room.
    pub(super) fn admit(&mut self, source: SourceId, key: Key, teller: Option<SourceId>) -> bool {
        let kind = key.kind();
        if teller.is_some_and(|teller| teller != source) {
            self.refuse(source, Reason::Foreign, kind, 1);
            return false;
        }
        let account = self.account(source);
        if account.fresh.contains(&key) {
            return true;
        }
        if !account.stale.swap_remove(&key) {
            if !self.has_space(self.share(source), kind) {
                self.refuse(source, Reason::Full, kind, 1);
                return false;
            }
            self.change(source, |uses| uses.objects[kind as usize] += 1);
        }
        self.account(source).fresh.insert(key);
        true
    }

    fn has_space(&self, share: Share, kind: Kind) -> bool {
        let own = self.shares.get(&share).copied().unwrap_or_default();
        own.has_room(kind, &self.bounds, 1)
            && self.all[share.kind()].has_room(kind, &self.bounds, SHARES)
    }

    /// Changes what a source uses, and with it its share and the sum.
    fn change(&mut self, source: SourceId, change: impl Fn(&mut Use)) {
        change(&mut self.account(source).uses);
        self.change_share(self.share(source), change);
    }

    fn change_share(&mut self, share: Share, change: impl Fn(&mut Use)) {
        change(&mut self.all[share.kind()]);
        let own = self.shares.entry(share).or_default();
        change(own);
        if own.is_nothing() {
            self.shares.remove(&share);
        }
    }

    /// An object that a source told takes other memory than before.
    pub(super) fn charge(&mut self, source: SourceId, before: usize, after: usize) {
        self.change(source, |uses| uses.change(before, after));
    }

    /// A source's object goes, which took so much memory; false when it had not told it.
    pub(super) fn remove(&mut self, source: SourceId, key: &Key, bytes: usize) -> bool {
        let Some(account) = self.accounts.get_mut(&source) else { return false };
        if !account.fresh.swap_remove(key) && !account.stale.swap_remove(key) {
            return false;
        }
        self.change(source, |uses| {
            uses.objects[key.kind() as usize] -= 1;
            uses.change(bytes, 0);
        });
        true
    }

    /// A connection begins: all is to be told again.
    pub(super) fn begin(&mut self, source: SourceId) {
        let Account { fresh, stale, .. } = self.account(source);
        if stale.is_empty() {
            std::mem::swap(fresh, stale);
        } else {
            stale.extend(fresh.drain(..));
        }
    }

    /// Something that was not told again, or, if `all`, anything that was told.
    pub(super) fn next_stale(&self, source: SourceId, all: bool) -> Option<Key> {
        let account = self.accounts.get(&source)?;
        account.stale.last().or_else(|| account.fresh.last().filter(|_| all)).cloned()
    }

    /// Nothing of the source is left, but who it is: a connection may be under way that began before.
    pub(super) fn close(&mut self, source: SourceId) {
        let (share, account) = (self.share(source), self.accounts.remove(&source));
        let left = account.as_ref().map(|account| account.uses).unwrap_or_default();
        self.change_share(share, |it| it.take(&left));
        let standing = account.and_then(|account| account.standing);
        if let Some(standing) = standing.filter(|standing| !standing.vouched) {
            self.account(source).standing = Some(standing);
        }
    }

    /// Gives back what the source's sets need no more.
    pub(super) fn shrink(&mut self, source: SourceId) {
        if let Some(Account { fresh, stale, .. }) = self.accounts.get_mut(&source) {
            stale.shrink_to_fit();
            fresh.shrink_to(2 * fresh.len());
        }
    }

    pub(super) fn refuse(&mut self, source: SourceId, reason: Reason, kind: Kind, count: usize) {
        let count = count as u64;
        if count > 0 {
            *self.refusals.entry((reason, kind)).or_default() += count;
            self.account(source).refused += count;
        }
    }

    pub(super) fn refused(&self, reason: Reason, kind: Kind) -> u64 {
        self.refusals.get(&(reason, kind)).copied().unwrap_or_default()
    }

    pub(super) fn refused_of(&self, source: SourceId) -> u64 {
        self.accounts.get(&source).map_or(0, |account| account.refused)
    }

    pub(super) fn bytes(&self) -> usize {
        self.all.iter().map(|it| it.bytes).sum()
    }

    fn account(&mut self, source: SourceId) -> &mut Account {
        self.accounts.entry(source).or_default()
    }
}
