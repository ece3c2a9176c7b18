//! Servers that tell more than anybody has, or stop in the middle: others are answered meanwhile, memory
//! stays within its bounds, and a signal ends the exporter all the same.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use exporter_tests::exporter::Exporter;
use exporter_tests::netns::Netns;
use exporter_tests::observer_fixture::script;
use exporter_tests::process::{Guard, TempDir};
use exporter_tests::scrape::Scrape;
use exporter_tests::{root_or_skip, wait};

const SELF: &str = "/metrics?families=self";

/// Servers that flood, and the exporter that listens to them.
struct Flood {
    exporter: Exporter,
    servers: Vec<Guard>,
    _folder: TempDir,
}

impl Flood {
    /// One server for each of `flood.py`'s words.
    fn start(hows: &[&str]) -> Result<Option<Self>> {
        if !root_or_skip() {
            return Ok(None);
        }
        let folder = TempDir::new("flood")?;
        let mut servers = Vec::new();
        let mut flags = vec!["--numeric".to_owned()];
        for (number, how) in hows.iter().enumerate() {
            let socket = folder.path().join(format!("{number}.sock"));
            let mut command = Command::new("python3");
            // Nothing is written where this checkout lies.
            command.arg("-B").arg(script("flood.py")).arg(&socket).args(how.split(' '));
            let mut server = Guard::spawn("the flood", command)?;
            server.log_stdout();
            wait::until("its socket", wait::LONG, || {
                server.alive()?;
                Ok(server.log().contains("ready").then_some(()))
            })?;
            servers.push(server);
            flags.extend(["--observer".to_owned(), socket.display().to_string()]);
        }
        let host = Arc::new(Netns::new("flood")?);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let exporter = Exporter::start(&host, &flags, &[])?;
        Ok(Some(Self { exporter, servers, _folder: folder }))
    }

    /// All that speak have told all that they have, and it was read. Others are answered meanwhile.
    fn told(&self, speaking: usize) -> Result<()> {
        let mut longest = 0.0_f64;
        wait::until("all to be told", wait::LONG * 4, || {
            let begun = Instant::now();
            let healthy = self.exporter.get("/-/healthy", &[])?;
            longest = longest.max(begun.elapsed().as_secs_f64());
            ensure!(healthy.status == 200, "/-/healthy: {}", healthy.status);
            let told = self.servers.iter().filter(|it| it.log().contains("told")).count();
            Ok((told == speaking).then_some(()))
        })?;
        println!("/-/healthy took {longest:.3} s at most");
        Ok(())
    }

    fn own(&self) -> Result<Scrape> {
        Scrape::parse(&self.exporter.get(SELF, &[])?.text()?)
    }

    /// Ends it by SIGTERM; nothing of it stays attached.
    fn stop(self) -> Result<()> {
        let begun = Instant::now();
        self.exporter.stop()?;
        println!("it ended in {:.3} s", begun.elapsed().as_secs_f64());
        Ok(())
    }

    fn resident(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.exporter.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let line = line.context("no VmRSS")?.trim_end_matches("kB").trim();
        Ok(line.parse::<u64>()? << 10)
    }
}

#[test]
fn lines_that_concern_many_objects_hold_nobody_up() -> Result<()> {
    let Some(flood) = Flood::start(&["routers 20000"; 2])? else { return Ok(()) };
    flood.told(2)?;
    let own = flood.own()?;
    ensure!(own.sum("mediasoup_exporter_source_up", &[]) >= 2.0, "a server is down");
    flood.stop()
}

#[test]
fn encodings_without_end_take_little_memory() -> Result<()> {
    const CONSUMERS: u64 = 4000;
    /// They took 27,000 bytes, when all 64 encodings were kept.
    const EACH: u64 = 10_000;
    let Some(flood) = Flood::start(&["silence", "consumers 4000"])? else { return Ok(()) };
    let empty = flood.resident()?;
    flood.told(1)?;
    wait::until("what goes over to be refused", wait::LONG, || {
        let labels = [("reason", "full"), ("what", "encoding")];
        let refused = flood.own()?.sum("mediasoup_exporter_observer_refused_total", &labels) as u64;
        Ok((refused == CONSUMERS * (64 - 8)).then_some(()))
    })?;
    let grown = flood.resident()?.saturating_sub(empty);
    println!("{} bytes for each consumer, its text among them", grown / CONSUMERS);
    ensure!(grown < CONSUMERS * EACH, "{grown} bytes for {CONSUMERS} consumers");
    flood.stop()
}

#[test]
fn a_signal_ends_it_whatever_servers_do() -> Result<()> {
    let hows = ["transports 132000", "transports 132000"].into_iter();
    let hows: Vec<&str> = hows.chain(["silence"; 6]).collect();
    let Some(flood) = Flood::start(&hows)? else { return Ok(()) };
    flood.told(2)?;
    // Somebody reads a text of some fifty megabytes; others are answered meanwhile.
    std::thread::scope(|scope| {
        let all = scope.spawn(|| flood.exporter.metrics());
        for _ in 0..5 {
            ensure!(flood.exporter.get("/-/healthy", &[])?.status == 200);
            flood.own()?;
        }
        let text = all.join().expect("a reader does not panic")?;
        println!("the text has {} bytes", text.len());
        ensure!(text.len() > 20_000_000, "the text has {} bytes only", text.len());
        Ok(())
    })?;
    flood.stop()
}
