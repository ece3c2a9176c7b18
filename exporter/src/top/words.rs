//! Numbers as a terminal shows them: short, and with the unit in the column's head.

use crate::views::Line;

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The last points of a plot.
pub(super) fn bars(points: Option<&Vec<u64>>, width: usize) -> String {
    let points = points.map(Vec::as_slice).unwrap_or_default();
    let points = &points[points.len().saturating_sub(width)..];
    let most = points.iter().copied().max().unwrap_or_default().max(1);
    points.iter().map(|point| BARS[(*point * 7 / most) as usize]).collect()
}

/// Mbit/s.
pub(super) fn megabits(bits: f64) -> String {
    format!("{:.2}", bits / 1e6)
}

pub(super) fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "–".into(), |share| format!("{:.1} %", share * 100.0))
}

pub(super) fn millis(seconds: Option<f64>) -> String {
    seconds.map_or_else(|| "–".into(), |seconds| format!("{:.0} ms", seconds * 1e3))
}

/// What is said of a row, and since when.
pub(super) fn verdict(row: &Line) -> String {
    match (&row.verdict, &row.since) {
        (Some(verdict), Some(since)) => {
            let clock = since.split('T').nth(1).unwrap_or_default();
            format!("{verdict}, since {}", clock.get(..5).unwrap_or_default())
        }
        (Some(verdict), None) => verdict.clone(),
        (None, _) if row.live => "well".into(),
        (None, _) => "gone".into(),
    }
}
