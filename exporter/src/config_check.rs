//! What `--config.check` says: what would be done, in an operator's words, and what would fail.
//!
//! Looks at files and interfaces, and changes nothing.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use anyhow::bail;

use crate::config::{Bad, Config, Privacy, TableSizes};
use crate::kernel::may_be_on_bpffs;
use crate::observer::KNOWN_SOCKETS;
use crate::startup::Prepared;

/// What would be done, a line each. Fails on what would fail at the start, or could never work.
pub fn describe(config: &Config, prepared: &Prepared) -> anyhow::Result<String> {
    let faults = faults(config);
    if !faults.is_empty() {
        bail!("{}", faults.join("; "));
    }
    let lines = [
        ("serve on", serving(config, prepared)),
        ("web configuration", list(config.web_config.iter().map(shown), "none")),
        ("count by", config.source.as_str().to_owned()),
        ("ports", ports(config)),
        ("interfaces", list(config.interfaces.iter().map(|it| interface(it)), "all that are up")),
        ("the SFU", sfu(config)),
        ("tables", tables(&config.tables)),
        ("jitter", if config.jitter { "sampled" } else { "not kept" }.to_owned()),
        ("pinned", pinned(config)),
        ("observe", servers(config)),
        ("getStats", statistics(config)),
        ("addresses", addresses(&config.privacy)),
        ("names of people", config.privacy.names.as_str().to_owned()),
        ("keys of pseudonyms change", config.privacy.rotate.as_str().to_owned()),
        ("reverse names", names(prepared).to_owned()),
        ("geo databases", list(config.geo_databases.iter().map(shown), "none")),
        ("series at most", config.max_series.to_string()),
        ("views", views(config)),
        ("journal", journal(config)),
    ];
    Ok(lines.map(|(name, value)| format!("{name}: {value}\n")).concat())
}

/// What no later moment would mend.
fn faults(config: &Config) -> Vec<String> {
    let mut faults = Vec::new();
    for path in config.observers.iter().filter(|path| !is_pattern(path)) {
        if let Ok(found) = fs::symlink_metadata(path)
            && !found.file_type().is_socket()
        {
            let what = if found.is_symlink() {
                "a symbolic link; expected the socket's own path"
            } else {
                "no socket; expected a server's observer socket, a pattern of such, or auto"
            };
            faults.push(format!("--observer {}: this is {what}", path.display()));
        }
    }
    // The kernel's bound (IFNAMSIZ, with the NUL).
    for name in config.interfaces.iter().filter(|it| it.len() > 15 && !it.contains(['*', '?', '[']))
    {
        faults.push(format!("--interface {name}: expected at most 15 characters"));
    }
    if let Some(pin) = &config.pin
        && let Err(error) = fs::metadata(pin)
        && error.kind() != ErrorKind::NotFound
    {
        faults.push(format!("--pin {}: {error}", pin.display()));
    }
    faults
}

fn serving(config: &Config, prepared: &Prepared) -> String {
    let token = config.token_file.as_ref();
    let token = token.map(|path| format!("who has the token in {}", path.display()));
    let users = prepared.front.has_users().then(|| "users".to_owned());
    let who: Vec<String> = token.into_iter().chain(users).collect();
    let who = if who.is_empty() { "everybody".to_owned() } else { who.join(" and ") };
    let who = format!("for {who}");
    let tls = if prepared.front.is_tls() { ", TLS" } else { "" };
    let listen = config.listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let listen = if config.systemd_socket { "systemd's sockets".to_owned() } else { listen };
    format!("{listen} ({who}{tls})")
}

fn views(config: &Config) -> String {
    let Bad { loss, jitter, silence, score } = config.bad;
    match config.history.filter(|_| config.views) {
        Some(bytes) => format!(
            "six hours back, in up to {} MB; a call is bad from {:.1} % loss or {jitter:?} of jitter on, after \
             {silence:?} of silence, or with a score up to {score}",
            bytes / 1_000_000,
            loss * 100.0
        ),
        None => "none".into(),
    }
}

fn journal(config: &Config) -> String {
    config.journal.as_ref().map_or_else(
        || "none".into(),
        |journal| {
            let (days, megabytes) =
                (humantime::format_duration(journal.retention), journal.most_bytes / 1_000_000);
            format!("{}, kept for {days} and up to {megabytes} MB", shown(&journal.folder))
        },
    )
}

fn ports(config: &Config) -> String {
    match &config.ports {
        Some(range) => format!("{}-{}, whoever has them", range.start(), range.end()),
        None => "those that the SFU's sockets have".to_owned(),
    }
}

/// Programs may be installed later.
fn sfu(config: &Config) -> String {
    let named =
        config.sfu.iter().map(|it| match it.starts_with('/') && !is_pattern(Path::new(it)) {
            true if !Path::new(it).exists() => format!("{it} (not there now)"),
            _ => it.clone(),
        });
    list(std::iter::once("mediasoup's workers".to_owned()).chain(named), "")
}

/// What cannot be pinned is said, and counted without.
fn pinned(config: &Config) -> String {
    let Some(path) = &config.pin else { return "no".into() };
    match may_be_on_bpffs(path) {
        true => shown(path),
        false => format!("{} (not on a bpf file system now, so it would not be)", shown(path)),
    }
}

/// Interfaces may come later.
fn interface(name: &str) -> String {
    let is_there = Path::new("/sys/class/net").join(name).exists();
    match is_there || name.contains(['*', '?', '[']) {
        true => name.to_owned(),
        false => format!("{name} (not there now)"),
    }
}

fn tables(tables: &TableSizes) -> String {
    let TableSizes { flows, streams, stranger_flows, stranger_streams, ssrcs_per_flow } = tables;
    format!(
        "{flows} flows with {streams} streams, strangers' {stranger_flows} with {stranger_streams}, \
         {ssrcs_per_flow} SSRCs of one flow"
    )
}

fn servers(config: &Config) -> String {
    let known = || format!("whichever appears of {}, and agents", KNOWN_SOCKETS.join(", "));
    let named = config.observers.iter().map(|path| match is_pattern(path) || path.exists() {
        true => shown(path),
        // A server may start later.
        false => format!("{} (not there now)", shown(path)),
    });
    list(named.chain(config.search.then(known)), "nothing")
}

fn statistics(config: &Config) -> String {
    match config.stats_interval {
        Some(interval) => {
            let (seconds, most) = (interval.as_secs_f64(), config.max_requests_per_second);
            format!("each {seconds} s, at most {most} requests a second to one server's workers")
        }
        None => "never".to_owned(),
    }
}

fn addresses(privacy: &Privacy) -> String {
    let Privacy {
        mode,
        ipv4_prefix,
        ipv6_prefix,
        announced,
        exempt,
        names: _,
        key_file,
        rotate: _,
    } = privacy;
    let how = match (mode, key_file) {
        (crate::config::Deidentify::Truncate, _) => {
            let or = if *announced { ", or the announced network if that is larger" } else { "" };
            format!(" to /{ipv4_prefix} and /{ipv6_prefix}{or}")
        }
        (crate::config::Deidentify::Pseudonym, Some(path)) => {
            format!(" by the key in {}", shown(path))
        }
        (crate::config::Deidentify::Pseudonym, None) => " by a fresh key at each start".to_owned(),
        _ => String::new(),
    };
    let but = match exempt.is_empty() {
        true => String::new(),
        false => format!(", but for {}", list(exempt.iter().map(ToString::to_string), "")),
    };
    format!("{}{how}{but}", mode.as_str())
}

fn names(prepared: &Prepared) -> &'static str {
    if prepared.policy.names { "looked up" } else { "not looked up" }
}

fn is_pattern(path: &Path) -> bool {
    path.to_str().is_some_and(|text| text.contains(['*', '?', '[']))
}

fn shown(path: impl AsRef<Path>) -> String {
    path.as_ref().display().to_string()
}

fn list(names: impl Iterator<Item = String>, none: &str) -> String {
    let names: Vec<String> = names.collect();
    if names.is_empty() { none.to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Command;
    use crate::startup::prepare;

    fn checked(line: &str) -> anyhow::Result<String> {
        let Ok(Command::Run(config)) = Command::parse(line.split_whitespace(), |_| None, "test")
        else {
            panic!("{line} is valid")
        };
        describe(&config, &prepare(&config)?)
    }

    #[test]
    fn what_was_configured_is_said_as_an_operator_writes_it() {
        let text = checked(
            "--ports 40000-40100 --interface eth7x --observer /run/a.sock --observer auto --pin /x \
             --deidentify",
        );
        let text = text.unwrap();
        for part in [
            "40000-40100",
            "eth7x (not there now)",
            "/run/a.sock (not there now), whichever appears",
            "[::]:8889 (for everybody)",
            "at most 200 requests",
            "each 15 s",
            "24576 flows with 122880 streams",
            "truncate to /24 and /48",
            "pinned: /x (not on a bpf",
            "the SFU: mediasoup's workers\n",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(!text.contains(['{', '"']) && !text.contains("Some"), "{text}");
        assert!(!checked("--observer /run/a.sock").unwrap().contains("whichever"));
    }

    #[test]
    fn what_could_never_work_is_refused() {
        let refused = |line: &str| checked(line).unwrap_err().to_string();
        assert!(
            refused("--observer /etc/passwd").contains("--observer /etc/passwd: this is no socket")
        );
        assert!(refused("--observer /proc/self").contains("symbolic link"));
        assert!(refused("--interface a-name-that-is-too-long").contains("15 characters"));
        assert!(refused("--pin /etc/passwd/x").contains("--pin /etc/passwd/x"));
    }
}
