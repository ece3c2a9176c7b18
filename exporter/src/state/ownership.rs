//! What the host knows of processes and ports, as the state asks for it. No I/O: whoever looks at the
//! host hands in what was seen.

use std::fmt;
use std::net::IpAddr;

use smallvec::SmallVec;

use crate::model::{Proto, SourceId};

/// Addresses that sockets are bound to, never IPv4-mapped; `0.0.0.0` and `::` stand for all.
pub type Bound = SmallVec<[IpAddr; 1]>;

/// Who owns what. `None`: that cannot be known here.
pub trait Ownership: fmt::Debug + Send + Sync {
    /// The worker that a source names, by the host's number: in a container the source has another one.
    /// `Some(None)`: the source has no such worker, which would descend from its process.
    fn worker(&self, source: SourceId, pid: u32) -> Option<Option<u32>>;

    /// The addresses at which a process of the host has bound a port, a few at most; none where it has
    /// not.
    fn bound(&self, process: u32, proto: Proto, port: u16) -> Option<Bound>;

    /// Whether packets that come to an address here are taken for this host's. `None`: unknown.
    fn is_local(&self, address: IpAddr) -> Option<bool>;
}

/// Nothing is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unknown;

impl Ownership for Unknown {
    fn worker(&self, _: SourceId, _: u32) -> Option<Option<u32>> {
        None
    }

    fn bound(&self, _: u32, _: Proto, _: u16) -> Option<Bound> {
        None
    }

    fn is_local(&self, _: IpAddr) -> Option<bool> {
        None
    }
}
