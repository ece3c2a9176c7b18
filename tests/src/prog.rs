//! The kernel program, loaded but attached to nothing, and run by BPF_PROG_TEST_RUN: frames go in,
//! tables are read.

use std::collections::BTreeMap;
use std::mem::{MaybeUninit, size_of};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::maps::lpm_trie::{Key as Prefix, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray};
use aya::programs::{Program as Loaded, SchedClassifier};
use aya::{Ebpf, EbpfLoader, TestRun as _, TestRunOptions};
use exporter_ebpf::abi::{
    Counter, DIRECTIONS, Event, FlowKeyV4, FlowKeyV6, FlowValue, KEY_WORDS, OCCUPANCIES,
    OWNERSHIPS, Occupancy, Order, Own, OwnedSocket, PortKey, SfuProcess, Sharers, StreamKeyV4,
    StreamKeyV6, StreamSlot, StreamValue, Tend,
};
use exporter_ebpf::ports;
use exporter_ebpf::table::{self, Bucket, Key as _, SEEDS, WAYS};

/// The object that the exporter embeds.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../exporter-ebpf/prebuilt/exporter-ebpf.o"
));

/// The constants that userspace sets before it loads the program.
#[derive(Clone, Copy, Debug)]
pub struct Constants {
    /// Local ports that are looked at, of both protocols.
    pub ports: (u16, u16),
    /// Only the addresses told by [`Program::set_local_v4`] are local.
    pub check_local: bool,
    /// Only ports that a worker's socket has, as told by [`Program::order`], are counted.
    pub check_owned: bool,
    /// Owned sockets of verified workers, and of those who only claim to be some.
    pub owned: [u64; 2],
    /// Known flows.
    pub flows: u64,
    /// Known flows' streams.
    pub streams: u64,
    /// The part of both that those may fill whom no server told.
    pub proven: [u64; 2],
    /// Strangers' flows.
    pub strangers: u64,
    /// Strangers' streams.
    pub stranger_streams: u64,
    /// Streams of one flow.
    pub ssrcs: u32,
    /// Do not count a frame that carries the mark of having been counted.
    pub skip_seen: bool,
    /// Keep interarrival jitter.
    pub jitter: bool,
    /// What the table of streams hashes with, in as many rotations as it wants. 0: all keys meet.
    pub seed: u64,
}

impl Default for Constants {
    fn default() -> Self {
        Self {
            ports: (40_000, 49_999),
            check_local: false,
            check_owned: false,
            owned: [100, 10],
            flows: 1_000,
            streams: 4_000,
            proven: [1_000, 4_000],
            strangers: 100,
            stranger_streams: 200,
            ssrcs: 64,
            skip_seen: true,
            jitter: true,
            seed: SEED,
        }
    }
}

/// A frame, and what the kernel would know of it besides its bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Frame<'a> {
    /// From the link header on.
    pub bytes: &'a [u8],
    /// Payload of one segment of an aggregate; 0: none.
    pub gso_size: u32,
    /// Segments of an aggregate; 0: none.
    pub gso_segs: u32,
}

impl<'a> From<&'a [u8]> for Frame<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self { bytes, ..Self::default() }
    }
}

/// Cookie of the network namespace that has all local addresses.
pub const NAMESPACE: u64 = 77;

/// A seed for the table of streams: any large number will do.
pub const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// As many seeds as the table of streams wants, from one.
pub fn seeds(seed: u64) -> [u64; SEEDS] {
    std::array::from_fn(|at| seed.rotate_left(5 * at as u32))
}

/// What a table of streams is made with.
#[derive(Debug)]
pub struct StreamTable {
    buckets: u32,
    seeds: [u64; SEEDS],
}

impl StreamTable {
    /// For so many streams.
    pub fn new(streams: u32, seed: u64) -> Self {
        Self { buckets: table::buckets(streams), seeds: seeds(seed) }
    }

    /// Has the loader make it.
    pub fn tell<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        loader
            .override_global("BUCKETS", &self.buckets, true)
            .override_global("SEEDS", &self.seeds, true)
            .map_max_entries("TAGS", self.buckets)
            .map_max_entries("STREAMS", self.buckets * WAYS as u32);
    }
}

/// The loaded program.
pub struct Program {
    ebpf: Ebpf,
}

impl Program {
    /// Loads all programs and makes their tables.
    pub fn load(constants: &Constants) -> Result<Self> {
        Self::load_object(OBJECT, constants)
    }

    /// Loads another object of the same make.
    pub fn load_object(object: &[u8], constants: &Constants) -> Result<Self> {
        let [check_local, check_owned, skip_seen, jitter] =
            [constants.check_local, constants.check_owned, constants.skip_seen, constants.jitter]
                .map(u32::from);
        let mut loader = EbpfLoader::new();
        loader
            .override_global("CHECK_LOCAL", &check_local, true)
            .override_global("CHECK_OWNED", &check_owned, true)
            .override_global("MAX_VERIFIED", &constants.owned[0], true)
            .override_global("MAX_CLAIMED", &constants.owned[1], true)
            .override_global("SKIP_SEEN", &skip_seen, true)
            .override_global("JITTER", &jitter, true)
            .override_global("MAX_FLOWS", &constants.flows, true)
            .override_global("MAX_STREAMS", &constants.streams, true)
            .override_global("MAX_PROVEN_FLOWS", &constants.proven[0], true)
            .override_global("MAX_PROVEN_STREAMS", &constants.proven[1], true)
            .override_global("MAX_STRANGERS", &constants.strangers, true)
            .override_global("MAX_STRANGER_STREAMS", &constants.stranger_streams, true)
            .override_global("MAX_SSRCS", &constants.ssrcs, true);
        let flows = u32::try_from(constants.flows + constants.strangers)?;
        for table in ["FLOWS_V4", "FLOWS_V6", "TOLD_V4", "TOLD_V6"] {
            loader.map_max_entries(table, flows);
        }
        let streams = u32::try_from(constants.streams + constants.stranger_streams)?;
        let streams = StreamTable::new(streams, constants.seed);
        streams.tell(&mut loader);
        let mut ebpf = loader.load(object).context("load the kernel program")?;
        for (name, program) in ebpf.programs_mut() {
            match program {
                Loaded::CgroupSock(program) => program.load(),
                program => <&mut SchedClassifier>::try_from(program)?.load(),
            }
            .with_context(|| format!("load the program `{name}`"))?;
        }
        let program = Self { ebpf };
        let (first, last) = constants.ports;
        for (word, bits) in (0..).zip(ports::of_range(first, last)).filter(|(_, bits)| *bits != 0) {
            program.order(&Own { order: Order::Open as u32, word, bits, ..Own::default() })?;
        }
        Ok(program)
    }

    /// Has the kernel change what is owned, as userspace does; tells whether it was done.
    pub fn order(&self, order: &Own) -> Result<bool> {
        // SAFETY: no padding, and any value is bytes.
        let bytes: [u8; size_of::<Own>()] = unsafe { std::mem::transmute(*order) };
        Ok(self.repeat("own", Frame::from(&bytes[..]), 1)?.0 == 1)
    }

    /// Makes a process a worker that may own so many sockets.
    pub fn admit(&self, process: u32, quota: u32) -> Result<bool> {
        let socket = OwnedSocket { process, ..OwnedSocket::default() };
        self.order(&Own { order: Order::Admit as u32, bits: quota, socket, ..Own::default() })
    }

    /// Sockets that a worker owns.
    pub fn sockets_of(&self, process: u32) -> Result<u32> {
        let map: HashMap<_, u32, [u32; 2]> = HashMap::try_from(self.map("SFU_PROCESSES")?)?;
        let [_, sockets] = map.get(&process, 0)?;
        const { assert!(size_of::<SfuProcess>() == 8) };
        Ok(sockets)
    }

    /// All owned sockets, by cookie.
    pub fn owned(&self) -> Result<BTreeMap<u64, OwnedSocket>> {
        let entries = self.entries::<u64, OwnedSocket, 8, 40>("OWNED_SOCKETS")?;
        Ok(entries.into_values().collect())
    }

    /// All ends that sockets have or had, each with who has it.
    pub fn ends(&self) -> Result<Vec<(PortKey, Sharers)>> {
        let entries = self.entries::<PortKey, Sharers, 32, 64>("OWNED_PORTS")?;
        Ok(entries.into_values().collect())
    }

    /// The sums over owned sockets, by [`exporter_ebpf::abi::Ownership`].
    pub fn ownership(&self) -> Result<[u64; OWNERSHIPS]> {
        let map: Array<_, u64> = Array::try_from(self.map("OWNERSHIP")?)?;
        let mut cells = [0; OWNERSHIPS];
        for (number, cell) in (0..).zip(&mut cells) {
            *cell = map.get(&number, 0)?;
        }
        Ok(cells)
    }

    /// Instructions that the verifier went through, by program; `None` below Linux 5.16.
    pub fn verified(&self) -> Result<BTreeMap<String, Option<u32>>> {
        self.ebpf
            .programs()
            .map(|(name, program)| {
                Ok((name.to_owned(), program.info()?.verified_instruction_count()))
            })
            .collect()
    }

    /// Runs a program once on a frame. `None`: the kernel does not run such a frame (it wants at
    /// least an Ethernet header, and newer ones the IP header that this announces).
    pub fn run(&self, name: &str, frame: Frame<'_>) -> Result<Option<i32>> {
        const SHORTEST_WITH_IP: usize = 14 + 40;
        match self.repeat(name, frame, 1) {
            Ok((result, _)) => Ok(Some(result)),
            Err(error) if frame.bytes.len() < SHORTEST_WITH_IP && is_invalid(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Runs a program many times on the same frame; tells the last result and the mean duration.
    pub fn repeat(&self, name: &str, frame: Frame<'_>, times: u32) -> Result<(i32, Duration)> {
        let program: &SchedClassifier =
            self.ebpf.program(name).with_context(|| format!("no program `{name}`"))?.try_into()?;
        let context = sk_buff(&frame);
        let result = program
            .test_run(TestRunOptions {
                data_in: Some(frame.bytes),
                ctx_in: (frame.gso_size != 0).then_some(&context[..]),
                repeat: times,
                ..TestRunOptions::default()
            })
            .with_context(|| format!("run `{name}` on {} bytes", frame.bytes.len()))?;
        Ok((result.return_value.cast_signed(), result.duration))
    }

    /// Gives streams of a flow back, as userspace does; tells the kernel's jiffies.
    pub fn tend(&self, tend: &Tend) -> Result<u32> {
        // SAFETY: no padding, and any value is bytes.
        let bytes: [u8; size_of::<Tend>()] = unsafe { std::mem::transmute(*tend) };
        Ok(self.repeat("tend", Frame::from(&bytes[..]), 1)?.0.cast_unsigned())
    }

    /// Tells a flow, as the observer does.
    pub fn tell_v4(&mut self, key: FlowKeyV4) -> Result<()> {
        let key = FlowKeyV4 { local: [0; 4], direction: 0, ..key };
        self.insert("TOLD_V4", to_bytes::<_, 16>(&key))
    }

    /// Tells a flow, as the observer does.
    pub fn tell_v6(&mut self, key: FlowKeyV6) -> Result<()> {
        let key = FlowKeyV6 { local: [0; 16], direction: 0, ..key };
        self.insert("TOLD_V6", to_bytes::<_, 40>(&key))
    }

    /// A far side that has as much as one may have that no server told.
    pub fn hold_back_v4(&mut self, address: [u8; 4]) -> Result<()> {
        self.insert("GREEDY_V4", address)
    }

    /// As [`Self::hold_back_v4`].
    pub fn hold_back_v6(&mut self, address: [u8; 16]) -> Result<()> {
        self.insert("GREEDY_V6", address)
    }

    /// Makes the addresses that begin with so many bits of this one local, in [`NAMESPACE`].
    pub fn set_local_v4(&mut self, address: [u8; 4], bits: u32) -> Result<()> {
        self.set_local("LOCAL_V4", address, bits)
    }

    /// As [`Program::set_local_v4`].
    pub fn set_local_v6(&mut self, address: [u8; 16], bits: u32) -> Result<()> {
        self.set_local("LOCAL_V6", address, bits)
    }

    fn set_local<K: aya::Pod>(&mut self, table: &str, address: K, bits: u32) -> Result<()> {
        let map = self.ebpf.map_mut(table).with_context(|| format!("no map `{table}`"))?;
        let mut map: LpmTrie<&mut MapData, K, u64> = LpmTrie::try_from(map)?;
        Ok(map.insert(&Prefix::new(bits, address), NAMESPACE, 0)?)
    }

    /// Takes every lock of the table of streams, or frees it.
    pub fn lock_streams(&mut self, lock: bool) -> Result<()> {
        let map = self.ebpf.map_mut("LOCKS").context("no map `LOCKS`")?;
        let mut map: Array<&mut MapData, u32> = Array::try_from(map)?;
        (0..table::LOCKS).try_for_each(|number| Ok(map.set(number, u32::from(lock), 0)?))
    }

    fn insert<K: aya::Pod>(&mut self, table: &str, key: K) -> Result<()> {
        let map = self.ebpf.map_mut(table).with_context(|| format!("no map `{table}`"))?;
        let mut map: HashMap<&mut MapData, K, u8> = HashMap::try_from(map)?;
        Ok(map.insert(key, 1, 0)?)
    }

    /// All flows over IPv4.
    pub fn flows_v4(&self) -> Result<BTreeMap<[u8; 16], (FlowKeyV4, FlowValue)>> {
        self.entries::<FlowKeyV4, FlowValue, 16, 176>("FLOWS_V4")
    }

    /// All flows over IPv6.
    pub fn flows_v6(&self) -> Result<BTreeMap<[u8; 40], (FlowKeyV6, FlowValue)>> {
        self.entries::<FlowKeyV6, FlowValue, 40, 176>("FLOWS_V6")
    }

    /// All streams over IPv4.
    pub fn streams_v4(&self) -> Result<BTreeMap<[u8; 20], (StreamKeyV4, StreamValue)>> {
        self.streams(StreamKeyV4::FAMILY)
    }

    /// All streams over IPv6.
    pub fn streams_v6(&self) -> Result<BTreeMap<[u8; 44], (StreamKeyV6, StreamValue)>> {
        self.streams(StreamKeyV6::FAMILY)
    }

    fn streams<K: Plain, const KEY: usize>(
        &self,
        family: u32,
    ) -> Result<BTreeMap<[u8; KEY], (K, StreamValue)>> {
        let tags: Array<_, Bucket> = Array::try_from(self.map("TAGS")?)?;
        let slots: Array<_, [u8; size_of::<StreamSlot>()]> = Array::try_from(self.map("STREAMS")?)?;
        let mut streams = BTreeMap::new();
        for (number, bucket) in tags.iter().enumerate() {
            for (way, tag) in bucket?.into_iter().enumerate() {
                ensure!(tag != table::TAKEN, "a slot is left half made");
                let number = (number * WAYS + way) as u32;
                let slot: StreamSlot = from_bytes(&slots.get(&number, 0)?);
                if tag == table::FREE || slot.family != family {
                    continue;
                }
                let key: [u8; size_of::<StreamKeyV6>()] = to_bytes(&slot.key);
                let key: [u8; KEY] = key[..KEY].try_into()?;
                let twice = streams.insert(key, (from_bytes(&key), slot.value));
                ensure!(twice.is_none(), "a stream has two slots");
            }
        }
        Ok(streams)
    }

    fn entries<K, V, const KEY: usize, const VALUE: usize>(
        &self,
        table: &str,
    ) -> Result<BTreeMap<[u8; KEY], (K, V)>>
    where
        K: Plain,
        V: Plain,
    {
        let map: HashMap<_, [u8; KEY], [u8; VALUE]> = HashMap::try_from(self.map(table)?)?;
        map.iter()
            .map(|entry| {
                let (key, value) = entry?;
                Ok((key, (from_bytes(&key), from_bytes(&value))))
            })
            .collect()
    }

    /// What has been counted of an event, over all processors.
    pub fn event(&self, event: Event, direction: u8) -> Result<Counter> {
        let map: PerCpuArray<_, [u8; 16]> = PerCpuArray::try_from(self.map("EVENTS")?)?;
        let index = event as u32 * DIRECTIONS as u32 + u32::from(direction);
        Ok(map.get(&index, 0)?.iter().map(from_bytes::<Counter>).fold(
            Counter::default(),
            |sum, one| Counter { packets: sum.packets + one.packets, bytes: sum.bytes + one.bytes },
        ))
    }

    /// What admission works on, by [`Occupancy`].
    pub fn occupancy(&self) -> Result<[u64; OCCUPANCIES]> {
        let map: Array<_, u64> = Array::try_from(self.map("OCCUPANCY")?)?;
        let mut cells = [0; OCCUPANCIES];
        for kind in
            [Occupancy::Flows, Occupancy::Streams, Occupancy::Strangers, Occupancy::StrangerStreams]
        {
            cells[kind as usize] = map.get(&(kind as u32), 0)?;
        }
        Ok(cells)
    }

    fn map(&self, name: &str) -> Result<&Map> {
        self.ebpf.map(name).with_context(|| format!("no map `{name}`"))
    }
}

fn is_invalid(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| cause.raw_os_error() == Some(libc::EINVAL))
}

/// The fields of `struct __sk_buff` that a test run takes: `gso_segs` and `gso_size`.
fn sk_buff(frame: &Frame<'_>) -> [u8; 192] {
    let mut context = [0; 192];
    context[164..168].copy_from_slice(&frame.gso_segs.to_ne_bytes());
    context[176..180].copy_from_slice(&frame.gso_size.to_ne_bytes());
    context
}

/// Integers without padding.
trait Plain: Copy {}
impl Plain for FlowKeyV4 {}
impl Plain for FlowKeyV6 {}
impl Plain for StreamKeyV4 {}
impl Plain for StreamKeyV6 {}
impl Plain for FlowValue {}
impl Plain for StreamSlot {}
impl Plain for [u32; KEY_WORDS] {}
impl Plain for Counter {}
impl Plain for u64 {}
impl Plain for OwnedSocket {}
impl Plain for PortKey {}
impl Plain for Sharers {}

fn from_bytes<T: Plain>(bytes: &(impl AsRef<[u8]> + ?Sized)) -> T {
    let bytes = bytes.as_ref();
    assert_eq!(bytes.len(), size_of::<T>(), "the table's entries have another size");
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: as many bytes as the value has, and any bytes make one.
    unsafe {
        value.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        value.assume_init()
    }
}

fn to_bytes<T: Plain, const N: usize>(value: &T) -> [u8; N] {
    assert_eq!(N, size_of::<T>(), "the table's keys have another size");
    // SAFETY: as many bytes, and none of them padding.
    unsafe { std::ptr::from_ref(value).cast::<[u8; N]>().read() }
}
