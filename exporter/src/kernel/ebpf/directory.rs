//! Directories of our own on a bpffs. What is pinned there decides what this process counts with, so nobody
//! else may put anything in, and they are used by descriptor only.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// `f_type` of a bpffs (include/uapi/linux/magic.h).
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
/// Where one usually is.
const USUAL: &str = "/sys/fs/bpf";
/// `f_type` of file systems that keep what users put there: ext4, XFS, Btrfs, tmpfs, overlayfs, F2FS, ZFS, bcachefs
/// (include/uapi/linux/magic.h, and the last two projects' sources).
const ON_DISK_OR_MEMORY: [u64; 8] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0x0102_1994,
    0x794c_7630,
    0xf2f5_2010,
    0x2fc1_2fc1,
    0xca45_1a4e,
];
/// Who may use what is made here: this user.
const OWN: u32 = 0o700;
const WRITABLE_BY_OTHERS: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// An open directory.
#[derive(Debug)]
pub(in crate::kernel) struct Directory(File);

impl Directory {
    /// The directory that the operator named, on a bpffs; made where it is missing. Somebody else's
    /// becomes this user's.
    pub(super) fn named(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        // A folder that is made elsewhere would stay there.
        if !may_be_on_bpffs(path) {
            bail!("{shown} is not on a bpf file system: {}", mounting(path));
        }
        let made = DirBuilder::new().recursive(true).mode(OWN).create(path);
        made.with_context(|| format!("make the directory {shown}"))?;
        let opened = Self::open(path).with_context(|| format!("open the directory {shown}"))?;
        if !is_on_bpffs(&opened.path("")).with_context(|| format!("look at {shown}"))? {
            bail!("{shown} is not on a bpf file system: {}", mounting(path));
        }
        opened.seize(path)?;
        Ok(opened)
    }

    /// A directory within, of this user's alone, made where it is missing. What somebody else has put in
    /// its place is removed.
    pub(super) fn child(&self, name: &str) -> anyhow::Result<Self> {
        let path = self.path(name);
        match fs::symlink_metadata(&path) {
            Ok(found) if found.is_dir() && is_own(&found) => {}
            Ok(found) => {
                let uid = found.uid();
                tracing::warn!("removing what user {uid} has put in the place of {name}");
                // Symbolic links are not followed.
                let removed =
                    if found.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
                removed.with_context(|| format!("remove {name}"))?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("look at {name}")),
        }
        match DirBuilder::new().mode(OWN).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(error).with_context(|| format!("make the directory {name}"));
            }
            _ => {}
        }
        let child = Self::open(&path).with_context(|| format!("open the directory {name}"))?;
        if !is_own(&child.0.metadata()?) {
            bail!("another user has just made the directory {name}");
        }
        Ok(child)
    }

    /// What is there, whoever owns it, to be looked at or taken away: the unit's exporter runs as a user of its
    /// own, and whose lock this is, is what has to be known.
    pub(super) fn as_it_is(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let opened = Self::open(path).with_context(|| format!("open the directory {shown}"))?;
        match is_on_bpffs(&opened.path("")).with_context(|| format!("look at {shown}"))? {
            true => Ok(opened),
            false => bail!("{shown} is not on a bpf file system: nothing is pinned there"),
        }
    }

    /// Where something within is. The path leads through the descriptor, whatever the directory is called
    /// by now.
    pub(in crate::kernel) fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.0.as_raw_fd()))
    }

    /// The names of what is within.
    pub(in crate::kernel) fn names(&self) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(self.path(""))?;
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    /// For as long as this lives. False: somebody else has it.
    pub(super) fn lock(&self) -> io::Result<bool> {
        match self.0.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn open(path: &Path) -> io::Result<Self> {
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
        Ok(Self(OpenOptions::new().read(true).custom_flags(flags).open(path)?))
    }

    /// Whoever owns the directory can take away what is in it, and put something else there.
    fn seize(&self, path: &Path) -> anyhow::Result<()> {
        let (found, shown) = (self.0.metadata()?, path.display());
        let (owner, own) = (found.uid(), own_uid());
        if owner != own && owner != 0 {
            tracing::warn!("{shown} belonged to user {owner}: it is user {own}'s now");
            std::os::unix::fs::fchown(&self.0, Some(own), None)
                .and_then(|()| self.0.set_permissions(fs::Permissions::from_mode(OWN)))
                .with_context(|| format!("take {shown} over from user {owner}"))?;
        } else if found.mode() & WRITABLE_BY_OTHERS != 0 && found.mode() & STICKY == 0 {
            bail!("other users may write to {shown}: `chmod go-w {shown}`");
        }
        Ok(())
    }
}

/// Whether a path is on a bpffs, or would be when it is made: the nearest folder that is there tells.
pub fn may_be_on_bpffs(path: &Path) -> bool {
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    is_on_bpffs(there).unwrap_or(false)
}

/// The command after which a path is on a bpffs. What is in a folder that is mounted over is seen no more, so only an
/// empty one will do, and none of those in which the kernel or devices show themselves.
fn mounting(path: &Path) -> String {
    let usual = Path::new(USUAL);
    if path.starts_with(usual) {
        return format!("`mount -t bpf bpf {USUAL}` makes one");
    }
    if !may_be_mounted_over(path) {
        let there = is_on_bpffs(usual).unwrap_or(false);
        let mount = if there { "" } else { ", where `mount -t bpf bpf /sys/fs/bpf` makes one" };
        return format!("give a folder in {USUAL}{mount}");
    }
    let (make, shown) = (if path.exists() { "" } else { "mkdir -p DIR && " }, path.display());
    format!("`{}mount -t bpf bpf {shown}` makes one", make.replace("DIR", &shown.to_string()))
}

/// A folder that is empty or yet to be made, where files are kept.
fn may_be_mounted_over(path: &Path) -> bool {
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let is_kept = rustix::fs::statfs(there)
        .is_ok_and(|found| ON_DISK_OR_MEMORY.contains(&(found.f_type as u64)));
    let is_free =
        there != path || fs::read_dir(path).is_ok_and(|mut within| within.next().is_none());
    path.is_absolute() && is_kept && is_free && there.is_dir() && !path.starts_with("/dev")
}

/// Whether a path is on a bpffs.
fn is_on_bpffs(path: &Path) -> io::Result<bool> {
    Ok(rustix::fs::statfs(path)?.f_type as u64 == BPF_FS_MAGIC)
}

/// Removes a file, unless it is gone already.
pub(in crate::kernel) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn is_own(found: &fs::Metadata) -> bool {
    found.uid() == own_uid() && found.mode() & WRITABLE_BY_OTHERS == 0
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_made_outside_of_a_bpffs_and_the_remedy_is_named() {
        let within = std::env::temp_dir().join(format!("no-bpffs-{}", std::process::id()));
        let path = within.join("b");
        let said = format!("{:#}", Directory::named(&path).unwrap_err());
        let shown = path.display();
        assert!(
            said.contains(&format!("`mkdir -p {shown} && mount -t bpf bpf {shown}`")),
            "{said}"
        );
        assert!(!within.exists());
        assert_eq!(
            mounting(Path::new("/sys/fs/bpf/x")),
            "`mount -t bpf bpf /sys/fs/bpf` makes one"
        );
    }

    #[test]
    fn nobody_is_told_to_mount_over_what_is_in_use() {
        for path in
            ["/proc", "/proc/self", "/sys", "/sys/kernel/x", "/dev", "/dev/x", "/", "/etc", "x"]
        {
            let said = mounting(Path::new(path));
            assert!(said.starts_with("give a folder in /sys/fs/bpf"), "{path}: {said}");
            assert!(!said.contains(&format!("bpf {path}`")), "{path}: {said}");
        }
    }
}
