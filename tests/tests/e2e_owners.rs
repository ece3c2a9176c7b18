//! Whose packets are: of stays that lie between two readings, of people who leave, of two workers with
//! the same port, and of connections that nobody uses. With a real mediasoup.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use anyhow::{Context, Result};
use exporter_tests::exporter::Exporter;
use exporter_tests::peer::Track;
use exporter_tests::rtp::Packet;
use exporter_tests::scene::{self, Role, Scene};
use exporter_tests::scrape::Scrape;
use exporter_tests::{cast, wait};
use serde_json::json;

const RECEIVED: &str = "mediasoup_stream_receive_packets_total";
const COVERAGE: &str = "mediasoup_join_coverage_ratio";
const UNCOUNTED: &str = "mediasoup_exporter_connections_uncounted";

/// The exporter beside an SFU in which nobody is yet.
fn set(flags: &[&str]) -> Result<Option<(Scene, Exporter)>> {
    let Some(build) = cast::newest() else { return Ok(None) };
    let scene = cast::open(&build)?;
    let exporter = cast::exporter(&scene, flags, &[])?;
    be_heard(&exporter)?;
    Ok(Some((scene, exporter)))
}

fn be_heard(exporter: &Exporter) -> Result<()> {
    wait::until("the server to be heard", wait::LONG, || {
        let up = exporter.scrape()?;
        let mut up = up.find("mediasoup_exporter_source_up", &[]);
        let heard = up.any(|it| it.label("source").starts_with("observer:") && it.value == 1.0);
        Ok(heard.then_some(()))
    })
}

/// Somebody with one transport, who speaks.
fn speaker(peer: &str, ssrc: u32) -> Result<Role> {
    let role = cast::roles().into_iter().next().context("a cast")?;
    let (peer, produces) = (peer.into(), vec![vec![Track::opus(ssrc)]]);
    Ok(Role { peer, produces, one_transport: true, ..role })
}

#[test]
fn a_stay_between_two_readings_has_an_owner() -> Result<()> {
    let Some((mut scene, exporter)) = set(&[])? else { return Ok(()) };
    scene.enter(speaker("ann", 7)?)?;
    let id = scene.people["ann"].sending.transport.id.clone();
    wait::until("her connection to be told", wait::LONG, || {
        let scrape = exporter.scrape()?;
        let labels = [("transport_id", id.as_str())];
        let mut told = scrape.find("mediasoup_transport_info", &labels);
        Ok(told.any(|it| !it.label("remote_addr").is_empty()).then_some(()))
    })?;
    // Nobody scrapes meanwhile. Should a reading be taken all the same, then the rest is as true.
    cast::play(&mut scene, 50)?;
    scene.sfu.leave("ann")?;
    let ann = scene.people.remove("ann").context("Ann was there")?;
    let sent = ann.sending.endpoint.sent().rtp[&7].packets;
    let labels = [
        ("transport_id", ann.sending.transport.id.as_str()),
        ("id", &ann.produced[0].id),
        ("ssrc", "7"),
        ("role", "media"),
    ];
    let scrape = wait::until("all that she sent to be hers", wait::LONG, || {
        let scrape = exporter.scrape()?;
        Ok((scrape.sum(RECEIVED, &labels) as u64 == sent).then_some(scrape))
    })?;
    nobody_is_nameless(&scrape);
    assert_eq!(scrape.sum(COVERAGE, &[]), 1.0);
    exporter.stop()
}

#[test]
fn people_who_leave_do_not_lower_coverage() -> Result<()> {
    let Some((mut scene, exporter)) = set(&[])? else { return Ok(()) };
    for round in 0..2 {
        for role in cast::roles() {
            scene.enter(role)?;
        }
        scene.introduce()?;
        cast::play(&mut scene, 50)?;
        wait::until_equal("everybody to be told", wait::LONG, || {
            Ok((1.0, exporter.scrape()?.sum(COVERAGE, &[])))
        })?;
        let people = std::mem::take(&mut scene.people);
        for (peer, person) in &people {
            scene.sfu.leave(peer)?;
            // It takes a moment until they know.
            for sequence in 0..20 {
                let packet =
                    Packet { sequence, ssrc: 999, payload: vec![0; 50], ..Packet::default() };
                // The port may have gone, of which the socket then hears.
                let _ = person.sending.endpoint.send(&packet.to_bytes());
            }
        }
        wait::until("all of them to have left", wait::LONG, || {
            let scrape = exporter.scrape()?;
            assert_eq!(scrape.sum(COVERAGE, &[]), 1.0, "round {round}");
            nobody_is_nameless(&scrape);
            let gone =
                scrape.find("mediasoup_transport_info", &[("kind", "plain")]).next().is_none();
            Ok(gone.then_some(()))
        })?;
        // Until their series have gone, too, and while the tables still hold their flows.
        wait::until("their series to go", wait::LONG, || {
            let scrape = exporter.scrape()?;
            assert_eq!(scrape.sum(COVERAGE, &[]), 1.0, "round {round}");
            nobody_is_nameless(&scrape);
            Ok(scrape.find(RECEIVED, &[]).next().is_none().then_some(()))
        })?;
    }
    exporter.stop()
}

#[test]
fn two_workers_share_a_port_at_two_addresses() -> Result<()> {
    // Where the host knows who has which port, and where the operator named the ports.
    two_addresses(cast::default_exporter, &["--interface", scene::BRIDGE])?;
    two_addresses(cast::exporter, &[])
}

type Start = fn(&Scene, &[&str], &[(&str, &str)]) -> Result<Exporter>;

fn two_addresses(start: Start, flags: &[&str]) -> Result<()> {
    const PORT: u16 = 45_678;
    let Some(build) = cast::newest() else { return Ok(()) };
    let mut scene = cast::open(&build)?;
    let second = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2));
    let addresses = [scene.address(false), second];
    scene.host.address(scene::BRIDGE, second, 16)?;
    let exporter = start(&scene, flags, &[])?;
    be_heard(&exporter)?;
    let (host, ip) = scene.new_host(false)?;
    let socket = host.run_in(|| UdpSocket::bind((ip, 0)))?;
    scene.sfu.join(cast::ATTIC, "ivy", "Ivy", "")?;
    let mut made = Vec::new();
    for (router, address) in addresses.into_iter().enumerate() {
        let fields = json!({ "peer": "ivy", "ip": address, "port": PORT, "router": router });
        let plain = scene.sfu.call("plain", fields)?;
        let id = plain["id"].as_str().context("a transport")?;
        let far = socket.local_addr()?;
        let fields = json!({ "peer": "ivy", "transport": id, "ip": far.ip(), "port": far.port() });
        scene.sfu.call("connect", fields)?;
        let encodings = json!([{ "ssrc": 77 }]);
        let fields =
            json!({ "peer": "ivy", "transport": id, "kind": "audio", "encodings": encodings });
        let producer = scene.sfu.call("produce", fields)?;
        let producer = producer["id"].as_str().context("a producer")?;
        made.push((id.to_owned(), producer.to_owned()));
    }
    for (address, count) in addresses.into_iter().zip([20, 30]) {
        for sequence in 0..count {
            let packet = Packet { sequence, ssrc: 77, payload: vec![0; 50], ..Packet::default() };
            socket.send_to(&packet.to_bytes(), SocketAddr::new(address, PORT))?;
        }
    }
    wait::until_equal("each worker's packets to be its producer's", wait::LONG, || {
        let scrape = exporter.scrape()?;
        let of = |(transport, producer): &(String, String)| {
            let labels = [("transport_id", transport.as_str()), ("id", producer.as_str())];
            scrape.sum(RECEIVED, &labels) as u64
        };
        Ok((vec![20, 30], made.iter().map(of).collect()))
    })?;
    nobody_is_nameless(&exporter.scrape()?);
    exporter.stop()
}

#[test]
fn a_connection_that_nobody_uses_is_said() -> Result<()> {
    let Some((mut scene, exporter)) = set(&[])? else { return Ok(()) };
    scene.enter(speaker("ann", 7)?)?;
    scene.enter(speaker("ben", 8)?)?;
    let uncounted = || Ok::<_, anyhow::Error>(exporter.scrape()?.sum(UNCOUNTED, &[]) as u64);
    wait::until_equal("both to be missed", wait::LONG, || Ok((2, uncounted()?)))?;
    let ids = scene.people.values().map(|it| it.sending.transport.id.clone());
    let ids: Vec<_> = ids.collect();
    wait::until("a word in the log", wait::LONG, || {
        let log = exporter.log();
        let said: Vec<_> = log.lines().filter(|it| it.contains("no packet was seen")).collect();
        assert!(said.len() <= 1, "{said:?}");
        Ok(said.first().filter(|it| ids.iter().any(|id| it.contains(id))).map(|_| ()))
    })?;
    let scrape = exporter.scrape()?;
    assert_eq!(scrape.sum(UNCOUNTED, &[("reason", "nothing_arrives")]), 2.0);
    cast::play(&mut scene, 5)?;
    wait::until_equal("both to be heard", wait::LONG, || Ok((0, uncounted()?)))?;
    exporter.stop()
}

/// No connection and no stream is without its transport.
fn nobody_is_nameless(scrape: &Scrape) {
    for (name, family) in &scrape.families {
        let is_counted =
            name.starts_with("mediasoup_connection_") || name.starts_with("mediasoup_stream_");
        let nameless = || family.samples.iter().find(|it| it.label("transport_id").is_empty());
        assert!(!is_counted || nameless().is_none(), "{:?}", nameless());
    }
}
