//! Connects to sockets at paths that others may change. What was looked at is what is connected to:
//! every step is taken from a descriptor, and nothing is made, changed or removed.
//!
//! Which symbolic links are followed:
//!
//! - the socket itself is never one;
//! - on the way to it, those that root or the exporter's own user made. Whoever may make others could
//!   lead the exporter to any socket;
//! - none within another process' root, given as `/proc/PID/root/…`: everything there is strangers'.
//!   That root is also where `..` ends;
//! - none of `/proc`, but for that beginning.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    self, AtFlags, CWD, FileType, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, Stat,
};
use rustix::process::geteuid;
use tokio::net::UnixStream;

/// Links that are followed on one way, as many as the kernel follows.
const LINKS: usize = 40;

/// A descriptor that stands for a file, of whatever kind, and opens nothing.
const STEP: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Connects to the socket at `path`.
pub(super) async fn connect(path: &Path) -> io::Result<UnixStream> {
    let socket = open(path)?;
    connect_to(&socket).await
}

/// Connects to the socket that a descriptor stands for, wherever its path leads by now.
pub(super) async fn connect_to(socket: &OwnedFd) -> io::Result<UnixStream> {
    UnixStream::connect(format!("/proc/self/fd/{}", socket.as_raw_fd())).await
}

/// Whether there is a socket, rather than a link to one.
pub(super) fn is_socket(path: &Path) -> bool {
    fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| kind(&stat).is_socket())
}

/// Whether a path begins at another process' root.
pub(super) fn is_elsewhere(path: &Path) -> bool {
    other_root(path).is_some()
}

/// Whether a path begins at the root of a process that has one of its own, as in a container. The first process'
/// is the host's, which a service manager may keep from this one.
pub(super) fn is_in_container(path: &Path) -> bool {
    other_root(path).is_some_and(|(root, _)| root != Path::new("/proc/1/root"))
}

/// The user who owns the socket at `path`.
pub(super) fn owner(path: &Path) -> Option<u32> {
    let stat = fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    kind(&stat).is_socket().then_some(stat.st_uid)
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let socket = match other_root(path) {
        Some((root, rest)) => open_within(&root, &rest)?,
        None => walk(path)?,
    };
    match kind(&fs::fstat(&socket)?) {
        FileType::Socket => Ok(socket),
        FileType::Symlink => Err(refused("it is a symbolic link: give the socket's own path")),
        _ => Err(refused("it is no socket")),
    }
}

/// `/proc/PID/root` and the path below it.
fn other_root(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let mut parts = path.components();
    let first: PathBuf = parts.by_ref().take(4).collect();
    let pid = first.strip_prefix("/proc").ok()?.to_str()?.strip_suffix("/root")?;
    pid.bytes().all(|byte| byte.is_ascii_digit()).then(|| (first.clone(), parts.collect()))
}

fn open_within(root: &Path, path: &Path) -> io::Result<OwnedFd> {
    // The one link of the kernel's own that is followed.
    let root = fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    fs::openat2(&root, path, STEP, Mode::empty(), within).map_err(|error| match error {
        rustix::io::Errno::LOOP => {
            refused("a symbolic link leads there, and none is followed within another root")
        }
        error => error.into(),
    })
}

/// Goes a path step by step, as the kernel does, but for the links.
fn walk(path: &Path) -> io::Result<OwnedFd> {
    let mut at = start(path)?;
    let mut way = steps(path);
    let mut links = 0;
    while let Some(name) = way.pop() {
        let next = fs::openat(&at, &name, STEP, Mode::empty())?;
        let stat = fs::fstat(&next)?;
        if !kind(&stat).is_symlink() || way.is_empty() {
            at = next;
            continue;
        }
        links += 1;
        if links > LINKS {
            return Err(rustix::io::Errno::LOOP.into());
        }
        let target = follow(&next, &stat, &name)?;
        if target.is_absolute() {
            at = start(&target)?;
        }
        way.extend(steps(&target));
    }
    Ok(at)
}

/// Where a path begins.
fn start(path: &Path) -> io::Result<OwnedFd> {
    let start = if path.is_absolute() { "/" } else { "." };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(fs::open(start, flags, Mode::empty())?)
}

/// A path's steps, the first one last.
fn steps(path: &Path) -> Vec<OsString> {
    let name = |part: Component<'_>| match part {
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        Component::ParentDir | Component::Normal(_) => Some(part.as_os_str().to_owned()),
    };
    path.components().rev().filter_map(name).collect()
}

/// What a link says, where it is to be followed.
fn follow(link: &OwnedFd, stat: &Stat, name: &OsString) -> io::Result<PathBuf> {
    let name = name.display();
    // Many of these say something else than where they lead.
    if fs::fstatfs(link)?.f_type == PROC_SUPER_MAGIC {
        let rule = "a link of /proc is followed only at the beginning, as /proc/PID/root";
        return Err(refused(&format!("{name:?}: {rule}")));
    }
    if stat.st_uid != 0 && stat.st_uid != geteuid().as_raw() {
        let owner = stat.st_uid;
        return Err(refused(&format!(
            "{name:?} is a symbolic link of user {owner}'s, which may lead anywhere: give a path \
             without it"
        )));
    }
    let target = fs::readlinkat(link, "", Vec::new())?;
    Ok(OsString::from_vec(target.into_bytes()).into())
}

fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn refused(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{lchown, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;

    /// A folder of its own that goes with it, in it a folder `real` with a socket `s`.
    struct Scene(PathBuf, UnixListener);

    impl Scene {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("mex-{name}-{}", std::process::id()));
            std::fs::create_dir_all(folder.join("real")).unwrap();
            let listener = UnixListener::bind(folder.join("real/s")).unwrap();
            Self(folder, listener)
        }

        fn link(&self, target: &str, name: &str) {
            symlink(target, self.0.join(name)).unwrap();
        }

        fn try_open(&self, path: &str) -> Result<(), String> {
            open(&self.0.join(path)).map(drop).map_err(|error| error.to_string())
        }

        #[track_caller]
        fn refuses(&self, path: &str, why: &str) {
            let error = self.try_open(path).unwrap_err();
            assert!(error.contains(why), "{path}: {error}");
        }
    }

    impl Drop for Scene {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn own_links_lead_to_a_socket_which_is_none_itself() {
        let scene = Scene::new("place-links");
        scene.link("real", "relative");
        scene.link(scene.0.join("real").to_str().unwrap(), "absolute");
        scene.link("../relative", "real/back");
        scene.link("real/s", "link");
        scene.link("round", "round");
        for path in ["real/s", "real/../real/./s", "relative/s", "absolute/s", "real/back/s"] {
            assert_eq!(scene.try_open(path), Ok(()), "{path}");
        }
        scene.refuses("link", "it is a symbolic link");
        scene.refuses("real", "it is no socket");
        scene.refuses("round/s", "symbolic link");
        scene.refuses("absent/s", "No such file");
        assert!(is_socket(&scene.0.join("real/s")) && !is_socket(&scene.0.join("link")));
    }

    #[test]
    fn a_link_of_another_users_is_not_followed() {
        let scene = Scene::new("place-owner");
        scene.link("real", "theirs");
        if lchown(scene.0.join("theirs"), Some(4242), None).is_err() {
            eprintln!("skipped: giving a link to another user takes root");
            return;
        }
        scene.refuses("theirs/s", "user 4242's");
    }

    #[test]
    fn within_another_root_no_link_is_followed() {
        let scene = Scene::new("place-root");
        scene.link("real", "relative");
        scene.link("real/s", "link");
        let of = |process: &str, path: &str| {
            let path = scene.0.join(path);
            PathBuf::from(format!("/proc/{process}/root")).join(path.strip_prefix("/").unwrap())
        };
        let own = std::process::id().to_string();
        let check = |path: PathBuf, why: &str| {
            let error = open(&path).unwrap_err().to_string();
            assert!(error.contains(why), "{}: {error}", path.display());
        };
        assert!(open(&of(&own, "real/s")).is_ok());
        let above = PathBuf::from(format!("/proc/{own}/root/../../.."))
            .join(scene.0.join("real/s").strip_prefix("/").unwrap());
        assert!(open(&above).is_ok(), "`..` ends at the root");
        check(of(&own, "relative/s"), "none is followed within another root");
        check(of(&own, "link"), "it is a symbolic link");
        check(of(&own, "proc/self/root/tmp"), "No such file");
        check(of("self", "real/s"), "a link of /proc");
        check(format!("/proc/{own}/cwd/s").into(), "a link of /proc");
        check(format!("/proc/{own}/root/proc/{own}/root/tmp").into(), "none is followed");
        check(format!("/proc/{own}/root").into(), "No such file");
    }

    #[test]
    fn another_root_is_known_by_its_path() {
        let check = |path: &str, expected: Option<(&str, &str)>| {
            let expected = expected.map(|(root, rest)| (root.into(), rest.into()));
            assert_eq!(other_root(Path::new(path)), expected, "{path}");
        };
        check("/proc/12/root/tmp/s", Some(("/proc/12/root", "tmp/s")));
        check("//proc/./12//root/tmp/../s", Some(("/proc/12/root", "tmp/../s")));
        check("/proc/12/rooted/s", None);
        check("/proc/self/root/s", None);
        check("/proc/root/s", None);
        check("proc/12/root/s", None);
        check("/tmp/s", None);
    }

    #[tokio::test]
    async fn what_was_opened_is_what_is_connected_to() {
        let scene = Scene::new("place-swap");
        let socket = open(&scene.0.join("real/s")).unwrap();
        std::fs::remove_file(scene.0.join("real/s")).unwrap();
        let other = UnixListener::bind(scene.0.join("real/s")).unwrap();
        other.set_nonblocking(true).unwrap();
        connect_to(&socket).await.unwrap();
        assert!(scene.1.accept().is_ok());
        assert_eq!(other.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
