//! Two hosts, an SFU's and a peer's, that send each other plain RTP: the smallest traffic that the
//! exporter counts, with everything that was sent and received known exactly.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mediasoup_exporter::kernel::{Counting, MethodChoice, Options};
use mediasoup_exporter::model::{Direction, Reading, Stream};

use crate::netns::{Netns, veth};
use crate::rtp::Packet;

/// The ports that are counted in these tests.
pub const PORTS: std::ops::RangeInclusive<u16> = 40_000..=40_999;

/// Two namespaces joined by a veth pair, with addresses of both families.
#[derive(Debug)]
pub struct Pair {
    /// The SFU's host; its interface is `sfu0`.
    pub sfu: Netns,
    /// The peer's host; its interface is `peer0`.
    pub peer: Netns,
}

impl Pair {
    /// Fresh namespaces. `10.77.0.1` and `fd77::1` are the SFU's, `.2` and `::2` the peer's.
    pub fn new() -> Result<Self> {
        let (sfu, peer) = (Netns::new("sfu")?, Netns::new("peer")?);
        veth(&sfu, "sfu0", &peer, "peer0")?;
        for (host, interface, number) in [(&sfu, "sfu0", 1), (&peer, "peer0", 2)] {
            host.address(interface, format!("10.77.0.{number}").parse()?, 24)?;
            host.address(interface, format!("fd77::{number}").parse()?, 64)?;
        }
        Ok(Self { sfu, peer })
    }

    /// Two sockets that know each other: the SFU's at `local`, the peer's at any port.
    pub fn connect(&self, local: &str, peer: &str) -> Result<Conversation> {
        Conversation::new(&self.sfu, local.parse()?, &self.peer, peer.parse()?)
    }
}

/// Starts counting in a namespace, on the named interfaces.
pub fn start(host: &Netns, interfaces: &[&str], method: MethodChoice) -> Result<Counting> {
    let interfaces = interfaces.iter().map(|&name| name.to_owned()).collect();
    start_with(host, Options { interfaces, method, ..options() })
}

/// Starts counting in a namespace.
pub fn start_with(host: &Netns, options: Options) -> Result<Counting> {
    host.run_in(|| Counting::start(&options))
}

/// The ports of these tests, and the defaults.
pub fn options() -> Options {
    Options { ports: Some(PORTS), ..Options::default() }
}

/// An SFU's socket and a peer's.
#[derive(Debug)]
pub struct Conversation {
    /// The SFU's.
    pub sfu: UdpSocket,
    /// The peer's.
    pub peer: UdpSocket,
    sequence: u16,
}

impl Conversation {
    /// Binds and connects both.
    pub fn new(a: &Netns, local: SocketAddr, b: &Netns, remote: IpAddr) -> Result<Self> {
        let sfu = a.run_in(|| UdpSocket::bind(local)).with_context(|| local.to_string())?;
        let peer = b.run_in(|| bind_elsewhere(remote))?;
        sfu.connect(peer.local_addr()?)?;
        peer.connect(sfu.local_addr()?)?;
        for socket in [&sfu, &peer] {
            socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        }
        Ok(Self { sfu, peer, sequence: 0 })
    }

    /// Sends packets of one SSRC with the given payload towards the SFU or from it, and waits for
    /// each to arrive. Returns the RTP bytes of all.
    pub fn say(
        &mut self,
        direction: Direction,
        ssrc: u32,
        packets: usize,
        payload: usize,
    ) -> Result<u64> {
        let (from, to) = match direction {
            Direction::Receive => (&self.peer, &self.sfu),
            Direction::Send => (&self.sfu, &self.peer),
        };
        let mut buffer = [0; 2048];
        let mut bytes = 0;
        for _ in 0..packets {
            self.sequence = self.sequence.wrapping_add(1);
            let packet = Packet {
                payload_type: 96,
                sequence: self.sequence,
                ssrc,
                payload: vec![0; payload],
                ..Packet::default()
            };
            let sent = from.send(&packet.to_bytes())?;
            let received = to.recv(&mut buffer).context("receive what was sent")?;
            ensure!(sent == received, "sent {sent} bytes, received {received}");
            bytes += sent as u64;
        }
        Ok(bytes)
    }
}

/// At any port but those that are counted: a packet from there to another exporter's ports would be one that is sent.
fn bind_elsewhere(address: IpAddr) -> std::io::Result<UdpSocket> {
    loop {
        let socket = UdpSocket::bind((address, 0))?;
        if !PORTS.contains(&socket.local_addr()?.port()) {
            return Ok(socket);
        }
    }
}

/// Packets and bytes of one SSRC in one direction, over all flows.
pub fn counted(reading: &Reading, direction: Direction, ssrc: u32) -> (u64, u64) {
    let of_ssrc = |stream: &&Stream| stream.direction == direction && stream.ssrc == ssrc;
    let streams = reading.streams.iter().filter(of_ssrc);
    streams.fold((0, 0), |(packets, bytes), stream| {
        (packets + stream.total.packets, bytes + stream.total.bytes)
    })
}
