//! Removes what older versions left behind when they were killed: folders in `/tmp`, each with a socket
//! on which nobody listens any more. This version makes none.
//!
//! Works on descriptors only, and only on folders of the exporter's own user that look exactly as such
//! a folder does; others keep what they have.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::Context;
use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags};
use rustix::process::geteuid;

use super::place;

const PREFIX: &str = "mediasoup-exporter-";

/// Removes them from `folder`. That they stay does no harm, so that failing is said and no more.
pub(super) async fn remove(folder: &Path) {
    let Ok((folder_fd, names)) = list(folder) else { return };
    for name in names {
        let path = folder.join(&name);
        match remove_one(&folder_fd, &name).await {
            Ok(true) => tracing::info!("removed {path:?}, which an older exporter left behind"),
            Ok(false) => {}
            Err(error) => tracing::warn!(
                "an older exporter left {path:?} behind, which cannot be removed ({error:#}): remove it"
            ),
        }
    }
}

fn list(folder: &Path) -> io::Result<(OwnedFd, Vec<String>)> {
    let folder = fs::open(folder, LISTED, Mode::empty())?;
    let names = names_in(&folder)?.into_iter().filter(|name| is_leftover(name)).collect();
    Ok((folder, names))
}

const LISTED: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

fn names_in(folder: &OwnedFd) -> io::Result<Vec<String>> {
    let name = |name: &CStr| name.to_str().map(str::to_owned).ok();
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        // What has another name than text is none of ours.
        names.extend(name(entry?.file_name()).filter(|name| name != "." && name != ".."));
    }
    Ok(names)
}

fn is_leftover(name: &str) -> bool {
    name.strip_prefix(PREFIX).is_some_and(is_random)
}

/// 64 bits in hexadecimal digits.
fn is_random(name: &str) -> bool {
    name.len() == 16 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether it was one of ours, that nobody uses.
async fn remove_one(folder: &OwnedFd, name: &str) -> anyhow::Result<bool> {
    let Ok(left) = fs::openat(folder, name, LISTED | OFlags::NOFOLLOW, Mode::empty()) else {
        return Ok(false);
    };
    if !is_own(&left)? {
        return Ok(false);
    }
    // Only the owner can have put anything there.
    match names_in(&left)?.as_slice() {
        [] => {}
        [socket] if is_random(socket) => {
            let step = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = fs::openat(&left, socket, step, Mode::empty())?;
            let kind = FileType::from_raw_mode(fs::fstat(&opened)?.st_mode);
            if !kind.is_socket() || is_used(&opened).await {
                return Ok(false);
            }
            fs::unlinkat(&left, socket, AtFlags::empty()).context("remove the socket in it")?;
        }
        _ => return Ok(false),
    }
    fs::unlinkat(folder, name, AtFlags::REMOVEDIR).context("remove the folder")?;
    Ok(true)
}

fn is_own(file: impl AsFd) -> io::Result<bool> {
    Ok(fs::fstat(file)?.st_uid == geteuid().as_raw())
}

async fn is_used(socket: &OwnedFd) -> bool {
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    !place::connect_to(socket).await.is_err_and(refused)
}

#[cfg(test)]
mod tests {
    use std::fs::{create_dir, remove_dir_all, write};
    use std::os::unix::fs::{chown, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn only_what_looks_exactly_so_goes() {
        let folder = std::env::temp_dir().join(format!("mex-leftovers-{}", std::process::id()));
        create_dir(&folder).unwrap();
        let random = |digit: &str| digit.repeat(16);
        let make = |digit: &str| {
            let path = folder.join(format!("{PREFIX}{}", random(digit)));
            create_dir(&path).unwrap();
            path
        };
        // To go: with a socket whose listener is gone, and without one.
        drop(UnixListener::bind(make("a").join(random("0"))).unwrap());
        make("b");
        // To stay: in use, with other things in it, a file, links, other names.
        let used = UnixListener::bind(make("1").join(random("0"))).unwrap();
        write(make("2").join(random("0")), "").unwrap();
        let two = make("3");
        drop(UnixListener::bind(two.join(random("0"))).unwrap());
        drop(UnixListener::bind(two.join(random("1"))).unwrap());
        drop(UnixListener::bind(make("4").join("other")).unwrap());
        symlink(folder.join("kept"), make("5").join(random("0"))).unwrap();
        write(folder.join(format!("{PREFIX}{}", random("6"))), "").unwrap();
        create_dir(folder.join("kept")).unwrap();
        symlink("kept", folder.join(format!("{PREFIX}{}", random("7")))).unwrap();
        create_dir(folder.join(format!("{PREFIX}{}", random("A")))).unwrap();
        create_dir(folder.join(format!("{PREFIX}{}0", random("8")))).unwrap();
        create_dir(folder.join(format!("{PREFIX}agent-1.sock"))).unwrap();
        let mut stays = 11;
        let theirs = make("9");
        if chown(&theirs, Some(4242), None).is_ok() {
            stays += 1;
        } else {
            eprintln!("skipped: a folder of another user's takes root");
            std::fs::remove_dir(&theirs).unwrap();
        }
        remove(&folder).await;
        let left = std::fs::read_dir(&folder).unwrap().count();
        let gone = ["a", "b"].map(|digit| folder.join(format!("{PREFIX}{}", random(digit))));
        let went = gone.iter().all(|path| !path.exists());
        let whole = two.join(random("0")).exists() && two.join(random("1")).exists();
        remove_dir_all(&folder).unwrap();
        drop(used);
        assert!(went && whole);
        assert_eq!(left, stays);
    }
}
