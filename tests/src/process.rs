//! Processes and folders that a test starts: they end with the test, also when it panics or is
//! killed. Touches only what it started.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::wait;

/// Lines of its stderr that a process's guard keeps.
const KEPT_LINES: usize = 200;

/// A running process. It is told to end (SIGTERM), then killed, when this is dropped; the kernel
/// kills it when the thread that started it ends.
#[derive(Debug)]
pub struct Guard {
    name: String,
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl Guard {
    /// Starts `command` with stdin and stdout piped, its stderr kept for error messages.
    pub fn spawn(name: &str, mut command: Command) -> Result<Self> {
        // SAFETY: between fork and exec only plain system calls are made, on memory of this frame.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                // What the parent holds back, children would hold back too: SIGTERM among it.
                let mut none: libc::sigset_t = std::mem::zeroed();
                libc::sigemptyset(&raw mut none);
                match libc::pthread_sigmask(libc::SIG_SETMASK, &none, std::ptr::null_mut()) {
                    0 => Ok(()),
                    error => Err(std::io::Error::from_raw_os_error(error)),
                }
            });
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start {name}: {command:?}"))?;
        let log = Arc::new(Mutex::new(Vec::new()));
        let stderr = child.stderr.take().context("stderr is piped")?;
        let kept = Arc::clone(&log);
        thread::spawn(move || keep(stderr, &kept));
        Ok(Self { name: name.to_owned(), child, log })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its standard input, once.
    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Its standard output, once; [`Guard::log_stdout`] instead keeps it with stderr.
    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Keeps its standard output together with its standard error.
    pub fn log_stdout(&mut self) {
        if let Some(stdout) = self.child.stdout.take() {
            let kept = Arc::clone(&self.log);
            thread::spawn(move || keep(stdout, &kept));
        }
    }

    /// The last lines that it wrote to stderr.
    pub fn log(&self) -> String {
        self.log.lock().expect("nobody panics with the log").join("\n")
    }

    /// Fails, with its last words, when it has ended.
    pub fn alive(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended with {status}:\n{}", self.name, self.log());
        }
        Ok(())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let pid = i32::try_from(self.pid())?;
        // SAFETY: kill takes two integers. The child is not reaped before this guard is gone or
        // `try_wait` saw its end, so the id is its own.
        if unsafe { libc::kill(pid, signal) } != 0 {
            bail!("signal {}: {}", self.name, std::io::Error::last_os_error());
        }
        Ok(())
    }

    /// Waits for its end, at most `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        wait::until(&what, limit, || Ok(self.child.try_wait()?))
    }

    /// SIGTERM; returns how it ended, within `limit`.
    pub fn stop(mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(libc::SIGTERM)?;
        self.wait(limit)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        let _ = self.signal(libc::SIGTERM);
        if self.wait(Duration::from_secs(2)).is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if thread::panicking() {
            eprintln!("last words of {}:\n{}", self.name, self.log());
        }
    }
}

fn keep(from: impl Read, log: &Mutex<Vec<String>>) {
    for line in BufReader::new(from).lines().map_while(Result::ok) {
        let mut log = log.lock().expect("nobody panics with the log");
        if log.len() == KEPT_LINES {
            log.remove(0);
        }
        log.push(line);
    }
}

/// A folder that is removed on drop.
#[derive(Debug)]
pub struct TempDir {
    path: PathBuf,
}

impl TempDir {
    /// A fresh folder `mex-PREFIX-PID-N` in the system's place for such.
    pub fn new(prefix: &str) -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("mex-{prefix}-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("remove {}: {error}", self.path.display());
        }
    }
}

/// Removes the network namespaces and folders of test processes that are gone: one that was killed
/// could not tidy up. Their names end in `-PID-N`; those of a living process are left alone.
pub fn reap() {
    let living = |name: &str| {
        let pid = name.rsplit('-').nth(1).and_then(|pid| pid.parse::<u32>().ok());
        pid.is_none_or(|pid| Path::new("/proc").join(pid.to_string()).exists())
    };
    let leftovers = |folder: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let ours = entries.filter(|entry| {
            let name = entry.file_name();
            name.to_str().is_some_and(|name| name.starts_with("mex-") && !living(name))
        });
        ours.map(|entry| entry.path()).collect()
    };
    for namespace in leftovers(Path::new("/run/netns")) {
        let name = namespace.file_name().unwrap_or_default();
        let _ = Command::new("ip").args(["netns", "del"]).arg(name).status();
    }
    for folder in leftovers(&std::env::temp_dir()) {
        let _ = fs::remove_dir_all(folder);
    }
}
