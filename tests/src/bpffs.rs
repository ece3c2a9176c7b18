//! A bpffs of a test's own, to pin in.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

use crate::process::TempDir;

/// Unmounted when dropped; what is pinned there goes with it.
#[derive(Debug)]
pub struct BpfFs(TempDir);

impl BpfFs {
    /// Mounts one. Needs root.
    pub fn mount() -> Result<Self> {
        let folder = TempDir::new("bpffs")?;
        let mounted =
            Command::new("mount").args(["-t", "bpf", "bpf"]).arg(folder.path()).status()?;
        ensure!(mounted.success(), "mount a bpffs at {}", folder.path().display());
        Ok(Self(folder))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}
