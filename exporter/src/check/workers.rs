//! The SFU's workers, their ports, and the servers that could tell of them.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use super::finding::Finding;
use crate::host::workers::WorkerProcess;
use crate::observer;

const REMEDY: &str = "load the agent: node --require with the file that --print-agent prints; or name the server's \
                      socket with --observer";

/// A worker, as far as it is judged.
struct Worker {
    pid: u32,
    /// Of its ancestors one listens at a known socket.
    has_server: bool,
    is_visible: bool,
    bound: BTreeSet<u16>,
}

/// Looks.
pub(super) fn look(
    workers: &[WorkerProcess],
    named: &[PathBuf],
    ports: Option<&RangeInclusive<u16>>,
) -> Vec<Finding> {
    let sockets = observer::known_sockets(Path::new("/tmp"));
    let servers: BTreeSet<u32> = sockets.iter().filter_map(|it| it.pid).collect();
    let of = |it: &WorkerProcess| Worker {
        pid: it.pid,
        // Of a server that is named only it itself can tell whose it is.
        has_server: it.ancestors.iter().any(|pid| servers.contains(pid))
            || named.iter().any(|path| path != Path::new("auto") && is_there(path)),
        is_visible: it.sockets.is_some(),
        bound: it.bound.clone(),
    };
    let found: Vec<Worker> = workers.iter().map(of).collect();
    let mut findings = judge(&found, ports);
    findings.push(match sockets.len() {
        0 => Finding::skipped("servers", "none listens at a known socket"),
        _ => {
            let paths: BTreeSet<String> =
                sockets.iter().map(|it| it.path.display().to_string()).collect();
            let paths: Vec<String> = paths.into_iter().collect();
            Finding::ok("servers", format!("sockets: {}", paths.join(", ")))
        }
    });
    findings.extend(named.iter().filter_map(|path| judge_named(path, is_there(path))));
    findings
}

fn is_there(pattern: &Path) -> bool {
    let text = pattern.to_string_lossy();
    pattern.exists() || glob::glob(&text).is_ok_and(|mut found| found.next().is_some())
}

fn judge_named(path: &Path, is_there: bool) -> Option<Finding> {
    let seen = format!("--observer {}: there is no such socket", path.display());
    let remedy = "start its server, or correct the path";
    let is_auto = path == Path::new("auto");
    (!is_auto && !is_there).then(|| Finding::fault("servers", seen, remedy))
}

fn judge(workers: &[Worker], ports: Option<&RangeInclusive<u16>>) -> Vec<Finding> {
    if workers.is_empty() {
        let remedy = "start the SFU; name its program with --sfu if it is no mediasoup-worker; a container needs the \
                      host's processes (--pid host)";
        return vec![Finding::warning("workers", "none runs", remedy)];
    }
    let mut findings = Vec::new();
    for Worker { pid, has_server, is_visible, bound } in workers {
        let count = bound.len();
        findings.push(match is_visible {
            true => Finding::ok("workers", format!("{pid}: ports bound: {count}")),
            false => Finding::warning(
                "workers",
                format!("{pid}: its sockets cannot be seen"),
                "check as root, or with CAP_SYS_PTRACE; the exporter needs it, too, or --ports",
            ),
        });
        let outside = ports.map_or(0, |it| bound.iter().filter(|port| !it.contains(port)).count());
        if outside > 0 {
            let seen = format!("{pid}: {outside} of {count} bound ports are outside of --ports");
            findings.push(Finding::warning("workers", seen, "leave --ports out, or widen it"));
        }
        // Whose server it is cannot be known of a process that may not be looked into.
        if !has_server && *is_visible {
            let seen =
                format!("{pid}: no server that speaks: it is counted without rooms and peers");
            findings.push(Finding::warning("workers", seen, REMEDY));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn levels(worker: Worker, ports: Option<RangeInclusive<u16>>) -> Vec<Level> {
        judge(&[worker], ports.as_ref()).iter().map(|it| it.level).collect()
    }

    fn worker() -> Worker {
        Worker { pid: 7, has_server: true, is_visible: true, bound: BTreeSet::from([40_000]) }
    }

    #[test]
    fn a_worker_needs_a_server_ports_and_to_be_seen() {
        assert_eq!(levels(worker(), Some(40_000..=40_100)), [Level::Ok]);
        assert_eq!(levels(worker(), Some(1..=2)), [Level::Ok, Level::Warning]);
        assert_eq!(
            levels(Worker { has_server: false, ..worker() }, None),
            [Level::Ok, Level::Warning]
        );
        assert_eq!(levels(Worker { is_visible: false, ..worker() }, None), [Level::Warning]);
        assert_eq!(judge(&[], None)[0].level, Level::Warning);
    }

    #[test]
    fn a_named_socket_is_there_or_a_fault() {
        assert!(judge_named(Path::new("/a"), true).is_none());
        assert!(judge_named(Path::new("auto"), false).is_none());
        assert_eq!(judge_named(Path::new("/a"), false).unwrap().level, Level::Fault);
    }
}
