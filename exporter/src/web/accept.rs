//! What a request's headers and query ask for. Text in, a decision out.

/// Text format of a scrape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Prometheus text format 0.0.4.
    Text,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// For the Content-Type header.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// OpenMetrics where the client prefers it; text for everyone else, whatever else they ask for:
    /// there is nothing better to give them.
    pub(super) fn negotiate(accept: Option<&str>) -> Self {
        let (mut text, mut open) = (0, 0);
        for (media, parameters, quality) in accept.into_iter().flat_map(elements) {
            match media.as_str() {
                "application/openmetrics-text" if known_version(parameters) => {
                    open = open.max(quality);
                }
                "text/plain" | "text/*" | "*/*" => text = text.max(quality),
                _ => {}
            }
        }
        if open > text { Self::OpenMetrics } else { Self::Text }
    }
}

fn known_version(parameters: &str) -> bool {
    let version = parameters.split(';').find_map(|parameter| {
        let (key, value) = parameter.split_once('=')?;
        key.trim().eq_ignore_ascii_case("version").then(|| value.trim().trim_matches('"'))
    });
    matches!(version, None | Some("1.0.0") | Some("0.0.1"))
}

/// Whether the client takes gzip (RFC 9110 §12.5.3).
pub(super) fn gzip(accept_encoding: Option<&str>) -> bool {
    let mut any = 0;
    for (coding, _, quality) in accept_encoding.into_iter().flat_map(elements) {
        match coding.as_str() {
            "gzip" | "x-gzip" => return quality > 0,
            "*" => any = quality,
            _ => {}
        }
    }
    any > 0
}

/// A header's elements, lower case, with their parameters and quality in thousandths.
fn elements(header: &str) -> impl Iterator<Item = (String, &str, u32)> {
    header.split(',').map(|element| {
        let (value, parameters) = element.split_once(';').unwrap_or((element, ""));
        let quality = parameters.split(';').find_map(|parameter| {
            let (key, value) = parameter.split_once('=')?;
            key.trim().eq_ignore_ascii_case("q").then(|| value.trim().parse::<f32>().ok())
        });
        // A quality that is no number is as if there were none.
        let quality = quality.flatten().filter(|q| (0.0..=1.0).contains(q)).unwrap_or(1.0);
        (value.trim().to_ascii_lowercase(), parameters, (quality * 1000.0) as u32)
    })
}

/// Groups of families that a scrape can be narrowed to with `?collect[]=…`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Groups {
    /// The families of the replaced exporter.
    pub contract: bool,
    /// Connection, stream and stranger families.
    pub kernel: bool,
    /// Info families.
    pub info: bool,
    /// The exporter's own.
    pub own: bool,
}

impl Groups {
    /// Every group.
    pub const ALL: Self = Self { contract: true, kernel: true, info: true, own: true };
    const NONE: Self = Self { contract: false, kernel: false, info: false, own: false };

    /// From a query; without `collect[]`, everything.
    fn from_query(query: Option<&str>) -> Result<Self, String> {
        let mut groups = Self::NONE;
        for pair in query.unwrap_or_default().split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !matches!(key, "collect[]" | "collect%5B%5D" | "collect%5b%5d" | "collect") {
                continue;
            }
            match value {
                "contract" => groups.contract = true,
                "kernel" => groups.kernel = true,
                "info" => groups.info = true,
                "self" => groups.own = true,
                _ => return Err("collect[]: expected contract, kernel, info or self".into()),
            }
        }
        Ok(if groups == Self::NONE { Self::ALL } else { groups })
    }
}

/// What a scrape is to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// Its format.
    pub format: Format,
    /// Its families.
    pub groups: Groups,
}

impl Wanted {
    pub(super) fn new(accept: Option<&str>, query: Option<&str>) -> Result<Self, String> {
        Ok(Self { format: Format::negotiate(accept), groups: Groups::from_query(query)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_follows_quality() {
        let check = |accept: &str, open: bool| {
            assert_eq!(Format::negotiate(Some(accept)) == Format::OpenMetrics, open, "{accept}");
        };
        check("", false);
        check("*/*", false);
        check("application/json", false);
        check("text/html,application/xhtml+xml,*/*;q=0.8", false);
        check("application/openmetrics-text", true);
        check("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.6", false);
        check("application/openmetrics-text; version=1.0.0; charset=utf-8", true);
        check("application/openmetrics-text;version=2.0.0,*/*;q=0.1", false);
        check("application/openmetrics-text;q=0", false);
        check("application/openmetrics-text;q=x,text/plain;q=0.9", true);
        // Prometheus 2.42.
        check(
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
             version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            true,
        );
        // Prometheus 3.
        check(
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
             application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;\
             escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            true,
        );
        assert_eq!(Format::negotiate(None), Format::Text);
    }

    #[test]
    fn gzip_only_when_asked_for() {
        let check = |accept: &str, expected| assert_eq!(gzip(Some(accept)), expected, "{accept}");
        check("gzip", true);
        check("deflate, GZIP;q=0.5", true);
        check("gzip;q=0, *", false);
        check("*", true);
        check("*;q=0", false);
        check("identity", false);
        check("", false);
        assert!(!gzip(None));
    }

    #[test]
    fn query_narrows_to_groups() {
        let check = |query, expected: Groups| {
            assert_eq!(Groups::from_query(query), Ok(expected), "{query:?}");
        };
        check(None, Groups::ALL);
        check(Some(""), Groups::ALL);
        check(Some("other=1"), Groups::ALL);
        check(Some("collect[]=kernel"), Groups { kernel: true, ..Groups::NONE });
        check(
            Some("collect%5B%5D=contract&collect[]=self"),
            Groups { contract: true, own: true, ..Groups::NONE },
        );
        assert!(Groups::from_query(Some("collect[]=all")).is_err());
        assert!(Groups::from_query(Some("collect[]")).is_err());
    }
}
