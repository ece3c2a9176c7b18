//! Makes strangers' text fit for a label: bounded, and without characters that act on a terminal or a
//! page. Escaping is the writer's business, not done here.

use std::borrow::Cow;

/// Characters that a label keeps at most, by what it names.
pub mod limit {
    /// UUIDs, mostly.
    pub const ID: usize = 128;
    /// `tenant/room`, chosen by users.
    pub const ROOM: usize = 128;
    /// What a participant calls itself.
    pub const DISPLAY_NAME: usize = 64;
    /// A browser's User-Agent header.
    pub const USER_AGENT: usize = 256;
    /// Reverse names: RFC 1035 §2.3.4 allows 255.
    pub const HOST_NAME: usize = 255;
    /// Codecs, states, places.
    pub const WORD: usize = 64;
}

/// How often text had to be changed, counted when a label is made, not at each scrape.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextCounts {
    /// Texts that were too long.
    pub shortened: u64,
    /// Texts that held control characters.
    pub replaced: u64,
}

/// The text with at most `limit` characters, each control or direction character replaced by U+FFFD.
pub fn clean<'a>(text: &'a str, limit: usize, counts: &mut TextCounts) -> Cow<'a, str> {
    // Most text is short and plain: one look at its bytes decides.
    if text.len() <= limit && text.bytes().all(|byte| (b' '..0x7f).contains(&byte)) {
        return Cow::Borrowed(text);
    }
    let kept = match text.char_indices().nth(limit) {
        Some((end, _)) => {
            counts.shortened += 1;
            &text[..end]
        }
        None => text,
    };
    if !kept.chars().any(is_active) {
        return Cow::Borrowed(kept);
    }
    counts.replaced += 1;
    Cow::Owned(kept.chars().map(|c| if is_active(c) { '\u{fffd}' } else { c }).collect())
}

/// Text of several lines, of whoever it is, as a terminal may have it.
pub fn inert(text: &str) -> String {
    text.chars().map(|c| if c != '\n' && is_active(c) { '\u{fffd}' } else { c }).collect()
}

/// Whether the text becomes a label as it is. Texts that do are different labels when they differ.
pub fn fits(text: &str, limit: usize) -> bool {
    text.chars().nth(limit).is_none() && !text.chars().any(is_active)
}

/// C0, C1, line and paragraph separators, and the marks that turn the direction of what follows
/// (Unicode UAX #9), with which one name can be made to look like another.
fn is_active(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{061c}')
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, limit: usize, expected: &str, shortened: u64, replaced: u64) {
        let mut counts = TextCounts::default();
        assert_eq!(clean(text, limit, &mut counts), expected);
        assert_eq!(fits(text, limit), text == expected, "{text:?}");
        assert_eq!(counts, TextCounts { shortened, replaced }, "{text:?}");
    }

    #[test]
    fn text_is_bounded_and_inert() {
        check("Ada", 8, "Ada", 0, 0);
        check("a\"b\\c", 8, "a\"b\\c", 0, 0);
        check("", 8, "", 0, 0);
        check("Zoë 🚀", 5, "Zoë 🚀", 0, 0);
        check("🚀🚀🚀", 2, "🚀🚀", 1, 0);
        check("abcdefghij", 4, "abcd", 1, 0);
        check("a\nb\r\u{1b}[31m\u{9b}", 16, "a\u{fffd}b\u{fffd}\u{fffd}[31m\u{fffd}", 0, 1);
        check("\u{202e}evil", 16, "\u{fffd}evil", 0, 1);
        check("abc\n", 3, "abc", 1, 0);
    }

    #[test]
    fn what_a_terminal_gets_moves_nothing_on_it() {
        assert_eq!(
            inert("a\n\u{1b}[2J\u{9b}\u{202e}b\u{7}"),
            "a\n\u{fffd}[2J\u{fffd}\u{fffd}b\u{fffd}"
        );
        assert_eq!(inert("Zoë 🚀\n"), "Zoë 🚀\n");
    }
}
