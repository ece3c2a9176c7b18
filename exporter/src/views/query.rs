//! What a request for a view asks for: text of a path and a query in, a [`Query`] out.

use std::fmt::Write as _;

use crate::views::filter::Filter;

/// Pages, and what each is of.
pub(super) const VIEWS: [(&str, By); 5] = [
    ("rooms", By::Room),
    ("peers", By::Peer),
    ("ips", By::Ip),
    ("streams", By::Stream),
    ("transports", By::Transport),
];

/// Rows of a page, if nothing is said.
const ROWS: usize = 50;
/// Rows of a page at most; of CSV and JSON, too.
const MOST_ROWS: usize = 1_000;

/// What rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// Remote addresses.
    Ip,
    /// Remote networks, so many bits wide in IPv4 and in IPv6.
    Net(u8, u8),
    /// Networks of the Internet.
    Asn,
    /// Countries.
    Country,
    /// Rooms.
    Room,
    /// Peers in rooms.
    Peer,
    /// Producers and consumers.
    Stream,
    /// Transports.
    Transport,
}

/// What rows are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    /// Who suffers first, then who has most traffic.
    Verdict,
    /// Their names.
    Name,
    /// Bits a second that are received at the end.
    In,
    /// Bits a second that are sent at the end.
    Out,
    /// Lost on the way in.
    LossIn,
    /// Lost on the way out.
    LossOut,
    /// Jitter.
    Jitter,
    /// Round trip time.
    RoundTrip,
    /// Score.
    Score,
    /// Packets of both directions.
    Packets,
    /// When it was first seen.
    First,
    /// When it was last seen.
    Last,
}

/// Their names in a query.
pub(super) const COLUMNS: [(&str, Column); 12] = [
    ("verdict", Column::Verdict),
    ("name", Column::Name),
    ("in", Column::In),
    ("out", Column::Out),
    ("loss_in", Column::LossIn),
    ("loss_out", Column::LossOut),
    ("jitter", Column::Jitter),
    ("rtt", Column::RoundTrip),
    ("score", Column::Score),
    ("packets", Column::Packets),
    ("first", Column::First),
    ("last", Column::Last),
];

/// Parameters of a query.
const KNOWN: [&str; 11] =
    ["q", "by", "width", "sort", "offset", "limit", "for", "at", "plots", "traffic", "format"];

/// How it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A page.
    Html,
    /// One document.
    Json,
    /// A line for each row.
    Csv,
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Query {
    /// What rows are.
    pub by: By,
    /// Which of them.
    pub filter: Filter,
    /// As it was written.
    pub line: String,
    /// Their order.
    pub sort: Column,
    /// The other way round.
    pub reverse: bool,
    /// The first row, from zero.
    pub offset: usize,
    /// How many rows at most.
    pub limit: usize,
    /// How long a time, milliseconds.
    pub span: u64,
    /// Where it ends, milliseconds of Unix time; `None`: now.
    pub at: Option<u64>,
    /// How it is written.
    pub form: Form,
    /// JSON has plots.
    pub plots: bool,
    /// JSON says how packets can be told from others.
    pub traffic: bool,
}

/// Times that pages offer, milliseconds.
pub(super) const SPANS: [(&str, u64); 4] =
    [("1m", 60_000), ("10m", 600_000), ("1h", 3_600_000), ("6h", 21_600_000)];
const LONGEST: u64 = 24 * 3_600_000;

impl Query {
    /// For rows of this kind.
    pub(super) fn new(by: By, form: Form) -> Self {
        Self {
            by,
            filter: Filter::default(),
            line: String::new(),
            sort: Column::Verdict,
            reverse: false,
            offset: 0,
            limit: if form == Form::Html { ROWS } else { MOST_ROWS },
            span: 600_000,
            at: None,
            form,
            plots: false,
            traffic: false,
        }
    }

    /// # Errors
    /// The parameter that cannot be understood, with what was expected.
    pub(super) fn take(mut self, query: &str) -> Result<Self, String> {
        let mut width = None;
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "q" => {
                    self.filter = value.parse()?;
                    self.line = value.into_owned();
                }
                "by" => self.by = by(&value, self.by)?,
                "width" => width = Some(value.into_owned()),
                "sort" => self.sort(&value)?,
                "offset" => self.offset = number(&name, &value, usize::MAX)?,
                "limit" => self.limit = number(&name, &value, MOST_ROWS)?.max(1),
                "for" => self.span = span(&value)?,
                "at" if value.is_empty() => self.at = None,
                "at" => self.at = Some(moment(&value)?),
                "plots" => self.plots = yes(&name, &value)?,
                "traffic" => self.traffic = yes(&name, &value)?,
                "format" => self.form = form(&value)?,
                _ => {
                    return Err(format!("unknown parameter; expected one of {}", KNOWN.join(", ")));
                }
            }
        }
        // Checked whatever rows are, so that nobody takes it for heeded.
        if let Some((left, right)) = width.map(|width| widths(&width)).transpose()?
            && let By::Net(v4, v6) = &mut self.by
        {
            *v4 = left;
            *v6 = right.unwrap_or(*v6);
        }
        Ok(self)
    }

    fn sort(&mut self, value: &str) -> Result<(), String> {
        let (name, reverse) = match value.strip_prefix('-') {
            Some(name) => (name, true),
            None => (value, false),
        };
        let known = COLUMNS.iter().find(|(known, _)| *known == name);
        let names = || COLUMNS.map(|(name, _)| name).join(", ");
        let known = known.ok_or_else(|| format!("sort: expected one of {}", names()))?;
        (self.sort, self.reverse) = (known.1, reverse);
        Ok(())
    }

    /// As a query again, with one thing other than it was.
    pub(super) fn with(&self, name: &str, value: &str) -> String {
        let Self { by, line, sort, reverse, offset, limit, span, at, .. } = self;
        let defaults = Self::new(*by, Form::Html);
        let mut pairs: Vec<(&str, String)> = Vec::new();
        let mut put = |pair: &'static str, value: String, is_default: bool| {
            if pair != name && !is_default {
                pairs.push((pair, value));
            }
        };
        put("q", line.clone(), line.is_empty());
        put("by", by.name().into(), matches!(by, By::Ip | By::Room | By::Peer | By::Stream));
        if let By::Net(v4, v6) = by {
            put("width", format!("{v4},{v6}"), (*v4, *v6) == NET);
        }
        let column = COLUMNS.iter().find(|(_, column)| column == sort);
        let sign = if *reverse { "-" } else { "" };
        let column = column.map(|(name, _)| format!("{sign}{name}")).unwrap_or_default();
        put("sort", column, (*sort, *reverse) == (defaults.sort, false));
        // Another order or filter has another first page.
        let stays = !matches!(name, "sort" | "q" | "by" | "limit");
        put("offset", offset.to_string(), *offset == 0 || !stays);
        put("limit", limit.to_string(), [ROWS, MOST_ROWS].contains(limit));
        put("for", format!("{}s", span / 1000), *span == defaults.span);
        put("at", at.unwrap_or_default().to_string(), at.is_none());
        if !value.is_empty() {
            pairs.push((name, value.to_owned()));
        }
        form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
    }
}

/// The widths of networks, if nothing is said.
pub(super) const NET: (u8, u8) = (24, 48);

const ALL: [By; 8] = [
    By::Ip,
    By::Net(NET.0, NET.1),
    By::Asn,
    By::Country,
    By::Room,
    By::Peer,
    By::Stream,
    By::Transport,
];

impl By {
    /// The one of this name, or streams.
    pub(super) fn of(name: &str) -> Self {
        ALL.iter().find(|by| by.name() == name).copied().unwrap_or(Self::Stream)
    }

    /// Its name in a query.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Net(..) => "net",
            Self::Asn => "asn",
            Self::Country => "country",
            Self::Room => "room",
            Self::Peer => "peer",
            Self::Stream => "stream",
            Self::Transport => "transport",
        }
    }

    /// Rows show everything that was counted, rather than RTP alone.
    pub(super) fn counts_connections(self) -> bool {
        !matches!(self, Self::Room | Self::Peer | Self::Stream)
    }
}

fn by(value: &str, before: By) -> Result<By, String> {
    if value.is_empty() {
        return Ok(before);
    }
    let known = ALL.iter().find(|by| by.name() == value).copied();
    known.ok_or_else(|| format!("by: expected one of {}", ALL.map(By::name).join(", ")))
}

/// Bits of a network in IPv4, and in IPv6 if they are said.
fn widths(value: &str) -> Result<(u8, Option<u8>), String> {
    let (v4, v6) = value.split_once(',').unwrap_or((value, ""));
    let v6 = (!v6.is_empty()).then(|| number("width", v6, 128)).transpose()?;
    Ok((number("width", v4, 32)? as u8, v6.map(|bits| bits as u8)))
}

fn form(value: &str) -> Result<Form, String> {
    match value {
        "html" => Ok(Form::Html),
        "json" => Ok(Form::Json),
        "csv" => Ok(Form::Csv),
        _ => Err("format: expected html, json or csv".into()),
    }
}

fn yes(name: &str, value: &str) -> Result<bool, String> {
    match value {
        "yes" | "1" | "true" => Ok(true),
        "no" | "0" | "false" | "" => Ok(false),
        _ => Err(format!("{name}: expected yes or no")),
    }
}

fn number(name: &str, value: &str, most: usize) -> Result<usize, String> {
    let number = value.parse().ok().filter(|number| *number <= most);
    number.ok_or_else(|| format!("{name}: expected a number from 0 to {most}"))
}

/// Milliseconds: `90s`, `10m`, `6h`.
fn span(value: &str) -> Result<u64, String> {
    let units = [('s', 1_000), ('m', 60_000), ('h', 3_600_000)];
    let span = units.iter().find_map(|(unit, millis)| {
        let number: u64 = value.strip_suffix(*unit)?.parse().ok()?;
        number.checked_mul(*millis)
    });
    let span = span.filter(|span| (1..=LONGEST).contains(span));
    span.ok_or_else(|| "for: expected a time up to 24h, like 90s, 10m or 6h".into())
}

/// Milliseconds of Unix time, from those, from seconds of it, or from `2026-01-31T14:31[:05]Z` and
/// `2026-01-31 14:31`, which are UTC.
pub(crate) fn moment(value: &str) -> Result<u64, String> {
    let refusal = || "at: expected Unix time, or UTC like 2026-01-31T14:31Z".to_owned();
    if let Ok(number) = value.parse::<u64>() {
        // Seconds are that small until the year 5138.
        return Ok(if number < 100_000_000_000 { number * 1000 } else { number });
    }
    let mut text = value.replace(' ', "T");
    if !text.ends_with('Z') {
        text.push('Z');
    }
    if text.matches(':').count() == 1 {
        text.truncate(text.len() - 1);
        let _ = write!(text, ":00Z");
    }
    let time = humantime::parse_rfc3339(&text).map_err(|_| refusal())?;
    let since = time.duration_since(std::time::UNIX_EPOCH).map_err(|_| refusal())?;
    Ok(since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::new(By::Ip, Form::Html).take(text).unwrap_or_else(|why| panic!("{text}: {why}"))
    }

    #[test]
    fn what_is_asked_for() {
        let asked = query(
            "q=room%3Alobby+loss%3A%3E2%25&by=net&width=16,56&sort=-loss_in&offset=50&limit=20&for=1h&at=1700000000",
        );
        assert_eq!((asked.by, asked.sort, asked.reverse), (By::Net(16, 56), Column::LossIn, true));
        assert_eq!((asked.offset, asked.limit, asked.span), (50, 20, 3_600_000));
        assert_eq!((asked.at, &*asked.line), (Some(1_700_000_000_000), "room:lobby loss:>2%"));
        assert_eq!(query("at=2023-11-14T22:13Z").at, Some(1_699_999_980_000));
        assert_eq!(query("at=2023-11-14+22:13:20").at, asked.at);
        assert_eq!(query("at=&by=&format=csv").form, Form::Csv);
    }

    #[test]
    fn a_link_leads_to_what_is_shown_with_one_thing_changed() {
        let text = "q=a+%26+b&by=net&width=16%2C56&sort=-loss_in&offset=50&limit=20&for=3600s&at=1700000000000";
        let asked = query(text);
        assert_eq!(query(&asked.with("at", "1700000000000")), asked);
        let next = query(&asked.with("offset", "70"));
        assert_eq!(next, Query { offset: 70, ..asked.clone() });
        let sorted = query(&asked.with("sort", "in"));
        let expected = Query { sort: Column::In, reverse: false, offset: 0, ..asked };
        assert_eq!(sorted, expected);
        assert_eq!(query("").with("sort", ""), "");
    }

    #[test]
    fn what_cannot_be_understood_is_named() {
        let check = |text: &str, part: &str| {
            let why = Query::new(By::Ip, Form::Html).take(text).expect_err(text);
            assert!(why.contains(part), "{why}");
        };
        check("sort=size", "loss_in");
        check("by=moon", "country");
        check("by=net&width=33", "32");
        check("by=net&width=24,129", "128");
        check("width=-1", "32");
        check("limt=5", "limit");
        check("offset=-1", "offset");
        check("limit=1001", "1000");
        check("for=1d", "6h");
        check("for=25h", "24h");
        check("for=0s", "24h");
        check("at=yesterday", "UTC");
        check("at=1969-12-31T23:59Z", "UTC");
        check("format=xml", "csv");
        check("plots=maybe", "yes");
        check("q=loss%3A%3Ex", "loss");
    }
}
