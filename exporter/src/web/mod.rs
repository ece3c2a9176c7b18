//! Serves `/metrics`, a landing page and two health checks over HTTP/1.1.
//!
//! Comes in: a listener, an [`App`] that knows the numbers, and a shutdown. Goes out: responses.
//! Nothing here knows where numbers come from, and no client can hold up another: what is written
//! for one waits in memory of its own, within a budget, and whoever takes it most slowly goes first.
//!
//! TLS is left to a reverse proxy; the token guards against strangers on a trusted network only.

mod accept;
mod auth;
mod bind;
mod body;
mod connections;
mod guarded;
mod pages;
mod server;

use std::time::Duration;

pub use accept::Wanted;
pub use auth::Access;
pub use bind::bind;
pub use body::{CHUNK, Sink};
pub use pages::{Overview, SourceStatus};
pub use server::serve;

/// Knows the numbers. Every method returns at once.
pub trait App: Send + Sync + 'static {
    /// Takes the order for a scrape; the text goes into the sink from another thread. An error when
    /// too many orders wait.
    fn scrape(&self, wanted: Wanted, sink: Sink) -> Result<(), Busy>;
    /// Whether a first reading is there.
    fn ready(&self) -> bool;
    /// For the landing page.
    fn overview(&self) -> Overview;
    /// A response has begun.
    fn answered(&self, page: Page, status: u16);
    /// A connection or response was ended to make room or because it took too long.
    fn ended(&self, why: Ended);
}

/// Too many orders wait.
#[derive(Debug)]
pub struct Busy;

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Page {
    /// `/`
    Landing,
    /// `/metrics`
    Metrics,
    /// `/-/healthy`
    Healthy,
    /// `/-/ready`
    Ready,
    /// Anything else.
    Unknown,
}

impl Page {
    fn of(path: &str) -> Self {
        match path {
            "/" => Self::Landing,
            "/metrics" => Self::Metrics,
            "/-/healthy" => Self::Healthy,
            "/-/ready" => Self::Ready,
            _ => Self::Unknown,
        }
    }

    /// As a label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Landing => "landing",
            Self::Metrics => "metrics",
            Self::Healthy => "healthy",
            Self::Ready => "ready",
            Self::Unknown => "unknown",
        }
    }
}

/// Why a connection was ended by this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ended {
    /// All connections were taken; this one had waited longest without a request.
    Idle,
    /// All connections were taken by running responses; this new one was refused.
    Refused,
    /// Responses held too much memory; this one was taken most slowly.
    Slow,
    /// It broke the protocol, sent its request too slowly, or took nothing for too long.
    Failed,
}

impl Ended {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Idle, Self::Refused, Self::Slow, Self::Failed];

    /// As a label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Refused => "refused",
            Self::Slow => "slow",
            Self::Failed => "failed",
        }
    }
}

/// Bounds of the server.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Bytes of responses that wait for their clients, all together.
    pub buffered: usize,
    /// From the end of a response to the end of the next request's header.
    pub request: Duration,
    /// For a client to take what has been written (64 KiB at a time).
    pub write: Duration,
    /// For the first byte of a scrape to be there.
    pub scrape: Duration,
    /// For responses to end after the shutdown.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 128,
            buffered: 128 << 20,
            request: Duration::from_secs(30),
            write: Duration::from_secs(10),
            scrape: Duration::from_secs(30),
            grace: Duration::from_millis(300),
        }
    }
}

#[cfg(test)]
mod tests;
