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

fn agree(version: &str) -> Result<()> {
    let Some(build) = cast::ready(version) else { return Ok(()) };
    let mut scene = cast::enter(&build)?;
    Nft::start(&scene.host)?;
    scene.play(400)?;
    cast::repair(&mut scene)?;
    let (scene, limit) = (&mut scene, wait::LONG);
    wait::until_equal("producers to count what was sent", limit, || cast::producers(scene))?;
    wait::until_equal("consumers to count what arrived", limit, || cast::consumers(scene))?;
    wait::until_equal("nftables to count all of both", limit, || flows(scene))?;
    assert_eq!(scene.dropped()?, 0);
    Ok(())
}

/// What the peers counted by 5-tuple; then what nftables did.
fn flows(scene: &mut Scene) -> Result<(Counted, Counted)> {
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
