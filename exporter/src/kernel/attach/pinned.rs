//! Pinned links: programs that go on running where they are while no exporter does, and whose places the
//! next one's programs take.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::sync::Arc;

use anyhow::Context;
use aya::programs::links::{FdLink, PinnedLink};

use crate::kernel::ebpf::directory::{Directory, remove_if_there};

/// What a link is called until it takes the place of the one before. No name of a file on a bpffs has a dot.
const NEW: &str = "-new";

/// Where links are pinned, if they are.
#[derive(Clone, Debug, Default)]
pub(in crate::kernel) struct PinnedLinks(Option<Arc<Directory>>);

impl PinnedLinks {
    pub(in crate::kernel) fn new(directory: Option<Arc<Directory>>) -> Self {
        Self(directory)
    }

    /// Whether programs are to stay when the exporter ends.
    pub(in crate::kernel) fn are_pinned(&self) -> bool {
        self.0.is_some()
    }

    /// The link of that name that an earlier exporter left. It stays pinned.
    pub(super) fn left(&self, name: &str) -> Option<FdLink> {
        let path = self.0.as_ref()?.path(name);
        if !path.exists() {
            return None;
        }
        match PinnedLink::from_pin(&path) {
            Ok(link) => Some(link.into()),
            Err(error) => {
                tracing::warn!("the pinned link {name} cannot be used: {error}");
                self.forget(name);
                None
            }
        }
    }

    /// Pins a link, in the place of the one of that name, which then ends.
    pub(super) fn keep(&self, name: &str, link: FdLink) -> anyhow::Result<FdLink> {
        let Some(directory) = &self.0 else { return Ok(link) };
        let (new, path) = (directory.path(&format!("{name}{NEW}")), directory.path(name));
        remove_if_there(&new).context("remove a pinned link")?;
        let link = link.pin(&new).with_context(|| format!("pin the link {name}"))?;
        fs::rename(&new, &path).with_context(|| format!("pin the link {name}"))?;
        Ok(link.into())
    }

    /// Takes a name's pin away; the link ends with its last descriptor.
    pub(super) fn forget(&self, name: &str) {
        let Some(directory) = &self.0 else { return };
        if let Err(error) = remove_if_there(&directory.path(name)) {
            tracing::warn!("remove the pinned link {name}: {error}");
        }
    }

    /// Takes all pins away but these: of interfaces that are gone, and of programs that no longer are.
    pub(super) fn forget_all_but(&self, names: &BTreeSet<String>) -> io::Result<()> {
        let Some(directory) = &self.0 else { return Ok(()) };
        for name in directory.names()?.into_iter().filter(|name| !names.contains(name)) {
            tracing::debug!("removing the pinned link {name}");
            self.forget(&name);
        }
        Ok(())
    }
}
