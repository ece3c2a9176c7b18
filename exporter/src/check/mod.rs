//! `mediasoup-exporter check`: what is right and wrong on this host, in the order in which things can
//! fail, with the remedy for each. Attaches nothing, binds nothing and changes nothing.
//!
//! Each part has its look (I/O) and its judgement (facts in, findings out).

mod finding;
mod host;
mod network;
mod running;
mod workers;

use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use serde::Serialize;

pub use finding::{Finding, Level};

use crate::client::Client;
use crate::config::Check;
use crate::host::workers::Workers;
use crate::printed::print;

/// For one part; an exporter's answer has ten seconds of its own.
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
        bounded("host", host::look),
        bounded("interfaces", move || network::look(&interfaces, known)),
        bounded("workers", move || workers::look(&workers, &named, ports.as_ref())),
        bounded("exporter", move || running::look(&client)),
    ];
    Ok(parts.into_iter().flatten().collect())
}

/// What a part found, or that it took too long.
fn bounded(
    subject: &'static str,
    look: impl FnOnce() -> Vec<Finding> + Send + 'static,
) -> Vec<Finding> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(look()));
    receiver.recv_timeout(PATIENCE).unwrap_or_else(|error| {
        vec![Finding::skipped(subject, format!("no answer in {PATIENCE:?} ({error})"))]
    })
}
