//! A room's legs: who sends to whom, and what gets lost on each.

use std::ops::Range;
use std::sync::Arc;

use foldhash::HashMap;

use crate::history::{Past, Sample, Side, Whose};
use crate::state::StreamRole;
use crate::views::sums::sums;
use crate::views::verdict::Thresholds;
use crate::views::words::{percent, rate, severity};

/// Peers of a matrix at most: a larger one is no help.
const MOST: usize = 24;

/// What one peer sends to each, and what of it was lost before this host.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) cells: Vec<Cell>,
    pub(super) uplink: Cell,
}

/// One leg. Empty where nothing is sent.
#[derive(Default)]
pub(super) struct Cell {
    pub(super) text: String,
    pub(super) class: &'static str,
}

/// The names of receivers, and what each sender sends to them; nothing for a room in which nobody receives, or
/// that has too many.
pub(super) fn matrix(
    past: &Past,
    time: Range<u64>,
    room: &str,
    thresholds: &Thresholds,
) -> (Vec<String>, Vec<Line>) {
    let facts = &past.facts;
    let is_here = |room_of: &str| room_of.to_lowercase() == room;
    let here = || facts.subjects.values().filter(|known| is_here(&known.subject.room));
    let senders: HashMap<&str, &str> = here()
        // A producer that came through a pipe has the id of the one it came from, and nobody's peer.
        .filter(|known| !known.is_consumer && !known.subject.peer.is_empty())
        .map(|known| (&*known.subject.id, &*known.subject.peer))
        .collect();
    let stretch = past.stretch(time);
    let millis: u64 = stretch.steps().map(|(_, length)| length).sum();
    let mut legs: HashMap<(&str, &str), Sample> = HashMap::default();
    let mut uplinks: HashMap<&str, Sample> = HashMap::default();
    for (track, sample) in sums(past, &stretch) {
        let Whose::Stream { subject, role, .. } = &track.whose else { continue };
        let Some(known) = facts.subjects.get(subject) else { continue };
        if !is_here(&known.subject.room) || !StreamRole::is_media(*role) {
            continue;
        }
        let peer = &*known.subject.peer;
        if peer.is_empty() || facts.is_piped(&known.subject) {
            continue;
        }
        if !known.is_consumer {
            uplinks.entry(peer).or_default().add(&sample);
        } else if let Some(sender) = senders.get(&*known.subject.consumed) {
            legs.entry((sender, peer)).or_default().add(&sample);
        }
    }
    let mut peers: Vec<&str> = legs.keys().flat_map(|(from, to)| [*from, *to]).collect();
    peers.sort_unstable();
    peers.dedup();
    if peers.is_empty() || peers.len() > MOST {
        return Default::default();
    }
    let names = here().map(|known| (&*known.subject.peer, &known.subject.room));
    let rooms: HashMap<&str, &Arc<str>> = names.collect();
    let name = |peer: &str| {
        let room = rooms.get(peer).map(|room| Arc::clone(room)).unwrap_or_default();
        facts.names.get(&(room, peer.into())).map_or(peer, |name| name).to_owned()
    };
    let class = |loss| match severity(loss, thresholds.loss) {
        "" => "ok",
        class => class,
    };
    let cell = |from: &str, to: &str| {
        let Some(sample) = legs.get(&(from, to)) else { return Cell::default() };
        let loss = sample.loss(Side::Sent);
        let bits = (sample.bytes * 8_000).checked_div(millis).unwrap_or_default();
        Cell { text: format!("{} · {}", rate(bits as f64), percent(loss)), class: class(loss) }
    };
    let uplink = |from: &str| {
        let Some(sample) = uplinks.get(from) else { return Cell::default() };
        let loss = sample.loss(Side::Received);
        Cell { text: format!("{} lost", percent(loss)), class: class(loss) }
    };
    let line = |from: &&str| Line {
        name: name(from),
        cells: peers.iter().map(|to| cell(from, to)).collect(),
        uplink: uplink(from),
    };
    (peers.iter().map(|peer| name(peer)).collect(), peers.iter().map(line).collect())
}
