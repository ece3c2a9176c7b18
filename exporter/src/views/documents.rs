//! Tables as JSON and as CSV, for programs.

use serde::Serialize;

use crate::views::query::Query;
use crate::views::scene::Scene;
use crate::views::table::{Named, Row, Table};

/// What the JSON looks like, and what can be asked for.
pub(super) const OPENAPI: &str = include_str!("../../assets/openapi.json");

/// A whole table.
#[derive(Serialize)]
struct Document<'a> {
    host: &'a str,
    by: &'a str,
    from: String,
    to: String,
    total: usize,
    offset: usize,
    rows: Vec<Line>,
}

/// A row. Rates are bits a second, times seconds, losses shares of one.
#[derive(Serialize)]
struct Line {
    key: String,
    title: String,
    subtitle: String,
    peers: Vec<String>,
    rooms: Vec<String>,
    /// There are further peers or rooms.
    more: bool,
    protocols: Vec<String>,
    streams: usize,
    live: bool,
    first_seen: String,
    last_seen: String,
    receive_bits_per_second: f64,
    send_bits_per_second: f64,
    receive_mean_bits_per_second: f64,
    send_mean_bits_per_second: f64,
    receive_bytes: u64,
    send_bytes: u64,
    receive_packets: u64,
    send_packets: u64,
    receive_lost_packets: i64,
    send_lost_packets: i64,
    receive_loss_ratio: Option<f64>,
    send_loss_ratio: Option<f64>,
    jitter_seconds: Option<f64>,
    round_trip_time_seconds: Option<f64>,
    score: Option<u8>,
    verdict: Option<&'static str>,
    evidence: Option<String>,
    since: Option<String>,
}

/// A moment as text: RFC 3339, UTC.
pub(super) fn moment(scene: &Scene<'_>, millis: u64) -> String {
    let since = std::time::Duration::from_millis(scene.epoch.saturating_add(millis));
    let time = std::time::UNIX_EPOCH.checked_add(since);
    time.map_or_else(String::new, |time| humantime::format_rfc3339_seconds(time).to_string())
}

fn line(row: &Row, scene: &Scene<'_>) -> Line {
    let Row { key, title, subtitle, peers, rooms, protos, streams, figures, .. } = row;
    let names = |named: &Named| named.names.iter().cloned().collect();
    let verdict = figures.verdict.as_ref();
    // Thousandths are more than anybody sees.
    let round = |number: f64| (number * 1e6).round() / 1e6;
    Line {
        key: key.clone(),
        title: title.clone(),
        subtitle: subtitle.clone(),
        peers: names(peers),
        rooms: names(rooms),
        more: peers.more || rooms.more,
        protocols: protos.iter().cloned().collect(),
        streams: *streams,
        live: figures.live,
        first_seen: moment(scene, figures.first),
        last_seen: moment(scene, figures.last),
        receive_bits_per_second: figures.now_in().round(),
        send_bits_per_second: figures.now_out().round(),
        receive_mean_bits_per_second: figures.mean_in().round(),
        send_mean_bits_per_second: figures.mean_out().round(),
        receive_bytes: figures.received.bytes,
        send_bytes: figures.sent.bytes,
        receive_packets: figures.received.packets,
        send_packets: figures.sent.packets,
        receive_lost_packets: figures.media_in.lost,
        send_lost_packets: figures.media_out.lost,
        receive_loss_ratio: figures.loss_in().map(round),
        send_loss_ratio: figures.loss_out().map(round),
        jitter_seconds: figures.jitter().map(round),
        round_trip_time_seconds: figures.round_trip().map(round),
        score: figures.score(),
        verdict: verdict.map(|verdict| verdict.cause.as_str()),
        evidence: verdict.map(|verdict| verdict.evidence.clone()),
        since: verdict.map(|verdict| moment(scene, verdict.since)),
    }
}

pub(super) fn json(table: &Table, scene: &Scene<'_>, query: &Query) -> Vec<u8> {
    let document = Document {
        host: scene.host,
        by: query.by.name(),
        from: moment(scene, table.start),
        to: moment(scene, table.end),
        total: table.total,
        offset: query.offset,
        rows: table.rows.iter().map(|row| line(row, scene)).collect(),
    };
    // Text and numbers: nothing can fail.
    let mut body = serde_json::to_vec(&document).unwrap_or_default();
    body.push(b'\n');
    body
}

/// Lists in a field are separated by semicolons.
pub(super) fn csv(table: &Table, scene: &Scene<'_>) -> Vec<u8> {
    let mut text = csv::Writer::from_writer(Vec::new());
    let mut write = |fields: &[String]| text.write_record(fields).is_ok();
    write(&NAMES.map(str::to_owned));
    for row in &table.rows {
        write(&fields(line(row, scene)).map(harmless));
    }
    text.into_inner().unwrap_or_default()
}

const NAMES: [&str; 20] = [
    "key",
    "title",
    "peers",
    "rooms",
    "protocols",
    "first_seen",
    "last_seen",
    "receive_bits_per_second",
    "send_bits_per_second",
    "receive_bytes",
    "send_bytes",
    "receive_packets",
    "send_packets",
    "receive_loss_ratio",
    "send_loss_ratio",
    "jitter_seconds",
    "round_trip_time_seconds",
    "score",
    "verdict",
    "evidence",
];

fn fields(line: Line) -> [String; 20] {
    let number = |number: Option<f64>| number.map(|it| it.to_string()).unwrap_or_default();
    [
        line.key,
        line.title,
        line.peers.join(";"),
        line.rooms.join(";"),
        line.protocols.join(";"),
        line.first_seen,
        line.last_seen,
        line.receive_bits_per_second.to_string(),
        line.send_bits_per_second.to_string(),
        line.receive_bytes.to_string(),
        line.send_bytes.to_string(),
        line.receive_packets.to_string(),
        line.send_packets.to_string(),
        number(line.receive_loss_ratio),
        number(line.send_loss_ratio),
        number(line.jitter_seconds),
        number(line.round_trip_time_seconds),
        line.score.map(|score| score.to_string()).unwrap_or_default(),
        line.verdict.unwrap_or_default().to_owned(),
        line.evidence.unwrap_or_default(),
    ]
}

/// Names are strangers' words, and a spreadsheet takes some of them for formulas (OWASP, "CSV Injection").
fn harmless(field: String) -> String {
    let is_formula = field.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let is_number = field.parse::<f64>().is_ok();
    if is_formula && !is_number { format!("'{field}") } else { field }
}
