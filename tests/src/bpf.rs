//! What others may do to our programs in the kernel.

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Result, ensure};
use aya::programs::links::LinkInfo;
use aya::programs::loaded_links;

/// Detaches those of this process' links that are meant, as `bpftool link detach` does. Others' exporters may run on
/// this machine, whose links look the same.
pub fn detach_by_force(is_it: impl Fn(&LinkInfo) -> bool) -> Result<()> {
    let own = own_links()?;
    const LINK_GET_FD_BY_ID: libc::c_int = 30;
    const LINK_DETACH: libc::c_int = 34;
    let bpf = |command: libc::c_int, mut attributes: [u32; 4]| {
        let (at, length) = (attributes.as_mut_ptr(), size_of_val(&attributes));
        // SAFETY: the head of `union bpf_attr`, which lives through the call.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, at, length) };
        ensure!(result >= 0, "bpf({command}): {}", std::io::Error::last_os_error());
        Ok(result as i32)
    };
    for link in loaded_links() {
        let Ok(link) = link else { continue };
        if own.contains(&link.id()) && is_it(&link) {
            let fd = bpf(LINK_GET_FD_BY_ID, [link.id(), 0, 0, 0])?;
            // SAFETY: just opened, owned by nobody else.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            bpf(LINK_DETACH, [fd.as_raw_fd() as u32, 0, 0, 0])?;
        }
    }
    Ok(())
}

/// Ids of the links of which this process has a descriptor.
fn own_links() -> Result<BTreeSet<u32>> {
    let mut ids = BTreeSet::new();
    for entry in std::fs::read_dir("/proc/self/fdinfo")? {
        // The one that reads the folder is gone by now.
        let Ok(text) = std::fs::read_to_string(entry?.path()) else { continue };
        let id = text.lines().find_map(|line| line.strip_prefix("link_id:"));
        ids.extend(id.and_then(|id| id.trim().parse::<u32>().ok()));
    }
    Ok(ids)
}
