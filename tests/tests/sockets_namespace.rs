//! Sockets of a worker in a network namespace of its own, as in a container: found, and their drops
//! counted.

use std::net::UdpSocket;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use exporter_tests::netns::Netns;
use exporter_tests::{root_or_skip, wait};
use mediasoup_exporter::host::namespaces::NamespaceCookie;
use mediasoup_exporter::host::recognise::Evidence;
use mediasoup_exporter::host::workers::{self, WorkerProcess};
use mediasoup_exporter::model::Proto;
use mediasoup_exporter::sockets;

#[test]
fn a_worker_in_a_container_is_found_with_its_sockets() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let host = Netns::new("worker")?;
    host.ip("link add name own0 type bridge")?;
    host.ip("link set own0 up")?;
    host.address("own0", "10.82.0.1".parse()?, 24)?;
    host.address("own0", "fd82::1".parse()?, 64)?;
    host.ip("route add local 198.51.100.0/24 dev lo")?;
    host.ip("route add local 2001:db8::/64 dev lo")?;
    let worker = Worker::start(&host)?;

    let found = wait::until("the worker to listen", wait::LONG, || {
        let of_mine = |found: &WorkerProcess| found.pid == worker.0.id();
        let found = workers::find().into_iter().find(of_mine);
        Ok(found.filter(|found| !found.bound.is_empty()))
    })?;
    assert_eq!(found.ports, Some(41_000..=41_100));
    assert_eq!(found.bound.iter().copied().collect::<Vec<u16>>(), [41_234]);
    assert_eq!(found.listening, ["10.82.0.1".parse::<std::net::IpAddr>()?]);
    let foreign = found.foreign.as_ref().context("it is in this network namespace")?;
    for prefix in ["10.82.0.1/32", "fd82::1/128", "198.51.100.0/24", "2001:db8::/64"] {
        assert!(foreign.prefixes.contains(&prefix.parse()?), "{prefix}: {foreign:?}");
    }
    assert!(!foreign.is_unprivileged);
    assert_eq!(found.cookie, host.run_in(NamespaceCookie::own)?);
    // By its first argument, unless Python replaces that.
    assert!(matches!(found.evidence, Evidence::Executable | Evidence::Arguments), "{found:?}");
    assert_eq!((found.uid, found.inner_pid), (0, found.pid));
    assert_eq!(found.ancestors.first(), Some(&std::process::id()));

    // Nobody reads that socket: at some point there is no room in it.
    let sender = host.run_in(|| UdpSocket::bind("10.82.0.1:0"))?;
    for _ in 0..2000 {
        sender.send_to(&[0; 1200], "10.82.0.1:41234")?;
    }
    let told = sockets::read(std::slice::from_ref(&found), None)?;
    let local = "10.82.0.1:41234".parse()?;
    let socket = told.iter().find(|socket| socket.local == local).context("no socket")?;
    assert_eq!((socket.proto, socket.remote), (Proto::Udp, None));
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(socket.drops > 0 && socket.receive_queue_bytes > 0, "{socket:?}");
    Ok(())
}

/// A process that is called as mediasoup's worker and has a socket as it would have.
struct Worker(Child);

impl Worker {
    fn start(host: &Netns) -> Result<Self> {
        const PROGRAM: &str = "import socket, sys, time, ctypes
ctypes.CDLL(None).prctl(15, b'mediasoup-worker', 0, 0, 0)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
s.bind(('10.82.0.1', 41234))
sys.stdin.read()";
        let mut command: Command = host.command("python3");
        command.arg0("mediasoup-worker").args(["-c", PROGRAM]);
        command.args(["--rtcMinPort=41000", "--rtcMaxPort=41100"]);
        command.stdin(Stdio::piped());
        Ok(Self(command.spawn().context("start python3")?))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
