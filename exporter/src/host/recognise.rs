//! Whether a process is one of the SFU's, by how it was started.
//!
//! A process' executable and command line come in as text, and a verdict goes out. Both are of the
//! process' own choice, so a verdict gives it no more than that its own sockets are counted.

use globset::{Glob, GlobMatcher};

/// What mediasoup calls its worker.
const WORKER: &str = "mediasoup-worker";
/// What the kernel leaves of that name.
const WORKER_COMM: &str = "mediasoup-worke";

/// How a process was started.
#[derive(Clone, Copy)]
pub struct Process<'a> {
    /// Its name, at most 15 bytes.
    pub comm: &'a str,
    /// The file that it runs; empty without the right to see it.
    pub executable: &'a str,
    /// Its arguments, each ended by a NUL.
    pub command_line: &'a str,
    /// Whether its environment has a version of mediasoup's: only asked where it matters.
    pub has_version: &'a dyn Fn() -> bool,
}

/// Why a process counts as the SFU's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Evidence {
    /// It runs mediasoup's worker.
    Executable,
    /// Its arguments are those of a worker, whatever its name.
    Arguments,
    /// mediasoup gave it its version (`MEDIASOUP_VERSION`), as it gives it to workers, and an option of theirs.
    Environment,
    /// It calls itself a worker.
    Name,
    /// The operator named it (`--sfu`).
    Operator,
}

impl Process<'_> {
    /// Whether it is a mediasoup worker.
    pub fn is_worker(&self) -> Option<Evidence> {
        let mut arguments = self.command_line.split('\0');
        let first = arguments.next().unwrap_or_default();
        if basename(self.executable) == WORKER || basename(first) == WORKER {
            return Some(Evidence::Executable);
        }
        // Behind a runner (valgrind), or with a name of its own (`workerBin`).
        let is_option = |argument: &str, name: &str| {
            argument.strip_prefix(name).is_some_and(|rest| rest.starts_with('='))
        };
        let (mut is_named, mut options) = (false, 0_u32);
        for argument in arguments {
            is_named |= basename(argument) == WORKER;
            for (at, name) in OPTIONS.iter().enumerate() {
                options |= u32::from(is_option(argument, name)) << at;
            }
        }
        // A container may have the version in its environment for whatever runs there.
        let is_told = options != 0 && (self.has_version)();
        match () {
            () if options.count_ones() >= 2 || (is_named && options != 0) => {
                Some(Evidence::Arguments)
            }
            () if is_told => Some(Evidence::Environment),
            () if self.comm.starts_with(WORKER_COMM) => Some(Evidence::Name),
            () => None,
        }
    }
}

/// Options that mediasoup gives to its workers, of all versions; it never gives one alone.
const OPTIONS: [&str; 7] = [
    "--logLevel",
    "--logTag",
    "--rtcMinPort",
    "--rtcMaxPort",
    "--dtlsCertificateFile",
    "--dtlsPrivateKeyFile",
    "--libwebrtcFieldTrials",
];

/// Processes that the operator names, as in `--sfu`.
#[derive(Clone, Debug)]
pub enum Named {
    /// Name of the process, of its executable, or of its first argument; a pattern.
    Name(GlobMatcher),
    /// Path of its executable; a pattern.
    Path(GlobMatcher),
    /// A file with its number; the file name may be a pattern.
    PidFile(String),
}

impl Named {
    /// What ends in `.pid` is a file with a number, what has a slash a path, all else a name.
    pub fn parse(text: &str) -> Result<Self, globset::Error> {
        if text.ends_with(".pid") {
            Glob::new(basename(text))?;
            return Ok(Self::PidFile(text.to_owned()));
        }
        let glob = Glob::new(text)?.compile_matcher();
        Ok(if text.contains('/') { Self::Path(glob) } else { Self::Name(glob) })
    }

    /// Whether it is this process; one with a file is found by its number instead.
    pub fn is(&self, process: &Process<'_>) -> bool {
        match self {
            Self::Name(glob) => {
                let first = process.command_line.split('\0').next().unwrap_or_default();
                [process.comm, basename(process.executable), basename(first)]
                    .iter()
                    .any(|name| !name.is_empty() && glob.is_match(name))
            }
            Self::Path(glob) => glob.is_match(without_note(process.executable)),
            Self::PidFile(_) => false,
        }
    }
}

fn basename(path: &str) -> &str {
    let path = without_note(path);
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

/// The kernel's note on a file that was replaced while it runs.
fn without_note(path: &str) -> &str {
    path.strip_suffix(" (deleted)").unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process<'a>(comm: &'a str, executable: &'a str, command_line: &'a str) -> Process<'a> {
        Process { comm, executable, command_line, has_version: &|| false }
    }

    #[test]
    fn a_version_in_the_environment_makes_a_worker_of_who_has_an_option_of_one() {
        let found = |command_line: &str| {
            let of_container =
                Process { has_version: &|| true, ..process("x", "/x", command_line) };
            of_container.is_worker()
        };
        assert_eq!(found("/x\0--logLevel=warn\0"), Some(Evidence::Environment));
        assert_eq!(found("/x\0-m\0http.server\0"), None);
    }

    #[test]
    fn workers_are_known_however_they_are_called() {
        let check = |(comm, executable, command_line): (&str, &str, &str), expected| {
            let found = process(comm, executable, command_line).is_worker();
            assert_eq!(found, expected, "{comm} {executable} {command_line:?}");
        };
        let path = "/srv/node_modules/mediasoup/worker/out/Release/mediasoup-worker";
        let line = "--logLevel=warn\0--rtcMinPort=40000\0--rtcMaxPort=49999\0";
        let started = format!("{path}\0{line}");
        check(("mediasoup-worke", path, &started), Some(Evidence::Executable));
        // Replaced while it runs; without the right to see the executable; with a thread's name.
        check(("x", &format!("{path} (deleted)"), ""), Some(Evidence::Executable));
        check(("mediasoup-worke", "", &started), Some(Evidence::Executable));
        check(("rtc", "", &started), Some(Evidence::Executable));
        // Under another name, and under valgrind.
        let renamed = format!("/opt/sfu/rtc-engine\0{line}");
        check(("rtc-engine", "/opt/sfu/rtc-engine", &renamed), Some(Evidence::Arguments));
        let valgrind = format!("valgrind\0--leak-check=full\0{path}\0--logLevel=warn\0");
        let tool = "/usr/libexec/valgrind/memcheck-amd64-linux";
        check(("memcheck-amd64-", tool, &valgrind), Some(Evidence::Arguments));
        check(("mediasoup-worke", "/usr/bin/python3.11", "python3\0x.py\0"), Some(Evidence::Name));
        // Others.
        check(("vim", "/usr/bin/vim", &format!("vim\0{path}\0")), None);
        check(("app", "/usr/bin/app", "app\0--logLevel=warn\0"), None);
        check(("node", "/usr/bin/node", "node\0server.js\0"), None);
        check(("mediasoup-expor", "/usr/local/bin/mediasoup-exporter", ""), None);
        check(("kworker/0:1", "", ""), None);
    }

    #[test]
    fn the_operator_names_processes() {
        let check = |text: &str, expected: bool| {
            let server = process("beam.smp", "/usr/lib/erlang/bin/beam.smp", "/opt/sfu/run\0x\0");
            assert_eq!(Named::parse(text).unwrap().is(&server), expected, "{text}");
        };
        check("beam.smp", true);
        check("beam*", true);
        check("run", true);
        check("sfu", false);
        check("/usr/lib/erlang/*/beam.smp", true);
        check("/usr/bin/beam.smp", false);
        check("/run/sfu.pid", false);
        assert!(matches!(Named::parse("/run/sfu*.pid").unwrap(), Named::PidFile(_)));
        assert!(matches!(Named::parse("sfu.pid").unwrap(), Named::PidFile(_)));
        assert!(Named::parse("a[").is_err());
        // A kernel thread has neither executable nor command line.
        assert!(!Named::parse("*").unwrap().is(&process("", "", "")));
    }
}
