//! Decides which entries of a reading are let go.
//!
//! A reading and what the observer tells come in, positions in the reading go out; removing the
//! entries is done elsewhere. Pure, and the same for the kernel's tables and the packet capture's.

use std::collections::HashSet;

use foldhash::{HashMap, HashMapExt};

use super::census::Census;
use super::options::Lifetimes;
use crate::model::{JoinKey, Reading, Tuple};

/// Positions in a reading.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Evictions {
    /// In `flows`; each has no streams.
    pub(super) flows: Vec<usize>,
    /// In `streams`.
    pub(super) streams: Vec<usize>,
}

impl Evictions {
    /// Those that another rule has chosen, too.
    pub(super) fn and(mut self, other: Self) -> Self {
        let merge = |one: &mut Vec<usize>, other: Vec<usize>| {
            if !other.is_empty() {
                one.extend(other);
                one.sort_unstable();
                one.dedup();
            }
        };
        merge(&mut self.flows, other.flows);
        merge(&mut self.streams, other.streams);
        self
    }
}

/// Chooses at most `most` flows and `most` streams. A flow that rests goes after its streams, with a later
/// reading. With `orphans`, streams without a flow (a packet came while its flow was removed) are looked
/// for, too.
pub(super) fn choose(
    reading: &Reading,
    census: &Census,
    told: &HashSet<JoinKey>,
    lifetimes: Lifetimes,
    orphans: bool,
    most: usize,
) -> Evictions {
    let mut resting = idle_flows(reading, told, lifetimes);
    keep_those_with_live_streams(reading, &mut resting);
    if resting.is_empty() && !orphans && census.oldest_stream <= lifetimes.stream {
        return Evictions::default();
    }
    let flows: Option<HashSet<Tuple>> =
        orphans.then(|| reading.flows.iter().map(|flow| flow.tuple).collect());
    let goes = |tuple: &Tuple, idle: u32| {
        let orphan = flows.as_ref().is_some_and(|flows| !flows.contains(tuple));
        idle > lifetimes.stream
            || (!resting.is_empty() && resting.contains_key(tuple))
            || (orphan && idle > lifetimes.stranger)
    };
    let streams = reading.streams.iter().enumerate().filter(|(_, stream)| !stream.ended);
    let streams = streams.filter(|(_, stream)| goes(&stream.tuple, stream.idle_seconds));
    let streams: Vec<usize> = streams.map(|(position, _)| position).take(most).collect();
    for stream in reading.streams.iter().filter(|stream| !stream.ended) {
        if resting.is_empty() {
            break;
        }
        resting.remove(&stream.tuple);
    }
    let mut flows: Vec<usize> = resting.into_values().map(|idle| idle.position).collect();
    flows.sort_unstable();
    flows.truncate(most);
    Evictions { flows, streams }
}

struct Idle {
    position: usize,
    lifetime: u32,
}

/// Flows whose own counters rest. RTP of a known stream does not touch them, so their streams have
/// to be asked, too.
fn idle_flows(
    reading: &Reading,
    told: &HashSet<JoinKey>,
    lifetimes: Lifetimes,
) -> HashMap<Tuple, Idle> {
    let mut idle = HashMap::new();
    for (position, flow) in reading.flows.iter().enumerate() {
        let lifetime = if flow.known { lifetimes.untold } else { lifetimes.stranger };
        if flow.idle_seconds > lifetime && !told.contains(&flow.tuple.join_key()) {
            idle.insert(flow.tuple, Idle { position, lifetime });
        }
    }
    idle
}

fn keep_those_with_live_streams(reading: &Reading, ending: &mut HashMap<Tuple, Idle>) {
    for stream in reading.streams.iter().filter(|stream| !stream.ended) {
        if ending.is_empty() {
            return;
        }
        if ending.get(&stream.tuple).is_some_and(|idle| stream.idle_seconds <= idle.lifetime) {
            ending.remove(&stream.tuple);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Counter, Direction, Flow, Proto, Stream};

    fn tuple(port: u16) -> Tuple {
        let remote = format!("198.51.100.1:{port}").parse().unwrap();
        Tuple::new(Proto::Udp, "192.0.2.1:40000".parse().unwrap(), remote)
    }

    fn flow(port: u16, known: bool, idle_seconds: u32) -> Flow {
        Flow { known, idle_seconds, ..crate::fixture::flow(tuple(port), 0) }
    }

    fn stream(port: u16, idle_seconds: u32) -> Stream {
        Stream {
            tuple: tuple(port),
            direction: Direction::Receive,
            ssrc: 1,
            known: true,
            idle_seconds,
            ended: false,
            payload_type: 96,
            total: Counter::default(),
            received: 0,
            expected: 0,
            out_of_order: 0,
            duplicates: 0,
            restarts: 0,
            jitter: [0; 3],
        }
    }

    #[test]
    fn only_what_rests_and_is_not_told_goes() {
        let check = |flows: &[Flow], streams: &[Stream], expected: (&[usize], &[usize])| {
            let told = HashSet::from([tuple(9).join_key()]);
            let reading =
                Reading { flows: flows.to_vec(), streams: streams.to_vec(), ..Reading::default() };
            let census = Census::of(&reading);
            let chosen = choose(&reading, &census, &told, Lifetimes::default(), true, 100);
            assert_eq!((&chosen.flows[..], &chosen.streams[..]), expected);
        };
        check(&[flow(1, false, 30), flow(2, false, 31)], &[], (&[1], &[]));
        check(&[flow(1, true, 120), flow(2, true, 121), flow(9, true, 9999)], &[], (&[1], &[]));
        // Its own counters rest, but RTP goes on.
        check(&[flow(1, true, 500)], &[stream(1, 400), stream(1, 3)], (&[], &[]));
        // Flows go after their streams.
        check(&[flow(1, true, 500)], &[stream(1, 400), stream(1, 130)], (&[], &[0, 1]));
        let ended = Stream { ended: true, ..stream(1, 130) };
        check(&[flow(1, true, 500)], &[ended], (&[0], &[]));
        check(&[flow(1, true, 0)], &[stream(1, 600), stream(1, 601)], (&[], &[1]));
        check(&[], &[stream(1, 30), stream(1, 31)], (&[], &[1]));
    }

    #[test]
    fn no_more_than_asked_for() {
        let reading = Reading {
            flows: (1..=50).map(|port| flow(port, false, 99)).collect(),
            ..Reading::default()
        };
        let census = Census::of(&reading);
        let chosen = choose(&reading, &census, &HashSet::new(), Lifetimes::default(), false, 8);
        assert_eq!(chosen.flows.len(), 8);
    }
}
