//! The kernel's tables, seen from userspace: reads them as [`Reading`]s, tells them what the observer
//! told, lets go of what rests.
//!
//! File descriptors come in; which entries rest is decided in `evict`. Nothing here attaches
//! programs or knows interfaces.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread;

use anyhow::Context;
use exporter_ebpf::abi::{
    self, EVENTS, FlowKeyV4, FlowKeyV6, FlowValue, OCCUPANCIES, Occupancy, StreamValue, Tend,
};

use ipnet::IpNet;

use super::batch::Reader;
use super::clock::Clock;
use super::grace::Grace;
use super::keys::{self, Family, Key};
use super::occupancy::{Occupied, Surplus};
use super::streams::{self, Streams};
use super::sys;
use crate::host::addresses::MAX_LOCAL;
use crate::host::namespaces::NamespaceCookie;
use crate::kernel::census::{Census, flow_cell, stream_cell};
use crate::kernel::evict;
use crate::kernel::options::Lifetimes;
use crate::kernel::options::Limits;
use crate::kernel::shares::{self, Verdict};
use crate::model::{Counter, Flow, JoinKey, Reading, Stream, TableFill};

/// Entries removed in one reading; a flow is a system call of about a microsecond.
const MOST_EVICTIONS: usize = 8192;

const CELLS: [Occupancy; OCCUPANCIES] =
    [Occupancy::Flows, Occupancy::Streams, Occupancy::Strangers, Occupancy::StrangerStreams];

/// Descriptors of the tables, IPv4's and IPv6's, and of the program `tend`.
pub(in crate::kernel) struct TableFds {
    pub(in crate::kernel) flows: [OwnedFd; 2],
    pub(in crate::kernel) tags: OwnedFd,
    pub(in crate::kernel) streams: OwnedFd,
    pub(in crate::kernel) told: [OwnedFd; 2],
    pub(in crate::kernel) greedy: [OwnedFd; 2],
    pub(in crate::kernel) local: [OwnedFd; 2],
    pub(in crate::kernel) events: OwnedFd,
    pub(in crate::kernel) occupancy: OwnedFd,
    pub(in crate::kernel) tend: OwnedFd,
}

/// The tables, with buffers that live from reading to reading.
pub(in crate::kernel) struct Tables {
    fds: TableFds,
    limits: Limits,
    lifetimes: Lifetimes,
    clock: Clock,
    occupied: Occupied,
    surplus: Surplus,
    flows_v4: Reader<FlowKeyV4, FlowValue>,
    flows_v6: Reader<FlowKeyV6, FlowValue>,
    streams: Streams,
    /// Of the last reading's live streams, their slots' numbers.
    numbers: Vec<u32>,
    leavers: Option<Leavers>,
    grace: Arc<Grace>,
    cpus: usize,
    told: HashSet<JoinKey>,
    untold_for_room: u64,
    greedy: HashSet<IpAddr>,
    local: HashMap<IpNet, NamespaceCookie>,
    orphans: bool,
    last_flows: usize,
    unreported: Ended,
}

impl Tables {
    pub(in crate::kernel) fn new(
        fds: TableFds,
        limits: Limits,
        lifetimes: Lifetimes,
    ) -> anyhow::Result<Self> {
        let occupied = Occupied::new(fds.occupancy.as_fd()).context("map the table OCCUPANCY")?;
        let most = limits.streams.saturating_add(limits.stranger_streams);
        let streams = Streams::new(fds.tags.as_fd(), fds.streams.as_fd(), most);
        let streams = streams.context("map the tables TAGS and STREAMS")?;
        let grace = Arc::new(Grace::new().context("make the map that waits for programs")?);
        let jiffies = tend(&fds, Tend::default()).context("run the program tend")?;
        let cpus = aya::util::nr_cpus()
            .map_err(|(file, error)| anyhow::Error::new(error).context(format!("read {file}")))?;
        Ok(Self {
            fds,
            limits,
            lifetimes,
            clock: Clock::new(jiffies, monotonic()),
            occupied,
            surplus: Surplus::default(),
            flows_v4: Reader::new(),
            flows_v6: Reader::new(),
            leavers: leftovers(&streams, &grace)?,
            streams,
            numbers: Vec::new(),
            grace,
            cpus,
            told: HashSet::new(),
            untold_for_room: 0,
            greedy: HashSet::new(),
            local: HashMap::new(),
            orphans: true,
            last_flows: 0,
            unreported: Ended::default(),
        })
    }

    /// Reads all tables, and removes what rests; what was removed is in a reading, `ended`: a flow in this
    /// one, a stream in the next.
    pub(in crate::kernel) fn read(&mut self) -> anyhow::Result<Reading> {
        let mut reading = Reading {
            flows: Vec::with_capacity(self.last_flows + self.last_flows / 16),
            ..Reading::default()
        };
        match self.read_into(&mut reading) {
            Ok(()) => {
                self.unreported.put_into(&mut reading);
                Ok(reading)
            }
            Err(error) => {
                self.unreported.take_from(reading);
                Err(error)
            }
        }
    }

    fn read_into(&mut self, reading: &mut Reading) -> anyhow::Result<()> {
        let jiffies = tend(&self.fds, Tend::default()).context("run the program tend")?;
        self.clock.advance(jiffies, monotonic());
        let mut census = Census::default();
        self.read_flows(reading, &mut census).context("read the flow tables")?;
        self.take_leavers(reading).context("remove idle streams")?;
        self.read_streams(reading, &mut census);
        self.last_flows = reading.flows.len();
        let chosen = evict::choose(
            reading,
            &census,
            &self.told,
            self.lifetimes,
            std::mem::take(&mut self.orphans),
            MOST_EVICTIONS,
        );
        let Verdict { greedy, losses } =
            shares::judge(reading, &census, &self.told, &self.limits, MOST_EVICTIONS);
        self.hold_back(greedy).context("write the tables of greedy addresses")?;
        let chosen = chosen.and(losses);
        self.evict(reading, &chosen.flows, &mut census).context("remove idle flows")?;
        self.hide(reading, &chosen.streams);
        self.correct(&census);
        reading.events = self.read_events().context("read the table EVENTS")?;
        reading.tables = self.fill();
        Ok(())
    }

    /// Writes the difference between what was told before and what is told now.
    pub(in crate::kernel) fn tell(&mut self, told: &HashSet<JoinKey>) -> io::Result<()> {
        let gone: Vec<JoinKey> = self.told.difference(told).copied().collect();
        for key in gone {
            self.with_told(&key, |map, key| key.remove(map))?;
            self.told.remove(&key);
        }
        let new: Vec<JoinKey> = told.difference(&self.told).copied().collect();
        self.untold_for_room = 0;
        for key in new {
            match self.with_told(&key, |map, key| key.put(map)) {
                Ok(()) => {
                    self.told.insert(key);
                }
                // E2BIG: the table is full. The flow may still prove itself by traffic.
                Err(error) if error.raw_os_error() == Some(libc::E2BIG) => {
                    self.untold_for_room += 1;
                }
                Err(error) => return Err(error),
            }
        }
        if self.untold_for_room > 0 {
            let missing = self.untold_for_room;
            tracing::debug!("{missing} connections find no room in the table of told flows");
        }
        Ok(())
    }

    /// Replaces the addresses that count as local, each with the network namespace that has it.
    pub(in crate::kernel) fn set_local(
        &mut self,
        local: &[(IpNet, NamespaceCookie)],
    ) -> io::Result<()> {
        let wanted: HashMap<IpNet, NamespaceCookie> = local.iter().copied().collect();
        for prefix in self.local.keys().filter(|prefix| !wanted.contains_key(*prefix)) {
            match keys::prefix(prefix) {
                Family::V4(key) => sys::remove(self.fds.local[0].as_fd(), &key),
                Family::V6(key) => sys::remove(self.fds.local[1].as_fd(), &key),
            }?;
        }
        // In the order that they were given in, in case the table becomes full.
        for (prefix, cookie) in local {
            if self.local.get(prefix) != Some(cookie) {
                self.put_local(prefix, *cookie)?;
            }
        }
        self.local = wanted;
        Ok(())
    }

    fn put_local(
        &self,
        prefix: &IpNet,
        NamespaceCookie(cookie): NamespaceCookie,
    ) -> io::Result<()> {
        let put = match keys::prefix(prefix) {
            Family::V4(key) => sys::put(self.fds.local[0].as_fd(), &key, &cookie),
            Family::V6(key) => sys::put(self.fds.local[1].as_fd(), &key, &cookie),
        };
        match put {
            // The table is full, which its fill shows.
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => Ok(()),
            result => result,
        }
    }

    /// These addresses get no more room than they have, unless a server tells them.
    fn hold_back(&mut self, greedy: HashSet<IpAddr>) -> io::Result<()> {
        let [v4, v6] = [self.fds.greedy[0].as_fd(), self.fds.greedy[1].as_fd()];
        for address in self.greedy.difference(&greedy) {
            match address {
                IpAddr::V4(address) => sys::remove(v4, &address.octets()),
                IpAddr::V6(address) => sys::remove(v6, &address.octets()),
            }?;
        }
        for address in greedy.difference(&self.greedy) {
            match address {
                IpAddr::V4(address) => sys::put(v4, &address.octets(), &1_u8),
                IpAddr::V6(address) => sys::put(v6, &address.octets(), &1_u8),
            }?;
        }
        self.greedy = greedy;
        Ok(())
    }

    fn read_flows(&mut self, reading: &mut Reading, census: &mut Census) -> io::Result<()> {
        let clock = self.clock;
        let most = (self.limits.flows as usize) + (self.limits.stranger_flows as usize);
        let flows = &mut reading.flows;
        let mut put = |tuple, value: &FlowValue| {
            let flow = keys::flow(tuple, value, clock.idle_seconds(value.last_seen));
            census.flow(&flow);
            flows.push(flow);
        };
        let [v4, v6] = [self.fds.flows[0].as_fd(), self.fds.flows[1].as_fd()];
        self.flows_v4.read(v4, most, |key, value| put(key.tuple(), value))?;
        self.flows_v6.read(v6, most, |key, value| put(key.tuple(), value))
    }

    fn read_streams(&mut self, reading: &mut Reading, census: &mut Census) {
        let Self { clock, streams, numbers, .. } = self;
        streams.numbers(numbers);
        reading.streams.reserve_exact(numbers.len());
        streams.read(numbers, |key, value| {
            let stream = row(key, value, clock);
            census.stream(&stream);
            reading.streams.push(stream);
        });
    }

    /// Removes flows. They have no streams any more: a flow's value has its share of them.
    fn evict(
        &mut self,
        reading: &mut Reading,
        flows: &[usize],
        census: &mut Census,
    ) -> io::Result<()> {
        for &position in flows {
            let flow = &mut reading.flows[position];
            let was_known = flow.known;
            let value = match keys::flow_key(&flow.tuple) {
                Family::V4(key) => sys::take(self.fds.flows[0].as_fd(), &key),
                Family::V6(key) => sys::take(self.fds.flows[1].as_fd(), &key),
            }?;
            if let Some(value) = value {
                keys::set_flow(flow, &value, self.clock.idle_seconds(value.last_seen));
                self.occupied.give_back(flow_cell(flow.known));
            }
            census.flow_ended(was_known);
            flow.ended = true;
            self.orphans = true;
        }
        Ok(())
    }

    /// Hides streams from packets. The next reading has their last values: until then nobody waits for
    /// programs that have found them before.
    fn hide(&mut self, reading: &Reading, streams: &[usize]) {
        if streams.is_empty() {
            return;
        }
        // What ended stands before what lives.
        let ended = reading.streams.len() - self.numbers.len();
        let numbers: Vec<u32> = streams.iter().map(|at| self.numbers[at - ended]).collect();
        for &number in &numbers {
            self.streams.hide(number);
        }
        let grace = Arc::clone(&self.grace);
        let waiting = thread::Builder::new().name("grace".into()).spawn(move || grace.wait());
        self.leavers = Some(Leavers { numbers, waiting: waiting.ok() });
    }

    /// Ends the streams that were hidden by the reading before. They come first: the same stream may be
    /// there anew.
    fn take_leavers(&mut self, reading: &mut Reading) -> io::Result<()> {
        let Some(leavers) = &mut self.leavers else { return Ok(()) };
        match leavers.waiting.take() {
            Some(waiting) => waiting.join().unwrap_or_else(|_| self.grace.wait()),
            None => self.grace.wait(),
        }?;
        let numbers = std::mem::take(&mut leavers.numbers);
        self.leavers = None;
        let mut shares = HashMap::<_, u32>::new();
        for number in numbers {
            let Some((key, value)) = self.streams.take(number) else { continue };
            let stream = Stream { ended: true, ..row(key, &value, &self.clock) };
            self.occupied.give_back(stream_cell(stream.known));
            *shares.entry(stream.tuple).or_default() += 1;
            reading.streams.push(stream);
        }
        // The flow's bound on SSRCs counts those that are in the table.
        for (tuple, streams) in shares {
            tend(&self.fds, keys::tend(&tuple, streams))?;
        }
        Ok(())
    }

    fn correct(&mut self, census: &Census) {
        let counted = CELLS.map(|cell| census.entries(cell));
        let cells = CELLS.map(|cell| self.occupied.get(cell));
        for (cell, surplus) in
            CELLS.into_iter().zip(self.surplus.compare(cells, counted).unwrap_or_default())
        {
            if surplus > 0 {
                tracing::debug!("{surplus} entries of {cell:?} are accounted for but not there");
                self.occupied.take_off(cell, surplus);
            }
        }
    }

    fn read_events(&self) -> io::Result<Vec<[Counter; 2]>> {
        let mut events = vec![[Counter::default(); 2]; EVENTS];
        let mut cells = vec![Counter::default(); self.cpus];
        for (event, directions) in events.iter_mut().enumerate() {
            for (direction, sum) in directions.iter_mut().enumerate() {
                let index = (event * abi::DIRECTIONS + direction) as u32;
                sys::look_up(self.fds.events.as_fd(), &index, &mut cells)?;
                for cell in &cells {
                    sum.packets += cell.packets;
                    sum.bytes += cell.bytes;
                }
            }
        }
        Ok(events)
    }

    fn fill(&self) -> Vec<TableFill> {
        let limits = &self.limits;
        let fill = |table, cell, capacity: u32| TableFill {
            table,
            entries: self.occupied.get(cell),
            capacity: capacity.into(),
        };
        vec![
            fill("flows", Occupancy::Flows, limits.flows),
            fill("streams", Occupancy::Streams, limits.streams),
            fill("stranger_flows", Occupancy::Strangers, limits.stranger_flows),
            fill("stranger_streams", Occupancy::StrangerStreams, limits.stranger_streams),
            TableFill {
                table: "told_flows",
                entries: self.told.len() as u64 + self.untold_for_room,
                capacity: limits.flows.into(),
            },
            TableFill {
                table: "greedy_addresses",
                entries: self.greedy.len() as u64,
                capacity: abi::MOST_GREEDY.into(),
            },
            TableFill {
                table: "local_addresses",
                entries: self.local.len() as u64,
                capacity: MAX_LOCAL.into(),
            },
        ]
    }

    fn with_told(&self, key: &JoinKey, act: Act<FlowKeyV4, FlowKeyV6>) -> io::Result<()> {
        let key = keys::told(key);
        act(self.fds.told[key.number()].as_fd(), key)
    }
}

/// What is no longer in the tables, of readings that failed afterwards: nobody was told of it yet.
#[derive(Debug, Default)]
struct Ended {
    flows: Vec<Flow>,
    streams: Vec<Stream>,
}

impl Ended {
    fn take_from(&mut self, reading: Reading) {
        self.flows.extend(reading.flows.into_iter().filter(|flow| flow.ended));
        self.streams.extend(reading.streams.into_iter().filter(|stream| stream.ended));
    }

    /// They come first: the same ones may be there anew.
    fn put_into(&mut self, reading: &mut Reading) {
        reading.flows.splice(0..0, self.flows.drain(..));
        reading.streams.splice(0..0, self.streams.drain(..));
    }
}

/// Streams that are hidden, and who waits until no packet is on its way to them.
struct Leavers {
    numbers: Vec<u32>,
    waiting: Option<thread::JoinHandle<io::Result<()>>>,
}

/// What an exporter that died had begun to let go of. Others than it may be filling slots.
fn leftovers(streams: &Streams, grace: &Grace) -> anyhow::Result<Option<Leavers>> {
    let numbers = streams.hidden();
    if numbers.is_empty() {
        return Ok(None);
    }
    grace.wait().context("wait for programs")?;
    Ok(Some(Leavers { numbers, waiting: None }))
}

fn row(key: streams::Key, value: &StreamValue, clock: &Clock) -> Stream {
    let idle_seconds = clock.idle_seconds(value.last_seen);
    let (tuple, direction, ssrc) = match key {
        Family::V4(key) => (key.flow.tuple(), key.flow.direction(), key.ssrc),
        Family::V6(key) => (key.flow.tuple(), key.flow.direction(), key.ssrc),
    };
    keys::stream(tuple, direction, ssrc, value, idle_seconds)
}

/// Puts a key into a table, or removes it.
type Act<A, B> = fn(BorrowedFd<'_>, Family<A, B>) -> io::Result<()>;

fn tend(fds: &TableFds, request: Tend) -> io::Result<u32> {
    sys::test_run(fds.tend.as_fd(), &request)
}

fn monotonic() -> std::time::Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime writes one timespec to a live reference.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    std::time::Duration::new(now.tv_sec.cast_unsigned(), now.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;
    use crate::model::Direction;

    #[test]
    fn what_ended_is_in_the_next_reading_when_one_fails() {
        let stream = |ssrc, ended| {
            let tuple = fixture::tuple("192.0.2.1:40000", "198.51.100.1:5000");
            Stream { ended, ..fixture::stream(tuple, Direction::Receive, ssrc, 10) }
        };
        let rows = |reading: &Reading| {
            let rows = reading.streams.iter().map(|stream| (stream.ssrc, stream.ended));
            rows.collect::<Vec<_>>()
        };
        let of = |streams| Reading { streams, ..Reading::default() };
        let mut unreported = Ended::default();
        unreported.take_from(of(vec![stream(1, false), stream(2, true)]));
        let mut reading = of(vec![stream(2, false)]);
        unreported.put_into(&mut reading);
        assert_eq!(rows(&reading), [(2, true), (2, false)]);
        let mut reading = of(vec![stream(2, false)]);
        unreported.put_into(&mut reading);
        assert_eq!(rows(&reading), [(2, false)], "once");
    }
}
