//! The exporter's own metrics: what it is, whether its sources work, how full its tables are, what it
//! could not count and why.
//!
//! Readings and results come in, `prometheus` families go out as text. Every label's value here is
//! the exporter's own word or an operator's path: nothing that a stranger sent.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use exporter_ebpf::abi::{DIRECTIONS, EVENTS, Event, LAYOUT_VERSION};
use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricType;
use prometheus::{Gauge, GaugeVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};

use crate::model::Reading;

/// What was built: version, layout of the kernel's tables, and the commit where the build named one.
pub static VERSION: LazyLock<String> = LazyLock::new(|| {
    let commit = COMMIT.map_or(String::new(), |commit| format!(", commit {commit}"));
    format!("{} (table layout {LAYOUT_VERSION}{commit})", env!("CARGO_PKG_VERSION"))
});

/// Release builds set the variable; the source alone does not know its commit.
const COMMIT: Option<&str> = option_env!("MEDIASOUP_EXPORTER_COMMIT");

/// Own metrics. All values are set from outside; nothing here asks anybody.
pub struct Telemetry {
    registry: Registry,
    source_up: IntGaugeVec,
    source_last_success: GaugeVec,
    source_duration: GaugeVec,
    counting: IntGaugeVec,
    table_entries: IntGaugeVec,
    table_capacity: IntGaugeVec,
    events: IntCounterVec,
    event_bytes: IntCounterVec,
    counted: IntCounterVec,
    http_requests: IntCounterVec,
    http_ended: IntCounterVec,
    scrape_duration: Gauge,
}

/// What counts packets, as the label of `mediasoup_exporter_counting_source`.
pub const COUNTING_SOURCES: [&str; 3] = ["ebpf", "capture", "none"];

/// Things that are counted elsewhere in the exporter, by name; each has its meaning.
const COUNTED: [(&str, &str); 15] = [
    ("capture_drops", "packets that the capture fallback's socket had no room for"),
    ("capture_frames", "frames that the capture fallback was given"),
    ("observer_lines", "lines that observed servers sent"),
    ("observer_bad_lines", "lines that could not be read"),
    ("observer_long_lines", "lines that were cut for being too long"),
    ("observer_failures", "failures inside an observed server's script"),
    ("observer_connects", "connections made to observed servers"),
    ("state_dropped", "objects told by servers that the state had no room for"),
    ("series_dropped", "series left out of a scrape by --max-series"),
    ("labels_shortened", "label texts cut at their length limit"),
    ("labels_cleaned", "label texts from which control characters were taken"),
    ("names_refused", "reverse names not asked for, for want of room"),
    ("name_lookups", "reverse look-ups made"),
    ("name_failures", "reverse look-ups that found no name, in time or at all"),
    ("scrapes_shared", "scrapes that were given another's reading or text"),
];

impl Telemetry {
    /// With everything at zero.
    pub fn new() -> Self {
        let registry = Registry::new();
        let build = ints(
            &registry,
            "build_info",
            "What was built; always 1.",
            &["version", "table_layout", "commit"],
        );
        let layout = LAYOUT_VERSION.to_string();
        build
            .with_label_values(&[env!("CARGO_PKG_VERSION"), &layout, COMMIT.unwrap_or_default()])
            .set(1);
        register(&registry, ProcessCollector::for_self());
        let own = Self {
            source_up: ints(
                &registry,
                "source_up",
                "Whether a source of numbers works: the kernel's tables, the sockets, each observed server.",
                &["source"],
            ),
            source_last_success: gauges(
                &registry,
                "source_last_success_timestamp_seconds",
                "When a source was last read with success, in Unix time.",
            ),
            source_duration: gauges(
                &registry,
                "source_scrape_duration_seconds",
                "How long the last reading of a source took.",
            ),
            counting: ints(
                &registry,
                "counting_source",
                "What counts packets: 1 for the source that does.",
                &["source"],
            ),
            table_entries: ints(&registry, "table_entries", "Entries of a table now.", &["table"]),
            table_capacity: ints(
                &registry,
                "table_capacity",
                "Entries of a table at most.",
                &["table"],
            ),
            events: counters(
                &registry,
                "events_total",
                "Packets that were not counted like others, by cause.",
                &["event", "direction"],
            ),
            event_bytes: counters(
                &registry,
                "event_bytes_total",
                "Bytes of the packets in mediasoup_exporter_events_total.",
                &["event", "direction"],
            ),
            counted: counters(
                &registry,
                "internal_events_total",
                "What the exporter did, refused or lost apart from packets, by event.",
                &["event"],
            ),
            http_requests: counters(
                &registry,
                "http_requests_total",
                "Requests answered, by page and status.",
                &["page", "code"],
            ),
            http_ended: counters(
                &registry,
                "http_connections_ended_total",
                "Connections ended by the exporter, by reason.",
                &["reason"],
            ),
            scrape_duration: {
                let name = "scrape_duration_seconds";
                let help = "Time from the start of the last reading to its last sample.";
                let gauge = Gauge::with_opts(opts(name, help)).expect("a constant's name is valid");
                register(&registry, gauge.clone());
                gauge
            },
            registry,
        };
        for (event, _) in COUNTED {
            own.counted.with_label_values(&[event]).inc_by(0);
        }
        own
    }

    /// A source was read, or could not be.
    pub fn source(&self, name: &str, up: bool, took: Duration, last_success: Option<SystemTime>) {
        self.source_up.with_label_values(&[name]).set(up.into());
        self.source_duration.with_label_values(&[name]).set(took.as_secs_f64());
        if let Some(since) = last_success.and_then(|time| time.duration_since(UNIX_EPOCH).ok()) {
            self.source_last_success.with_label_values(&[name]).set(since.as_secs_f64());
        }
    }

    /// What counts packets.
    pub fn counting(&self, source: &str) {
        for name in COUNTING_SOURCES {
            self.counting.with_label_values(&[name]).set((name == source).into());
        }
    }

    /// Table fill and causes from a reading.
    pub fn reading(&self, reading: &Reading) {
        for table in &reading.tables {
            self.table(table.table, table.entries, table.capacity);
        }
        for (event, directions) in ALL_EVENTS.into_iter().zip(&reading.events) {
            for (direction, counter) in ["receive", "send"].into_iter().zip(directions) {
                let labels = [event_name(event), direction];
                set(&self.events, &labels, counter.packets);
                set(&self.event_bytes, &labels, counter.bytes);
            }
        }
    }

    /// How full a table is.
    pub fn table(&self, name: &str, entries: u64, capacity: u64) {
        self.table_entries.with_label_values(&[name]).set(signed(entries));
        self.table_capacity.with_label_values(&[name]).set(signed(capacity));
    }

    /// Sets a total that is counted elsewhere; its name is one of `COUNTED`.
    pub fn total(&self, event: &'static str, value: u64) {
        debug_assert!(COUNTED.iter().any(|(name, _)| *name == event), "{event} has no meaning");
        set(&self.counted, &[event], value);
    }

    /// A request was answered.
    pub fn answered(&self, page: &str, status: u16) {
        self.http_requests.with_label_values(&[page, &status.to_string()]).inc();
    }

    /// A connection was ended.
    pub fn ended(&self, reason: &str) {
        self.http_ended.with_label_values(&[reason]).inc();
    }

    /// How long the last scrape took.
    pub fn scraped(&self, took: Duration) {
        self.scrape_duration.set(took.as_secs_f64());
    }

    /// All families as text; for OpenMetrics without the final `# EOF`.
    pub fn text(&self, open_metrics: bool) -> String {
        let mut text = String::new();
        for family in self.registry.gather() {
            let start = text.len();
            let family = std::slice::from_ref(&family);
            // Names and labels are checked at registration, so encoding cannot fail; if it does,
            // the family is left out and the others stay.
            if TextEncoder::new().encode_utf8(family, &mut text).is_err() {
                text.truncate(start);
            } else if open_metrics && family[0].get_field_type() == MetricType::COUNTER {
                rename_counter(&mut text, start, family[0].name());
            }
        }
        text
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new()
    }
}

/// In OpenMetrics a counter's family has its name without the `_total` of its samples.
fn rename_counter(text: &mut String, start: usize, name: &str) {
    let Some(short) = name.strip_suffix("_total") else { return };
    let lines = text.split_off(start);
    for line in lines.split_inclusive('\n') {
        match line.strip_prefix("# ").and_then(|line| line.split_once(' ')) {
            Some((keyword, rest)) if rest.starts_with(name) => {
                text.push_str(&format!("# {keyword} {short}{}", &rest[name.len()..]));
            }
            _ => text.push_str(line),
        }
    }
}

/// The own families and what their events mean, in Markdown.
pub fn reference() -> String {
    let telemetry = Telemetry::new();
    telemetry.counting("none");
    telemetry.source("kernel", true, Duration::ZERO, Some(UNIX_EPOCH));
    telemetry.reading(&Reading { events: vec![Default::default(); EVENTS], ..Reading::default() });
    telemetry.table("flows", 0, 0);
    telemetry.answered("metrics", 200);
    telemetry.ended("idle");
    let mut page = String::from("| Family | Type | Meaning |\n|---|---|---|\n");
    for family in telemetry.registry.gather() {
        let kind = format!("{:?}", family.get_field_type()).to_lowercase();
        page.push_str(&format!("| `{}` | {kind} | {} |\n", family.name(), family.help()));
    }
    page.push_str("\n| `event` of `mediasoup_exporter_events_total` | Meaning |\n|---|---|\n");
    for event in ALL_EVENTS {
        page.push_str(&format!("| `{}` | {} |\n", event_name(event), event_help(event)));
    }
    let heading =
        "| `event` of `mediasoup_exporter_internal_events_total` | Meaning |\n|---|---|\n";
    page.push_str(&format!("\n{heading}"));
    for (event, meaning) in COUNTED {
        page.push_str(&format!("| `{event}` | {meaning} |\n"));
    }
    page
}

/// In the order of their numbers, as [`Reading::events`] has them.
const ALL_EVENTS: [Event; EVENTS] = [
    Event::Truncated,
    Event::Malformed,
    Event::TooManyExtensions,
    Event::LaterFragment,
    Event::NotLocal,
    Event::SeenBefore,
    Event::FlowsFull,
    Event::StreamsFull,
    Event::StrangersFull,
    Event::StrangerStreamsFull,
    Event::SsrcsFull,
    Event::InsertFailed,
    Event::Contended,
    Event::BadRtp,
];

const _: () = assert!(DIRECTIONS == 2);

fn event_name(event: Event) -> &'static str {
    described(event).0
}

fn event_help(event: Event) -> &'static str {
    described(event).1
}

/// Exhaustive, so that no cause can be forgotten.
fn described(event: Event) -> (&'static str, &'static str) {
    match event {
        Event::Truncated => ("truncated", "shorter than its headers say"),
        Event::Malformed => ("malformed", "a header that cannot be"),
        Event::TooManyExtensions => {
            ("too_many_extensions", "more IPv6 extension headers than are followed")
        }
        Event::LaterFragment => {
            ("later_fragment", "a fragment but the first, which has no ports; bytes of IP payload")
        }
        Event::NotLocal => ("not_local", "forwarded: its local end is no address of this host"),
        Event::SeenBefore => ("seen_before", "counted before, on another interface of this host"),
        Event::FlowsFull => ("flows_full", "no room for another known flow; counted here only"),
        Event::StreamsFull => {
            ("streams_full", "no room for another known stream; counted in its flow's RTP")
        }
        Event::StrangersFull => {
            ("strangers_full", "no room for another stranger's flow; counted here only")
        }
        Event::StrangerStreamsFull => (
            "stranger_streams_full",
            "no room for another stranger's stream; counted in its flow's RTP",
        ),
        Event::SsrcsFull => {
            ("ssrcs_full", "its flow has as many SSRCs as it may; counted in its flow's RTP")
        }
        Event::InsertFailed => ("insert_failed", "the kernel had no memory for a new entry"),
        Event::Contended => (
            "contended",
            "its stream was being written by another processor for too long; packets and bytes are \
             counted, its sequence number is not",
        ),
        Event::BadRtp => ("bad_rtp", "an RTP header that does not fit; counted as class other"),
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("mediasoup_exporter")
}

fn ints(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    let family = IntGaugeVec::new(opts(name, help), labels).expect("a constant's name is valid");
    register(registry, family.clone());
    family
}

fn gauges(registry: &Registry, name: &str, help: &str) -> GaugeVec {
    let family = GaugeVec::new(opts(name, help), &["source"]).expect("a constant's name is valid");
    register(registry, family.clone());
    family
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    let family = IntCounterVec::new(opts(name, help), labels).expect("a constant's name is valid");
    register(registry, family.clone());
    family
}

fn register(registry: &Registry, family: impl Collector + 'static) {
    registry.register(Box::new(family)).expect("no two families have the same name");
}

/// Totals that are kept elsewhere only ever grow, but for a reset of their keeper's: then they begin
/// again, as Prometheus expects of counters.
fn set(family: &IntCounterVec, labels: &[&str], value: u64) {
    let counter = family.with_label_values(labels);
    let shown = counter.get();
    if value < shown {
        counter.reset();
        counter.inc_by(value);
    } else {
        counter.inc_by(value - shown);
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Counter, TableFill};

    fn sample() -> Telemetry {
        let telemetry = Telemetry::new();
        telemetry.counting("ebpf");
        telemetry.source("observer:/tmp/a.sock", false, Duration::from_millis(5), None);
        let mut reading = Reading {
            tables: vec![TableFill { table: "flows", entries: 3, capacity: 10 }],
            events: vec![[Counter::default(); 2]; EVENTS],
            ..Reading::default()
        };
        reading.events[Event::SsrcsFull as usize][1] = Counter { packets: 7, bytes: 700 };
        telemetry.reading(&reading);
        telemetry.reading(&reading);
        telemetry.total("series_dropped", 4);
        telemetry.answered("metrics", 200);
        telemetry
    }

    #[test]
    fn text_holds_what_was_set() {
        let text = sample().text(false);
        for line in [
            "mediasoup_exporter_counting_source{source=\"ebpf\"} 1\n",
            "mediasoup_exporter_counting_source{source=\"none\"} 0\n",
            "mediasoup_exporter_source_up{source=\"observer:/tmp/a.sock\"} 0\n",
            "mediasoup_exporter_table_entries{table=\"flows\"} 3\n",
            "mediasoup_exporter_table_capacity{table=\"flows\"} 10\n",
            "mediasoup_exporter_events_total{direction=\"send\",event=\"ssrcs_full\"} 7\n",
            "mediasoup_exporter_event_bytes_total{direction=\"send\",event=\"ssrcs_full\"} 700\n",
            "mediasoup_exporter_internal_events_total{event=\"series_dropped\"} 4\n",
            "mediasoup_exporter_http_requests_total{code=\"200\",page=\"metrics\"} 1\n",
            "# TYPE mediasoup_exporter_events_total counter\n",
            "# TYPE process_resident_memory_bytes gauge\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn open_metrics_names_counters_without_total() {
        let text = sample().text(true);
        assert!(text.contains("# TYPE mediasoup_exporter_events counter\n"), "{text}");
        assert!(text.contains("# HELP mediasoup_exporter_events Packets"), "{text}");
        assert!(text.contains("\nmediasoup_exporter_events_total{"), "{text}");
        assert!(text.contains("# TYPE process_cpu_seconds counter\n"), "{text}");
        for line in text.lines().filter(|line| line.starts_with('#')) {
            // OpenMetrics escapes quotes in HELP, the text format does not: there are none.
            assert!(!line.contains("_total ") || line.contains("HELP"), "{line}");
            assert!(!line.contains('"') && !line.contains('\\'), "{line}");
        }
    }

    #[test]
    fn events_stand_in_the_order_of_their_numbers() {
        let numbers = ALL_EVENTS.map(|event| event as usize);
        assert_eq!(numbers, std::array::from_fn::<_, EVENTS, _>(|number| number));
        let mut names: Vec<_> = ALL_EVENTS.into_iter().map(event_name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), EVENTS);
    }

    #[test]
    fn totals_follow_a_reset() {
        let telemetry = Telemetry::new();
        for value in [5, 9, 2] {
            telemetry.total("series_dropped", value);
            let line = format!("{{event=\"series_dropped\"}} {value}\n");
            assert!(telemetry.text(false).contains(&line));
        }
    }

    #[test]
    fn the_reference_names_every_family_and_event() {
        let page = reference();
        for line in sample().text(false).lines().filter(|line| line.starts_with("# TYPE")) {
            let name = line.split(' ').nth(2).unwrap();
            assert!(page.contains(&format!("`{name}`")), "{name}");
        }
        assert!(page.contains("`too_many_extensions`") && page.contains("`capture_drops`"));
    }
}
