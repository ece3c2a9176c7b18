//! What the host does to packets before and after us, and what the workers take of it: the kernel's own
//! counts, from /proc.
//!
//! The parsers take text; only [`read`] touches files. UDP and interfaces are those of the exporter's own
//! network namespace, processors are the whole host's.

use std::io;
use std::path::{Path, PathBuf};

use super::procfs;
use super::workers::WorkerProcess;
use crate::model::{HostLoad, InterfaceLoad, ProcessorLoad, UdpLoad, WorkerLoad};

/// The namespace of the process, even where its file system of processes shows nothing else.
const NET: &str = "/proc/self/net";
/// Of each file: 8,192 processors, or 8,192 interfaces.
const MOST_BYTES: u64 = 1 << 20;
/// Rows of each kind.
const MOST_ROWS: usize = 1024;

/// What can be read now, and why the rest cannot.
pub fn read(workers: &[WorkerProcess], interfaces: &[String]) -> (HostLoad, Vec<String>) {
    let mut missing = Vec::new();
    let mut of = |file: &str, is_optional: bool| {
        let path = Path::new(NET).join(file);
        procfs::read_at_most(&path, MOST_BYTES).unwrap_or_else(|error| {
            if !(is_optional && error.kind() == io::ErrorKind::NotFound) {
                missing.push(format!("{}: {error}", path.display()));
            }
            String::new()
        })
    };
    let softnet = of("softnet_stat", false);
    let (udp, devices) = (of("snmp", false), of("dev", false));
    // Not where the kernel has no IPv6.
    let udp6 = of("snmp6", true);
    let workers = workers.iter().take(super::workers::MOST_WORKERS);
    let load = HostLoad {
        workers: workers.filter_map(|worker| worker_load(worker, &mut missing)).collect(),
        processors: processors(&softnet).take(MOST_ROWS).collect(),
        udp: [udp_v4(&udp), udp_v6(&udp6)],
        interfaces: devices
            .lines()
            .filter_map(interface)
            .filter(|found| interfaces.contains(&found.name))
            .take(MOST_ROWS)
            .collect(),
    };
    (load, missing)
}

fn worker_load(worker: &WorkerProcess, missing: &mut Vec<String>) -> Option<WorkerLoad> {
    let path: PathBuf = format!("/proc/{}/stat", worker.pid).into();
    match procfs::read_at_most(&path, 4096) {
        Ok(text) => {
            let usage = Usage::parse(&text).filter(|usage| usage.started == worker.started)?;
            Some(usage.load(worker.pid))
        }
        // It has ended.
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => None,
        Err(error) => {
            missing.push(format!("{}: {error}", path.display()));
            None
        }
    }
}

/// What /proc/PID/stat tells of a process' use of the host (proc_pid_stat(5)).
#[derive(Debug, PartialEq, Eq)]
struct Usage {
    /// In its own code and in the kernel, clock ticks.
    ticks: u64,
    /// As in [`procfs::Stat::started`].
    started: u64,
    /// Resident pages.
    pages: u64,
}

impl Usage {
    /// The words after the name: utime and stime are the file's 14th and 15th, the start its 22nd, rss its
    /// 24th.
    fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().take(22).collect();
        let number = |at: usize| words.get(at)?.parse::<u64>().ok();
        let ticks = number(11)?.saturating_add(number(12)?);
        Some(Self { ticks, started: number(19)?, pages: number(21)? })
    }

    fn load(&self, pid: u32) -> WorkerLoad {
        let ticks_per_second = rustix::param::clock_ticks_per_second().max(1);
        let micros = u128::from(self.ticks) * 1_000_000 / u128::from(ticks_per_second);
        WorkerLoad {
            pid,
            processor_micros: u64::try_from(micros).unwrap_or(u64::MAX),
            resident_bytes: self.pages.saturating_mul(rustix::param::page_size() as u64),
        }
    }
}

/// /proc/net/softnet_stat: one line of hexadecimal words for each processor that is online. Its number is
/// the 13th (Linux 5.10); before that a line's place.
fn processors(text: &str) -> impl Iterator<Item = ProcessorLoad> {
    text.lines().enumerate().filter_map(|(line, text)| {
        let mut words =
            text.split_ascii_whitespace().map(|word| u64::from_str_radix(word, 16).ok());
        let mut next = || words.next().flatten();
        let (packets, dropped, squeezed) = (next()?, next()?, next()?);
        let number = words.nth(9).flatten().unwrap_or(line as u64);
        Some(ProcessorLoad { number, packets, dropped, squeezed })
    })
}

/// The names of /proc/net/snmp, in the order of [`UdpLoad`]'s fields.
const UDP: [&str; 5] = ["RcvbufErrors", "SndbufErrors", "MemErrors", "InCsumErrors", "NoPorts"];

/// Two lines that begin with `Udp:`: names, and their values.
fn udp_v4(text: &str) -> Option<UdpLoad> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let pairs: Vec<(&str, &str)> =
        names.split_ascii_whitespace().zip(values.split_ascii_whitespace()).collect();
    udp(|wanted| pairs.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value))
}

/// One line for each count: `Udp6RcvbufErrors   0`.
fn udp_v6(text: &str) -> Option<UdpLoad> {
    udp(|wanted| {
        text.lines().find_map(|line| {
            let mut words = line.split_ascii_whitespace();
            (words.next()?.strip_prefix("Udp6")? == wanted).then(|| words.next()).flatten()
        })
    })
}

/// A count that this kernel does not have is none (MemErrors is Linux 5.10's).
fn udp<'a>(find: impl Fn(&str) -> Option<&'a str>) -> Option<UdpLoad> {
    let counts = UDP.map(|name| find(name).and_then(|value| value.parse().ok()));
    counts.iter().any(Option::is_some).then_some(UdpLoad(counts))
}

/// A line of /proc/net/dev: `eth0: bytes packets errs drop fifo frame compressed multicast`, then the same
/// of what was sent, with `colls carrier` for `frame` and `multicast`. The kernel keeps colons and blanks
/// out of names.
fn interface(line: &str) -> Option<InterfaceLoad> {
    let (name, counts) = line.split_once(':')?;
    let counts: Vec<u64> =
        counts.split_ascii_whitespace().map(|word| word.parse().unwrap_or(0)).collect();
    let of = |at: usize| Some([*counts.get(at)?, *counts.get(at + 1)?, *counts.get(at + 2)?]);
    Some(InterfaceLoad { name: name.trim().to_owned(), receive: of(2)?, send: of(10)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_stat_is_its_time_and_memory() {
        let stat =
            "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 9 9 20 0 1 0 4711 99999 300 1844 0";
        let usage = Usage::parse(stat).unwrap();
        assert_eq!(usage, Usage { ticks: 300, started: 4711, pages: 300 });
        let load = usage.load(7);
        let per_second = rustix::param::clock_ticks_per_second();
        assert_eq!(load.processor_micros, 300 * 1_000_000 / per_second);
        assert_eq!(load.resident_bytes, 300 * rustix::param::page_size() as u64);
        for bad in
            ["", "7 (a", "7 (a) S 1 2", "7 (a) S 1 7 7 0 -1 4 1 0 0 0 x 50 9 9 20 0 1 0 1 2 3"]
        {
            assert_eq!(Usage::parse(bad), None, "{bad}");
        }
        let huge = format!("1 (a) S{} {m} {m} 0 0 0 0 0 0 1 0 {m}", " 0".repeat(10), m = u64::MAX);
        let load = Usage::parse(&huge).unwrap().load(1);
        assert_eq!(load.resident_bytes, u64::MAX);
    }

    #[test]
    fn processors_have_their_numbers() {
        let text = "0000000a 00000001 ffffffff 0 0 0 0 0 0 0 0 0 00000003 0 0\n\
                    00000010 00000000 00000002\nzz 0 0\n0000000b 0\n";
        let found: Vec<_> = processors(text).collect();
        let of = |number, packets, dropped, squeezed| ProcessorLoad {
            number,
            packets,
            dropped,
            squeezed,
        };
        assert_eq!(found, [of(3, 10, 1, 0xffff_ffff), of(1, 16, 0, 2)]);
        assert_eq!(processors("fffffffffffffffff 0 0").count(), 0);
    }

    #[test]
    fn udp_is_found_by_its_names() {
        let text = "Tcp: a\nTcp: 1\n\
                    Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors\n\
                    Udp: 9 8 7 6 5 4 3\nUdpLite: NoPorts\nUdpLite: 99\n";
        assert_eq!(udp_v4(text), Some(UdpLoad([Some(5), Some(4), None, Some(3), Some(8)])));
        assert_eq!(udp_v4("Udp: RcvbufErrors\n"), None);
        assert_eq!(udp_v4("Udp: RcvbufErrors\nUdp: x\n"), None);
        let six = "Udp6NoPorts 1\nUdp6RcvbufErrors  \t2\nUdpLite6RcvbufErrors 3\n";
        assert_eq!(udp_v6(six), Some(UdpLoad([Some(2), None, None, None, Some(1)])));
        assert_eq!(udp_v6(""), None);
    }

    #[test]
    fn an_interface_is_one_line() {
        let line = "  eth0: 1000 10 1 2 3 4 5 6 2000 20 7 8 9 10 11 12";
        let found = interface(line).unwrap();
        assert_eq!(
            (found.name.as_str(), found.receive, found.send),
            ("eth0", [1, 2, 3], [7, 8, 9])
        );
        for bad in ["Inter-|   Receive", " face |bytes packets", "lo: 1 2 3", ""] {
            assert_eq!(interface(bad), None, "{bad}");
        }
    }

    #[test]
    fn this_host_can_be_read() {
        let (load, missing) = read(&[], &["lo".to_owned()]);
        assert!(missing.is_empty(), "{missing:?}");
        assert!(!load.processors.is_empty() && load.udp[0].is_some());
        assert_eq!(load.interfaces.len(), 1);
    }
}
