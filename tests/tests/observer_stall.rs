//! What an observer's visit costs a server with 500 producers and 2,000 consumers. Measures and
//! prints; the figures stand in `docs/observer-protocol.md`.
//!
//! `cargo test --release -p exporter-tests --test observer_stall -- --ignored --nocapture`

use std::thread;
use std::time::Duration;

use anyhow::Result;
use exporter_tests::observer_fixture::{Fixture, VERSIONS};
use exporter_tests::observer_watch::{Watch, options};
use exporter_tests::process::TempDir;
use exporter_tests::sfu::Build;
use exporter_tests::{skip, wait};
use mediasoup_exporter::observer::Options;
use serde_json::json;

const ROUNDS: usize = 9;

#[test]
#[ignore = "measures, and takes minutes"]
fn what_a_visit_costs() -> Result<()> {
    for version in VERSIONS {
        let Some(build) = Build::find(version) else {
            skip(&format!("no mediasoup {version}"));
            continue;
        };
        let folder = TempDir::new("observer")?;
        let socket = folder.path().join("console.sock");
        let mut server = Fixture::start_load(&build, &socket)?;
        println!("mediasoup {version}: {}", server.ask(&json!({ "do": "count" }))?);
        measure(&mut server, Duration::ZERO)?;
        measure(&mut server, Duration::from_secs(15))?;
    }
    Ok(())
}

/// Longest hold-ups of the event loop, in milliseconds, by what happened meanwhile.
fn measure(server: &mut Fixture, stats_interval: Duration) -> Result<()> {
    let mut rows: [(&str, Vec<f64>, Vec<f64>); 4] = [
        ("at rest, before", Vec::new(), Vec::new()),
        ("console, loader, first telling", Vec::new(), Vec::new()),
        ("all consumers' scores change", Vec::new(), Vec::new()),
        ("steady", Vec::new(), Vec::new()),
    ];
    let mut sync = Vec::new();
    for _ in 0..ROUNDS {
        let mut note = |row: usize, server: &mut Fixture| -> Result<()> {
            let gap = server.ask(&json!({ "do": "gap" }))?;
            rows[row].1.push(gap["timer"].as_f64().unwrap_or(f64::NAN));
            rows[row].2.push(gap["cpu"].as_f64().unwrap_or(f64::NAN) * 100.0);
            Ok(())
        };
        let options = Options { stats_interval, ..options(&[server.socket().to_owned()]) };
        server.ask(&json!({ "do": "gap" }))?;
        thread::sleep(Duration::from_secs(2));
        note(0, server)?;
        let watch = Watch::start(options)?;
        watch.synced()?;
        note(1, server)?;
        let status = watch.status().expect("it is up");
        sync.push(status.sync.unwrap_or_default().as_secs_f64() * 1e3);
        let lines = status.tally.lines;
        server.ask(&json!({ "do": "churn" }))?;
        wait::until("the changes", wait::LONG, || {
            Ok(watch.status().filter(|status| status.tally.lines >= lines + 2000).map(|_| ()))
        })?;
        note(2, server)?;
        thread::sleep(Duration::from_secs(8));
        note(3, server)?;
        assert_eq!(watch.state().consumers.len(), 2000);
        watch.stop()?;
    }
    println!("statistics every {stats_interval:?}; first telling took {} ms", spread(&mut sync));
    for (name, mut gaps, mut cpu) in rows {
        println!(
            "{name:32} longest hold-up {} ms, processor {} %",
            spread(&mut gaps),
            spread(&mut cpu)
        );
    }
    Ok(())
}

/// Median, least and most.
fn spread(values: &mut [f64]) -> String {
    values.sort_by(f64::total_cmp);
    let (least, most) = (values[0], values[values.len() - 1]);
    format!("{:6.1} ({least:.1}–{most:.1})", values[values.len() / 2])
}
