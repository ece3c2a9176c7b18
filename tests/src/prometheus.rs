//! A real Prometheus beside the exporter, with the project's rules, and its linter.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::netns::Netns;
use crate::process::Guard;
use crate::{exporter, http, wait};

const PORT: u16 = 9090;

/// A running Prometheus.
#[derive(Debug)]
pub struct Prometheus {
    process: Guard,
    host: Arc<Netns>,
}

impl Prometheus {
    /// Starts it in `host`; it scrapes the exporter there, as job `sfu`, and as job `old` where the replaced exporter
    /// had its text. It keeps its data in `dir`.
    pub fn start(host: &Arc<Netns>, dir: &Path) -> Result<Self> {
        let configuration = dir.join("prometheus.yml");
        let text = format!(
            "global:\n  scrape_interval: 1s\n  evaluation_interval: 1s\nrule_files: ['{rules}']\nscrape_configs:\n\
             - job_name: sfu\n  static_configs:\n  - targets: ['{address}']\n\
             - job_name: old\n  metrics_path: /\n  static_configs:\n  - targets: ['{address}']\n",
            rules = rules().display(),
            address = exporter::address()
        );
        fs::write(&configuration, text)?;
        let mut command = host.command("prometheus");
        command
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("prometheus").display()))
            .arg(format!("--web.listen-address={}", address()));
        let mut process = Guard::spawn("prometheus", command)?;
        process.log_stdout();
        let mut prometheus = Self { process, host: Arc::clone(host) };
        wait::until("Prometheus to get ready", wait::LONG, || {
            prometheus.process.alive()?;
            let ready = http::get(host, address(), "/-/ready", &[]);
            Ok(ready.ok().filter(|it| it.status == 200).map(drop))
        })?;
        Ok(prometheus)
    }

    /// Its rules, as it has evaluated them.
    pub fn evaluated(&self) -> Result<Vec<Value>> {
        let answer = http::get(&self.host, address(), "/api/v1/rules", &[])?.text()?;
        let answer: Value = serde_json::from_str(&answer)?;
        let groups = answer["data"]["groups"].as_array().context("no groups of rules")?;
        let rules = groups.iter().filter_map(|group| group["rules"].as_array());
        Ok(rules.flatten().cloned().collect())
    }

    /// The result of an instant query: labels and value of each series.
    pub fn query(&self, query: &str) -> Result<Vec<(Value, f64)>> {
        let path = format!("/api/v1/query?query={}", http::escape(query));
        let answer = http::get(&self.host, address(), &path, &[])?.text()?;
        let answer: Value = serde_json::from_str(&answer)?;
        let result = answer["data"]["result"].as_array().context("a query without result")?;
        let series = result.iter().map(|series| {
            let value = series["value"][1].as_str().context("a series without value")?;
            Ok((series["metric"].clone(), value.parse()?))
        });
        series.collect()
    }
}

/// The project's rules and alerts.
pub fn rules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist/prometheus/mediasoup.rules.yml")
}

fn address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, PORT).into()
}

/// What `promtool check metrics` finds fault with, a line each.
pub fn lint(metrics: &str) -> Result<Vec<String>> {
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]);
    promtool.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().context("run promtool (Debian package prometheus)")?;
    // It reads all of its input before it writes.
    promtool.stdin.take().context("promtool's stdin")?.write_all(metrics.as_bytes())?;
    let output = promtool.wait_with_output()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text)?;
    Ok(text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
}
