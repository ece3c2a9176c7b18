//! Keeps the counting tables in a bpffs, so that counters outlive a restart of the exporter.
//!
//! Tables are used again only if all of them have the layout and the sizes that are asked for; else
//! they are all made anew, because flows, streams and their occupancy belong together.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use aya::EbpfLoader;
use aya::maps::{Array, Map, MapData, MapInfo};
use exporter_ebpf::abi::{
    Counter, DIRECTIONS, EVENTS, FlowKeyV4, FlowKeyV6, FlowValue, LAYOUT_VERSION, OCCUPANCIES,
    StreamSlot,
};
use exporter_ebpf::table::{Bucket, LOCKS, SEEDS, WAYS};

/// `f_type` of a bpffs (include/uapi/linux/magic.h).
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// What the hash of the table of streams is keyed with.
pub(in crate::kernel) type Seeds = [u64; SEEDS];
/// The table that keeps them.
const KEPT_SEEDS: &str = "KEPT_SEEDS";

/// What a table must be like to be used again.
struct Shape {
    name: &'static str,
    key: usize,
    value: usize,
    entries: u32,
}

/// Where the pinned tables are.
pub(in crate::kernel) struct Pins {
    directory: PathBuf,
    shapes: Vec<Shape>,
    /// Locked as long as this lives: two exporters would each give the other's entries up.
    _lock: File,
}

/// What the directories of all layouts' tables are called, before the layout's number.
const DIRECTORY: &str = "mediasoup-exporter-";

impl Pins {
    /// Prepares a directory below `parent`, which must be on a bpffs. Removes tables there that do
    /// not fit.
    pub(in crate::kernel) fn prepare(
        parent: &Path,
        flows: u32,
        buckets: u32,
    ) -> anyhow::Result<Self> {
        let shown = parent.display();
        fs::create_dir_all(parent).with_context(|| format!("make the directory {shown}"))?;
        if !is_bpffs(parent).with_context(|| format!("look at {shown}"))? {
            bail!("{shown} is not on a bpf file system: `mount -t bpf bpf {shown}` makes one");
        }
        let lock = lock(parent)?;
        let directory = parent.join(format!("{DIRECTORY}{LAYOUT_VERSION}"));
        remove_others(parent, &directory).context("remove pinned tables of another layout")?;
        fs::create_dir_all(&directory)
            .with_context(|| format!("make the directory {}", directory.display()))?;
        let pins = Self { directory, shapes: shapes(flows, buckets), _lock: lock };
        if !pins.fit() {
            pins.remove().context("remove pinned tables that do not fit")?;
        }
        Ok(pins)
    }

    /// Has the loader use the pinned tables, or pin those that it makes.
    pub(in crate::kernel) fn tell<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        for shape in &self.shapes {
            loader.map_pin_path(shape.name, self.directory.join(shape.name));
        }
    }

    /// What the pinned table of streams was made with; `None` when there is none yet.
    pub(in crate::kernel) fn seeds(&self) -> anyhow::Result<Option<Seeds>> {
        let path = self.directory.join(KEPT_SEEDS);
        if !path.exists() {
            return Ok(None);
        }
        let read = || -> anyhow::Result<Seeds> {
            let map = Array::<_, Seeds>::try_from(Map::Array(MapData::from_pin(&path)?))?;
            Ok(map.get(&0, 0)?)
        };
        let seeds = read().with_context(|| format!("read {}", path.display()))?;
        // Who made the tables ended before it wrote them, and before it counted.
        Ok(Some(seeds).filter(|seeds| *seeds != Seeds::default()))
    }

    /// All are there with the right shape, or none is.
    fn fit(&self) -> bool {
        let found: Vec<bool> = self.shapes.iter().map(|shape| self.fits(shape)).collect();
        let all = found.iter().all(|&fits| fits);
        let there = self.shapes.iter().filter(|shape| self.path(shape).exists()).count();
        if there > 0 && !all {
            tracing::warn!(
                "the tables in {} do not fit this version or its limits: counting begins anew",
                self.directory.display()
            );
        }
        all || there == 0
    }

    fn fits(&self, shape: &Shape) -> bool {
        let Ok(info) = MapInfo::from_pin(self.path(shape)) else { return false };
        info.key_size() as usize == shape.key
            && info.value_size() as usize == shape.value
            && info.max_entries() == shape.entries
    }

    fn remove(&self) -> io::Result<()> {
        for shape in &self.shapes {
            match fs::remove_file(self.path(shape)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn path(&self, shape: &Shape) -> PathBuf {
        self.directory.join(shape.name)
    }
}

fn lock(directory: &Path) -> anyhow::Result<File> {
    let shown = directory.display();
    let lock = File::open(directory).with_context(|| format!("open {shown}"))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => bail!("another exporter uses the tables in {shown}"),
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {shown}")),
    }
}

/// Nobody will use these again, and they hold memory.
fn remove_others(parent: &Path, ours: &Path) -> io::Result<()> {
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let is_one = entry.file_name().to_str().is_some_and(|it| it.starts_with(DIRECTORY));
        if is_one && entry.path() != ours {
            tracing::info!("removing the tables in {}", entry.path().display());
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn shapes(flows: u32, buckets: u32) -> Vec<Shape> {
    let flow = size_of::<FlowValue>();
    let index = size_of::<u32>();
    let shape = |name, key, value, entries| Shape { name, key, value, entries };
    let events = (EVENTS * DIRECTIONS) as u32;
    vec![
        shape("FLOWS_V4", size_of::<FlowKeyV4>(), flow, flows),
        shape("FLOWS_V6", size_of::<FlowKeyV6>(), flow, flows),
        shape("TAGS", index, size_of::<Bucket>(), buckets),
        shape("STREAMS", index, size_of::<StreamSlot>(), buckets * WAYS as u32),
        shape("LOCKS", index, size_of::<u32>(), LOCKS),
        shape(KEPT_SEEDS, index, size_of::<Seeds>(), 1),
        shape("EVENTS", index, size_of::<Counter>(), events),
        shape("OCCUPANCY", index, size_of::<u64>(), OCCUPANCIES as u32),
    ]
}

fn is_bpffs(path: &Path) -> io::Result<bool> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: all bytes zero are a valid struct statfs.
    let mut told: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends with a zero byte, and the kernel writes one struct to a live reference.
    if unsafe { libc::statfs(path.as_ptr(), &raw mut told) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(told.f_type as u64 == BPF_FS_MAGIC)
}
