//! A local user who has no rights but can make sockets where servers have theirs: whatever is swapped
//! for whatever while the exporter looks, it reaches no socket that only root may reach, and changes
//! nothing at all.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use caps::{CapSet, Capability};
use exporter_tests::observer_watch::{Watch, options};
use exporter_tests::process::{Guard, TempDir};
use exporter_tests::{root_or_skip, skip, wait};
use mediasoup_exporter::observer::Options;

const STRANGER: u32 = 4242;

/// Attempts of the exporter's, each of which the stranger may win.
const ROUNDS: u64 = 1000;

/// What the systemd unit leaves to root.
const UNIT: [Capability; 6] = [
    Capability::CAP_BPF,
    Capability::CAP_NET_ADMIN,
    Capability::CAP_PERFMON,
    Capability::CAP_NET_RAW,
    Capability::CAP_SYS_PTRACE,
    Capability::CAP_DAC_OVERRIDE,
];

#[test]
fn a_socket_that_is_swapped_gains_nothing_from_root() -> Result<()> {
    attack("name", false)
}

#[test]
fn a_socket_that_is_swapped_gains_nothing_from_the_unit() -> Result<()> {
    attack("name", true)
}

#[test]
fn a_socket_whose_folder_is_swapped_gains_nothing_from_root() -> Result<()> {
    attack("folder", false)
}

#[test]
fn a_socket_whose_folder_is_swapped_gains_nothing_from_the_unit() -> Result<()> {
    attack("folder", true)
}

fn attack(how: &str, as_unit: bool) -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let folder = TempDir::new("attack")?;
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
    let vault = Vault::make(&folder.path().join("vault"))?;
    let before = vault.snapshot()?;
    let place = folder.path().join("place");
    DirBuilder::new().create(&place)?;
    // Named, because otherwise a stranger is not even connected to.
    let socket = match how {
        // As /tmp is.
        "name" => {
            fs::set_permissions(&place, Permissions::from_mode(0o1777))?;
            place.join("edumeet-server.sock")
        }
        _ => {
            chown(&place, Some(STRANGER), Some(STRANGER))?;
            place.join("inner/console.sock")
        }
    };
    let Some(mut stranger) = start(how, &place, &vault.path)? else { return Ok(()) };
    let hasty = Options {
        look: Duration::from_millis(1),
        retry: (Duration::from_micros(1), Duration::from_micros(1)),
        ..options(&[socket])
    };
    let watch = watch(hasty, as_unit)?;
    let mut links = false;
    wait::until("both of what is swapped is met, and all rounds are over", wait::LONG, || {
        ensure!(!vault.is_visited(), "the exporter came to a socket that only root may reach");
        let Some(status) = watch.status() else { return Ok(None) };
        links |= status.error.is_some_and(|error| error.contains("symbolic link"));
        let tally = status.tally;
        Ok((links && tally.meetings > 0 && tally.attempts >= ROUNDS).then_some(()))
    })?;
    stranger.alive()?;
    watch.stop()?;
    assert!(!vault.is_visited());
    assert_eq!(vault.snapshot()?, before);
    let made: Vec<PathBuf> = entries(&place)?;
    let strangers = ["real.sock", "swap", "edumeet-server.sock", "inner", "away"];
    assert!(made.iter().all(|path| strangers.iter().any(|name| path.ends_with(name))), "{made:?}");
    Ok(())
}

/// The stranger, in a user namespace and with a file system of its own where it may have them.
fn start(how: &str, place: &Path, vault: &Path) -> Result<Option<Guard>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("observer/attacker.js");
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-root-user", "--mount"]).uid(STRANGER).gid(STRANGER);
    let allowed = unshare.arg("true").output().is_ok_and(|output| output.status.success());
    let mut command = Command::new(if allowed { "unshare" } else { "node" });
    if allowed {
        command.args(["--user", "--map-root-user", "--mount", "node"]);
    }
    command.arg(&script).arg(how).arg(place).arg(vault).uid(STRANGER).gid(STRANGER);
    let mut stranger = Guard::spawn("a stranger", command)?;
    stranger.log_stdout();
    let ready = wait::until("the stranger is ready", wait::LONG, || {
        stranger.alive()?;
        Ok(stranger.log().contains("ready").then_some(()))
    });
    if ready.is_err() && fs::read_dir(place)?.next().is_none() {
        skip("another user cannot run Node.js with this checkout");
        return Ok(None);
    }
    ready.map(|()| Some(stranger))
}

fn watch(options: Options, as_unit: bool) -> Result<Watch> {
    let start = move || {
        if as_unit {
            let rights = UNIT.into_iter().collect();
            caps::set(None, CapSet::Effective, &rights)?;
            caps::set(None, CapSet::Permitted, &rights)?;
        }
        Watch::start(options)
    };
    // Capabilities are a thread's, and threads that it starts inherit them.
    thread::spawn(start).join().ok().context("a thread panicked")?
}

/// A folder that only root may enter, with a socket and a file in it.
struct Vault {
    path: PathBuf,
    socket: UnixListener,
}

impl Vault {
    fn make(path: &Path) -> Result<Self> {
        DirBuilder::new().mode(0o700).create(path)?;
        fs::write(path.join("file"), "a secret")?;
        let socket = UnixListener::bind(path.join("console.sock"))?;
        socket.set_nonblocking(true)?;
        for name in ["file", "console.sock"] {
            fs::set_permissions(path.join(name), Permissions::from_mode(0o600))?;
        }
        Ok(Self { path: path.to_owned(), socket })
    }

    /// Whether somebody came to its socket.
    fn is_visited(&self) -> bool {
        self.socket.accept().is_ok()
    }

    /// What there is.
    fn snapshot(&self) -> Result<BTreeMap<PathBuf, Facts>> {
        let mut files = entries(&self.path)?;
        files.push(self.path.clone());
        files.into_iter().map(|path| Ok((path.clone(), Facts::of(&path)?))).collect()
    }
}

/// What somebody could have changed of a file.
#[derive(Debug, PartialEq)]
struct Facts {
    inode: u64,
    mode: u32,
    owner: (u32, u32),
    changed: (i64, i64),
    content: String,
}

impl Facts {
    fn of(path: &Path) -> Result<Self> {
        let meta = fs::symlink_metadata(path)?;
        let content = if meta.is_file() { fs::read_to_string(path)? } else { String::new() };
        Ok(Self {
            inode: meta.ino(),
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            changed: (meta.ctime(), meta.ctime_nsec()),
            content,
        })
    }
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect()
}
