//! The series of the replaced exporter's four families: 13 labels, a byte count and a score.
//!
//! A byte count is the sum over an object's encodings of what the worker last told, made monotonic:
//! the worker begins again from zero when an encoding comes back, and forgets what closed. What it counts of
//! repairs is made so in the same way.

use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};

use smallvec::SmallVec;

use crate::ledger::totals::grown_total;
use crate::model::{Encoding, Repair, Repairs};

/// The labels, in parts that many series share. Equal are those that read the same.
#[derive(Clone, Debug)]
pub(crate) struct ContractLabels {
    /// From the opening brace to `remote_addr`.
    prefix: Arc<str>,
    /// Ends with `id="…"`, from `id_at` on.
    ids: Arc<str>,
    id_at: u32,
    /// `kind` and `codec`.
    media: Arc<str>,
    /// 0: producers, 1: consumers.
    side: u8,
}

impl ContractLabels {
    pub(crate) fn new(
        prefix: &Arc<str>,
        ids: &Arc<str>,
        media: &Arc<str>,
        side: usize,
        quiet: bool,
    ) -> Self {
        // A value cannot hold `",`: its quotes are escaped.
        let comma = ids.find("\",id=\"").map_or(0, |at| at + 2);
        let (ids, id_at) = if quiet { (NO_ID.clone(), 0) } else { (ids.clone(), comma as u32) };
        Self { prefix: prefix.clone(), ids, id_at, media: media.clone(), side: side as u8 }
    }

    /// The parts; a comma goes between two of them.
    pub(crate) fn parts(&self) -> [&str; 4] {
        const TYPES: [&str; 2] = [r#"type="inbound-rtp"} "#, r#"type="outbound-rtp"} "#];
        [&self.prefix, &self.ids[self.id_at as usize..], &self.media, TYPES[self.side as usize]]
    }
}

static NO_ID: LazyLock<Arc<str>> = LazyLock::new(|| r#"id="""#.into());

impl PartialEq for ContractLabels {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for ContractLabels {}

impl Hash for ContractLabels {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts().hash(state);
    }
}

/// One series in the byte count's and in the score's family.
#[derive(Clone, Debug, Default)]
pub(crate) struct ContractSeries {
    /// `None` before the worker told any.
    pub(crate) bytes: Option<u64>,
    /// The highest of the objects that share these labels.
    pub(crate) score: Option<u8>,
}

impl ContractSeries {
    /// Families that it has a series in.
    pub(crate) const FAMILIES: u64 = 2;

    pub(crate) fn take(&mut self, totals: &mut Totals, score: Option<u8>) {
        if totals.told {
            let bytes = self.bytes.get_or_insert(0);
            *bytes = bytes.saturating_add(std::mem::take(&mut totals.pending));
        }
        self.score = self.score.max(score);
    }
}

/// What an object's encodings told so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    /// Most objects have one encoding.
    last: SmallVec<[Last; 1]>,
    /// Grown, but not yet in a series.
    pending: u64,
    told: bool,
    /// Of all encodings that there ever were; `None` before any was told.
    repairs: Option<Repairs>,
}

#[derive(Clone, Debug)]
struct Last {
    ssrc: Option<u32>,
    bytes: u64,
    repairs: Repairs,
}

impl Totals {
    /// One of the counts, which never falls.
    pub(crate) fn repaired(&self, which: Repair) -> Option<u64> {
        self.repairs.map(|counts| counts[which as usize])
    }

    pub(crate) fn take(&mut self, encodings: &[Encoding]) {
        for (place, encoding) in encodings.iter().enumerate() {
            let Some(stats) = &encoding.stats else { continue };
            self.told = true;
            let last = self.last_of(place, encoding.ssrc);
            let grown = grown_total(&mut last.bytes, stats.byte_count);
            let repaired: Option<Repairs> = stats
                .repairs
                .map(|raw| std::array::from_fn(|at| grown_total(&mut last.repairs[at], raw[at])));
            self.pending = self.pending.saturating_add(grown);
            let Some(grown) = repaired else { continue };
            let totals = self.repairs.get_or_insert_default();
            totals
                .iter_mut()
                .zip(grown)
                .for_each(|(total, grown)| *total = total.saturating_add(grown));
        }
    }

    /// The bytes of a series that is no more.
    pub(crate) fn put_back(&mut self, series: &ContractSeries) {
        self.pending = self.pending.saturating_add(series.bytes.unwrap_or(0));
    }

    /// An encoding is known by its SSRC, and before that is known by its place.
    fn last_of(&mut self, place: usize, ssrc: Option<u32>) -> &mut Last {
        let known = self.last.iter().position(|last| last.ssrc.is_some() && last.ssrc == ssrc);
        let at = known
            .or_else(|| self.last.get(place).filter(|last| last.ssrc.is_none()).map(|_| place));
        let at = at.unwrap_or_else(|| {
            self.last.push(Last { ssrc, bytes: 0, repairs: Repairs::default() });
            self.last.len() - 1
        });
        let last = &mut self.last[at];
        last.ssrc = last.ssrc.or(ssrc);
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::encodings;
    use crate::model::StreamStats;

    fn told(counts: &[(u32, u64)]) -> Vec<Encoding> {
        let ssrcs: Vec<_> = counts.iter().map(|(ssrc, _)| (*ssrc, None)).collect();
        let mut encodings = encodings(&ssrcs);
        for (encoding, (ssrc, byte_count)) in encodings.iter_mut().zip(counts) {
            encoding.ssrc = encoding.ssrc.filter(|_| *ssrc != 0);
            encoding.stats =
                Some(StreamStats { byte_count: *byte_count, ..StreamStats::default() });
        }
        encodings
    }

    fn check(steps: &[&[(u32, u64)]], expected: &[u64]) {
        let mut totals = Totals::default();
        let mut series = ContractSeries::default();
        let mut found = Vec::new();
        for step in steps {
            totals.take(&told(step));
            series.take(&mut totals, None);
            found.push(series.bytes.unwrap());
        }
        assert_eq!(found, expected);
    }

    #[test]
    fn a_byte_count_never_falls() {
        check(&[&[(1, 10)], &[(1, 15)], &[(1, 3)], &[(1, 4)]], &[10, 15, 18, 19]);
        check(&[&[(1, 10), (2, 5)], &[(2, 6), (1, 10)], &[(2, 7)]], &[15, 16, 17]);
        check(&[&[(1, 10), (2, 5)], &[(1, 11)], &[(1, 12), (2, 6)]], &[15, 16, 18]);
        check(&[&[(0, 10)], &[(9, 12)], &[(9, 13)]], &[10, 12, 13]);
    }

    #[test]
    fn what_was_repaired_never_falls() {
        let mut totals = Totals::default();
        let mut take = |ssrc, repairs| {
            let mut told = told(&[(ssrc, 0)]);
            told[0].stats.as_mut().unwrap().repairs = repairs;
            totals.take(&told);
            [Repair::Discarded, Repair::KeyFrames].map(|which| totals.repaired(which))
        };
        assert_eq!(take(1, None), [None, None], "it is not told");
        assert_eq!(take(1, Some([1, 0, 0, 0, 5])), [Some(1), Some(5)]);
        assert_eq!(take(1, None), [Some(1), Some(5)]);
        assert_eq!(take(1, Some([3, 0, 0, 0, 5])), [Some(3), Some(5)]);
        // Another encoding; and the first begins anew.
        assert_eq!(take(2, Some([4, 0, 0, 0, 1])), [Some(7), Some(6)]);
        assert_eq!(take(1, Some([1, 0, 0, 0, 0])), [Some(8), Some(6)]);
        assert_eq!(take(1, Some([u64::MAX, 0, 0, 0, 0])), [Some(u64::MAX), Some(6)]);
    }

    #[test]
    fn labels_that_read_the_same_are_the_same() {
        let (prefix, media): (Arc<str>, Arc<str>) = ("{a=\"\"".into(), "kind=\"audio\"".into());
        let one: Arc<str> = r#"{transport_id="t1",id="x""#.into();
        let other: Arc<str> = r#"{transport_id="t\",id=\"",id="x""#.into();
        let labels = |ids, quiet| ContractLabels::new(&prefix, ids, &media, 0, quiet);
        assert_eq!(labels(&one, false), labels(&other, false));
        assert_eq!(labels(&one, false).parts()[1], "id=\"x\"");
        assert_eq!(labels(&one, true).parts()[1], "id=\"\"");
        assert_ne!(labels(&one, false), labels(&one, true));
    }
}
