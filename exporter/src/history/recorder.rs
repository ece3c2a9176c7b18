//! Turns what meters read into samples of tracks, step by step.

use std::sync::Arc;

use foldhash::{HashMap, HashSet};

use crate::history::drops::Totals;
use crate::history::facts::{Facts, Gatherer, Station, address};
use crate::history::frames::{Frame, Frames, Place, Spans};
use crate::history::lives::{Ended, Lives, QUIET, TRAIL};
use crate::history::past::Past;
use crate::history::sample::{MOST_TRACKS, Sample, Side};
use crate::history::track::{Connection, Track, Whose};
use crate::labels::block;
use crate::ledger::{FlowMeterReading, Ledger, ShownStream, StreamMeterReading};
use crate::model::Direction;
use crate::state::StreamRole;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Steps.
    pub spans: Spans,
    /// Bytes that samples, and whose they are, take at most. Where those who are there now take more than half of it,
    /// half of it is for samples all the same.
    pub room: usize,
    /// Whether somebody asks for what ended.
    pub keeps_lives: bool,
}

/// Steps that a meter's growth waits for somebody to show it. What waited longer is in no step.
const HOLD: u64 = 3;

/// Everything that is kept.
#[derive(Debug)]
pub struct History {
    settings: Settings,
    frames: Frames,
    tracks: Arc<Vec<Option<Arc<Track>>>>,
    free: Vec<u32>,
    by_whose: HashMap<(Whose, bool), u32>,
    connections: HashMap<Arc<str>, Arc<Connection>>,
    facts: Arc<Facts>,
    gatherer: Gatherer,
    lives: Option<Lives>,
    dropped: Totals,
    streams: Vec<Option<Followed>>,
    flows: Vec<[Option<Followed>; 2]>,
    /// When the last step ended.
    now: Option<u64>,
    step: u64,
    swept: u64,
    refused: u64,
}

/// What a track takes with its place in the tables, what a producer or consumer does, and what a transport does, as
/// measured, rounded up.
const TRACK: usize = 256;
const SUBJECT: usize = 512;
const STATION: usize = 768;
/// Labels of a connection that no transport claims.
const NAMELESS: &str = "{transport_id=\"\"";

/// Steps that are given up at a time to make room for those who come.
const GIVEN_UP: usize = 12;

/// A meter's last total.
#[derive(Clone, Copy, Debug, Default)]
struct Followed {
    born: u64,
    since: u64,
    packets: u64,
    bytes: u64,
    lost: i64,
    /// Grown, while nobody shows it.
    waiting: Sample,
    /// The number of the track that it was last shown as.
    track: Option<u32>,
}

/// One step on its way to become a frame.
struct Step {
    /// The first reading has nothing before it.
    is_first: bool,
    start: u64,
    end: u64,
    samples: Vec<(Place, Sample)>,
    /// What the flows' streams grew by, by slot and direction.
    of_flows: HashMap<u32, [Sample; 2]>,
}

impl History {
    /// Nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            frames: Frames::default(),
            tracks: Arc::default(),
            free: Vec::new(),
            by_whose: HashMap::default(),
            connections: HashMap::default(),
            facts: Arc::default(),
            gatherer: Gatherer::default(),
            lives: settings.keeps_lives.then(Lives::default),
            dropped: Totals::default(),
            streams: Vec::new(),
            flows: Vec::new(),
            now: None,
            step: 0,
            swept: 0,
            refused: 0,
        }
    }

    /// A step ends now, milliseconds after the exporter began: what meters grew by since the last one is its.
    pub fn record(&mut self, ledger: &Ledger, now: u64) {
        let start = self.now.replace(now).unwrap_or(now);
        let is_first = self.step == 0;
        self.step += 1;
        let facts = Arc::make_mut(&mut self.facts);
        self.gatherer.gather(ledger, facts, start);
        let sockets = ledger.sockets.series.iter();
        let dropped = sockets
            .filter_map(|series| self.dropped.grown(&series.labels, series.values.drops, is_first));
        facts.drops.push(now, dropped);
        let (samples, of_flows) = Default::default();
        let mut step = Step { is_first, start, end: now, samples, of_flows };
        for meter in ledger.stream_meters() {
            self.take_stream(&meter, ledger, &mut step);
        }
        for meter in ledger.flow_meters() {
            self.take_flow(&meter, &mut step);
        }
        let mut present = 0;
        if !is_first {
            let frame = Frame::new(start, now.saturating_sub(start), step.samples);
            present = frame.samples();
            let Settings { spans, room, .. } = self.settings;
            let left = room.saturating_sub(self.cost_of_tracks());
            self.frames.push(frame, spans, left.max(room / 2));
        }
        // Many came and went: whose samples these are takes more than the samples do. Those who are there now
        // have a place, however many.
        let is_full = self.cost_of_tracks() > self.settings.room && self.tracks() > 2 * present;
        if is_full {
            let _left = (0..GIVEN_UP).all(|_| self.frames.drop_oldest());
        }
        if is_full || self.step - self.swept >= self.settings.spans.fold as u64 {
            self.sweep();
            let sockets = &ledger.sockets.series;
            self.dropped.retain(|labels| sockets.find(labels).is_some());
        }
    }

    fn cost_of_tracks(&self) -> usize {
        let Facts { subjects, stations, .. } = &*self.facts;
        TRACK * self.by_whose.len() + SUBJECT * subjects.len() + STATION * stations.len()
    }

    /// As it is now, for as long as the reader likes. `epoch` is when the exporter began, milliseconds of Unix time.
    pub fn lend(&self, epoch: u64) -> Past {
        let (frames, tracks, facts) =
            (self.frames.clone(), self.tracks.clone(), self.facts.clone());
        Past::new(frames, tracks, facts, self.now.unwrap_or_default(), epoch)
    }

    /// Bytes that samples take, and whose they are.
    pub fn bytes(&self) -> usize {
        self.frames.bytes() + self.cost_of_tracks()
    }

    /// Streams and directions of connections that are kept.
    pub fn tracks(&self) -> usize {
        self.by_whose.len()
    }

    /// How far back it reaches, milliseconds.
    pub fn reach(&self) -> u64 {
        let now = self.now.unwrap_or_default();
        now - self.frames.start().unwrap_or(now)
    }

    /// Samples that there was no room or no number for.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    fn take_stream(&mut self, meter: &StreamMeterReading<'_>, ledger: &Ledger, step: &mut Step) {
        let followed = slot(&mut self.streams, meter.slot);
        let followed = Followed::of(followed, meter.born, self.step);
        let grown = followed.grow(meter.totals.total.packets, meter.totals.total.bytes);
        let lost = meter.totals.lost();
        let lost = lost.wrapping_sub(std::mem::replace(&mut followed.lost, lost));
        if step.is_first {
            return;
        }
        let lost =
            if grown.packets > 0 && meter.direction == Direction::Receive { lost } else { 0 };
        let flow = &mut step.of_flows.entry(meter.flow).or_default()[meter.direction as usize];
        flow.add(&grown);
        let Some(sample) =
            followed.show(Sample { lost, ..grown }, meter.shown.is_some(), self.step)
        else {
            return;
        };
        if let Some(shown) = &meter.shown {
            let before = followed.track;
            // Mostly a transport's id says where a stream is.
            let carrier = ledger.flow_labels(meter.flow).filter(|it| it.starts_with(NAMELESS));
            let carrier = carrier.map(|labels| self.connection(labels));
            let track = self.put_stream(meter, shown, carrier, sample, step);
            self.move_life(before, track, side(meter.direction));
            slot(&mut self.streams, meter.slot).get_or_insert_default().track = track;
        }
    }

    fn put_stream(
        &mut self,
        meter: &StreamMeterReading<'_>,
        shown: &ShownStream<'_>,
        carrier: Option<Arc<Connection>>,
        mut sample: Sample,
        step: &mut Step,
    ) -> Option<u32> {
        let side = side(meter.direction);
        let subject = shown.labels.object();
        let facts = Arc::make_mut(&mut self.facts);
        if !facts.subjects.contains_key(subject) {
            let stray = self.gatherer.stray(subject, side == Side::Sent, step.start);
            facts.subjects.insert(subject.clone(), stray);
        }
        if let Some(known) = facts.subjects.get_mut(subject)
            && StreamRole::is_media(shown.role)
        {
            sample.score = known.gauges.score;
            match side {
                Side::Received => sample.jitter = shown.jitter.map(|sixteenths| sixteenths >> 4),
                Side::Sent => {
                    let micros = known.gauges.round_trip_time;
                    sample.round_trip = micros.map(|micros| micros.min(u32::MAX.into()) as u32);
                    sample.lost = std::mem::take(&mut known.lost);
                }
            }
        }
        let (subject, ssrc, role) = (subject.clone(), meter.ssrc, shown.role);
        self.put(Whose::Stream { subject, ssrc, role }, side, carrier, sample, step)
    }

    fn take_flow(&mut self, meter: &FlowMeterReading<'_>, step: &mut Step) {
        let of_streams = step.of_flows.remove(&meter.slot).unwrap_or_default();
        let connection = meter.labels.map(|labels| self.connection(labels));
        let both = slot(&mut self.flows, meter.slot);
        let mut samples = [None; 2];
        for direction in [Direction::Receive, Direction::Send].map(|it| it as usize) {
            let followed = Followed::of(&mut both[direction], meter.born, self.step);
            let own = meter.own[direction].iter();
            let (packets, bytes) =
                own.fold((0, 0), |(packets, bytes), it| (packets + it.packets, bytes + it.bytes));
            let mut grown = followed.grow(packets, bytes);
            if step.is_first {
                continue;
            }
            grown.add(&of_streams[direction]);
            samples[direction] = followed.show(grown, connection.is_some(), self.step);
        }
        let Some(connection) = connection else { return };
        for (side, sample) in [Side::Received, Side::Sent].into_iter().zip(samples) {
            let Some(sample) = sample else { continue };
            let track = self.put(Whose::Connection(connection.clone()), side, None, sample, step);
            let both = slot(&mut self.flows, meter.slot);
            let followed = both[usize::from(side == Side::Sent)].get_or_insert_default();
            let before = std::mem::replace(&mut followed.track, track);
            self.move_life(before, track, side);
        }
    }

    /// A meter is shown otherwise than before: an address has a name now, or a stream its role. It is one life.
    fn move_life(&mut self, before: Option<u32>, after: Option<u32>, side: Side) {
        let (Some(lives), Some(before), Some(after)) = (&mut self.lives, before, after) else {
            return;
        };
        let track = |number: u32| self.tracks.get(number as usize)?.as_deref();
        if before != after
            && let (Some(old), Some(new)) = (track(before), track(after))
            && old.whose.is_same(&new.whose)
        {
            lives.join(before, after, side);
        }
    }

    fn connection(&mut self, labels: &Arc<str>) -> Arc<Connection> {
        if let Some(known) = self.connections.get(labels) {
            return known.clone();
        }
        let mut connection = Connection::default();
        for (name, value) in block::parse(labels) {
            let field = match name {
                "transport_id" => &mut connection.transport,
                "proto" => &mut connection.proto,
                "local_addr" => &mut connection.local,
                "remote_addr" => &mut connection.remote,
                _ => continue,
            };
            *field = self.gatherer.share(&value);
        }
        connection.ip = address(&connection.remote);
        let connection = Arc::new(connection);
        self.connections.insert(labels.clone(), connection.clone());
        connection
    }

    fn put(
        &mut self,
        whose: Whose,
        side: Side,
        carrier: Option<Arc<Connection>>,
        sample: Sample,
        step: &mut Step,
    ) -> Option<u32> {
        let key = (whose, side == Side::Sent);
        let known = self.by_whose.get(&key).copied();
        let Some(track) = known.or_else(|| self.open(key, side, carrier, step.start)) else {
            self.refused += 1;
            return None;
        };
        if let Some(track) = &self.tracks[track as usize] {
            track.seen(step.end);
        }
        if let Some(lives) = &mut self.lives {
            lives.add(track, side, (step.start, step.end), &sample);
        }
        step.samples.push(((track, side), sample));
        Some(track)
    }

    fn open(
        &mut self,
        key: (Whose, bool),
        side: Side,
        carrier: Option<Arc<Connection>>,
        first: u64,
    ) -> Option<u32> {
        if let Whose::Connection(connection) = &key.0
            && let Some(station) =
                Arc::make_mut(&mut self.facts).stations.get_mut(&connection.transport)
        {
            station.is_used = true;
        }
        let most = MOST_TRACKS.min(4 * self.settings.room / TRACK);
        let tracks = Arc::make_mut(&mut self.tracks);
        let track = Some(Arc::new(Track::new(key.0.clone(), side, carrier, first)));
        let number = match self.free.pop() {
            Some(number) => {
                tracks[number as usize] = track;
                number
            }
            None if tracks.len() < most => {
                tracks.push(track);
                tracks.len() as u32 - 1
            }
            None => return None,
        };
        self.by_whose.insert(key, number);
        Some(number)
    }

    /// What ended since this was last asked; at the end of the exporter, everything has. A stream ends with its
    /// producer or consumer, a connection with its transport, once nothing trails after it; what no server tells of,
    /// and a connection that its transport has left for another one, when it is quiet for long.
    pub fn take_ended(&mut self, all: bool) -> Vec<Ended> {
        let (Some(lives), Some(now)) = (&self.lives, self.now) else { return Vec::new() };
        let tracks: Vec<u32> = if all { lives.all().collect() } else { lives.quiet(now).collect() };
        let ended = tracks.into_iter().filter_map(|track| self.end(track, now, all));
        let mut ended: Vec<Ended> = ended.collect();
        ended.extend(Arc::make_mut(&mut self.facts).take_unused(now, all));
        ended
    }

    /// Ends a track's life, and that of its other direction, if it is time for that.
    fn end(&mut self, track: u32, now: u64, all: bool) -> Option<Ended> {
        let Self { tracks, by_whose, facts, lives, .. } = self;
        let lives = lives.as_mut()?;
        // The other direction may have taken it along.
        let last = lives.last(track)?;
        let track = tracks.get(track as usize)?.clone()?;
        let numbers = [false, true].map(|is_sent| {
            let number = by_whose.get(&(track.whose.clone(), is_sent)).copied();
            number.filter(|number| lives.last(*number).is_some())
        });
        let lasts = numbers.iter().flatten().filter_map(|number| lives.last(*number));
        let last = lasts.max().unwrap_or(last);
        let quiet = now.saturating_sub(last);
        let (told, open) = facts.is_told(&track.whose);
        let is_over = !open && quiet >= if told { TRAIL } else { QUIET };
        if !all && !is_over {
            return None;
        }
        let [received, sent] = numbers;
        let received = received.and_then(|number| lives.end(number, Side::Received));
        let sent = sent.and_then(|number| lives.end(number, Side::Sent));
        let firsts = received.iter().chain(&sent).map(|life| life.first);
        let first = firsts.min().unwrap_or(last);
        let (whose, carrier) = (track.whose.clone(), track.carrier.clone());
        Some(Ended { whose, carrier, received, sent, told, first, last })
    }

    /// Forgets who has no sample left. It looks at everybody.
    fn sweep(&mut self) {
        self.swept = self.step;
        let Some(start) = self.frames.start() else { return };
        let Self { tracks, by_whose, free, lives, .. } = self;
        let tracks = Arc::make_mut(tracks);
        by_whose.retain(|_, number| {
            let place = &mut tracks[*number as usize];
            let lives_on = lives.as_ref().is_some_and(|lives| lives.last(*number).is_some());
            let is_kept = lives_on || place.as_ref().is_some_and(|track| track.last() > start);
            if !is_kept {
                *place = None;
                free.push(*number);
            }
            is_kept
        });
        self.connections.retain(|_, connection| Arc::strong_count(connection) > 1);
        self.forget_facts();
    }

    fn forget_facts(&mut self) {
        let Self { by_whose, facts, lives, .. } = self;
        let (mut subjects, mut transports) = (HashSet::default(), HashSet::default());
        for (whose, _) in by_whose.keys() {
            match whose {
                Whose::Stream { subject, .. } => {
                    subjects.insert(subject.clone());
                }
                Whose::Connection(connection) => {
                    transports.insert(connection.transport.clone());
                }
            }
        }
        let facts = Arc::make_mut(facts);
        facts.subjects.retain(|subject, known| {
            let is_kept = known.open || subjects.contains(subject);
            if is_kept {
                transports.insert(known.subject.transport.clone());
            }
            is_kept
        });
        // The end of what was never used is yet to be told.
        let is_awaited = |station: &Station| lives.is_some() && !station.is_used;
        facts
            .stations
            .retain(|id, station| station.open || transports.contains(id) || is_awaited(station));
        let of_subjects = facts.subjects.values().map(|known| {
            let subject = &known.subject;
            (subject.room.clone(), subject.peer.clone())
        });
        let of_stations = facts.stations.values().map(|station| {
            let transport = &station.transport;
            (transport.room.clone(), transport.peer.clone())
        });
        let peers: HashSet<_> = of_subjects.chain(of_stations).collect();
        let present = &facts.present;
        facts.names.retain(|peer, _| peers.contains(peer) || present.contains_key(peer));
        self.gatherer.forget_peers();
    }
}

impl Followed {
    fn of(place: &mut Option<Self>, born: u64, step: u64) -> &mut Self {
        if place.is_none_or(|followed| followed.born != born) {
            *place = Some(Self { born, since: step, ..Self::default() });
        }
        place.get_or_insert_default()
    }

    /// What the meter grew by. One that fell began again from zero.
    fn grow(&mut self, packets: u64, bytes: u64) -> Sample {
        let has_fallen = packets < self.packets || bytes < self.bytes;
        let before = if has_fallen { (0, 0) } else { (self.packets, self.bytes) };
        (self.packets, self.bytes) = (packets, bytes);
        let (packets, bytes) = (packets - before.0, bytes - before.1);
        Sample { packets, bytes, ..Sample::default() }
    }

    /// What is to be shown of growth, with what waited; `None` when that is nothing.
    fn show(&mut self, grown: Sample, is_shown: bool, step: u64) -> Option<Sample> {
        if !is_shown {
            let is_young = step - self.since < HOLD;
            self.waiting.add(&grown);
            if !is_young {
                self.waiting = Sample::default();
            }
            return None;
        }
        let mut sample = std::mem::take(&mut self.waiting);
        sample.add(&grown);
        (sample.packets > 0).then_some(sample)
    }
}

fn slot<T: Default>(slots: &mut Vec<T>, number: u32) -> &mut T {
    let number = number as usize;
    if slots.len() <= number {
        slots.resize_with(number + 1, T::default);
    }
    &mut slots[number]
}

fn side(direction: Direction) -> Side {
    match direction {
        Direction::Receive => Side::Received,
        Direction::Send => Side::Sent,
    }
}
