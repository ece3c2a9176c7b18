//! What becomes of the words that people chose: ids of peers and rooms, display names, user agents.
//!
//! Text in, text that may be shown out. A pseudonym is a keyed hash (HMAC with SHA-256, RFC 2104), so it is the same
//! in all series, and on all hosts with the same key, and nobody without the key can try names until one fits.

use std::borrow::Cow;
use std::fmt;
use std::fmt::Write as _;

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
        let hmac =
            Hmac::<Sha256>::new_from_slice(key).expect("a key of any length will do (RFC 2104 §2)");
        Self::Pseudonym(Box::new(hmac))
    }

    /// The word as it may be shown. Nothing stays nothing.
    pub(super) fn show<'a>(
        &self,
        word: Word,
        text: &'a str,
        counts: &mut TextCounts,
    ) -> Cow<'a, str> {
        match self {
            Self::None => clean(text, word.limit(), counts),
            Self::Drop => Cow::Borrowed(""),
            Self::Pseudonym(_) if text.is_empty() => Cow::Borrowed(""),
            Self::Pseudonym(key) => {
                let hash = (**key).clone().chain_update(word.domain()).chain_update(text);
                let hash = hash.finalize().into_bytes();
                let mut shown = String::with_capacity(2 * SHOWN);
                for byte in &hash[..SHOWN] {
                    // Writing to a string cannot fail.
                    let _ = write!(shown, "{byte:02x}");
                }
                Cow::Owned(shown)
            }
        }
    }
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
        policy.show(word, text, &mut TextCounts::default()).into_owned()
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
}
