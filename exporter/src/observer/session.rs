//! One connection to a server's script, from connecting until it is lost.

use std::io;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use anyhow::{Context, anyhow, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::console::{Dialog, Speaker};
use super::lines::Lines;
use super::place;
use super::protocol::{self, Unreadable};
use super::status::Source;
use super::{AGENT_SCRIPT, Options, Sink};
use crate::state::Event;

/// The socket could not be connected to.
#[derive(Debug, thiserror::Error)]
#[error("connect: {0}")]
pub(super) struct Unreachable(pub(super) io::Error);

/// Connects, brings the script in where it is not there yet, and passes on what it tells. Returns
/// why that ended.
pub(super) async fn run(
    path: &Path,
    options: &Options,
    source: &Source,
    sink: &Sink,
    shutdown: &watch::Receiver<bool>,
) -> anyhow::Error {
    source.attempts.fetch_add(1, Relaxed);
    let begun = Instant::now();
    let told = async {
        let (stream, first) = meet(path, options, source, shutdown).await?;
        let mut session = Session { source, sink, begun, lines: Lines::new(protocol::MAX_LINE) };
        session.listen(stream, &first, options, shutdown.clone()).await
    };
    told.await.err().unwrap_or_else(|| anyhow!("the exporter ends"))
}

/// A stream on which the script speaks, and what was read of it already.
async fn meet(
    path: &Path,
    options: &Options,
    source: &Source,
    shutdown: &watch::Receiver<bool>,
) -> anyhow::Result<(UnixStream, Vec<u8>)> {
    let stream = place::connect(path).await.map_err(Unreachable)?;
    let stalled = |what: &str| source.stalled(what);
    let mut dialog = Dialog::new(stream, options.patience, &stalled, shutdown.clone());
    match dialog.listen().await {
        Err(error) => {
            dialog.farewell().await;
            Err(error)
        }
        Ok(Speaker::Agent(first)) => Ok((dialog.into_stream(), first)),
        Ok(Speaker::Console) => {
            let mut stream = dialog.load().await?;
            stream.write_all(AGENT_SCRIPT.as_bytes()).await.context("send the script")?;
            stream.write_all(b"\0").await.context("send the script")?;
            Ok((stream, Vec::new()))
        }
    }
}

struct Session<'a> {
    source: &'a Source,
    sink: &'a Sink,
    begun: Instant,
    lines: Lines,
}

impl Session<'_> {
    async fn listen(
        &mut self,
        mut stream: UnixStream,
        first: &[u8],
        options: &Options,
        mut shutdown: watch::Receiver<bool>,
    ) -> anyhow::Result<()> {
        let wishes = format!(
            "{{\"stats\":{},\"rate\":{}}}\n",
            options.stats_interval.as_secs_f64(),
            options.stats_rate.max(1)
        );
        stream.write_all(wishes.as_bytes()).await.context("tell the script what is wanted")?;
        self.take(first).await?;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = tokio::select! {
                read = timeout(options.silence, stream.read(&mut buffer)) => read,
                _ = shutdown.wait_for(|shutdown| *shutdown) => return Ok(()),
            };
            let Ok(read) = read else { bail!("the server has been silent for too long") };
            match read.context("read what the server tells")? {
                0 => bail!("the server closed the connection"),
                bytes => self.take(&buffer[..bytes]).await?,
            }
        }
    }

    /// Decodes what was read and passes it on in one piece.
    async fn take(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let source = self.source;
        let mut events = Vec::new();
        self.lines.feed(bytes, |line| match protocol::decode(line) {
            Ok(event) => events.push(event),
            Err(error) => {
                source.bad_lines.fetch_add(1, Relaxed);
                if error != Unreadable::Unknown {
                    tracing::debug!("{error}");
                }
            }
        });
        source.bytes.fetch_add(bytes.len() as u64, Relaxed);
        source.lines.fetch_add(events.len() as u64, Relaxed);
        source.oversized_lines.fetch_add(self.lines.take_oversized(), Relaxed);
        if events.is_empty() {
            return Ok(());
        }
        source.heard();
        let signs: Vec<Event> = events.iter().filter(|event| is_sign(event)).cloned().collect();
        signs.iter().try_for_each(check)?;
        // Before it is noted: who reads that all was told finds all.
        (self.sink)(source.id(), events).await;
        signs.iter().for_each(|sign| self.note(sign));
        Ok(())
    }

    fn note(&self, sign: &Event) {
        match sign {
            Event::Hello(hello) => {
                self.source.met(hello);
                tracing::info!(
                    "listening to {} (mediasoup {}, Node.js {})",
                    hello.kind,
                    if hello.mediasoup.is_empty() { "unknown" } else { &hello.mediasoup },
                    hello.node
                );
            }
            Event::Synced => self.source.synced(self.begun.elapsed()),
            Event::Beat(beat) => self.source.beat(*beat),
            Event::Failed { op, message } => {
                tracing::debug!("the server's script: {op}: {message}")
            }
            _ => {}
        }
    }
}

/// Whether it says something of the connection itself.
fn is_sign(event: &Event) -> bool {
    matches!(event, Event::Hello(_) | Event::Synced | Event::Beat(_) | Event::Failed { .. })
}

/// Refuses a script that this exporter does not understand, or that understands nothing.
fn check(sign: &Event) -> anyhow::Result<()> {
    match sign {
        Event::Hello(hello) if hello.version != protocol::VERSION => bail!(
            "the server's script speaks version {} of the protocol and this exporter version {}: \
             give the server the script that --print-agent prints",
            hello.version,
            protocol::VERSION
        ),
        Event::Hello(hello) if &*hello.kind == "unknown" => bail!(
            "the server has none of the globals by which servers are known: load the agent \
             (--print-agent) with node --require"
        ),
        _ => Ok(()),
    }
}
