//! Has the kernel run the programs that see sockets being bound and closed, for every process of the host.
//!
//! They hang on the root of the cgroup hierarchy (version 2), by links that are held by descriptor, so that
//! they go with a crashed process, too, but where they are pinned. Others' programs there go on running.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use aya::Ebpf;
use aya::programs::links::FdLink;
use aya::programs::{CgroupAttachMode, CgroupSock};
use rustix::fs::{Mode, OFlags, openat};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use super::pinned::PinnedLinks;
use crate::host::procfs;
use crate::kernel::ebpf::{load, sys};

/// The programs and their hooks (`enum bpf_attach_type`). A socket that is closed before anybody sees it
/// bound is no loss, the other way round it is.
const PROGRAMS: [(&str, u32); 3] = [("released", 34), ("bound_v4", 12), ("bound_v6", 13)];

/// The programs; detached by being dropped.
#[derive(Debug)]
pub(in crate::kernel) struct Watch {
    cgroup: File,
    /// What to call it.
    root: PathBuf,
    /// Hooks, and the ids of what was attached there.
    attached: Vec<(u32, u32)>,
    links: Vec<(&'static str, FdLink)>,
}

impl Watch {
    /// Loads and attaches them.
    pub(in crate::kernel) fn start(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let (cgroup, root) = open_root()?;
        Self::on(cgroup, root, ebpf)
    }

    /// Attaches them again. The root is not looked for: this process may have lost the right to.
    pub(in crate::kernel) fn again(&self, ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let cgroup = self.cgroup.try_clone().context("duplicate a descriptor")?;
        Self::on(cgroup, self.root.clone(), ebpf)
    }

    fn on(cgroup: File, root: PathBuf, ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let shown = root.display();
        let (mut attached, mut links) = (Vec::new(), Vec::new());
        for (name, hook) in PROGRAMS {
            let program = load::cgroup_program(ebpf, name)?;
            attached.push((hook, program.info().context("ask for a program's id")?.id()));
            let link = attach(program, &cgroup);
            links.push((name, link.with_context(|| format!("attach {name} to {shown}"))?));
        }
        Ok(Self { cgroup, root, attached, links })
    }

    /// Pins them in the place of an earlier exporter's, which end: what is owned is known by now, and
    /// packets are counted by it.
    pub(in crate::kernel) fn pin(&mut self, pins: &PinnedLinks) -> anyhow::Result<()> {
        for (name, link) in std::mem::take(&mut self.links) {
            self.links.push((name, pins.keep(name, link)?));
        }
        Ok(())
    }

    /// What they are called where they are pinned.
    pub(in crate::kernel) fn names() -> impl Iterator<Item = String> {
        PROGRAMS.into_iter().map(|(name, _)| name.to_owned())
    }

    /// Whether all of them still hang there: whoever may attach may detach, others' too.
    pub(in crate::kernel) fn is_whole(&self) -> io::Result<bool> {
        for (hook, program) in &self.attached {
            if !sys::cgroup_programs(self.cgroup.as_fd(), *hook)?.contains(program) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn attach(program: &mut CgroupSock, cgroup: &File) -> anyhow::Result<FdLink> {
    // A link is always one of several; the kernel takes no flag for it.
    let link = program.attach(cgroup, CgroupAttachMode::Single)?;
    program.take_link(link)?.try_into().context("a link to a cgroup")
}

/// The hierarchy's root, and what to call it: as this process sees it, or as process 1 does, or mounted where nobody
/// else sees it. A mount namespace of one's own, such as `ip netns exec` makes, often has none.
fn open_root() -> anyhow::Result<(File, PathBuf)> {
    let mounts = fs::read_to_string("/proc/mounts").context("read /proc/mounts")?;
    let found = root(&mounts, Path::new("/")).or_else(|error| {
        let mounts = fs::read_to_string("/proc/1/mounts").unwrap_or_default();
        root(&mounts, Path::new("/proc/1/root")).map_err(|_| error)
    });
    match found {
        Ok(root) => {
            let opened = File::open(&root).with_context(|| format!("open {}", root.display()))?;
            Ok((opened, root))
        }
        Err(error) => mounted().map_or(Err(error), |root| Ok((root, "the cgroups' root".into()))),
    }
}

/// A mount that is at no path and goes with its descriptor (Linux 5.2). Takes CAP_SYS_ADMIN. `None`: it cannot be had,
/// or shows a part of the hierarchy only.
fn mounted() -> Option<File> {
    let system = fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC).ok()?;
    fsconfig_create(&system).ok()?;
    let quiet = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mount = fsmount(&system, FsMountFlags::FSMOUNT_CLOEXEC, quiet).ok()?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = File::from(openat(&mount, ".", flags, Mode::empty()).ok()?);
    is_root(&PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()))).then_some(root)
}

/// The root of the hierarchy, from /proc/mounts of whoever sees `base` as `/`. Where old and new hierarchies stand side by side, it is not
/// /sys/fs/cgroup; within a container it may be that of the container only, which is no root.
fn root(mounts: &str, base: &Path) -> anyhow::Result<PathBuf> {
    let within = |path: &str| base.join(path.trim_start_matches('/'));
    let mounted = procfs::mounted(mounts, "cgroup2").map(within);
    let (roots, others): (Vec<PathBuf>, Vec<PathBuf>) =
        mounted.partition(|path| is_root(path.as_path()));
    roots.into_iter().next().ok_or_else(|| match others.first() {
        Some(path) => anyhow!(
            "{} shows a part of the host's cgroups only: give the container the host's (`--cgroupns \
             host`)",
            path.display()
        ),
        None => anyhow!(
            "no cgroup hierarchy of version 2 is mounted here: `mount -t cgroup2 none DIRECTORY` mounts \
             it, in the exporter's mount namespace"
        ),
    })
}

/// Only the root has no events (Documentation/admin-guide/cgroup-v2.rst, `cgroup.events`).
fn is_root(path: &Path) -> bool {
    path.join("cgroup.procs").exists() && !path.join("cgroup.events").exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_is_found_wherever_it_is() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                      cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\nshort";
        let found: Vec<&str> = procfs::mounted(mounts, "cgroup2").collect();
        assert_eq!(found, ["/sys/fs/cgroup/unified"]);
        let refusal =
            root("cgroup2 /nowhere cgroup2 rw 0 0", Path::new("/")).unwrap_err().to_string();
        assert!(refusal.contains("/nowhere") && refusal.contains("--cgroupns"), "{refusal}");
        assert!(root("", Path::new("/")).is_err());
    }
}
