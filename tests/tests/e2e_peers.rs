//! The test bench itself: what peers sent, what mediasoup counted, what nftables counted and what
//! peers received are the same, before an exporter is held against them.

use anyhow::Result;
use exporter_tests::nft::{Counted, Nft};
use exporter_tests::scene::{Person, Scene};
use exporter_tests::{cast, wait};

#[test]
fn mediasoup_3_12_counts_what_peers_send() -> Result<()> {
    agree("3.12.16")
}

#[test]
fn mediasoup_3_15_counts_what_peers_send() -> Result<()> {
    agree("3.15.8")
}

#[test]
fn mediasoup_3_27_counts_what_peers_send() -> Result<()> {
    agree("3.27.1")
}

fn agree(version: &str) -> Result<()> {
    let Some(build) = cast::ready(version) else { return Ok(()) };
    let mut scene = cast::enter(&build)?;
    Nft::start(&scene.host)?;
    cast::play(&mut scene, 400)?;
    let _quiet = scene.sfu.quiet()?;
    wait::until_equal("nftables to count all of both", wait::LONG, || flows(&scene))
}

#[test]
fn an_ice_check_selects_a_tuple() -> Result<()> {
    let Some(build) = cast::newest() else { return Ok(()) };
    let mut scene = cast::open(&build)?;
    let channel = scene.ice("gus", cast::ATRIUM)?;
    let (local, remote) = channel.pair()?;
    let stats = scene.sfu.stats()?;
    let selected = &stats["transports"][&channel.transport.id]["stats"][0]["iceSelectedTuple"];
    assert_eq!(selected["localPort"], local.port());
    assert_eq!(selected["remotePort"], remote.port());
    assert_eq!(channel.endpoint.received().total(), channel.endpoint.received().stun);
    Ok(())
}

/// What the peers counted by 5-tuple; then what nftables did.
fn flows(scene: &Scene) -> Result<(Counted, Counted)> {
    let mut peers = Counted::default();
    for channel in scene.people.values().flat_map(Person::channels) {
        let pair = channel.pair()?;
        for (counts, of) in [
            (channel.endpoint.sent(), &mut peers.received),
            (channel.endpoint.received(), &mut peers.sent),
        ] {
            if counts.total().packets > 0 {
                of.insert(pair, counts.total());
            }
        }
    }
    let mut counted = Nft::of(&scene.host).read()?;
    // Pipes between workers have no peer.
    for of in [&mut counted.received, &mut counted.sent] {
        of.retain(|(_, remote), _| !remote.ip().is_loopback());
    }
    Ok((peers, counted))
}
