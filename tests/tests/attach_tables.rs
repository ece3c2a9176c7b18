//! The kernel's tables as a reading shows them: every entry that was made, none twice, and room that
//! comes back when entries go.

use std::collections::{BTreeMap, HashSet};
use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context, Result};
use exporter_tests::pair::{Pair, counted, options, start, start_with};
use exporter_tests::rtp::Packet;
use exporter_tests::{root_or_skip, wait};
use mediasoup_exporter::kernel::{Counting, Lifetimes, Limits, MethodChoice, Options};
use mediasoup_exporter::model::Direction::{self, Receive, Send};
use mediasoup_exporter::model::{JoinKey, Proto, Reading, Stream};

const FLOWS: usize = 40;
const STREAMS: u32 = 500;

#[test]
fn twenty_thousand_streams_are_read_as_they_were_made() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let pair = Pair::new()?;
    let counting = start(&pair.sfu, &["sfu0"], MethodChoice::Ebpf)?;
    let mut expected = HashSet::new();
    // A peer's port is free for the next as soon as its socket is closed.
    let mut peers = Vec::new();
    for flow in 0..FLOWS {
        let local = ["10.77.0.1:40000", "[fd77::1]:40000"][flow % 2];
        let sfu = pair.sfu.run_in(|| UdpSocket::bind(local))?;
        let peer =
            pair.peer.run_in(|| UdpSocket::bind(["10.77.0.2:0", "[fd77::2]:0"][flow % 2]))?;
        sfu.connect(peer.local_addr()?)?;
        for ssrc in 0..STREAMS {
            // Sent only: a send proves the flow when something came back.
            let packet =
                Packet { payload_type: 100, ssrc, payload: vec![0; 20], ..Packet::default() };
            if ssrc == 0 {
                peer.send_to(&[0xff], sfu.local_addr()?)?;
                sfu.recv(&mut [0; 8])?;
            }
            sfu.send(&packet.to_bytes())?;
            expected.insert((peer.local_addr()?, ssrc));
        }
        peers.push(peer);
    }
    let reading = counting.read()?;
    let rows = reading.streams.iter().map(|stream| (stream.tuple.remote, stream.ssrc));
    let found: HashSet<_> = rows.collect();
    assert_eq!(reading.streams.len(), FLOWS * STREAMS as usize, "a stream came twice or never");
    assert_eq!(found, expected);
    assert!(reading.streams.iter().all(|stream| stream.total.packets == 1 && stream.known));
    assert_eq!(reading.flows.len(), FLOWS);
    assert_eq!(entries(&reading, "streams"), (FLOWS * STREAMS as usize) as u64);
    Ok(())
}

#[test]
fn told_flows_are_known_from_their_first_packet() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let pair = Pair::new()?;
    let counting = start(&pair.sfu, &["sfu0"], MethodChoice::Ebpf)?;
    for local in ["10.77.0.1:40000", "[fd77::1]:40000"] {
        let peer = if local.starts_with('[') { "fd77::2" } else { "10.77.0.2" };
        let mut told = pair.connect(local, peer)?;
        let key =
            JoinKey { proto: Proto::Udp, local_port: 40_000, remote: told.peer.local_addr()? };
        counting.tell(&HashSet::from([key]))?;
        told.say(Receive, 1, 3, 100)?;
        assert!(known(&counting.read()?, &key));
        // No longer told, but known for good.
        counting.tell(&HashSet::new())?;
        told.say(Receive, 1, 3, 100)?;
        assert!(known(&counting.read()?, &key));
        // The peer keeps its port, so that the stranger gets another.
        drop(told.sfu);
        let mut stranger = pair.connect(local, peer)?;
        stranger.say(Receive, 2, 3, 100)?;
        let key = JoinKey { remote: stranger.peer.local_addr()?, ..key };
        assert!(!known(&counting.read()?, &key));
        // Told late: known with the next packet, and nothing is lost.
        counting.tell(&HashSet::from([key]))?;
        stranger.say(Receive, 2, 4, 100)?;
        let reading = counting.read()?;
        assert!(known(&reading, &key));
    }
    assert_eq!(counted(&counting.read()?, Receive, 2).0, 14);
    Ok(())
}

#[test]
fn what_rests_goes_and_gives_its_room_back() -> Result<()> {
    rests_and_goes(MethodChoice::Ebpf)
}

#[test]
fn what_rests_goes_from_the_capture_too() -> Result<()> {
    rests_and_goes(MethodChoice::Capture)
}

fn rests_and_goes(method: MethodChoice) -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let pair = Pair::new()?;
    let counting = start_with(
        &pair.sfu,
        Options {
            interfaces: vec!["sfu0".into()],
            method,
            lifetimes: Lifetimes { stranger: 0, untold: 0, stream: 0 },
            limits: Limits { stranger_flows: 2, ssrcs_per_flow: 3, ..Limits::default() },
            ..options()
        },
    )?;
    let mut known = pair.connect("10.77.0.1:40000", "10.77.0.2")?;
    let mut stranger = pair.connect("10.77.0.1:40001", "10.77.0.2")?;
    known.say(Receive, 1, 10, 100)?;
    known.say(Send, 2, 10, 100)?;
    stranger.say(Receive, 3, 10, 100)?;
    let all = BTreeMap::from([((Receive, 1), 10), ((Receive, 3), 10), ((Send, 2), 10)]);
    let (mut ended, mut flows) = (BTreeMap::<(Direction, u32), u64>::new(), 0);
    // Capture may hear a stream's last packets when its first ones have ended already: sums.
    wait::until_equal("everything to end once, with all packets", wait::LONG, || {
        let reading = counting.read()?;
        flows += reading.flows.iter().filter(|flow| flow.ended).count();
        for stream in reading.streams.iter().filter(|stream| stream.ended) {
            *ended.entry((stream.direction, stream.ssrc)).or_default() += stream.total.packets;
        }
        // Both flows have ended, too, after their streams.
        Ok(((ended.clone(), flows >= 2), (all.clone(), true)))
    })?;
    let reading = counting.read()?;
    assert!(reading.flows.is_empty() && reading.streams.is_empty());
    for table in ["flows", "streams", "stranger_flows", "stranger_streams"] {
        assert_eq!(entries(&reading, table), 0, "{table}");
    }
    Ok(())
}

/// A flow's bound on SSRCs counts streams that are there, not those that ever were.
#[test]
fn streams_that_went_make_room_in_their_flow() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let pair = Pair::new()?;
    let limits = Limits { ssrcs_per_flow: 3, ..Limits::default() };
    let counting = start_forgetful(&pair, limits)?;
    for (local, peer) in [("10.77.0.1:40000", "10.77.0.2"), ("[fd77::1]:40000", "fd77::2")] {
        let mut talk = pair.connect(local, peer)?;
        for generation in 0..3 {
            for ssrc in 0..3 {
                talk.say(Send, generation * 10 + ssrc, 1, 100)?;
            }
            let reading = counting.read()?;
            let made = reading.streams.iter().filter(|row| row.ssrc / 10 == generation).count();
            assert_eq!(made, 3, "generation {generation}: the flow's share is used up");
            wait::until("streams to end", wait::LONG, || {
                Ok((live(&counting.read()?).count() == 0).then_some(()))
            })?;
        }
    }
    Ok(())
}

/// Streams rest, are let go of, and come again at the same time as they are read: each packet is in a
/// reading's last word on a stream, or in what is still there.
#[test]
fn nothing_is_lost_while_streams_come_and_go() -> Result<()> {
    const SSRCS: u32 = 400;
    const BURSTS: u32 = 4_000;
    const PACKETS: usize = 5;
    if !root_or_skip() {
        return Ok(());
    }
    let pair = Pair::new()?;
    let counting = start_forgetful(&pair, Limits::default())?;
    let mut talk = pair.connect("10.77.0.1:40000", "10.77.0.2")?;
    talk.say(Receive, 0, 1, 100)?;
    let (mut ended, mut ends) = (0, 0);
    let mut take = |reading: &Reading| {
        for stream in reading.streams.iter().filter(|stream| stream.ended) {
            ended += stream.total.packets;
            ends += 1;
        }
        ended + live(reading).map(|stream| stream.total.packets).sum::<u64>()
    };
    std::thread::scope(|scope| {
        let talking = scope.spawn(|| -> Result<()> {
            let mut random = 1_u32;
            for _ in 0..BURSTS {
                // Of each stream about a second apart, which is when it is let go of.
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                talk.say(Send, (random >> 16) % SSRCS, PACKETS, 100)?;
                std::thread::sleep(Duration::from_millis(2));
            }
            Ok(())
        });
        while !talking.is_finished() {
            take(&counting.read()?);
        }
        talking.join().expect("no panic")
    })?;
    assert_eq!(take(&counting.read()?), u64::from(BURSTS) * PACKETS as u64 + 1);
    let flow = &counting.read()?.flows[0];
    assert_eq!(flow.counts.iter().map(|counts| counts[0].packets).sum::<u64>(), 0);
    assert!(ends > SSRCS as usize, "only {ends} streams were let go of");
    Ok(())
}

/// Streams are let go of after a second, flows are not.
fn start_forgetful(pair: &Pair, limits: Limits) -> Result<Counting> {
    let options = Options {
        interfaces: vec!["sfu0".into()],
        method: MethodChoice::Ebpf,
        lifetimes: Lifetimes { stranger: 600, untold: 600, stream: 0 },
        limits,
        ..options()
    };
    start_with(&pair.sfu, options)
}

fn live(reading: &Reading) -> impl Iterator<Item = &Stream> {
    reading.streams.iter().filter(|stream| !stream.ended)
}

fn known(reading: &Reading, key: &JoinKey) -> bool {
    let mut flows = reading.flows.iter().filter(|flow| flow.tuple.join_key() == *key);
    flows.next().is_some_and(|flow| flow.known)
}

fn entries(reading: &Reading, table: &str) -> u64 {
    let found = reading.tables.iter().find(|fill| fill.table == table);
    found.with_context(|| table.to_owned()).unwrap().entries
}

/// Reading from two threads while a third tells and traffic flows: nothing is lost or counted twice.
#[test]
fn reading_and_telling_at_once_is_safe() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let pair = Pair::new()?;
    let counting: Counting = start(&pair.sfu, &["sfu0"], MethodChoice::Ebpf)?;
    let mut talk = pair.connect("10.77.0.1:40000", "10.77.0.2")?;
    let key = JoinKey { proto: Proto::Udp, local_port: 40_000, remote: talk.peer.local_addr()? };
    std::thread::scope(|scope| {
        let readers =
            [(); 2].map(|()| scope.spawn(|| (0..50).try_for_each(|_| counting.read().map(drop))));
        let teller = scope.spawn(|| {
            (0..50).try_for_each(|round| {
                let told = if round % 2 == 0 { HashSet::from([key]) } else { HashSet::new() };
                counting.tell(&told)
            })
        });
        talk.say(Receive, 1, 500, 100)?;
        for reader in readers {
            reader.join().unwrap()?;
        }
        teller.join().unwrap()
    })?;
    assert_eq!(counted(&counting.read()?, Receive, 1).0, 500);
    Ok(())
}
