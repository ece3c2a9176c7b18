//! A strict reader of both text formats, for tests. It shares no code with the writer.
//!
//! Refuses what Prometheus refuses or quietly mends: families that are not in one piece, series that
//! come twice, labels or escapes that are not well-formed, types that do not fit their names.

use std::collections::{BTreeMap, BTreeSet};

use crate::exposition::Format;

/// A sample's labels.
pub(crate) type LabelMap = BTreeMap<String, String>;

/// What a scrape holds.
#[derive(Debug, Default)]
pub(crate) struct Scraped {
    /// By name and labels; the value as it was written.
    pub(crate) samples: BTreeMap<(String, LabelMap), String>,
    /// Families' types by name.
    pub(crate) types: BTreeMap<String, String>,
}

impl Scraped {
    /// Samples of this name that have at least these labels.
    pub(crate) fn find(&self, name: &str, labels: &[(&str, &str)]) -> Vec<(&LabelMap, &str)> {
        let has = |map: &LabelMap| {
            labels.iter().all(|(name, value)| map.get(*name).map(String::as_str) == Some(value))
        };
        let samples = self.samples.iter().filter(|((sample, map), _)| sample == name && has(map));
        samples.map(|((_, map), value)| (map, value.as_str())).collect()
    }

    /// The one value of this name and these labels; `None` when there is none.
    #[cfg(test)]
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let found = self.find(name, labels);
        assert!(found.len() < 2, "{name} {labels:?}: {found:?}");
        found.first().map(|(_, value)| value.parse().expect("read before"))
    }

    /// The sum over all series of a name.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        self.find(name, &[])
            .iter()
            .map(|(_, value)| value.parse::<f64>().expect("read before"))
            .sum()
    }
}

/// Reads a whole scrape.
pub(crate) fn read(text: &str, format: Format) -> Result<Scraped, String> {
    let body = match format {
        Format::Text => text,
        Format::OpenMetrics => {
            text.strip_suffix("# EOF\n").ok_or("does not end with an end mark")?
        }
    };
    if !body.is_empty() && !body.ends_with('\n') {
        return Err("the last line does not end".into());
    }
    let mut reader =
        Reader { format, scraped: Scraped::default(), family: None, helps: BTreeSet::new() };
    for line in body.split_terminator('\n') {
        reader.line(line).map_err(|error| format!("{error}: {line}"))?;
    }
    Ok(reader.scraped)
}

struct Reader {
    format: Format,
    scraped: Scraped,
    family: Option<String>,
    helps: BTreeSet<String>,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<(), String> {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').ok_or("no help text")?;
            unescape(help, self.format == Format::OpenMetrics)?;
            self.begin(name)?;
            let new = self.helps.insert(name.to_owned());
            return if new { Ok(()) } else { Err("family comes twice".into()) };
        }
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').ok_or("no type")?;
            if !matches!(kind, "counter" | "gauge" | "histogram" | "info" | "unknown")
                || matches!(kind, "info" | "unknown") && self.format == Format::Text
            {
                return Err("no such type".into());
            }
            if self.family.as_deref() != Some(name) {
                return Err("type without help before it".into());
            }
            let before = self.scraped.types.insert(name.to_owned(), kind.to_owned());
            return before.map_or(Ok(()), |_| Err("type comes twice".into()));
        }
        if let Some(rest) = line.strip_prefix("# UNIT ") {
            let (name, unit) = rest.split_once(' ').ok_or("no unit")?;
            let right = self.format == Format::OpenMetrics
                && self.family.as_deref() == Some(name)
                && name.ends_with(&format!("_{unit}"));
            return if right { Ok(()) } else { Err("unit does not fit".into()) };
        }
        if line.starts_with('#') {
            return Err("a comment that the writer does not write".into());
        }
        self.sample(line)
    }

    fn begin(&mut self, family: &str) -> Result<(), String> {
        check_name(family, true)?;
        self.family = Some(family.to_owned());
        Ok(())
    }

    fn sample(&mut self, line: &str) -> Result<(), String> {
        let end = line.find(['{', ' ']).ok_or("no value")?;
        let (name, rest) = line.split_at(end);
        check_name(name, true)?;
        self.check_family(name)?;
        let (labels, value) = match rest.strip_prefix('{') {
            Some(rest) => read_labels(rest)?,
            None => (LabelMap::new(), rest),
        };
        let value = value.strip_prefix(' ').ok_or("no space before the value")?;
        if value.contains(' ') || value.parse::<f64>().is_err() {
            return Err("not a number".into());
        }
        let before = self.scraped.samples.insert((name.to_owned(), labels), value.to_owned());
        before.map_or(Ok(()), |_| Err("series comes twice".into()))
    }

    fn check_family(&self, sample: &str) -> Result<(), String> {
        let family = self.family.as_deref().ok_or("sample without a family")?;
        let kind = self.scraped.types.get(family).ok_or("sample without a type")?;
        let suffix = sample.strip_prefix(family).ok_or("sample of another family")?;
        let right = match (self.format, kind.as_str()) {
            (_, "histogram") => matches!(suffix, "_bucket" | "_sum" | "_count"),
            (Format::OpenMetrics, "counter") => suffix == "_total",
            (Format::OpenMetrics, "info") => suffix == "_info",
            _ => suffix.is_empty(),
        };
        if right { Ok(()) } else { Err("the sample's name does not fit its type".into()) }
    }
}

fn read_labels(mut rest: &str) -> Result<(LabelMap, &str), String> {
    let mut labels = LabelMap::new();
    loop {
        if let Some(rest) = rest.strip_prefix('}') {
            return Ok((labels, rest));
        }
        if !labels.is_empty() {
            rest = rest.strip_prefix(',').ok_or("no comma between labels")?;
        }
        let (name, tail) = rest.split_once("=\"").ok_or("no label")?;
        check_name(name, false)?;
        let end = closing_quote(tail).ok_or("the value does not end")?;
        let value = unescape(&tail[..end], true)?;
        if labels.insert(name.to_owned(), value).is_some() {
            return Err("label comes twice".into());
        }
        rest = &tail[end + 1..];
    }
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(at, c)| {
        let quote = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        quote.then_some(at)
    })
}

fn unescape(text: &str, quotes: bool) -> Result<String, String> {
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        plain.push(match c {
            '\\' => match chars.next() {
                Some('\\') => '\\',
                Some('n') => '\n',
                Some('"') if quotes => '"',
                _ => return Err("unknown escape".into()),
            },
            '"' if quotes => return Err("a quote that is not escaped".into()),
            c => c,
        });
    }
    Ok(plain)
}

fn check_name(name: &str, metric: bool) -> Result<(), String> {
    let right = |(at, c): (usize, char)| {
        c.is_ascii_alphabetic() || c == '_' || c == ':' && metric || at > 0 && c.is_ascii_digit()
    };
    match !name.is_empty() && name.char_indices().all(right) {
        true => Ok(()),
        false => Err(format!("{name:?} is no name")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, error: &str) {
        let found = read(text, Format::Text).map(|_| ()).unwrap_err();
        assert!(found.contains(error), "{found} is not {error}");
    }

    #[test]
    fn faults_are_found() {
        let head = "# HELP a x\n# TYPE a counter\n";
        read(&format!("{head}a{{b=\"c\\\"\"}} 1\na 2\n"), Format::Text).unwrap();
        check(&format!("{head}a 1\na 2\n"), "series comes twice");
        check(
            &format!("{head}a{{b=\"1\",c=\"2\"}} 1\na{{c=\"2\",b=\"1\"}} 1\n"),
            "series comes twice",
        );
        check(&format!("{head}a 1\n{head}"), "family comes twice");
        check(&format!("{head}b 1\n"), "another family");
        check(&format!("{head}a{{b=\"\\x\"}} 1\n"), "unknown escape");
        check(&format!("{head}a{{b=\"1\",b=\"2\"}} 1\n"), "label comes twice");
        check(&format!("{head}a{{b=\"1\" c=\"2\"}} 1\n"), "no comma");
        check(&format!("{head}a{{b=\"1}} 1\n"), "does not end");
        check(&format!("{head}a one\n"), "not a number");
        check(&format!("{head}a 1"), "last line does not end");
        check("a 1\n", "without a family");
        let open = "# HELP a x\n# TYPE a counter\na 1\n# EOF\n";
        assert!(read(open, Format::OpenMetrics).is_err());
        assert!(read(head, Format::OpenMetrics).is_err());
    }
}
