//! What is learned of encodings after they were told: RIDs' SSRCs, scores, statistics.
//!
//! Plain lists in, plain lists out; the bound on their length comes with the call.

use std::mem;

use super::{EncodingStats, ProducerState};
use crate::model::Encoding;

/// Scores come by SSRC; a RID's first score is what tells its SSRC. Returns how many had no room.
pub(super) fn learn_scores(
    encodings: &mut Vec<Encoding>,
    state: &ProducerState,
    limit: usize,
) -> usize {
    let mut left_out = 0;
    for told in &state.scores {
        match encoding_of(encodings, told.ssrc, told.rid.as_deref(), limit) {
            Some(encoding) => encoding.score = Some(told.score),
            None => left_out += 1,
        }
    }
    left_out
}

/// Statistics come by SSRC, too. Returns how many had no room.
pub(super) fn learn_stats(
    encodings: &mut Vec<Encoding>,
    stats: Vec<EncodingStats>,
    limit: usize,
) -> usize {
    let mut left_out = 0;
    for told in stats {
        match encoding_of(encodings, told.ssrc, told.rid.as_deref(), limit) {
            Some(encoding) => {
                encoding.rtx = told.rtx.or(encoding.rtx);
                encoding.stats = Some(told.stats);
            }
            None => left_out += 1,
        }
    }
    left_out
}

/// The encoding of an SSRC: by the SSRC; else by the RID, whose SSRC may be new or another now;
/// else one that was signalled with neither; else a new one.
fn encoding_of<'a>(
    encodings: &'a mut Vec<Encoding>,
    ssrc: u32,
    rid: Option<&str>,
    limit: usize,
) -> Option<&'a mut Encoding> {
    let by_rid = |encoding: &Encoding| rid.is_some() && encoding.rid.as_deref() == rid;
    let bare = |encoding: &Encoding| encoding.ssrc.is_none() && encoding.rid.is_none();
    let place = encodings
        .iter()
        .position(|encoding| encoding.ssrc == Some(ssrc))
        .or_else(|| encodings.iter().position(by_rid))
        .or_else(|| encodings.iter().position(bare));
    let place = match place {
        Some(place) => place,
        None if encodings.len() < limit => {
            let rid = rid.map(Into::into);
            encodings.push(Encoding { ssrc: None, rtx: None, rid, score: None, stats: None });
            encodings.len() - 1
        }
        None => return None,
    };
    let encoding = &mut encodings[place];
    if encoding.ssrc != Some(ssrc) {
        // Another SSRC is another stream: its figures begin anew.
        let rid = mem::take(&mut encoding.rid);
        let rtx = if encoding.ssrc.is_none() { encoding.rtx } else { None };
        *encoding = Encoding { ssrc: Some(ssrc), rtx, rid, score: None, stats: None };
    }
    Some(encoding)
}

/// Keeps what was learned of encodings that are told anew.
pub(super) fn carry_over(encodings: &mut [Encoding], old: &[Encoding]) {
    for encoding in encodings.iter_mut().filter(|encoding| encoding.ssrc.is_some()) {
        if let Some(old) = old.iter().find(|old| old.ssrc == encoding.ssrc) {
            encoding.rtx = encoding.rtx.or(old.rtx);
            encoding.stats = encoding.stats.or(old.stats);
        }
    }
}
