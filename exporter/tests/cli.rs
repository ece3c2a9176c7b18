//! The program from outside: what it prints, how it ends. Counts nothing, so it needs no rights.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Longer than anything takes: a test that waits so long has failed.
const FOREVER: Duration = Duration::from_secs(60);

fn program(flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mediasoup-exporter"));
    for variable in ["PROM_PORT", "PROM_DEIDENTIFY", "PROM_NUMERIC", "PROM_QUIET", "DEBUG"] {
        command.env_remove(variable);
    }
    command.args(flags);
    command
}

fn output(command: &mut Command) -> Output {
    command.output().expect("the program starts")
}

#[test]
fn bad_values_end_it_with_one_line() {
    let check = |flags: &[&str], variable: Option<(&str, &str)>, expected: &[&str]| {
        let output = output(program(flags).envs(variable));
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{flags:?} {variable:?}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(output.stdout.is_empty());
        for part in expected {
            assert!(said.contains(part), "{said:?} lacks {part:?}");
        }
    };
    check(&["--ports", "9-1"], None, &["--ports", "`9-1`", "40000-49999"]);
    check(&["--source", "pcap"], None, &["--source", "`pcap`", "ebpf, capture, none"]);
    check(&["--no-such-flag"], None, &["--no-such-flag", "--help"]);
    check(&[], Some(("PROM_PORT", "http")), &["PROM_PORT", "`http`", "65535"]);
    check(&[], Some(("PROM_DEIDENTIFY", "hash")), &["PROM_DEIDENTIFY", "`hash`", "truncate"]);
    check(&[], Some(("PROM_NUMERIC", "so so")), &["PROM_NUMERIC", "`so so`"]);
    check(&[], Some(("PROM_QUIET", "-")), &["PROM_QUIET", "`-`"]);
}

#[test]
fn what_cannot_be_done_ends_it_with_one_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let check = |flags: &[&str], expected: &[&str]| {
        let output = output(&mut program(flags));
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        for part in expected {
            assert!(said.contains(part), "{said:?} lacks {part:?}");
        }
    };
    check(&["--source", "none", "--listen", &address], &[&address, "--web.listen-address"]);
    check(
        &["--source", "none", "--listen", "192.0.2.1:0"],
        &["192.0.2.1:0", "--web.listen-address"],
    );
    check(&["--auth.token-file", "/nowhere/token"], &["--auth.token-file", "/nowhere/token"]);
    check(&["--geo-db", "/dev/null"], &["--geo-db", "/dev/null"]);
}

#[test]
fn it_prints_and_ends_well() {
    let check = |flags: &[&str], expected: &[&str]| {
        let output = output(&mut program(flags));
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{flags:?}");
        assert!(output.stderr.is_empty(), "{:?}", String::from_utf8_lossy(&output.stderr));
        for part in expected {
            assert!(said.contains(part), "{flags:?}: {said:?} lacks {part:?}");
        }
    };
    check(&["--version"], &["mediasoup-exporter ", env!("CARGO_PKG_VERSION"), "table layout"]);
    check(&["--help"], &["--deidentify", "PROM_DEIDENTIFY", "--observer.stats-interval"]);
    check(&["--print-agent"], &["'use strict'"]);
    check(
        &["--print-metrics-reference"],
        &["`mediasoup_producer_byte_count_bytes`", "`mediasoup_exporter_events_total`"],
    );
    check(&["--completions", "bash"], &["--max-flows"]);
    check(
        &["--config.check", "--ports", "1000-2000", "--deidentify", "drop"],
        &["ports: 1000-2000", "addresses: drop"],
    );
}

#[test]
fn a_full_disk_is_a_failure_and_a_reader_who_has_had_enough_is_none() {
    for flags in [&["--version"][..], &["--help"], &["--print-agent"], &["--completions", "bash"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = program(flags).stdout(full).stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{flags:?}");
        assert!(said.contains("standard output") && said.lines().count() == 1, "{said}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let status = program(flags).stdout(writer).status().unwrap();
        assert!(status.success(), "{flags:?}");
    }
}

struct Running {
    child: Child,
    address: SocketAddr,
    /// Held, so that its lines are read to the end.
    _lines: mpsc::Receiver<String>,
}

/// Starts it without rights being needed, on a port of the kernel's choice.
fn start(flags: &[&str]) -> Running {
    let fixed = ["--source", "none", "--numeric", "--listen", "127.0.0.1:0"];
    let nobody = ["--observer", "/nowhere/observer.sock"];
    let flags: Vec<&str> = fixed.iter().chain(&nobody).chain(flags).copied().collect();
    let mut child = program(&flags).stderr(Stdio::piped()).spawn().expect("the program starts");
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    let address = loop {
        let line = lines.recv_timeout(FOREVER).expect("it says where it serves");
        if let Some((_, rest)) = line.split_once("http://") {
            break rest.trim_end_matches("/metrics").parse().expect("an address");
        }
    };
    Running { child, address, _lines: lines }
}

impl Running {
    fn get(&self, path: &str) -> String {
        self.get_with(path, "")
    }

    /// With a header.
    fn get_with(&self, path: &str, header: &str) -> String {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(FOREVER)).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\n{header}\r\n").unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response
    }

    fn signal(&self, signal: i32) {
        // SAFETY: the child has not been waited for, so the id is its own.
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }

    fn end(mut self, signal: i32) -> ExitStatus {
        self.signal(signal);
        self.child.wait().unwrap()
    }
}

#[test]
fn it_serves_until_a_signal_comes() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let running = start(&[]);
        let mut ready = String::new();
        while !ready.starts_with("HTTP/1.0 200") {
            ready = running.get("/-/ready");
        }
        let mut metrics = running.get("/metrics");
        assert!(metrics.contains("mediasoup_exporter_counting_source{source=\"none\"} 1\n"));
        // The first reading may be older than the observer.
        while !metrics.contains("source_up{source=\"observer:/nowhere/observer.sock\"} 0\n") {
            metrics = running.get("/metrics");
        }
        // A client that never ends its request does not hold it up.
        let mut stuck = TcpStream::connect(running.address).unwrap();
        stuck.write_all(b"GET /metrics HTTP/1.1\r\n").unwrap();
        assert!(running.end(signal).success());
    }
}

#[test]
fn the_token_guards_the_pages() {
    let path = std::env::temp_dir().join(format!("exporter-token-{}", std::process::id()));
    std::fs::write(&path, "s3cret\n").unwrap();
    let running = start(&["--auth.token-file", path.to_str().unwrap()]);
    std::fs::remove_file(&path).unwrap();
    assert!(running.get("/metrics").starts_with("HTTP/1.0 401"));
    assert!(running.get("/").starts_with("HTTP/1.0 401"));
    assert!(running.get("/-/healthy").starts_with("HTTP/1.0 200"));
    assert!(running.end(libc::SIGTERM).success());
}

#[test]
fn files_that_changed_are_read_again_at_a_signal() {
    let path = std::env::temp_dir().join(format!("exporter-renewed-{}", std::process::id()));
    std::fs::write(&path, "first\n").unwrap();
    let running = start(&["--auth.token-file", path.to_str().unwrap()]);
    let is_let_in = |token: &str| {
        let header = format!("Authorization: Bearer {token}\r\n");
        running.get_with("/metrics?families=self", &header).starts_with("HTTP/1.0 200")
    };
    assert!(is_let_in("first") && !is_let_in("second"));
    let reloads = |token: &str, expected: &str| {
        let header = format!("Authorization: Bearer {token}\r\n");
        let family = "mediasoup_exporter_file_last_reload_successful{file=\"";
        let line = format!("{family}{}\"}} {expected}\n", path.display());
        running.get_with("/metrics?families=self", &header).contains(&line)
    };
    // What is bad leaves all as it was, and is said.
    std::fs::write(&path, "two\nlines\n").unwrap();
    running.signal(libc::SIGHUP);
    while !reloads("first", "0") {}
    std::fs::write(&path, "second\n").unwrap();
    running.signal(libc::SIGHUP);
    while !is_let_in("second") {}
    assert!(!is_let_in("first"));
    while !reloads("second", "1") {}
    std::fs::remove_file(&path).unwrap();
    assert!(running.end(libc::SIGTERM).success());
}

/// `BLESS=1 cargo test -p mediasoup-exporter --test cli` writes the document anew.
#[test]
fn the_document_of_metrics_is_what_the_program_prints() {
    let printed = output(&mut program(&["--print-metrics-reference"])).stdout;
    let printed = String::from_utf8(printed).unwrap();
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(document, &printed).unwrap();
    }
    for part in ["## `self`", "`mediasoup_exporter_source_up`", "`edumeet_rooms`"] {
        assert!(printed.contains(part), "{part}");
    }
    assert!(
        std::fs::read_to_string(document).unwrap() == printed,
        "docs/metrics.md is out of date"
    );
}
