//! What the host knows of processes and ports, as the state asks for it. No I/O: whoever looks at the
//! host hands in what was seen.

use std::fmt;

use crate::model::{Proto, SourceId};

/// Who owns what. `None`: that cannot be known here.
pub trait Ownership: fmt::Debug + Send + Sync {
    /// Whether the process that a source names is a worker of its own: a descendant of its process. The
    /// number is as the source has it, which in a container is not the host's.
    fn is_worker(&self, source: SourceId, pid: u32) -> Option<bool>;

    /// Whether that worker has bound a port.
    fn owns(&self, source: SourceId, worker: u32, proto: Proto, port: u16) -> Option<bool>;

    /// The host's number of a process that a source names; the source's own where the host's is not
    /// known.
    fn process(&self, _source: SourceId, pid: u32) -> u32 {
        pid
    }
}

/// Nothing is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unknown;

impl Ownership for Unknown {
    fn is_worker(&self, _: SourceId, _: u32) -> Option<bool> {
        None
    }

    fn owns(&self, _: SourceId, _: u32, _: Proto, _: u16) -> Option<bool> {
        None
    }
}
