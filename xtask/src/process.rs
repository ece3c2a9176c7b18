//! Runs commands, each in a process group of its own, so that a time-out, a signal to us or the
//! command's own end leaves none of its descendants behind.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{self, BufRead as _, BufReader, Read};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// The process group that runs now, 0 when none does. Commands run one after the other.
static RUNNING_GROUP: AtomicI32 = AtomicI32::new(0);

/// How long a group may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);

/// A finished command.
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to stdout, empty unless captured.
    pub stdout: String,
    /// What it wrote to stderr, empty unless captured.
    pub stderr: String,
}

/// What becomes of a command's output.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Output {
    /// Goes where ours goes.
    Inherit,
    /// Is kept and not shown.
    Capture,
    /// Is shown and kept.
    Tee,
}

/// Runs `command`, shows its output, and fails unless it exits with 0 within `limit`.
pub fn run(command: &mut Command, limit: Duration) -> anyhow::Result<()> {
    eprintln!("$ {}", display(command));
    let finished = execute(command, Output::Inherit, limit)?;
    if !finished.status.success() {
        bail!("`{}` ended with {}", display(command), finished.status);
    }
    Ok(())
}

/// Runs `command` quietly and returns its stdout; fails with its stderr unless it exits with 0.
pub fn read(command: &mut Command, limit: Duration) -> anyhow::Result<String> {
    let finished = execute(command, Output::Capture, limit)?;
    if !finished.status.success() {
        bail!("`{}` ended with {}: {}", display(command), finished.status, finished.stderr.trim());
    }
    Ok(finished.stdout)
}

/// Runs `command` quietly and returns its output, whatever its exit status.
pub fn capture(command: &mut Command, limit: Duration) -> anyhow::Result<Finished> {
    execute(command, Output::Capture, limit)
}

/// Runs `command`, shows its output and returns it, whatever its exit status.
pub fn tee(command: &mut Command, limit: Duration) -> anyhow::Result<Finished> {
    eprintln!("$ {}", display(command));
    execute(command, Output::Tee, limit)
}

/// Makes SIGINT, SIGTERM and SIGHUP end the running process group before they end us: a group of
/// its own gets no signal from the terminal.
pub fn end_children_with_us() {
    extern "C" fn on_signal(signal: libc::c_int) {
        let group = RUNNING_GROUP.load(Ordering::Relaxed);
        // SAFETY: kill and _exit are async-signal-safe (POSIX.1-2017 §2.4.3) and take no pointers.
        unsafe {
            if group > 0 {
                libc::kill(-group, libc::SIGTERM);
            }
            libc::_exit(128 + signal);
        }
    }
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler calls only async-signal-safe functions and reads one atomic.
        unsafe { libc::signal(signal, on_signal as *const () as libc::sighandler_t) };
    }
}

fn execute(command: &mut Command, output: Output, limit: Duration) -> anyhow::Result<Finished> {
    // Nothing that runs here may wait for an answer from a person.
    command.stdin(Stdio::null()).process_group(0);
    if output != Output::Inherit {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
    }
    let mut child = command
        .spawn()
        .with_context(|| format!("start `{}`: is it installed?", display(command)))?;
    let group = child.id().cast_signed();
    RUNNING_GROUP.store(group, Ordering::Relaxed);

    let shown = output == Output::Tee;
    let stdout = child.stdout.take().map(|pipe| collect(pipe, shown.then(io::stdout)));
    let stderr = child.stderr.take().map(|pipe| collect(pipe, shown.then(io::stderr)));
    let status = wait(child, limit);
    // Whatever the command left running in its group ends with it.
    signal_group(group, libc::SIGKILL);
    RUNNING_GROUP.store(0, Ordering::Relaxed);

    let stdout = stdout.map(received).unwrap_or_default();
    let stderr = stderr.map(received).unwrap_or_default();
    let status = status.with_context(|| format!("wait for `{}`", display(command)))?;
    let Some(status) = status else {
        bail!("`{}` was ended: it ran for more than {} s", display(command), limit.as_secs());
    };
    Ok(Finished { status, stdout, stderr })
}

/// `None` when `limit` passed and the group had to be ended.
fn wait(mut child: Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let group = child.id().cast_signed();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(child.wait()));
    if let Ok(status) = receiver.recv_timeout(limit) {
        return status.map(Some);
    }
    signal_group(group, libc::SIGTERM);
    if receiver.recv_timeout(GRACE).is_err() {
        signal_group(group, libc::SIGKILL);
        // A process in an uninterruptible sleep outlives even this; it is not waited for.
        let _ended = receiver.recv_timeout(GRACE);
    }
    Ok(None)
}

fn signal_group(group: i32, signal: libc::c_int) {
    // SAFETY: kill takes no pointers; a group that is gone gives ESRCH, which is what is wanted.
    unsafe { libc::kill(-group, signal) };
}

/// Reads `pipe` to its end in a thread, line by line, and copies each line to `copy`.
fn collect<W: io::Write + Send + 'static>(
    pipe: impl Read + Send + 'static,
    mut copy: Option<W>,
) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(read) if read > 0) {
            if let Some(copy) = &mut copy {
                // Our own output being closed must not stop the command's.
                let _closed = copy.write_all(&line).and_then(|()| copy.flush());
            }
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
            line.clear();
        }
    });
    receiver
}

/// All lines up to the pipe's end. A daemon that left the process group may hold the pipe open for
/// ever, so the wait is bounded; the command itself has ended already.
fn received(lines: mpsc::Receiver<String>) -> String {
    let deadline = Instant::now() + GRACE;
    let mut text = String::new();
    while let Ok(line) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        text.push_str(&line);
    }
    text
}

/// The command as one would type it, with the variables that it sets; PATH is long and says little.
fn display(command: &Command) -> String {
    let mut text = String::new();
    for (name, value) in command.get_envs() {
        if let (Some(value), true) = (value, name != "PATH") {
            let _infallible = write!(text, "{}={} ", name.display(), quoted(value));
        }
    }
    text.push_str(&quoted(command.get_program()));
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&quoted(argument));
    }
    text
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''").replace('\u{1f}', " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    const LONG: Duration = Duration::from_secs(60);

    // One test, because RUNNING_GROUP takes commands one after the other.
    #[test]
    fn commands() {
        assert_eq!(read(&mut shell("echo out; echo err >&2"), LONG).unwrap(), "out\n");

        let error = read(&mut shell("echo why >&2; exit 3"), LONG).unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.ends_with("why"), "{error}");

        let error = run(&mut Command::new("/no/such/program"), LONG).unwrap_err().to_string();
        assert!(error.contains("/no/such/program"), "{error}");

        let error = read(&mut shell("sleep 1000 & sleep 1000"), Duration::from_millis(1));
        assert!(error.unwrap_err().to_string().contains("was ended"));

        // A child left in the background ends with the command, so the pipe closes.
        let output = read(&mut shell("sleep 1000 & echo $!"), LONG).unwrap();
        let pid: u32 = output.trim().parse().unwrap();
        let ended = || match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        while !ended() {
            thread::yield_now();
        }
    }

    #[test]
    fn commands_are_shown_as_typed() {
        let mut command = Command::new("cargo");
        command.args(["test", "it's"]).env("A", "b c").env_remove("D");
        assert_eq!(display(&command), r"A='b c' cargo test 'it'\''s'");
    }
}
