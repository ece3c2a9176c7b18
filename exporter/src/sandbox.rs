//! Threads that read what strangers and servers send: without capabilities, with the system calls that they
//! need and no others, and without a file.
//!
//! They have a runtime of their own, for requests and for what servers tell. What takes rights (attaching,
//! opening sockets and files) stays with the other one's threads, which read nothing of strangers'.
//!
//! Memory is shared by all threads of a process. So this is a second wall behind the language's, not one that
//! stands alone.

mod files;
mod syscalls;

use std::io;
use std::sync::Arc;

use anyhow::Context;
use tokio::runtime::{Builder, Runtime};

use crate::host::capabilities;

/// What holds the threads, as the label of `mediasoup_exporter_sandbox`.
pub const LAYERS: [&str; 3] = ["capabilities", "seccomp", "landlock"];

/// Threads that serve, beside those that check passwords.
const WORKERS: usize = 2;
/// Password checks run one by one.
const BLOCKING: usize = 4;

/// What holds the threads that serve.
#[derive(Clone, Debug, Default)]
pub struct Sandbox {
    layers: Vec<&'static str>,
    /// Why others do not.
    missing: Vec<String>,
    filter: Option<Arc<syscalls::Filter>>,
    /// By the operator.
    is_off: bool,
}

impl Sandbox {
    /// Tries on a thread of its own what this kernel has. `None`: nothing is wanted.
    pub fn new(is_wanted: bool) -> anyhow::Result<Self> {
        if !is_wanted {
            return Ok(Self { is_off: true, ..Self::default() });
        }
        let filter = Arc::new(syscalls::Filter::new().context("make the filter of system calls")?);
        let tried = std::thread::Builder::new().name("sandbox".into()).spawn(move || {
            let mut sandbox = Self::default();
            let mut take = |layer, outcome: anyhow::Result<()>| match outcome {
                Ok(()) => sandbox.layers.push(layer),
                Err(why) => sandbox.missing.push(format!("{layer}: {why:#}")),
            };
            take("capabilities", capabilities::drop_all());
            take("landlock", files::close());
            let filtered = filter.apply();
            let is_filtered = filtered.is_ok();
            take("seccomp", filtered);
            sandbox.filter = is_filtered.then_some(filter);
            sandbox
        });
        let sandbox = tried.context("start a thread")?.join();
        let sandbox = sandbox.map_err(|_| anyhow::anyhow!("the sandbox cannot be tried"))?;
        for why in &sandbox.missing {
            tracing::warn!("threads that serve are not confined as they could be: {why}");
        }
        Ok(sandbox)
    }

    /// Whether this holds them: one of [`LAYERS`].
    pub fn has(&self, layer: &str) -> bool {
        self.layers.contains(&layer)
    }

    /// What holds them, and why others do not, for people.
    pub fn describe(&self) -> String {
        if self.is_off {
            return "off by --sandbox=no".into();
        }
        let held = self.layers.iter().map(|layer| (*layer).to_owned());
        held.chain(self.missing.iter().map(|why| format!("not {why}")))
            .collect::<Vec<_>>()
            .join("; ")
    }

    /// Whether all hold them.
    pub fn is_complete(&self) -> bool {
        LAYERS.iter().all(|layer| self.has(layer))
    }

    /// A runtime whose threads are confined, each before it does anything else.
    pub fn runtime(&self) -> io::Result<Runtime> {
        let mut builder = Builder::new_multi_thread();
        builder.thread_name("serve").worker_threads(WORKERS).max_blocking_threads(BLOCKING);
        let sandbox = self.clone();
        builder.on_thread_start(move || sandbox.enter());
        builder.enable_all().build()
    }

    /// Confines the calling thread. Threads that it starts inherit that.
    fn enter(&self) {
        if self.is_off || (self.filter.is_some() && syscalls::is_filtered()) {
            return;
        }
        let confined = (|| {
            if self.has("capabilities") {
                capabilities::drop_all()?;
            }
            if self.has("landlock") {
                files::close()?;
            }
            self.filter.as_ref().map_or(Ok(()), |filter| filter.apply())
        })();
        if let Err(error) = confined {
            // It worked for another thread a moment ago.
            tracing::error!("a thread that serves is not confined: {error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::process::Command;

    /// Each on a runtime's worker, and on a thread that checks passwords.
    fn in_sandbox<T: Send + 'static>(work: fn() -> T) -> Option<[T; 2]> {
        let sandbox = Sandbox::new(true).unwrap();
        if !sandbox.has("seccomp") {
            eprintln!("skipped: {}", sandbox.describe());
            return None;
        }
        let runtime = sandbox.runtime().unwrap();
        let worker = runtime.block_on(runtime.spawn(async move { work() })).unwrap();
        let nested = runtime.spawn(async move { tokio::task::spawn_blocking(work).await.unwrap() });
        Some([worker, runtime.block_on(nested).unwrap()])
    }

    #[test]
    fn no_file_socket_or_program_is_to_be_had() {
        let tried = in_sandbox(|| {
            [
                ("read a file", File::open("/etc/hostname").is_ok()),
                ("make a file", File::create("/tmp/mex-sandbox").is_ok()),
                ("make a socket", UdpSocket::bind("127.0.0.1:0").is_ok()),
                ("connect", TcpStream::connect("127.0.0.1:1").is_ok()),
                ("run a program", Command::new("/bin/true").spawn().is_ok()),
                ("look at another process", std::fs::read_link("/proc/1/exe").is_ok()),
            ]
        });
        for (what, is_possible) in tried.into_iter().flatten().flatten() {
            assert!(!is_possible, "{what}");
        }
        assert!(File::open("/proc/self/stat").is_ok(), "other threads are free");
    }

    #[test]
    fn no_capability_is_left() {
        let sandbox = Sandbox::new(true).unwrap();
        let runtime = sandbox.runtime().unwrap();
        // SAFETY: gettid takes nothing and touches no memory.
        let number = || unsafe { libc::gettid() };
        let worker = runtime.block_on(runtime.spawn(async move { number() })).unwrap();
        let nested = async move { tokio::task::spawn_blocking(number).await.unwrap() };
        for thread in [worker, runtime.block_on(runtime.spawn(nested)).unwrap()] {
            let status = std::fs::read_to_string(format!("/proc/self/task/{thread}/status"));
            let status = status.unwrap();
            for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                assert!(status.contains(&format!("{set}:\t0000000000000000\n")), "{status}");
            }
            assert!(status.contains("NoNewPrivs:\t1"), "{status}");
        }
    }

    #[test]
    fn landlock_alone_closes_files() {
        let sandbox = Sandbox::new(true).unwrap();
        if !sandbox.has("landlock") {
            eprintln!("skipped: {}", sandbox.describe());
            return;
        }
        let tried = std::thread::spawn(|| {
            files::close().unwrap();
            File::open("/proc/self/stat").map(drop).map_err(|error| error.kind())
        });
        assert_eq!(tried.join().unwrap(), Err(io::ErrorKind::PermissionDenied));
    }

    #[test]
    fn what_serving_takes_works() {
        let sandbox = Sandbox::new(true).unwrap();
        let runtime = sandbox.runtime().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let serving = runtime.spawn(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = [0; 4];
            stream.read_exact(&mut asked).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            let mut secret = [0; 16];
            getrandom::fill(&mut secret).unwrap();
            let large = tokio::task::spawn_blocking(|| vec![7_u8; 64 << 20].len()).await.unwrap();
            stream.write_all(&large.to_be_bytes()).await.unwrap();
        });
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"text").unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, (64_usize << 20).to_be_bytes());
        runtime.block_on(serving).unwrap();
    }

    #[test]
    fn it_can_be_off() {
        let sandbox = Sandbox::new(false).unwrap();
        assert!(!LAYERS.iter().any(|layer| sandbox.has(layer)) && !sandbox.is_complete());
        let runtime = sandbox.runtime().unwrap();
        let opened = runtime.spawn(async { File::open("/proc/self/stat").is_ok() });
        assert!(runtime.block_on(opened).unwrap());
    }
}
