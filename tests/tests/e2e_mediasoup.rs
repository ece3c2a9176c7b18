//! The exporter beside a real mediasoup: everything that it tells is held against what the peers
//! sent and received, what mediasoup counted, and what nftables counted.

use anyhow::Result;
use exporter_tests::endpoint::Count;
use exporter_tests::exporter::Exporter;
use exporter_tests::nft::Nft;
use exporter_tests::scene::Scene;
use exporter_tests::scrape::Scrape;
use exporter_tests::{cast, expect, prometheus, wait};

/// Media time of a performance: 8 seconds.
const TICKS: u64 = 400;

#[test]
fn mediasoup_3_12_is_told_as_it_is() -> Result<()> {
    check("3.12.16")
}

#[test]
fn mediasoup_3_15_is_told_as_it_is() -> Result<()> {
    check("3.15.8")
}

#[test]
fn mediasoup_3_27_is_told_as_it_is() -> Result<()> {
    check("3.27.1")
}

#[test]
fn a_packet_counts_once_on_all_interfaces() -> Result<()> {
    let Some(build) = cast::newest() else { return Ok(()) };
    let mut scene = cast::open(&build)?;
    Nft::start(&scene.host)?;
    // The bridge and its ports see the same packets.
    let exporter = cast::exporter(&scene, &["--interface", "*"], &[])?;
    for role in cast::roles() {
        scene.enter(role)?;
    }
    scene.introduce()?;
    cast::play(&mut scene, TICKS / 4)?;
    everything_is_counted(&mut scene, &exporter)?;
    exporter.stop()
}

#[test]
fn a_tuple_that_ice_selected_is_joined() -> Result<()> {
    let Some(build) = cast::newest() else { return Ok(()) };
    let mut scene = cast::open(&build)?;
    let exporter = cast::exporter(&scene, &[], &[])?;
    let channel = scene.ice("gus", cast::ATRIUM)?;
    wait::until_equal("STUN to be counted for its transport", wait::LONG, || {
        let scrape = exporter.scrape()?;
        let labels = [("transport_id", channel.transport.id.as_str()), ("class", "stun")];
        let sum = |family: &str| scrape.sum(family, &labels) as u64;
        let scraped = ["receive", "send"].map(|direction| Count {
            packets: sum(&format!("mediasoup_connection_{direction}_packets_total")),
            bytes: sum(&format!("mediasoup_connection_{direction}_bytes_total")),
        });
        Ok(([channel.endpoint.sent().stun, channel.endpoint.received().stun], scraped))
    })?;
    exporter.stop()
}

fn check(version: &str) -> Result<()> {
    let Some(build) = cast::ready(version) else { return Ok(()) };
    let mut scene = cast::open(&build)?;
    Nft::start(&scene.host)?;
    let exporter = cast::exporter(&scene, &[], &[])?;
    for role in cast::roles() {
        scene.enter(role)?;
    }
    scene.introduce()?;
    cast::play(&mut scene, TICKS)?;
    everything_is_counted(&mut scene, &exporter)?;
    everything_is_labelled(&mut scene, &exporter)?;
    nothing_is_badly_named(&exporter.metrics()?)?;
    a_leaver_is_forgotten(&mut scene, &exporter)?;
    exporter.stop()
}

fn everything_is_counted(scene: &mut Scene, exporter: &Exporter) -> Result<()> {
    let stats = scene.sfu.stats()?;
    let scene = &*scene;
    let limit = wait::LONG;
    let scrape = || exporter.scrape();
    wait::until_equal("streams as sent and received", limit, || {
        Ok(expect::streams(scene, &scrape()?))
    })?;
    wait::until_equal("pipes as mediasoup sends through them", limit, || {
        Ok(expect::pipes(scene, &stats, &scrape()?))
    })?;
    // By now the exporter has learned what only workers know: the SSRC of an encoding with a RID.
    let _quiet = scene.sfu.quiet()?;
    wait::until_equal("connections as the peers' sockets count", limit, || {
        Ok(expect::connections(scene, &scrape()?))
    })?;
    wait::until_equal("connections as nftables counts", limit, || {
        expect::flows(scene, &scrape()?)
    })?;
    wait::until_equal("jitter of what is claimed", limit, || {
        Ok(expect::jitter(scene, &scrape()?))
    })?;
    wait::until_equal("sequences as scripted", limit, || Ok(expect::sequences(scene, &scrape()?)))
}

fn everything_is_labelled(scene: &mut Scene, exporter: &Exporter) -> Result<()> {
    let limit = wait::LONG;
    let scrape = exporter.scrape()?;
    let (expected, scraped) = expect::peers(scene, &scrape);
    assert_eq!(scraped, expected);
    let (expected, scraped) = expect::rooms(scene, &scrape);
    assert_eq!(scraped, expected);
    let coverage: Vec<_> = scrape.find("mediasoup_join_coverage_ratio", &[]).collect();
    assert!(coverage.len() == 1 && coverage[0].value == 1.0, "{coverage:?}");
    type Check = fn(&Scene, &serde_json::Value, &Scrape) -> Result<(expect::Rows, expect::Rows)>;
    let checks: [(&str, Check); 5] = [
        ("the producers' byteCount", expect::producer_bytes),
        ("the consumers' byteCount", expect::consumer_bytes),
        ("what was done about losses", expect::repairs),
        ("the producers' scores", expect::producer_scores),
        ("the consumers' scores", expect::consumer_scores),
    ];
    for (what, check) in checks {
        wait::until_equal(what, limit, || {
            let stats = scene.sfu.stats()?;
            check(scene, &stats, &exporter.scrape()?)
        })?;
    }
    Ok(())
}

/// The contract's names are older than the conventions that promtool checks.
fn nothing_is_badly_named(metrics: &str) -> Result<()> {
    let contract = ["mediasoup_producer_byte_count_bytes", "mediasoup_consumer_byte_count_bytes"];
    let mut faults = prometheus::lint(metrics)?;
    faults.retain(|fault| !contract.iter().any(|name| fault.starts_with(name)));
    assert_eq!(faults, Vec::<String>::new());
    Ok(())
}

fn a_leaver_is_forgotten(scene: &mut Scene, exporter: &Exporter) -> Result<()> {
    scene.sfu.leave("bob")?;
    let Some(bob) = scene.people.remove("bob") else { panic!("bob is not in the cast") };
    let gone: Vec<String> = bob.channels().map(|it| it.transport.id.clone()).collect();
    wait::until("the series of one who left to go", wait::LONG, || {
        let scrape = exporter.scrape()?;
        let families = scrape.families.values();
        let mut labels = families.flat_map(|it| &it.samples).flat_map(|it| &it.labels);
        Ok((!labels.any(|(_, value)| gone.contains(value))).then_some(()))
    })?;
    // What others consumed of the one who left is gone too; the rest stays.
    for person in scene.people.values_mut() {
        person.consumed.retain(|it| bob.produced.iter().all(|made| made.id != it.producer));
    }
    // The worker tells the others' consumers only after the one who left has gone.
    wait::until_equal("what is left", wait::LONG, || {
        Ok(expect::streams(scene, &exporter.scrape()?))
    })
}
