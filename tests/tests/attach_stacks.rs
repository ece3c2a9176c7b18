//! Stacked and raw interfaces, and interfaces that come and go: one packet is counted once, wherever
//! it passes.

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use exporter_ebpf::abi::Event;
use exporter_tests::netns::{Netns, veth};
use exporter_tests::pair::{Conversation, Pair, counted, options, start, start_with};
use exporter_tests::rtp::Packet;
use exporter_tests::scene::leave_ports;
use exporter_tests::tun::{self, VirtioHeader};
use exporter_tests::{root_or_skip, skip, wait};
use mediasoup_exporter::kernel::{Counting, MethodChoice, Options};
use mediasoup_exporter::model::Direction::{Receive, Send};

#[test]
fn a_stack_of_bridge_and_veth_counts_once() -> Result<()> {
    stack(MethodChoice::Ebpf, Top::Veth)
}

#[test]
fn a_stack_of_bridge_and_veth_is_captured_once() -> Result<()> {
    stack(MethodChoice::Capture, Top::Veth)
}

#[test]
fn a_stack_of_bridge_and_vlan_counts_once() -> Result<()> {
    stack(MethodChoice::Ebpf, Top::Vlan)
}

#[test]
fn a_stack_of_bridge_and_vlan_is_captured_once() -> Result<()> {
    stack(MethodChoice::Capture, Top::Vlan)
}

/// What the SFU's address is on, above a bridge that the link to the peer is a member of.
#[derive(Clone, Copy, PartialEq)]
enum Top {
    /// A veth pair, as containers have: the bridge's other member is its other end.
    Veth,
    /// A VLAN of the bridge.
    Vlan,
}

fn stack(method: MethodChoice, top: Top) -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let (sfu, peer) = (Netns::new("stack")?, Netns::new("peer")?);
    veth(&sfu, "port0", &peer, "peer0")?;
    sfu.ip("link add name br0 type bridge")?;
    sfu.ip("link set br0 up")?;
    sfu.ip("link set port0 master br0")?;
    let (mine, theirs) = match top {
        Top::Veth => {
            veth(&sfu, "inner0", &sfu, "port1")?;
            sfu.ip("link set port1 master br0")?;
            ("inner0", "peer0")
        }
        Top::Vlan => {
            if let Err(error) = sfu.ip("link add link br0 name br0.7 type vlan id 7") {
                skip(&format!("{error:#}"));
                return Ok(());
            }
            sfu.ip("link set br0.7 up")?;
            peer.ip("link add link peer0 name peer0.7 type vlan id 7")?;
            peer.ip("link set peer0.7 up")?;
            ("br0.7", "peer0.7")
        }
    };
    sfu.address(mine, "10.78.0.1".parse()?, 24)?;
    peer.address(theirs, "10.78.0.2".parse()?, 24)?;

    let counting = start(&sfu, &["*"], method)?;
    let mut talk =
        Conversation::new(&sfu, "10.78.0.1:40000".parse()?, &peer, "10.78.0.2".parse()?)?;
    let received = talk.say(Receive, 1, 40, 500)?;
    let sent = talk.say(Send, 2, 30, 500)?;
    wait::until_equal("both directions to be counted", wait::LONG, || {
        let reading = counting.read()?;
        let both = (counted(&reading, Receive, 1), counted(&reading, Send, 2));
        Ok((both, ((40, received), (30, sent))))
    })?;
    let reading = counting.read()?;
    assert_eq!(reading.flows.len(), 1);
    if method == MethodChoice::Ebpf {
        let seen = reading.events[Event::SeenBefore as usize];
        // Above the bridge's member there is at least one interface more.
        assert!(seen[0].packets >= 40 && seen[1].packets >= 30, "{seen:?}");
    }
    Ok(())
}

#[test]
fn loopback_counts_both_ends() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let host = Netns::new("lo")?;
    leave_ports(&host)?;
    let counting = start(&host, &["lo"], MethodChoice::Ebpf)?;
    // The peer's port is outside of the range, so one end is the SFU's.
    let mut talk =
        Conversation::new(&host, "127.0.0.1:40001".parse()?, &host, "127.0.0.2".parse()?)?;
    talk.say(Receive, 1, 7, 100)?;
    talk.say(Send, 2, 5, 100)?;
    let reading = counting.read()?;
    assert_eq!((counted(&reading, Receive, 1).0, counted(&reading, Send, 2).0), (7, 5));
    // Both ends in the range: a flow for each end.
    let (a, b) = host.run_in(|| {
        let bind = |port: u16| UdpSocket::bind(("127.0.0.1", port));
        anyhow::Ok((bind(40_002)?, bind(40_003)?))
    })?;
    let packet = Packet { payload_type: 96, ssrc: 3, payload: vec![0; 50], ..Packet::default() };
    a.send_to(&packet.to_bytes(), b.local_addr()?)?;
    b.recv(&mut [0; 100])?;
    let reading = counting.read()?;
    assert_eq!((counted(&reading, Send, 3).0, counted(&reading, Receive, 3).0), (1, 1));
    Ok(())
}

#[test]
fn raw_interfaces_are_counted() -> Result<()> {
    raw(MethodChoice::Ebpf)
}

#[test]
fn raw_interfaces_are_captured() -> Result<()> {
    raw(MethodChoice::Capture)
}

fn raw(method: MethodChoice) -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let host = Netns::new("tun")?;
    let mut tun = host.run_in(|| tun::open("tun0", None))?;
    host.address("tun0", "10.79.0.1".parse()?, 24)?;
    host.ip("link set tun0 up")?;
    let counting = start(&host, &["tun0"], method)?;
    let socket = host.run_in(|| UdpSocket::bind("10.79.0.1:40000"))?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;

    let packet = Packet { payload_type: 96, ssrc: 8, payload: vec![0; 80], ..Packet::default() };
    let bytes = packet.to_bytes();
    tun.write_all(&udp_packet(&bytes)).context("hand the kernel a packet")?;
    ensure!(socket.recv(&mut [0; 200])? == bytes.len());
    socket.send_to(&bytes, "10.79.0.2:9")?;
    let mut sent = [0; 200];
    // The kernel's own multicast may come first.
    while sent[0] >> 4 != 4 || sent[9] != 17 {
        // A tun device gives one packet a read, and cuts what does not fit.
        let length = tun.read(&mut sent)?;
        sent[length..].fill(0);
    }
    wait::until_equal("both directions to be counted", wait::LONG, || {
        let reading = counting.read()?;
        let counted = (counted(&reading, Receive, 8), counted(&reading, Send, 8));
        let one = (1, bytes.len() as u64);
        Ok((counted, (one, one)))
    })
}

/// A guest hands over one large datagram that is to be cut into IP fragments, and many in one frame.
#[test]
fn a_guests_large_datagram_is_one() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let host = Netns::new("guest")?;
    let mut guest = host.run_in(|| tun::open_for_guest("tun0"))?;
    host.address("tun0", "10.79.0.1".parse()?, 24)?;
    host.ip("link set tun0 up")?;
    let counting = start(&host, &["tun0"], MethodChoice::Ebpf)?;
    let socket = host.run_in(|| UdpSocket::bind("10.79.0.1:40000"))?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    // Both sides have spoken, so that what comes has streams.
    let greeting = Packet { payload_type: 96, ssrc: 9, ..Packet::default() }.to_bytes();
    guest.write_all(&[&[0; 10][..], &udp_packet(&greeting)].concat())?;
    socket.recv(&mut [0; 200])?;
    socket.send_to(&greeting, "10.79.0.2:9")?;

    let rtp = |ssrc, payload| {
        Packet { payload_type: 96, ssrc, payload: vec![0x80; payload], ..Packet::default() }
            .to_bytes()
    };
    let mut hand_over = |gso_type, gso_size, datagrams: &[u8]| {
        let header = VirtioHeader { gso_type, gso_size }.to_bytes();
        guest.write_all(&[&header[..], &udp_packet(datagrams)].concat())
    };
    let large = rtp(1, 4_000 - 12);
    hand_over(VirtioHeader::GSO_UDP, 1_480, &large)?;
    ensure!(socket.recv(&mut [0; 8_000])? == large.len(), "the datagram comes as a whole");
    let received = counted(&counting.read()?, Receive, 1);
    assert_eq!(received, (1, large.len() as u64));
    let streams = counting.read()?.streams.len();
    assert_eq!(streams, 3, "its payload is taken for no other's packets");
    let many = [rtp(2, 1_000), rtp(2, 1_000), rtp(3, 500)].concat();
    hand_over(VirtioHeader::GSO_UDP_L4, 1_012, &many)?;
    for length in [1_012, 1_012, 512] {
        ensure!(socket.recv(&mut [0; 8_000])? == length, "each datagram comes by itself");
    }
    let reading = counting.read()?;
    assert_eq!(counted(&reading, Receive, 2), (2, 2_024));
    assert_eq!(counted(&reading, Receive, 3), (1, 512));
    Ok(())
}

/// From 10.79.0.2:9 to 10.79.0.1:40000; without a UDP checksum, which IPv4 permits.
fn udp_packet(payload: &[u8]) -> Vec<u8> {
    let length = 28 + payload.len() as u16;
    let mut header = vec![0x45, 0];
    header.extend(length.to_be_bytes());
    header.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 79, 0, 2, 10, 79, 0, 1]);
    let words = header.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    header.extend([0, 9, 0x9c, 0x40]);
    header.extend((length - 20).to_be_bytes());
    header.extend([0, 0]);
    header.extend(payload);
    header
}

#[test]
fn interfaces_that_come_and_go_are_followed() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let pair = Arc::new(Pair::new()?);
    let inside = Arc::clone(&pair);
    pair.sfu.run_in(|| {
        let interfaces = vec!["sfu*".to_owned()];
        let options = Options { interfaces, method: MethodChoice::Ebpf, ..options() };
        let counting = Arc::new(Counting::start(&options)?);
        // The runtime's threads must be in the namespace, too.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let following = Arc::clone(&counting).follow(async {
            let _ = stopped.await;
        });
        runtime.block_on(async {
            let following = tokio::spawn(following);
            let look = tokio::task::spawn_blocking({
                let counting = Arc::clone(&counting);
                move || come_and_go(&inside, &counting)
            });
            let seen = look.await?;
            let _ = stop.send(());
            following.await?;
            seen
        })
    })
}

fn come_and_go(pair: &Pair, counting: &Counting) -> Result<()> {
    let on = || counting.status().interfaces;
    assert_eq!(on(), ["sfu0"]);
    veth(&pair.sfu, "sfu1", &pair.peer, "peer1")?;
    pair.sfu.address("sfu1", "10.80.0.1".parse()?, 24)?;
    pair.peer.address("peer1", "10.80.0.2".parse()?, 24)?;
    wait::until_equal("sfu1 to be attached", wait::LONG, || Ok((on().len(), 2)))?;
    // Its address has to become local, too, which comes with a later change.
    let mut talk = pair.connect("10.80.0.1:40000", "10.80.0.2")?;
    wait::until("a packet to sfu1 to be counted", wait::LONG, || {
        talk.say(Receive, 5, 1, 100)?;
        Ok((counted(&counting.read()?, Receive, 5).0 > 0).then_some(()))
    })?;
    pair.sfu.ip("link del sfu1")?;
    wait::until_equal("sfu1 to be detached", wait::LONG, || Ok((on(), vec!["sfu0".into()])))?;
    pair.sfu.ip("link set sfu0 down")?;
    wait::until_equal("sfu0 to be detached", wait::LONG, || Ok((on().len(), 0)))?;
    pair.sfu.ip("link set sfu0 up")?;
    wait::until_equal("sfu0 to be attached", wait::LONG, || Ok((on().len(), 1)))
}

#[test]
fn by_default_all_that_are_up_are_counted_on() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let pair = Pair::new()?;
    veth(&pair.sfu, "other0", &pair.peer, "other1")?;
    pair.sfu.ip("link add down0 type bridge")?;
    pair.sfu.ip("route add default via 10.77.0.2")?;
    let counting = start_with(&pair.sfu, Options { method: MethodChoice::Ebpf, ..options() })?;
    let mut interfaces = counting.status().interfaces;
    interfaces.sort();
    assert_eq!(interfaces, ["lo", "other0", "sfu0"]);
    Ok(())
}
