//! A strict reader of the Prometheus text format 0.0.4: whatever a lenient one would let pass is an
//! error here. Text in, families out.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context, Result, bail, ensure};

/// One scrape.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    /// By name.
    pub families: BTreeMap<String, Family>,
}

/// One metric family.
#[derive(Clone, Debug)]
pub struct Family {
    /// `counter`, `gauge`, …
    pub kind: String,
    /// Help, unescaped.
    pub help: String,
    /// In their order.
    pub samples: Vec<Sample>,
}

/// One line.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The family's name, or one with `_bucket`, `_sum` or `_count` appended.
    pub name: String,
    /// In their order, unescaped.
    pub labels: Vec<(String, String)>,
    /// Its value.
    pub value: f64,
}

impl Sample {
    /// A label's value, empty where there is none.
    pub fn label(&self, name: &str) -> &str {
        let found = self.labels.iter().find(|(label, _)| label == name);
        found.map(|(_, value)| value.as_str()).unwrap_or_default()
    }

    /// The value of a counter that must be a whole number.
    pub fn whole(&self) -> u64 {
        assert!(self.value >= 0.0 && self.value.fract() == 0.0, "{self:?} is not a whole number");
        self.value as u64
    }
}

impl Scrape {
    /// Reads a whole scrape.
    pub fn parse(text: &str) -> Result<Self> {
        ensure!(text.is_empty() || text.ends_with('\n'), "the last line has no end");
        let mut scrape = Self::default();
        let mut series = HashSet::new();
        let mut current = None;
        for (number, line) in text.lines().enumerate() {
            let result = scrape.line(line, &mut current, &mut series);
            result.with_context(|| format!("line {}: {line}", number + 1))?;
        }
        for (name, family) in &scrape.families {
            ensure!(!family.kind.is_empty(), "{name} has no TYPE");
        }
        Ok(scrape)
    }

    /// A family's samples that have all these labels; none where there is no such family.
    pub fn find<'a>(
        &'a self,
        family: &str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Sample> {
        let samples = self.families.get(family).into_iter().flat_map(|it| &it.samples);
        samples.filter(|it| labels.iter().all(|(name, value)| it.label(name) == *value))
    }

    /// The sum over a family's samples that have all these labels.
    pub fn sum(&self, family: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(family, labels).map(|it| it.value).sum()
    }

    fn line(
        &mut self,
        line: &str,
        current: &mut Option<String>,
        series: &mut HashSet<String>,
    ) -> Result<()> {
        if let Some(comment) = line.strip_prefix("# ") {
            let (keyword, rest) = comment.split_once(' ').context("neither HELP nor TYPE")?;
            let (name, text) = rest.split_once(' ').unwrap_or((rest, ""));
            return self.describe(keyword, name, text, current);
        }
        let sample = parse_sample(line)?;
        let family = current.as_ref().context("a sample before any family")?;
        let suffix = sample.name.strip_prefix(family.as_str()).context("a family in two parts")?;
        let family = self.families.get_mut(family).context("a sample without a family")?;
        let suffixes: &[&str] = match family.kind.as_str() {
            "" => bail!("a sample before its TYPE"),
            "histogram" => &["_bucket", "_sum", "_count"],
            "summary" => &["", "_sum", "_count"],
            _ => &[""],
        };
        ensure!(suffixes.contains(&suffix), "not a name of a {}", family.kind);
        ensure!(series.insert(identity(&sample)), "a series twice");
        family.samples.push(sample);
        Ok(())
    }

    fn describe(
        &mut self,
        keyword: &str,
        name: &str,
        text: &str,
        current: &mut Option<String>,
    ) -> Result<()> {
        ensure!(valid_name(name, true), "a bad name");
        let again = current.as_deref() == Some(name);
        if !again {
            let empty = Family { kind: String::new(), help: String::new(), samples: Vec::new() };
            let old = self.families.insert(name.to_owned(), empty);
            ensure!(old.is_none(), "a family in two parts");
            *current = Some(name.to_owned());
        }
        let family = self.families.get_mut(name).context("the family just made")?;
        ensure!(family.samples.is_empty(), "{keyword} after samples");
        let (field, text) = match keyword {
            "HELP" => (&mut family.help, unescape(text, false)?),
            "TYPE" => (&mut family.kind, text.to_owned()),
            _ => bail!("neither HELP nor TYPE"),
        };
        ensure!(field.is_empty(), "{keyword} twice");
        ensure!(!text.is_empty(), "{keyword} is empty");
        *field = text;
        let kinds = ["", "counter", "gauge", "histogram", "summary", "untyped"];
        ensure!(kinds.contains(&family.kind.as_str()), "a bad type");
        Ok(())
    }
}

fn identity(sample: &Sample) -> String {
    let mut labels = sample.labels.clone();
    labels.sort();
    format!("{}{labels:?}", sample.name)
}

fn valid_name(name: &str, colon: bool) -> bool {
    let first = name.starts_with(|it: char| it.is_ascii_alphabetic() || it == '_');
    first && name.chars().all(|it| it.is_ascii_alphanumeric() || it == '_' || colon && it == ':')
}

fn parse_sample(line: &str) -> Result<Sample> {
    let end = line.find(['{', ' ']).context("no value")?;
    let (name, mut rest) = line.split_at(end);
    ensure!(valid_name(name, true), "a bad name");
    let mut labels: Vec<(String, String)> = Vec::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while let Some((label, after)) = rest.split_once("=\"").filter(|_| !rest.starts_with('}')) {
            ensure!(valid_name(label, false) && !label.starts_with("__"), "a bad label name");
            ensure!(labels.iter().all(|(other, _)| other != label), "a label twice");
            let end = closing_quote(after).context("a label's value without end")?;
            labels.push((label.to_owned(), unescape(&after[..end], true)?));
            rest = &after[end + 1..];
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
        rest = rest.strip_prefix('}').context("labels without end")?;
    }
    let value = rest.strip_prefix(' ').context("no value")?;
    let value = match value {
        "+Inf" => f64::INFINITY,
        "-Inf" => f64::NEG_INFINITY,
        "NaN" => f64::NAN,
        number => {
            ensure!(!number.contains(' '), "a timestamp");
            ensure!(number.starts_with(|it: char| it.is_ascii_digit() || it == '-'), "a bad value");
            number.parse().context("a bad value")?
        }
    };
    Ok(Sample { name: name.to_owned(), labels, value })
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let quote = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        quote
    })
}

fn unescape(text: &str, quotes: bool) -> Result<String> {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character != '\\' {
            plain.push(character);
            continue;
        }
        match characters.next() {
            Some('\\') => plain.push('\\'),
            Some('n') => plain.push('\n'),
            Some('"') if quotes => plain.push('"'),
            other => bail!("an escape that the format does not have: {other:?}"),
        }
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_is_read() {
        let text = "# HELP a Some\\nhelp.\n# TYPE a counter\na{b=\"x\\\"\\\\\\n\",c=\"}\"} 3\na 4.5\n\
                    # TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh_sum 2\nh_count 1\n";
        let scrape = Scrape::parse(text).unwrap();
        let a = &scrape.families["a"];
        assert_eq!((a.kind.as_str(), a.help.as_str()), ("counter", "Some\nhelp."));
        assert_eq!(a.samples[0].label("b"), "x\"\\\n");
        assert_eq!(a.samples[0].whole(), 3);
        assert_eq!(scrape.sum("a", &[]), 7.5);
        assert_eq!(scrape.find("h", &[("le", "+Inf")]).count(), 1);
    }

    #[test]
    fn nothing_bad_passes() {
        for text in [
            "a 1\n",
            "# TYPE a counter\na 1",
            "# TYPE a counter\na 1\na 1\n",
            "# TYPE a counter\na{b=\"1\",c=\"2\"} 1\na{c=\"2\",b=\"1\"} 1\n",
            "# TYPE a counter\na{b=\"1\",b=\"2\"} 1\n",
            "# TYPE a counter\na{b=\"\\x\"} 1\n",
            "# TYPE a counter\na{b=\"1\" 1\n",
            "# TYPE a counter\na nan\n",
            "# TYPE a counter\na 1 1000\n",
            "# TYPE a counters\na 1\n",
            "# TYPE a counter\nb 1\n",
            "# TYPE a counter\na 1\n# TYPE b counter\nb 1\n# TYPE a counter\n",
            "# HELP a x\na 1\n",
        ] {
            assert!(Scrape::parse(text).is_err(), "{text}");
        }
    }
}
