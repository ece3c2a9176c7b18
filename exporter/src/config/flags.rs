//! The command line as clap reads it: names, help, completions. Values stay text here wherever
//! clap's own complaint would take more than one line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::styling::Styles;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser, ValueEnum};

use crate::config::method::{Hooks, Method};
use crate::config::names::Names;
use crate::config::rotate::Rotate;
use crate::config::values::Size;

/// Counts every RTP byte of a mediasoup SFU in the kernel, joins it with what the SFU knows of rooms
/// and peers, and serves it to Prometheus.
///
/// A flag beats the environment variable named beside it; a variable beats the default.
#[derive(Debug, Parser)]
#[command(name = "mediasoup-exporter", styles = Styles::plain(), disable_help_subcommand = true)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Flags {
    #[command(subcommand)]
    pub(super) command: Option<Subcommand>,
    #[arg(
        long = "web.listen-address",
        alias = "listen",
        value_name = "ADDRESS:PORT",
        help_heading = "Serving",
        help = "Where to serve; [::] takes IPv4 too; repeatable [default: [::]:8889]"
    )]
    pub(super) listen: Vec<String>,
    /// Confine threads that read what others send: no capabilities, few system calls (seccomp), no files
    /// (Landlock). For debugging only: no
    #[arg(
        long,
        value_name = "YES",
        num_args = 0..=1,
        require_equals = true,
        default_value = "yes",
        default_missing_value = "yes",
        help_heading = "Serving"
    )]
    pub(super) sandbox: String,
    /// Serve on the sockets that systemd passes, instead of opening any
    #[arg(long = "web.systemd-socket", help_heading = "Serving")]
    pub(super) systemd_socket: bool,
    /// Port to serve on, where --web.listen-address names none [variable: PROM_PORT]
    #[arg(long, value_name = "PORT", help_heading = "Serving")]
    pub(super) port: Option<String>,
    /// File with TLS, users, headers and a rate limit, in the format of Prometheus' exporter-toolkit
    #[arg(long = "web.config.file", value_name = "FILE", help_heading = "Serving")]
    pub(super) web_config: Option<PathBuf>,
    /// Further names of this host that requests may be for, separated by commas; * and *.example.org match;
    /// repeatable [default: addresses, localhost, and the host's own names]
    #[arg(
        long = "web.allowed-hosts",
        value_name = "NAME",
        value_delimiter = ',',
        help_heading = "Serving"
    )]
    pub(super) allowed_hosts: Vec<String>,
    /// File with a token that every page but /-/healthy and /-/ready asks for, as Bearer token or
    /// as the password of Basic authentication
    #[arg(long = "auth.token-file", value_name = "FILE", help_heading = "Serving")]
    pub(super) token_file: Option<PathBuf>,
    /// Serve pages of rooms, peers, addresses and streams, and the same as JSON and CSV: yes or no
    #[arg(
        long = "web.views",
        value_name = "YES",
        num_args = 0..=1,
        require_equals = true,
        default_value = "yes",
        default_missing_value = "yes",
        help_heading = "Serving"
    )]
    pub(super) views: String,
    /// Memory that the history behind these pages takes at most, in MB; where it is full, it reaches less far
    /// back than six hours
    #[arg(
        long = "history.memory",
        value_name = "MB",
        default_value = "100",
        help_heading = "Serving"
    )]
    pub(super) history_memory: Size,
    /// Loss from which a call is bad, of the packets of one minute
    #[arg(
        long = "verdict.loss",
        value_name = "PERCENT",
        default_value = "2%",
        help_heading = "Serving"
    )]
    pub(super) verdict_loss: String,
    /// Jitter from which a call is bad
    #[arg(
        long = "verdict.jitter",
        value_name = "TIME",
        default_value = "50ms",
        help_heading = "Serving"
    )]
    pub(super) verdict_jitter: String,
    /// Time for which somebody who is not muted may send nothing, and a connection may take to stand
    #[arg(
        long = "verdict.silence",
        value_name = "TIME",
        default_value = "15s",
        help_heading = "Serving"
    )]
    pub(super) verdict_silence: String,
    /// mediasoup's score, of ten, up to which a call is bad
    #[arg(long = "verdict.score", value_name = "N", default_value = "5", help_heading = "Serving")]
    pub(super) verdict_score: Size,
    /// Folder to which a line of JSON is written for each connection and stream that ended
    #[arg(long, value_name = "DIR", help_heading = "Serving")]
    pub(super) journal: Option<PathBuf>,
    /// How long the journal's files are kept after their last line
    #[arg(
        long = "journal.retention",
        value_name = "TIME",
        default_value = "30d",
        help_heading = "Serving"
    )]
    pub(super) journal_retention: String,
    /// Size of all of the journal's files together, in MB, above which the oldest go
    #[arg(
        long = "journal.max-size",
        value_name = "MB",
        default_value = "1000",
        help_heading = "Serving"
    )]
    pub(super) journal_max_size: Size,
    /// Most series that one scrape can hold; what is cut is counted
    #[arg(long, value_name = "N", default_value = "4000000", help_heading = "Serving")]
    pub(super) max_series: Size,

    /// Interface to count on, a name or a pattern such as ens*; repeatable [default: all that are up,
    /// lo among them]
    #[arg(long = "interface", value_name = "PATTERN", help_heading = "Counting")]
    pub(super) interfaces: Vec<String>,
    /// Program whose sockets are the SFU's though it is no mediasoup-worker, as of an SFU in Rust, Go
    /// or Elixir: its name, the path of its executable, or of its PID file (.pid); * and ? match;
    /// repeatable
    #[arg(long = "sfu", value_name = "NAME|PATH|PID-FILE", help_heading = "Counting")]
    pub(super) sfu: Vec<String>,
    /// Count all of these local ports, whoever owns them, where that cannot be known [default: the ports
    /// that workers' sockets have]
    #[arg(long, value_name = "FIRST-LAST", help_heading = "Counting")]
    pub(super) ports: Option<String>,
    /// What counts packets: the best that the rights allow, or only this
    #[arg(
        long,
        value_enum,
        value_name = "SOURCE",
        default_value = "auto",
        help_heading = "Counting"
    )]
    pub(super) source: Method,
    /// Hooks that the kernel programs are attached to: auto takes TCX from Linux 6.6 on, and clsact below
    #[arg(
        long = "attach",
        value_enum,
        value_name = "HOOKS",
        default_value = "auto",
        help_heading = "Counting"
    )]
    pub(super) hooks: Hooks,
    /// Flows that the observer told or traffic proved
    #[arg(long, value_name = "N", default_value = "24576", help_heading = "Counting")]
    pub(super) max_flows: Size,
    /// Streams (SSRCs) of those flows; each takes 330 bytes of the kernel's memory from the start
    #[arg(long, value_name = "N", default_value = "122880", help_heading = "Counting")]
    pub(super) max_streams: Size,
    /// Flows of strangers
    #[arg(long, value_name = "N", default_value = "8192", help_heading = "Counting")]
    pub(super) max_stranger_flows: Size,
    /// Streams of strangers
    #[arg(long, value_name = "N", default_value = "8192", help_heading = "Counting")]
    pub(super) max_stranger_streams: Size,
    /// SSRCs of one flow, both directions together
    #[arg(long, value_name = "N", default_value = "1024", help_heading = "Counting")]
    pub(super) max_ssrcs_per_flow: Size,
    /// Keep each stream's interarrival jitter (RFC 3550 A.8), estimated from a sample of its packets
    #[arg(
        long,
        value_name = "YES",
        num_args = 0..=1,
        require_equals = true,
        default_value = "yes",
        default_missing_value = "yes",
        help_heading = "Counting"
    )]
    pub(super) jitter: String,
    /// Directory on a bpf file system, such as /sys/fs/bpf/mediasoup-exporter, where programs and tables
    /// outlive the exporter: nothing is missed while it is restarted
    #[arg(long, value_name = "DIRECTORY", help_heading = "Counting")]
    pub(super) pin: Option<PathBuf>,
    /// Take away what exporters that ended left counting (in --pin, else /sys/fs/bpf/mediasoup-exporter), and end
    #[arg(long, help_heading = "Counting")]
    pub(super) unpin: bool,
    #[arg(long, hide = true)]
    pub(super) guard_filters: Option<String>,

    /// Observer socket of a server, or a pattern of such, whoever listens there; repeatable. Listens to
    /// these only, or with `auto` among them also to what it finds [default: auto: the known sockets of
    /// edumeet, mediasoup-demo and agents, wherever they are]
    #[arg(long = "observer", value_name = "SOCKET|auto", help_heading = "Observing")]
    pub(super) observers: Vec<PathBuf>,
    /// How often each stream's getStats is asked for; 0: never
    #[arg(
        long = "observer.stats-interval",
        value_name = "TIME",
        default_value = "15s",
        help_heading = "Observing"
    )]
    pub(super) stats_interval: String,
    /// At most so many requests a second to the workers of one server
    #[arg(
        long = "observer.max-requests-per-second",
        value_name = "N",
        default_value = "200",
        help_heading = "Observing"
    )]
    pub(super) max_requests_per_second: Size,

    /// What becomes of addresses: none, truncate, pseudonym, drop, legacy; 1 means truncate
    /// [variable: PROM_DEIDENTIFY]
    #[arg(
        long,
        value_name = "MODE",
        num_args = 0..=1,
        default_missing_value = "truncate",
        help_heading = "Privacy"
    )]
    pub(super) deidentify: Option<String>,
    /// Bits of an IPv4 address that truncate keeps, up to 31
    #[arg(
        long = "deidentify.ipv4-prefix",
        value_name = "BITS",
        default_value = "24",
        help_heading = "Privacy"
    )]
    pub(super) ipv4_prefix: Size,
    /// Bits of an IPv6 address that truncate keeps, up to 127
    #[arg(
        long = "deidentify.ipv6-prefix",
        value_name = "BITS",
        default_value = "48",
        help_heading = "Privacy"
    )]
    pub(super) ipv6_prefix: Size,
    /// Let truncate keep no more than the network that the address is announced in, where a --geo-db knows it
    #[arg(long = "deidentify.announced", help_heading = "Privacy")]
    pub(super) announced: bool,
    /// Key of pseudonyms, of addresses and names: 32 bytes, or 64 hexadecimal digits [default: a fresh key at each start]
    #[arg(long = "deidentify.key-file", value_name = "FILE", help_heading = "Privacy")]
    pub(super) key_file: Option<PathBuf>,
    /// How long a key of pseudonyms holds, in periods of UTC; whoever is shown then stays as he is shown
    #[arg(
        long = "deidentify.rotate",
        value_enum,
        ignore_case = true,
        value_name = "PERIOD",
        default_value = "never",
        help_heading = "Privacy"
    )]
    pub(super) rotate: Rotate,
    /// Network whose addresses are shown as they are in every mode, such as 198.51.100.0/24; repeatable
    #[arg(long = "deidentify.exempt", value_name = "CIDR", help_heading = "Privacy")]
    pub(super) exempt: Vec<String>,
    /// What becomes of the words of people, which are peer and room ids, display names, user agents
    #[arg(long, value_enum, value_name = "MODE", default_value = "none", help_heading = "Privacy")]
    pub(super) names: Names,
    /// No reverse look-ups of addresses [variable: PROM_NUMERIC]
    #[arg(
        long,
        value_name = "YES",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "1",
        help_heading = "Privacy"
    )]
    pub(super) numeric: Option<String>,
    /// Blanks transport_id and id [variable: PROM_QUIET]
    #[arg(
        long,
        value_name = "YES",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "1",
        help_heading = "Privacy"
    )]
    pub(super) quiet: Option<String>,
    /// MaxMind database (country, city, ASN); repeatable
    #[arg(long = "geo-db", value_name = "FILE", help_heading = "Privacy")]
    pub(super) geo_databases: Vec<PathBuf>,

    /// What is logged: error, warn, info, debug, or tracing directives; beats --debug
    #[arg(long = "log.level", alias = "log", value_name = "DIRECTIVES", help_heading = "Other")]
    pub(super) log: Option<String>,
    /// What is logged, as npm debug patterns over edumeet:prom, edumeet:WARN:prom and
    /// edumeet:ERROR:prom [variable: DEBUG]
    #[arg(
        long,
        value_name = "PATTERNS",
        num_args = 0..=1,
        default_missing_value = "*",
        allow_hyphen_values = true,
        help_heading = "Other"
    )]
    pub(super) debug: Option<String>,
    /// Say what would be done, and end before anything is attached or served
    #[arg(long = "config.check", help_heading = "Other")]
    pub(super) check: bool,
    /// Print the script for node --require, for servers without an observer socket
    #[arg(long, help_heading = "Other")]
    pub(super) print_agent: bool,
    /// Print the reference of all metrics, in Markdown
    #[arg(long, help_heading = "Other")]
    pub(super) print_metrics_reference: bool,
    /// Print completions for a shell
    #[arg(long, value_enum, value_name = "SHELL", help_heading = "Other")]
    pub(super) completions: Option<clap_complete::Shell>,
}

/// What is done instead of serving.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Subcommand {
    /// Show who suffers, now and before, in this terminal
    Top(TopFlags),
    /// Say all that is known of a peer, room, address, transport or stream of the last hours, or why nothing is
    Explain(ExplainFlags),
    /// Say what is right and wrong on this host, with the remedy; changes nothing. Ends with 1 on faults
    Check(CheckFlags),
    /// Print the journal: connections and streams that ended
    Journal(JournalFlags),
    /// Capture the packets of rooms, peers, addresses or streams in a file for Wireshark (needs CAP_NET_RAW)
    Capture(CaptureFlags),
}

/// Of `journal`.
#[derive(Debug, clap::Args)]
pub(super) struct JournalFlags {
    /// The folder that --journal names
    #[arg(long = "dir", value_name = "DIR", default_value = "/var/lib/mediasoup-exporter/journal")]
    pub(super) folder: PathBuf,
    /// Only what ended after this: a moment (2026-01-31T14:30Z), or how long ago it was (2h)
    #[arg(long, value_name = "TIME", default_value = "", hide_default_value = true)]
    pub(super) since: String,
    /// Only what began before this
    #[arg(long, value_name = "TIME", default_value = "", hide_default_value = true)]
    pub(super) until: String,
    /// Print the lines as they are
    #[arg(long)]
    pub(super) json: bool,
    /// Which lines, in the language of the views: room:lobby loss:>2% -country:DE
    #[arg(value_name = "FILTER")]
    pub(super) filter: Vec<String>,
}

/// A running exporter.
#[derive(Debug, clap::Args)]
pub(super) struct ExporterFlags {
    /// The exporter, by http or https
    #[arg(long, value_name = "URL", default_value = "http://localhost:8889")]
    pub(super) url: String,
    /// File with the token that it asks for; with --auth.user, with the password
    #[arg(long = "auth.token-file", value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// Name of the user, where it has users
    #[arg(long = "auth.user", value_name = "NAME", requires = "token_file")]
    pub(super) user: Option<String>,
    /// File with the certificates (PEM) of whom to trust with https [default: those that this host trusts]
    #[arg(long = "tls.ca-file", value_name = "FILE")]
    pub(super) ca_file: Option<PathBuf>,
}

/// Of `check`.
#[derive(Debug, clap::Args)]
pub(super) struct CheckFlags {
    #[command(flatten)]
    pub(super) exporter: ExporterFlags,
    /// Further hosts of workers, as the exporter is given them; repeatable
    #[arg(long, value_name = "PROGRAM")]
    pub(super) sfu: Vec<String>,
    /// A server's observer socket, as the exporter is given it; repeatable
    #[arg(long = "observer", value_name = "PATH")]
    pub(super) observers: Vec<PathBuf>,
    /// Interfaces, as the exporter is given them; repeatable
    #[arg(long = "interface", value_name = "PATTERN")]
    pub(super) interfaces: Vec<String>,
    /// The SFU's port range, as the exporter is given it
    #[arg(long, value_name = "FIRST-LAST")]
    pub(super) ports: Option<String>,
    /// Warnings are faults
    #[arg(long)]
    pub(super) strict: bool,
    /// As JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Of `explain`.
#[derive(Debug, clap::Args)]
pub(super) struct ExplainFlags {
    #[command(flatten)]
    pub(super) exporter: ExporterFlags,
    /// How far back
    #[arg(long = "for", value_name = "TIME", default_value = "6h")]
    pub(super) span: String,
    /// An id, a name or an address, or a part of one
    #[arg(value_name = "WHAT", required = true)]
    pub(super) what: Vec<String>,
}

/// Of `capture`.
#[derive(Debug, clap::Args)]
pub(super) struct CaptureFlags {
    #[command(flatten)]
    pub(super) exporter: ExporterFlags,
    /// Packets of this room; repeatable
    #[arg(long = "room", value_name = "ROOM", help_heading = "Whose packets")]
    pub(super) rooms: Vec<String>,
    /// Packets of this peer, by its id or by what it calls itself; repeatable
    #[arg(long = "peer", value_name = "PEER", help_heading = "Whose packets")]
    pub(super) peers: Vec<String>,
    /// Packets of this far end, as views show it; repeatable
    #[arg(long = "ip", value_name = "ADDRESS", help_heading = "Whose packets")]
    pub(super) ips: Vec<String>,
    /// RTP of this stream alone; repeatable
    #[arg(long = "ssrc", value_name = "N", help_heading = "Whose packets")]
    pub(super) ssrcs: Vec<String>,
    /// How long, up to 10m
    #[arg(long = "for", value_name = "TIME", default_value = "30s")]
    pub(super) span: String,
    /// Where to: a file that is not there yet
    #[arg(long, value_name = "FILE")]
    pub(super) write: Option<PathBuf>,
    /// Instead: to standard output, as for wireshark -k -i -
    #[arg(long)]
    pub(super) stdout: bool,
    /// Take the place of a file that is there
    #[arg(long)]
    pub(super) force: bool,
    /// Bytes of the file at most, such as 500k, 20M, 1G
    #[arg(long = "max-bytes", value_name = "BYTES", default_value = "100M")]
    pub(super) max_bytes: String,
    /// Packets in a second at most; further ones are counted
    #[arg(long = "max-rate", value_name = "N", default_value = "50_000")]
    pub(super) max_rate: Size,
    /// Whole packets, not only their headers
    #[arg(long)]
    pub(super) payload: bool,
    /// Capture also where the exporter hides addresses or names of people
    #[arg(long = "despite-deidentification")]
    pub(super) despite_deidentification: bool,
}

/// Of `top`.
#[derive(Debug, clap::Args)]
pub(super) struct TopFlags {
    #[command(flatten)]
    pub(super) exporter: ExporterFlags,
    /// What rows are
    #[arg(
        long,
        value_name = "KIND",
        default_value = "peer",
        value_parser = ["peer", "room", "ip", "net", "asn", "country", "stream", "transport"]
    )]
    pub(super) by: String,
    /// Column to sort by; with a minus before it, the other way round
    #[arg(long, value_name = "COLUMN", default_value = "verdict", allow_hyphen_values = true)]
    pub(super) sort: String,
    /// How long a time
    #[arg(long = "for", value_name = "TIME", default_value = "10m")]
    pub(super) span: String,
    /// Where it ends: Unix time, or UTC such as 2026-01-31T14:31Z [default: now]
    #[arg(long, value_name = "TIME", default_value = "", hide_default_value = true)]
    pub(super) at: String,
    /// Print a table, and end
    #[arg(long)]
    pub(super) once: bool,
    /// Print JSON, and end
    #[arg(long)]
    pub(super) json: bool,
    /// Which rows: room:lecture loss:>2% net:203.0.113.0/24 -country:DE (docs/views.md)
    #[arg(value_name = "FILTER", allow_hyphen_values = true, trailing_var_arg = true)]
    pub(super) filter: Vec<String>,
}

/// Why there are no flags to go on with.
pub(super) enum Stop {
    /// `--help`, `--version`.
    Print(String),
    /// One line.
    Invalid(String),
}

pub(super) fn read(
    arguments: impl IntoIterator<Item = impl Into<OsString>>,
    version: &'static str,
) -> Result<Flags, Stop> {
    let arguments = arguments.into_iter().map(Into::into);
    let arguments = std::iter::once(OsString::from("mediasoup-exporter")).chain(arguments);
    Flags::command()
        .version(version)
        .try_get_matches_from(arguments)
        .and_then(|matches| Flags::from_arg_matches(&matches))
        .map_err(|error| match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Stop::Print(error.to_string()),
            _ => Stop::Invalid(one_line(&error)),
        })
}

pub(super) fn completions(shell: clap_complete::Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Flags::command(), "mediasoup-exporter", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// clap explains itself in a paragraph; service logs want one line.
fn one_line(error: &clap::Error) -> String {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => Some(texts.join(", ")),
        _ => None,
    };
    // clap writes `--ports <FIRST-LAST>`.
    let flag = text(ContextKind::InvalidArg).unwrap_or_default();
    let flag = flag.split([' ', '=', '[']).next().unwrap_or_default();
    let value = text(ContextKind::InvalidValue).unwrap_or_default();
    let line = match error.kind() {
        ErrorKind::InvalidValue if value.is_empty() => format!("{flag}: expected a value"),
        ErrorKind::InvalidValue => match text(ContextKind::ValidValue) {
            Some(valid) => format!("{flag}: `{value}` is not valid; expected one of {valid}"),
            None => format!("{flag}: `{value}` is not valid"),
        },
        ErrorKind::UnknownArgument => match text(ContextKind::SuggestedArg) {
            Some(near) => format!("{flag}: no such flag; expected perhaps {near} (see --help)"),
            None => format!("{flag}: no such flag; expected one of those in --help"),
        },
        ErrorKind::ArgumentConflict if flag.is_empty() => {
            "flags before a command; expected mediasoup-exporter COMMAND FLAGS".into()
        }
        ErrorKind::ArgumentConflict => format!("{flag}: given more than once; expected it once"),
        ErrorKind::MissingRequiredArgument => format!("expected {flag} (see --help)"),
        _ => error.to_string().lines().next().unwrap_or_default().replace("error: ", ""),
    };
    line.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

impl ValueEnum for Names {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::None, Self::Pseudonym, Self::Drop]
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(self.as_str()))
    }
}

impl ValueEnum for Rotate {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(self.as_str()))
    }
}

impl ValueEnum for Hooks {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Auto, Self::Clsact]
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(self.as_str()))
    }
}

impl ValueEnum for Method {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Auto, Self::Ebpf, Self::Capture, Self::None]
    }

    fn to_possible_value(&self) -> Option<clap::builder::PossibleValue> {
        Some(clap::builder::PossibleValue::new(self.as_str()))
    }
}
