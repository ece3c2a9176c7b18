//! Rows: samples of some time, grouped by what a view is of, filtered, sorted, a page of them with plots.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::Range;

use foldhash::HashMap;
use ipnet::IpNet;

use crate::history::{Past, PeerKey, Sample, Side, Track};
use crate::views::attributes::Attributes;
use crate::views::figures::Figures;
use crate::views::query::{By, Column, Query};
use crate::views::traffic::Traffic;
use crate::views::verdict::{LIFE, Thresholds, Verdict, verdicts};

/// Peers and rooms that a row names; further ones are counted.
const NAMED: usize = 4;
/// Points of a plot at most.
const POINTS: usize = 60;
/// What rates of the present are made of, milliseconds.
const PRESENT: u64 = 15_000;

/// A view's rows, and what stands above them.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    /// The wanted page of them.
    pub(super) rows: Vec<Row>,
    /// Those in any row who suffer, the worst first.
    pub(super) sufferers: Vec<Sufferer>,
    /// How many there are in all.
    pub(super) total: usize,
    pub(super) facts: Summary,
    /// The time that is shown, milliseconds since the exporter began.
    pub(super) start: u64,
    pub(super) end: u64,
}

/// A peer, and what is said of it.
#[derive(Clone, Debug)]
pub(super) struct Sufferer {
    pub(super) peer: PeerKey,
    /// What people call it.
    pub(super) name: String,
    pub(super) verdict: Verdict,
}

/// What holds for all that is shown.
#[derive(Clone, Debug, Default)]
pub(super) struct Summary {
    pub(super) rooms: usize,
    pub(super) peers: usize,
    pub(super) streams: usize,
    /// Bits a second at the end.
    pub(super) rate_in: f64,
    pub(super) rate_out: f64,
    pub(super) suffering: usize,
}

/// One row.
#[derive(Clone, Debug, Default)]
pub(super) struct Row {
    /// What it is of: an address, a name, an id.
    pub(super) key: String,
    /// What people read in its place; may be the same.
    pub(super) title: String,
    /// What stands below it.
    pub(super) subtitle: String,
    pub(super) peers: Named,
    pub(super) rooms: Named,
    pub(super) protos: Named,
    /// Streams that were seen.
    pub(super) streams: usize,
    pub(super) figures: Figures,
    /// Peers in it of whom something is said.
    pub(super) suffering: BTreeSet<PeerKey>,
    /// Who the one is of whom that is said that is shown.
    pub(super) whose: String,
    /// Bits a second, step by step.
    pub(super) plot_in: Vec<u64>,
    pub(super) plot_out: Vec<u64>,
    /// If that was asked for.
    pub(super) traffic: Traffic,
}

/// A few names, and how many there are.
#[derive(Clone, Debug, Default)]
pub(super) struct Named {
    /// In their order. There are few, in many rows: a tree would take more than they do.
    pub(super) names: Vec<String>,
    pub(super) more: bool,
}

impl Named {
    fn add(&mut self, name: &str) {
        if name.is_empty() {
            return;
        }
        match self.names.binary_search_by(|known| (**known).cmp(name)) {
            Ok(_) => {}
            Err(place) if self.names.len() < NAMED => self.names.insert(place, name.to_owned()),
            Err(_) => self.more = true,
        }
    }
}

/// Makes the table that a query asks for.
pub(super) fn table(past: &Past, query: &Query, thresholds: &Thresholds) -> Table {
    let end = query.at.map_or(past.now, |at| at.saturating_sub(past.epoch)).min(past.now);
    let start = end.saturating_sub(query.span);
    let verdicts = verdicts(past, end, thresholds, true);
    let mut grouping = Grouping::new(past, query, start, end, &verdicts);
    grouping.count();
    grouping.meet_the_quiet();
    let facts = summary(&grouping.rows, past, &verdicts);
    let rows = std::mem::take(&mut grouping.rows);
    let mut rows: Vec<(usize, Row)> = rows.into_iter().enumerate().collect();
    rows.retain(|(_, row)| query.filter.keeps(&row.figures));
    let total = rows.len();
    let sufferers = sufferers(&rows, past, &verdicts);
    rows.sort_by(|(_, one), (_, other)| order(query, one, other));
    let page = rows.into_iter().skip(query.offset).take(query.limit);
    let rows = grouping.plot(page.collect());
    Table { rows, sufferers, total, facts, start, end }
}

fn sufferers(
    rows: &[(usize, Row)],
    past: &Past,
    verdicts: &HashMap<PeerKey, Verdict>,
) -> Vec<Sufferer> {
    let peers: BTreeSet<&PeerKey> = rows.iter().flat_map(|(_, row)| &row.suffering).collect();
    let sufferer = |peer: &PeerKey| {
        let name = past.facts.names.get(peer).unwrap_or(&peer.1).to_string();
        Some(Sufferer { peer: peer.clone(), name, verdict: verdicts.get(peer)?.clone() })
    };
    let mut all: Vec<Sufferer> = peers.into_iter().filter_map(sufferer).collect();
    all.sort_by_key(|it| it.verdict.rank());
    all
}

fn summary(rows: &[Row], past: &Past, verdicts: &HashMap<PeerKey, Verdict>) -> Summary {
    let open = past.facts.subjects.values().filter(|known| known.open);
    let (mut rooms, mut peers) = (BTreeSet::new(), BTreeSet::new());
    for known in open {
        let subject = &known.subject;
        if !subject.room.is_empty() {
            rooms.insert(&subject.room);
        }
        if !subject.peer.is_empty() {
            peers.insert((&subject.room, &subject.peer));
        }
    }
    for (room, peer) in past.facts.present.keys() {
        rooms.insert(room);
        peers.insert((room, peer));
    }
    // The sum of nothing is a negative zero.
    let sum = |of: fn(&Figures) -> f64| rows.iter().fold(0.0, |sum, row| sum + of(&row.figures));
    Summary {
        rooms: rooms.len(),
        peers: peers.len(),
        streams: rows.iter().map(|row| row.streams).sum(),
        rate_in: sum(Figures::now_in),
        rate_out: sum(Figures::now_out),
        suffering: verdicts.values().filter(|verdict| verdict.cause.is_bad()).count(),
    }
}

/// Who suffers first, longest first; then by traffic. A column that a row has nothing in comes last.
fn order(query: &Query, one: &Row, other: &Row) -> Ordering {
    let (a, b) = (&one.figures, &other.figures);
    // Numbers: the largest first.
    let number = |of: fn(&Figures) -> Option<f64>| match (of(a), of(b)) {
        (Some(a), Some(b)) => b.total_cmp(&a),
        (a, b) => b.is_some().cmp(&a.is_some()),
    };
    let traffic = |it: &Figures| it.now_in() + it.now_out();
    let order = match query.sort {
        Column::Verdict => {
            let rank = |it: &Figures| it.verdict.as_ref().map(Verdict::rank);
            match (rank(a), rank(b)) {
                (Some(a), Some(b)) => a.cmp(&b),
                (a, b) => b.is_some().cmp(&a.is_some()),
            }
        }
        Column::Name => one.title.cmp(&other.title),
        Column::In => b.now_in().total_cmp(&a.now_in()),
        Column::Out => b.now_out().total_cmp(&a.now_out()),
        Column::LossIn => number(Figures::loss_in),
        Column::LossOut => number(Figures::loss_out),
        Column::Jitter => number(Figures::jitter),
        Column::RoundTrip => number(Figures::round_trip),
        // The lowest is the worst.
        Column::Score => match (a.score(), b.score()) {
            (Some(a), Some(b)) => a.cmp(&b),
            (a, b) => b.is_some().cmp(&a.is_some()),
        },
        Column::Packets => b.packets().cmp(&a.packets()),
        Column::First => a.first.cmp(&b.first),
        Column::Last => b.last.cmp(&a.last),
    };
    let order = if query.reverse { order.reverse() } else { order };
    order.then_with(|| traffic(b).total_cmp(&traffic(a))).then_with(|| one.key.cmp(&other.key))
}

/// What a row is of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Text(String),
    /// Room and peer.
    Peer(String, String),
    /// A transport's and a producer's or consumer's id; of a stray stream its SSRC.
    Stream(String, String, Option<u32>),
}

fn key(by: By, who: &Attributes<'_>) -> Key {
    match by {
        By::Ip => Key::Text(who.host.to_owned()),
        By::Net(v4, v6) => Key::Text(match who.ip {
            Some(ip) => {
                let width = if ip.is_ipv4() { v4 } else { v6 };
                IpNet::new(ip, width).map_or_else(|_| ip.to_string(), |net| net.trunc().to_string())
            }
            None => who.host.to_owned(),
        }),
        By::Asn => Key::Text(who.asn.to_owned()),
        By::Country => Key::Text(who.country.to_owned()),
        By::Room => Key::Text(who.room.to_owned()),
        By::Peer => Key::Peer(who.room.to_owned(), who.peer.to_owned()),
        By::Transport => Key::Text(who.transport.to_owned()),
        By::Stream => {
            let ssrc = who.ssrc.filter(|_| who.id.is_empty());
            Key::Stream(who.transport.to_owned(), who.id.to_owned(), ssrc)
        }
    }
}

impl Key {
    fn is_empty(&self) -> bool {
        match self {
            Self::Text(text) | Self::Peer(_, text) => text.is_empty(),
            Self::Stream(_, id, _) => id.is_empty(),
        }
    }
}

/// What is known of a track: its row, or that it is not to be shown.
#[derive(Clone, Copy)]
enum Place {
    Hidden,
    Row { row: u32, is_counted: bool, is_media: bool },
}

struct Grouping<'a> {
    past: &'a Past,
    query: &'a Query,
    start: u64,
    end: u64,
    verdicts: HashMap<(&'a str, &'a str), &'a Verdict>,
    places: Vec<Place>,
    by_key: HashMap<Key, u32>,
    rows: Vec<Row>,
}

impl<'a> Grouping<'a> {
    fn new(
        past: &'a Past,
        query: &'a Query,
        start: u64,
        end: u64,
        verdicts: &'a HashMap<PeerKey, Verdict>,
    ) -> Self {
        let (places, by_key, rows) = Default::default();
        let verdicts = verdicts.iter();
        let verdicts = verdicts.map(|((room, peer), verdict)| ((&**room, &**peer), verdict));
        Self { past, query, start, end, verdicts: verdicts.collect(), places, by_key, rows }
    }

    /// Adds all samples up.
    fn count(&mut self) {
        let stretch = self.past.stretch(self.start..self.end);
        let is_present = |start: u64| start + PRESENT >= self.end;
        let seconds = |steps: &mut dyn Iterator<Item = (u64, u64)>| {
            steps.map(|(_, length)| length).sum::<u64>() as f64 / 1e3
        };
        let present = seconds(&mut stretch.steps().filter(|(start, _)| is_present(*start)));
        let all = seconds(&mut stretch.steps());
        let sums = stretch.sums(self.past, |start, _| is_present(start));
        self.places.resize(sums.len(), Place::Hidden);
        for (number, track) in self.past.tracks() {
            let (sum, now) = sums[number as usize];
            if !sum.is_empty() {
                self.places[number as usize] = self.find(track);
                self.add(number, track.side, &sum.sample(track.side), now);
            }
        }
        for row in &mut self.rows {
            (row.figures.seconds, row.figures.now_seconds) = (all, present);
        }
    }

    fn add(&mut self, number: u32, side: Side, sum: &Sample, bytes: u64) {
        let Place::Row { row, is_counted, is_media } = self.places[number as usize] else { return };
        let figures = &mut self.rows[row as usize].figures;
        let (all, media, now) = match side {
            Side::Received => {
                (&mut figures.received, &mut figures.media_in, &mut figures.now_received)
            }
            Side::Sent => (&mut figures.sent, &mut figures.media_out, &mut figures.now_sent),
        };
        if is_counted {
            all.add(sum);
            *now += bytes;
        }
        if is_media {
            media.add(sum);
        }
    }

    /// Those who are there, or were at the end of the time, and did nothing in it have rows, too.
    fn meet_the_quiet(&mut self) {
        let facts = &self.past.facts;
        let quiet: Vec<Attributes<'a>> = match self.query.by {
            By::Stream => {
                let subjects = facts.subjects.values();
                let there = subjects.filter(|known| known.open && known.since < self.end);
                there.map(|known| Attributes::of_subject(known, facts)).collect()
            }
            _ => {
                let stations = facts.stations.values();
                let there = stations.filter(|station| station.open && station.since < self.end);
                let there = there.map(|station| Attributes::of_station(station, facts));
                let has_peers = matches!(self.query.by, By::Peer | By::Room);
                let peers =
                    facts.present.iter().filter(|(_, since)| has_peers && **since < self.end);
                there.chain(peers.map(|(peer, _)| Attributes::of_peer(peer, facts))).collect()
            }
        };
        for who in quiet {
            let key = key(self.query.by, &who);
            if !key.is_empty() && self.query.filter.admits(&who) {
                let row = self.row(key, &who);
                let end = self.end;
                self.meet(row, &who, end..end, true);
            }
        }
    }

    /// Somebody is in this row, and was seen for that time.
    fn meet(&mut self, row: u32, who: &Attributes<'_>, seen: Range<u64>, is_live: bool) {
        let verdict = self.verdicts.get(&(who.room, who.peer)).copied();
        let is_part = matches!(self.query.by, By::Stream | By::Transport);
        let row = &mut self.rows[row as usize];
        row.meet(who, seen, is_live);
        if let Some(verdict) = verdict {
            row.suffering.insert((who.room.into(), who.peer.into()));
            // A part of somebody has what shows in it.
            if !is_part || verdict.cause.shows_in(who) {
                row.accuse(who, verdict);
            }
        }
    }

    fn row(&mut self, key: Key, who: &Attributes<'_>) -> u32 {
        if let Some(row) = self.by_key.get(&key) {
            return *row;
        }
        self.rows.push(Row::new(self.query.by, &key, who));
        let row = self.rows.len() as u32 - 1;
        self.by_key.insert(key, row);
        row
    }

    fn find(&mut self, track: &'a Track) -> Place {
        let who = Attributes::of(track, &self.past.facts);
        let wants_connections = self.query.by.counts_connections();
        // What a peer sent is its own where it came in, and once more in a pipe.
        let is_copy = who.is_pipe && matches!(self.query.by, By::Room | By::Peer);
        let has_row = !is_copy && (!who.is_connection || wants_connections);
        if !has_row || !self.query.filter.admits(&who) {
            return Place::Hidden;
        }
        let row = self.row(key(self.query.by, &who), &who);
        let is_live = match who.told && self.end == self.past.now {
            true => who.open,
            // As far as its traffic tells.
            false => track.first <= self.end && track.last() + LIFE >= self.end,
        };
        self.meet(row, &who, track.first..track.last(), is_live);
        self.rows[row as usize].streams += usize::from(!who.is_connection);
        if self.query.traffic {
            self.rows[row as usize].traffic.meet(track, &who);
        }
        let is_counted = who.is_connection == wants_connections;
        Place::Row { row, is_counted, is_media: who.is_media }
    }

    /// Gives the rows of a page their plots.
    fn plot(&mut self, page: Vec<(usize, Row)>) -> Vec<Row> {
        let stretch = self.past.stretch(self.start..self.end);
        let steps: Vec<(u64, u64)> = stretch.steps().collect();
        let start = steps.first().map_or(self.start, |(start, _)| *start);
        let span = (self.end.max(start + 1)) - start;
        let points = steps.len().clamp(1, POINTS);
        let point = |(start_of, length): &(u64, u64)| {
            let middle = (start_of + length / 2).saturating_sub(start);
            (middle as usize * points / span as usize).min(points - 1)
        };
        let mut millis = vec![0; points];
        steps.iter().for_each(|step| millis[point(step)] += step.1);
        let point_of: Vec<usize> = steps.iter().map(point).collect();
        let at = |(place, (number, _)): (usize, &(usize, Row))| (*number as u32, place);
        let places: HashMap<u32, usize> = page.iter().enumerate().map(at).collect();
        let place = |place: &Place| match place {
            Place::Row { row, is_counted: true, .. } => places.get(row).copied(),
            _ => None,
        };
        let of_tracks: Vec<Option<usize>> = self.places.iter().map(place).collect();
        let mut rows: Vec<Row> = page.into_iter().map(|(_, row)| row).collect();
        for row in &mut rows {
            (row.plot_in, row.plot_out) = (vec![0; points], vec![0; points]);
        }
        for (step, number, bytes) in stretch.bytes() {
            let Some(Some(place)) = of_tracks.get(number as usize) else { continue };
            let Some(track) = self.past.track(number) else { continue };
            let row = &mut rows[*place];
            let is_received = track.side == Side::Received;
            let plot = if is_received { &mut row.plot_in } else { &mut row.plot_out };
            plot[point_of[step]] += bytes;
        }
        for plot in rows.iter_mut().flat_map(|row| [&mut row.plot_in, &mut row.plot_out]) {
            for (bytes, millis) in plot.iter_mut().zip(&millis) {
                *bytes = (*bytes * 8_000).checked_div(*millis).unwrap_or_default();
            }
        }
        rows
    }
}

impl Row {
    fn new(by: By, key: &Key, who: &Attributes<'_>) -> Self {
        let (key, title) = match key {
            Key::Text(text) => (text.clone(), text.clone()),
            Key::Peer(room, peer) => (format!("{room}/{peer}"), who.caller().to_owned()),
            Key::Stream(transport, id, ssrc) => {
                let id = ssrc.map_or_else(|| id.clone(), |ssrc| format!("SSRC {ssrc}"));
                (format!("{transport}/{id}"), id)
            }
        };
        let subtitle = match by {
            By::Ip => words([&network(who), who.country], " · "),
            By::Net(..) | By::Asn => network(who),
            By::Country | By::Room => String::new(),
            By::Peer => who.peer.to_owned(),
            By::Transport => who.host.to_owned(),
            By::Stream => words([who.part(), who.kind, who.codec], " "),
        };
        let first = u64::MAX;
        Self {
            key,
            title,
            subtitle,
            figures: Figures { first, ..Figures::default() },
            ..Self::default()
        }
    }

    /// Somebody is in this row, and was seen for that time.
    fn meet(&mut self, who: &Attributes<'_>, seen: Range<u64>, is_live: bool) {
        self.peers.add(who.caller());
        self.rooms.add(who.room);
        self.protos.add(who.proto);
        let figures = &mut self.figures;
        figures.first = figures.first.min(seen.start);
        figures.last = figures.last.max(seen.end);
        figures.live |= is_live;
    }

    /// Something is said of somebody in this row: the worst is shown.
    fn accuse(&mut self, who: &Attributes<'_>, verdict: &Verdict) {
        let figures = &mut self.figures;
        if figures.verdict.as_ref().is_none_or(|known| verdict.rank() < known.rank()) {
            figures.verdict = Some(verdict.clone());
            self.whose = who.caller().to_owned();
        }
    }
}

/// Those that are not empty.
fn words<const N: usize>(words: [&str; N], between: &str) -> String {
    words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(between)
}

fn network(who: &Attributes<'_>) -> String {
    match (who.asn, who.as_org) {
        ("", org) => org.to_owned(),
        (asn, org) => format!("AS{asn} {org}").trim_end().to_owned(),
    }
}
