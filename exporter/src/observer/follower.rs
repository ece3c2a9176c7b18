//! Follows one server's socket: connects, again and again with growing pauses, and lets go of what was
//! told when the server stays away.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::followed::Followed;
use super::{backoff, session};
use crate::state::Event;

/// Attempts after which it is said that nobody is at a path that the operator named: a server may start
/// after the exporter.
const PATIENCE: u32 = 3;

impl Followed {
    pub(super) async fn follow(mut self) {
        let (mut failures, mut absences) = (0, 0);
        // What was told goes after the grace, once, however long the server stays away.
        let mut forget_at = None;
        while !*self.shutdown.borrow() {
            let (met, begun) = (self.source.meetings(), Instant::now());
            let error = self.attempt(&mut forget_at).await;
            if *self.shutdown.borrow() {
                break;
            }
            if self.source.meetings() > met {
                // Who comes and goes is not tried more often than who is away.
                if begun.elapsed() >= self.options.retry.1 {
                    failures = 0;
                }
                forget_at = Some(Instant::now() + self.options.grace);
            }
            self.source.down(&error);
            if error.is::<session::NotBelieved>() && forget_at.is_none() && !self.is_named() {
                // The place is for others; another socket at the path is another matter.
                self.source.disbelieve();
                return;
            }
            let is_absent = is_absent(&error);
            let wait = if is_absent {
                absences += 1;
                if absences == PATIENCE && self.is_named() {
                    self.report(&error.context("nobody listens there"));
                }
                self.options.look
            } else {
                absences = 0;
                self.report(&error);
                let wait = backoff::wait(self.options.retry, failures, backoff::jitter());
                failures += 1;
                wait
            };
            self.pause(wait, &mut forget_at).await;
            if forget_at.is_none() && is_absent && !self.source.is_listed() {
                // Whoever comes to the path again is followed again.
                self.source.end();
                return;
            }
        }
    }

    /// One attempt from connecting to losing the connection.
    async fn attempt(&self, forget_at: &mut Option<Instant>) -> anyhow::Error {
        let mut shutdown = self.shutdown.clone();
        let attempt = session::run(self);
        tokio::pin!(attempt);
        let met = self.source.meetings();
        loop {
            let forget = *forget_at;
            tokio::select! {
                ended = &mut attempt => return ended,
                () = sleep_until(forget.unwrap_or_else(Instant::now)), if forget.is_some() => {
                    *forget_at = None;
                    if self.source.meetings() == met {
                        self.forget().await;
                    }
                }
                // A console is left properly within the attempt; nothing else needs longer.
                () = ended_long(&mut shutdown) => return anyhow::anyhow!("the exporter ends"),
            }
        }
    }

    async fn pause(&mut self, wait: Duration, forget_at: &mut Option<Instant>) {
        let until = Instant::now() + wait;
        loop {
            let forget = forget_at.filter(|at| *at < until);
            tokio::select! {
                () = sleep_until(forget.unwrap_or(until)) => {}
                _ = self.shutdown.wait_for(|shutdown| *shutdown) => return,
            }
            if forget.is_none() {
                return;
            }
            *forget_at = None;
            self.forget().await;
        }
    }

    async fn forget(&self) {
        (self.sink)(self.source.id(), vec![Event::Forget]).await;
    }

    /// Each new reason once at warning level, and only so many, so that neither a long outage nor a
    /// server that finds ever new words fills the log.
    fn report(&self, error: &anyhow::Error) {
        let path = self.path.display();
        if self.source.may_warn_of(error) {
            tracing::warn!("observer {path}: {error:#}");
        } else {
            tracing::debug!("observer {path}: {error:#}");
        }
    }
}

/// Completes a while after shutdown has become true.
async fn ended_long(shutdown: &mut watch::Receiver<bool>) {
    let _ = shutdown.wait_for(|shutdown| *shutdown).await;
    sleep(Duration::from_millis(800)).await;
}

/// No socket there, nobody behind it, or somebody else than the server that was: a server that is not
/// running.
fn is_absent(error: &anyhow::Error) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    error.is::<session::NotBelieved>()
        || error
            .downcast_ref::<session::Unreachable>()
            .is_some_and(|error| matches!(error.error.kind(), ConnectionRefused | NotFound))
}
