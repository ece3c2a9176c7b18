//! Flags and environment become one validated [`Config`].
//!
//! Comes in: the arguments and a way to look up a variable. Goes out: a [`Config`], a text to print,
//! or one line that names what is wrong. Nothing here reads the process environment, a file or a
//! socket, so every rule is tested as a table. A flag beats a variable, a variable beats a default.

mod capture;
mod check;
mod debug;
mod exporter;
mod flags;
mod invalid;
mod method;
mod names;
mod rotate;
mod values;

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

pub use capture::Capture;
pub use check::Check;
pub use debug::Levels;
pub use exporter::Exporter;
pub use invalid::Invalid;
pub use method::{Hooks, Method};
pub use names::Names;
pub use rotate::Rotate;
pub use values::Size;

use crate::config::flags::{ExplainFlags, Flags, JournalFlags, Subcommand, TopFlags};
use crate::config::values::{
    Listen, Origin, boolean, duration, long_duration, percent, port, ports, short_duration,
};

/// Where the exporter listens when nothing else is said. The replaced exporter's port.
pub const DEFAULT_PORT: u16 = 8889;

/// What `--unpin` empties when nothing else is said; the systemd unit pins there.
pub const DEFAULT_PIN: &str = "/sys/fs/bpf/mediasoup-exporter";

/// Everything that can be configured, valid.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where to listen. `[::]` takes IPv4 too.
    pub listen: Vec<SocketAddr>,
    /// The listening address is the default, so another may be tried where IPv6 is off.
    pub listen_is_default: bool,
    /// Listen on what systemd passes instead.
    pub systemd_socket: bool,
    /// File with TLS, users and more.
    pub web_config: Option<PathBuf>,
    /// Names of this host besides those that it knows.
    pub allowed_hosts: Vec<String>,
    /// File with the token that all pages but the health checks ask for.
    pub token_file: Option<PathBuf>,
    /// Patterns of interface names; empty: all that are up.
    pub interfaces: Vec<String>,
    /// Processes that are the SFU's besides mediasoup's workers: names, paths, files with a process
    /// number; patterns.
    pub sfu: Vec<String>,
    /// The SFU's port range; `None`: read from the workers' command lines.
    pub ports: Option<RangeInclusive<u16>>,
    /// What counts packets.
    pub source: Method,
    /// Where eBPF sees packets.
    pub hooks: Hooks,
    /// Bounds of the tables.
    pub tables: TableSizes,
    /// Confine threads that serve.
    pub sandbox: bool,
    /// Keep interarrival jitter.
    pub jitter: bool,
    /// Directory on a bpf file system in which tables and programs outlive the exporter.
    pub pin: Option<PathBuf>,
    /// Look for servers.
    pub search: bool,
    /// Observer sockets besides, or patterns.
    pub observers: Vec<PathBuf>,
    /// How often each stream's `getStats` is asked for; `None`: never.
    pub stats_interval: Option<Duration>,
    /// At most so many worker requests a second.
    pub max_requests_per_second: u32,
    /// What becomes of addresses.
    pub privacy: Privacy,
    /// No reverse look-ups.
    pub numeric: bool,
    /// Blanks `transport_id` and `id` in the contract families.
    pub quiet: bool,
    /// MaxMind databases.
    pub geo_databases: Vec<PathBuf>,
    /// Most series that one scrape can hold.
    pub max_series: usize,
    /// Whether there are pages of rooms, peers and the like.
    pub views: bool,
    /// Bytes that the history behind them takes at most; `None`: nobody needs one.
    pub history: Option<usize>,
    /// Where what ended is written, if anywhere.
    pub journal: Option<Journal>,
    /// When a call is bad.
    pub bad: Bad,
    /// What is logged.
    pub log: Log,
    /// Print what would be done and end before serving.
    pub check: bool,
}

/// A record of what ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Journal {
    /// The folder.
    pub folder: PathBuf,
    /// For how long a file is kept after its last line.
    pub retention: Duration,
    /// Bytes of all files at most.
    pub most_bytes: u64,
}

/// What is to be read of such a record.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadJournal {
    /// The folder.
    pub folder: PathBuf,
    /// Which lines: a line of filters.
    pub filter: String,
    /// Only what ended after this; empty: all.
    pub since: String,
    /// Only what began before this; empty: all.
    pub until: String,
    /// As it is, rather than as a table.
    pub json: bool,
}

/// What is to be explained, and by whom.
#[derive(Clone, Debug, PartialEq)]
pub struct Explain {
    /// Who knows it.
    pub exporter: Exporter,
    /// An id, a name or an address, or a part of one.
    pub what: String,
    /// How long back: `6h`.
    pub span: String,
}

/// What a terminal shows, and from where.
#[derive(Clone, Debug, PartialEq)]
pub struct Top {
    /// Who knows it.
    pub exporter: Exporter,
    /// What rows are.
    pub by: String,
    /// Which of them.
    pub filter: String,
    /// Their order: a column.
    pub sort: String,
    /// How long a time.
    pub span: String,
    /// Where it ends; empty: now.
    pub at: String,
    /// Print once, and end.
    pub once: bool,
    /// As JSON.
    pub json: bool,
}

/// Bounds of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSizes {
    /// Flows that the observer told or traffic proved.
    pub flows: u32,
    /// Their streams.
    pub streams: u32,
    /// Strangers' flows.
    pub stranger_flows: u32,
    /// Strangers' streams.
    pub stranger_streams: u32,
    /// SSRCs of one flow, both directions together.
    pub ssrcs_per_flow: u32,
}

/// When a call is bad.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bad {
    /// A share of one.
    pub loss: f64,
    /// Jitter.
    pub jitter: Duration,
    /// Without a packet of somebody who is not muted.
    pub silence: Duration,
    /// Of ten: this or less.
    pub score: u8,
}

/// What becomes of addresses.
#[derive(Clone, Debug, PartialEq)]
pub struct Privacy {
    /// How addresses are shown.
    pub mode: Deidentify,
    /// Bits of an IPv4 address that `truncate` keeps, 0–31.
    pub ipv4_prefix: u8,
    /// Bits of an IPv6 address that `truncate` keeps, 0–127.
    pub ipv6_prefix: u8,
    /// `truncate` keeps no more than the announced network, where a database knows it.
    pub announced: bool,
    /// Networks whose addresses are shown as they are in every mode.
    pub exempt: Vec<IpNet>,
    /// How the words of people are shown.
    pub names: Names,
    /// Key of pseudonyms; `None`: a fresh one at each start.
    pub key_file: Option<PathBuf>,
    /// How long a key holds.
    pub rotate: Rotate,
}

/// How addresses are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deidentify {
    /// As they are.
    None,
    /// Only the network.
    Truncate,
    /// Encrypted, prefix-preserving.
    Pseudonym,
    /// Not at all.
    Drop,
    /// As the replaced exporter did for IPv4, and IPv6 masked alike.
    Legacy,
}

/// What is logged.
#[derive(Clone, Debug, PartialEq)]
pub enum Log {
    /// `tracing` directives, such as `info,mediasoup_exporter::kernel=debug`.
    Directives(String),
    /// What an npm `debug` pattern selects.
    Levels(Levels),
}

/// What the command line asks for.
#[derive(Debug, PartialEq)]
pub enum Command {
    /// Run (or check) with this configuration.
    Run(Box<Config>),
    /// Print this and end well.
    Print(String),
    /// Print the script for `node --require` and end well.
    PrintAgent,
    /// Print the reference of all metrics and end well.
    PrintMetricsReference,
    /// Take away what is pinned in this directory and end.
    Unpin(PathBuf),
    /// Show who suffers in a terminal.
    Top(Top),
    /// Say all that is known of somebody.
    Explain(Explain),
    /// Say what is right and wrong on this host.
    Check(Box<Check>),
    /// Print what ended.
    Journal(ReadJournal),
    /// Capture somebody's packets.
    Capture(Box<Capture>),
    /// Take the filters of an exporter of this name away when it is gone.
    GuardFilters(String),
}

impl Command {
    /// From this process' arguments and environment.
    pub fn from_process(version: &'static str) -> Result<Self, Invalid> {
        let variable = |name: &str| match std::env::var_os(name)?.into_string() {
            Ok(text) => Some(text),
            // Not UTF-8: let the value be refused by name instead of being taken as unset.
            Err(raw) => Some(raw.to_string_lossy().into_owned()),
        };
        Self::parse(std::env::args_os().skip(1), variable, version)
    }

    /// From arguments (without the program's name) and a look-up of variables.
    pub fn parse(
        arguments: impl IntoIterator<Item = impl Into<std::ffi::OsString>>,
        variable: impl Fn(&str) -> Option<String>,
        version: &'static str,
    ) -> Result<Self, Invalid> {
        let flags = match flags::read(arguments, version) {
            Ok(flags) => flags,
            Err(flags::Stop::Print(text)) => return Ok(Self::Print(text)),
            Err(flags::Stop::Invalid(line)) => return Err(Invalid(line)),
        };
        match flags.command {
            Some(Subcommand::Top(flags)) => {
                let TopFlags { exporter, by, sort, span, at, once, json, filter } = flags;
                let (exporter, filter) = (exporter.into(), filter.join(" "));
                return Ok(Self::Top(Top { exporter, by, filter, sort, span, at, once, json }));
            }
            Some(Subcommand::Explain(ExplainFlags { exporter, span, what })) => {
                let (exporter, what) = (exporter.into(), what.join(" "));
                return Ok(Self::Explain(Explain { exporter, what, span }));
            }
            Some(Subcommand::Check(flags)) => {
                return check::check(flags).map(|it| Self::Check(Box::new(it)));
            }
            Some(Subcommand::Journal(flags)) => {
                let JournalFlags { folder, since, until, json, filter } = flags;
                let filter = filter.join(" ");
                return Ok(Self::Journal(ReadJournal { folder, filter, since, until, json }));
            }
            Some(Subcommand::Capture(flags)) => {
                return capture::capture(flags).map(|it| Self::Capture(Box::new(it)));
            }
            None => {}
        }
        if let Some(shell) = flags.completions {
            return Ok(Self::Print(flags::completions(shell)));
        }
        if flags.print_agent {
            return Ok(Self::PrintAgent);
        }
        if flags.unpin {
            return Ok(Self::Unpin(flags.pin.unwrap_or_else(|| DEFAULT_PIN.into())));
        }
        if let Some(exporter) = flags.guard_filters {
            return Ok(Self::GuardFilters(exporter));
        }
        if flags.print_metrics_reference {
            return Ok(Self::PrintMetricsReference);
        }
        // An empty variable is an unset one, as shells and unit files leave them.
        let variable = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        config(flags, variable).map(|config| Self::Run(Box::new(config)))
    }
}

fn journal(flags: &Flags) -> Result<Option<Journal>, Invalid> {
    let (retention, most) = (&flags.journal_retention, &flags.journal_max_size);
    let retention = long_duration(Origin("--journal.retention"), retention)?;
    let most_bytes = u64::from(most.within("--journal.max-size", 1, 1 << 30)?) * 1_000_000;
    Ok(flags.journal.clone().map(|folder| Journal { folder, retention, most_bytes }))
}

fn config(flags: Flags, variable: impl Fn(&str) -> Option<String>) -> Result<Config, Invalid> {
    let pick = |flag: &'static str, given: &Option<String>, name: &'static str| {
        given
            .clone()
            .map(|value| (Origin(flag), value))
            .or_else(|| variable(name).map(|value| (Origin(name), value)))
    };
    let switch = |flag, given: &Option<String>, name| match pick(flag, given, name) {
        Some((origin, value)) => boolean(origin, &value),
        None => Ok(false),
    };
    let listen = listen(&flags, pick("--port", &flags.port, "PROM_PORT"))?;
    let privacy = privacy(&flags, pick("--deidentify", &flags.deidentify, "PROM_DEIDENTIFY"))?;
    let views = boolean(Origin("--web.views"), &flags.views)?;
    let log = match &flags.log {
        Some(directives) => log_directives(directives)?,
        None => match pick("--debug", &flags.debug, "DEBUG") {
            Some((_, patterns)) => Log::Levels(Levels::selected_by(&patterns)),
            None => Log::Levels(Levels::default()),
        },
    };
    Ok(Config {
        listen: listen.0,
        listen_is_default: listen.1,
        systemd_socket: flags.systemd_socket,
        web_config: flags.web_config.clone(),
        allowed_hosts: allowed_hosts(&flags.allowed_hosts)?,
        token_file: flags.token_file.clone(),
        interfaces: values::interfaces(&flags.interfaces)?,
        sfu: values::sfu(&flags.sfu)?,
        ports: flags.ports.as_deref().map(|value| ports(Origin("--ports"), value)).transpose()?,
        source: flags.source,
        hooks: flags.hooks,
        tables: TableSizes {
            flows: flags.max_flows.within("--max-flows", 1, 1 << 24)?,
            streams: flags.max_streams.within("--max-streams", 1, 1 << 24)?,
            stranger_flows: flags.max_stranger_flows.within("--max-stranger-flows", 1, 1 << 22)?,
            stranger_streams: flags.max_stranger_streams.within(
                "--max-stranger-streams",
                1,
                1 << 22,
            )?,
            ssrcs_per_flow: flags.max_ssrcs_per_flow.within("--max-ssrcs-per-flow", 1, 1 << 20)?,
        },
        sandbox: boolean(Origin("--sandbox"), &flags.sandbox)?,
        jitter: boolean(Origin("--jitter"), &flags.jitter)?,
        pin: flags.pin.clone(),
        search: flags.observers.is_empty() || flags.observers.iter().any(is_auto),
        observers: flags.observers.iter().filter(|path| !is_auto(path)).cloned().collect(),
        stats_interval: Some(duration(Origin("--observer.stats-interval"), &flags.stats_interval)?)
            .filter(|interval| !interval.is_zero()),
        max_requests_per_second: flags.max_requests_per_second.within(
            "--observer.max-requests-per-second",
            1,
            100_000,
        )?,
        privacy,
        numeric: switch("--numeric", &flags.numeric, "PROM_NUMERIC")?,
        quiet: switch("--quiet", &flags.quiet, "PROM_QUIET")?,
        geo_databases: flags.geo_databases.clone(),
        views,
        history: (views || flags.journal.is_some())
            .then(|| flags.history_memory.within("--history.memory", 1, 1 << 20))
            .transpose()?
            .map(|megabytes| megabytes as usize * 1_000_000),
        journal: journal(&flags)?,
        bad: Bad {
            loss: percent(Origin("--verdict.loss"), &flags.verdict_loss)?,
            jitter: short_duration(Origin("--verdict.jitter"), &flags.verdict_jitter)?,
            silence: duration(Origin("--verdict.silence"), &flags.verdict_silence)?,
            score: flags.verdict_score.within("--verdict.score", 0, 10)? as u8,
        },
        max_series: flags.max_series.within("--max-series", 1, 1 << 28)? as usize,
        log,
        check: flags.check,
    })
}

/// `--observer auto`; who has a socket of that name says `./auto`.
fn is_auto(path: &PathBuf) -> bool {
    path == std::path::Path::new("auto")
}

/// Names, or patterns that begin with `*`.
fn allowed_hosts(names: &[String]) -> Result<Vec<String>, Invalid> {
    for name in names {
        let bare = name.trim().strip_prefix('*').unwrap_or(name.trim());
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        let is_whole = name.trim() == "*" || !bare.is_empty();
        if !is_whole || !bare.chars().all(is_name) {
            let expected = "a host's name, without a port, *.example.org, or *";
            return Err(Origin("--web.allowed-hosts").refuse(name, expected));
        }
    }
    Ok(names.to_vec())
}

/// The addresses, and whether they are the default ones. The port of `--port` beats the one of an address,
/// which beats `PROM_PORT`.
fn listen(
    flags: &Flags,
    port_setting: Option<(Origin, String)>,
) -> Result<(Vec<SocketAddr>, bool), Invalid> {
    if flags.systemd_socket && !flags.listen.is_empty() {
        return Err(Invalid(
            "--web.systemd-socket contradicts --web.listen-address; expected one of them".into(),
        ));
    }
    let given = flags.listen.iter().map(|address| Listen::parse(address));
    let given = given.collect::<Result<Vec<_>, _>>()?;
    let wanted = match &port_setting {
        Some((origin, value)) => Some(port(*origin, value)?),
        None => None,
    };
    let from_flag = wanted.filter(|_| flags.port.is_some());
    let is_default = given.is_empty();
    let given = if is_default { vec![Listen::default()] } else { given };
    let mut addresses = Vec::new();
    for Listen { ip, port: in_listen } in given {
        if let (Some(one), Some(other)) = (from_flag, in_listen)
            && one != other
        {
            return Err(Invalid(format!(
                "--port {one} contradicts --web.listen-address with port {other}; expected one port only"
            )));
        }
        let port = from_flag.or(in_listen).or(wanted).unwrap_or(DEFAULT_PORT);
        addresses.push(SocketAddr::new(ip, port));
    }
    Ok((addresses, is_default))
}

fn privacy(flags: &Flags, mode: Option<(Origin, String)>) -> Result<Privacy, Invalid> {
    let mode = match mode {
        Some((origin, value)) => Deidentify::parse(origin, &value)?,
        None => Deidentify::None,
    };
    let has_pseudonyms = mode == Deidentify::Pseudonym || flags.names == Names::Pseudonym;
    if flags.key_file.is_some() && !has_pseudonyms {
        return Err(Invalid(format!(
            "--deidentify.key-file has no meaning in mode `{}`; expected --deidentify pseudonym or --names \
             pseudonym",
            mode.as_str()
        )));
    }
    if flags.rotate != Rotate::Never && !has_pseudonyms {
        return Err(Invalid(
            "--deidentify.rotate has no meaning without pseudonyms; expected --deidentify pseudonym or --names \
             pseudonym"
                .into(),
        ));
    }
    if flags.announced && (mode != Deidentify::Truncate || flags.geo_databases.is_empty()) {
        return Err(Invalid(
            "--deidentify.announced has no meaning by itself; expected --deidentify truncate and a --geo-db that \
             knows autonomous systems"
                .into(),
        ));
    }
    if !flags.exempt.is_empty() && mode == Deidentify::None {
        return Err(Invalid(
            "--deidentify.exempt has no meaning by itself; expected a mode of --deidentify too"
                .into(),
        ));
    }
    let exempt = flags.exempt.iter().map(|text| {
        let text = text.trim();
        let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        let expected = "a network such as 198.51.100.0/24 or 2001:db8::/32";
        let network: IpNet =
            network.map_err(|_| Origin("--deidentify.exempt").refuse(text, expected))?;
        // As it acts, and as --config.check then shows it.
        Ok(network.trunc())
    });
    let exempt = exempt.collect::<Result<Vec<IpNet>, _>>()?;
    Ok(Privacy {
        mode,
        ipv4_prefix: flags.ipv4_prefix.within("--deidentify.ipv4-prefix", 0, 31)? as u8,
        ipv6_prefix: flags.ipv6_prefix.within("--deidentify.ipv6-prefix", 0, 127)? as u8,
        announced: flags.announced,
        exempt,
        names: flags.names,
        key_file: flags.key_file.clone(),
        rotate: flags.rotate,
    })
}

fn log_directives(directives: &str) -> Result<Log, Invalid> {
    match directives.parse::<tracing_subscriber::EnvFilter>() {
        Ok(_) => Ok(Log::Directives(directives.to_owned())),
        Err(_) => Err(Origin("--log.level").refuse(
            directives,
            "a level (error, warn, info, debug, trace, off) or directives such as \
             info,mediasoup_exporter::kernel=debug",
        )),
    }
}

impl Deidentify {
    const ALL: [Self; 5] = [Self::None, Self::Truncate, Self::Pseudonym, Self::Drop, Self::Legacy];

    /// The mode's name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Truncate => "truncate",
            Self::Pseudonym => "pseudonym",
            Self::Drop => "drop",
            Self::Legacy => "legacy",
        }
    }

    /// A mode's name, or yes (the replaced exporter had one mode only) or no.
    fn parse(origin: Origin, value: &str) -> Result<Self, Invalid> {
        let value = value.trim();
        if let Some(mode) = Self::ALL.into_iter().find(|mode| mode.as_str() == value) {
            return Ok(mode);
        }
        match boolean(origin, value) {
            Ok(true) => Ok(Self::Truncate),
            Ok(false) => Ok(Self::None),
            Err(_) => Err(origin.refuse(
                value,
                "none, truncate, pseudonym, drop or legacy (1 means truncate, 0 none)",
            )),
        }
    }
}

#[cfg(test)]
mod tests;
