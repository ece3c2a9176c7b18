//! Tables as JSON and as CSV, for programs.

use serde::{Deserialize, Serialize};

use crate::labels::text::is_invisible;
use crate::views::query::Query;
use crate::views::scene::{Hidden, Scene};
use crate::views::table::{Named, Row, Table};
use crate::views::traffic::Traffic;
use crate::views::words;

/// What the JSON looks like, and what can be asked for.
pub(super) const OPENAPI: &str = include_str!("../../assets/openapi.json");

/// A whole table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// This host's name.
    pub host: String,
    /// What rows are.
    pub by: String,
    /// The time that is shown: RFC 3339, UTC.
    pub from: String,
    /// Its end.
    pub to: String,
    /// Rows in all, of which these are a page.
    pub total: usize,
    /// The first of these.
    pub offset: usize,
    /// `addresses`, `names`: what a privacy policy shows otherwise than it is; exporters of old do not say.
    #[serde(default)]
    pub deidentified: Option<Vec<String>>,
    /// A page of them.
    pub rows: Vec<Line>,
}

/// A row. Rates are bits a second, times seconds, losses shares of one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Names the row.
    pub key: String,
    /// What people read in its place.
    pub title: String,
    /// What stands below it.
    pub subtitle: String,
    /// A few of its peers.
    pub peers: Vec<String>,
    /// A few of its rooms.
    pub rooms: Vec<String>,
    /// There are further peers or rooms.
    pub more: bool,
    /// `udp`, `tcp`.
    pub protocols: Vec<String>,
    /// Streams that were seen.
    pub streams: usize,
    /// Somebody in it is there.
    pub live: bool,
    /// RFC 3339, UTC.
    pub first_seen: String,
    /// The same.
    pub last_seen: String,
    /// At the end of the time.
    pub receive_bits_per_second: f64,
    /// The same.
    pub send_bits_per_second: f64,
    /// Over the whole time.
    pub receive_mean_bits_per_second: f64,
    /// The same.
    pub send_mean_bits_per_second: f64,
    /// Over the whole time.
    pub receive_bytes: u64,
    /// The same.
    pub send_bytes: u64,
    /// The same.
    pub receive_packets: u64,
    /// The same.
    pub send_packets: u64,
    /// Lost before this host, of media.
    pub receive_lost_packets: i64,
    /// As the far side reports, of media.
    pub send_lost_packets: i64,
    /// `None`: nothing was to come.
    pub receive_loss_ratio: Option<f64>,
    /// `None`: nothing was sent, or reported.
    pub send_loss_ratio: Option<f64>,
    /// The highest.
    pub jitter_seconds: Option<f64>,
    /// The longest.
    pub round_trip_time_seconds: Option<f64>,
    /// The lowest.
    pub score: Option<u8>,
    /// Of who suffers most.
    pub verdict: Option<String>,
    /// Who that is.
    pub whose: Option<String>,
    /// Peers in it of whom something is said.
    pub suffering: usize,
    /// How that is known.
    pub evidence: Option<String>,
    /// Since when: RFC 3339, UTC.
    pub since: Option<String>,
    /// Bits a second, step by step, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receive_plot: Option<Vec<u64>>,
    /// The same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send_plot: Option<Vec<u64>>,
    /// How packets of it can be told from others, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
}

/// A moment as text, milliseconds since the exporter began: RFC 3339, UTC.
pub(super) fn moment(scene: &Scene<'_>, millis: u64) -> String {
    words::moment(scene.epoch.saturating_add(millis))
}

fn line(row: &Row, scene: &Scene<'_>, [plots, traffic]: [bool; 2]) -> Line {
    let Row { key, title, subtitle, peers, rooms, protos, streams, figures, .. } = row;
    let names = |named: &Named| named.names.clone();
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
        protocols: names(protos),
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
        verdict: verdict.map(|verdict| verdict.cause.as_str().to_owned()),
        whose: verdict.map(|_| row.whose.clone()),
        suffering: row.suffering.len(),
        evidence: verdict.map(|verdict| verdict.evidence.clone()),
        since: verdict.map(|verdict| moment(scene, verdict.since)),
        receive_plot: plots.then(|| row.plot_in.clone()),
        send_plot: plots.then(|| row.plot_out.clone()),
        traffic: traffic.then(|| row.traffic.clone()),
    }
}

pub(super) fn json(table: &Table, scene: &Scene<'_>, query: &Query, hidden: Hidden) -> Vec<u8> {
    let further = [query.plots, query.traffic];
    let hidden = [("addresses", hidden.addresses), ("names", hidden.names)];
    let hidden = hidden.iter().filter(|(_, is_hidden)| *is_hidden);
    let document = Document {
        host: scene.host.to_owned(),
        by: query.by.name().to_owned(),
        from: moment(scene, table.start),
        to: moment(scene, table.end),
        total: table.total,
        offset: query.offset,
        deidentified: Some(hidden.map(|(what, _)| (*what).to_owned()).collect()),
        rows: table.rows.iter().map(|row| line(row, scene, further)).collect(),
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
        write(&fields(line(row, scene, [false; 2])).map(harmless));
    }
    text.into_inner().unwrap_or_default()
}

const NAMES: [&str; 24] = [
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
    "whose",
    "since",
    "subtitle",
    "live",
];

fn fields(line: Line) -> [String; 24] {
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
        line.verdict.unwrap_or_default(),
        line.evidence.unwrap_or_default(),
        line.whose.unwrap_or_default(),
        line.since.unwrap_or_default(),
        line.subtitle,
        line.live.to_string(),
    ]
}

/// Names are strangers' words, and a spreadsheet takes some of them for formulas (OWASP, "CSV Injection").
fn harmless(field: String) -> String {
    // Some drop what is not seen, and take the wide signs of East Asia for the narrow ones.
    let seen = field.trim_start_matches(|c: char| is_invisible(c) || c == '\u{fffd}' || c == ' ');
    let is_formula = seen.starts_with(['=', '+', '-', '@', '＝', '＋', '－', '＠'])
        || field.starts_with(|c: char| c.is_control());
    let is_number = field.parse::<f64>().is_ok();
    if is_formula && !is_number { format!("'{field}") } else { field }
}

#[cfg(test)]
mod tests {
    use super::harmless;

    #[test]
    fn no_name_is_a_formula() {
        for name in ["=1", "@A1", "+x", "-x", "＝1", "＋x", "－x", "＠x", "\t=1", "\r=1", "\n=1"]
        {
            assert_eq!(harmless(name.to_owned()), format!("'{name}"));
        }
        for hidden in [" =1", "\u{200b}=1", "\u{feff}＝1", "\u{200d}\u{ad}@x", "\u{fffd}=1"] {
            assert_eq!(harmless(hidden.to_owned()), format!("'{hidden}"));
        }
        for plain in ["", "Ada", "-1.5", "+2", "a=b", "🚀", " Ada"] {
            assert_eq!(harmless(plain.to_owned()), plain);
        }
    }
}
