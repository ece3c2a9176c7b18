//! A worker in a network namespace of its own, as in a container: who counts it where its packets pass, and
//! who counts beside it.

use std::net::UdpSocket;
use std::sync::Arc;

use anyhow::{Result, ensure};
use exporter_tests::binders::{Worker, Workers};
use exporter_tests::netns::{Netns, veth};
use exporter_tests::pair::{Pair, counted, start_with};
use exporter_tests::rtp::Packet;
use exporter_tests::{root_or_skip, wait};
use mediasoup_exporter::kernel::{Counting, Knowledge, MethodChoice, Options};
use mediasoup_exporter::model::Direction::{self, Receive, Send};

const PACKETS: u32 = 50;

/// A peer, the SFU's host, and a namespace behind it to which the host routes.
struct Hosts {
    pair: Pair,
    inner: Netns,
    workers: Workers,
}

impl Hosts {
    fn new() -> Result<Self> {
        let (pair, workers) = (Pair::new()?, Workers::new(env!("CARGO_BIN_EXE_binder"))?);
        let inner = Netns::new("inner")?;
        veth(&pair.sfu, "out", &inner, "in")?;
        pair.sfu.ip("address add 10.88.0.1/24 dev out")?;
        inner.address("in", "10.88.0.2".parse()?, 24)?;
        inner.ip("route add default via 10.88.0.1")?;
        pair.peer.ip("route add 10.88.0.0/24 via 10.77.0.1")?;
        let forwarding =
            pair.sfu.command("sysctl").args(["-qw", "net.ipv4.ip_forward=1"]).status()?;
        ensure!(forwarding.success(), "let packets be forwarded");
        Ok(Self { pair, inner, workers })
    }

    fn worker(&self) -> Result<Worker> {
        self.workers.start("mediasoup-worker", &self.inner)
    }

    fn peer(&self) -> Result<UdpSocket> {
        Ok(self.pair.peer.run_in(|| UdpSocket::bind("10.77.0.2:5000"))?)
    }
}

#[test]
fn a_worker_is_counted_where_its_packets_pass() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let hosts = Hosts::new()?;
    // A port of the host's own with the same number belongs to nobody.
    let _same = hosts.pair.sfu.run_in(|| UdpSocket::bind("10.77.0.1:2000"))?;
    let counting = start_with(&hosts.pair.sfu, options("sfu0"))?;
    let mut worker = hosts.worker()?;
    worker.bind("0.0.0.0:2000")?;
    hosts.pair.sfu.run_in(|| counting.refresh())?;
    let peer = hosts.peer()?;
    send(&peer, 1, "10.88.0.2:2000")?;
    send(&peer, 2, "10.77.0.1:2000")?;
    arrived(&counting, Receive, 1)?;
    assert_eq!(packets(&counting, Receive, 2)?, 0);
    Ok(())
}

/// One on the host and one in the container: frames keep the marks of the first that counts them.
#[test]
fn two_exporters_in_two_namespaces_count_each_packet() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let hosts = Hosts::new()?;
    let mut worker = hosts.worker()?;
    // It leaves by its own address, whoever speaks first.
    worker.bind("10.88.0.2:2000")?;
    let outer = start_with(&hosts.pair.sfu, options("*"))?;
    let inner = start_with(&hosts.inner, options("in"))?;
    let peer = hosts.peer()?;
    for counting in [&outer, &inner] {
        assert_eq!(counting.status().owned.by, Knowledge::Cgroup, "{:?}", counting.status());
    }
    for round in 0..2 {
        send(&peer, 1 + round, "10.88.0.2:2000")?;
        worker.send("10.88.0.2:2000", &packet(11 + round, 0), PACKETS, "10.77.0.2:5000")?;
        for counting in [&outer, &inner] {
            arrived(counting, Receive, 1 + round)?;
            arrived(counting, Send, 11 + round)?;
        }
    }
    // Each sees a packet once, though the outer one counts on both of its interfaces.
    for ssrc in [1, 2] {
        assert_eq!(packets(&outer, Send, ssrc)?, 0);
    }
    Ok(())
}

/// Nobody had a worker there before: what is local there is looked for as soon as a socket is bound.
#[test]
fn a_namespace_is_known_as_soon_as_a_worker_binds_there() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let hosts = Hosts::new()?;
    let counting = Arc::new(start_with(&hosts.pair.sfu, options("sfu0"))?);
    // Its threads look for interfaces where they were started.
    let runtime = hosts.pair.sfu.run_in(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()
    })?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let following = runtime.spawn(counting.clone().follow(async {
        let _ = stopped.await;
    }));
    let mut worker = hosts.worker()?;
    worker.bind("0.0.0.0:2000")?;
    let local = "10.88.0.2".parse()?;
    // Without this it takes the ten seconds between two looks.
    wait::until_equal("its address to be known", std::time::Duration::from_secs(5), || {
        Ok((counting.ownership().is_local(local), Some(true)))
    })?;
    send(&hosts.peer()?, 1, "10.88.0.2:2000")?;
    arrived(&counting, Receive, 1)?;
    drop(stop);
    runtime.block_on(following)?;
    Ok(())
}

fn options(interface: &str) -> Options {
    let interfaces = vec![interface.to_owned()];
    Options { interfaces, method: MethodChoice::Ebpf, ..Options::default() }
}

fn packet(ssrc: u32, sequence: u32) -> Vec<u8> {
    Packet { ssrc, sequence: sequence as u16, payload: vec![0; 100], ..Packet::default() }
        .to_bytes()
}

fn send(peer: &UdpSocket, ssrc: u32, to: &str) -> Result<()> {
    for sequence in 0..PACKETS {
        peer.send_to(&packet(ssrc, sequence), to)?;
    }
    Ok(())
}

fn packets(counting: &Counting, direction: Direction, ssrc: u32) -> Result<u64> {
    Ok(counted(&counting.read()?, direction, ssrc).0)
}

fn arrived(counting: &Counting, direction: Direction, ssrc: u32) -> Result<()> {
    let what = format!("all packets of {ssrc} to be counted as {direction:?}");
    wait::until_equal(&what, wait::LONG, || {
        Ok((packets(counting, direction, ssrc)?, u64::from(PACKETS)))
    })
}
