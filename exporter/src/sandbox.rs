//! Threads that read what strangers and servers send: without capabilities, with the system calls that they
//! need and no others, and without a file.
//!
//! They have runtimes of their own: one for requests and for what servers tell, one for what name servers answer. What takes rights (attaching,
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
/// Tasks that run before it is looked whether others' connections can go on.
const EVENT_INTERVAL: u32 = 4;
/// Password checks run one by one.
const BLOCKING: usize = 4;

/// For each kind of threads.
#[derive(Debug)]
struct Filters {
    serving: syscalls::Filter,
    asking: syscalls::Filter,
}

/// What confined threads do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Answer requests, and read what servers tell.
    Serve,
    /// Ask name servers: these may make sockets of the Internet.
    Ask,
}

/// What holds the threads that serve.
#[derive(Clone, Debug, Default)]
pub struct Sandbox {
    layers: Vec<&'static str>,
    /// Why others do not.
    missing: Vec<String>,
    filters: Option<Arc<Filters>>,
    /// By the operator.
    is_off: bool,
}

impl Sandbox {
    /// Tries on a thread of its own what this kernel has. `None`: nothing is wanted.
    pub fn new(is_wanted: bool) -> anyhow::Result<Self> {
        if !is_wanted {
            return Ok(Self { is_off: true, ..Self::default() });
        }
        let filter =
            |calls_out| syscalls::Filter::new(calls_out).context("make the filter of system calls");
        let filters = Arc::new(Filters { serving: filter(false)?, asking: filter(true)? });
        let tried = std::thread::Builder::new().name("sandbox".into()).spawn(move || {
            let mut sandbox = Self::default();
            let mut take = |layer, outcome: anyhow::Result<()>| match outcome {
                Ok(()) => sandbox.layers.push(layer),
                Err(why) => sandbox.missing.push(format!("{layer}: {why:#}")),
            };
            take("capabilities", capabilities::drop_all());
            take("landlock", files::close(false));
            let filtered = filters.serving.apply();
            let is_filtered = filtered.is_ok();
            take("seccomp", filtered);
            sandbox.filters = is_filtered.then_some(filters);
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
    pub fn runtime(&self, task: Task) -> io::Result<Runtime> {
        let mut builder = Builder::new_multi_thread();
        let (name, workers) = match task {
            Task::Serve => ("serve", WORKERS),
            Task::Ask => ("ask", 1),
        };
        builder.thread_name(name).worker_threads(workers).max_blocking_threads(BLOCKING);
        // Whoever comes while many are being written to is seen soon.
        builder.event_interval(EVENT_INTERVAL);
        let sandbox = self.clone();
        builder.on_thread_start(move || sandbox.enter(task));
        builder.enable_all().build()
    }

    /// Confines the calling thread. Threads that it starts inherit that.
    fn enter(&self, task: Task) {
        if self.is_off || (self.filters.is_some() && syscalls::is_filtered()) {
            return;
        }
        let confined = (|| {
            if self.has("capabilities") {
                capabilities::drop_all()?;
            }
            if self.has("landlock") {
                files::close(task == Task::Ask)?;
            }
            match (&self.filters, task) {
                (Some(filters), Task::Serve) => filters.serving.apply(),
                (Some(filters), Task::Ask) => filters.asking.apply(),
                (None, _) => Ok(()),
            }
        })();
        if let Err(error) = confined {
            // It worked for another thread a moment ago.
            tracing::error!("a thread is not confined: {error:#}");
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

    /// A sandbox with this layer; where there is none, says why.
    fn holding(layer: &str) -> Option<Sandbox> {
        let sandbox = Sandbox::new(true).unwrap();
        let holds = sandbox.has(layer);
        if !holds {
            eprintln!("skipped: {}", sandbox.describe());
        }
        holds.then_some(sandbox)
    }

    /// Each on a runtime's worker, and on a thread that checks passwords.
    fn in_sandbox<T: Send + 'static>(work: fn() -> T) -> Option<[T; 2]> {
        let sandbox = holding("seccomp")?;
        let runtime = sandbox.runtime(Task::Serve).unwrap();
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
        let runtime = sandbox.runtime(Task::Serve).unwrap();
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
        if holding("landlock").is_none() {
            return;
        }
        let tried = std::thread::spawn(|| {
            files::close(false).unwrap();
            File::open("/proc/self/stat").map(drop).map_err(|error| error.kind())
        });
        assert_eq!(tried.join().unwrap(), Err(io::ErrorKind::PermissionDenied));
    }

    #[test]
    fn what_serving_takes_works() {
        let sandbox = Sandbox::new(true).unwrap();
        let runtime = sandbox.runtime(Task::Serve).unwrap();
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
    fn who_asks_may_send_but_open_nothing_else() {
        use std::os::unix::net::UnixDatagram;
        let Some(sandbox) = holding("seccomp") else { return };
        let runtime = sandbox.runtime(Task::Ask).unwrap();
        let tried = runtime.spawn(async {
            let socket = UdpSocket::bind("127.0.0.1:0");
            let sent = socket.and_then(|it| it.send_to(b"?", it.local_addr()?));
            [sent.is_ok(), UnixDatagram::unbound().is_ok(), File::open("/etc/hosts").is_ok()]
        });
        assert_eq!(runtime.block_on(tried).unwrap(), [true, false, false]);
    }

    #[test]
    fn it_can_be_off() {
        let sandbox = Sandbox::new(false).unwrap();
        assert!(!LAYERS.iter().any(|layer| sandbox.has(layer)) && !sandbox.is_complete());
        let runtime = sandbox.runtime(Task::Serve).unwrap();
        let opened = runtime.spawn(async { File::open("/proc/self/stat").is_ok() });
        assert!(runtime.block_on(opened).unwrap());
    }
}
