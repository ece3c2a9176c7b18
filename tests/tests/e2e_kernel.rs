//! The kernel program beside a real mediasoup, without the rest of the exporter: its tables against
//! what the peers sent and received, and against nftables.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;

use anyhow::{Context, Result};
use exporter_tests::endpoint::{Count, Counts};
use exporter_tests::nft::{Counted, Nft};
use exporter_tests::peer::Sequence;
use exporter_tests::scene::{Person, Scene};
use exporter_tests::{cast, wait};
use mediasoup_exporter::kernel::{Counting, MethodChoice, Options};
use mediasoup_exporter::model::{Class, Counter, Direction, JoinKey, Proto, Reading, Tuple};

type Ends = (SocketAddr, SocketAddr);

#[test]
fn tables_hold_what_passed() -> Result<()> {
    let Some((mut scene, counting)) = set(&["br*", "lo"])? else { return Ok(()) };
    cast::play(&mut scene, 200)?;
    matches(&scene, &counting)?;
    cast::play(&mut scene, 200)?;
    matches(&scene, &counting)
}

#[test]
fn a_bridge_and_its_ports_count_once() -> Result<()> {
    let Some((mut scene, counting)) = set(&["*"])? else { return Ok(()) };
    cast::play(&mut scene, 100)?;
    matches(&scene, &counting)
}

#[test]
fn what_is_told_is_known() -> Result<()> {
    let Some((mut scene, counting)) = set(&["br*"])? else { return Ok(()) };
    let key =
        |(local, remote): Ends| JoinKey { proto: Proto::Udp, local_port: local.port(), remote };
    let channels = || scene.people.values().flat_map(Person::channels);
    let told: HashSet<JoinKey> = channels().map(|it| it.pair().map(key)).collect::<Result<_>>()?;
    counting.tell(&told)?;
    scene.play(2)?;
    wait::until("every flow to be known at once", wait::LONG, || {
        let reading = counting.read()?;
        let known = reading.flows.iter().filter(|it| it.known);
        let known = known.filter(|it| told.contains(&it.tuple.join_key())).count();
        Ok((known >= scene.people.len()).then_some(()))
    })
}

/// The SFU with counting beside it and the cast in it.
fn set(interfaces: &[&str]) -> Result<Option<(Scene, Counting)>> {
    let Some(build) = cast::newest() else { return Ok(None) };
    let mut scene = cast::open(&build)?;
    Nft::start(&scene.host)?;
    let options = Options {
        interfaces: interfaces.iter().map(|&name| name.to_owned()).collect(),
        ports: Some(40_000..=49_999),
        method: MethodChoice::Ebpf,
        ..Options::default()
    };
    let counting = scene.host.run_in(|| Counting::start(&options))?;
    for role in cast::roles() {
        scene.enter(role)?;
    }
    scene.introduce()?;
    Ok(Some((scene, counting)))
}

fn matches(scene: &Scene, counting: &Counting) -> Result<()> {
    let limit = wait::LONG;
    let _quiet = scene.sfu.quiet()?;
    wait::until_equal("streams as sent and received", limit, || streams(scene, &counting.read()?))?;
    wait::until_equal("classes as sent and received", limit, || classes(scene, &counting.read()?))?;
    wait::until_equal("flows as nftables counts them", limit, || flows(scene, &counting.read()?))?;
    wait::until_equal("sequences as scripted", limit, || sequences(scene, &counting.read()?))
}

type Streams = BTreeMap<(Ends, Direction, u32), Count>;

fn streams(scene: &Scene, reading: &Reading) -> Result<(Streams, Streams)> {
    let mut expected = Streams::new();
    for (ends, direction, counts) in ends(scene)? {
        let rtp = counts.rtp.iter();
        expected.extend(rtp.map(|(ssrc, count)| ((ends, direction, *ssrc), *count)));
    }
    let streams = reading.streams.iter();
    let counted = streams
        .filter(|it| !it.tuple.remote.ip().is_loopback())
        .map(|it| ((pair(&it.tuple), it.direction, it.ssrc), count(it.total)));
    Ok((expected, counted.collect()))
}

type Classes = BTreeMap<(Ends, Direction, u8), Count>;

/// By flow and class: RTP is the flow's own and its streams'.
fn counted(reading: &Reading) -> Classes {
    let mut counted = Classes::new();
    for flow in &reading.flows {
        for (direction, counts) in
            [Direction::Receive, Direction::Send].into_iter().zip(flow.counts)
        {
            for (class, counter) in (0..).zip(counts) {
                counted.insert((pair(&flow.tuple), direction, class), count(counter));
            }
        }
    }
    for stream in &reading.streams {
        let rtp = (pair(&stream.tuple), stream.direction, Class::Rtp as u8);
        let sum = counted.entry(rtp).or_default();
        *sum = *sum + count(stream.total);
    }
    counted.retain(|_, count| count.packets > 0);
    counted
}

fn classes(scene: &Scene, reading: &Reading) -> Result<(Classes, Classes)> {
    let mut expected = Classes::new();
    for (ends, direction, counts) in ends(scene)? {
        let rtp = counts.rtp.values().copied().sum();
        for (class, count) in [(Class::Rtp, rtp), (Class::Rtcp, counts.rtcp)] {
            expected.insert((ends, direction, class as u8), count);
        }
    }
    expected.retain(|_, count| count.packets > 0);
    let mut counted = counted(reading);
    counted.retain(|((_, remote), ..), _| !remote.ip().is_loopback());
    Ok((expected, counted))
}

/// With the pipes between workers.
fn flows(scene: &Scene, reading: &Reading) -> Result<(Counted, Counted)> {
    let mut sums = Counted::default();
    for ((ends, direction, _), count) in counted(reading) {
        let of = match direction {
            Direction::Receive => &mut sums.received,
            Direction::Send => &mut sums.sent,
        };
        let sum = of.entry(ends).or_default();
        *sum = *sum + count;
    }
    Ok((Nft::of(&scene.host).read()?, sums))
}

type Sequences = BTreeMap<(String, u32), Sequence>;

fn sequences(scene: &Scene, reading: &Reading) -> Result<(Sequences, Sequences)> {
    let (mut expected, mut counted) = (Sequences::new(), Sequences::new());
    for person in scene.people.values() {
        let ends = person.sending.pair()?;
        for (ssrc, sequence) in person.sender.sequences() {
            let name = (person.role.peer.clone(), ssrc);
            let mut streams = reading.streams.iter();
            let stream = streams
                .find(|it| {
                    pair(&it.tuple) == ends && it.direction == Direction::Receive && it.ssrc == ssrc
                })
                .context("a stream that is not counted")?;
            expected.insert(name.clone(), sequence);
            counted.insert(
                name,
                Sequence {
                    expected: stream.expected,
                    lost: stream.expected + stream.duplicates - stream.received,
                    duplicates: stream.duplicates,
                    out_of_order: stream.out_of_order,
                    restarts: stream.restarts.into(),
                },
            );
        }
    }
    Ok((expected, counted))
}

/// What passed at each of the SFU's ends, as the peers counted it.
fn ends(scene: &Scene) -> Result<Vec<(Ends, Direction, Counts)>> {
    let mut ends = Vec::new();
    for channel in scene.people.values().flat_map(Person::channels) {
        ends.push((channel.pair()?, Direction::Receive, channel.endpoint.sent()));
        ends.push((channel.pair()?, Direction::Send, channel.endpoint.received()));
    }
    Ok(ends)
}

fn pair(tuple: &Tuple) -> Ends {
    (tuple.local, tuple.remote)
}

fn count(counter: Counter) -> Count {
    Count { packets: counter.packets, bytes: counter.bytes }
}
