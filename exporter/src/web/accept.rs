//! What a request's headers and query ask for. Text in, a decision out.

use crate::exposition::families::Group;
use crate::exposition::{Format, Selection};

/// OpenMetrics where the client prefers it; text for everyone else, whatever else they ask for: there
/// is nothing better to give them.
fn negotiate(accept: Option<&str>) -> Format {
    let (mut text, mut open) = (0, 0);
    for (media, parameters, quality) in accept.into_iter().flat_map(elements) {
        match media.as_str() {
            "application/openmetrics-text" if known_version(parameters) => open = open.max(quality),
            "text/plain" | "text/*" | "*/*" => text = text.max(quality),
            _ => {}
        }
    }
    if open > text { Format::OpenMetrics } else { Format::Text }
}

/// Whether a client of `/` wants samples, where the replaced exporter had them: Prometheus names their formats. A
/// browser names pages, and who takes anything gets the page.
pub(super) fn samples(accept: Option<&str>) -> bool {
    let has = |wanted: &[&str]| {
        let mut elements = accept.into_iter().flat_map(elements);
        elements.any(|(media, _, quality)| quality > 0 && wanted.contains(&media.as_str()))
    };
    has(&["application/openmetrics-text", "text/plain"]) && !has(&["text/html"])
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

/// What a scrape is to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Its format.
    pub format: Format,
    /// Its families, but for the exporter's own.
    pub selection: Selection,
    /// The exporter's own families.
    pub own: bool,
}

impl Wanted {
    /// Everything.
    pub fn all(format: Format) -> Self {
        Self { format, selection: Selection::ALL, own: true }
    }

    pub(super) fn new(accept: Option<&str>, query: Option<&str>) -> Result<Self, String> {
        let mut wanted = Self::all(negotiate(accept));
        if query.into_iter().flat_map(keys).any(is_misspelt) {
            return Err("unknown parameter; expected families or collect[]".to_owned());
        }
        let names: Vec<&str> = query.into_iter().flat_map(asked).collect();
        if !names.is_empty() {
            wanted.own = names.iter().any(|name| matches!(*name, OWN | "all"));
            wanted.selection = selection(names.into_iter().filter(|name| *name != OWN))?;
        }
        Ok(wanted)
    }
}

/// The group of the exporter's own families.
const OWN: &str = "self";

fn keys(query: &str) -> impl Iterator<Item = &str> {
    query.split('&').map(|pair| pair.split_once('=').map_or(pair, |(key, _)| key))
}

/// One of those below was meant, and everything would be sent. All other parameters may be there: scrapers, proxies
/// and service discovery add some of their own (`params` in Prometheus' configuration).
fn is_misspelt(key: &str) -> bool {
    let lower = key.to_ascii_lowercase();
    let is_like = ["famil", "collect"].iter().any(|begin| lower.starts_with(begin));
    is_like && !KEYS.contains(&key)
}

const KEYS: [&str; 3] = ["families", "collect[]", "collect%5B%5D"];

/// The groups in `families=a,b` and, as node_exporter has it, `collect[]=a`.
fn asked(query: &str) -> impl Iterator<Item = &str> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .filter(|(key, _)| KEYS.contains(key))
        .flat_map(|(_, value)| value.split(','))
        .filter(|name| !name.is_empty())
}

fn selection<'a>(names: impl Iterator<Item = &'a str>) -> Result<Selection, String> {
    let names = names.collect::<Vec<_>>().join(",");
    if names.is_empty() {
        return Ok(Selection::from_iter([]));
    }
    Selection::parse(&names).map_err(|_| {
        let groups = Group::ALL.map(Group::name).join(", ");
        format!("families: expected all, kernel, {OWN}, {groups}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn format_follows_quality() {
        let check = |accept: &str, open: bool| {
            assert_eq!(negotiate(Some(accept)) == Format::OpenMetrics, open, "{accept}");
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
        assert_eq!(negotiate(None), Format::Text);
    }

    #[test]
    fn prometheus_gets_samples_at_the_root_and_a_person_the_page() {
        let check =
            |accept: &str, expected| assert_eq!(samples(Some(accept)), expected, "{accept}");
        check("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", false);
        check("*/*", false);
        check("", false);
        check("text/html,text/plain", false);
        check("application/openmetrics-text;q=0,text/html;q=0", false);
        // Prometheus 2.42; 1.8; curl -H.
        check(
            "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            true,
        );
        check("text/plain;version=0.0.4;q=1,*/*;q=0.1", true);
        check("text/plain", true);
        assert!(!samples(None));
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
        let check = |query, groups: &[Group], own: bool| {
            let wanted = Wanted::new(None, query).unwrap();
            let selection = groups.iter().copied().collect::<Selection>();
            assert_eq!((wanted.selection, wanted.own), (selection, own), "{query:?}");
        };
        assert_eq!(Wanted::new(None, None), Ok(Wanted::all(Format::Text)));
        assert_eq!(Wanted::new(None, Some("")), Ok(Wanted::all(Format::Text)));
        assert_eq!(Wanted::new(None, Some("other=1&families=")), Ok(Wanted::all(Format::Text)));
        assert_eq!(Wanted::new(None, Some("families=all")), Ok(Wanted::all(Format::Text)));
        check(Some("families=contract"), &[Group::Contract], false);
        check(Some("families=self"), &[], true);
        check(Some("collect[]=contract&collect%5B%5D=self"), &[Group::Contract], true);
        check(Some("families=info,streams"), &[Group::Info, Group::Streams], false);
        for misspelt in ["family=contract", "Families=info", "a=b&collect=self", "families[]=info"]
        {
            let refusal = Wanted::new(None, Some(misspelt)).unwrap_err();
            assert!(refusal.contains("families or collect[]"), "{misspelt} {refusal}");
        }
        let refusal = Wanted::new(None, Some("families=everything")).unwrap_err();
        assert!(refusal.contains("contract") && !refusal.contains("everything"), "{refusal}");
    }
}
