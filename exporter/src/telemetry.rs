//! The exporter's own metrics: what it is, whether its sources work, how full its tables are, what it
//! could not count and why.
//!
//! Readings and results come in, `prometheus` families go out as text. Every label's value here is
//! the exporter's own word or an operator's path: nothing that a stranger sent.

use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use exporter_ebpf::abi::{DIRECTIONS, EVENTS, Event, LAYOUT_VERSION};
use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, GaugeVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::model::Reading;
use crate::sandbox::{LAYERS, Sandbox};

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
    sandbox: IntGaugeVec,
    ownership: IntGaugeVec,
    owned_sockets: IntGauge,
    pinned: IntGauge,
    history_bytes: IntGauge,
    history_tracks: IntGauge,
    history_seconds: IntGauge,
    interface_up: IntGaugeVec,
    interface_behind: IntGaugeVec,
    table_entries: IntGaugeVec,
    table_capacity: IntGaugeVec,
    events: IntCounterVec,
    event_bytes: IntCounterVec,
    counted: IntCounterVec,
    refused: IntCounterVec,
    refused_connections: IntGaugeVec,
    uncounted: IntGaugeVec,
    reload_successful: IntGaugeVec,
    reload_success: GaugeVec,
    told_bytes: IntGauge,
    http_requests: IntCounterVec,
    http_ended: IntCounterVec,
    series_missing: IntGauge,
    servers_refused: IntGauge,
    workers_left_out: IntGauge,
    workers_unobserved: IntGauge,
    scrape_duration: Gauge,
}

/// How one source of numbers is.
#[derive(Clone, Debug)]
pub struct SourceReport {
    /// `ebpf`, `capture`, `sockets`, `host`, `observer:/tmp/….sock`.
    pub name: String,
    /// It works.
    pub up: bool,
    /// How long its last reading took.
    pub took: Option<Duration>,
    /// When it was last read with success.
    pub last_success: Option<SystemTime>,
}

/// What counts packets, as the label of `mediasoup_exporter_counting_source`.
pub const COUNTING_SOURCES: [&str; 3] = ["ebpf", "capture", "none"];

/// How the SFU's sockets are known, as the label of `mediasoup_exporter_ownership`.
const OWNERSHIP: [&str; 3] = ["cgroup", "scan", "flag"];

/// Things that are counted elsewhere in the exporter, by name; each has its meaning.
const COUNTED: [(&str, &str); 22] = [
    ("host_looks", "looks at this host's interfaces, addresses and workers"),
    (
        "sockets_refused",
        "sockets of the SFU's without room: packets to their ports are not counted",
    ),
    ("binds_lost", "sockets bound or closed in too quick a row to be told; all are looked at then"),
    ("attach_failures", "failed attempts to count on an interface"),
    ("capture_lost", "packets that packet capture was too slow for"),
    ("observer_attempts", "attempts to reach observed servers"),
    ("observer_meetings", "attempts that met the script in a server"),
    ("observer_bytes", "bytes that observed servers sent"),
    ("observer_lines", "lines of theirs that were understood"),
    ("observer_bad_lines", "lines that were not"),
    ("observer_long_lines", "lines beyond the bound on their length"),
    ("state_dropped", "objects told by servers that there was no room for"),
    ("series_refused", "series that there was no room for (--max-series), at each reading"),
    ("labels_shortened", "label texts cut at their limit"),
    ("labels_cleaned", "label texts in which control characters were replaced"),
    ("names_refused", "reverse names not asked for, for want of room"),
    ("name_lookups", "reverse look-ups made"),
    ("name_failures", "reverse look-ups that found no name in time, or at all"),
    ("history_refused", "samples that the history had no room for"),
    ("journal_written", "connections and streams that ended and are in the journal, on the disk"),
    (
        "journal_lost",
        "connections and streams that ended and are not, because the disk is full or too slow",
    ),
    ("scrapes_shared", "scrapes that were given another's reading"),
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
            sandbox: ints(
                &registry,
                "sandbox",
                "What confines the threads that read what others send: 1 where it does.",
                &["layer"],
            ),
            counting: ints(
                &registry,
                "counting_source",
                "What counts packets: 1 for the source that does.",
                &["source"],
            ),
            ownership: ints(
                &registry,
                "ownership",
                "How it is known which ports are the SFU's: 1 for cgroup (the kernel tells when a socket is \
                 bound), scan (looked for each second) or flag (--ports).",
                &["by"],
            ),
            owned_sockets: int(
                &registry,
                "owned_sockets",
                "Sockets of the SFU's that take packets at their ports.",
            ),
            pinned: int(
                &registry,
                "pinned",
                "Whether programs and tables are pinned (--pin), so that counting goes on when the exporter ends.",
            ),
            history_bytes: int(
                &registry,
                "history_bytes",
                "Memory that the history takes, of what --history.memory allows.",
            ),
            history_tracks: int(
                &registry,
                "history_tracks",
                "Streams and directions of connections that are in the history, those that ended among them.",
            ),
            history_seconds: int(
                &registry,
                "history_seconds",
                "How far the history reaches back: up to six hours, less where its memory is full.",
            ),
            interface_up: ints(
                &registry,
                "interface_up",
                "Whether packets are counted on an interface that was chosen, in both directions.",
                &["interface"],
            ),
            interface_behind: ints(
                &registry,
                "interface_behind",
                "1 where another tool's program stands in front of the exporter's and may keep packets from it.",
                &["interface"],
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
            refused: counters(
                &registry,
                "observer_refused_total",
                "What observed servers told and was not taken in, by what it was and why: full: no \
                 room; foreign: another server told it; standing: of another server's objects, for \
                 which this one may not speak; port: not one of its workers'. \
                 closed: connections and streams that closed a moment ago, whose last packets may have no \
                 owner now.",
                &["what", "reason"],
            ),
            refused_connections: ints(
                &registry,
                "observer_refused_connections",
                "Connections that observed servers tell now and that are not taken as theirs, by why: \
                 port: the port is none of the server's workers'; foreign: another server has it.",
                &["reason"],
            ),
            reload_successful: ints(
                &registry,
                "file_last_reload_successful",
                "Whether what a file that a flag names has now is used; 0: what it had before is.",
                &["file"],
            ),
            reload_success: gauges_by(
                &registry,
                "file_last_reload_success_timestamp_seconds",
                "When a file that a flag names was last read with success, in Unix time.",
                "file",
            ),
            uncounted: ints(
                &registry,
                "connections_uncounted",
                "Connections that observed servers have told for more than ten seconds and of which no \
                 packet was ever seen, by why: no_interface: nothing is counted on any interface; port: \
                 the port is none of the server's workers'; address: the worker's socket is bound to an \
                 address that is not local here; nothing_arrives: none of these, so that likely none came \
                 or went. Connections on ports outside of --ports do not count, nor any where nothing is \
                 to be counted. A plain or pipe transport counts from its first producer or \
                 consumer on.",
                &["reason"],
            ),
            told_bytes: {
                let help = "Memory that what observed servers told takes, as estimated.";
                let gauge = IntGauge::with_opts(opts("observer_state_bytes", help));
                let gauge = gauge.expect("a constant's name is valid");
                register(&registry, gauge.clone());
                gauge
            },
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
            series_missing: int(
                &registry,
                "series_missing",
                "Series that the last reading had no room for (--max-series).",
            ),
            servers_refused: int(
                &registry,
                "servers_refused",
                "Sockets under a known name whose servers are not listened to, because they are not \
                 believed, or for want of room. The status page names them.",
            ),
            workers_left_out: int(
                &registry,
                "workers_left_out",
                "Processes that call themselves workers beyond the bounds on their number; packets to their sockets are \
                 not counted.",
            ),
            workers_unobserved: int(
                &registry,
                "workers_unobserved",
                "Workers of this host of which no server that is listened to tells: their streams are \
                 counted without ids.",
            ),
            scrape_duration: {
                let help =
                    "Time that the last reading took, and what waited before it was given out.";
                let gauge = Gauge::with_opts(opts("scrape_duration_seconds", help));
                let gauge = gauge.expect("a constant's name is valid");
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

    /// How all sources are now; those that are not named are gone.
    pub fn sources(&self, reports: &[SourceReport]) {
        self.source_up.reset();
        self.source_last_success.reset();
        self.source_duration.reset();
        for SourceReport { name, up, took, last_success } in reports {
            self.source_up.with_label_values(&[name]).set((*up).into());
            if let Some(took) = took {
                self.source_duration.with_label_values(&[name]).set(took.as_secs_f64());
            }
            if let Some(time) = last_success.and_then(|it| it.duration_since(UNIX_EPOCH).ok()) {
                self.source_last_success.with_label_values(&[name]).set(time.as_secs_f64());
            }
        }
    }

    /// Interfaces that are counted on, and those that should be.
    /// `behind` are those on which somebody's program stands in front of ours.
    pub fn interfaces(
        &self,
        counting: &[String],
        failing: impl Iterator<Item = impl AsRef<str>>,
        behind: impl Iterator<Item = impl AsRef<str>>,
    ) {
        self.interface_up.reset();
        self.interface_behind.reset();
        for name in behind {
            self.interface_behind.with_label_values(&[name.as_ref()]).set(1);
        }
        for name in counting {
            self.interface_up.with_label_values(&[name]).set(1);
        }
        for name in failing {
            self.interface_up.with_label_values(&[name.as_ref()]).set(0);
        }
    }

    /// What counts packets.
    pub fn counting(&self, source: &str) {
        for name in COUNTING_SOURCES {
            self.counting.with_label_values(&[name]).set((name == source).into());
        }
    }

    /// What confines threads that serve.
    pub fn sandboxed(&self, sandbox: &Sandbox) {
        for layer in LAYERS {
            self.sandbox.with_label_values(&[layer]).set(sandbox.has(layer).into());
        }
    }

    /// How the SFU's sockets are known, as the label of `mediasoup_exporter_ownership`, and how many there
    /// are.
    pub fn owned(&self, by: &str, sockets: u64) {
        for name in OWNERSHIP {
            self.ownership.with_label_values(&[name]).set((name == by).into());
        }
        self.owned_sockets.set(signed(sockets));
    }

    /// What the history has: bytes, streams and directions of connections, and milliseconds back.
    pub fn history(&self, bytes: usize, tracks: usize, reach: u64) {
        self.history_bytes.set(bytes as i64);
        self.history_tracks.set(tracks as i64);
        self.history_seconds.set((reach / 1000) as i64);
    }

    /// Whether counting goes on when the exporter ends.
    pub fn pinned(&self, is_pinned: bool) {
        self.pinned.set(is_pinned.into());
    }

    /// Table fill and causes from a reading.
    pub fn reading(&self, reading: &Reading) {
        for table in &reading.tables {
            self.table(table.table, table.entries, table.capacity);
        }
        for (event, directions) in Event::ALL.into_iter().zip(&reading.events) {
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

    /// What of one kind was refused for one reason, in all.
    pub fn refused(&self, reason: &str, what: &str, total: u64) {
        if total > 0 {
            set(&self.refused, &[what, reason], total);
        }
    }

    /// Connections that are refused now.
    pub fn refused_connections(&self, reason: &str, connections: u64) {
        self.refused_connections.with_label_values(&[reason]).set(signed(connections));
    }

    /// Connections of which no packet was seen.
    pub fn uncounted(&self, reason: &str, connections: u64) {
        self.uncounted.with_label_values(&[reason]).set(signed(connections));
    }

    /// A file that a flag names was read, or cannot be used as it is now.
    pub fn reloaded(&self, file: &Path, taken: Option<SystemTime>) {
        let file = file.to_string_lossy();
        self.reload_successful.with_label_values(&[&file]).set(taken.is_some().into());
        if let Some(time) = taken.and_then(|it| it.duration_since(UNIX_EPOCH).ok()) {
            self.reload_success.with_label_values(&[&file]).set(time.as_secs_f64());
        }
    }

    /// Memory that the servers' objects take.
    pub fn told_bytes(&self, bytes: u64) {
        self.told_bytes.set(signed(bytes));
    }

    /// A request was answered.
    pub fn answered(&self, page: &str, status: u16) {
        self.http_requests.with_label_values(&[page, &status.to_string()]).inc();
    }

    /// A connection was ended.
    pub fn ended(&self, reason: &str) {
        self.http_ended.with_label_values(&[reason]).inc();
    }

    /// Series that the last reading had no room for.
    pub fn series_missing(&self, series: u64) {
        self.series_missing.set(signed(series));
    }

    /// Servers that are not listened to.
    pub fn servers_refused(&self, servers: usize) {
        self.servers_refused.set(signed(servers as u64));
    }

    /// Workers beyond the bounds on their number.
    pub fn workers_left_out(&self, workers: usize) {
        self.workers_left_out.set(signed(workers as u64));
    }

    /// Workers of which no server tells.
    pub fn workers_unobserved(&self, workers: usize) {
        self.workers_unobserved.set(signed(workers as u64));
    }

    /// How long the last scrape took.
    pub fn scraped(&self, took: Duration) {
        self.scrape_duration.set(took.as_secs_f64());
    }

    /// All families, for [`crate::exposition::foreign`] to write.
    pub fn gather(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new()
    }
}

/// The own families and what their events mean, in Markdown.
pub fn reference() -> String {
    let telemetry = Telemetry::new();
    telemetry.counting("none");
    telemetry.owned("flag", 0);
    telemetry.sandboxed(&Sandbox::default());
    let (took, last_success) = (Some(Duration::ZERO), Some(UNIX_EPOCH));
    telemetry.sources(&[SourceReport { name: "ebpf".into(), up: true, took, last_success }]);
    telemetry.interfaces(&["eth0".into()], std::iter::empty::<&str>(), ["eth0"].iter());
    telemetry.reading(&Reading { events: vec![Default::default(); EVENTS], ..Reading::default() });
    telemetry.table("flows", 0, 0);
    telemetry.refused("full", "peer", 1);
    telemetry.refused_connections("port", 0);
    telemetry.uncounted("port", 0);
    telemetry.reloaded(Path::new("FILE"), Some(UNIX_EPOCH));
    telemetry.answered("metrics", 200);
    telemetry.ended("idle");
    let mut page = String::from("| Family | Type | Meaning |\n|---|---|---|\n");
    for family in telemetry.registry.gather() {
        let kind = format!("{:?}", family.get_field_type()).to_lowercase();
        page.push_str(&format!("| `{}` | {kind} | {} |\n", family.name(), family.help()));
    }
    page.push_str("\n| `event` of `mediasoup_exporter_events_total` | Meaning |\n|---|---|\n");
    for event in Event::ALL {
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
        Event::InsertFailed => (
            "insert_failed",
            "the kernel had no memory for a new flow, or a new stream found no place among others; \
             counted in its flow's RTP where it has one",
        ),
        Event::Contended => (
            "contended",
            "its stream was being written by another processor for too long; packets and bytes are \
             counted, its sequence number is not",
        ),
        Event::NotOwned => (
            "not_owned",
            "another program's: in its network namespace no socket of the SFU has the port at this address",
        ),
        Event::ShareFull => (
            "share_full",
            "its far side has as much room as one may have that no server told: its flow stays a \
             stranger's, or the packet counts in its flow",
        ),
        Event::BadRtp => ("bad_rtp", "an RTP header that does not fit; counted as class other"),
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("mediasoup_exporter")
}

fn int(registry: &Registry, name: &str, help: &str) -> IntGauge {
    let gauge = IntGauge::with_opts(opts(name, help)).expect("a constant's name is valid");
    register(registry, gauge.clone());
    gauge
}

fn ints(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    let family = IntGaugeVec::new(opts(name, help), labels).expect("a constant's name is valid");
    register(registry, family.clone());
    family
}

fn gauges(registry: &Registry, name: &str, help: &str) -> GaugeVec {
    gauges_by(registry, name, help, "source")
}

fn gauges_by(registry: &Registry, name: &str, help: &str, label: &str) -> GaugeVec {
    let family = GaugeVec::new(opts(name, help), &[label]).expect("a constant's name is valid");
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

    fn text(telemetry: &Telemetry) -> String {
        prometheus::TextEncoder::new().encode_to_string(&telemetry.gather()).unwrap()
    }

    fn sample() -> Telemetry {
        let telemetry = Telemetry::new();
        telemetry.counting("ebpf");
        telemetry.owned("cgroup", 3);
        let report = |name: &str, up| SourceReport {
            name: name.into(),
            up,
            took: Some(Duration::from_millis(5)),
            last_success: None,
        };
        telemetry.sources(&[report("observer:/tmp/gone.sock", true)]);
        telemetry.sources(&[report("observer:/tmp/a.sock", false)]);
        telemetry.interfaces(&["eth0".into()], ["wg0"].iter(), ["eth0"].iter());
        let mut reading = Reading {
            tables: vec![TableFill { table: "flows", entries: 3, capacity: 10 }],
            events: vec![[Counter::default(); 2]; EVENTS],
            ..Reading::default()
        };
        reading.events[Event::SsrcsFull as usize][1] = Counter { packets: 7, bytes: 700 };
        telemetry.reading(&reading);
        telemetry.reading(&reading);
        telemetry.total("series_refused", 4);
        telemetry.answered("metrics", 200);
        telemetry
    }

    #[test]
    fn text_holds_what_was_set() {
        let text = text(&sample());
        for line in [
            "mediasoup_exporter_counting_source{source=\"ebpf\"} 1\n",
            "mediasoup_exporter_counting_source{source=\"none\"} 0\n",
            "mediasoup_exporter_ownership{by=\"cgroup\"} 1\n",
            "mediasoup_exporter_ownership{by=\"scan\"} 0\n",
            "mediasoup_exporter_owned_sockets 3\n",
            "mediasoup_exporter_source_up{source=\"observer:/tmp/a.sock\"} 0\n",
            "mediasoup_exporter_source_scrape_duration_seconds{source=\"observer:/tmp/a.sock\"} 0.005\n",
            "mediasoup_exporter_interface_up{interface=\"wg0\"} 0\n",
            "mediasoup_exporter_table_entries{table=\"flows\"} 3\n",
            "mediasoup_exporter_table_capacity{table=\"flows\"} 10\n",
            "mediasoup_exporter_events_total{direction=\"send\",event=\"ssrcs_full\"} 7\n",
            "mediasoup_exporter_event_bytes_total{direction=\"send\",event=\"ssrcs_full\"} 700\n",
            "mediasoup_exporter_internal_events_total{event=\"series_refused\"} 4\n",
            "mediasoup_exporter_http_requests_total{code=\"200\",page=\"metrics\"} 1\n",
            "# TYPE mediasoup_exporter_events_total counter\n",
            "# TYPE process_resident_memory_bytes gauge\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_source_that_is_gone_is_gone() {
        assert!(!text(&sample()).contains("gone.sock"));
    }

    #[test]
    fn events_stand_in_the_order_of_their_numbers() {
        let numbers = Event::ALL.map(|event| event as usize);
        assert_eq!(numbers, std::array::from_fn::<_, EVENTS, _>(|number| number));
        let mut names: Vec<_> = Event::ALL.into_iter().map(event_name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), EVENTS);
    }

    #[test]
    fn totals_follow_a_reset() {
        let telemetry = Telemetry::new();
        for value in [5, 9, 2] {
            telemetry.total("series_refused", value);
            let line = format!("{{event=\"series_refused\"}} {value}\n");
            assert!(text(&telemetry).contains(&line));
        }
    }

    #[test]
    fn the_reference_names_every_family_and_event() {
        let page = reference();
        for line in text(&sample()).lines().filter(|line| line.starts_with("# TYPE")) {
            let name = line.split(' ').nth(2).unwrap();
            assert!(page.contains(&format!("`{name}`")), "{name}");
        }
        assert!(page.contains("`too_many_extensions`") && page.contains("`observer_lines`"));
    }
}
