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
use super::followed::Followed;
use super::lines::Lines;
use super::options::{AGENT_SCRIPT, Options, Sink};
use super::protocol::{self, Unreadable};
use super::status::{News, Source};
use super::trust::Party;
use crate::state::{Event, Hello};

/// The socket could not be connected to.
#[derive(Debug, thiserror::Error)]
#[error("connect: {error}{}", remedy(error))]
pub(super) struct Unreachable {
    pub(super) error: io::Error,
}

/// A right that is missing, named; what is there otherwise says enough.
fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            ": another user's socket takes CAP_DAC_OVERRIDE to connect to (the systemd unit has it), or the \
             exporter runs as the server's user"
        }
        _ => "",
    }
}

/// Somebody listens on the socket who is not believed.
#[derive(Debug, thiserror::Error)]
#[error("process {pid} of user {uid} listens there, which is not believed")]
pub(super) struct NotBelieved {
    pid: u32,
    uid: u32,
}

/// Connects, brings the script in where it is not there yet, and passes on what it tells. Returns
/// why that ended.
pub(super) async fn run(followed: &Followed) -> anyhow::Error {
    let Followed { options, source, sink, shutdown, .. } = followed;
    source.attempts.fetch_add(1, Relaxed);
    let begun = Instant::now();
    let told = async {
        let (stream, first) = meet(followed).await?;
        let lines = Lines::new(protocol::MAX_LINE);
        let path = &followed.path;
        let mut session =
            Session { path, source, sink, begun, lines, is_met: false, is_synced: false };
        session.listen(stream, &first, options, shutdown.clone()).await
    };
    told.await.err().unwrap_or_else(|| anyhow!("the exporter ends"))
}

/// A stream on which the script speaks, and what was read of it already.
async fn meet(followed: &Followed) -> anyhow::Result<(UnixStream, Vec<u8>)> {
    let Followed { options, source, sink, shutdown, .. } = followed;
    let stream = followed.connect().await.map_err(|error| Unreachable { error })?;
    let peer = stream.peer_cred().context("read who listens on the socket")?;
    let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0);
    let party = Party { pid, uid: peer.uid() };
    let stalled = |what: &str| source.stalled(what);
    let mut dialog = Dialog::new(stream, options.patience, &stalled, shutdown.clone());
    let Some(ground) = followed.ground(party) else {
        // Whoever it is: a console that is not left properly may end its server.
        dialog.farewell().await;
        return Err(NotBelieved { pid: pid.unwrap_or_default(), uid: party.uid }.into());
    };
    source.believed(party, ground);
    sink(source.id(), vec![Event::Met(ground.standing(party))]).await;
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
    path: &'a Path,
    source: &'a Source,
    sink: &'a Sink,
    begun: Instant,
    lines: Lines,
    /// A connection begins once and has told all once.
    is_met: bool,
    is_synced: bool,
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
        let (is_met, is_synced) = (&mut self.is_met, &mut self.is_synced);
        self.lines.feed(bytes, |line| match protocol::decode(line) {
            Ok(event) if is_out_of_turn(&event, is_met, is_synced) => {
                source.bad_lines.fetch_add(1, Relaxed);
            }
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
                let level = self.source.met(hello);
                let Hello { kind, mediasoup, node, .. } = hello;
                let mediasoup = if mediasoup.is_empty() { "unknown" } else { mediasoup };
                let path = self.path.display();
                let pid = self.source.party().and_then(|party| party.pid);
                let pid = pid.map_or_else(|| "of another host".to_owned(), |pid| pid.to_string());
                match level {
                    News::Is => tracing::info!(
                        "listening to {kind} at {path} (process {pid}, mediasoup {mediasoup}, Node.js \
                         {node})"
                    ),
                    News::IsNone => tracing::debug!("listening to {kind} at {path} again"),
                }
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

/// Whether it says for a second time what is said once in a connection, or says anything before it has
/// said who it is.
fn is_out_of_turn(event: &Event, is_met: &mut bool, is_synced: &mut bool) -> bool {
    match event {
        Event::Hello(_) => std::mem::replace(is_met, true),
        // A script that is turned away says why before all else.
        Event::Failed { .. } => false,
        Event::Synced => !*is_met || std::mem::replace(is_synced, true),
        _ => !*is_met,
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
