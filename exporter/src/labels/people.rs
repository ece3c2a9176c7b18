//! What becomes of the words that people chose: ids of peers and rooms, display names, user agents.
//!
//! Text in, text that may be shown out. A pseudonym is a keyed hash (HMAC with SHA-256, RFC 2104), so it is the same
//! in all series, and on all hosts with the same key, and nobody without the key can try names until one fits.
//! A word that is shown keeps its pseudonym when the key changes: what it belongs to has ids that stay, so two
//! pseudonyms in a row would tell everybody that they are one person.

use std::borrow::Cow;
use std::fmt;
use std::fmt::Write as _;
use std::ops::Deref;
use std::sync::Arc;

use foldhash::HashMap;
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::labels::text::{TextCounts, clean, limit};

/// How words of people are shown.
#[derive(Clone, Default)]
pub enum NamePolicy {
    /// As they are, within bounds.
    #[default]
    None,
    /// As 16 hexadecimal digits; make it with [`NamePolicy::pseudonym`].
    Pseudonym(Box<Hmac<Sha256>>),
    /// Not at all.
    Drop,
}

/// What a word is. One word is two pseudonyms as two of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// A peer's id.
    Peer,
    /// A room's id, or that of a session without a room.
    Room,
    /// What a participant calls itself.
    DisplayName,
    /// A browser's User-Agent header.
    UserAgent,
}

impl Word {
    fn limit(self) -> usize {
        match self {
            Self::Peer => limit::ID,
            Self::Room => limit::ROOM,
            Self::DisplayName => limit::DISPLAY_NAME,
            Self::UserAgent => limit::USER_AGENT,
        }
    }

    /// Tells the kinds apart under the hash, and names from whatever else the key is for.
    fn domain(self) -> &'static [u8] {
        match self {
            Self::Peer => b"mediasoup-exporter peer\0",
            Self::Room => b"mediasoup-exporter room\0",
            Self::DisplayName => b"mediasoup-exporter display name\0",
            Self::UserAgent => b"mediasoup-exporter user agent\0",
        }
    }
}

/// Bytes of the hash that are shown: two of a million names are the same with a chance of 1 in 37 million.
const SHOWN: usize = 8;

impl NamePolicy {
    /// Pseudonyms by this key.
    pub fn pseudonym(key: &[u8]) -> Self {
        Self::Pseudonym(Box::new(keyed(key)))
    }
}

/// The hash of a word under a key.
fn hash(key: &Hmac<Sha256>, word: Word, text: &str) -> [u8; 32] {
    key.clone().chain_update(word.domain()).chain_update(text).finalize().into_bytes().into()
}

/// A word as it may be shown.
#[derive(Debug)]
pub enum Shown<'a> {
    /// As it always will be.
    Plain(Cow<'a, str>),
    /// By the key that holds now: it stays like this as long as somebody keeps it.
    Kept(Arc<str>),
}

/// What somebody keeps so that a word stays as it is shown.
pub type Held = Option<Arc<str>>;

impl Shown<'_> {
    /// Whoever shows the word holds this as long as he does.
    pub fn hold(&self) -> Held {
        match self {
            Self::Plain(_) => None,
            Self::Kept(text) => Some(text.clone()),
        }
    }
}

impl Deref for Shown<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Plain(text) => text,
            Self::Kept(text) => text,
        }
    }
}

/// Words that are shown now, and how those will be that are shown next.
pub(super) struct Words {
    policy: NamePolicy,
    /// By a hash that no change of the key changes: names can be long, and need not lie here.
    shown: HashMap<[u8; 32], (Arc<str>, u64)>,
    /// That hash's key; it tells nobody the one that it was made from.
    memory: Hmac<Sha256>,
    /// Grows with each change of the key.
    round: u64,
}

impl Words {
    pub(super) fn new(policy: NamePolicy) -> Self {
        let memory = match &policy {
            NamePolicy::Pseudonym(key) => {
                (**key).clone().chain_update(b"mediasoup-exporter memory").finalize().into_bytes()
            }
            NamePolicy::None | NamePolicy::Drop => Default::default(),
        };
        let memory = keyed(&memory);
        Self { policy, shown: HashMap::default(), memory, round: 0 }
    }

    /// The word as it may be shown. Nothing stays nothing.
    pub(super) fn show<'a>(
        &mut self,
        word: Word,
        text: &'a str,
        counts: &mut TextCounts,
    ) -> Shown<'a> {
        match &self.policy {
            NamePolicy::None => Shown::Plain(clean(text, word.limit(), counts)),
            NamePolicy::Drop => Shown::Plain("".into()),
            NamePolicy::Pseudonym(_) if text.is_empty() => Shown::Plain("".into()),
            NamePolicy::Pseudonym(key) => {
                let memory = hash(&self.memory, word, text);
                let fresh = || (pseudonym(key, word, text), self.round);
                Shown::Kept(self.shown.entry(memory).or_insert_with(fresh).0.clone())
            }
        }
    }

    /// Words that are shown stay as they are; others are shown by this policy.
    pub(super) fn renew(&mut self, policy: NamePolicy) {
        self.forget_unused();
        self.policy = policy;
        self.round += 1;
    }

    /// Forgets words that nobody shows any more.
    pub(super) fn forget_unused(&mut self) {
        self.shown.retain(|_, (text, _)| Arc::strong_count(text) > 1);
    }

    /// Takes a word back that is shown by an older key, if nobody but the asker holds it.
    pub(super) fn take_back(&mut self, word: Word, text: &str, held: &Held, round: u64) -> bool {
        // Mostly no key has changed, and then this costs nothing.
        if round == self.round || held.as_ref().is_none_or(|held| Arc::strong_count(held) > 2) {
            return false;
        }
        let memory = hash(&self.memory, word, text);
        let is_older = self.shown.get(&memory).is_none_or(|(_, since)| *since != self.round);
        if is_older {
            self.shown.remove(&memory);
        }
        is_older
    }

    /// How often the key has changed.
    pub(super) fn round(&self) -> u64 {
        self.round
    }

    /// How many are remembered.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.shown.len()
    }
}

fn pseudonym(key: &Hmac<Sha256>, word: Word, text: &str) -> Arc<str> {
    let mut shown = String::with_capacity(2 * SHOWN);
    for byte in &hash(key, word, text)[..SHOWN] {
        // Writing to a string cannot fail.
        let _ = write!(shown, "{byte:02x}");
    }
    shown.into()
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("a key of any length will do (RFC 2104 §2)")
}

/// The key of one period, from one that holds for all of them. From a period's key nobody finds another's.
pub fn key_of_period(key: &[u8], period: &str) -> [u8; 32] {
    let hmac = keyed(key).chain_update(b"mediasoup-exporter period ").chain_update(period);
    hmac.finalize().into_bytes().into()
}

impl fmt::Debug for NamePolicy {
    /// The mode's name: never the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Pseudonym(_) => "pseudonym",
            Self::Drop => "drop",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(policy: &NamePolicy, word: Word, text: &str) -> String {
        Words::new(policy.clone()).show(word, text, &mut TextCounts::default()).to_owned()
    }

    #[test]
    fn pseudonyms_depend_on_key_kind_and_all_of_the_text() {
        let (one, other) = (NamePolicy::pseudonym(&[1; 32]), NamePolicy::pseudonym(&[2; 32]));
        let ada = show(&one, Word::Peer, "ada");
        assert_eq!(ada.len(), 16);
        assert!(ada.bytes().all(|byte| byte.is_ascii_hexdigit()));
        assert_eq!(ada, show(&NamePolicy::pseudonym(&[1; 32]), Word::Peer, "ada"));
        let long = "x".repeat(1000);
        let others = [
            show(&other, Word::Peer, "ada"),
            show(&one, Word::Room, "ada"),
            show(&one, Word::DisplayName, "ada"),
            show(&one, Word::UserAgent, "ada"),
            show(&one, Word::Peer, "Ada"),
            show(&one, Word::Peer, &format!("{long}1")),
            show(&one, Word::Peer, &format!("{long}2")),
        ];
        for (at, shown) in others.iter().enumerate() {
            assert!(!others[..at].contains(shown) && *shown != ada, "{at}");
        }
        // As `printf 'mediasoup-exporter peer\0ada' | openssl dgst -sha256 -hmac KEY` begins.
        let known = NamePolicy::pseudonym(b"0123456789abcdef0123456789abcdef");
        assert_eq!(show(&known, Word::Peer, "ada"), "726647b80ca37670");
        assert_eq!(show(&one, Word::Room, ""), "");
    }

    #[test]
    fn nothing_is_nothing_and_names_are_bounded() {
        assert_eq!(show(&NamePolicy::Drop, Word::Room, "lobby"), "");
        assert_eq!(show(&NamePolicy::None, Word::Room, "a\nb"), "a\u{fffd}b");
        assert_eq!(show(&NamePolicy::None, Word::DisplayName, &"x".repeat(99)).len(), 64);
        assert!(!format!("{:?}", NamePolicy::pseudonym(b"secret")).contains("secret"));
    }

    #[test]
    fn words_that_are_shown_stay_as_they_are() {
        let counts = &mut TextCounts::default();
        let mut words = Words::new(NamePolicy::pseudonym(&[1; 32]));
        let ada = words.show(Word::Peer, "ada", counts).hold();
        let bob = words.show(Word::Peer, "bob", counts).to_owned();
        words.renew(NamePolicy::pseudonym(&[2; 32]));
        assert_eq!(words.len(), 1, "nobody shows Bob any more");
        assert_eq!(words.show(Word::Peer, "ada", counts).hold(), ada);
        assert_ne!(*words.show(Word::Peer, "bob", counts), *bob);
        let second = NamePolicy::pseudonym(&[2; 32]);
        assert_eq!(*words.show(Word::Peer, "bob", counts), *show(&second, Word::Peer, "bob"));
        let held = ada.clone();
        assert!(!words.take_back(Word::Peer, "ada", &ada, 0), "somebody else holds it");
        drop(held);
        assert!(!words.take_back(Word::Peer, "ada", &ada, 1), "he has it by this key");
        assert!(words.take_back(Word::Peer, "ada", &ada, 0));
        assert_eq!(*words.show(Word::Peer, "ada", counts), *show(&second, Word::Peer, "ada"));
        drop(ada);
        words.forget_unused();
        assert_eq!(words.len(), 0);
    }

    #[test]
    fn each_period_has_a_key_of_its_own() {
        let key = b"0123456789abcdef0123456789abcdef";
        let periods =
            ["daily 20783", "daily 20784", "weekly 20783"].map(|it| key_of_period(key, it));
        assert!(periods[0] != periods[1] && periods[0] != periods[2]);
        assert_ne!(periods[0], key_of_period(b"another", "daily 20783"));
        // As `printf 'mediasoup-exporter period daily 20783' | openssl dgst -sha256 -hmac KEY` begins.
        assert_eq!(periods[0][..4], [0x77, 0xbd, 0xc5, 0xa5]);
    }
}
