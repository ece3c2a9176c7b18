//! Whose samples are kept apart.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::history::sample::Side;
use crate::state::StreamRole;

/// A stream, or one direction of a connection.
#[derive(Debug)]
pub struct Track {
    /// Which.
    pub whose: Whose,
    /// Which fields its samples have.
    pub side: Side,
    /// The connection of a stream that names no transport.
    pub carrier: Option<Arc<Connection>>,
    /// When its first step began, milliseconds since the exporter did.
    pub first: u64,
    last: AtomicU64,
}

impl Track {
    pub(super) fn new(
        whose: Whose,
        side: Side,
        carrier: Option<Arc<Connection>>,
        first: u64,
    ) -> Self {
        Self { whose, side, carrier, first, last: AtomicU64::new(first) }
    }

    /// It did something in the step that ends then.
    pub(super) fn seen(&self, end: u64) {
        self.last.store(end, Ordering::Relaxed);
    }

    /// When its last step ended, milliseconds since the exporter began.
    pub fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }
}

/// What a track is of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Whose {
    /// A stream.
    Stream {
        /// The labels that it begins with: names a [`Subject`](crate::history::Subject).
        subject: Arc<str>,
        /// Its SSRC.
        ssrc: u32,
        /// What it is for its producer or consumer.
        role: Option<StreamRole>,
    },
    /// All packets of a connection, streams' among them.
    Connection(Arc<Connection>),
}

/// A connection as its series names it. Empty is what is not known.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub struct Connection {
    /// Its transport's id.
    pub transport: Arc<str>,
    /// `udp` or `tcp`.
    pub proto: Arc<str>,
    /// The local end.
    pub local: Arc<str>,
    /// The far end as it may be shown, with its port.
    pub remote: Arc<str>,
    /// Its address, where that may be shown as a number.
    pub ip: Option<IpAddr>,
}

impl Whose {
    /// It is the same stream, or a connection of the same transport, however it is shown.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Stream { subject, ssrc, .. }, Self::Stream { subject: of, ssrc: its, .. }) => {
                subject == of && ssrc == its
            }
            (Self::Connection(one), Self::Connection(other)) => one.transport == other.transport,
            _ => false,
        }
    }
}
