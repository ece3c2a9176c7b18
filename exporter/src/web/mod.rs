//! Serves `/metrics`, a landing page and two health checks over HTTP/1.1.
//!
//! Comes in: a listener, an [`App`] that knows the numbers, and a shutdown. Goes out: responses.
//! Nothing here knows where numbers come from, and no client can hold up another: each takes its text piece
//! by piece, and a piece is written when the one before has been taken.
//!
//! TLS is left to a reverse proxy; the token guards against strangers on a trusted network only.

mod accept;
mod app;
mod auth;
mod bind;
mod body;
mod connections;
mod guarded;
mod limits;
mod pages;
mod server;

pub use accept::Wanted;
pub use app::{App, Busy, Page, Text, Waiting, Withdrawn};
pub use auth::Access;
pub use bind::bind;
pub use limits::{Ended, Limits};
pub use pages::{Overview, SourceStatus};
pub use server::serve;

#[cfg(test)]
mod tests;
