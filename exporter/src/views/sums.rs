//! What each track did in a time.

use std::sync::Arc;

use crate::history::{Past, Sample, Stretch, Track};

/// Whose samples there are, and their sums.
pub(super) fn sums<'a>(
    past: &'a Past,
    stretch: &Stretch<'_>,
) -> impl Iterator<Item = (&'a Arc<Track>, Sample)> + use<'a> {
    let sums = stretch.sums(past, |_, _| false);
    let did = (0..).zip(sums).filter(|(_, (sum, _))| !sum.is_empty());
    did.filter_map(|(number, (sum, _))| {
        let track = past.track(number)?;
        Some((track, sum.sample(track.side)))
    })
}
