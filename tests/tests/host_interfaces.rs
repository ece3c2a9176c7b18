//! Where packets for the SFU arrive on hosts as people have them: each is counted once, without a flag
//! that says where to look.

use std::net::{IpAddr, UdpSocket};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use exporter_ebpf::abi::RECEIVE;
use exporter_tests::netns::{Netns, veth};
use exporter_tests::packets::{Ends, LOCAL_V4, UDP, gre};
use exporter_tests::pair::{Conversation, Pair, counted, options, start_with};
use exporter_tests::process::TempDir;
use exporter_tests::rtp::Packet;
use exporter_tests::scene::leave_ports;
use exporter_tests::sfu::{Build, Plain, Sfu};
use exporter_tests::{root_or_skip, skip, tun, wait};
use mediasoup_exporter::kernel::{Counting, Mechanism, MethodChoice, Options};
use mediasoup_exporter::model::Direction::{Receive, Send};

/// Packets that each case sends.
const PACKETS: u64 = 50;

#[test]
fn a_far_side_on_the_same_host_is_counted() -> Result<()> {
    let Some(host) = Host::new()? else { return Ok(()) };
    // What is sent to an address of the host's own passes `lo`, whatever interface has it.
    let to = host.transport("0.0.0.0")?;
    for address in ["10.84.0.1", "127.0.0.1"] {
        host.arrives(&host.netns, address.parse()?, (address.parse()?, to))?;
    }
    Ok(())
}

#[test]
fn a_second_interface_without_a_default_route_is_counted() -> Result<()> {
    let Some(host) = Host::new()? else { return Ok(()) };
    let private = Netns::new("private")?;
    veth(&host.netns, "private0", &private, "eth0")?;
    host.netns.address("private0", "10.85.0.1".parse()?, 24)?;
    private.address("eth0", "10.85.0.2".parse()?, 24)?;
    let to = host.transport("0.0.0.0")?;
    host.arrives(&private, "10.85.0.2".parse()?, ("10.85.0.1".parse()?, to))?;
    host.arrives(&host.peer, "10.84.0.2".parse()?, ("10.84.0.1".parse()?, to))
}

#[test]
fn an_address_that_is_local_by_route_is_counted() -> Result<()> {
    let Some(host) = Host::new()? else { return Ok(()) };
    host.netns.ip("route add local 198.51.100.7/32 dev lo")?;
    host.peer.ip("route add 198.51.100.7/32 via 10.84.0.1")?;
    let to = host.transport("0.0.0.0")?;
    host.arrives(&host.peer, "10.84.0.2".parse()?, ("198.51.100.7".parse()?, to))
}

/// A host with a real worker, its exporter that was given no interface, and a peer behind the default
/// route.
struct Host {
    counting: Counting,
    sfu: Mutex<Sfu>,
    netns: Netns,
    peer: Netns,
    _dir: TempDir,
}

impl Host {
    fn new() -> Result<Option<Self>> {
        if !root_or_skip() {
            return Ok(None);
        }
        let Some(build) = Build::find("3.12.16") else {
            skip("there is no mediasoup 3.12.16; `cargo xtask setup` builds it");
            return Ok(None);
        };
        let (netns, peer) = (Netns::new("sfu")?, Netns::new("peer")?);
        leave_ports(&netns)?;
        leave_ports(&peer)?;
        veth(&netns, "eth0", &peer, "eth0")?;
        netns.address("eth0", "10.84.0.1".parse()?, 24)?;
        peer.address("eth0", "10.84.0.2".parse()?, 24)?;
        netns.ip("route add default via 10.84.0.2")?;
        let options =
            Options { method: MethodChoice::Ebpf, ports: Some(40_000..=49_999), ..options() };
        // First the exporter: what comes later has to be found all the same.
        let counting = start_with(&netns, options)?;
        let dir = TempDir::new("host")?;
        let mut sfu = Sfu::start(&build, &netns, dir.path(), 1)?;
        sfu.room("room", 1)?;
        sfu.join("room", "ann", "Ann", "")?;
        let sfu = Mutex::new(sfu);
        Ok(Some(Self { counting, sfu, netns, peer, _dir: dir }))
    }

    /// A transport of the worker on an address, with a producer; the port.
    fn transport(&self, ip: &str) -> Result<u16> {
        let mut sfu = self.sfu.lock().unwrap_or_else(PoisonError::into_inner);
        let plain = Plain { ip: ip.parse()?, comedia: true, router: 0 };
        let transport = sfu.plain("ann", plain)?;
        Ok(transport.address.port())
    }

    /// Sends to the worker from an address of a host: all packets are counted as received there, and
    /// none twice. The worker's own answers are not looked at.
    fn arrives(&self, from: &Netns, ip: IpAddr, to: (IpAddr, u16)) -> Result<()> {
        let socket = from.run_in(|| UdpSocket::bind((ip, 0)))?;
        let ssrc = u32::from(socket.local_addr()?.port()) << 8;
        // The host's addresses may be new.
        let counting = &self.counting;
        self.netns.run_in(|| counting.refresh())?;
        for sequence in 1..=PACKETS {
            let sequence = sequence as u16;
            let packet = Packet {
                payload_type: 96,
                ssrc,
                sequence,
                payload: vec![0; 100],
                ..Packet::default()
            };
            socket.send_to(&packet.to_bytes(), to)?;
        }
        wait::until_equal("each packet to be counted once", wait::LONG, || {
            Ok((counted(&self.counting.read()?, Receive, ssrc).0, PACKETS))
        })
    }
}

/// Containers on a bridge: a worker in one, far sides in the next one, on the host and beyond.
#[test]
fn a_container_behind_a_bridge_is_counted_once_by_tcx() -> Result<()> {
    container(Mechanism::Auto)
}

#[test]
fn a_container_behind_a_bridge_is_counted_once_by_clsact() -> Result<()> {
    container(Mechanism::Clsact)
}

fn container(mechanism: Mechanism) -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let pair = Pair::new()?;
    let (worker, next) = (Netns::new("worker")?, Netns::new("next")?);
    pair.sfu.ip("link add name docker0 type bridge")?;
    pair.sfu.ip("link set docker0 up")?;
    pair.sfu.address("docker0", "172.30.0.1".parse()?, 24)?;
    for (number, container) in [(2, &worker), (3, &next)] {
        let port = format!("veth{number}");
        veth(&pair.sfu, &port, container, "eth0")?;
        pair.sfu.ip(&format!("link set {port} master docker0"))?;
        container.address("eth0", format!("172.30.0.{number}").parse()?, 24)?;
        container.ip("route add default via 172.30.0.1")?;
    }
    let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward";
    let mut shell: Command = pair.sfu.command("sh");
    ensure!(shell.args(["-c", forward]).status()?.success(), "{forward}");
    pair.peer.ip("route add 172.30.0.0/24 via 10.77.0.1")?;

    let process = Worker::start(&worker)?;
    let options = Options { method: MethodChoice::Ebpf, mechanism, ..options() };
    let counting = start_with(&pair.sfu, options)?;
    published(&pair, &worker, &counting)?;
    let cases = [(&pair.peer, "10.77.0.2"), (&next, "172.30.0.3"), (&pair.sfu, "172.30.0.1")];
    for (number, (far, ip)) in cases.into_iter().enumerate() {
        let local = format!("172.30.0.2:4001{number}").parse()?;
        let mut talk = Conversation::new(&worker, local, far, ip.parse()?)?;
        let ssrc = 100 * (number as u32 + 1);
        let received = talk.say(Receive, ssrc, 40, 500)?;
        let sent = talk.say(Send, ssrc + 1, 30, 500)?;
        let reading = counting.read()?;
        let found = (counted(&reading, Receive, ssrc), counted(&reading, Send, ssrc + 1));
        assert_eq!(found, ((40, received), (30, sent)), "far side {ip}");
    }
    drop(process);
    Ok(())
}

/// A port of the container's that is published at the host's address, as Docker does it.
fn published(pair: &Pair, worker: &Netns, counting: &Counting) -> Result<()> {
    let rules = "add table ip docker; \
        add chain ip docker pre { type nat hook prerouting priority dstnat; }; \
        add rule ip docker pre ip daddr 10.77.0.1 udp dport 30500 dnat to 172.30.0.2:40700";
    let output = pair.sfu.command("nft").arg(rules).output()?;
    ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
    let inside = worker.run_in(|| UdpSocket::bind("172.30.0.2:40700"))?;
    let outside = pair.peer.run_in(|| UdpSocket::bind("10.77.0.2:0"))?;
    let mut buffer = [0; 2048];
    for sequence in 0..PACKETS as u16 {
        let packet =
            |ssrc| Packet { sequence, ssrc, payload: vec![0; 100], ..Packet::default() }.to_bytes();
        outside.send_to(&packet(7001), "10.77.0.1:30500")?;
        let (_, client) = inside.recv_from(&mut buffer)?;
        inside.send_to(&packet(7002), client)?;
        outside.recv(&mut buffer)?;
    }
    let reading = counting.read()?;
    let found = (counted(&reading, Receive, 7001).0, counted(&reading, Send, 7002).0);
    assert_eq!(found, (PACKETS, PACKETS), "a published port");
    let tuple = reading.streams.iter().find(|it| it.ssrc == 7001).context("its stream")?.tuple;
    assert_eq!((tuple.local, tuple.remote), (inside.local_addr()?, outside.local_addr()?));
    Ok(())
}

/// A process that looks like a worker, so that its network namespace is looked at.
struct Worker(std::process::Child);

impl Worker {
    fn start(host: &Netns) -> Result<Self> {
        const PROGRAM: &str = "import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('0.0.0.0', 40900))
print('bound', flush=True)
sys.stdin.read()";
        let mut command: Command = host.command("python3");
        command.args(["-c", PROGRAM, "--logLevel=warn", "--rtcMinPort=40000"]);
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = command.spawn().context("start python3")?;
        let mut line = [0; 5];
        let stdout = child.stdout.as_mut().context("no stdout")?;
        std::io::Read::read_exact(stdout, &mut line)?;
        Ok(Self(child))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An interface of GRE over IPv4 may give what came in with GRE's headers still in front.
#[test]
fn what_comes_in_by_gre_is_counted() -> Result<()> {
    /// ARPHRD_IPGRE
    const GRE: u16 = 778;
    if !root_or_skip() {
        return Ok(());
    }
    let host = Netns::new("gre")?;
    let mut device = host.run_in(|| tun::open("gre0x", Some(GRE)))?;
    host.ip("link set gre0x up")?;
    host.address("gre0x", IpAddr::from(LOCAL_V4), 24)?;
    let counting = start_with(&host, Options { method: MethodChoice::Ebpf, ..options() })?;
    let ends = Ends::v4(RECEIVE, 5000);
    let with_key = gre([0x20, 0], [8, 0], &[0; 4]);
    for sequence in 0..PACKETS as u16 {
        let packet = Packet { sequence, ssrc: 7, payload: vec![0; 100], ..Packet::default() };
        let packet = ends.ip(UDP, &ends.udp(&packet.to_bytes()));
        let wrapped = if sequence % 2 == 0 { [&with_key[..], &packet].concat() } else { packet };
        std::io::Write::write_all(&mut device, &wrapped)?;
    }
    wait::until_equal("each packet to be counted once", wait::LONG, || {
        Ok((PACKETS, counted(&counting.read()?, Receive, 7).0))
    })
}

#[test]
fn link_types_that_are_not_understood_are_told() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let host = Netns::new("kinds")?;
    let mut devices = Vec::new();
    for (name, kind, address) in [("gre6x", 823, "10.86.1.1"), ("x25x", 271, "10.86.2.1")] {
        devices.push(host.run_in(|| tun::open(name, Some(kind)))?);
        host.ip(&format!("link set {name} up"))?;
        host.address(name, address.parse()?, 24)?;
    }
    let counting = start_with(&host, Options { method: MethodChoice::Ebpf, ..options() })?;
    let status = counting.status();
    assert_eq!(status.interfaces, ["lo", "gre6x"]);
    assert!(status.failing["x25x"].contains("link type 271"), "{status:?}");
    Ok(())
}
