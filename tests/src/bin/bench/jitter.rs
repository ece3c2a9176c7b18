//! The error of sampled jitter: what the sample says, beside what every packet says, of the same
//! made-up streams. No time is measured, so each run has the same figures.

use anyhow::Result;
use exporter_tests::arrivals::PROCESSES;

use crate::Effort;
use crate::figures::{Figure, Spread};

/// Streams of each kind.
const STREAMS: u64 = 1_001;

/// Plays them.
pub fn measure(effort: Effort) -> Result<Vec<Figure>> {
    let streams = if effort.quick { STREAMS / 10 } else { STREAMS };
    let milliseconds = |(sampled, every): (f64, f64)| (sampled * 1e3, every * 1e3);
    let figure = |process: &exporter_tests::arrivals::Process| {
        let played = (0..streams).map(|seed| milliseconds(process.play(seed)));
        let (sampled, every): (Vec<f64>, Vec<f64>) = played.unzip();
        Figure::new("jitter", process.name, "ms")
            .measured(Spread::of(&sampled))
            .beside("every packet", Spread::of(&every))
    };
    Ok(PROCESSES.iter().map(figure).collect())
}
