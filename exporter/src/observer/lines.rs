//! Bytes into lines, whatever the sender does: half lines wait, oversized lines are skipped and
//! counted, and never more than one line's bound is held.
//!
//! Pure.

/// Splits a stream of bytes at `\n`.
#[derive(Debug)]
pub(super) struct Lines {
    held: Vec<u8>,
    limit: usize,
    /// The rest of an oversized line is being thrown away.
    skipping: bool,
    oversized: u64,
}

impl Lines {
    /// Lines of at most `limit` bytes, without their ends.
    pub(super) fn new(limit: usize) -> Self {
        Self { held: Vec::new(), limit, skipping: false, oversized: 0 }
    }

    /// Oversized lines since this was asked last.
    pub(super) fn take_oversized(&mut self) -> u64 {
        std::mem::take(&mut self.oversized)
    }

    /// Calls `each` for every line that is complete with these bytes. Empty lines are left out.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(&[u8])) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.hold(&bytes[..end]);
            bytes = &bytes[end + 1..];
            if !self.skipping && !self.held.is_empty() {
                each(&self.held);
            }
            self.held.clear();
            self.skipping = false;
        }
        self.hold(bytes);
    }

    fn hold(&mut self, bytes: &[u8]) {
        if self.skipping {
            return;
        }
        if self.held.len() + bytes.len() > self.limit {
            self.oversized += 1;
            self.skipping = true;
            self.held = Vec::new();
            return;
        }
        self.held.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(chunks: &[&str], lines: &[&str], oversized: u64) {
        let mut splitter = Lines::new(8);
        let mut seen = Vec::new();
        for chunk in chunks {
            splitter.feed(chunk.as_bytes(), |line| {
                seen.push(String::from_utf8_lossy(line).into_owned());
            });
        }
        assert_eq!(seen, lines);
        assert_eq!(splitter.take_oversized(), oversized);
        assert!(splitter.held.len() <= 8);
    }

    #[test]
    fn lines_come_whole_however_they_arrive() {
        check(&["one\ntwo\n"], &["one", "two"], 0);
        check(&["on", "e\nt", "wo", "\n", "half"], &["one", "two"], 0);
        check(&["\n\none\n\n"], &["one"], 0);
        check(&["12345678\n"], &["12345678"], 0);
    }

    #[test]
    fn an_oversized_line_is_skipped_to_its_end() {
        check(&["123456789\nnext\n"], &["next"], 1);
        check(&["1234", "56789", "and more", "\nnext\n"], &["next"], 1);
        check(&["123456789\n123456789\n"], &[], 2);
        check(&["123456789 without an end"], &[], 1);
    }
}
