//! What one far side may have that no server told: whoever proves himself by traffic gets room, but not
//! everybody's.
//!
//! A reading and what servers tell come in; addresses that get no more, and positions in the reading that
//! are taken back, go out. Pure, and the same for the kernel's tables and the packet capture's.
//!
//! An address may have as much as is still free, so one that asks for everything gets half, two get a third
//! each, and where there is plenty nobody is held back. Those whom servers tell have an eighth of the
//! room that nobody else gets; when they need more, the others give way, the quietest first.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::census::Census;
use super::evict::Evictions;
use super::options::Limits;
use crate::model::{JoinKey, Reading, Tuple};
use exporter_ebpf::abi::{MOST_GREEDY, Occupancy, RESERVED_SSRCS};

/// What everybody may have, however little is free.
const FLOOR: usize = 32;

/// Who has too much, and what of it goes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Addresses that get nothing more for now.
    pub(super) greedy: HashSet<IpAddr>,
    /// What they lose.
    pub(super) losses: Evictions,
}

/// One entry that no server stands for.
#[derive(Clone, Copy)]
struct Entry {
    position: usize,
    idle: u32,
}

/// Judges a reading; takes back at most `most` entries of each kind. Where there is plenty of room it does not
/// even look.
pub(super) fn judge(
    reading: &Reading,
    census: &Census,
    told: &HashSet<JoinKey>,
    limits: &Limits,
    most: usize,
) -> Verdict {
    let [flows, streams] =
        [Occupancy::Flows, Occupancy::Streams].map(|of| census.entries(of) as usize);
    let is_scarce = |used: usize, max: u32| used > max as usize / 2;
    let mut verdict = Verdict::default();
    let [scarce_flows, scarce_streams] =
        [is_scarce(flows, limits.flows), is_scarce(streams, limits.streams)];
    if !scarce_flows && !scarce_streams {
        return verdict;
    }
    let is_told: Vec<bool> =
        reading.flows.iter().map(|flow| told.contains(&flow.tuple.join_key())).collect();
    if scarce_flows {
        let untold = untold_flows(reading, &is_told);
        verdict.losses.flows = take_back(untold, flows, limits.flows, &mut verdict.greedy, most);
    }
    if scarce_streams {
        let untold = untold_streams(reading, &is_told);
        verdict.losses.streams =
            take_back(untold, streams, limits.streams, &mut verdict.greedy, most);
    }
    let gone: HashSet<Tuple> =
        verdict.losses.flows.iter().map(|at| reading.flows[*at].tuple).collect();
    flows_go_after_their_streams(reading, &gone, &mut verdict.losses, most);
    verdict
}

/// Of a table for so many, what is kept for those whom servers tell.
fn reserve(max: usize) -> usize {
    max / 8
}

/// The part of a table that those may fill whom no server told.
pub(super) fn of_proven(max: u32) -> u32 {
    max - reserve(max as usize) as u32
}

/// What goes of those entries of a table, of which so many are used.
fn take_back(
    untold: HashMap<IpAddr, Vec<Entry>>,
    used: usize,
    max: u32,
    greedy: &mut HashSet<IpAddr>,
    most: usize,
) -> Vec<usize> {
    let room = of_proven(max) as usize;
    let share = room.saturating_sub(used).max(FLOOR.min(room));
    // Those who are told are in what is kept for them: it is emptied before it is full.
    let reserve = reserve(max as usize);
    let mut needed = match used > max as usize - reserve / 2 {
        true => used - (max as usize - reserve),
        false => 0,
    };
    let mut all: Vec<(IpAddr, Vec<Entry>)> = untold.into_iter().collect();
    all.sort_unstable_by_key(|(address, entries)| (std::cmp::Reverse(entries.len()), *address));
    let mut gone = Vec::new();
    for (address, mut entries) in all {
        let surplus = entries.len().saturating_sub(share);
        if surplus > 0 && greedy.len() < MOST_GREEDY as usize {
            greedy.insert(address);
        }
        let losses = surplus.max(needed.min(entries.len()));
        if losses == 0 {
            break;
        }
        entries.sort_unstable_by_key(|entry| (std::cmp::Reverse(entry.idle), entry.position));
        gone.extend(entries.iter().take(losses).map(|entry| entry.position));
        needed = needed.saturating_sub(losses);
    }
    gone.truncate(most);
    gone
}

/// `told` says of each flow whether a server stands for it.
fn untold_flows(reading: &Reading, told: &[bool]) -> HashMap<IpAddr, Vec<Entry>> {
    let mut untold: HashMap<IpAddr, Vec<Entry>> = HashMap::new();
    for (position, (flow, told)) in reading.flows.iter().zip(told).enumerate() {
        if flow.known && !flow.ended && !told {
            let entry = Entry { position, idle: flow.idle_seconds };
            untold.entry(flow.tuple.remote.ip()).or_default().push(entry);
        }
    }
    untold
}

/// Of a told flow, the streams beyond those that have room of their own. Mostly every flow is told and has few:
/// then no stream is looked at.
fn untold_streams(reading: &Reading, told: &[bool]) -> HashMap<IpAddr, Vec<Entry>> {
    let mut by_flow: foldhash::HashMap<Tuple, (bool, Vec<Entry>)> = foldhash::HashMap::default();
    let flows = reading.flows.iter().zip(told);
    for (flow, &is_told) in flows.filter(|(flow, _)| flow.known && !flow.ended) {
        if !is_told || flow.streams > RESERVED_SSRCS {
            by_flow.insert(flow.tuple, (is_told, Vec::new()));
        }
    }
    let mut untold: HashMap<IpAddr, Vec<Entry>> = HashMap::new();
    if by_flow.is_empty() {
        return untold;
    }
    for (position, stream) in reading.streams.iter().enumerate() {
        if stream.known
            && !stream.ended
            && let Some((_, entries)) = by_flow.get_mut(&stream.tuple)
        {
            entries.push(Entry { position, idle: stream.idle_seconds });
        }
    }
    for (tuple, (is_told, mut entries)) in by_flow {
        if is_told {
            entries.sort_unstable_by_key(|entry| (entry.idle, entry.position));
            entries.drain(..entries.len().min(RESERVED_SSRCS as usize));
        }
        if !entries.is_empty() {
            untold.entry(tuple.remote.ip()).or_default().extend(entries);
        }
    }
    untold
}

/// Flows that still have streams lose those first.
fn flows_go_after_their_streams(
    reading: &Reading,
    gone: &HashSet<Tuple>,
    losses: &mut Evictions,
    most: usize,
) {
    if gone.is_empty() {
        return;
    }
    let mut streams: HashSet<usize> = losses.streams.drain(..).collect();
    let mut waiting = HashSet::new();
    for (position, stream) in reading.streams.iter().enumerate() {
        if !stream.ended && gone.contains(&stream.tuple) {
            streams.insert(position);
            waiting.insert(stream.tuple);
        }
    }
    losses.flows.retain(|position| !waiting.contains(&reading.flows[*position].tuple));
    losses.streams = streams.into_iter().collect();
    losses.streams.sort_unstable();
    losses.streams.truncate(most);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Direction, Flow, Proto, Stream};

    const LIMITS: Limits = Limits {
        flows: 800,
        streams: 8_000,
        stranger_flows: 1,
        stranger_streams: 1,
        ssrcs_per_flow: 1_024,
    };

    fn tuple(host: u8, port: u16) -> Tuple {
        let remote = format!("198.51.100.{host}:{port}").parse().unwrap();
        Tuple::new(Proto::Udp, "192.0.2.1:40000".parse().unwrap(), remote)
    }

    fn flow(host: u8, port: u16, idle_seconds: u32) -> Flow {
        Flow { idle_seconds, ..crate::fixture::flow(tuple(host, port), 0) }
    }

    fn stream(host: u8, port: u16, ssrc: u32, idle_seconds: u32) -> Stream {
        crate::fixture::stream(tuple(host, port), Direction::Receive, ssrc, 1).idle(idle_seconds)
    }

    trait Idle {
        fn idle(self, seconds: u32) -> Self;
    }

    impl Idle for Stream {
        fn idle(self, idle_seconds: u32) -> Self {
            Self { idle_seconds, ..self }
        }
    }

    fn judge_all(reading: &Reading, told: &[Tuple]) -> Verdict {
        let told = told.iter().map(Tuple::join_key).collect();
        judge(reading, &Census::of(reading), &told, &LIMITS, 10_000)
    }

    #[test]
    fn where_there_is_room_nobody_is_held_back() {
        let flows = (0..400).map(|port| flow(1, port, 0)).collect();
        let reading = Reading { flows, ..Reading::default() };
        assert_eq!(judge_all(&reading, &[]), Verdict::default());
    }

    #[test]
    fn one_address_has_half_of_what_is_not_kept_and_loses_its_quietest() {
        let greedy = (0..600).map(|port| flow(1, port, u32::from(port)));
        let modest = (0..20).map(|port| flow(2, port, 9_999));
        let reading = Reading { flows: greedy.chain(modest).collect(), ..Reading::default() };
        let verdict = judge_all(&reading, &[]);
        assert_eq!(verdict.greedy, HashSet::from(["198.51.100.1".parse().unwrap()]));
        // 80 places of 700 are free.
        let losses: HashSet<usize> = verdict.losses.flows.iter().copied().collect();
        assert_eq!(losses, (80..600).collect());
    }

    #[test]
    fn who_is_told_loses_nothing_and_the_others_give_way() {
        let told: Vec<Tuple> = (0..760).map(|port| tuple(1, port)).collect();
        let flows = (0..760).map(|port| flow(1, port, 99)).chain([flow(2, 1, 0), flow(3, 1, 0)]);
        let reading = Reading { flows: flows.collect(), ..Reading::default() };
        let verdict = judge_all(&reading, &told);
        assert_eq!((verdict.greedy.len(), verdict.losses.flows.len()), (0, 2));
    }

    #[test]
    fn a_told_flow_has_room_for_so_many_streams_and_shares_the_rest() {
        let streams = (0..5_000).map(|ssrc| stream(1, 1, ssrc, ssrc));
        let flows = vec![Flow { streams: 5_000, ..flow(1, 1, 0) }];
        let reading = Reading { flows, streams: streams.collect(), ..Reading::default() };
        let verdict = judge_all(&reading, &[tuple(1, 1)]);
        assert_eq!(verdict.greedy.len(), 1);
        // 2,000 of 7,000 are free, and 64 are its own.
        assert_eq!(verdict.losses.streams.len(), 5_000 - 64 - 2_000);
        assert!(verdict.losses.streams.iter().all(|at| *at >= 2_064), "the quietest");
    }

    #[test]
    fn a_flow_goes_after_its_streams() {
        let flows: Vec<Flow> = (0..700).map(|port| flow(1, port, 0)).collect();
        let streams = vec![stream(1, 699, 1, 0), stream(1, 0, 1, 0)];
        let reading = Reading { flows, streams, ..Reading::default() };
        let verdict = judge_all(&reading, &[]);
        assert_eq!(verdict.losses.streams.len(), 1, "the flows lose all but 32");
        assert_eq!(verdict.losses.flows.len(), 700 - 32 - 1);
    }
}
