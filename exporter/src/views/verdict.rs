//! One sentence for each peer with a bad call: where it goes wrong, and how that is known.
//!
//! What is looked at is the last minute of the time that a view shows. The rules stand in the order in which they
//! explain each other: who never connected is not silent, and a downlink is only blamed for what its sender did
//! not lose before.

use std::net::SocketAddr;
use std::sync::Arc;

use foldhash::HashMap;

use crate::history::{Dropped, Known, Past, PeerKey, Sample, Side, Whose};
use crate::state::StreamRole;
use crate::views::attributes::Attributes;
use crate::views::sums::sums;
use crate::views::words::percent;

/// When something is bad. Documented, with reasons, in docs/views.md.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// A share of one: more is heard and seen.
    pub loss: f64,
    /// Seconds: more than a receiver's buffer smooths at once.
    pub jitter: f64,
    /// Milliseconds without a packet of an unpaused producer.
    pub silence: u64,
    /// mediasoup's score, of ten: this or less.
    pub score: u8,
    /// Packets that are too few to judge.
    pub few: u64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { loss: 0.02, jitter: 0.05, silence: 15_000, score: 5, few: 50 }
    }
}

/// What is looked at, milliseconds.
const WINDOW: u64 = 60_000;
/// In which a connection that lives has some packet: consent is asked for every 5 s (RFC 7675 §5.1).
pub(super) const LIFE: u64 = 20_000;
/// How far back it is looked for when it began.
const REACH: u64 = 600_000;
/// Steps in a row that may be good while it goes on: reports of the far side come every few steps.
const PAUSE: usize = 4;
/// Peers of whom it is found out when their losses began, at most.
const DATED: usize = 1_000;

/// Where it goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Its transport was used and never connected.
    Unconnected,
    /// It had sent, and nothing at all arrives any more.
    Gone,
    /// What it sends comes to this host, and the server does not get it.
    Host,
    /// What it sends does not arrive whole, or not evenly.
    Uplink,
    /// What is sent to it does not arrive whole, though it came whole to this host.
    Downlink,
    /// It is connected and not muted, and sends nothing.
    Silent,
    /// mediasoup rates it low though all arrives.
    Score,
}

impl Cause {
    /// All of them.
    pub(super) const ALL: [Self; 7] = [
        Self::Unconnected,
        Self::Gone,
        Self::Host,
        Self::Uplink,
        Self::Downlink,
        Self::Silent,
        Self::Score,
    ];

    /// As text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unconnected => "never connected",
            Self::Gone => "nothing arrives",
            Self::Host => "this host",
            Self::Uplink => "uplink",
            Self::Downlink => "downlink",
            Self::Silent => "silent, not muted",
            Self::Score => "low score",
        }
    }

    /// As a label's value.
    pub(crate) fn as_label(self) -> &'static str {
        match self {
            Self::Unconnected => "never_connected",
            Self::Gone => "nothing_arrives",
            Self::Host => "this_host",
            Self::Uplink => "uplink",
            Self::Downlink => "downlink",
            Self::Silent => "silent",
            Self::Score => "low_score",
        }
    }

    /// The one of this label.
    pub(crate) fn of_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.as_label() == label)
    }

    /// On which side it loses packets, if that is it.
    fn legs(self) -> Option<Side> {
        match self {
            Self::Uplink => Some(Side::Received),
            Self::Downlink => Some(Side::Sent),
            _ => None,
        }
    }

    /// Whether it shows in a part of somebody: in a producer or a consumer if it is on that side, in a connection if
    /// that is what fails.
    pub(super) fn shows_in(self, who: &Attributes<'_>) -> bool {
        match self {
            Self::Unconnected | Self::Gone => true,
            _ if who.id.is_empty() => false,
            Self::Host | Self::Uplink | Self::Silent | Self::Score => who.consumed.is_empty(),
            Self::Downlink => !who.consumed.is_empty(),
        }
    }

    /// It is certain enough, and bad enough, to be looked at first.
    pub fn is_bad(self) -> bool {
        !matches!(self, Self::Score)
    }
}

/// What is said of one peer.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Where it goes wrong.
    pub cause: Cause,
    /// How that is known: a sentence.
    pub evidence: String,
    /// Since when, milliseconds since the exporter began.
    pub since: u64,
}

impl Verdict {
    /// Who is to be looked at first: the bad ones, and of these those that last longest.
    pub(super) fn rank(&self) -> (bool, u64) {
        (!self.cause.is_bad(), self.since)
    }
}

/// One peer's things, as of the window.
#[derive(Default)]
struct Case<'a> {
    /// Its open and unpaused producers.
    sends: Vec<Leg<'a>>,
    /// Its open consumers.
    receives: Vec<Leg<'a>>,
}

struct Leg<'a> {
    subject: &'a Arc<str>,
    known: &'a Known,
    sample: Sample,
}

/// The peers with a bad call at a moment. When losses began is looked for only if `dated`: it means a look at ten
/// minutes of everybody; otherwise they begin with what is looked at.
pub(super) fn verdicts(
    past: &Past,
    end: u64,
    thresholds: &Thresholds,
    dated: bool,
) -> HashMap<PeerKey, Verdict> {
    let facts = &past.facts;
    let mut samples: HashMap<&Arc<str>, Sample> = HashMap::default();
    for (track, sample) in sums(past, &past.stretch(end.saturating_sub(WINDOW)..end)) {
        if let Whose::Stream { subject, role, .. } = &track.whose
            && StreamRole::is_media(*role)
        {
            samples.entry(subject).or_default().add(&sample);
        }
    }
    let mut cases: HashMap<PeerKey, Case<'_>> = HashMap::default();
    let mut losses: HashMap<&str, f64> = HashMap::default();
    for (subject, known) in &facts.subjects {
        if facts.is_piped(&known.subject) {
            continue;
        }
        let sample = samples.get(subject).copied().unwrap_or_default();
        if let Some(loss) = sample.loss(Side::Received).filter(|_| !known.is_consumer) {
            losses.insert(&known.subject.id, loss);
        }
        // Of a time before, its traffic tells whether it was there.
        let is_there = match end == past.now {
            true => known.open && !known.paused(),
            false => samples.contains_key(subject),
        };
        if !is_there || known.subject.peer.is_empty() {
            continue;
        }
        let key = (known.subject.room.clone(), known.subject.peer.clone());
        let case = cases.entry(key).or_default();
        let legs = if known.is_consumer { &mut case.receives } else { &mut case.sends };
        legs.push(Leg { subject, known, sample });
    }
    let last = LastHeard::new(past, end);
    let full = full_sockets(past, end);
    let judge = Judge { past, end, thresholds, losses, last, full };
    let judged = cases.iter().filter_map(|(key, case)| Some((key, case, judge.judge(case)?)));
    let mut judged: Vec<_> = judged.collect();
    if dated {
        judge.date(&mut judged);
    }
    judged.into_iter().map(|(key, _, verdict)| (key.clone(), verdict)).collect()
}

/// When something was last received, for each transport and each subject.
struct LastHeard<'a> {
    transports: HashMap<&'a str, u64>,
    subjects: HashMap<&'a Arc<str>, u64>,
}

impl<'a> LastHeard<'a> {
    fn new(past: &'a Past, end: u64) -> Self {
        let (mut transports, mut subjects) = (HashMap::default(), HashMap::default());
        let earlier = (end < past.now).then(|| last_ends(past, end));
        for (number, track) in past.tracks() {
            let last = match &earlier {
                Some(earlier) => earlier[number as usize],
                None => track.last(),
            };
            let known = match &track.whose {
                Whose::Stream { subject, .. } => subjects.entry(subject).or_insert(0),
                Whose::Connection(connection) if track.side == Side::Received => {
                    transports.entry(&*connection.transport).or_insert(0)
                }
                Whose::Connection(_) => continue,
            };
            *known = last.max(*known);
        }
        transports.retain(|_, last| *last > 0);
        subjects.retain(|_, last| *last > 0);
        Self { transports, subjects }
    }
}

/// When each track's last step before a moment ended; zero where there is none in [`REACH`].
fn last_ends(past: &Past, end: u64) -> Vec<u64> {
    let stretch = past.stretch(end.saturating_sub(REACH)..end);
    let ends: Vec<u64> = stretch.steps().map(|(start, length)| start + length).collect();
    let mut last = vec![0; past.most_tracks()];
    for (step, number, _) in stretch.bytes() {
        if let Some(last) = last.get_mut(number as usize) {
            *last = ends[step];
        }
    }
    last
}

/// A socket that was full.
#[derive(Clone, Copy, Debug)]
struct Full {
    /// What came to it, as counted before, of all connections on it.
    packets: u64,
    /// What it had no room for.
    dropped: u64,
    /// When it first dropped something, in the time that is looked at.
    since: u64,
}

/// The sockets of transports that dropped something in the window.
fn full_sockets(past: &Past, end: u64) -> HashMap<&str, Full> {
    let window = end.saturating_sub(WINDOW)..end;
    let dropped: Vec<&Dropped> = past.facts.drops.within(window.clone()).collect();
    if dropped.is_empty() {
        return HashMap::default();
    }
    let mut by_socket: HashMap<SocketAddr, Full> = HashMap::default();
    let mut transports: Vec<(&str, SocketAddr)> = Vec::new();
    for (track, sample) in sums(past, &past.stretch(window)) {
        let Whose::Connection(connection) = &track.whose else { continue };
        let local = connection.local.parse::<SocketAddr>().ok();
        let Some(local) = local.filter(|_| track.side == Side::Received) else { continue };
        let Some(socket) = dropped.iter().find(|it| it.is_at(local)).map(|it| it.local) else {
            continue;
        };
        transports.push((&connection.transport, socket));
        let nothing = Full { packets: 0, dropped: 0, since: end };
        by_socket.entry(socket).or_insert(nothing).packets += sample.packets;
    }
    for it in dropped {
        if let Some(full) = by_socket.get_mut(&it.local) {
            full.dropped += it.packets;
            full.since = full.since.min(it.end);
        }
    }
    transports.into_iter().map(|(transport, socket)| (transport, by_socket[&socket])).collect()
}

struct Judge<'a> {
    past: &'a Past,
    end: u64,
    thresholds: &'a Thresholds,
    /// Of producers, by id: what was lost before this host.
    losses: HashMap<&'a str, f64>,
    last: LastHeard<'a>,
    /// By transport.
    full: HashMap<&'a str, Full>,
}

impl Judge<'_> {
    fn judge(&self, case: &Case<'_>) -> Option<Verdict> {
        // States are known of the present only.
        let is_now = self.end == self.past.now;
        let unconnected = if is_now { self.unconnected(case) } else { None };
        unconnected
            .or_else(|| self.gone(case))
            .or_else(|| self.host(case))
            .or_else(|| self.uplink(case))
            .or_else(|| self.downlink(case))
            .or_else(|| if is_now { self.silent(case) } else { None })
            .or_else(|| self.score(case))
    }

    fn unconnected(&self, case: &Case<'_>) -> Option<Verdict> {
        let facts = &self.past.facts;
        let legs = case.sends.iter().chain(&case.receives);
        let verdict = |leg: &Leg<'_>| {
            let station = facts.stations.get(&leg.known.subject.transport)?;
            let transport = &station.transport;
            let since = leg.known.since.max(station.since);
            let is_over = self.end.saturating_sub(since) >= self.thresholds.silence;
            if &*transport.kind != "webrtc" || !station.open || !is_over {
                return None;
            }
            let evidence = match (&*transport.ice, &*transport.dtls) {
                ("new", _) => "no answered connectivity check (ICE is new)",
                (_, "connecting") => "ICE is done and the DTLS handshake does not end",
                (_, "failed") => "the DTLS handshake failed",
                (_, "new") => "ICE is done and no DTLS handshake began",
                _ => return None,
            };
            let what = if leg.known.is_consumer { "receives on" } else { "sends on" };
            let evidence = format!("{evidence} on the transport that it {what}");
            Some(Verdict { cause: Cause::Unconnected, evidence, since })
        };
        legs.filter_map(verdict).min_by_key(|verdict| verdict.since)
    }

    /// Nothing arrives on a transport on which something did: a transport of which nothing is counted says nothing.
    fn gone(&self, case: &Case<'_>) -> Option<Verdict> {
        let legs = case.sends.iter().chain(&case.receives);
        let quiet = legs.filter_map(|leg| {
            let last = *self.last.transports.get(&*leg.known.subject.transport)?;
            (self.end.saturating_sub(last) >= LIFE).then_some(last)
        });
        let since = quiet.min()?;
        let seconds = (self.end - since) / 1000;
        let evidence = format!("no packet of any kind for {seconds} s");
        Some(Verdict { cause: Cause::Gone, evidence, since })
    }

    /// What came was thrown away, for the server read too slowly.
    fn host(&self, case: &Case<'_>) -> Option<Verdict> {
        let full = case.sends.iter().filter_map(|leg| self.full.get(&*leg.known.subject.transport));
        let is_bad = |it: &&Full| {
            it.packets >= self.thresholds.few
                && it.dropped as f64 >= self.thresholds.loss * it.packets as f64
        };
        let worst = full.filter(is_bad).max_by_key(|it| it.dropped)?;
        let share = (worst.dropped as f64 / worst.packets as f64).min(1.0);
        let evidence = format!(
            "{} of {} packets came to this host and were thrown away: the server did not read them in time, and its \
             socket was full",
            percent(Some(share)),
            worst.packets
        );
        Some(Verdict { cause: Cause::Host, evidence, since: worst.since })
    }

    fn uplink(&self, case: &Case<'_>) -> Option<Verdict> {
        let sum = sum(&case.sends);
        let is_bad = |leg: &&Leg<'_>| self.is_lossy(&leg.sample, Side::Received);
        let jitter = sum.jitter.map(|micros| f64::from(micros) / 1e6);
        let evidence = if self.is_lossy(&sum, Side::Received) {
            let bad = case.sends.iter().filter(is_bad).count();
            format!(
                "{} of {} packets lost before this host, on {bad} of {} producers",
                percent(sum.loss(Side::Received)),
                sum.packets as i64 + sum.lost,
                case.sends.len()
            )
        } else if sum.packets >= self.thresholds.few
            && let Some(jitter) = jitter.filter(|jitter| *jitter >= self.thresholds.jitter)
        {
            format!("packets come unevenly: jitter up to {:.0} ms", jitter * 1e3)
        } else {
            return None;
        };
        let since = self.end.saturating_sub(WINDOW);
        Some(Verdict { cause: Cause::Uplink, evidence, since })
    }

    fn downlink(&self, case: &Case<'_>) -> Option<Verdict> {
        let mut sum = Sample::default();
        // What never reached this host is reported lost by every receiver.
        for leg in &case.receives {
            let before = self.losses.get(&*leg.known.subject.consumed).copied().unwrap_or_default();
            let lost = leg.sample.lost - (before * leg.sample.packets as f64).round() as i64;
            sum.add(&Sample { lost: lost.max(0), ..leg.sample });
        }
        if !self.is_lossy(&sum, Side::Sent) {
            return None;
        }
        let bad = case.receives.iter().filter(|leg| self.is_lossy(&leg.sample, Side::Sent)).count();
        let evidence = format!(
            "it reports {} of {} packets lost that this host sent, on {bad} of {} consumers",
            percent(sum.loss(Side::Sent)),
            sum.packets,
            case.receives.len()
        );
        let since = self.end.saturating_sub(WINDOW);
        Some(Verdict { cause: Cause::Downlink, evidence, since })
    }

    fn silent(&self, case: &Case<'_>) -> Option<Verdict> {
        let silent = case.sends.iter().filter_map(|leg| {
            // Where nothing of the transport is counted, silence means nothing.
            self.last.transports.get(&*leg.known.subject.transport)?;
            let since = self.last.subjects.get(leg.subject).copied().unwrap_or(leg.known.since);
            let is_silent = self.end.saturating_sub(since) >= self.thresholds.silence;
            is_silent.then_some((since, &*leg.known.subject.kind))
        });
        let (since, kind) = silent.min()?;
        let seconds = (self.end - since) / 1000;
        let evidence = format!(
            "it is connected, and its {kind} is not paused and sends nothing for {seconds} s"
        );
        Some(Verdict { cause: Cause::Silent, evidence, since })
    }

    fn score(&self, case: &Case<'_>) -> Option<Verdict> {
        let low = case.sends.iter().filter(|leg| {
            let is_sending = leg.sample.packets >= self.thresholds.few;
            is_sending && leg.sample.score.is_some_and(|score| score <= self.thresholds.score)
        });
        let leg = low.min_by_key(|leg| leg.sample.score)?;
        let (Known { subject, .. }, score) = (leg.known, leg.sample.score);
        let evidence = format!(
            "mediasoup rates its {} {} of 10, and its packets arrive",
            subject.kind,
            score.unwrap_or_default()
        );
        let since = self.end.saturating_sub(WINDOW).max(leg.known.since);
        Some(Verdict { cause: Cause::Score, evidence, since })
    }

    fn is_lossy(&self, sample: &Sample, side: Side) -> bool {
        let is_enough = sample.packets as i64 + sample.lost.max(0) >= self.thresholds.few as i64;
        is_enough && sample.loss(side).is_some_and(|loss| loss >= self.thresholds.loss)
    }

    /// Finds out when losses began: with the steps that lose at least half as much, and no longer pause than
    /// [`PAUSE`]. Beyond [`DATED`] peers, nobody looks.
    fn date(&self, judged: &mut [(&PeerKey, &Case<'_>, Verdict)]) {
        let mut numbers: HashMap<&Arc<str>, usize> = HashMap::default();
        let lossy = judged.iter_mut().filter(|(_, _, verdict)| verdict.cause.legs().is_some());
        let mut lossy: Vec<_> = lossy.take(DATED).collect();
        for (number, (_, case, verdict)) in lossy.iter().enumerate() {
            let legs = match verdict.cause.legs() {
                Some(Side::Received) => &case.sends,
                _ => &case.receives,
            };
            numbers.extend(legs.iter().map(|leg| (leg.subject, number)));
        }
        if numbers.is_empty() {
            return;
        }
        let mut of_tracks = vec![None; self.past.most_tracks()];
        for (track, whose) in self.past.tracks() {
            if let Whose::Stream { subject, .. } = &whose.whose {
                of_tracks[track as usize] = numbers.get(subject).copied();
            }
        }
        let stretch = self.past.stretch(self.end.saturating_sub(REACH)..self.end);
        let mut steps = vec![vec![Sample::default(); stretch.len()]; lossy.len()];
        for (step, track, _, sample) in stretch.samples() {
            if let Some(Some(number)) = of_tracks.get(track as usize) {
                steps[*number][step].add(&sample);
            }
        }
        let starts: Vec<u64> = stretch.steps().map(|(start, _)| start).collect();
        for ((_, _, verdict), steps) in lossy.iter_mut().zip(steps) {
            let Some(side) = verdict.cause.legs() else { continue };
            verdict.since = self.beginning(&starts, &steps, side).unwrap_or(verdict.since);
        }
    }

    fn beginning(&self, starts: &[u64], steps: &[Sample], side: Side) -> Option<u64> {
        let Thresholds { loss: lossy, jitter: uneven, .. } = self.thresholds;
        let (mut since, mut good) = (None, 0);
        for (start, sample) in starts.iter().zip(steps).rev() {
            let loss = sample.loss(side).unwrap_or_default();
            let jitter = f64::from(sample.jitter.unwrap_or_default()) / 1e6;
            if loss >= lossy / 2.0 || jitter >= *uneven {
                (since, good) = (Some(*start), 0);
            } else {
                good += 1;
            }
            if good > PAUSE {
                break;
            }
        }
        since
    }
}

fn sum(legs: &[Leg<'_>]) -> Sample {
    let mut sum = Sample::default();
    legs.iter().for_each(|leg| sum.add(&leg.sample));
    sum
}
