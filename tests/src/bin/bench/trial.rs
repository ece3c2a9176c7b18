//! Tables on trial: programs that count alike into tables that differ in one thing each, loaded with
//! the baseline's object, filled, and run.

use std::os::fd::{AsFd as _, AsRawFd as _};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{Map, MapData};
use aya::programs::SchedClassifier;
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader, TestRun as _, TestRunOptions};
use exporter_ebpf::abi::StreamSlot;
use exporter_ebpf::table::{self, WAYS};
use exporter_tests::prog::{SEED, StreamTable};
use memmap2::{MmapOptions, MmapRaw};

use crate::batch::Reader;
use crate::process::map_memory;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../exporter-ebpf/prebuilt/baseline.o"
));

/// Flows that a walk comes along, as the programs have it.
pub const FLOWS: usize = 100_000;
/// Steps in which a walk comes to all of them.
pub const STEPS: u32 = 1 << 17;
/// What the walk's place is multiplied with: no walk.
pub const STAY: u32 = 0;
/// From a flow to the next.
pub const FILL: u32 = 1;
/// From any flow to any other.
pub const WALK: u32 = 1_664_525;
/// The word of a value that counts packets.
pub const PACKETS: usize = 0;
/// The word that counts those that did not get the lock.
pub const GAVE_UP: usize = 3;
/// The SSRC of the flows that fill the tables.
pub const SSRC: u32 = 1;
/// The program whose table evicts by itself.
pub const LRU: &str = "lru";

/// One program of the baseline's object, and its table.
#[derive(PartialEq)]
pub struct Variant {
    /// The program's name.
    pub program: &'static str,
    /// The table's.
    pub table: &'static str,
    /// What it is.
    pub name: &'static str,
    /// The program that differs in one thing.
    pub beside: &'static str,
}

impl Variant {
    const fn new([program, beside, table]: [&'static str; 3], name: &'static str) -> Self {
        Self { program, table, name, beside }
    }
}

/// The program whose table is the product's for streams.
pub const OWN: &str = "own";
/// The maps that it is made of.
const OWN_MAPS: [&str; 3] = ["STREAMS", "TAGS", "LOCKS"];

/// The first is of the kind that the product has for flows.
pub static VARIANTS: [Variant; 12] = [
    Variant::new(["lock", "", "SHARED"], "shared, locked (key 20, value 128)"),
    Variant::new(["atomic", "lock", "SHARED"], "shared, added to atomically"),
    Variant::new(["per_cpu", "lock", "PER_CPU"], "per CPU"),
    Variant::new(["lock_six", "lock", "SHARED"], "shared, locked, six words written"),
    Variant::new(["atomic_six", "lock_six", "SHARED"], "shared, six atomic additions"),
    Variant::new([OWN, "lock", OWN_MAPS[0]], "the table of streams"),
    Variant::new(["short_key", "lock", "SHORT_KEY"], "key 16: no SSRC"),
    Variant::new(["long_key", "lock", "LONG_KEY"], "key 44: both families"),
    Variant::new(["allocated", "lock", "ALLOCATED"], "preallocated"),
    Variant::new([LRU, "allocated", "LRU"], "preallocated, LRU"),
    Variant::new(["small", "atomic", "SMALL"], "shared, added to atomically, value 16"),
    Variant::new(["per_cpu_small", "per_cpu", "PER_CPU_SMALL"], "per CPU, value 16"),
];

/// The loaded programs.
pub struct Tables {
    ebpf: Ebpf,
    /// For which a table has a copy of each value, if it has one for each.
    pub processors: usize,
}

impl Tables {
    /// Loads all programs, with room for all flows in each table.
    pub fn load() -> Result<Self> {
        let mut loader = EbpfLoader::new();
        for variant in &VARIANTS {
            loader.map_max_entries(variant.table, FLOWS as u32);
        }
        let streams = StreamTable::new(FLOWS as u32, SEED);
        streams.tell(&mut loader);
        let mut ebpf = loader.load(OBJECT).context("load the programs")?;
        for variant in &VARIANTS {
            let program = ebpf.program_mut(variant.program);
            let program: &mut SchedClassifier =
                program.with_context(|| format!("no program `{}`", variant.program))?.try_into()?;
            program.load().with_context(|| format!("load `{}`", variant.program))?;
        }
        let processors = nr_cpus().map_err(|(_, error)| error).context("count processors")?;
        Ok(Self { ebpf, processors })
    }

    /// A variant's program.
    pub fn program(&self, variant: &Variant) -> Result<&SchedClassifier> {
        Ok(self.ebpf.program(variant.program).context("no such program")?.try_into()?)
    }

    /// What a variant's table takes, in MB, by the kernel's own account.
    pub fn memory(&self, variant: &Variant) -> Result<f64> {
        let maps = if variant.program == OWN { &OWN_MAPS[..] } else { &[variant.table] };
        maps.iter().map(|name| map_memory(self.map(name)?.fd().as_fd())).sum()
    }

    fn map(&self, name: &str) -> Result<&MapData> {
        match self.ebpf.map(name) {
            Some(
                Map::HashMap(data)
                | Map::LruHashMap(data)
                | Map::PerCpuHashMap(data)
                | Map::Array(data),
            ) => Ok(data),
            _ => bail!("no table `{name}`"),
        }
    }

    /// A variant's table.
    pub fn table(&self, variant: &Variant) -> Result<&MapData> {
        self.map(variant.table)
    }

    /// How many copies of each value a variant's table has.
    pub fn copies(&self, variant: &Variant) -> usize {
        match self.ebpf.map(variant.table) {
            Some(Map::PerCpuHashMap(_)) => self.processors,
            _ => 1,
        }
    }

    /// Reads a variant's table.
    pub fn reader(&self, variant: &Variant) -> Result<Reader<'_>> {
        Reader::new(self.table(variant)?, self.copies(variant))
    }

    /// The product's table, as userspace has it.
    pub fn mapped(&self) -> Result<Mapped> {
        let slots = table::buckets(FLOWS as u32) as usize * WAYS;
        let map = |name, length: usize| -> Result<MmapRaw> {
            let table = self.map(name)?.fd().as_fd().as_raw_fd();
            Ok(MmapOptions::new().len(length).map_raw_read_only(table)?)
        };
        let tags = map("TAGS", slots * size_of::<u32>())?;
        let values = map("STREAMS", slots * size_of::<StreamSlot>())?;
        Ok(Mapped { tags, values, slots })
    }

    fn entries(&self, variant: &Variant) -> Result<usize> {
        if variant.program != OWN {
            return self.reader(variant)?.read(|_| ());
        }
        let mut entries = 0;
        self.mapped()?.read(|_| entries += 1);
        Ok(entries)
    }

    /// Puts all flows into all tables.
    pub fn fill(&self) -> Result<()> {
        /// The kernel's memory for new entries comes in portions, and may come late.
        const TRIES: usize = 10;
        let frame = frame(FILL, SSRC);
        for variant in &VARIANTS {
            let program = self.program(variant)?;
            let mut entries = 0;
            for _ in 0..TRIES {
                run(program, &frame, STEPS)?;
                entries = self.entries(variant)?;
                // The table that evicts by itself may do so before it is full.
                if entries == FLOWS || variant.program == LRU {
                    break;
                }
            }
            let is_full = entries == FLOWS || variant.program == LRU;
            ensure!(is_full, "`{}` has {entries} entries", variant.table);
        }
        Ok(())
    }
}

/// Words of a slot.
const WORDS: usize = size_of::<StreamSlot>() / size_of::<u64>();

/// The maps `TAGS` and `STREAMS` in this process's memory.
pub struct Mapped {
    tags: MmapRaw,
    values: MmapRaw,
    slots: usize,
}

impl Mapped {
    /// Calls `each` for every slot that is not free.
    pub fn read(&self, mut each: impl FnMut(&[u64; WORDS])) {
        for slot in 0..self.slots {
            // SAFETY: both mappings have so many slots, and no program runs meanwhile.
            unsafe {
                if self.tags.as_ptr().cast::<u32>().add(slot).read() > table::TAKEN {
                    each(&self.values.as_ptr().cast::<[u64; WORDS]>().add(slot).read());
                }
            }
        }
    }
}

/// Runs a program on a frame; tells the mean in nanoseconds.
pub fn run(program: &SchedClassifier, frame: &[u8], repeat: u32) -> Result<f64> {
    let options = TestRunOptions { data_in: Some(frame), repeat, ..Default::default() };
    Ok(program.test_run(options)?.duration.as_nanos() as f64)
}

/// IPv4, UDP and the fixed RTP header, in which the timestamp's place has the walk.
pub fn frame(walk: u32, ssrc: u32) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([0x08, 0x00, 0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 17, 0, 0]);
    frame.extend([203, 0, 113, 7, 192, 0, 2, 1]);
    frame.extend([0x13, 0x88, 0x9c, 0x40, 0, 20, 0, 0]);
    frame.extend([0x80, 96, 0, 1]);
    frame.extend(walk.to_ne_bytes());
    frame.extend(ssrc.to_be_bytes());
    frame
}
