//! Servers that tell more than anybody has, and an exporter that listens to them.

use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};

use crate::exporter::Exporter;
use crate::netns::Netns;
use crate::observer_fixture::script;
use crate::process::{Guard, TempDir};
use crate::scrape::Scrape;
use crate::{root_or_skip, wait};

const SELF: &str = "/metrics?families=self";

/// Servers that flood, and the exporter that listens to them.
pub struct Flood {
    /// Listens to all of them.
    pub exporter: Exporter,
    /// Where it runs.
    pub host: Arc<Netns>,
    servers: Vec<Guard>,
    _folder: TempDir,
}

impl Flood {
    /// One server for each of `flood.py`'s words.
    pub fn start(hows: &[&str]) -> Result<Option<Self>> {
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
        Ok(Some(Self { exporter, host, servers, _folder: folder }))
    }

    /// All that speak have told all that they have, and it was read. Others are answered meanwhile.
    pub fn told(&self, speaking: usize) -> Result<()> {
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

    /// Its own metrics.
    pub fn own(&self) -> Result<Scrape> {
        Scrape::parse(&self.exporter.get(SELF, &[])?.text()?)
    }

    /// Ends it by SIGTERM; nothing of it stays attached.
    pub fn stop(self) -> Result<()> {
        let begun = Instant::now();
        self.exporter.stop()?;
        println!("it ended in {:.3} s", begun.elapsed().as_secs_f64());
        Ok(())
    }
}
