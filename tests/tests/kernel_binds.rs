//! Ownership on a real kernel: sockets are bound, closed and found, and what is counted follows.

use std::net::UdpSocket;

use anyhow::{Context, Result, ensure};
use exporter_ebpf::abi::Event;
use exporter_tests::bpf;
use exporter_tests::netns::Netns;
use exporter_tests::pair::{Pair, counted, start_with};
use exporter_tests::process::{Guard, TempDir};
use exporter_tests::rtp::Packet;
use exporter_tests::{root_or_skip, wait};
use mediasoup_exporter::kernel::{Counting, Knowledge, MethodChoice, Options, Sockets};
use mediasoup_exporter::model::Direction::Receive;
use mediasoup_exporter::model::Proto;

const PACKETS: u32 = 50;

/// The exporter starts first: nothing of a worker that starts later is missed.
#[test]
fn the_first_packet_to_a_new_port_counts() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let (pair, workers) = (Pair::new()?, Workers::new()?);
    let counting = start_with(&pair.sfu, options())?;
    assert_eq!(counting.status().owned.by, Knowledge::Cgroup, "{:?}", counting.status());
    let mut worker = workers.start("mediasoup-worker", &pair.sfu)?;
    for (ssrc, port) in [(1, 2_000), (2, 443), (3, 59_999)] {
        worker.bind(&format!("0.0.0.0:{port}"))?;
        send(&pair.peer, port, ssrc)?;
        arrived(&counting, ssrc)?;
    }
    counting.hear()?;
    let ownership = counting.ownership();
    assert_eq!(ownership.owns(worker.pid(), Proto::Udp, 443), Some(true));
    assert_eq!(ownership.owns(worker.pid(), Proto::Udp, 444), Some(false));
    assert_eq!(ownership.owns(worker.pid(), Proto::Tcp, 443), Some(false));
    // It ends, and so does what it owns.
    let pid = worker.pid();
    drop(worker);
    wait::until_equal("its sockets to be owned no more", wait::LONG, || {
        counting.hear()?;
        Ok((sockets_of(&counting, pid), 0))
    })
}

#[test]
fn what_was_bound_before_the_start_is_found() -> Result<()> {
    for sockets in [Sockets::Auto, Sockets::Looks] {
        if !root_or_skip() {
            return Ok(());
        }
        let (pair, workers) = (Pair::new()?, Workers::new()?);
        let mut worker = workers.start("mediasoup-worker", &pair.sfu)?;
        worker.bind("0.0.0.0:443")?;
        let counting = start_with(&pair.sfu, Options { sockets, ..options() })?;
        send(&pair.peer, 443, 1)?;
        arrived(&counting, 1)?;
        worker.close("0.0.0.0:443")?;
        refresh(&pair, &counting)?;
        send(&pair.peer, 443, 2)?;
        assert_eq!(packets(&counting, 2)?, 0, "{sockets:?}");
        wait::until("others' packets to be told", wait::LONG, || {
            Ok((not_owned(&counting)? >= u64::from(PACKETS)).then_some(()))
        })?;
    }
    Ok(())
}

/// Another program gets the port that a worker had: its packets are its own, also from a far end that the
/// worker has talked with.
#[test]
fn a_port_that_another_program_has_now_is_not_counted() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let (pair, workers) = (Pair::new()?, Workers::new()?);
    let counting = start_with(&pair.sfu, options())?;
    let mut worker = workers.start("mediasoup-worker", &pair.sfu)?;
    worker.bind("0.0.0.0:443")?;
    let peer = pair.peer.run_in(|| UdpSocket::bind("10.77.0.2:0"))?;
    send_from(&peer, 443, 1)?;
    worker.close("0.0.0.0:443")?;
    // What trails after it is its own.
    send_from(&peer, 443, 1)?;
    assert_eq!(packets(&counting, 1)?, 2 * u64::from(PACKETS));
    let _other = pair.sfu.run_in(|| UdpSocket::bind("0.0.0.0:443"))?;
    send_from(&peer, 443, 1)?;
    assert_eq!(packets(&counting, 1)?, 2 * u64::from(PACKETS));
    Ok(())
}

#[test]
fn a_worker_by_another_name_is_found_when_it_binds() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let (pair, workers) = (Pair::new()?, Workers::new()?);
    let counting = start_with(&pair.sfu, options())?;
    let mut worker = workers.start("sfu-media", &pair.sfu)?;
    worker.bind("0.0.0.0:2000")?;
    counting.hear()?;
    // From now on it is known, and its next sockets are owned as they are bound.
    worker.bind("0.0.0.0:2001")?;
    for (ssrc, port) in [(1, 2_000), (2, 2_001)] {
        send(&pair.peer, port, ssrc)?;
        arrived(&counting, ssrc)?;
    }
    Ok(())
}

/// Whoever may detach our programs from the cgroups does so.
#[test]
fn programs_that_were_detached_see_binds_again() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let (pair, workers) = (Pair::new()?, Workers::new()?);
    let counting = start_with(&pair.sfu, options())?;
    let known = counting.status().owned.by;
    ensure!(known == Knowledge::Cgroup, "{:?}", counting.status());
    bpf::detach_by_force(|link| {
        let program = aya::programs::loaded_programs().flatten();
        let ours = |name: Option<&str>| matches!(name, Some("bound_v4" | "bound_v6" | "released"));
        program.into_iter().any(|it| it.id() == link.program_id() && ours(it.name_as_str()))
    })?;
    refresh(&pair, &counting)?;
    let mut worker = workers.start("mediasoup-worker", &pair.sfu)?;
    worker.bind("0.0.0.0:2000")?;
    send(&pair.peer, 2_000, 1)?;
    arrived(&counting, 1)
}

#[test]
fn others_sockets_are_nobodys() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let pair = Pair::new()?;
    let counting = start_with(&pair.sfu, options())?;
    let ours = pair.sfu.run_in(|| UdpSocket::bind("10.77.0.1:40000"))?;
    let peer = pair.peer.run_in(|| UdpSocket::bind("10.77.0.2:5000"))?;
    for _ in 0..400 {
        ours.send_to(&[0x80; 40], "10.77.0.2:5000")?;
        peer.recv(&mut [0; 64])?;
        peer.send_to(&[0x80; 40], "10.77.0.1:40000")?;
        ours.recv(&mut [0; 64])?;
    }
    let reading = counting.read()?;
    assert!(reading.flows.is_empty() && reading.streams.is_empty());
    assert!(
        reading.events.iter().flatten().all(|event| event.packets == 0),
        "{:?}",
        reading.events
    );
    Ok(())
}

/// In a network namespace of its own, behind an address that is routed there.
#[test]
fn a_worker_in_another_namespace_is_counted_where_its_packets_pass() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let (pair, workers) = (Pair::new()?, Workers::new()?);
    let inner = Netns::new("inner")?;
    exporter_tests::netns::veth(&pair.sfu, "out", &inner, "in")?;
    pair.sfu.ip("address add 10.88.0.1/24 dev out")?;
    inner.address("in", "10.88.0.2".parse()?, 24)?;
    inner.ip("route add default via 10.88.0.1")?;
    pair.peer.ip("route add 10.88.0.0/24 via 10.77.0.1")?;
    let forwarding = pair.sfu.command("sysctl").args(["-qw", "net.ipv4.ip_forward=1"]).status()?;
    ensure!(forwarding.success(), "let packets be forwarded");
    // A port of the host's own with the same number belongs to nobody.
    let _same = pair.sfu.run_in(|| UdpSocket::bind("10.77.0.1:2000"))?;
    let counting = start_with(&pair.sfu, options())?;
    let mut worker = workers.start("mediasoup-worker", &inner)?;
    worker.bind("0.0.0.0:2000")?;
    refresh(&pair, &counting)?;
    let peer = pair.peer.run_in(|| UdpSocket::bind("10.77.0.2:0"))?;
    for (ssrc, to) in [(1, "10.88.0.2:2000"), (2, "10.77.0.1:2000")] {
        for sequence in 0..PACKETS {
            peer.send_to(&packet(ssrc, sequence), to)?;
        }
    }
    wait::until_equal("all packets to pass", wait::LONG, || {
        Ok((packets(&counting, 1)?, u64::from(PACKETS)))
    })?;
    assert_eq!(packets(&counting, 2)?, 0);
    Ok(())
}

/// Who only calls himself a worker may have his own sockets counted, and takes no room from others.
#[test]
fn a_process_with_many_sockets_takes_no_room_from_workers() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let (pair, workers) = (Pair::new()?, Workers::new()?);
    let counting = start_with(&pair.sfu, options())?;
    let mut fake = workers.start("mediasoup-worker", &pair.sfu)?;
    let bound = fake.bind_many("127.0.0.1", 10_000, 20_000)?;
    ensure!(bound > 16_384, "only {bound} ports were bound");
    refresh(&pair, &counting)?;
    let owned = sockets_of(&counting, fake.pid());
    assert!(counting.status().owned.refused > 0 && owned <= 16_384 + 1_024, "{owned}");
    let mut worker = workers.start("mediasoup-worker", &pair.sfu)?;
    worker.bind("10.77.0.1:2000")?;
    send(&pair.peer, 2_000, 1)?;
    arrived(&counting, 1)?;
    Ok(())
}

#[test]
fn captured_packets_are_those_of_owned_ports() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let (pair, workers) = (Pair::new()?, Workers::new()?);
    let method = MethodChoice::Capture;
    let counting = start_with(&pair.sfu, Options { method, ..options() })?;
    let mut worker = workers.start("mediasoup-worker", &pair.sfu)?;
    worker.bind("0.0.0.0:443")?;
    let _other = pair.sfu.run_in(|| UdpSocket::bind("0.0.0.0:444"))?;
    refresh(&pair, &counting)?;
    for (ssrc, port) in [(1, 443), (2, 444)] {
        send(&pair.peer, port, ssrc)?;
    }
    wait::until_equal("all packets to be heard", wait::LONG, || {
        Ok((packets(&counting, 1)?, u64::from(PACKETS)))
    })?;
    assert_eq!(packets(&counting, 2)?, 0);
    assert_eq!(counting.status().owned.by, Knowledge::Scan);
    worker.bind("0.0.0.0:50000")?;
    refresh(&pair, &counting)?;
    send(&pair.peer, 50_000, 3)?;
    wait::until_equal("all packets to be heard", wait::LONG, || {
        Ok((packets(&counting, 3)?, u64::from(PACKETS)))
    })
}

fn options() -> Options {
    let interfaces = vec!["sfu0".to_owned()];
    Options { interfaces, method: MethodChoice::Ebpf, ..Options::default() }
}

/// Interfaces are looked for where the calling thread is.
fn refresh(pair: &Pair, counting: &Counting) -> Result<()> {
    pair.sfu.run_in(|| counting.refresh())
}

fn packets(counting: &Counting, ssrc: u32) -> Result<u64> {
    Ok(counted(&counting.read()?, Receive, ssrc).0)
}

/// All packets of an SSRC have been counted.
fn arrived(counting: &Counting, ssrc: u32) -> Result<()> {
    wait::until_equal("all packets to be counted", wait::LONG, || {
        Ok((packets(counting, ssrc)?, u64::from(PACKETS)))
    })
}

fn sockets_of(counting: &Counting, pid: u32) -> usize {
    counting.ownership().sockets(|_, socket| (socket.pid == pid).then_some(())).len()
}

fn not_owned(counting: &Counting) -> Result<u64> {
    Ok(counting.read()?.events[Event::NotOwned as usize][0].packets)
}

/// Sends packets of an SSRC to the SFU's address; what is sent over a veth pair has arrived.
fn send(peer: &Netns, port: u16, ssrc: u32) -> Result<()> {
    send_from(&peer.run_in(|| UdpSocket::bind("10.77.0.2:0"))?, port, ssrc)
}

fn send_from(peer: &UdpSocket, port: u16, ssrc: u32) -> Result<()> {
    for sequence in 0..PACKETS {
        peer.send_to(&packet(ssrc, sequence), ("10.77.0.1", port))?;
    }
    Ok(())
}

fn packet(ssrc: u32, sequence: u32) -> Vec<u8> {
    Packet { ssrc, sequence: sequence as u16, payload: vec![0; 100], ..Packet::default() }
        .to_bytes()
}

/// Programs that bind what they are told, under whatever name.
struct Workers(TempDir);

impl Workers {
    fn new() -> Result<Self> {
        TempDir::new("workers").map(Self)
    }

    fn start(&self, name: &str, host: &Netns) -> Result<Worker> {
        let program = self.0.path().join(name);
        if !program.exists() {
            std::fs::copy(env!("CARGO_BIN_EXE_binder"), &program).context("copy the program")?;
        }
        let mut command = host.command(program.to_str().context("a path that is not UTF-8")?);
        // As mediasoup starts its workers.
        command.args(["--logLevel=warn", "--rtcMinPort=2000", "--rtcMaxPort=2100"]);
        let mut process = Guard::spawn(name, command)?;
        let stdin = process.stdin().context("stdin")?;
        let stdout = std::io::BufReader::new(process.stdout().context("stdout")?);
        Ok(Worker { process, stdin, stdout })
    }
}

struct Worker {
    process: Guard,
    stdin: std::process::ChildStdin,
    stdout: std::io::BufReader<std::process::ChildStdout>,
}

impl Worker {
    fn pid(&self) -> u32 {
        self.process.pid()
    }

    fn bind(&mut self, address: &str) -> Result<()> {
        let answer = self.ask(&format!("bind {address}"))?;
        ensure!(answer == "1", "bind {address}: {answer}");
        Ok(())
    }

    fn bind_many(&mut self, ip: &str, first: u16, count: u16) -> Result<u32> {
        Ok(self.ask(&format!("many {ip} {first} {count}"))?.parse()?)
    }

    fn close(&mut self, address: &str) -> Result<()> {
        let answer = self.ask(&format!("close {address}"))?;
        ensure!(answer == "1", "close {address}: {answer}");
        Ok(())
    }

    fn ask(&mut self, line: &str) -> Result<String> {
        use std::io::{BufRead as _, Write as _};
        writeln!(self.stdin, "{line}")?;
        let mut answer = String::new();
        self.stdout.read_line(&mut answer)?;
        Ok(answer.trim().to_owned())
    }
}
