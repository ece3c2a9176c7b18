//! The same tables that the kernel program keeps, in this process: packets come in, readings go out.
//!
//! Admission follows the kernel program's rules: known flows and strangers have bounds of their own,
//! a flow becomes known when the observer tells it or both sides have proved it. No I/O, no clock:
//! the time comes in with each packet.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use exporter_ebpf::abi::{
    EVENTS, Event, FlowValue, KNOWN, Occupancy, PROVED_SEND, RECEIVE, RESERVED_SSRCS, SEEN_RECEIVE,
    StreamValue, TCP,
};
use exporter_ebpf::jitter;
use exporter_ebpf::packet::{self, Bytes, Parsed, View, Why};
use exporter_ebpf::ports::PortSet;
use exporter_ebpf::rtp::{self, Content, Kind, NO_SEQUENCE, Rtp, Within};
use foldhash::{HashMap, HashMapExt};
use ipnet::IpNet;

use crate::host::namespaces::NamespaceCookie;
use crate::host::ownership::{End, Ownership};
use crate::kernel::census::{Census, flow_cell, stream_cell};
use crate::kernel::ebpf::keys;
use crate::kernel::evict;
use crate::kernel::options::Lifetimes;
use crate::kernel::options::Limits;
use crate::kernel::shares::{self, Verdict};
use crate::model::{Counter, Direction, JoinKey, Proto, Reading, TableFill, Tuple};

/// Entries removed in one reading.
const MOST_EVICTIONS: usize = 65_536;
/// Datagrams of one aggregate (UDP_MAX_SEGMENTS).
const MAX_DATAGRAMS: u32 = 128;

/// One direction of a tuple, and an SSRC.
type StreamId = (Tuple, Direction, u32);

/// Everything that was counted.
pub(super) struct Table {
    limits: Limits,
    lifetimes: Lifetimes,
    flows: HashMap<Tuple, FlowValue>,
    streams: HashMap<StreamId, StreamValue>,
    /// By [`Occupancy`].
    occupied: [u64; 4],
    events: [[Counter; 2]; EVENTS],
    told: HashSet<JoinKey>,
    /// Far sides that get nothing more unless a server tells them.
    greedy: HashSet<IpAddr>,
    /// `None`: every address counts as local.
    local: Option<Local>,
    /// `None`: of the ports that are looked at, all count.
    owned: Option<Arc<Ownership>>,
    jitter: bool,
}

/// Addresses that count as local, and whose they are.
#[derive(Debug, Default)]
pub(super) struct Local {
    hosts: HashMap<IpAddr, NamespaceCookie>,
    /// The longest first.
    networks: Vec<(IpNet, NamespaceCookie)>,
}

impl Local {
    fn new(prefixes: &[(IpNet, NamespaceCookie)]) -> Self {
        let is_host = |net: &IpNet| net.prefix_len() == net.max_prefix_len();
        let (hosts, mut networks): (Vec<_>, Vec<_>) =
            prefixes.iter().copied().partition(|(net, _)| is_host(net));
        networks.sort_by_key(|(net, _)| std::cmp::Reverse(net.prefix_len()));
        Self { hosts: hosts.into_iter().map(|(net, it)| (net.addr(), it)).collect(), networks }
    }

    fn namespace(&self, address: IpAddr) -> Option<NamespaceCookie> {
        let of_network = || {
            let mut networks = self.networks.iter();
            networks.find(|(net, _)| net.contains(&address)).map(|(_, it)| *it)
        };
        self.hosts.get(&address).copied().or_else(of_network)
    }
}

/// A packet's part of the tables, and how much it adds.
struct Arrival {
    tuple: Tuple,
    direction: Direction,
    packets: u64,
    bytes: u64,
    /// Since this process began to count.
    now: Duration,
}

impl Table {
    pub(super) fn new(
        limits: Limits,
        lifetimes: Lifetimes,
        local: Option<Local>,
        owned: Option<Arc<Ownership>>,
        jitter: bool,
    ) -> Self {
        Self {
            limits,
            lifetimes,
            flows: HashMap::new(),
            streams: HashMap::new(),
            occupied: [0; 4],
            events: [[Counter::default(); 2]; EVENTS],
            told: HashSet::new(),
            greedy: HashSet::new(),
            local,
            owned,
            jitter,
        }
    }

    /// Counts one frame that came at `now`. `segment`: payload bytes of each packet of an aggregate,
    /// 0 for none.
    pub(super) fn frame<P: PortSet>(
        &mut self,
        bytes: &[u8],
        view: &View<P>,
        segment: u32,
        now: Duration,
    ) {
        let frame = Bytes::new(bytes);
        let direction =
            if view.direction == RECEIVE { Direction::Receive } else { Direction::Send };
        let (tuple, payload, length) = match packet::parse(frame, view) {
            Ok(Parsed::V4(packet)) => {
                let key = packet.flow(0);
                let (local, remote) = (key.local.into(), key.remote.into());
                (
                    ends(key.proto, local, key.local_port, remote, key.remote_port),
                    packet.payload,
                    packet.length,
                )
            }
            Ok(Parsed::V6(packet)) => {
                let key = packet.flow(0);
                let (local, remote) = (key.local.into(), key.remote.into());
                (
                    ends(key.proto, local, key.local_port, remote, key.remote_port),
                    packet.payload,
                    packet.length,
                )
            }
            Err(skip) => match skip.why {
                Why::Elsewhere => return,
                Why::Short => return self.event(Event::Truncated, direction, 1, view.frame),
                Why::Event(event) => return self.event(event, direction, 1, skip.bytes),
            },
        };
        let mut arrival = Arrival { tuple, direction, packets: 1, bytes: length.into(), now };
        if tuple.proto == Proto::Tcp {
            if segment != 0 {
                arrival.packets = u64::from(length.div_ceil(segment)).max(1);
            }
            let speaks = match direction {
                Direction::Receive => length != 0,
                Direction::Send => {
                    rtp::is_framed_stun_success(&Within { frame, offset: payload }, length)
                }
            };
            self.plain(&arrival, Kind::Other, speaks);
            return;
        }
        let segment = if segment == 0 || segment >= length { length } else { segment };
        let mut begin = 0;
        for _ in 0..MAX_DATAGRAMS {
            let bytes = segment.min(length - begin);
            arrival.bytes = bytes.into();
            let payload = Within { frame, offset: payload + begin as usize };
            self.datagram(&arrival, rtp::classify(&payload, bytes));
            begin += segment;
            if begin >= length {
                return;
            }
        }
    }

    /// Everything counted so far; what rests is let go, with its last values in the reading.
    pub(super) fn read(&mut self, now: u64) -> Reading {
        let idle = |last: u64| u32::try_from(now.saturating_sub(last)).unwrap_or(u32::MAX);
        let flows = self.flows.iter();
        let flows = flows.map(|(tuple, value)| keys::flow(*tuple, value, idle(value.last_seen)));
        let streams = self.streams.iter().map(|((tuple, direction, ssrc), value)| {
            keys::stream(*tuple, *direction, *ssrc, value, idle(value.last_seen))
        });
        let mut reading = Reading {
            flows: flows.collect(),
            streams: streams.collect(),
            events: self.events.to_vec(),
            tables: Vec::new(),
        };
        self.evict(&mut reading);
        reading.tables = self.fill();
        reading
    }

    pub(super) fn tell(&mut self, told: &HashSet<JoinKey>) {
        self.told.clear();
        self.told.extend(told.iter().take(self.limits.flows as usize).copied());
    }

    /// Replaces the addresses that count as local, each with the network namespace that has it.
    pub(super) fn set_local(&mut self, local: &[(IpNet, NamespaceCookie)]) {
        if let Some(mine) = &mut self.local {
            *mine = Local::new(local);
        }
    }

    fn datagram(&mut self, arrival: &Arrival, content: Content) {
        let kind = content.kind;
        if kind != Kind::Rtp {
            if kind == Kind::BadRtp {
                self.event_of(Event::BadRtp, arrival);
            }
            let speaks = arrival.direction == Direction::Receive || kind.is_proof();
            return self.plain(arrival, kind, speaks);
        }
        let jitter = self.jitter;
        let id = (arrival.tuple, arrival.direction, content.rtp.ssrc);
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.flags & KNOWN != 0
        {
            return record(stream, &content.rtp, arrival, jitter);
        }
        let Some(known) = self.flow(arrival, true) else { return };
        match self.stream(id, known, arrival) {
            Ok(stream) => record(stream, &content.rtp, arrival, jitter),
            Err(refusal) => {
                self.event_of(refusal, arrival);
                self.add(arrival, Kind::Rtp);
            }
        }
    }

    fn plain(&mut self, arrival: &Arrival, kind: Kind, speaks: bool) {
        if self.flow(arrival, speaks).is_some() {
            self.add(arrival, kind);
        }
    }

    fn add(&mut self, arrival: &Arrival, kind: Kind) {
        if let Some(flow) = self.flows.get_mut(&arrival.tuple) {
            let counter = &mut flow.counts[number(arrival.direction)][kind.class() as usize];
            counter.packets += arrival.packets;
            counter.bytes += arrival.bytes;
        }
    }

    /// Finds or makes the flow; tells whether it is known.
    fn flow(&mut self, arrival: &Arrival, speaks: bool) -> Option<bool> {
        let told = self.told.contains(&arrival.tuple.join_key());
        if !self.flows.contains_key(&arrival.tuple) {
            if let Some(refusal) = self.refusal(&arrival.tuple, told) {
                self.event_of(refusal, arrival);
                return None;
            }
            let vouched = speaks && arrival.direction == Direction::Send;
            let proven = vouched && !self.has_room(Occupancy::Strangers, false);
            let known = told || proven && !self.is_greedy(&arrival.tuple);
            if !self.take(flow_cell(known), told) {
                let refusal = if known { Event::FlowsFull } else { Event::StrangersFull };
                self.event_of(refusal, arrival);
                return None;
            }
            let flags = if known { KNOWN } else { 0 };
            self.flows.insert(arrival.tuple, FlowValue { flags, ..FlowValue::default() });
        }
        let flow = self.flows.get_mut(&arrival.tuple)?;
        flow.last_seen = arrival.now.as_secs();
        if flow.flags & KNOWN != 0 {
            return Some(true);
        }
        if speaks {
            flow.flags |= match arrival.direction {
                Direction::Receive => SEEN_RECEIVE,
                Direction::Send => PROVED_SEND,
            };
        }
        const PROVEN: u32 = SEEN_RECEIVE | PROVED_SEND;
        if told || flow.flags & PROVEN == PROVEN {
            let refusal = match !told && self.is_greedy(&arrival.tuple) {
                true => Some(Event::ShareFull),
                false => (!self.take(Occupancy::Flows, told)).then_some(Event::FlowsFull),
            };
            if let Some(refusal) = refusal {
                self.event_of(refusal, arrival);
                return Some(false);
            }
            self.give_back(Occupancy::Strangers);
            self.flows.get_mut(&arrival.tuple)?.flags |= KNOWN;
            return Some(true);
        }
        Some(false)
    }

    /// Why no flow is made, if this host or the SFU has no part in it. As in the kernel, what was told is a
    /// worker's port, though perhaps behind an address of this host that is translated.
    fn refusal(&self, tuple: &Tuple, told: bool) -> Option<Event> {
        let local = self.local.as_ref()?;
        let Some(namespace) = local.namespace(tuple.local.ip()) else {
            return Some(Event::NotLocal);
        };
        let end = End::new(namespace, tuple.proto, tuple.local);
        let is_owned = told || self.owned.as_ref().is_none_or(|owned| owned.has(&end));
        (!is_owned).then_some(Event::NotOwned)
    }

    fn stream(
        &mut self,
        id: StreamId,
        known: bool,
        arrival: &Arrival,
    ) -> Result<&mut StreamValue, Event> {
        let share = self.flows.get(&id.0).map_or(0, |flow| flow.streams);
        let told = share < RESERVED_SSRCS && self.told.contains(&id.0.join_key());
        match self.streams.get(&id).map(|stream| stream.flags & KNOWN != 0) {
            None => {
                if share >= self.limits.ssrcs_per_flow {
                    return Err(Event::SsrcsFull);
                }
                if known && !told && self.is_greedy(&id.0) {
                    return Err(Event::ShareFull);
                }
                if !self.take(stream_cell(known), told) {
                    return Err(match known {
                        true => Event::StreamsFull,
                        false => Event::StrangerStreamsFull,
                    });
                }
                if let Some(flow) = self.flows.get_mut(&id.0) {
                    flow.streams += 1;
                }
                let flags = if known { KNOWN } else { 0 };
                let fresh = StreamValue { flags, bad_seq: NO_SEQUENCE, ..StreamValue::default() };
                self.streams.insert(id, fresh);
            }
            Some(false) if known => {
                if self.take(Occupancy::Streams, told) {
                    self.give_back(Occupancy::StrangerStreams);
                    if let Some(stream) = self.streams.get_mut(&id) {
                        stream.flags |= KNOWN;
                    }
                } else {
                    self.event_of(Event::StreamsFull, arrival);
                }
            }
            Some(_) => {}
        }
        self.streams.get_mut(&id).ok_or(Event::InsertFailed)
    }

    fn evict(&mut self, reading: &mut Reading) {
        let census = Census::of(reading);
        let chosen =
            evict::choose(reading, &census, &self.told, self.lifetimes, false, MOST_EVICTIONS);
        let Verdict { greedy, losses } =
            shares::judge(reading, &census, &self.told, &self.limits, MOST_EVICTIONS);
        self.greedy = greedy;
        let chosen = chosen.and(losses);
        for position in chosen.flows {
            let flow = &mut reading.flows[position];
            flow.ended = true;
            if let Some(value) = self.flows.remove(&flow.tuple) {
                self.give_back(flow_cell(value.flags & KNOWN != 0));
            }
        }
        for position in chosen.streams {
            let stream = &mut reading.streams[position];
            stream.ended = true;
            let id = (stream.tuple, stream.direction, stream.ssrc);
            if let Some(value) = self.streams.remove(&id) {
                self.give_back(stream_cell(value.flags & KNOWN != 0));
            }
            if let Some(flow) = self.flows.get_mut(&stream.tuple) {
                flow.streams = flow.streams.saturating_sub(1);
            }
        }
    }

    fn is_greedy(&self, tuple: &Tuple) -> bool {
        self.greedy.contains(&tuple.remote.ip())
    }

    /// For one whom a server told, or not.
    fn has_room(&self, room: Occupancy, told: bool) -> bool {
        let most = self.most(room);
        let most = match room {
            Occupancy::Flows | Occupancy::Streams if !told => shares::of_proven(most),
            _ => most,
        };
        self.occupied[room as usize] < most.into()
    }

    fn take(&mut self, room: Occupancy, told: bool) -> bool {
        let free = self.has_room(room, told);
        self.occupied[room as usize] += u64::from(free);
        free
    }

    fn give_back(&mut self, room: Occupancy) {
        let occupied = &mut self.occupied[room as usize];
        *occupied = occupied.saturating_sub(1);
    }

    fn most(&self, room: Occupancy) -> u32 {
        match room {
            Occupancy::Flows => self.limits.flows,
            Occupancy::Streams => self.limits.streams,
            Occupancy::Strangers => self.limits.stranger_flows,
            Occupancy::StrangerStreams => self.limits.stranger_streams,
        }
    }

    fn fill(&self) -> Vec<TableFill> {
        let fill = |table, room: Occupancy| TableFill {
            table,
            entries: self.occupied[room as usize],
            capacity: self.most(room).into(),
        };
        vec![
            fill("flows", Occupancy::Flows),
            fill("streams", Occupancy::Streams),
            fill("stranger_flows", Occupancy::Strangers),
            fill("stranger_streams", Occupancy::StrangerStreams),
        ]
    }

    fn event_of(&mut self, event: Event, arrival: &Arrival) {
        let counter = &mut self.events[event as usize][number(arrival.direction)];
        counter.packets += arrival.packets;
        counter.bytes += arrival.bytes;
    }

    fn event(&mut self, event: Event, direction: Direction, packets: u64, bytes: u32) {
        let counter = &mut self.events[event as usize][number(direction)];
        counter.packets += packets;
        counter.bytes += u64::from(bytes);
    }
}

fn record(stream: &mut StreamValue, rtp: &Rtp, arrival: &Arrival, jitter: bool) {
    rtp::count(stream, rtp, arrival.bytes as u32, arrival.now.as_secs());
    if jitter && jitter::is_due(stream) {
        // Half a millennium of nanoseconds.
        jitter::take(stream, rtp.timestamp, arrival.now.as_nanos() as u64);
    }
}

fn ends(proto: u8, local: IpAddr, local_port: u16, remote: IpAddr, remote_port: u16) -> Tuple {
    let proto = if proto == TCP { Proto::Tcp } else { Proto::Udp };
    Tuple::new(proto, SocketAddr::new(local, local_port), SocketAddr::new(remote, remote_port))
}

fn number(direction: Direction) -> usize {
    match direction {
        Direction::Receive => 0,
        Direction::Send => 1,
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
