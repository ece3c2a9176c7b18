//! What an observer's visit costs a server with 500 producers and 2,000 consumers. Measures and
//! prints; the figures stand in `docs/observer-protocol.md`.
//!
//! `cargo run --release -p exporter-tests --example observer_stall`

use std::thread;
use std::time::Duration;

use anyhow::Result;
use exporter_tests::observer_fixture::Fixture;
use exporter_tests::observer_watch::{Watch, options};
use exporter_tests::process::TempDir;
use exporter_tests::sfu::{Build, VERSIONS};
use exporter_tests::{skip, wait};
use mediasoup_exporter::observer::Options;
use serde_json::json;

fn main() -> Result<()> {
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

/// What happens to the server, in the order of a round.
const PHASES: [&str; 4] =
    ["at rest", "console and first telling", "2,000 scores change at once", "steady"];

/// What the server measures of itself (`tests/observer/gaps.js`).
const FIGURES: [&str; 4] = ["wall", "busy", "collection", "share"];

fn measure(server: &mut Fixture, stats_interval: Duration) -> Result<()> {
    let rounds = std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(9);
    let mut figures = vec![vec![Vec::new(); FIGURES.len()]; PHASES.len()];
    let mut sync = Vec::new();
    let mut slices = Vec::new();
    for _ in 0..rounds {
        let mut note = |phase: usize, server: &mut Fixture| -> Result<()> {
            let gap = server.ask(&json!({ "do": "gap" }))?;
            for (figure, values) in FIGURES.iter().zip(&mut figures[phase]) {
                values.push(gap[figure].as_f64().unwrap_or(f64::NAN));
            }
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
        slices.push(watch.status().expect("it is up").beat.slice_ms);
        watch.stop()?;
    }
    println!("statistics every {stats_interval:?}, {rounds} rounds: median (least–most)");
    println!(
        "first telling took {} ms; the script's longest slice {} ms",
        spread(&mut sync),
        spread(&mut slices)
    );
    for (phase, figures) in PHASES.iter().zip(&mut figures) {
        print!("{phase:28}");
        for (figure, values) in FIGURES.iter().zip(figures) {
            print!("  {figure} {}", spread(values));
        }
        println!();
    }
    Ok(())
}

/// Median, least and most.
fn spread(values: &mut [f64]) -> String {
    values.sort_by(f64::total_cmp);
    let (least, most) = (values[0], values[values.len() - 1]);
    format!("{:.2} ({least:.2}–{most:.2})", values[values.len() / 2])
}
