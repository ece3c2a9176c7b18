//! The exporter as a service: a real Prometheus reads it, it restarts, strangers knock, and it keeps
//! to itself what it must not tell.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use exporter_tests::bpffs::BpfFs;
use exporter_tests::exporter::{Exporter, attached, binary};
use exporter_tests::netns::Netns;
use exporter_tests::process::TempDir;
use exporter_tests::prometheus::Prometheus;
use exporter_tests::scene::{Channel, Person, Scene};
use exporter_tests::{cast, expect, root_or_skip, rtp, skip, stranger, wait};
use serde_json::Value;

/// Media time of a performance: 2 seconds.
const TICKS: u64 = 100;

/// The SFU with an exporter beside it and the cast in it.
fn set(flags: &[&str]) -> Result<Option<(Exporter, Scene)>> {
    let Some(build) = cast::newest() else { return Ok(None) };
    let mut scene = cast::open(&build)?;
    let exporter = cast::exporter(&scene, flags, &[])?;
    for role in cast::roles() {
        scene.enter(role)?;
    }
    scene.introduce()?;
    Ok(Some((exporter, scene)))
}

fn streams_match(scene: &Scene, exporter: &Exporter) -> Result<()> {
    wait::until_equal("streams as sent and received", wait::LONG, || {
        Ok(expect::streams(scene, &exporter.scrape()?))
    })
}

#[test]
fn prometheus_has_the_values() -> Result<()> {
    let Some((exporter, mut scene)) = set(&[])? else { return Ok(()) };
    let prometheus = Prometheus::start(&scene.host, scene.dir.path())?;
    cast::play(&mut scene, TICKS)?;
    streams_match(&scene, &exporter)?;
    let query = "sum by (id, ssrc, role) (mediasoup_stream_receive_bytes_total{job=\"sfu\",role!=\"\"}) \
                 and on (id) mediasoup_producer_info";
    let ada = &scene.people["ada"];
    let sent = ada.sending.endpoint.sent();
    let of = |value: &Value, text: &str| value.as_str() == Some(text);
    wait::until("Prometheus to have what Ada sent", wait::LONG, || {
        let found = prometheus.query(query)?;
        let mut tracks = ada.produced.iter().flat_map(|it| it.tracks.iter().map(move |t| (it, t)));
        let all = tracks.all(|(made, track)| {
            let bytes = sent.rtp.get(&track.ssrc).map_or(0, |count| count.bytes);
            found.iter().any(|(labels, value)| {
                of(&labels["id"], &made.id)
                    && of(&labels["ssrc"], &track.ssrc.to_string())
                    && *value == bytes as f64
            })
        });
        Ok(all.then_some(()))
    })?;
    // On a busy machine a scrape may take longer than Prometheus waits; the next one counts.
    wait::until_equal("the exporter to be up", wait::LONG, || {
        let up = prometheus.query("up{job=\"sfu\"}")?;
        Ok((up.iter().map(|(_, value)| *value).collect(), vec![1.0]))
    })?;
    // The replaced exporter's text was at `/`: who scraped it there goes on.
    wait::until_equal("the same families at the old path", wait::LONG, || {
        let names = |job: &str| -> Result<Vec<Value>> {
            let query = format!(
                "count by (__name__) ({{job=\"{job}\",__name__=~\"edumeet_.+|mediasoup_.+_bytes\"}})"
            );
            Ok(prometheus.query(&query)?.into_iter().map(|(labels, _)| labels).collect())
        };
        let (old, new) = (names("old")?, names("sfu")?);
        ensure!(!new.is_empty(), "there are none");
        Ok((old, new))
    })?;
    exporter.stop()
}

#[test]
fn a_restart_counts_from_there() -> Result<()> {
    let Some((exporter, mut scene)) = set(&[])? else { return Ok(()) };
    cast::play(&mut scene, TICKS)?;
    streams_match(&scene, &exporter)?;
    exporter.kill()?;
    assert_eq!(attached(&scene.host)?, Vec::<String>::new(), "after a crash");
    let before = expect::streams(&scene, &Default::default()).0;
    // By now the SFU listens where its peers are, so all can be found without a flag.
    let exporter = cast::default_exporter(&scene, &[], &[])?;
    cast::play(&mut scene, TICKS)?;
    wait::until_equal("streams as sent and received since", wait::LONG, || {
        let (mut expected, scraped) = expect::streams(&scene, &exporter.scrape()?);
        for (id, count) in &before {
            let since = expected.get_mut(id).context("a stream that was")?;
            since.packets -= count.packets;
            since.bytes -= count.bytes;
        }
        expected.retain(|_, count| count.packets > 0);
        Ok((expected, scraped))
    })?;
    exporter.stop()
}

/// In a mount namespace without a cgroup hierarchy, as `ip netns exec` makes one.
#[test]
fn binds_are_seen_where_no_cgroups_are_mounted() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let host = Arc::new(Netns::new("nocg")?);
    host.ip("link set lo up")?;
    let script = "for at in $(awk '$3 == \"cgroup2\" { print $2 }' /proc/mounts); do umount $at; done; exec \"$@\"";
    let binary = binary()?;
    let binary = binary.to_str().context("a path that is not UTF-8")?;
    let flags = ["--mount", "sh", "-c", script, "sh", binary, "--observer", "/nowhere"];
    let exporter = Exporter::start_binary(Path::new("unshare"), &host, &flags, &[])?;
    wait::until("binds to be seen", wait::LONG, || {
        let by = exporter.scrape()?.sum("mediasoup_exporter_ownership", &[("by", "cgroup")]);
        Ok((by == 1.0).then_some(()))
    })?;
    exporter.stop()
}

/// Somebody sets the clock: forward by a day, back by two.
#[test]
fn a_clock_that_is_set_changes_no_count() -> Result<()> {
    let faked = ["x86_64", "aarch64"]
        .map(|processor| format!("/usr/lib/{processor}-linux-gnu/faketime/libfaketimeMT.so.1"));
    let Some(library) = faked.into_iter().find(|path| Path::new(path).exists()) else {
        skip("libfaketime is not installed: run `cargo xtask setup`");
        return Ok(());
    };
    let Some(build) = cast::newest() else { return Ok(()) };
    let folder = TempDir::new("clock")?;
    let offset = folder.path().join("offset");
    let set = |by: &str| std::fs::write(&offset, by).context("set the clock");
    set("+0")?;
    let mut scene = cast::open(&build)?;
    let variables = [
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME_TIMESTAMP_FILE", offset.to_str().context("a path that is not UTF-8")?),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let exporter = cast::exporter(&scene, &[], &variables)?;
    for role in cast::roles() {
        scene.enter(role)?;
    }
    scene.introduce()?;
    let mut shown = vec![last_success(&exporter)?];
    for by in ["+1d", "-1d"] {
        cast::play(&mut scene, TICKS)?;
        streams_match(&scene, &exporter)?;
        set(by)?;
        cast::play(&mut scene, TICKS)?;
        streams_match(&scene, &exporter)?;
        shown.push(last_success(&exporter)?);
    }
    // The exporter has seen the steps, or all this says nothing.
    const HOUR: f64 = 3600.0;
    ensure!(shown[1] - shown[0] > 23.0 * HOUR && shown[1] - shown[2] > 47.0 * HOUR, "{shown:?}");
    exporter.stop()
}

/// By the exporter's wall clock.
fn last_success(exporter: &Exporter) -> Result<f64> {
    let family = "mediasoup_exporter_source_last_success_timestamp_seconds";
    Ok(exporter.scrape()?.sum(family, &[("source", "sockets")]))
}

#[test]
fn with_pins_nothing_is_missed_over_a_crash() -> Result<()> {
    let mounted = match cast::newest() {
        Some(_) => BpfFs::mount()?,
        None => return Ok(()),
    };
    let shown = mounted.path().to_str().context("a path that is not UTF-8")?;
    let Some((exporter, mut scene)) = set(&["--pin", shown])? else { return Ok(()) };
    cast::play(&mut scene, TICKS)?;
    streams_match(&scene, &exporter)?;
    exporter.kill()?;
    cast::play(&mut scene, TICKS)?;
    // Which ports are the SFU's is found out anew, and the first's programs knew it meanwhile.
    let exporter = cast::default_exporter(&scene, &["--pin", shown], &[])?;
    streams_match(&scene, &exporter)?;
    cast::play(&mut scene, TICKS)?;
    streams_match(&scene, &exporter)?;
    exporter.end()
}

#[test]
fn strangers_are_told_in_aggregate_only() -> Result<()> {
    const FORGED: u8 = 200;
    const ROOM: f64 = 64.0;
    let room = ROOM.to_string();
    let Some((exporter, mut scene)) = set(&["--max-stranger-flows", &room])? else {
        return Ok(());
    };
    cast::play(&mut scene, TICKS)?;
    streams_match(&scene, &exporter)?;
    // Who sent before the server told of them are strangers until they or the SFU report next.
    wait::until("nobody of the cast to be a stranger", wait::LONG, || {
        // By the kernel's word: a server's comes earlier, and makes no room there by itself.
        let (family, table) = ("mediasoup_exporter_table_entries", ("table", "stranger_flows"));
        let flows = exporter.scrape()?.sum(family, &[table]);
        Ok((flows == 0.0).then_some(()))
    })?;
    let SocketAddr::V4(port) = scene.people["ada"].sending.transport.address else {
        panic!("Ada talks IPv4");
    };
    let (host, _) = scene.new_host(false)?;
    // A route back, so that the SFU's answers have somewhere to go.
    scene.host.ip("route add 203.0.113.0/24 dev br0")?;
    let packet = rtp::Packet { ssrc: 666, payload: vec![0; 100], ..Default::default() };
    let packet = packet.to_bytes();
    stranger::forge(&host, FORGED, port, &packet)?;
    let scrape = wait::until("the strangers' room to be full", wait::LONG, || {
        let scrape = exporter.scrape()?;
        let flows = scrape.sum("mediasoup_stranger_flows", &[]);
        Ok((flows == ROOM).then_some(scrape))
    })?;
    let pending = scrape.sum("mediasoup_stranger_pending_bytes", &[]);
    assert_eq!(pending, ROOM * packet.len() as f64);
    cast::play(&mut scene, TICKS)?;
    streams_match(&scene, &exporter)?;
    let metrics = exporter.metrics()?;
    assert!(!metrics.contains("203.0.113."), "a stranger's address in {metrics}");
    exporter.stop()
}

/// What becomes of addresses and of names, and what else is said to the exporter.
type Mode = (&'static str, &'static str, &'static [&'static str]);

/// Every mode of each, but for the one that shows all.
const MODES: [Mode; 8] = [
    ("truncate", "pseudonym", &["--deidentify.rotate", "hourly"]),
    ("pseudonym", "drop", &["--deidentify.rotate", "DAILY"]),
    ("drop", "pseudonym", &[]),
    ("legacy", "drop", &[]),
    ("pseudonym", "pseudonym", &["--quiet"]),
    ("truncate", "none", &[]),
    ("none", "pseudonym", &[]),
    ("none", "drop", &["--deidentify.rotate", "never"]),
];

#[test]
fn no_mode_tells_an_address_or_a_name() -> Result<()> {
    let Some(build) = cast::newest() else { return Ok(()) };
    let mut scene = cast::open(&build)?;
    for (at, (addresses, names, further)) in MODES.into_iter().enumerate() {
        let flags = [&["--names", names], further].concat();
        let exporter = cast::exporter(&scene, &flags, &[("PROM_DEIDENTIFY", addresses)])?;
        if at == 0 {
            for role in cast::roles() {
                scene.enter(role)?;
            }
            scene.introduce()?;
        }
        cast::play(&mut scene, TICKS)?;
        keeps_quiet(&scene, exporter, addresses, names)?;
    }
    Ok(())
}

/// All that an exporter answers with, faults among it.
fn answers(exporter: &Exporter) -> Result<Vec<String>> {
    const OPEN_METRICS: &str = "Accept: application/openmetrics-text; version=1.0.0";
    const PAGES: [(&str, u16, &[&str]); 8] = [
        ("/metrics", 200, &[]),
        ("/metrics", 200, &[OPEN_METRICS]),
        ("/metrics?families=contract,self", 200, &[]),
        ("/", 200, &[]),
        ("/-/healthy", 200, &[]),
        ("/-/ready", 200, &[]),
        ("/metrics?families=nonsense", 400, &[]),
        ("/nowhere", 404, &[]),
    ];
    let mut texts = Vec::new();
    for (page, status, headers) in PAGES {
        let response = exporter.get(page, headers)?;
        assert_eq!(response.status, status, "{page}");
        texts.push(response.head);
        texts.push(String::from_utf8(response.body)?);
    }
    Ok(texts)
}

/// What people are called, as it would stand in a text.
fn words(scene: &Scene) -> Vec<String> {
    let quoted = |word: &str| format!("\"{word}\"");
    let of = |person: &Person| {
        let role = &person.role;
        // Of a name that needs escaping, what needs none.
        let name = role.name.split(['"', '\\', '\n']).max_by_key(|part| part.len());
        let room = role.room.split(['"', '\\']).next();
        let whole = [name, room].into_iter().flatten().map(str::to_owned);
        whole.chain([role.user_agent.clone(), quoted(&role.peer)]).collect::<Vec<_>>()
    };
    scene.people.values().flat_map(of).collect()
}

fn keeps_quiet(scene: &Scene, exporter: Exporter, addresses: &str, names: &str) -> Result<()> {
    let mode = format!("{addresses}, {names}");
    let used = |it: &&Channel| it.endpoint.sent().total().packets > 0;
    let channels = || scene.people.values().flat_map(Person::channels);
    let what = format!("all connections to be told in mode {mode}");
    wait::until_equal(&what, wait::LONG, || {
        let scrape = exporter.scrape()?;
        let ids: BTreeSet<String> =
            channels().filter(used).map(|it| it.transport.id.clone()).collect();
        let families = ["mediasoup_connection_receive_bytes_total", "mediasoup_transport_info"];
        let told = families.map(|family| {
            let told = scrape.find(family, &[]).map(|it| it.label("transport_id").to_owned());
            told.filter(|id| ids.contains(id)).collect()
        });
        Ok(([ids.clone(), ids], told))
    })?;
    let mut told = answers(&exporter)?;
    told.push(exporter.log());
    let lines = || told.iter().flat_map(|text| text.lines());
    for channel in channels() {
        let (_, remote) = channel.pair()?;
        let leak = lines().find(|line| mentions(line, remote));
        match addresses {
            // What is looked for is there to be found.
            "none" => assert!(leak.is_some() || !used(&channel), "{remote} in mode {mode}"),
            _ => assert_eq!(leak, None, "mode {mode} tells of {remote}"),
        }
    }
    let words = words(scene);
    let leak = |word: &String| lines().find(|line| line.contains(word.as_str()));
    match names {
        "none" => assert!(words.iter().any(|word| leak(word).is_some()), "names in mode {mode}"),
        _ => {
            for word in &words {
                assert_eq!(leak(word), None, "mode {mode} tells of {word}");
            }
        }
    }
    exporter.stop()
}

/// Whether a text holds the address, or the port in a place where ports stand. The numbers of processes
/// and streams stand in quotes too, and may by chance be that of a port.
fn mentions(text: &str, remote: SocketAddr) -> bool {
    let ip = match remote.ip() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => ip.to_string(),
    };
    let whole = |needle: &str, inside: fn(char) -> bool, others: &[&str]| {
        text.match_indices(needle).any(|(at, found)| {
            let (before, after) = (&text[..at], &text[at + found.len()..]);
            let is_other = others.iter().any(|label| before.ends_with(label));
            !before.ends_with(inside) && !after.starts_with(inside) && !is_other
        })
    };
    let port = remote.port();
    whole(&ip, |it| it.is_ascii_hexdigit() || it == '.', &[])
        || whole(&format!(":{port}"), |it| it.is_ascii_digit(), &[])
        || whole(&format!("\"{port}\""), |_| false, &["pid=", "ssrc="])
}

#[test]
fn an_address_is_found_where_it_is() {
    let remote: SocketAddr = "10.77.1.1:20001".parse().expect("an address");
    assert!(mentions("a{b=\"10.77.1.1\"}", remote));
    assert!(mentions("a{b=\"[::]:20001\"}", remote));
    assert!(mentions("a{pid=\"20001\",port=\"20001\"}", remote));
    assert!(!mentions("a{pid=\"20001\",ssrc=\"20001\"}", remote));
    assert!(!mentions("a{b=\"10.77.1.0/24\"} 20001", remote));
    assert!(!mentions("110.77.1.1 10.77.1.12", remote));
}
