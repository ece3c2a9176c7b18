//! Serves `/metrics`, a landing page, two health checks and what pages the [`App`] has, over HTTP/1.1.
//!
//! Comes in: a listener, an [`App`] that knows the numbers, and a shutdown. Goes out: responses.
//! Nothing here knows where numbers come from, and no client can hold up another: each takes its text piece
//! by piece, and a piece is written when the one before has been taken.
//!
//! Every request passes the front first: whom it is for, how often, and from whom. TLS, users and more are configured by
//! a file in the ecosystem's format (`settings`).

mod accept;
mod app;
mod auth;
mod bind;
mod body;
mod connections;
mod front;
mod guarded;
mod guesses;
mod hosts;
mod limits;
mod pages;
mod server;
mod settings;

pub use accept::Wanted;
pub use app::{App, Busy, Page, Text, View, Waiting, Withdrawn};
pub use auth::Access;
pub use bind::{activated, bind};
pub use front::Front;
pub use hosts::{Hosts, own_names};
pub use limits::{Ended, Limits};
pub use pages::{Overview, SourceStatus};
pub use server::serve;
pub use settings::Settings;

#[cfg(test)]
mod authority;
#[cfg(test)]
mod tests;
