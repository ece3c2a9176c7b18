//! `mediasoup-exporter journal`: the record of a folder, as a table or as it is.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail};

use super::entry::Entry;
use super::folder;
use crate::config::ReadJournal;
use crate::history::{Sample, host};
use crate::labels::text::{TextCounts, clean};
use crate::printed::enough;
use crate::views::{
    Attributes, Cause, Figures, Filter, Verdict, ago, millis, parse_moment, percent,
};

/// Bytes of a line at most: texts are bounded where they come in.
const LONGEST: u64 = 1 << 16;
/// Characters of a name in a table.
const WIDTH: usize = 28;

/// Prints it.
pub fn run(options: &ReadJournal) -> anyhow::Result<()> {
    let filter: Filter = options.filter.parse().map_err(|why: String| anyhow!("{why}"))?;
    let since = time(&options.since).map_err(|why| anyhow!("--since {why}"))?;
    let until = time(&options.until).map_err(|why| anyhow!("--until {why}"))?;
    let shown = || options.folder.display().to_string();
    let folder = folder::open(&options.folder)
        .with_context(|| format!("{}: --dir says where the journal is", shown()))?;
    let files = folder::list(&folder).with_context(shown)?;
    if files.is_empty() {
        bail!("{}: no journal is here; an exporter with --journal writes it", shown());
    }
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut tally = Tally::default();
    for file in files.iter().filter(|file| since.is_none_or(|it| file.modified >= it)) {
        let opened = folder::read(&folder, file);
        let opened = opened.with_context(|| format!("{}/{}", shown(), file.name))?;
        let mut lines = BufReader::new(opened);
        while let Some(line) = next(&mut lines, &mut tally)? {
            let Ok(entry) = serde_json::from_str::<Entry>(&line) else {
                tally.torn += 1;
                continue;
            };
            if !is_within(&entry, since, until) || !is_wanted(&entry, &filter) {
                continue;
            }
            let text = match options.json {
                true => line,
                false if tally.shown == 0 => format!("{HEAD}\n{}", row(&entry)),
                false => row(&entry),
            };
            tally.shown += 1;
            if let Err(error) = writeln!(out, "{text}") {
                return enough(Err(error));
            }
        }
    }
    enough(out.flush())?;
    if tally.torn > 0 {
        eprintln!("{} lines could not be read: a crash tears the last one of a file", tally.torn);
    }
    if tally.shown == 0 {
        eprintln!("nothing that ended is like that");
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Tally {
    shown: u64,
    torn: u64,
}

/// The next line that is no longer than lines are.
fn next(lines: &mut impl BufRead, tally: &mut Tally) -> anyhow::Result<Option<String>> {
    loop {
        let mut line = Vec::new();
        let read = lines.by_ref().take(LONGEST).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(None);
        }
        let is_whole = line.pop_if(|byte| *byte == b'\n').is_some();
        match String::from_utf8(line) {
            Ok(line) if is_whole => return Ok(Some(line)),
            _ => tally.torn += 1,
        }
    }
}

/// A moment, or how long ago it was; empty: none.
fn time(text: &str) -> Result<Option<SystemTime>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(SystemTime::now().checked_sub(ago));
    }
    let millis = parse_moment(text).map_err(|_| {
        format!("{text}: expected a time ago such as 90m or 2days, or a moment such as 2026-01-31T14:30Z")
    })?;
    Ok(Some(UNIX_EPOCH + Duration::from_millis(millis)))
}

fn is_within(entry: &Entry, since: Option<SystemTime>, until: Option<SystemTime>) -> bool {
    let time = |text: &str| humantime::parse_rfc3339(text).unwrap_or(UNIX_EPOCH);
    since.is_none_or(|since| time(&entry.ended) >= since)
        && until.is_none_or(|until| time(&entry.started) <= until)
}

/// By the language of the views.
pub(super) fn is_wanted(entry: &Entry, filter: &Filter) -> bool {
    let host = host(&entry.remote_addr);
    let who = Attributes {
        ip: host.parse::<IpAddr>().ok(),
        host,
        room: &entry.room_id,
        peer: &entry.peer_id,
        name: &entry.display_name,
        transport: &entry.transport_id,
        id: &entry.id,
        consumed: &entry.producer_id,
        kind: &entry.kind,
        codec: &entry.codec,
        proto: &entry.proto,
        country: &entry.country,
        asn: &entry.asn,
        as_org: &entry.as_org,
        ssrc: entry.ssrc,
        role: &entry.role,
        is_connection: entry.what == "connection",
        ..Attributes::default()
    };
    filter.admits(&who) && filter.keeps(&figures(entry))
}

fn figures(entry: &Entry) -> Figures {
    let micros = |seconds: f64| (seconds * 1e6) as u32;
    let received = Sample {
        packets: entry.receive_packets,
        bytes: entry.receive_bytes,
        lost: entry.receive_lost_packets.unwrap_or_default(),
        jitter: entry.jitter_seconds.map(micros),
        score: entry.score,
        ..Sample::default()
    };
    let sent = Sample {
        packets: entry.send_packets,
        bytes: entry.send_bytes,
        lost: entry.send_lost_packets.unwrap_or_default(),
        round_trip: entry.round_trip_time_seconds.map(micros),
        ..Sample::default()
    };
    let is_stream = entry.ssrc.is_some();
    let media = |sample| if is_stream { sample } else { Sample::default() };
    Figures {
        received,
        sent,
        media_in: media(received),
        media_out: media(sent),
        now_received: received.bytes,
        now_sent: sent.bytes,
        seconds: entry.seconds,
        now_seconds: entry.seconds,
        verdict: Cause::of_label(&entry.verdict).map(|cause| Verdict {
            cause,
            evidence: entry.evidence.clone(),
            since: 0,
        }),
        ..Figures::default()
    }
}

const HEAD: &str = "ENDED                LASTED  WHAT        WHO                          REMOTE                       \
RECEIVED    LOST       SENT    LOST  JITTER   RTT      SCORE  HOW             VERDICT";

fn row(entry: &Entry) -> String {
    let who = match (&*entry.display_name, &*entry.peer_id, &*entry.room_id) {
        ("", "", room) => room.to_owned(),
        ("", peer, room) => format!("{room}/{peer}"),
        (name, _, room) => format!("{room}/{name}"),
    };
    let what = match (&*entry.kind, entry.ssrc) {
        ("", None) => entry.proto.as_str(),
        ("", Some(_)) => "stream",
        (kind, _) => kind,
    };
    let what = if entry.role == "rtx" { format!("{what} rtx") } else { what.to_owned() };
    // Names are cleaned before they get here; a file may be anybody's.
    let short = |text: &str| clean(text, WIDTH, &mut TextCounts::default()).into_owned();
    let lost = |ratio: Option<f64>, packets: u64| match packets {
        0 => String::new(),
        _ => percent(ratio),
    };
    let text = format!(
        "{:<20} {:>6}  {:<10}  {:<28} {:<28} {:>8} {:>7}   {:>8} {:>7}  {:<7}  {:<7}  {:>5}  {:<14}  {}",
        short(&entry.ended).replace('T', " ").trim_end_matches('Z'),
        ago((entry.seconds * 1e3) as u64),
        short(&what),
        short(&who),
        short(&entry.remote_addr),
        entry.receive_packets,
        lost(entry.receive_loss_ratio, entry.receive_packets),
        entry.send_packets,
        lost(entry.send_loss_ratio, entry.send_packets),
        millis(entry.jitter_seconds),
        millis(entry.round_trip_time_seconds),
        entry.score.map_or_else(|| "–".to_owned(), |score| score.to_string()),
        short(&entry.how),
        short(&entry.verdict).replace('_', " "),
    );
    text.trim_end().to_owned()
}
