//! Network namespaces for tests: made under names of their own, removed on drop, also when a test
//! panics. Touches only what it made.

use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, bail};

/// A named network namespace with `lo` up.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// A fresh namespace, called `mex-PREFIX-PID-N`. Needs root and iproute2.
    pub fn new(prefix: &str) -> anyhow::Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("mex-{prefix}-{}-{number}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let made = Self { name };
        made.ip("link set lo up")?;
        Ok(made)
    }

    /// Its name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that `setns` takes.
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// Runs `ip` inside, with its arguments as one line: `netns.ip("link set eth0 up")`.
    pub fn ip(&self, arguments: &str) -> anyhow::Result<()> {
        let words = arguments.split_whitespace();
        run(Command::new("ip").args(["-n", &self.name]).args(words))
    }

    /// A command that will run inside.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let path = self.path();
        // SAFETY: between fork and exec only `open` and `setns` are called, on a path allocated
        // before; both are async-signal-safe system calls.
        unsafe {
            command.pre_exec(move || enter(&path));
        }
        command
    }

    /// Calls `work` on a thread of its own inside, and hands back its result or its panic. Sockets
    /// made there stay there.
    pub fn run_in<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let outcome = std::thread::scope(|scope| {
            let inside = || {
                enter(&self.path()).unwrap_or_else(|error| panic!("enter {}: {error}", self.name));
                work()
            };
            scope.spawn(inside).join()
        });
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Adds an address with its prefix length, usable at once (no duplicate address detection).
    pub fn address(&self, interface: &str, address: IpAddr, prefix: u8) -> anyhow::Result<()> {
        let nodad = if address.is_ipv6() { "nodad" } else { "" };
        self.ip(&format!("address add {address}/{prefix} dev {interface} {nodad}"))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("ip").args(["netns", "del", &self.name])) {
            eprintln!("{error:#}");
        }
    }
}

/// A veth pair, both ends up: `a_name` in `a`, `b_name` in `b`.
pub fn veth(a: &Netns, a_name: &str, b: &Netns, b_name: &str) -> anyhow::Result<()> {
    a.ip(&format!("link add {a_name} type veth peer name {b_name} netns {}", b.name))?;
    a.ip(&format!("link set {a_name} up"))?;
    b.ip(&format!("link set {b_name} up"))
}

fn enter(path: &Path) -> std::io::Result<()> {
    let file = std::fs::File::open(path)?;
    // SAFETY: setns takes a file descriptor, valid while `file` lives, and touches no memory.
    match unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn two_namespaces_talk_and_leave_nothing() {
        let Ok(a) = Netns::new("self") else {
            eprintln!("skipped: network namespaces need root and iproute2");
            return;
        };
        let b = Netns::new("self").unwrap();
        veth(&a, "left", &b, "right").unwrap();
        a.address("left", "fd00::1".parse().unwrap(), 64).unwrap();
        b.address("right", "fd00::2".parse().unwrap(), 64).unwrap();
        let receiver = b.run_in(|| UdpSocket::bind("[fd00::2]:0").unwrap());
        let to = receiver.local_addr().unwrap();
        a.run_in(|| UdpSocket::bind("[::]:0").unwrap().send_to(b"hello", to).unwrap());
        let mut buffer = [0; 8];
        assert_eq!(receiver.recv(&mut buffer).unwrap(), 5);
        let path = a.path();
        assert!(path.exists());
        drop((a, b));
        assert!(!path.exists());
    }
}
