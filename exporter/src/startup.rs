//! From a configuration to what the parts want: files are read, rules are made, logging begins.
//!
//! Everything here happens before anything is attached or served, while the process may still read
//! what only root may.

mod descriptors;
mod keys;

use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::config::{self, Config, Deidentify, Log, Names, Privacy};
use crate::files::{Content, Identity, Members};
use crate::host::workers::Workers;
use crate::labels::{AddressPolicy, Database, Geo, NamePolicy, Policy};
use crate::views::{Hidden, Thresholds};
use crate::web::{Access, Front, Hosts, Settings};
use crate::{files, history, kernel, ledger, observer, web};

pub use descriptors::allow_descriptors;
pub use keys::Keys;

/// Ticks that a new connection waits for its name.
const PATIENCE: u64 = 1;

/// Steps of five seconds for ten minutes, and of a minute up to six hours.
const SPANS: history::Spans = history::Spans { fold: 12, short: 120, long: 350 };

/// What the parts want.
pub struct Prepared {
    /// Who may read pages.
    pub access: Access,
    /// What requests pass first, that among it.
    pub front: Front,
    /// Where the web configuration is, and it and the files that it names as they were read.
    pub web_files: Option<(PathBuf, Members)>,
    /// How labels are made.
    pub policy: Policy,
    /// Where its pseudonyms come from.
    pub keys: Keys,
    /// Where addresses are.
    pub geo: Geo,
    /// Which files all that was read from.
    pub files: Vec<Named>,
    /// How packets are counted.
    pub counting: kernel::Options,
    /// The SFU's ports, where the operator told them.
    pub ports: Option<RangeInclusive<u16>>,
    /// Which servers are listened to.
    pub observer: observer::Options,
    /// How series are kept.
    pub ledger: ledger::Settings,
    /// How much of the past is kept, if somebody needs it.
    pub history: Option<history::Settings>,
    /// Whether there are views of it.
    pub views: bool,
    /// Where what ended is written, if anywhere.
    pub journal: Option<config::Journal>,
    /// When a call is bad.
    pub thresholds: Thresholds,
    /// What this host calls itself.
    pub host_name: String,
    /// What of people is shown otherwise than it is.
    pub hidden: Hidden,
}

/// A file that a flag names, as it was read.
#[derive(Debug)]
pub struct Named {
    /// What is in it.
    pub role: Role,
    /// Where it is.
    pub path: PathBuf,
    /// Which file it was.
    pub identity: Identity,
}

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `--auth.token-file`.
    Token,
    /// `--deidentify.key-file`.
    Key,
    /// `--geo-db`, as this one of all.
    Database(usize),
}

impl Role {
    /// The flag.
    pub fn flag(self) -> &'static str {
        match self {
            Self::Token => "--auth.token-file",
            Self::Key => "--deidentify.key-file",
            Self::Database(_) => "--geo-db",
        }
    }
}

/// Reads the files that the configuration names.
pub fn prepare(config: &Config) -> anyhow::Result<Prepared> {
    // Whoever wants to know of workers asks the same one.
    let workers = Arc::new(Workers::new(&config.sfu).context("--sfu")?);
    let mut files = Vec::new();
    let access = access(config, &mut files)?;
    let (settings, web_files) = match &config.web_config {
        Some(path) => {
            let read = read_web_config(path);
            let (settings, members) =
                read.with_context(|| format!("{WEB_CONFIG} {}", path.display()))?;
            (settings, Some((path.clone(), members)))
        }
        None => (Settings::default(), None),
    };
    settings.warnings.iter().for_each(|warning| tracing::warn!("{WEB_CONFIG}: {warning}"));
    let keys = keys(&config.privacy, &mut files)?;
    let hosts = own_hosts().into_iter().chain(config.allowed_hosts.clone());
    Ok(Prepared {
        front: Front::new(access.clone(), Hosts::new(hosts), settings),
        access,
        web_files,
        policy: policy(config, &keys)?,
        keys,
        geo: geo(config, &mut files)?,
        files,
        observer: observer(config, workers.clone()),
        counting: counting(config, workers),
        ports: config.ports.clone(),
        ledger: ledger::Settings {
            max_series: config.max_series as u64,
            jitter: config.jitter,
            quiet: config.quiet,
            ..ledger::Settings::default()
        },
        history: config.history.map(|room| history::Settings {
            spans: SPANS,
            room,
            keeps_lives: config.journal.is_some(),
        }),
        views: config.views,
        journal: config.journal.clone(),
        thresholds: thresholds(&config.bad),
        host_name: read_text("/proc/sys/kernel/hostname").trim().to_owned(),
        hidden: Hidden {
            addresses: config.privacy.mode != Deidentify::None,
            names: config.privacy.names != Names::None,
        },
    })
}

fn thresholds(bad: &config::Bad) -> Thresholds {
    let config::Bad { loss, jitter, silence, score } = *bad;
    let (jitter, silence) = (jitter.as_secs_f64(), silence.as_millis() as u64);
    Thresholds { loss, jitter, silence, score, ..Thresholds::default() }
}

/// The flag.
pub const WEB_CONFIG: &str = "--web.config.file";

/// Reads the web configuration and the files that it names.
pub fn read_web_config(path: &Path) -> anyhow::Result<(Settings, Members)> {
    let Content { bytes, identity, .. } = files::read(path)?;
    let mut members = vec![(path.to_owned(), identity)];
    let text = String::from_utf8(bytes).context("expected UTF-8")?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let settings = Settings::new(&text, folder, &mut |path| {
        let Content { bytes, identity, .. } = files::read(&path)?;
        members.push((path, identity));
        Ok(bytes)
    })?;
    Ok((settings, members))
}

/// The web configuration, read again, holds from now on.
///
/// # Errors
/// It cannot be used. A file that is empty while others write it, or on a full disk, opens nothing to everybody.
pub fn renew_web_config(front: &Front, path: &Path) -> anyhow::Result<Members> {
    let (settings, members) = read_web_config(path)?;
    let lost = front.lost(&settings).join(" and ");
    ensure!(
        lost.is_empty() || !settings.is_blank,
        "it is empty, which would take {lost} away: restart the exporter if that is meant"
    );
    if !lost.is_empty() {
        tracing::warn!("{WEB_CONFIG} {}: no {lost} any more", path.display());
    }
    front.renew(settings);
    Ok(members)
}

/// What this host is called, as far as it knows itself.
fn own_hosts() -> Vec<String> {
    let node = read_text("/proc/sys/kernel/hostname");
    web::own_names(&node, &read_text("/etc/resolv.conf"), &read_text("/etc/hosts"))
}

fn read_text(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn access(config: &Config, files: &mut Vec<Named>) -> anyhow::Result<Access> {
    let Some(path) = &config.token_file else { return Ok(Access::open()) };
    let access = Access::open();
    from_file(Role::Token, path, files, |bytes| renew_token(&access, bytes))?;
    Ok(access)
}

/// Takes another token from a file's content.
pub fn renew_token(access: &Access, content: Vec<u8>) -> anyhow::Result<()> {
    let is_token = String::from_utf8(content).is_ok_and(|content| access.renew(&content));
    ensure!(is_token, "expected one line with the token");
    Ok(())
}

/// Reads a file that a flag names, and makes something of it.
fn from_file<T>(
    role: Role,
    path: &Path,
    files: &mut Vec<Named>,
    make: impl FnOnce(Vec<u8>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let made = files::read(path).and_then(|Content { bytes, identity, is_public }| {
        if let Some(warning) = exposed(role, path, is_public) {
            tracing::warn!("{warning}");
        }
        files.push(Named { role, path: path.to_owned(), identity });
        make(bytes)
    });
    made.with_context(|| format!("{} {}", role.flag(), path.display()))
}

/// A secret that everybody on the host may read is none.
fn exposed(role: Role, path: &Path, is_public: bool) -> Option<String> {
    let what = match role {
        Role::Token => "whoever reads it may read all pages",
        Role::Key => "whoever reads it can undo pseudonyms",
        Role::Database(_) => return None,
    };
    let (flag, path) = (role.flag(), path.display());
    is_public.then(|| {
        format!("{flag} {path}: everybody on this host may read it, and {what}; chmod o-r {path}")
    })
}

fn keys(privacy: &Privacy, files: &mut Vec<Named>) -> anyhow::Result<Keys> {
    let wanted = [privacy.mode == Deidentify::Pseudonym, privacy.names == Names::Pseudonym];
    match &privacy.key_file {
        Some(path) => from_file(Role::Key, path, files, |bytes| {
            let keys = Keys::new(Some(&bytes), privacy.rotate, wanted)?;
            // What the key cannot be used for is said with the file's name.
            keys.policies().map(|_| keys)
        }),
        None => Keys::new(None, privacy.rotate, wanted),
    }
}

fn policy(config: &Config, keys: &Keys) -> anyhow::Result<Policy> {
    let Privacy { mode, ipv4_prefix, ipv6_prefix, announced, exempt, names: words, .. } =
        &config.privacy;
    let (address, people) = keys.policies()?;
    let address = match mode {
        Deidentify::Drop => AddressPolicy::Drop,
        Deidentify::Legacy => AddressPolicy::Legacy,
        Deidentify::Truncate => AddressPolicy::truncate(*ipv4_prefix, *ipv6_prefix)
            .context("--deidentify.ipv4-prefix, --deidentify.ipv6-prefix")?,
        Deidentify::None | Deidentify::Pseudonym => address.unwrap_or(AddressPolicy::None),
    };
    let people = match words {
        Names::Drop => NamePolicy::Drop,
        Names::None | Names::Pseudonym => people.unwrap_or(NamePolicy::None),
    };
    let names = !config.numeric && address.shows_addresses();
    let (announced, exempt) = (*announced, exempt.clone());
    Ok(Policy { address, exempt, announced, people, names, patience: PATIENCE })
}

fn geo(config: &Config, files: &mut Vec<Named>) -> anyhow::Result<Geo> {
    let mut geo = Geo::none();
    for (at, path) in config.geo_databases.iter().enumerate() {
        let database =
            from_file(Role::Database(at), path, files, |bytes| Ok(Database::new(bytes)?))?;
        geo.add(database);
    }
    Ok(geo)
}

fn counting(config: &Config, workers: Arc<Workers>) -> kernel::Options {
    let config::TableSizes { flows, streams, stranger_flows, stranger_streams, ssrcs_per_flow } =
        config.tables;
    kernel::Options {
        interfaces: config.interfaces.clone(),
        ports: config.ports.clone(),
        workers,
        method: match config.source {
            config::Method::Auto => kernel::MethodChoice::Auto,
            config::Method::Ebpf => kernel::MethodChoice::Ebpf,
            config::Method::Capture => kernel::MethodChoice::Capture,
            config::Method::None => kernel::MethodChoice::None,
        },
        limits: kernel::Limits { flows, streams, stranger_flows, stranger_streams, ssrcs_per_flow },
        jitter: config.jitter,
        mechanism: match config.hooks {
            config::Hooks::Auto => kernel::Mechanism::Auto,
            config::Hooks::Clsact => kernel::Mechanism::Clsact,
        },
        pin: config.pin.clone(),
        guard: true,
        ..kernel::Options::default()
    }
}

fn observer(config: &Config, workers: Arc<Workers>) -> observer::Options {
    observer::Options {
        search: config.search,
        sockets: config.observers.clone(),
        workers,
        stats_interval: config.stats_interval.unwrap_or_default(),
        stats_rate: config.max_requests_per_second,
        ..observer::Options::default()
    }
}

/// Control characters, and what turns the direction of text, as escapes: much of what is logged holds
/// texts that strangers chose, and none of them may begin a line or hide one.
fn one_line(text: &str) -> Cow<'_, str> {
    let is_odd = |character: char| {
        character.is_control()
            || matches!(character, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}')
    };
    if !text.contains(is_odd) {
        return text.into();
    }
    let mut clean = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match is_odd(character) {
            true => clean.extend(character.escape_default()),
            false => clean.push(character),
        }
    }
    clean.into()
}

/// Log lines go to standard error.
pub fn begin_logging(log: &Log) {
    // The journal has a clock of its own.
    let in_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(terminal)
        .fmt_fields(
            debug_fn(|line, field, value| match field.name() {
                "message" => write!(line, "{}", one_line(&format!("{value:?}"))),
                name => write!(line, "{name}={}", one_line(&format!("{value:?}"))),
            })
            .delimited(" "),
        );
    let lines = if in_journal { lines.without_time().boxed() } else { lines.boxed() };
    let begun = match log {
        Log::Directives(directives) => {
            let lines = lines.with_filter(EnvFilter::new(directives));
            tracing_subscriber::registry().with(lines).try_init()
        }
        Log::Levels(levels) => {
            let levels = levels.clone();
            // Libraries say at these levels what helps nobody here, addresses among it.
            let own = filter_fn(move |event| {
                let target = event.target();
                let own = target.starts_with("mediasoup_exporter") || target == "kernel_program";
                own && levels.contains(*event.level())
            });
            tracing_subscriber::registry().with(lines.with_filter(own)).try_init()
        }
    };
    // Only a second call fails, and then the first one's rules stand.
    let _ = begun;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Command;

    fn config(line: &str) -> Config {
        match Command::parse(line.split_whitespace(), |_| None, "") {
            Ok(Command::Run(config)) => *config,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn refused(line: &str) -> String {
        let refusal = prepare(&config(line)).map(drop).expect_err(line);
        format!("{refusal:#}")
    }

    #[test]
    fn a_secret_for_everybody_is_said_to_be_none() {
        let path = Path::new("/etc/sfu.key");
        let warning = exposed(Role::Key, path, true).unwrap();
        assert!(
            warning.starts_with("--deidentify.key-file /etc/sfu.key: ")
                && warning.contains("chmod")
        );
        assert_eq!(exposed(Role::Key, path, false), None);
        assert_eq!(exposed(Role::Database(0), path, true), None);
    }

    #[test]
    fn a_text_of_a_strangers_stays_on_its_line() {
        let check = |text: &str, expected: &str| assert_eq!(one_line(text), expected);
        check("plain, für alle", "plain, für alle");
        check("3.1\n2026 INFO forged", "3.1\\n2026 INFO forged");
        check("a\u{1b}[31mred\r\0", "a\\u{1b}[31mred\\r\\u{0}");
        check("\u{202e}evil\u{2028}", "\\u{202e}evil\\u{2028}");
    }

    #[test]
    fn a_file_that_is_not_there_is_named_with_its_flag() {
        for flag in [
            "--auth.token-file",
            "--geo-db",
            "--deidentify pseudonym --deidentify.key-file",
            "--names pseudonym --deidentify.key-file",
        ] {
            let refusal = refused(&format!("{flag} /nowhere/at/all"));
            let name = flag.split(' ').next_back().unwrap();
            assert!(refusal.contains(name) && refusal.contains("/nowhere/at/all"), "{refusal}");
        }
    }

    #[test]
    fn names_are_looked_up_only_where_addresses_are_shown() {
        let names = |line: &str| prepare(&config(line)).unwrap().policy.names;
        assert!(names(""));
        for line in ["--numeric", "--deidentify", "--deidentify drop", "--deidentify legacy"] {
            assert!(!names(line), "{line}");
        }
    }
}
