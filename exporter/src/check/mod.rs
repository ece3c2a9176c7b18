//! `mediasoup-exporter check`: what is right and wrong on this host, in the order in which things can
//! fail, with the remedy for each. Attaches nothing, binds nothing and changes nothing.
//!
//! Each part has its look (I/O) and its judgement (facts in, findings out).

mod buffers;
mod clock;
mod finding;
mod hooks;
mod host;
mod names;
mod network;
mod running;
mod workers;

use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

pub use finding::{Finding, Level};

use crate::client::Client;
use crate::config::Check;
use crate::host::workers::Workers;
use crate::printed::print;

/// For all parts together; an exporter's answer has ten seconds of its own.
const PATIENCE: Duration = Duration::from_secs(12);

#[derive(Serialize)]
struct Document<'a> {
    well: bool,
    findings: &'a [Finding],
}

/// Says it. Ends with 0 where nothing is wrong, 1 on faults, 2 where the options mean nothing.
pub fn run(options: &Check) -> ExitCode {
    match findings(options) {
        Ok(findings) => {
            let well = finding::is_well(&findings, options.strict);
            let text = match options.json {
                true => serde_json::to_string_pretty(&Document { well, findings: &findings })
                    .map(|it| it + "\n")
                    .unwrap_or_default(),
                false => finding::text(&findings),
            };
            match print(&text) {
                Ok(()) => ExitCode::from(u8::from(!well)),
                Err(error) => failed(&error),
            }
        }
        Err(error) => failed(&error),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("mediasoup-exporter: {error:#}");
    ExitCode::from(2)
}

fn findings(options: &Check) -> anyhow::Result<Vec<Finding>> {
    let client = Client::new(&options.exporter)?;
    let workers = Arc::new(Workers::new(&options.sfu)?);
    let (interfaces, known) = (options.interfaces.clone(), workers.clone());
    let (named, ports) = (options.observers.clone(), options.ports.clone());
    let parts = [
        Part::begin("host", host::look),
        Part::begin("interfaces", move || network::look(&interfaces, known)),
        Part::begin("workers", move || {
            let found = workers.look();
            let mut findings = workers::look(&found, &named, ports.as_ref());
            findings.push(buffers::look(&found));
            findings
        }),
        Part::begin("clock", || vec![clock::look(), names::look()]),
        Part::begin("exporter", move || running::look(&client)),
    ];
    let until = Instant::now() + PATIENCE;
    Ok(parts.into_iter().flat_map(|part| part.end(until)).collect())
}

/// A part that is being looked at; all are at once.
struct Part {
    subject: &'static str,
    found: mpsc::Receiver<Vec<Finding>>,
}

impl Part {
    fn begin(subject: &'static str, look: impl FnOnce() -> Vec<Finding> + Send + 'static) -> Self {
        let (sender, found) = mpsc::channel();
        thread::spawn(move || sender.send(look()));
        Self { subject, found }
    }

    /// What it found, or that it took too long.
    fn end(self, until: Instant) -> Vec<Finding> {
        let left = until.saturating_duration_since(Instant::now());
        self.found.recv_timeout(left).unwrap_or_else(|error| {
            let seen = format!("it could not be looked at in {PATIENCE:?} ({error})");
            vec![Finding::warning(self.subject, seen, "try again; see what this host is busy with")]
        })
    }
}
