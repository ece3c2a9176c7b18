//! Ownership on a real kernel: sockets are bound, closed and found, and what is counted follows.

use std::net::UdpSocket;

use anyhow::{Result, ensure};
use caps::{CapSet, Capability};
use exporter_ebpf::abi::Event;
use exporter_tests::binders::Workers;
use exporter_tests::bpf;
use exporter_tests::netns::Netns;
use exporter_tests::pair::{Pair, counted, start_with};
use exporter_tests::rtp::Packet;
use exporter_tests::{root_or_skip, wait};
use mediasoup_exporter::kernel::{Counting, Knowledge, MethodChoice, Options, Sockets};
use mediasoup_exporter::model::Direction::Receive;
use mediasoup_exporter::model::Proto;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

const PACKETS: u32 = 50;

/// The exporter starts first: nothing of a worker that starts later is missed.
#[test]
fn the_first_packet_to_a_new_port_counts() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let (pair, workers) = (Pair::new()?, workers()?);
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
        let (pair, workers) = (Pair::new()?, workers()?);
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
    let (pair, workers) = (Pair::new()?, workers()?);
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
    let (pair, workers) = (Pair::new()?, workers()?);
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
    let (pair, workers) = (Pair::new()?, workers()?);
    let counting = start_with(&pair.sfu, options())?;
    let known = counting.status().owned.by;
    ensure!(known == Knowledge::Cgroup, "{:?}", counting.status());
    detach_from_cgroups()?;
    refresh(&pair, &counting)?;
    let mut worker = workers.start("mediasoup-worker", &pair.sfu)?;
    worker.bind("0.0.0.0:2000")?;
    send(&pair.peer, 2_000, 1)?;
    arrived(&counting, 1)
}

/// After the start most rights are given up, the one to find the cgroups among them.
#[test]
fn programs_are_attached_again_without_the_right_to_find_the_cgroups() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let (pair, workers) = (Pair::new()?, workers()?);
    let counting = start_with(&pair.sfu, options())?;
    let refresh_without_rights = |links: bool| {
        pair.sfu.run_in(|| {
            caps::drop(None, CapSet::Effective, Capability::CAP_SYS_ADMIN)?;
            if !links {
                forbid_links()?;
            }
            counting.refresh()
        })
    };
    let mut worker = workers.start("mediasoup-worker", &pair.sfu)?;
    worker.bind("0.0.0.0:2000")?;
    detach_from_cgroups()?;
    refresh_without_rights(true)?;
    assert_eq!(counting.status().owned.by, Knowledge::Cgroup, "{:?}", counting.status());
    worker.bind("0.0.0.0:2001")?;
    send(&pair.peer, 2_001, 1)?;
    arrived(&counting, 1)?;
    // Where that is not permitted either, it says so, and looks.
    detach_from_cgroups()?;
    refresh_without_rights(false)?;
    let owned = counting.status().owned;
    assert_eq!(owned.by, Knowledge::Scan, "{owned:?}");
    ensure!(owned.why.is_some_and(|why| why.contains("detached")), "it does not say why");
    worker.bind("0.0.0.0:2002")?;
    worker.close("0.0.0.0:2000")?;
    counting.hear()?;
    let has = |port| counting.ownership().owns(worker.pid(), Proto::Udp, port);
    assert_eq!([2_000, 2_001, 2_002].map(has), [false, true, true].map(Some));
    send(&pair.peer, 2_002, 2)?;
    arrived(&counting, 2)?;
    // And takes it up again when it can.
    refresh(&pair, &counting)?;
    assert_eq!(counting.status().owned.by, Knowledge::Cgroup);
    worker.close("0.0.0.0:2001")?;
    worker.bind("0.0.0.0:2003")?;
    send(&pair.peer, 2_003, 3)?;
    arrived(&counting, 3)?;
    counting.hear()?;
    let has = |port| counting.ownership().owns(worker.pid(), Proto::Udp, port);
    assert_eq!([2_001, 2_002, 2_003].map(has), [false, true, true].map(Some));
    Ok(())
}

/// This thread may attach no program any more.
fn forbid_links() -> Result<()> {
    const LINK_CREATE: u64 = 28;
    let compare = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, LINK_CREATE)?;
    let rules = [(libc::SYS_bpf, vec![SeccompRule::new(vec![compare])?])];
    let filter = SeccompFilter::new(
        rules.into(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM as u32),
        std::env::consts::ARCH.try_into()?,
    )?;
    let program: BpfProgram = filter.try_into()?;
    Ok(seccompiler::apply_filter(&program)?)
}

fn detach_from_cgroups() -> Result<()> {
    bpf::detach_by_force(|link| {
        let program = aya::programs::loaded_programs().flatten();
        let ours = |name: Option<&str>| matches!(name, Some("bound_v4" | "bound_v6" | "released"));
        program.into_iter().any(|it| it.id() == link.program_id() && ours(it.name_as_str()))
    })
}

/// IPV6_V6ONLY, as mediasoup 3.12 has it on all its sockets: the same port of IPv4 is another's.
#[test]
fn a_socket_for_ipv6_only_leaves_ipv4_to_others() -> Result<()> {
    for (sockets, is_before) in
        [(Sockets::Auto, true), (Sockets::Auto, false), (Sockets::Looks, true)]
    {
        if !root_or_skip() {
            return Ok(());
        }
        let (pair, workers) = (Pair::new()?, workers()?);
        let mut worker = workers.start("mediasoup-worker", &pair.sfu)?;
        let mut bind = || {
            worker.bind_v6_only("[::]:2000")?;
            worker.bind("[::]:2001")
        };
        if is_before {
            bind()?;
        }
        let counting = start_with(&pair.sfu, Options { sockets, ..options() })?;
        if !is_before {
            bind()?;
        }
        let _other = pair.sfu.run_in(|| UdpSocket::bind("0.0.0.0:2000"))?;
        let six = pair.peer.run_in(|| UdpSocket::bind("[fd77::2]:0"))?;
        for (ssrc, port) in [(1, 2_000), (2, 2_001)] {
            send(&pair.peer, port, ssrc)?;
            for sequence in 0..PACKETS {
                six.send_to(&packet(10 + ssrc, sequence), ("fd77::1", port))?;
            }
        }
        for ssrc in [2, 11, 12] {
            arrived(&counting, ssrc)?;
        }
        assert_eq!(packets(&counting, 1)?, 0, "{sockets:?}, bound before the start: {is_before}");
        counting.hear()?;
        let ends = counting.ownership().sockets(|_, socket| Some(socket.end));
        let only = ends.iter().filter(|end| end.is_v6_only).map(|end| end.local.port());
        assert_eq!(only.collect::<Vec<_>>(), [2_000]);
    }
    Ok(())
}

/// SO_REUSEPORT: what has the most of them closes the oldest first.
#[test]
fn a_port_that_many_sockets_share_is_owned_until_the_last_goes() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let (pair, workers) = (Pair::new()?, workers()?);
    let counting = start_with(&pair.sfu, options())?;
    let mut worker = workers.start("mediasoup-worker", &pair.sfu)?;
    worker.share("0.0.0.0:2000", 20)?;
    counting.hear()?;
    for left in (0..20).rev() {
        worker.close("0.0.0.0:2000")?;
        counting.hear()?;
        assert_eq!(sockets_of(&counting, worker.pid()), left);
        let ssrc = 1 + left as u32;
        send(&pair.peer, 2_000, ssrc)?;
        if left > 0 {
            arrived(&counting, ssrc)?;
        }
    }
    assert_eq!(packets(&counting, 1)?, 0);
    Ok(())
}

#[test]
fn a_connected_socket_from_before_the_start_is_found() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let (pair, workers) = (Pair::new()?, workers()?);
    let mut worker = workers.start("mediasoup-worker", &pair.sfu)?;
    worker.connect("10.77.0.1:2000", "10.77.0.2:3000")?;
    let counting = start_with(&pair.sfu, options())?;
    let peer = pair.peer.run_in(|| UdpSocket::bind("10.77.0.2:3000"))?;
    send_from(&peer, 2_000, 1)?;
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

/// Who only calls himself a worker may have his own sockets counted, and takes no room from others.
#[test]
fn a_process_with_many_sockets_takes_no_room_from_workers() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let (pair, workers) = (Pair::new()?, workers()?);
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
    let (pair, workers) = (Pair::new()?, workers()?);
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

fn workers() -> Result<Workers> {
    Workers::new(env!("CARGO_BIN_EXE_binder"))
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
