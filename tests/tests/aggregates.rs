//! A host's aggregates, as a dashboard of the replaced exporter's later version asks a real Prometheus for
//! them, with a real call behind them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use exporter_tests::prometheus::Prometheus;
use exporter_tests::{cast, wait};
use serde_json::Value;

/// Media time of a performance: 2 seconds.
const TICKS: u64 = 100;

/// The names that the dashboard asks for.
fn names() -> Vec<String> {
    let mut names: Vec<String> =
        ["workers_count", "workers_cpu", "workers_memory", "rooms", "peers"].map(Into::into).into();
    let mut add = |stem: &str, parts: &[&str]| {
        names.extend(parts.iter().map(|part| format!("{stem}_{part}")));
    };
    const FIVE: [&str; 5] = ["sum", "mean", "min", "max", "p25"];
    for kind in ["audio", "video"] {
        for direction in ["in", "out"] {
            add(&format!("{kind}_{direction}"), &["count"]);
            add(&format!("{kind}_bitrates_{direction}"), &FIVE);
        }
        add(&format!("{kind}_scores_in"), &FIVE[1..]);
    }
    for what in ["counts", "losts", "retransmitted"] {
        add(&format!("packets_{what}_in"), &FIVE);
    }
    for layers in ["spatial", "temporal"] {
        add(&format!("{layers}_layers_out"), &FIVE[1..]);
    }
    add("round_trip_times_out", &FIVE[1..]);
    assert_eq!(names.len(), 64);
    names.extend(["process_cpu_seconds_total", "process_resident_memory_bytes"].map(Into::into));
    names.into_iter().map(|name| format!("mediasoup_{name}")).collect()
}

#[test]
fn a_dashboard_gets_every_value() -> Result<()> {
    let Some(build) = cast::newest() else { return Ok(()) };
    let mut scene = cast::open(&build)?;
    let exporter = cast::exporter(&scene, &[], &[])?;
    let roles = cast::roles().into_iter().filter(|role| role.room == cast::ATRIUM);
    roles.into_iter().try_for_each(|role| scene.enter(role))?;
    scene.introduce()?;
    let prometheus = Prometheus::start(&scene.host, scene.dir.path())?;
    let queries = names();
    wait::until_equal("each of the dashboard's values", wait::LONG, || {
        cast::play(&mut scene, 25)?;
        let mut missing = BTreeSet::new();
        for name in &queries {
            if prometheus.query(&format!("{name}{{job=\"sfu\"}}"))?.is_empty() {
                missing.insert(name.clone());
            }
        }
        // These peers write no reports that a round trip could be reckoned from; browsers do (e2e_webrtc).
        missing.retain(|name| !name.contains("round_trip_times"));
        Ok((missing, BTreeSet::new()))
    })?;

    cast::play(&mut scene, TICKS)?;
    wait::until_equal("what mediasoup counts", wait::LONG, || {
        let stats = scene.sfu.stats()?;
        let scrape = exporter.scrape()?;
        let expected = expected(&stats);
        let found = expected.keys().map(|name| (name.clone(), scrape.sum(name, &[]))).collect();
        Ok((expected, found))
    })?;

    let scrape = exporter.scrape()?;
    let of = |name: &str| scrape.sum(&format!("mediasoup_{name}"), &[]);
    let made = || scene.people.values().flat_map(|it| it.produced.iter().map(|it| it.kind));
    let taken = || scene.people.values().flat_map(|it| it.consumed.iter().map(|it| it.kind));
    for kind in ["audio", "video"] {
        let count = |kinds: &mut dyn Iterator<Item = &str>| kinds.filter(|it| *it == kind).count();
        assert_eq!(of(&format!("{kind}_in_count")), count(&mut made()) as f64);
        assert_eq!(of(&format!("{kind}_out_count")), count(&mut taken()) as f64);
        let [min, mean, max] =
            ["min", "mean", "max"].map(|it| of(&format!("{kind}_bitrates_in_{it}")));
        ensure!(0.0 < min && min <= mean && mean <= max, "{kind}: {min}, {mean}, {max}");
    }
    assert_eq!(of("workers_count"), scene.sfu.workers().len() as f64);
    // The second room is there, and empty.
    assert_eq!((of("rooms"), of("peers")), (2.0, scene.people.len() as f64));
    assert_eq!(of("workers_memory"), scrape.sum("mediasoup_worker_resident_memory_bytes", &[]));
    exporter.stop()
}

/// By mediasoup's own counts.
fn expected(stats: &Value) -> BTreeMap<String, f64> {
    let of_each = |name: &str| -> Vec<f64> {
        let producers = stats["producers"].as_object().into_iter().flat_map(|it| it.values());
        let sum = |producer: &Value| {
            let entries = producer["stats"].as_array().into_iter().flatten();
            let media = entries.filter(|entry| entry["type"] == "inbound-rtp");
            media.filter_map(|entry| entry[name].as_f64()).sum()
        };
        producers.map(sum).collect()
    };
    let mut expected = BTreeMap::new();
    for (stem, name) in [
        ("counts", "packetCount"),
        ("losts", "packetsLost"),
        ("retransmitted", "packetsRetransmitted"),
    ] {
        let mut values = of_each(name);
        values.sort_by(f64::total_cmp);
        let sum: f64 = values.iter().sum();
        let (least, most) = (values[0], values[values.len() - 1]);
        let quarter = values[values.len().div_ceil(4) - 1];
        let mean = sum / values.len() as f64;
        for (part, value) in
            [("sum", sum), ("mean", mean), ("min", least), ("max", most), ("p25", quarter)]
        {
            expected.insert(format!("mediasoup_packets_{stem}_in_{part}"), value);
        }
    }
    expected
}
