//! Tables on trial: programs that count alike into tables that differ in one thing each, loaded with
//! the baseline's object, filled, and run.

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{Map, MapData};
use aya::programs::SchedClassifier;
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader, TestRun as _, TestRunOptions};

use crate::batch::Reader;

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

/// The first is of the product's kind.
pub static VARIANTS: [Variant; 11] = [
    Variant::new(["lock", "", "SHARED"], "shared, locked (key 20, value 128)"),
    Variant::new(["atomic", "lock", "SHARED"], "shared, added to atomically"),
    Variant::new(["per_cpu", "lock", "PER_CPU"], "per CPU"),
    Variant::new(["lock_six", "lock", "SHARED"], "shared, locked, six words written"),
    Variant::new(["atomic_six", "lock_six", "SHARED"], "shared, six atomic additions"),
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

    /// A variant's table.
    pub fn table(&self, variant: &Variant) -> Result<&MapData> {
        match self.ebpf.map(variant.table) {
            Some(Map::HashMap(data) | Map::LruHashMap(data) | Map::PerCpuHashMap(data)) => Ok(data),
            _ => bail!("no hash table `{}`", variant.table),
        }
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

    /// Puts all flows into all tables.
    pub fn fill(&self) -> Result<()> {
        /// The kernel's memory for new entries comes in portions, and may come late.
        const TRIES: usize = 10;
        let frame = frame(FILL, SSRC);
        for variant in &VARIANTS {
            let (program, mut reader) = (self.program(variant)?, self.reader(variant)?);
            let mut entries = 0;
            for _ in 0..TRIES {
                run(program, &frame, STEPS)?;
                entries = reader.read(|_| ())?;
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
