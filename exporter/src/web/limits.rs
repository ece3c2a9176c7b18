//! The bounds of the server, and what it does at them.

use std::time::Duration;

/// Why a connection was ended by this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ended {
    /// All places were taken; this one had waited longest without a request.
    Idle,
    /// All places were taken by running responses, and so were the reserved ones; this was the oldest
    /// of those.
    Refused,
    /// Its response was not taken within the time there is for it.
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
    /// Connections at once that are answered whatever they ask.
    pub connections: usize,
    /// Of these, from one address.
    pub connections_of_client: usize,
    /// Further connections at once, which are answered only whether the exporter lives.
    pub reserve: usize,
    /// For a new connection's first request to be there before the connection may go for another's.
    pub first: Duration,
    /// Responses that make a piece of text at the same time; fewer than threads that answer.
    pub writers: usize,
    /// From the end of a response to the end of the next request's header.
    pub request: Duration,
    /// For a client to take what has been written (64 KiB at a time).
    pub write: Duration,
    /// For the text of a scrape to begin.
    pub scrape: Duration,
    /// For a client to take a whole response.
    pub response: Duration,
    /// For responses to end after the shutdown.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 128,
            connections_of_client: 96,
            reserve: 256,
            first: Duration::from_millis(500),
            writers: 1,
            request: Duration::from_secs(30),
            write: Duration::from_secs(10),
            scrape: Duration::from_secs(30),
            response: Duration::from_secs(300),
            grace: Duration::from_millis(300),
        }
    }
}
