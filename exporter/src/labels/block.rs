//! Writes labels as both exposition formats want them: `name="value"`, the value escaped.
//!
//! Nothing here decides what may be shown; text comes in as it shall be read.

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
}
