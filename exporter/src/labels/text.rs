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

/// The text with at most `limit` characters, each control, direction or invisible character replaced by U+FFFD.
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
    if !has_marked(kept) {
        return Cow::Borrowed(kept);
    }
    counts.replaced += 1;
    Cow::Owned(marked(kept).collect())
}

/// Text of several lines, of whoever it is, as a terminal may have it.
pub fn inert(text: &str) -> String {
    text.split_inclusive('\n')
        .flat_map(|line| {
            let end = if line.ends_with('\n') { "\n" } else { "" };
            marked(line.strip_suffix('\n').unwrap_or(line)).chain(end.chars())
        })
        .collect()
}

/// Whether the text becomes a label as it is. Texts that do are different labels when they differ.
pub fn fits(text: &str, limit: usize) -> bool {
    text.chars().nth(limit).is_none() && !has_marked(text)
}

/// Its characters, U+FFFD for those that are not to be shown as they are.
fn marked(text: &str) -> impl Iterator<Item = char> {
    let mut before = ' ';
    text.chars().map(move |c| {
        let is_shaped = shapes(c) && !before.is_ascii() && !is_invisible(before);
        before = c;
        if is_active(c) || (is_invisible(c) && !is_shaped) { '\u{fffd}' } else { c }
    })
}

fn has_marked(text: &str) -> bool {
    text.chars().zip(marked(text)).any(|(before, after)| before != after)
}

/// Joiners and variants, which emoji and several scripts need behind a letter of theirs. Behind ASCII, at the beginning
/// and behind one another they are only a way to make equal names differ.
fn shapes(c: char) -> bool {
    matches!(c, '\u{200c}' | '\u{200d}' | '\u{fe0e}' | '\u{fe0f}')
}

/// What takes no room (Unicode's Default_Ignorable_Code_Point), or is an empty letter.
pub(crate) fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
    ) || matches!(c, '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}')
        || matches!(c, '\u{ffa0}' | '\u{fff0}'..='\u{fff8}' | '\u{1bca0}'..='\u{1bca3}')
        || matches!(c, '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
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
        // What nobody sees.
        check("a\u{200b}b\u{ad}\u{feff}", 16, "a\u{fffd}b\u{fffd}\u{fffd}", 0, 1);
        check("Ada\u{200d}\u{fe0f}\u{3164}", 16, "Ada\u{fffd}\u{fffd}\u{fffd}", 0, 1);
        check("é\u{200d}\u{200d}", 16, "é\u{200d}\u{fffd}", 0, 1);
        // What belongs to its letter.
        check("🏳\u{fe0f}🚀", 16, "🏳\u{fe0f}🚀", 0, 0);
        check("👩\u{200d}💻 می\u{200c}خواهم", 16, "👩\u{200d}💻 می\u{200c}خواهم", 0, 0);
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
