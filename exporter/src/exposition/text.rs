//! The two text formats: headers, sample names, values.
//!
//! Series come in as label text that is already escaped; bytes go out. What differs between the text
//! format 0.0.4 and OpenMetrics 1.0 is decided here and nowhere else.

/// What a family's value means to Prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricType {
    /// Never falls but to begin again.
    Counter,
    /// Falls and rises.
    Gauge,
    /// Always 1; its labels are what it says.
    Info,
}

/// What stands before a family's samples.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) name: &'static str,
    pub(crate) kind: MetricType,
    pub(crate) unit: &'static str,
    pub(crate) help: &'static str,
}

/// How a scrape is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Prometheus' text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The Content-Type header.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// What must stand at the very end.
    pub fn end(self) -> &'static str {
        match self {
            Self::Text => "",
            Self::OpenMetrics => "# EOF\n",
        }
    }

    /// A family's name in its HELP and TYPE lines. Its samples keep `name` in both formats, because a
    /// Prometheus that prefers OpenMetrics would otherwise store the contract's counters under other
    /// names; OpenMetrics only names the family of a counter without `_total` and of an info without
    /// `_info`.
    pub(crate) fn family_name(self, name: &str, kind: MetricType) -> &str {
        let suffix = match (self, kind) {
            (Self::Text, _) | (Self::OpenMetrics, MetricType::Gauge) => return name,
            (Self::OpenMetrics, MetricType::Counter) => "_total",
            (Self::OpenMetrics, MetricType::Info) => "_info",
        };
        name.strip_suffix(suffix).unwrap_or(name)
    }

    /// OpenMetrics has counters and infos only where the samples' name says so; a counter that is
    /// called otherwise is of unknown type there.
    pub(crate) fn kind(self, name: &str, kind: MetricType) -> &'static str {
        match (self, kind) {
            (Self::OpenMetrics, MetricType::Counter) if !name.ends_with("_total") => "unknown",
            (_, MetricType::Counter) => "counter",
            (_, MetricType::Gauge) | (Self::Text, MetricType::Info) => "gauge",
            (Self::OpenMetrics, MetricType::Info) => "info",
        }
    }

    /// The lines before a family's samples.
    pub(crate) fn header(self, head: Head, out: &mut Vec<u8>) {
        let Head { name, kind, unit, help } = head;
        let kind_name = self.kind(name, kind);
        let name = self.family_name(name, kind);
        for part in ["# HELP ", name, " ", &self.help(help), "\n# TYPE ", name, " ", kind_name] {
            out.extend_from_slice(part.as_bytes());
        }
        out.push(b'\n');
        if self == Self::OpenMetrics && name.ends_with(&format!("_{unit}")) && !unit.is_empty() {
            for part in ["# UNIT ", name, " ", unit, "\n"] {
                out.extend_from_slice(part.as_bytes());
            }
        }
    }

    /// Both formats escape backslash and line feed in a help text, OpenMetrics also the double quote.
    pub(crate) fn help(self, help: &str) -> String {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        match self {
            Self::Text => help,
            Self::OpenMetrics => help.replace('"', "\\\""),
        }
    }
}

/// Writes the samples of one family into a buffer until that is full.
pub(crate) struct Lines<'a> {
    out: &'a mut Vec<u8>,
    name: &'a str,
    limit: usize,
}

impl<'a> Lines<'a> {
    /// Samples named `name`, until `out` holds `limit` bytes.
    pub(crate) fn new(out: &'a mut Vec<u8>, name: &'a str, limit: usize) -> Self {
        Self { out, name, limit }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.out.len() >= self.limit
    }

    /// A sample; the label parts are the text from the opening brace to the space before the value.
    pub(crate) fn put(&mut self, labels: &[&str], value: impl Value) {
        self.out.extend_from_slice(self.name.as_bytes());
        for part in labels {
            self.out.extend_from_slice(part.as_bytes());
        }
        value.write(self.out);
        self.out.push(b'\n');
    }
}

/// A number as both formats write it.
pub(crate) trait Value {
    fn write(self, out: &mut Vec<u8>);
}

macro_rules! integers {
    ($($integer:ty),*) => {$(
        impl Value for $integer {
            #[inline]
            fn write(self, out: &mut Vec<u8>) {
                out.extend_from_slice(itoa::Buffer::new().format(self).as_bytes());
            }
        }
    )*};
}

integers!(u8, u64, i64);

impl Value for bool {
    fn write(self, out: &mut Vec<u8>) {
        out.push(b'0' + u8::from(self));
    }
}

impl Value for f64 {
    fn write(self, out: &mut Vec<u8>) {
        let text = match () {
            () if self.is_nan() => "NaN".to_owned(),
            () if self.is_infinite() => if self > 0.0 { "+Inf" } else { "-Inf" }.to_owned(),
            () => self.to_string(),
        };
        out.extend_from_slice(text.as_bytes());
    }
}

/// Microseconds, written as seconds, exactly.
pub(crate) struct Micros(pub(crate) u64);

impl Value for Micros {
    fn write(self, out: &mut Vec<u8>) {
        decimal(self.0 / 1_000_000, self.0 % 1_000_000, 6, out);
    }
}

/// 256ths (RFC 3550 §6.4.1), written as a ratio, exactly.
pub(crate) struct Fraction256(pub(crate) u8);

impl Value for Fraction256 {
    fn write(self, out: &mut Vec<u8>) {
        // 1/256 = 0.00390625.
        decimal(0, u64::from(self.0) * 390_625, 8, out);
    }
}

/// `whole.fraction`, the fraction padded to `digits` and then without trailing zeros.
fn decimal(whole: u64, mut fraction: u64, mut digits: usize, out: &mut Vec<u8>) {
    whole.write(out);
    if fraction == 0 {
        return;
    }
    while fraction.is_multiple_of(10) {
        fraction /= 10;
        digits -= 1;
    }
    let mut buffer = itoa::Buffer::new();
    let text = buffer.format(fraction);
    out.push(b'.');
    out.resize(out.len() + digits - text.len(), b'0');
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: impl Value, expected: &str) {
        let mut out = Vec::new();
        value.write(&mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn numbers() {
        check(u64::MAX, "18446744073709551615");
        check(-3_i64, "-3");
        check(true, "1");
        check(0.5, "0.5");
        check(f64::NAN, "NaN");
        check(f64::NEG_INFINITY, "-Inf");
        check(Micros(0), "0");
        check(Micros(1), "0.000001");
        check(Micros(12_500), "0.0125");
        check(Micros(3_000_000), "3");
        check(Micros(3_000_100), "3.0001");
        check(Fraction256(0), "0");
        check(Fraction256(1), "0.00390625");
        check(Fraction256(128), "0.5");
        check(Fraction256(255), "0.99609375");
    }

    #[test]
    fn names_differ_between_the_formats() {
        let names = |name, kind| {
            assert_eq!(Format::Text.family_name(name, kind), name);
            let open = Format::OpenMetrics;
            format!("{} {}", open.family_name(name, kind), open.kind(name, kind))
        };
        assert_eq!(names("a_bytes_total", MetricType::Counter), "a_bytes counter");
        assert_eq!(names("a_count_bytes", MetricType::Counter), "a_count_bytes unknown");
        assert_eq!(names("a_info", MetricType::Info), "a info");
        assert_eq!(names("a_score", MetricType::Gauge), "a_score gauge");
    }

    #[test]
    fn help_is_escaped() {
        assert_eq!(Format::Text.help("a\\b\"c\nd"), r#"a\\b"c\nd"#);
        assert_eq!(Format::OpenMetrics.help("a\\b\"c\nd"), r#"a\\b\"c\nd"#);
    }
}
