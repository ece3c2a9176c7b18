//! What exporters that ended left in the kernel: pinned tables and programs, and `clsact` filters.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context;

use super::attach::guard;
use super::ebpf::pin::{self, Pinned};
use crate::host::claim;

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Programs that were pinned where they ran.
    pub links: usize,
    /// Directories with tables.
    pub tables: usize,
    /// Filters in this network namespace.
    pub filters: usize,
}

/// Removes what is pinned in a directory, and the filters in this network namespace whose exporters are gone.
/// Fails where an exporter that runs uses the directory.
pub fn remove(directory: &Path) -> anyhow::Result<Removed> {
    let Pinned { links, tables } = pin::remove_all(directory)?;
    let alive = claim::living().context("look for exporters")?;
    let filters = guard::remove(|maker| !alive.contains(maker), &BTreeSet::new())?;
    Ok(Removed { links, tables, filters })
}

/// How many programs an exporter that ended left running, pinned in this directory. Zero where that cannot be
/// seen, or where the exporter runs.
pub fn count(directory: &Path) -> usize {
    pin::left(directory).unwrap_or_default()
}
