//! What a scrape writes, for tests.

use crate::exposition::strict::{Scraped, read};
use crate::exposition::{Cursor, Format, PIECE, Scrape, Selection, Tails};

/// The text of these families, of pieces that are as long as they may be.
pub(crate) fn text(scrape: &mut Scrape, format: Format, selection: Selection) -> String {
    let mut text = Vec::new();
    let snapshot = scrape.snapshot(selection, Tails::default());
    snapshot.write(Cursor::new(format, selection), |piece| {
        assert!(!piece.is_empty() && piece.len() <= PIECE);
        text.extend(piece);
    });
    String::from_utf8(text).expect("a text format is UTF-8")
}

/// Everything, read back strictly.
pub(crate) fn scraped(scrape: &mut Scrape, format: Format) -> Scraped {
    let text = text(scrape, format, Selection::ALL);
    read(&text, format).unwrap_or_else(|fault| panic!("{fault}"))
}

/// The same in both formats, which tell of the same series.
pub(crate) fn in_both(scrape: &mut Scrape) -> Scraped {
    let [plain, open] = [Format::Text, Format::OpenMetrics].map(|format| scraped(scrape, format));
    assert_eq!(plain.samples.len(), open.samples.len());
    plain
}
