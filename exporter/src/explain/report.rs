//! Documents and metrics as an explanation.

use std::fmt::Write as _;

use crate::views::{Document, Line};

/// What rows are asked for, from the large to the small.
pub(super) const KINDS: [&str; 5] = ["room", "peer", "ip", "transport", "stream"];

/// What a page has of somebody.
pub(super) struct Found {
    pub(super) by: &'static str,
    pub(super) document: Document,
}

/// Lines of a part at most: who asks for a letter is not to read a thousand.
const MOST: usize = 25;

pub(super) fn text(what: &str, found: &[Found], metrics: &str) -> String {
    let mut text = String::new();
    for Found { by, document } in found.iter().filter(|found| !found.document.rows.is_empty()) {
        let _ =
            writeln!(text, "{} with `{what}`, {} to {}:", plural(by), document.from, document.to);
        if matches!(*by, "room" | "ip") {
            let _ = writeln!(text, "  (what of them has that in a name, an id or an address)");
        }
        for row in document.rows.iter().take(MOST) {
            describe(by, row, &mut text);
        }
        if document.total > MOST {
            let _ = writeln!(text, "  and {} more", document.total - MOST);
        }
        text.push('\n');
    }
    let reasons = reasons(metrics);
    if !reasons.is_empty() {
        text.push_str("What keeps the exporter from knowing more:\n");
        for reason in &reasons {
            let _ = writeln!(text, "  {reason}");
        }
    }
    text
}

fn plural(by: &str) -> &'static str {
    match by {
        "room" => "Rooms",
        "peer" => "Peers",
        "ip" => "Addresses",
        "transport" => "Transports",
        _ => "Streams",
    }
}

fn describe(by: &str, row: &Line, text: &mut String) {
    let title = if row.title.is_empty() { "not told" } else { &row.title };
    let mut parts = vec![title.to_owned()];
    parts.extend((!row.subtitle.is_empty()).then(|| row.subtitle.clone()));
    let peers = row.peers.join(", ");
    parts.extend((by != "peer" && !peers.is_empty()).then_some(peers));
    parts.extend(
        (by != "room" && !row.rooms.is_empty()).then(|| format!("in {}", row.rooms.join(", "))),
    );
    parts.extend((!row.protocols.is_empty()).then(|| row.protocols.join(", ")));
    let presence = if row.live { "there now" } else { "gone" };
    let _ = writeln!(
        text,
        "  {}; {presence}, seen {} to {}",
        parts.join(", "),
        row.first_seen,
        row.last_seen
    );
    let _ = writeln!(
        text,
        "    in  {} packets, {} bytes, now {:.2} Mbit/s{}{}",
        row.receive_packets,
        row.receive_bytes,
        row.receive_bits_per_second / 1e6,
        share(", lost", row.receive_loss_ratio),
        millis(", jitter", row.jitter_seconds),
    );
    let _ = writeln!(
        text,
        "    out {} packets, {} bytes, now {:.2} Mbit/s{}{}{}",
        row.send_packets,
        row.send_bytes,
        row.send_bits_per_second / 1e6,
        share(", lost", row.send_loss_ratio),
        millis(", round trip", row.round_trip_time_seconds),
        row.score.map(|score| format!(", score {score}")).unwrap_or_default(),
    );
    // Of a peer: its transports and streams need not repeat it.
    if matches!(by, "room" | "peer" | "ip")
        && let (Some(verdict), Some(evidence)) = (&row.verdict, &row.evidence)
    {
        let since = row.since.as_deref().unwrap_or_default();
        let whose = match &row.whose {
            Some(whose) if by != "peer" => format!("{whose}: "),
            _ => String::new(),
        };
        let _ = writeln!(text, "    {whose}{verdict}, since {since}: {evidence}");
    }
    if let Some(why) = unjoined(by, row) {
        let _ = writeln!(text, "    {why}");
    }
}

/// Why a row names nobody.
fn unjoined(by: &str, row: &Line) -> Option<&'static str> {
    let is_counted = row.receive_packets + row.send_packets > 0;
    let is_nameless = row.rooms.is_empty() && row.peers.is_empty();
    match by {
        "ip" | "transport" if is_nameless && is_counted => Some(
            "counted, and no server tells whose it is: its server is not observed, or tells another address or port",
        ),
        "ip" | "transport" | "stream" if !is_counted && row.live => Some(
            "told, and no packet of it was counted in this time: see mediasoup_exporter_connections_uncounted",
        ),
        "room" | "peer" if !is_counted && row.live => Some(
            "told, and no packet of it was counted in this time: it has no transport, or nobody uses it",
        ),
        _ => None,
    }
}

fn share(name: &str, share: Option<f64>) -> String {
    share.map(|share| format!("{name} {:.1} %", share * 100.0)).unwrap_or_default()
}

fn millis(name: &str, seconds: Option<f64>) -> String {
    seconds.map(|seconds| format!("{name} {:.1} ms", seconds * 1e3)).unwrap_or_default()
}

/// Metrics whose value alone says that something is missing: a beginning of a line, whether zero is bad, and what
/// it means.
const TELLING: [(&str, bool, &str); 7] = [
    (
        "mediasoup_exporter_source_up",
        true,
        "a source does not work; the log and the page at / say why",
    ),
    ("mediasoup_exporter_interface_up", true, "packets of an interface are not counted"),
    (
        "mediasoup_exporter_interface_behind",
        false,
        "another program stands in front and may keep packets",
    ),
    (
        "mediasoup_exporter_servers_refused",
        false,
        "servers are not believed; the page at / names them",
    ),
    ("mediasoup_exporter_workers_unobserved", false, "of these workers no server tells"),
    ("mediasoup_exporter_connections_uncounted", false, "connections are told and not counted"),
    ("mediasoup_exporter_series_missing", false, "there was no room for series: --max-series"),
];

fn reasons(metrics: &str) -> Vec<String> {
    let samples = metrics.lines().filter(|line| !line.starts_with('#'));
    let reason = |line: &str| {
        let (sample, value) = line.rsplit_once(' ')?;
        let value: f64 = value.parse().ok()?;
        let name = sample.split('{').next().unwrap_or_default();
        let (_, zero_is_bad, meaning) = TELLING.iter().find(|(known, _, _)| *known == name)?;
        ((value == 0.0) == *zero_is_bad).then(|| format!("{sample} is {value}: {meaning}"))
    };
    samples.filter_map(reason).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(title: &str) -> Line {
        Line { title: title.into(), live: true, ..Line::default() }
    }

    fn found(by: &'static str, rows: Vec<Line>) -> Found {
        Found { by, document: Document { total: rows.len(), rows, ..Document::default() } }
    }

    #[test]
    fn all_that_is_known_is_said() {
        let bob = Line {
            rooms: vec!["lecture".into()],
            receive_packets: 900,
            receive_loss_ratio: Some(0.1),
            jitter_seconds: Some(0.038),
            score: Some(3),
            verdict: Some("uplink".into()),
            evidence: Some("10.0 % of 1000 packets lost before this host".into()),
            since: Some("2026-01-31T14:31:05Z".into()),
            ..line("Bob")
        };
        let text = text("bob", &[found("room", vec![]), found("peer", vec![bob])], "");
        for part in [
            "Peers with `bob`",
            "  Bob, in lecture; there now",
            "lost 10.0 %, jitter 38.0 ms",
            "score 3",
            "uplink, since 2026-01-31T14:31:05Z: 10.0 %",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(!text.contains("Rooms") && !text.contains("keeps the exporter"));
    }

    #[test]
    fn why_somebody_is_not_joined_is_said() {
        let counted = Line { receive_packets: 5, ..line("203.0.113.7") };
        let rows = vec![counted, line("203.0.113.8")];
        let metrics = "# HELP x\nmediasoup_exporter_source_up{source=\"observer:/a b\"} 0\n\
                       mediasoup_exporter_interface_up{interface=\"lo\"} 1\n\
                       mediasoup_exporter_connections_uncounted{reason=\"port\"} 2\nother 0\n";
        let text = text("203", &[found("ip", rows)], metrics);
        assert!(text.contains("no server tells whose it is"), "{text}");
        assert!(text.contains("no packet of it was counted"), "{text}");
        assert!(text.contains("observer:/a b\"} is 0: a source"), "{text}");
        assert!(text.contains("{reason=\"port\"} is 2: connections"), "{text}");
        assert!(!text.contains("interface"), "{text}");
    }

    #[test]
    fn who_asks_for_a_letter_does_not_read_a_thousand() {
        let rows = (0..60).map(|at| line(&format!("p{at}"))).collect();
        let text = text("p", &[found("peer", rows)], "");
        assert!(text.contains("and 35 more") && text.lines().count() < 5 * MOST);
    }
}
