//! Loads the embedded kernel object: constants and table sizes go in, programs and tables come out.
//!
//! Attaching the programs and reading the tables is done elsewhere.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, anyhow};
use aya::maps::{Array, RingBuf};
use aya::programs::{CgroupSock, Program, ProgramError, SchedClassifier};
use aya::{Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use exporter_ebpf::abi::{StreamSlot, TAG_SHIFT};
use exporter_ebpf::table::{self, Bucket, WAYS};

use super::layout::Layout;
use super::owned::{MOST_CLAIMED, MOST_ENDS, MOST_SOCKETS, OwnedFds};
use super::pin::{Pins, Seeds};
use super::tables::TableFds;
use crate::host::addresses::MAX_LOCAL;
use crate::host::claim::Tag;
use crate::kernel::options::Options;
use crate::kernel::shares;

/// The kernel object, built from `exporter-ebpf` and committed with it.
static OBJECT: &[u8] =
    aya::include_bytes_aligned!("../../../../exporter-ebpf/prebuilt/exporter-ebpf.o");

/// What a bucket's streams and tags take.
const BUCKET_BYTES: u64 = (WAYS * size_of::<StreamSlot>() + size_of::<Bucket>()) as u64;

/// What was loaded.
pub(in crate::kernel) struct Loaded {
    /// The programs.
    pub(in crate::kernel) ebpf: Ebpf,
    /// The tables, and the program that tends them.
    pub(in crate::kernel) tables: TableFds,
    /// What is owned.
    pub(in crate::kernel) owned: OwnedFds,
    /// The kernel program's own log, if it has one.
    pub(in crate::kernel) log: Option<EbpfLogger<TracingLog>>,
    /// Where the tables are pinned, if they are.
    pub(in crate::kernel) pins: Option<Pins>,
    /// Why they are not, if they should be.
    pub(in crate::kernel) unpinned: Option<String>,
}

/// Makes the tables. Needs CAP_BPF and CAP_NET_ADMIN. Programs are verified when they are first
/// attached: an interface needs two of the four, and where no cgroup can be watched its are not needed.
pub(in crate::kernel) fn load(options: &Options, tag: Tag) -> anyhow::Result<Loaded> {
    let limits = &options.limits;
    let flows = limits.flows.saturating_add(limits.stranger_flows);
    let streams = limits.streams.saturating_add(limits.stranger_streams);
    let buckets = table::buckets(streams);
    let proven = [limits.flows, limits.streams].map(|max| u64::from(shares::of_proven(max)));
    let maxima = [limits.flows, limits.streams, limits.stranger_flows, limits.stranger_streams]
        .map(u64::from);
    let [check_local, check_owned, jitter] =
        [!options.every_address, options.ports.is_none(), options.jitter].map(u32::from);
    let most_owned = [MOST_SOCKETS, MOST_CLAIMED].map(u64::from);
    let tag = u32::from(tag.number()) << TAG_SHIFT;
    let layout = Layout::of_kernel().unwrap_or_else(|| {
        tracing::debug!(
            "the kernel does not describe its types: a guest's large datagram is taken for several"
        );
        Layout::default()
    });

    let pins = options.pin.as_deref().map(|path| Pins::prepare(path, flows.max(1), buckets));
    let (pins, unpinned) = match pins.transpose() {
        Ok(pins) => (pins, None),
        Err(error) => (None, Some(format!("--pin: {error:#}"))),
    };
    let kept = pins.as_ref().and_then(Pins::seeds);
    let seeds = kept.map_or_else(random_seeds, Ok)?;
    let mut loader = EbpfLoader::new();
    if let Some(pins) = &pins {
        pins.tell(&mut loader);
    }
    loader
        .override_global("TAG", &tag, true)
        .override_global("SKB_HEAD", &layout.head, true)
        .override_global("SKB_END", &layout.end, true)
        .override_global("GSO_TYPE", &layout.gso_type, true)
        .override_global("CHECK_LOCAL", &check_local, true)
        .override_global("CHECK_OWNED", &check_owned, true)
        .override_global("MAX_VERIFIED", &most_owned[0], true)
        .override_global("MAX_CLAIMED", &most_owned[1], true)
        .override_global("JITTER", &jitter, true)
        .override_global("BUCKETS", &buckets, true)
        .override_global("SEEDS", &seeds, true)
        .override_global("MAX_FLOWS", &maxima[0], true)
        .override_global("MAX_STREAMS", &maxima[1], true)
        .override_global("MAX_PROVEN_FLOWS", &proven[0], true)
        .override_global("MAX_PROVEN_STREAMS", &proven[1], true)
        .override_global("MAX_STRANGERS", &maxima[2], true)
        .override_global("MAX_STRANGER_STREAMS", &maxima[3], true)
        .override_global("MAX_SSRCS", &limits.ssrcs_per_flow, true);
    for (table, entries) in [
        ("FLOWS_V4", flows),
        ("FLOWS_V6", flows),
        ("TAGS", buckets),
        ("STREAMS", buckets * WAYS as u32),
        ("TOLD_V4", limits.flows),
        ("TOLD_V6", limits.flows),
        ("LOCAL_V4", MAX_LOCAL),
        ("LOCAL_V6", MAX_LOCAL),
        ("OWNED_SOCKETS", MOST_SOCKETS + MOST_CLAIMED),
        ("OWNED_PORTS", MOST_ENDS),
    ] {
        loader.map_max_entries(table, entries.max(1));
    }
    let mut ebpf = loader.load(OBJECT).with_context(|| {
        let megabytes = u64::from(buckets) * BUCKET_BYTES / 1_000_000;
        format!("make the kernel's tables ({megabytes} MB for streams: see --max-streams)")
    })?;
    keep_seeds(&mut ebpf, seeds).context("write the table KEPT_SEEDS")?;
    verified(&mut ebpf, "tend")?;
    let tables = table_fds(&mut ebpf)?;
    let owned = owned_fds(&mut ebpf)?;
    let log = match EbpfLogger::init_with_logger(&mut ebpf, TracingLog) {
        Ok(log) => Some(log),
        Err(error) => {
            tracing::debug!("the kernel program's log: {error}");
            None
        }
    };
    Ok(Loaded { ebpf, tables, owned, log, pins, unpinned })
}

/// Numbers that nobody can guess, so that nobody can choose keys which meet in the table.
fn random_seeds() -> anyhow::Result<Seeds> {
    let mut bytes = [0; size_of::<Seeds>()];
    getrandom::fill(&mut bytes).context("draw random numbers")?;
    let (numbers, _) = bytes.as_chunks();
    Ok(std::array::from_fn(|at| u64::from_ne_bytes(numbers[at])))
}

/// Where whoever uses pinned tables again finds them.
fn keep_seeds(ebpf: &mut Ebpf, seeds: Seeds) -> anyhow::Result<()> {
    let map = ebpf.map_mut("KEPT_SEEDS").context("there is none")?;
    Ok(Array::<_, Seeds>::try_from(map)?.set(0, seeds, 0)?)
}

/// A program by name, loaded into the kernel.
pub(in crate::kernel) fn verified<'a>(
    ebpf: &'a mut Ebpf,
    name: &str,
) -> anyhow::Result<&'a mut SchedClassifier> {
    let program: &mut SchedClassifier = program(ebpf, name)?;
    if program.fd().is_err() {
        let loaded = program.load().map_err(without_log);
        loaded.with_context(|| format!("load the program {name}"))?;
    }
    Ok(program)
}

/// A program for cgroups by name, loaded into the kernel.
pub(in crate::kernel) fn cgroup_program<'a>(
    ebpf: &'a mut Ebpf,
    name: &str,
) -> anyhow::Result<&'a mut CgroupSock> {
    let program: &mut CgroupSock = program(ebpf, name)?;
    if program.fd().is_err() {
        let loaded = program.load().map_err(without_log);
        loaded.with_context(|| format!("load the program {name}"))?;
    }
    Ok(program)
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = ebpf.program_mut(name);
    let program = program.ok_or_else(|| anyhow!("the kernel object has no program {name}"))?;
    program.try_into().with_context(|| format!("the program {name}"))
}

/// The verifier's log has thousands of lines; they are for whoever asks for debug output.
fn without_log(error: ProgramError) -> anyhow::Error {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            tracing::debug!("{verifier_log}");
            anyhow::Error::new(io_error).context("refused by the kernel")
        }
        error => error.into(),
    }
}

fn table_fds(ebpf: &mut Ebpf) -> anyhow::Result<TableFds> {
    let tend = program_fd(ebpf, "tend")?;
    let table = |name| table_fd(ebpf, name);
    Ok(TableFds {
        flows: [table("FLOWS_V4")?, table("FLOWS_V6")?],
        tags: table("TAGS")?,
        streams: table("STREAMS")?,
        told: [table("TOLD_V4")?, table("TOLD_V6")?],
        greedy: [table("GREEDY_V4")?, table("GREEDY_V6")?],
        local: [table("LOCAL_V4")?, table("LOCAL_V6")?],
        events: table("EVENTS")?,
        occupancy: table("OCCUPANCY")?,
        tend,
    })
}

fn owned_fds(ebpf: &mut Ebpf) -> anyhow::Result<OwnedFds> {
    let ring = ebpf.take_map("BINDS").context("the kernel object has no table BINDS")?;
    Ok(OwnedFds {
        sockets: table_fd(ebpf, "OWNED_SOCKETS")?,
        ends: table_fd(ebpf, "OWNED_PORTS")?,
        processes: table_fd(ebpf, "SFU_PROCESSES")?,
        nobodies: table_fd(ebpf, "NOBODIES")?,
        undecided: table_fd(ebpf, "UNDECIDED")?,
        sums: table_fd(ebpf, "OWNERSHIP")?,
        own: program_fd(ebpf, "own")?,
        ring: RingBuf::try_from(ring).context("the table BINDS")?,
    })
}

fn program_fd(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<OwnedFd> {
    let program = verified(ebpf, name)?.fd()?.try_clone()?;
    Ok(program.as_fd().try_clone_to_owned()?)
}

fn table_fd(ebpf: &Ebpf, name: &str) -> anyhow::Result<OwnedFd> {
    let mut maps = ebpf.maps();
    let found = maps.find(|(found, _)| *found == name);
    let (_, map) = found.ok_or_else(|| anyhow!("the kernel object has no table {name}"))?;
    duplicate(map).with_context(|| format!("the table {name}"))
}

fn duplicate(map: &aya::maps::Map) -> anyhow::Result<OwnedFd> {
    use aya::maps::Map;
    let (Map::HashMap(data)
    | Map::LruHashMap(data)
    | Map::Array(data)
    | Map::PerCpuArray(data)
    | Map::LpmTrie(data)) = map
    else {
        return Err(anyhow!("is of another type than expected"));
    };
    Ok(data.fd().as_fd().try_clone_to_owned()?)
}

/// Hands the kernel program's log on to `tracing`, under the target `kernel_program`.
#[derive(Clone, Copy, Debug)]
pub(in crate::kernel) struct TracingLog;

impl log::Log for TracingLog {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let text = record.args();
        match record.level() {
            log::Level::Error => tracing::error!(target: "kernel_program", "{text}"),
            log::Level::Warn => tracing::warn!(target: "kernel_program", "{text}"),
            log::Level::Info => tracing::info!(target: "kernel_program", "{text}"),
            log::Level::Debug => tracing::debug!(target: "kernel_program", "{text}"),
            log::Level::Trace => tracing::trace!(target: "kernel_program", "{text}"),
        }
    }

    fn flush(&self) {}
}
