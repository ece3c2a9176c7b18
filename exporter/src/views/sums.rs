//! What each track did in a time: first by number, because there are a hundred samples of each.

use std::sync::Arc;

use crate::history::{Past, Sample, Stretch, Track};

/// Whose samples there are, and their sums.
pub(super) fn sums<'a>(
    past: &'a Past,
    stretch: &Stretch<'_>,
) -> impl Iterator<Item = (&'a Arc<Track>, Sample)> + use<'a> {
    let mut sums = vec![Sample::default(); past.most_tracks()];
    for (_, number, _, sample) in stretch.samples() {
        if let Some(sum) = sums.get_mut(number as usize) {
            sum.add(&sample);
        }
    }
    let did = (0..).zip(sums).filter(|(_, sum)| sum.packets > 0);
    did.filter_map(|(number, sum)| Some((past.track(number)?, sum)))
}
