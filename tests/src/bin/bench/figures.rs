//! Figures: samples come in, medians with their spread beside a baseline and a target go out, as one
//! table and as JSON.

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::{Value, json};

/// The middle of several samples: both quartiles and the median.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    /// A quarter of the samples is below.
    pub low: f64,
    /// Half of them is.
    pub median: f64,
    /// Three quarters are.
    pub high: f64,
}

impl Spread {
    /// Of at least one sample.
    pub fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |quarters: usize| sorted[(sorted.len() - 1) * quarters / 4];
        Self { low: at(1), median: at(2), high: at(3) }
    }

    /// Of one.
    pub fn single(value: f64) -> Self {
        Self::of(&[value])
    }

    /// All samples times a factor.
    pub fn times(self, factor: f64) -> Self {
        Self { low: self.low * factor, median: self.median * factor, high: self.high * factor }
    }
}

/// Runs every case once a round, in turn, so that whatever disturbs the machine disturbs all alike.
pub fn interleaved(rounds: usize, cases: &mut [Case<'_>]) -> Result<Vec<Spread>> {
    let mut samples = vec![Vec::new(); cases.len()];
    for _ in 0..rounds {
        for (samples, case) in samples.iter_mut().zip(cases.iter_mut()) {
            samples.push(case()?);
        }
    }
    Ok(samples.iter().map(|samples| Spread::of(samples)).collect())
}

/// One measurement.
pub type Case<'a> = Box<dyn FnMut() -> Result<f64> + 'a>;

/// What a figure should be.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// Nothing is asked.
    None,
    /// At most so many times the baseline.
    Times(f64),
    /// At least so many times the baseline.
    AtLeastTimes(f64),
    /// At most the baseline and so much more.
    Above(f64),
    /// At most this.
    AtMost(f64),
    /// The baseline is at least so many times this.
    Faster(f64),
}

/// One row of the table.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Part of the measurement.
    pub part: &'static str,
    /// What was measured.
    pub name: String,
    /// `ns`, `ms`, `MB`, …
    pub unit: &'static str,
    /// What came out; `None`: it was not measured, the note says why.
    pub measured: Option<Spread>,
    /// What it is compared with.
    pub baseline: Option<(&'static str, Spread)>,
    /// The median of ratios that were taken round by round, where those are steadier.
    pub paired: Option<f64>,
    /// What it should be.
    pub target: Target,
    /// Whatever a reader has to know.
    pub note: String,
}

impl Figure {
    /// Without a baseline, target or note.
    pub fn new(part: &'static str, name: impl Into<String>, unit: &'static str) -> Self {
        Self {
            part,
            name: name.into(),
            unit,
            measured: None,
            baseline: None,
            paired: None,
            target: Target::None,
            note: String::new(),
        }
    }

    /// What came out.
    pub fn measured(self, measured: Spread) -> Self {
        Self { measured: Some(measured), ..self }
    }

    /// What it is compared with.
    pub fn beside(self, name: &'static str, baseline: Spread) -> Self {
        Self { baseline: Some((name, baseline)), ..self }
    }

    /// Each round's sample by that round's baseline.
    pub fn paired(self, ratios: &[f64]) -> Self {
        Self { paired: Some(Spread::of(ratios).median), ..self }
    }

    /// What it should be.
    pub fn target(self, target: Target) -> Self {
        Self { target, ..self }
    }

    /// A remark.
    pub fn note(self, note: impl Into<String>) -> Self {
        Self { note: note.into(), ..self }
    }

    fn ratio(&self) -> Option<f64> {
        self.paired.or_else(|| Some(self.measured?.median / self.baseline?.1.median))
    }

    /// Whether the median is as it should be; `None`: nothing was asked, or nothing measured.
    pub fn met(&self) -> Option<bool> {
        let measured = self.measured?.median;
        let baseline = self.baseline.map(|(_, baseline)| baseline.median);
        match self.target {
            Target::None => None,
            Target::Times(most) => Some(self.ratio()? <= most),
            Target::AtLeastTimes(least) => Some(self.ratio()? >= least),
            Target::Above(more) => Some(measured <= baseline? + more),
            Target::AtMost(most) => Some(measured <= most),
            Target::Faster(times) => Some(measured * times <= baseline?),
        }
    }

    fn asked(&self) -> String {
        let unit = self.unit;
        match self.target {
            Target::None => String::new(),
            Target::Times(most) => format!("≤ {most} ×"),
            Target::AtLeastTimes(least) => format!("≥ {least} ×"),
            Target::Above(more) => format!("≤ +{more} {unit}"),
            Target::AtMost(most) => format!("≤ {most} {unit}"),
            Target::Faster(times) => format!("{times} × faster"),
        }
    }

    fn verdict(&self) -> &'static str {
        match (self.measured, self.met()) {
            (None, _) => "not measured",
            (_, None) => "",
            (_, Some(true)) => "met",
            (_, Some(false)) => "missed",
        }
    }

    fn json(&self) -> Value {
        let spread = |spread: Spread| json!({ "low": spread.low, "median": spread.median, "high": spread.high });
        json!({
            "part": self.part,
            "name": self.name,
            "unit": self.unit,
            "measured": self.measured.map(spread),
            "baseline": self.baseline.map(|(name, it)| json!({ "name": name, "spread": spread(it) })),
            "ratio": self.ratio(),
            "target": self.asked(),
            "met": self.met(),
            "note": self.note,
        })
    }
}

/// The table, in Markdown.
pub fn table(figures: &[Figure]) -> String {
    let mut text = String::from(
        "| figure | measured (quartiles) | baseline | ratio | target | |\n|---|---|---|---|---|---|\n",
    );
    for figure in figures {
        let shown = |spread: Spread| {
            let Spread { low, median, high } = spread;
            format!("{} {} ({}–{})", short(median), figure.unit, short(low), short(high))
        };
        let baseline = figure.baseline.map(|(name, it)| format!("{name}: {}", shown(it)));
        let note =
            if figure.note.is_empty() { String::new() } else { format!("; {}", figure.note) };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {}: {}{note} | {} | {} | {} | {} | {} |",
            figure.part,
            figure.name,
            figure.measured.map(shown).unwrap_or_default(),
            baseline.unwrap_or_default(),
            figure.ratio().map(|ratio| format!("{ratio:.2} ×")).unwrap_or_default(),
            figure.asked(),
            figure.verdict(),
        );
    }
    text
}

/// Everything, for programs.
pub fn json(figures: &[Figure], machine: Value) -> Value {
    let figures: Vec<Value> = figures.iter().map(Figure::json).collect();
    json!({ "machine": machine, "figures": figures })
}

/// Three digits that count, all those before the point.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_the_quartiles() {
        let spread = Spread::of(&[5.0, 1.0, 4.0, 2.0, 3.0]);
        assert_eq!((spread.low, spread.median, spread.high), (2.0, 3.0, 4.0));
    }

    #[track_caller]
    fn check(target: Target, measured: f64, baseline: f64, expected: bool) {
        let figure = Figure::new("part", "name", "ns").measured(Spread::single(measured));
        let figure = figure.beside("other", Spread::single(baseline)).target(target);
        assert_eq!(figure.met(), Some(expected));
    }

    #[test]
    fn targets_are_met_or_missed() {
        check(Target::Times(1.5), 30.0, 20.0, true);
        check(Target::Times(1.5), 31.0, 20.0, false);
        check(Target::AtLeastTimes(0.95), 94.0, 100.0, false);
        check(Target::Above(3.0), 10.0, 7.0, true);
        check(Target::AtMost(8.0), 9.0, 1.0, false);
        check(Target::Faster(50.0), 2.0, 100.0, true);
        check(Target::Faster(50.0), 2.1, 100.0, false);
    }
}
