//! The bounds of the server, and what it does at them.

use std::time::Duration;

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
