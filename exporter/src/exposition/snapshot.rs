//! All that a scrape's text is written from, as it was at one moment, and how far a writer has come.
//!
//! Whoever writes has a [`Cursor`] of his own and takes his text piece by piece: it never lies in memory
//! as a whole, however slowly it is taken, and writers do not wait for each other or for the ledger.

use bytes::Bytes;

use crate::exposition::families::FAMILIES;
use crate::exposition::selection::Selection;
use crate::exposition::text::{Format, Lines};
use crate::ledger::View;

/// Bytes of a piece at most.
pub const PIECE: usize = 64 * 1024;
/// A piece ends with the line that passes this mark. What is between the two is more than the longest
/// line: label values are limited to fewer characters than that (`labels::text::limit`).
const MARK: usize = PIECE - 16 * 1024;

/// The series of one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    view: View,
    tails: Tails,
}

/// What others have to say at the end, without an end mark, in both formats. Its families' names must not
/// be among [`FAMILIES`].
#[derive(Clone, Debug, Default)]
pub struct Tails {
    /// In the text format.
    pub text: Bytes,
    /// In OpenMetrics.
    pub open_metrics: Bytes,
}

/// How far a writer has come.
#[derive(Clone, Debug)]
pub struct Cursor {
    format: Format,
    selection: Selection,
    /// The tail is wanted.
    tail: bool,
    family: usize,
    place: usize,
    /// Bytes of the tail that have been written.
    written: usize,
    done: bool,
}

impl Cursor {
    /// At the beginning.
    pub fn new(format: Format, selection: Selection) -> Self {
        Self { format, selection, tail: false, family: 0, place: 0, written: 0, done: false }
    }

    /// With the tail, or without.
    pub fn with_tail(self, tail: bool) -> Self {
        Self { tail, ..self }
    }
}

impl Snapshot {
    pub(super) fn new(view: View, tails: Tails) -> Self {
        Self { view, tails }
    }

    /// Nothing but a tail.
    #[cfg(test)]
    pub(crate) fn of_tails(tails: Tails) -> Self {
        Self { view: View::default(), tails }
    }

    /// The next piece, at most [`PIECE`] bytes; `None` after the last.
    pub fn next_piece(&self, cursor: &mut Cursor) -> Option<Bytes> {
        if cursor.done {
            return None;
        }
        let mut out = Vec::with_capacity(PIECE);
        while let Some(family) = FAMILIES.get(cursor.family) {
            if !cursor.selection.has(family.group) {
                cursor.family += 1;
                continue;
            }
            let before = out.len();
            if cursor.place == 0 {
                cursor.format.header(family.head(), &mut out);
            }
            let headed = out.len();
            let mut lines = Lines::new(&mut out, family.name, MARK);
            match (family.rows)(&self.view, cursor.place, &mut lines) {
                // Before its first row the family has not begun: the header is written again then.
                Some(0) => {
                    out.truncate(before);
                    return Some(out.into());
                }
                Some(place) => {
                    cursor.place = place;
                    return Some(out.into());
                }
                None => {
                    if out.len() == headed {
                        out.truncate(before);
                    }
                    (cursor.family, cursor.place) = (cursor.family + 1, 0);
                }
            }
        }
        self.finish(cursor, out)
    }

    /// What others had to say, and the end.
    fn finish(&self, cursor: &mut Cursor, mut out: Vec<u8>) -> Option<Bytes> {
        if !out.is_empty() {
            // The tail has pieces of its own.
            return Some(out.into());
        }
        let tail = match cursor.format {
            Format::Text => &self.tails.text,
            Format::OpenMetrics => &self.tails.open_metrics,
        };
        if cursor.tail && cursor.written < tail.len() {
            let end = tail.len().min(cursor.written + PIECE);
            let piece = tail.slice(cursor.written..end);
            cursor.written = end;
            return Some(piece);
        }
        cursor.done = true;
        out.extend_from_slice(cursor.format.end().as_bytes());
        (!out.is_empty()).then(|| out.into())
    }

    /// Writes a whole scrape.
    pub fn write(&self, mut cursor: Cursor, mut sink: impl FnMut(Bytes)) {
        while let Some(piece) = self.next_piece(&mut cursor) {
            sink(piece);
        }
    }
}
