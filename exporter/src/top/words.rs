//! Numbers as a terminal shows them: short, and with the unit in the column's head.

use crate::views::Line;

const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A plot of the whole time, in so many bars.
pub(super) fn bars(points: Option<&Vec<u64>>, width: usize) -> String {
    let points = points.map(Vec::as_slice).unwrap_or_default();
    let bars = points.len().min(width);
    let mean = |bar: usize| {
        let part = &points[bar * points.len() / bars..(bar + 1) * points.len() / bars];
        part.iter().sum::<u64>() / part.len() as u64
    };
    let means: Vec<u64> = (0..bars).map(mean).collect();
    let most = means.iter().copied().max().unwrap_or_default().max(1);
    means.iter().map(|mean| BARS[(*mean * 7 / most) as usize]).collect()
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
            // Where there are several, it is one of them.
            let whose = row.whose.as_ref().filter(|_| row.peers.len() > 1);
            let whose = whose.map(|whose| format!("{whose}: ")).unwrap_or_default();
            format!("{whose}{verdict}, since {}", clock.get(..5).unwrap_or_default())
        }
        (Some(verdict), None) => verdict.clone(),
        (None, _) if row.live => "well".into(),
        (None, _) => "gone".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_of_the_whole_time() {
        assert_eq!(bars(None, 4), "");
        assert_eq!(bars(Some(&vec![7, 0]), 4), "█▁");
        let points: Vec<u64> = (0..60).map(|at| if at < 30 { 70 } else { 10 }).collect();
        assert_eq!(bars(Some(&points), 4), "██▂▂");
        assert_eq!(bars(Some(&points), 7).chars().count(), 7);
    }

    #[test]
    fn a_verdict_is_somebodys() {
        let mut row = Line {
            verdict: Some("uplink".into()),
            since: Some("2026-01-31T14:31:05Z".into()),
            whose: Some("Bob".into()),
            peers: vec!["Bob".into()],
            ..Line::default()
        };
        assert_eq!(verdict(&row), "uplink, since 14:31");
        row.peers.push("Ada".into());
        assert_eq!(verdict(&row), "Bob: uplink, since 14:31");
    }
}
