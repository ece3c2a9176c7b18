//! The kernel's tables of this process's own counting, filled from outside: what traffic would leave
//! in them, without traffic.

use std::cell::UnsafeCell;
use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;

use anyhow::{Context as _, Result, bail, ensure};
use aya::Pod;
use aya::maps::{Array, HashMap, Map, MapData, MapInfo};
use exporter_ebpf::abi::{
    CLASSES, Class, Counter, DIRECTIONS, FlowKeyV4, FlowValue, KNOWN, PROVED_SEND, RECEIVE,
    SEEN_RECEIVE, SEND, StreamKeyV4, StreamSlot, StreamValue, UDP,
};
use exporter_ebpf::table::{self, Bucket, Inserted, Memory, SEEDS, Shared, WAYS};
use exporter_tests::netns::Netns;
use exporter_tests::pair;
use exporter_tests::prog::{SEED, seeds};
use mediasoup_exporter::kernel::{Counting, Lifetimes, Limits, MethodChoice, Options};
use mediasoup_exporter::model::{Direction, Tuple};

use crate::world::World;

/// A table's entry as the kernel has it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Plain<T>(pub T);

// SAFETY: integers without padding, in the layout that the kernel program shares.
unsafe impl Pod for Plain<FlowKeyV4> {}
// SAFETY: as above.
unsafe impl Pod for Plain<FlowValue> {}
// SAFETY: as above.
unsafe impl Pod for Plain<StreamSlot> {}

/// The table of streams, as any program would open it.
pub type Streams = Array<MapData, Plain<StreamSlot>>;

/// Counting that sees no traffic, with tables that hold all of a made-up SFU.
pub struct Counted {
    /// Reads the tables.
    pub counting: Counting,
    /// The same table.
    pub streams: Streams,
    _host: Netns,
}

impl Counted {
    /// Makes the tables and fills them.
    pub fn new(world: &World) -> Result<Self> {
        let host = Netns::new("bench")?;
        let counting = pair::start_with(&host, options())?;
        let mut flows: HashMap<MapData, Plain<FlowKeyV4>, Plain<FlowValue>> =
            HashMap::try_from(own_map("FLOWS_V4")?)?;
        let streams = Filled::new(Limits::default());
        for tuple in &world.tuples {
            flows.insert(Plain(key(tuple)?), Plain(flow()), 0)?;
        }
        for &(transport, direction, ssrc) in &world.ssrcs {
            let direction = match direction {
                Direction::Receive => RECEIVE,
                Direction::Send => SEND,
            };
            let flow = FlowKeyV4 { direction, ..key(&world.tuples[transport])? };
            streams.put(&StreamKeyV4 { flow, ssrc })?;
        }
        // As a server would: whoever nobody tells has no right to all that room.
        counting.tell(&world.tuples.iter().map(Tuple::join_key).collect())?;
        Ok(Self { counting, streams: streams.write()?, _host: host })
    }
}

/// The table of streams, filled as the kernel would, in this process's memory.
struct Filled {
    tags: Vec<UnsafeCell<Bucket>>,
    slots: Vec<UnsafeCell<StreamSlot>>,
    seeds: [u64; SEEDS],
}

impl Filled {
    fn new(limits: Limits) -> Self {
        let buckets = table::buckets(limits.streams + limits.stranger_streams) as usize;
        Self {
            tags: (0..buckets).map(|_| UnsafeCell::default()).collect(),
            slots: (0..buckets * WAYS).map(|_| UnsafeCell::default()).collect(),
            seeds: seeds(SEED),
        }
    }

    fn put(&self, key: &StreamKeyV4) -> Result<()> {
        // SAFETY: the vectors are a table, and this thread's.
        let inserted = unsafe { table::insert(self, key, &stream()) };
        ensure!(matches!(inserted, Inserted::New(_)), "a stream found no place: {inserted:?}");
        Ok(())
    }

    /// Copies it to the kernel.
    fn write(self) -> Result<Streams> {
        let mut tags: Array<MapData, Bucket> = Array::try_from(own_map("TAGS")?)?;
        let mut slots: Streams = Array::try_from(own_map("STREAMS")?)?;
        for (number, bucket) in self.tags.into_iter().map(UnsafeCell::into_inner).enumerate() {
            if bucket != Bucket::default() {
                tags.set(number as u32, bucket, 0)?;
            }
        }
        for (number, slot) in self.slots.into_iter().map(UnsafeCell::into_inner).enumerate() {
            if slot != StreamSlot::default() {
                slots.set(number as u32, Plain(slot), 0)?;
            }
        }
        Ok(slots)
    }
}

impl Memory for Filled {
    fn bucket(&self, number: u32) -> Option<*mut Bucket> {
        self.tags.get(number as usize).map(UnsafeCell::get)
    }

    fn slot(&self, number: u32) -> Option<*mut StreamSlot> {
        self.slots.get(number as usize).map(UnsafeCell::get)
    }

    fn buckets(&self) -> u32 {
        self.tags.len() as u32
    }

    fn seed(&self, number: usize) -> u64 {
        self.seeds[number]
    }
}

/// One thread needs no locks.
impl Shared for Filled {
    fn lock(&self, _: u32) -> bool {
        true
    }

    fn unlock(&self, _: u32) {}

    unsafe fn claim(&self, _: *mut u32) -> bool {
        true
    }

    unsafe fn publish(&self, tag: *mut u32, value: u32) {
        // SAFETY: the caller's.
        unsafe { tag.write(value) };
    }
}

/// What is made here rests from the start, and is not to be let go of.
fn options() -> Options {
    let for_ever = u32::MAX;
    Options {
        interfaces: vec!["lo".into()],
        method: MethodChoice::Ebpf,
        limits: Limits::default(),
        lifetimes: Lifetimes { stranger: for_ever, untold: for_ever, stream: for_ever },
        ..Options::default()
    }
}

/// The newest map of this name that this process has open.
fn own_map(name: &str) -> Result<Map> {
    let mut ids = BTreeSet::new();
    for info in fs::read_dir("/proc/self/fdinfo")? {
        let text = fs::read_to_string(info?.path()).unwrap_or_default();
        let id = text.lines().find_map(|line| line.strip_prefix("map_id:"));
        ids.extend(id.and_then(|id| id.trim().parse::<u32>().ok()));
    }
    for id in ids.into_iter().rev() {
        if MapInfo::from_id(id)?.name_as_str() == Some(name) {
            return Ok(Map::from_map_data(MapData::from_id(id)?)?);
        }
    }
    bail!("this process has no map `{name}`")
}

fn key(tuple: &Tuple) -> Result<FlowKeyV4> {
    let octets = |ip| match ip {
        IpAddr::V4(ip) => Ok(ip.octets()),
        IpAddr::V6(_) => bail!("{ip} in a world of IPv4"),
    };
    Ok(FlowKeyV4 {
        remote: octets(tuple.remote.ip())?,
        local: octets(tuple.local.ip()).context("a local address")?,
        remote_port: tuple.remote.port(),
        local_port: tuple.local.port(),
        proto: UDP,
        ..FlowKeyV4::default()
    })
}

fn flow() -> FlowValue {
    let mut counts = [[Counter::default(); CLASSES]; DIRECTIONS];
    for class in [Class::Rtcp, Class::Stun, Class::Dtls] {
        counts[usize::from(RECEIVE)][class as usize] = Counter { packets: 10, bytes: 1000 };
    }
    FlowValue { flags: KNOWN | SEEN_RECEIVE | PROVED_SEND, streams: 5, counts, last_seen: 0 }
}

fn stream() -> StreamValue {
    StreamValue {
        flags: KNOWN,
        total: Counter { packets: 1_000_000, bytes: 1_000_000_000 },
        received: 1_000_000,
        base_seq: 1,
        max_seq: 1_000_000,
        window: u64::MAX,
        out_of_order: 12,
        duplicates: 3,
        payload_type: 96,
        ..StreamValue::default()
    }
}
