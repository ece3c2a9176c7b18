//! Scrapers of every kind: however many there are, and however slowly they read, memory does not grow with them,
//! and others get whole texts and quick answers meanwhile.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use exporter_tests::exporter::{address, binary};
use exporter_tests::flood::Flood;
use exporter_tests::http;
use exporter_tests::netns::Netns;
use exporter_tests::process::Guard;
use exporter_tests::{root_or_skip, wait};

/// Stop in the middle of their text. Fewer than one address may have.
const STUCK: usize = 90;
/// Groups of families; each set of them is another text.
const GROUPS: [&str; 7] =
    ["contract", "info", "objects", "connections", "streams", "strangers", "sockets"];
const MEGABYTE: u64 = 1 << 20;

/// A client that begins to read and stops.
fn stuck(flood: &Flood, query: &str) -> Result<TcpStream> {
    let mut stream = flood.host.run_in(|| TcpStream::connect(address()))?;
    stream.set_read_timeout(Some(wait::LONG))?;
    write!(stream, "GET /metrics{query} HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    let mut first = [0; 12];
    stream.read_exact(&mut first)?;
    ensure!(&first == b"HTTP/1.1 200", "{}", String::from_utf8_lossy(&first));
    Ok(stream)
}

/// A set of groups, and the exporter's own.
fn query(set: usize) -> String {
    let chosen = GROUPS.iter().enumerate().filter(|(at, _)| set & 1 << at != 0);
    let chosen: Vec<&str> = chosen.map(|(_, name)| *name).chain(["self"]).collect();
    format!("?families={}", chosen.join(","))
}

#[test]
fn memory_does_not_depend_on_how_many_read_or_how_slowly() -> Result<()> {
    let Some(flood) = Flood::start(&["transports 60000"])? else { return Ok(()) };
    flood.told(1)?;
    let whole = flood.exporter.metrics()?.len();
    ensure!(whole > 10_000_000, "the text has {whole} bytes only");
    let before = flood.exporter.resident()?;
    let readers = (0..STUCK).map(|set| stuck(&flood, &query(set + 1)));
    let readers = readers.collect::<Result<Vec<_>>>()?;
    for _ in 0..3 {
        ensure!(flood.exporter.get("/-/healthy", &[])?.status == 200);
        flood.own()?;
        let text = flood.exporter.metrics()?;
        ensure!(text.len() >= whole, "{} bytes of {whole}", text.len());
    }
    let grown = flood.exporter.resident()?.saturating_sub(before);
    println!("{STUCK} readers of up to {whole} bytes: {} MiB more", grown / MEGABYTE);
    // A few copies of the series, whatever the readers want.
    ensure!(grown < 160 * MEGABYTE, "{} MiB more", grown / MEGABYTE);
    let own = flood.own()?;
    let ended =
        |reason| own.sum("mediasoup_exporter_http_connections_ended_total", &[("reason", reason)]);
    ensure!(ended("slow") == 0.0 && ended("refused") == 0.0, "somebody was cut off");
    drop(readers);
    flood.stop()
}

#[test]
fn a_thousand_connections_and_broken_requests_harm_nobody() -> Result<()> {
    let Some(flood) = Flood::start(&["transports 1000"])? else { return Ok(()) };
    flood.told(1)?;
    let connect = || flood.host.run_in(|| TcpStream::connect(address()));
    let mut open = Vec::new();
    for number in 0..1000 {
        let mut stream = connect()?;
        // Some say nothing, some begin a request, some ask and do not read, some leave.
        let _ = match number % 4 {
            0 => Ok(()),
            1 => stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: local"),
            2 => stream.write_all(&b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(20)),
            _ => stream.write_all(&vec![b'x'; 40_000]),
        };
        if number % 8 < 4 {
            open.push(stream);
        }
        if number % 100 == 0 {
            ensure!(flood.exporter.get("/-/healthy", &[])?.status == 200, "after {number}");
        }
    }
    ensure!(flood.exporter.get("/-/healthy", &[])?.status == 200);
    drop(open);
    wait::until("whole scrapes again", wait::LONG, || {
        Ok((flood.exporter.get("/metrics", &[])?.status == 200).then_some(()))
    })?;
    ensure!(!flood.exporter.log().contains("panicked"), "{}", flood.exporter.log());
    flood.stop()
}

/// Without a free descriptor nobody can be let in; when there are some again, everybody is.
#[test]
fn an_exhausted_descriptor_table_is_survived() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let host = Netns::new("fds")?;
    let mut command = host.command("prlimit");
    command.arg("--nofile=48:48").arg(binary()?);
    command.args(["--source", "none", "--observer", "/nowhere", "--web.listen-address"]);
    command.arg(address().to_string());
    let process = Guard::spawn("mediasoup-exporter", command)?;
    let healthy = || {
        wait::until("an answer", wait::LONG, || {
            let answer = http::get(&host, address(), "/metrics?families=self", &[]);
            Ok(answer.ok().filter(|it| it.status == 200).map(drop))
        })
    };
    healthy()?;
    let connect = || host.run_in(|| TcpStream::connect(address()));
    let open = (0..60).map(|_| connect()).collect::<Result<Vec<_>, _>>()?;
    let descriptors = || -> Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", process.pid()))?.count())
    };
    wait::until("all descriptors to be taken", wait::LONG, || {
        Ok((descriptors()? >= 48).then_some(()))
    })?;
    drop(open);
    healthy()?;
    let log = process.log();
    ensure!(!log.contains("panicked"), "{log}");
    ensure!(process.stop(wait::LONG)?.success());
    Ok(())
}

/// Many ask at once and do not read: who finds no place reads why, and health is told meanwhile.
#[test]
fn who_finds_no_place_is_told_so() -> Result<()> {
    const ASKERS: usize = 300;
    let Some(flood) = Flood::start(&["transports 20000"])? else { return Ok(()) };
    flood.told(1)?;
    let ask = |number: usize| -> Result<TcpStream> {
        let mut stream = flood.host.run_in(|| TcpStream::connect(address()))?;
        stream.set_read_timeout(Some(wait::LONG))?;
        let gzip = if number.is_multiple_of(2) { "Accept-Encoding: gzip\r\n" } else { "" };
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: localhost\r\n{gzip}\r\n")?;
        Ok(stream)
    };
    let mut askers = (0..ASKERS).map(ask).collect::<Result<Vec<_>>>()?;
    let mut longest = Duration::ZERO;
    for _ in 0..20 {
        let before = Instant::now();
        ensure!(flood.exporter.get("/-/healthy", &[])?.status == 200);
        longest = longest.max(before.elapsed());
    }
    println!("/-/healthy took {longest:?} at most beside {ASKERS} that ask");
    let (mut served, mut refused) = (0, 0);
    for stream in &mut askers {
        let mut status = [0; 12];
        stream.read_exact(&mut status)?;
        match &status {
            b"HTTP/1.1 200" => served += 1,
            b"HTTP/1.1 503" => {
                let mut rest = String::new();
                stream.read_to_string(&mut rest)?;
                ensure!(rest.ends_with("all connections are taken\n"), "{rest}");
                refused += 1;
            }
            other => bail!("{}", String::from_utf8_lossy(other)),
        }
    }
    // As many as one address may have.
    assert_eq!((served, refused), (96, ASKERS - 96));
    drop(askers);
    flood.stop()
}
