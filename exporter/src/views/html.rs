//! Tables as pages. They are whole without a script; one keeps them up to date.

use std::fmt::Write as _;

use askama::Template;

use crate::history::Past;
use crate::views::documents::moment;
use crate::views::matrix::{self, Line};
use crate::views::query::{By, Column, NET, Query, SPANS, VIEWS};
use crate::views::scene::Scene;
use crate::views::table::{Named, Row, Sufferer, Table, table as make};
use crate::views::within::{page_of, term, within};
use crate::views::words::{ago, clock, human, millis, percent, rate, severity};

/// Verdicts that stand above a table; the others stand in it.
const COMPLAINTS: usize = 3;
/// Rows of what an address is made of.
const PART: usize = 25;

#[derive(Template)]
#[template(path = "view.html")]
struct Page<'a> {
    host: &'a str,
    heading: &'static str,
    action: String,
    live: bool,
    live_href: String,
    at: String,
    line: &'a str,
    tabs: Vec<Link>,
    spans: Vec<Link>,
    groupings: Vec<Link>,
    facts: Vec<Fact>,
    complaints: Vec<Complaint>,
    /// Further ones, and where all are.
    more_complaints: usize,
    complaints_href: String,
    kept_for_at: Vec<(String, String)>,
    kept_for_q: Vec<(String, String)>,
    csv_href: String,
    json_href: String,
    chart: String,
    sections: Vec<Section>,
    receivers: Vec<String>,
    matrix: Vec<Line>,
    extent: String,
    previous_href: String,
    next_href: String,
    period: String,
    meaning: &'static str,
    promql: String,
}

/// What is shown in its place when nobody knows what is meant.
#[derive(Template)]
#[template(path = "unclear.html")]
struct Unclear<'a> {
    heading: &'static str,
    action: String,
    why: &'a str,
    line: String,
    kept: Vec<(String, String)>,
}

/// The page of a query that cannot be understood: why, and the filter to be mended.
pub(super) fn unclear(path: &str, by: By, query: &str, why: &str) -> String {
    let (line, mut kept): (Vec<_>, Vec<_>) =
        pairs(query).into_iter().partition(|(name, _)| name == "q");
    // What is named in the answer is what is wrong.
    kept.retain(|(name, _)| !why.starts_with(&format!("{name}:")));
    let line = line.into_iter().next().map(|(_, line)| line).unwrap_or_default();
    let (heading, action) = (heading(by), format!("/{path}"));
    Unclear { heading, action, why, line, kept }.render().unwrap_or_default()
}

struct Link {
    href: String,
    text: String,
    current: bool,
}

struct Fact {
    class: &'static str,
    number: String,
    text: &'static str,
}

struct Complaint {
    href: String,
    who: String,
    cause: &'static str,
    evidence: String,
    since: String,
    since_text: String,
    bad: bool,
}

/// A table; the first of a page is what was asked for.
struct Section {
    heading: String,
    /// To all of it, where there is more.
    more_href: String,
    columns: Vec<Head>,
    rows: Vec<Cells>,
    nothing: String,
}

struct Head {
    text: &'static str,
    href: String,
    numeric: bool,
    sorted: &'static str,
}

struct Cells {
    href: String,
    title: String,
    subtitle: String,
    who: String,
    rooms: String,
    plot_in: String,
    rate_in: String,
    plot_out: String,
    rate_out: String,
    loss_in: String,
    loss_in_class: &'static str,
    loss_out: String,
    loss_out_class: &'static str,
    jitter: String,
    round_trip: String,
    score: String,
    verdict: &'static str,
    verdict_class: &'static str,
    evidence: String,
    since: String,
}

pub(super) fn page(
    table: &Table,
    scene: &Scene<'_>,
    past: &Past,
    query: &Query,
    path: &str,
) -> Vec<u8> {
    let href = |name: &str, value: &str| link(path, &query.with(name, value));
    let room = query.filter.room();
    let (receivers, matrix) = match (query.by, room) {
        (By::Peer, Some(room)) => {
            matrix::matrix(past, table.start..table.end, room, scene.thresholds)
        }
        _ => Default::default(),
    };
    let page = Page {
        host: scene.host,
        heading: heading(query.by),
        action: format!("/{path}"),
        live: query.at.is_none(),
        live_href: href("at", ""),
        at: query.at.map(|_| human(&moment(scene, table.end))).unwrap_or_default(),
        line: &query.line,
        tabs: tabs(path, query),
        spans: spans(query, path),
        groupings: groupings(query, path),
        facts: facts(table),
        complaints: complaints(table, query, scene),
        more_complaints: table.sufferers.len().saturating_sub(COMPLAINTS),
        complaints_href: link("peers", &time(By::Peer, query).with("sort", "verdict")),
        kept_for_at: pairs(&query.with("at", "")),
        kept_for_q: pairs(&query.with("q", "")),
        csv_href: api(query, path, "csv"),
        json_href: api(query, path, ""),
        chart: match table.rows.first() {
            Some(row) if is_one_address(query) => chart(row),
            _ => String::new(),
        },
        sections: sections(table, scene, past, query, path),
        receivers,
        matrix,
        extent: extent(table, query),
        previous_href: match query.offset {
            0 => String::new(),
            offset => href("offset", &offset.saturating_sub(query.limit).to_string()),
        },
        next_href: match query.offset + table.rows.len() {
            end if end < table.total => href("offset", &end.to_string()),
            _ => String::new(),
        },
        period: format!(
            "{} to {} UTC",
            human(&moment(scene, table.start.max(past.start()))),
            human(&moment(scene, table.end))
        ),
        meaning: match query.by.counts_connections() {
            true => {
                "rates of all packets, at the end of the time; loss of all of it; jitter, round trip and score are its worst; these of media alone"
            }
            false => {
                "rates of RTP, at the end of the time; loss of all of it; jitter, round trip and score are its worst; these of media alone, without retransmissions and probation"
            }
        },
        promql: promql(query.by),
    };
    // Text goes into memory: nothing can fail.
    page.render().unwrap_or_default().into_bytes()
}

/// The table that was asked for, and of one address what it is made of.
fn sections(
    table: &Table,
    scene: &Scene<'_>,
    past: &Past,
    query: &Query,
    path: &str,
) -> Vec<Section> {
    let section = |table: &Table, query: &Query, path: &str| Section {
        heading: String::new(),
        more_href: String::new(),
        columns: columns(query, path),
        rows: table.rows.iter().map(|row| cells(row, table, query, scene)).collect(),
        nothing: nothing(table, scene, past, query),
    };
    let first = section(table, query, path);
    let parts = [(By::Transport, "transports"), (By::Stream, "streams")];
    let parts = parts.into_iter().filter(|_| is_one_address(query)).map(|(by, path)| {
        let (line, filter) = (query.line.clone(), query.filter.clone());
        let query = Query { line, filter, limit: PART, ..time(by, query) };
        let table = make(past, &query, scene.thresholds);
        let more_href = match table.total > table.rows.len() {
            true => link(path, &query.with("limit", "")),
            false => String::new(),
        };
        Section { heading: heading(by).to_owned(), more_href, ..section(&table, &query, path) }
    });
    std::iter::once(first).chain(parts).collect()
}

fn is_one_address(query: &Query) -> bool {
    query.by == By::Ip && query.filter.is_of_one_address()
}

/// Why there is no row.
fn nothing(table: &Table, scene: &Scene<'_>, past: &Past, query: &Query) -> String {
    if query.at.is_some() && table.end <= past.start() {
        let start = human(&moment(scene, past.start()));
        return format!("The history begins later, at {start} UTC.");
    }
    if query.offset > 0 && table.total > 0 {
        return format!("There are {} rows only.", table.total);
    }
    match query.line.is_empty() {
        true => {
            "Nothing was counted or told in this time. /-/ready, the page of sources at /, and \
                 mediasoup_exporter_ metrics tell why."
        }
        false => "Nothing in this time is like that: the filter leaves nothing over.",
    }
    .to_owned()
}

pub(super) fn heading(by: By) -> &'static str {
    match by {
        By::Ip => "Addresses",
        By::Net(..) => "Networks by prefix",
        By::Asn => "Networks by number",
        By::Country => "Countries",
        By::Room => "Rooms",
        By::Peer => "Peers",
        By::Stream => "Streams",
        By::Transport => "Transports",
    }
}

fn link(path: &str, query: &str) -> String {
    if query.is_empty() { format!("/{path}") } else { format!("/{path}?{query}") }
}

fn tabs(path: &str, query: &Query) -> Vec<Link> {
    let names = ["Rooms", "Peers", "Addresses", "Streams", "Transports"];
    let tab = |((name, by), text): (&(&str, By), &str)| Link {
        href: link(name, &time(*by, query).with("offset", "")),
        text: text.to_owned(),
        current: *name == path,
    };
    let host = Link { href: "/".into(), text: "Host".into(), current: false };
    VIEWS.iter().zip(names).map(tab).chain([host]).collect()
}

fn spans(query: &Query, path: &str) -> Vec<Link> {
    let span = |(name, millis): &(&str, u64)| Link {
        href: link(path, &query.with("for", name)),
        text: format!("{} {}", &name[..name.len() - 1], &name[name.len() - 1..]),
        current: query.span == *millis,
    };
    SPANS.iter().map(span).map(|it| Link { text: it.text.replace(" m", " min"), ..it }).collect()
}

fn groupings(query: &Query, path: &str) -> Vec<Link> {
    let of_addresses = matches!(query.by, By::Ip | By::Net(..) | By::Asn | By::Country);
    let kinds = [
        (By::Ip, "address"),
        (By::Net(NET.0, NET.1), "prefix"),
        (By::Asn, "network"),
        (By::Country, "country"),
    ];
    let grouping = |(by, text): (By, &str)| Link {
        href: link(path, &query.with("by", by.name())),
        text: text.to_owned(),
        current: std::mem::discriminant(&by) == std::mem::discriminant(&query.by),
    };
    kinds.into_iter().filter(|_| of_addresses).map(grouping).collect()
}

fn facts(table: &Table) -> Vec<Fact> {
    let facts = &table.facts;
    let fact = |class, number: String, text| Fact { class, number, text };
    let rates = [("in", facts.rate_in, "in"), ("out", facts.rate_out, "out")];
    let mut all = vec![
        fact("", facts.rooms.to_string(), "rooms"),
        fact("", facts.peers.to_string(), "peers"),
        fact("", facts.streams.to_string(), "streams"),
    ];
    all.extend(rates.map(|(class, bits, text)| fact(class, rate(bits), text)));
    all.push(match facts.suffering {
        0 if table.total == 0 => fact("", "nobody".into(), "is here"),
        0 => fact("", "nobody".into(), "suffers"),
        1 => fact("bad", "1 peer".into(), "suffers"),
        more => fact("bad", format!("{more} peers"), "suffer"),
    });
    all
}

fn complaints(table: &Table, query: &Query, scene: &Scene<'_>) -> Vec<Complaint> {
    let complaint = |Sufferer { peer: (room, peer), name, verdict }: &Sufferer| {
        let since = moment(scene, verdict.since);
        Complaint {
            href: lead("peer", &format!("{room}/{peer}"), Some(room), query),
            who: if room.is_empty() { name.clone() } else { format!("{name} in {room}") },
            cause: verdict.cause.as_str(),
            evidence: verdict.evidence.clone(),
            since_text: clock(&since),
            since,
            bad: verdict.cause.is_bad(),
        }
    };
    table.sufferers.iter().take(COMPLAINTS).map(complaint).collect()
}

fn pairs(query: &str) -> Vec<(String, String)> {
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

fn api(query: &Query, path: &str, format: &str) -> String {
    link(&format!("api/v1/{path}"), &query.with("format", format))
}

fn columns(query: &Query, path: &str) -> Vec<Head> {
    let head = |text, column: Option<(&str, Column)>, numeric| {
        let is_current = column.is_some_and(|(_, column)| column == query.sort);
        let href = column.map(|(name, _)| {
            let sign = if is_current && !query.reverse { "-" } else { "" };
            link(path, &query.with("sort", &format!("{sign}{name}")))
        });
        let sorted = match (is_current, query.reverse) {
            (false, _) => "",
            (true, false) => "descending",
            (true, true) => "ascending",
        };
        Head { text, href: href.unwrap_or_default(), numeric, sorted }
    };
    let key = match query.by {
        By::Ip => "Address",
        By::Net(..) => "Prefix",
        By::Asn => "Network",
        By::Country => "Country",
        By::Room => "Room",
        By::Peer => "Peer",
        By::Stream => "Producer or consumer",
        By::Transport => "Transport",
    };
    vec![
        head(key, Some(("name", Column::Name)), false),
        head("Verdict", Some(("verdict", Column::Verdict)), false),
        head(if query.by == By::Peer { "Room" } else { "Who" }, None, false),
        head("In", None, false),
        head("Rate in", Some(("in", Column::In)), true),
        head("Out", None, false),
        head("Rate out", Some(("out", Column::Out)), true),
        head("Lost in", Some(("loss_in", Column::LossIn)), true),
        head("Lost out", Some(("loss_out", Column::LossOut)), true),
        head("Jitter", Some(("jitter", Column::Jitter)), true),
        head("Round trip", Some(("rtt", Column::RoundTrip)), true),
        head("Score", Some(("score", Column::Score)), true),
    ]
}

fn cells(row: &Row, table: &Table, query: &Query, scene: &Scene<'_>) -> Cells {
    let figures = &row.figures;
    let thresholds = scene.thresholds;
    let verdict = figures.verdict.as_ref();
    let (verdict_text, verdict_class) = match verdict {
        Some(verdict) => {
            (verdict.cause.as_str(), if verdict.cause.is_bad() { "bad" } else { "warn" })
        }
        None if figures.live => ("well", "ok"),
        None => ("gone", ""),
    };
    let since = match verdict {
        Some(verdict) => {
            let since = format!("since {}", clock(&moment(scene, verdict.since)));
            match (query.by, row.suffering.len()) {
                (By::Peer | By::Stream, _) => since,
                (_, 0 | 1) => format!("{}, {since}", row.whose),
                (_, more) => format!("{} and {} more, {since}", row.whose, more - 1),
            }
        }
        None if figures.live => format!("for {}", ago(table.end.saturating_sub(figures.first))),
        None => format!("at {}", clock(&moment(scene, figures.last))),
    };
    Cells {
        href: target(row, query),
        title: if row.title.is_empty() { "not told".into() } else { row.title.clone() },
        subtitle: row.subtitle.clone(),
        who: if query.by == By::Peer { list(&row.rooms) } else { list(&row.peers) },
        rooms: match query.by {
            By::Room | By::Peer => String::new(),
            _ => list(&row.rooms),
        },
        plot_in: plot(&row.plot_in),
        rate_in: rate(figures.now_in()),
        plot_out: plot(&row.plot_out),
        rate_out: rate(figures.now_out()),
        loss_in: percent(figures.loss_in()),
        loss_in_class: severity(figures.loss_in(), thresholds.loss),
        loss_out: percent(figures.loss_out()),
        loss_out_class: severity(figures.loss_out(), thresholds.loss),
        jitter: millis(figures.jitter()),
        round_trip: millis(figures.round_trip()),
        score: figures.score().map_or_else(|| "–".into(), |score| score.to_string()),
        verdict: verdict_text,
        verdict_class,
        evidence: verdict.map(|verdict| verdict.evidence.clone()).unwrap_or_default(),
        since,
    }
}

/// Where a row leads: one step further down.
fn target(row: &Row, query: &Query) -> String {
    if query.by == By::Ip && !is_one_address(query) && !row.key.is_empty() {
        return link("ips", &time(By::Ip, query).with("q", &term("ip", &row.key)));
    }
    let room = row.rooms.names.first().map(String::as_str);
    lead(query.by.name(), &row.key, room, query)
}

/// To what is within a row of this kind and key.
fn lead(kind: &str, key: &str, room: Option<&str>, query: &Query) -> String {
    let within = within(kind, key, room);
    let (by, line) = within.unwrap_or((query.by.name(), String::new()));
    link(page_of(by), &time(By::of(by), query).with("q", &line))
}

/// Another view of the same time: what is of one view only is not taken along.
fn time(by: By, query: &Query) -> Query {
    Query { span: query.span, at: query.at, ..Query::new(by, query.form) }
}

fn list(named: &Named) -> String {
    let mut text = named.names.join(", ");
    if named.more {
        text.push_str(", …");
    }
    text
}

fn extent(table: &Table, query: &Query) -> String {
    match table.rows.len() {
        0 => String::new(),
        rows if rows == table.total => format!("{rows} rows."),
        rows => format!("Rows {} to {} of {}.", query.offset + 1, query.offset + rows, table.total),
    }
}

const WIDTH: f64 = 96.0;
const HEIGHT: f64 = 22.0;

/// A small picture: numbers only.
fn plot(points: &[u64]) -> String {
    let most = points.iter().copied().max().unwrap_or_default();
    if points.len() < 2 || most == 0 {
        return String::new();
    }
    let step = WIDTH / (points.len() - 1) as f64;
    let mut line = String::new();
    for (at, point) in points.iter().enumerate() {
        let y = HEIGHT - 1.0 - (*point as f64 / most as f64) * (HEIGHT - 3.0);
        let _ = write!(line, "{:.0},{y:.0} ", at as f64 * step);
    }
    let line = line.trim_end();
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\" \
         aria-label=\"at most {}\"><polygon points=\"0,{HEIGHT} {line} {WIDTH},{HEIGHT}\"/>\
         <polyline points=\"{line}\"/></svg>",
        rate(most as f64)
    )
}

const WIDE: f64 = 720.0;
const TALL: f64 = 120.0;

/// A picture of both rates over the time, with the highest of both as its scale: numbers only.
fn chart(row: &Row) -> String {
    let most = row.plot_in.iter().chain(&row.plot_out).copied().max().unwrap_or_default();
    if row.plot_in.len() < 2 || most == 0 {
        return String::new();
    }
    let line = |points: &[u64], class: &str| {
        let step = WIDE / (points.len() - 1) as f64;
        let y = |point: u64| TALL - (point as f64 / most as f64) * (TALL - 2.0);
        let points = points.iter().enumerate();
        let points: Vec<String> =
            points.map(|(at, point)| format!("{:.0},{:.1}", at as f64 * step, y(*point))).collect();
        format!("<g class=\"{class}\"><polyline points=\"{}\"/></g>", points.join(" "))
    };
    let most = rate(most as f64);
    format!(
        "<figure><figcaption>{most}</figcaption><svg viewBox=\"0 0 {WIDE} {TALL}\" role=\"img\" \
         aria-label=\"rates in and out, at most {most}\">{}{}</svg></figure>",
        line(&row.plot_in, "in"),
        line(&row.plot_out, "out")
    )
}

fn promql(by: By) -> String {
    let connections = "rate(mediasoup_connection_receive_bytes_total[1m])";
    let streams = "rate(mediasoup_stream_receive_bytes_total[1m])";
    match by {
        By::Ip | By::Net(..) => format!("8 * sum by (remote_addr) ({connections})"),
        By::Asn => {
            format!(
                "8 * sum by (asn) ({connections} * on (transport_id) group_left (asn) mediasoup_transport_info)"
            )
        }
        By::Country => format!(
            "8 * sum by (country) ({connections} * on (transport_id) group_left (country) mediasoup_transport_info)"
        ),
        By::Room => format!(
            "8 * sum by (room_id) ({streams} * on (transport_id, id) group_left (room_id) mediasoup_producer_info)"
        ),
        By::Peer => format!(
            "8 * sum by (room_id, peer_id) ({streams} * on (transport_id, id) group_left (room_id, peer_id) \
             mediasoup_producer_info)"
        ),
        By::Stream => format!("8 * sum by (transport_id, id) ({streams})"),
        By::Transport => format!("8 * sum by (transport_id) ({connections})"),
    }
}
