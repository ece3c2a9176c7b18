//! Keeps the counting tables in a bpffs, so that counters outlive a restart of the exporter, and has the
//! directory where programs' links are kept beside them, so that counting does.
//!
//! Tables are used again only if all of them have the layout and the sizes that are asked for; else
//! they are all made anew, because flows, streams and their occupancy belong together.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use aya::EbpfLoader;
use aya::maps::{Array, Map, MapData, MapInfo};
use exporter_ebpf::abi::{
    Counter, DIRECTIONS, EVENTS, FlowKeyV4, FlowKeyV6, FlowValue, LAYOUT_VERSION, OCCUPANCIES,
    StreamSlot,
};
use exporter_ebpf::table::{Bucket, LOCKS, SEEDS, WAYS};

use super::directory::{Directory, remove_if_there};

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

/// Where the pinned tables and links are.
pub(in crate::kernel) struct Pins {
    /// As the operator named it.
    shown: String,
    tables: Directory,
    shapes: Vec<Shape>,
    seeds: Option<Seeds>,
    /// Locked as long as this lives: two exporters would each give the other's entries up.
    links: Arc<Directory>,
}

/// What all directories of ours are called, before the tables' layout or a word.
const DIRECTORY: &str = "mediasoup-exporter-";
/// Links outlive a change of the layout: new programs take the places of old ones.
const LINKS: &str = "mediasoup-exporter-links";

impl Pins {
    /// Prepares directories below `parent`, which must be on a bpffs. Removes tables there that do
    /// not fit.
    pub(in crate::kernel) fn prepare(
        parent: &Path,
        flows: u32,
        buckets: u32,
    ) -> anyhow::Result<Self> {
        let shown = parent.display().to_string();
        let named = Directory::named(parent)?;
        let links = locked_links(&named, &shown)?;
        let ours = format!("{DIRECTORY}{LAYOUT_VERSION}");
        remove_others(&named, &ours).context("remove pinned tables of another version")?;
        let tables = named.child(&ours)?;
        let (shapes, links) = (shapes(flows, buckets), links.into());
        let mut pins = Self { shown, tables, shapes, seeds: None, links };
        if !pins.fit() {
            pins.remove().context("remove pinned tables that do not fit")?;
        }
        pins.seeds = pins.read_seeds()?;
        Ok(pins)
    }

    /// Where links are pinned.
    pub(in crate::kernel) fn links(&self) -> Arc<Directory> {
        self.links.clone()
    }

    /// Has the loader use the pinned tables, or pin those that it makes.
    pub(in crate::kernel) fn tell<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        for shape in &self.shapes {
            loader.map_pin_path(shape.name, self.path(shape));
        }
    }

    /// What the pinned table of streams was made with; `None` when there is none yet.
    pub(in crate::kernel) fn seeds(&self) -> Option<Seeds> {
        self.seeds
    }

    fn read_seeds(&self) -> anyhow::Result<Option<Seeds>> {
        let path = self.tables.path(KEPT_SEEDS);
        if !path.exists() {
            return Ok(None);
        }
        let read = || -> anyhow::Result<Seeds> {
            let map = Array::<_, Seeds>::try_from(Map::Array(MapData::from_pin(&path)?))?;
            Ok(map.get(&0, 0)?)
        };
        let seeds = read().with_context(|| format!("read {KEPT_SEEDS}"))?;
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
                self.shown
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
            remove_if_there(&self.path(shape))?;
        }
        Ok(())
    }

    fn path(&self, shape: &Shape) -> PathBuf {
        self.tables.path(shape.name)
    }
}

/// What was pinned in a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::kernel) struct Pinned {
    /// Links.
    pub(in crate::kernel) links: usize,
    /// Directories with tables.
    pub(in crate::kernel) tables: usize,
}

/// Removes everything of ours from a directory that no exporter uses.
pub(in crate::kernel) fn remove_all(parent: &Path) -> anyhow::Result<Pinned> {
    let mut pinned = Pinned::default();
    if !parent.exists() {
        return Ok(pinned);
    }
    let shown = parent.display().to_string();
    let named = Directory::as_it_is(parent)?;
    let within = named.path(LINKS);
    let links = within.exists().then(|| Directory::as_it_is(&within)).transpose()?;
    if let Some(links) = &links
        && !links.lock().with_context(|| format!("lock {shown}"))?
    {
        bail!("another exporter uses what is pinned in {shown}: end it first");
    }
    pinned.links = links
        .as_ref()
        .map_or(Ok(0), |links| links.names().map(|names| names.len()))
        .with_context(|| format!("read {shown}"))?;
    for name in named.names().with_context(|| format!("read {shown}"))? {
        if name.starts_with(DIRECTORY) {
            pinned.tables += usize::from(name != LINKS);
            fs::remove_dir_all(named.path(&name))
                .with_context(|| format!("remove {name} in {shown}"))?;
        }
    }
    Ok(pinned)
}

/// How many links are pinned in a directory that no exporter uses.
pub(in crate::kernel) fn left(parent: &Path) -> anyhow::Result<usize> {
    if !parent.join(LINKS).exists() {
        return Ok(0);
    }
    let links = Directory::as_it_is(&parent.join(LINKS))?;
    Ok(if links.lock()? { links.names()?.len() } else { 0 })
}

fn locked_links(named: &Directory, shown: &str) -> anyhow::Result<Directory> {
    let links = named.child(LINKS)?;
    match links.lock().with_context(|| format!("lock {shown}"))? {
        true => Ok(links),
        false => bail!(
            "another exporter uses the tables in {shown}: end it first, or give --pin another directory"
        ),
    }
}

/// Nobody will use these again, and they hold memory.
fn remove_others(named: &Directory, ours: &str) -> io::Result<()> {
    for name in named.names()? {
        if name.starts_with(DIRECTORY) && name != ours && name != LINKS {
            tracing::warn!("{name} has the tables of another version: counting begins anew");
            fs::remove_dir_all(named.path(&name))?;
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
