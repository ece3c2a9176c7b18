//! The history and pages of it: six hours of 10,000 streams, what they take, what a step costs, and how long and how
//! large pages are.

use std::time::Instant;

use anyhow::{Context as _, Result};
use mediasoup_exporter::exposition::Selection;
use mediasoup_exporter::history::{History, Settings, Spans};
use mediasoup_exporter::views::{self, Asked, Hidden, Setting, Thresholds};

use crate::Effort;
use crate::figures::{Figure, Spread, Target};
use crate::process::{cost, resident};
use crate::scrape::{scrape, update};
use crate::tables::Counted;
use crate::world::World;

const STREAMS: usize = 10_000;
/// As the exporter has them: five seconds for ten minutes, a minute for six hours.
const SPANS: Spans = Spans { fold: 12, short: 120, long: 350 };
const STEPS: u64 = 12 * 360;
const STEP: u64 = 5_000;
const PAGES: [(&str, &str); 6] = [
    ("/peers", ""),
    ("/streams", ""),
    ("/transports", ""),
    ("/rooms", ""),
    ("/streams", "q=loss:%3E1%25&sort=-jitter"),
    ("/peers", "for=6h"),
];

/// Measures all of it.
pub fn measure(effort: Effort) -> Result<Vec<Figure>> {
    let world = World::new(STREAMS);
    let counted = Counted::new(&world)?;
    let mut scrape = scrape();
    let mut reading = counted.counting.read()?;
    scrape.update_for(update(1, &reading, &world), Selection::ALL);
    let pid = std::process::id();
    let before = resident(pid)?;
    let mut history =
        History::new(Settings { spans: SPANS, room: 100_000_000, keeps_lives: false });
    let mut costs = Vec::new();
    for step in 1..=STEPS {
        World::grow(&mut reading, step);
        scrape.update_for(update(step + 1, &reading, &world), Selection::ALL);
        let (time, ()) = cost(|| history.record(scrape.ledger(), step * STEP));
        costs.push(time);
    }
    let grown = resident(pid)? - before;
    let name = |what: &str| format!("{STREAMS} streams, {what}");
    let mut figures = vec![
        Figure::new("views", name("six hours of history, resident"), "MB")
            .measured(Spread::single(grown))
            .target(Target::AtMost(100.0))
            .note(format!(
                "{:.1} MB of samples, {:.1} h back",
                history.bytes() as f64 / 1e6,
                history.reach() as f64 / 3.6e6
            )),
        Figure::new("views", name("a step"), "ms").measured(Spread::of(&costs)),
    ];
    let setting = Setting {
        host: "bench".into(),
        thresholds: Thresholds::default(),
        hidden: Hidden::default(),
    };
    for (path, query) in PAGES {
        let Some(Asked::View(wanted)) = views::asked(path, Some(query)) else { continue };
        let (mut times, mut size) = (Vec::new(), 0);
        for _ in 0..effort.rounds.max(3) {
            let past = history.lend(0);
            let start = Instant::now();
            size = views::answer(&past, &setting, &wanted).body.len();
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        let what = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        let figure = Figure::new("views", name(&what), "ms").measured(Spread::of(&times));
        let figure = figure.target(Target::AtMost(100.0));
        figures.push(figure.note(format!("{:.0} kB before compression", size as f64 / 1e3)));
    }
    figures.first().context("nothing was measured")?;
    Ok(figures)
}
