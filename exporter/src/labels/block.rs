//! Writes labels as both exposition formats want them: `name="value"`, the value escaped.
//!
//! Nothing here decides what may be shown; text comes in as it shall be read.

use std::borrow::Cow;
use std::sync::Arc;

use crate::labels::text::{TextCounts, clean};

/// A list of labels that grows from left to right.
#[derive(Debug, Default)]
pub struct Block(String);

/// A closing brace, and the space before the value.
pub const CLOSE: &str = "} ";

impl Block {
    /// An empty list, opened by a brace.
    pub fn open() -> Self {
        Self("{".to_owned())
    }

    /// A list that goes on where another stopped.
    pub fn middle() -> Self {
        Self::default()
    }

    /// Adds a label; a comma goes before it where one is needed.
    pub fn label(mut self, name: &str, value: &str) -> Self {
        if !self.0.is_empty() && !self.0.ends_with('{') {
            self.0.push(',');
        }
        self.0.push_str(name);
        self.0.push_str("=\"");
        escape(&mut self.0, value);
        self.0.push('"');
        self
    }

    /// Bytes so far.
    pub fn length(&self) -> usize {
        self.0.len()
    }

    /// The text so far.
    pub fn finish(self) -> Arc<str> {
        self.0.into()
    }

    /// The text so far and [`CLOSE`].
    pub fn close(mut self) -> Arc<str> {
        self.0.push_str(CLOSE);
        self.0.into()
    }
}

/// The labels of a list that [`Block`] wrote, opened or not, closed or not: names, and values as they read.
pub fn parse(text: &str) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
    let mut rest = text.strip_prefix('{').unwrap_or(text);
    std::iter::from_fn(move || {
        let (name, after) = rest.trim_start_matches(',').split_once("=\"")?;
        let mut bytes = after.bytes().enumerate();
        let end = loop {
            match bytes.next()? {
                (at, b'"') => break at,
                // What comes next is the value's own, were it a quote.
                (_, b'\\') => bytes.next().map(drop)?,
                _ => {}
            }
        };
        rest = after.get(end + 1..)?;
        Some((name, unescape(&after[..end])))
    })
}

fn unescape(value: &str) -> Cow<'_, str> {
    if !value.contains('\\') {
        return Cow::Borrowed(value);
    }
    let mut text = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        text.push(match c {
            '\\' => match chars.next() {
                Some('n') => '\n',
                other => other.unwrap_or('\\'),
            },
            c => c,
        });
    }
    Cow::Owned(text)
}

/// The value alone, escaped; the same allocation where there is nothing to change.
pub fn value(text: &Arc<str>, limit: usize, counts: &mut TextCounts) -> Arc<str> {
    let clean = clean(text, limit, counts);
    let mut escaped = String::new();
    escape(&mut escaped, &clean);
    if *escaped == **text { text.clone() } else { escaped.into() }
}

/// Backslash, double quote and line feed are the characters that both formats escape in a label's
/// value (text format 0.0.4; OpenMetrics 1.0, "escaped-char").
fn escape(out: &mut String, value: &str) {
    if !value.bytes().any(|byte| matches!(byte, b'\\' | b'"' | b'\n')) {
        return out.push_str(value);
    }
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_escaped_and_joined_by_commas() {
        let block = Block::open().label("a", "").label("b", "x\\y\"z\n").label("c", "é").close();
        assert_eq!(&*block, "{a=\"\",b=\"x\\\\y\\\"z\\n\",c=\"é\"} ");
        assert_eq!(&*Block::middle().label("d", "1").label("e", "2").finish(), "d=\"1\",e=\"2\"");
    }

    #[test]
    fn what_was_written_is_read_back() {
        let values = ["", "plain", "a\\", "\"", "\\\"\n\\n", "é,b=\"1\"} {"];
        for close in [false, true] {
            let write = |block: Block, value: &&str| block.label("name", value);
            let block = values.iter().fold(Block::open(), write);
            let text = if close { block.close() } else { block.finish() };
            let read: Vec<_> =
                parse(&text).map(|(name, value)| (name, value.into_owned())).collect();
            assert_eq!(read, values.map(|value| ("name", value.to_owned())), "{text}");
        }
        for broken in ["", "{", "} ", "a", "a=\"", "a=\"b", "a=\"\\", "a=\"\\\"", "{a=\"é\\é"] {
            assert_eq!(parse(broken).count(), 0, "{broken}");
        }
    }
}
