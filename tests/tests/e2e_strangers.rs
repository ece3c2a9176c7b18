//! A million forged packets while a call runs through a real mediasoup: every stream of the call stays exact, who
//! joins meanwhile is counted, and the flood itself is a few figures.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use exporter_tests::exporter::Exporter;
use exporter_tests::netns::Netns;
use exporter_tests::scene::{Role, Scene};
use exporter_tests::stranger::Forger;
use exporter_tests::{cast, expect, packets, wait};

const FORGED: u64 = 1_000_000;
/// Series that a flood may add: events and sums that were zero before.
const HANDFUL: usize = 60;

#[test]
fn a_flood_of_strangers_changes_nothing_for_a_call() -> Result<()> {
    let Some(build) = cast::newest() else { return Ok(()) };
    let mut scene = cast::open(&build)?;
    let exporter = cast::default_exporter(&scene, &["--observer.stats-interval", "1s"], &[])?;
    let mut roles = cast::roles();
    // Its tuple is known before it sends, as that of a browser is by ICE; where an SFU learns a tuple from packets,
    // nobody can tell it before those.
    let late = Role { one_transport: true, ..roles.remove(0) };
    for role in roles {
        scene.enter(role)?;
    }
    scene.introduce()?;
    perform(&mut scene, Duration::from_secs(2), || Ok(()))?;
    let before = calm(&scene, &exporter)?;
    let (host, _) = scene.new_host(false)?;
    routes(&host)?;
    let targets: Vec<SocketAddr> =
        scene.people.values().map(|person| person.sending.transport.address).collect();
    let resident = exporter.resident()?;
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let flooding = scope.spawn(|| flood(&host, &targets, &stop, &sent));
        let result = (|| -> Result<()> {
            let mut longest = 0.0_f64;
            while sent.load(Ordering::Relaxed) < FORGED / 2 && !flooding.is_finished() {
                perform(&mut scene, Duration::from_secs(1), || {
                    let begun = Instant::now();
                    exporter.scrape()?;
                    longest = longest.max(begun.elapsed().as_secs_f64());
                    Ok(())
                })?;
            }
            println!("a scrape took {longest:.3} s at most");
            // Who joins during it is counted from the first packet after his server told of him.
            let before = told(&exporter)?;
            scene.enter(late)?;
            scene.introduce()?;
            wait::until("the newcomer to be told", wait::LONG, || {
                Ok((told(&exporter)? > before).then_some(()))
            })?;
            while sent.load(Ordering::Relaxed) < FORGED && !flooding.is_finished() {
                perform(&mut scene, Duration::from_secs(1), || exporter.scrape().map(drop))?;
            }
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        flooding.join().expect("the flood does not panic")?;
        result
    })?;
    println!("{} packets were forged", sent.load(Ordering::Relaxed));
    wait::until_equal("streams as sent and received", wait::LONG, || {
        Ok(expect::streams(&scene, &exporter.scrape()?))
    })?;
    let grown = exporter.resident()?.saturating_sub(resident) >> 20;
    println!("{grown} MiB more");
    // The strangers' part of the tables and its reading.
    ensure!(grown < 40, "{grown} MiB more");
    it_is_a_few_figures(&scene, &exporter, &before)?;
    exporter.stop()
}

/// Connections that the kernel was told.
fn told(exporter: &Exporter) -> Result<u64> {
    let labels = [("table", "told_flows")];
    Ok(exporter.scrape()?.sum("mediasoup_exporter_table_entries", &labels) as u64)
}

/// What is not the call's: series without an id of its own.
struct Calm {
    figures: usize,
}

fn calm(scene: &Scene, exporter: &Exporter) -> Result<Calm> {
    wait::until_equal("streams as sent and received", wait::LONG, || {
        Ok(expect::streams(scene, &exporter.scrape()?))
    })?;
    Ok(Calm { figures: figures(exporter)? })
}

/// Series that name no transport, producer, consumer, peer or room.
fn figures(exporter: &Exporter) -> Result<usize> {
    let scrape = exporter.scrape()?;
    let samples = scrape.families.values().flat_map(|family| &family.samples);
    let is_named = |labels: &[(String, String)]| {
        let named = ["transport_id", "id", "peer_id", "room_id"];
        labels.iter().any(|(name, value)| named.contains(&name.as_str()) && !value.is_empty())
    };
    Ok(samples.filter(|sample| !is_named(&sample.labels)).count())
}

fn it_is_a_few_figures(scene: &Scene, exporter: &Exporter, before: &Calm) -> Result<()> {
    let after = figures(exporter)?;
    println!("{} figures before, {after} after", before.figures);
    ensure!(after <= before.figures + HANDFUL, "{after} figures after {}", before.figures);
    let scrape = exporter.scrape()?;
    let seen = scrape.sum("mediasoup_exporter_events_total", &[("event", "strangers_full")])
        + scrape.sum("mediasoup_stranger_flows", &[])
        + scrape.sum("mediasoup_stranger_receive_packets_total", &[]);
    // Every packet from a new address is in one of these; a fifth is for a port that nobody owns.
    ensure!(seen > FORGED as f64 / 2.0, "of the flood, {seen} packets are seen");
    ensure!(!scene.people.is_empty());
    Ok(())
}

/// Everybody sends as people do for so long, while something else is done.
fn perform(
    scene: &mut Scene,
    time: Duration,
    mut meanwhile: impl FnMut() -> Result<()>,
) -> Result<()> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let performing = scope.spawn(|| scene.perform(&stop));
        let begun = Instant::now();
        let mut result = Ok(());
        while begun.elapsed() < time && result.is_ok() {
            result = meanwhile();
            thread::sleep(Duration::from_millis(100));
        }
        stop.store(true, Ordering::Relaxed);
        performing.join().expect("a peer does not panic")?;
        result
    })
}

/// What is forged leaves by the link to the SFU, over both families.
fn routes(host: &Netns) -> Result<()> {
    host.address("eth0", "fd77::2:1".parse::<IpAddr>()?, 64)
}

fn flood(host: &Netns, targets: &[SocketAddr], stop: &AtomicBool, sent: &AtomicU64) -> Result<()> {
    let mut forger = Forger::new(host)?;
    let shapes = [
        packets::rtp(0xdead_beef, 1, 0, None, 100),
        packets::stun(0x0001, 20),
        packets::dtls(22, 0xfefd, 50, 63),
        vec![0xff; 40],
    ];
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..1000 {
            let random = forger.random() as usize;
            let to = targets[random % targets.len()];
            match (random >> 8) % 5 {
                4 => match to {
                    SocketAddr::V4(to) => forger.syn(to)?,
                    SocketAddr::V6(_) => forger.datagram(to, &shapes[0])?,
                },
                shape => forger.datagram(to, &shapes[shape])?,
            }
        }
        sent.fetch_add(1000, Ordering::Relaxed);
    }
    Ok(())
}
