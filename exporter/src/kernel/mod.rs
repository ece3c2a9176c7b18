//! Counts packets: in the kernel by eBPF, from captured packets where the right for eBPF is missing,
//! or not at all.
//!
//! [`Options`] come in, [`crate::model::Reading`]s go out. Who sent the packets, and what the server
//! knows of them, is not known here.

mod attach;
mod batch;
mod capture;
mod clock;
mod clsact;
mod ebpf;
mod evict;
mod grace;
pub mod interfaces;
mod keys;
mod links;
mod load;
mod mapping;
mod occupancy;
mod pin;
mod source;
mod streams;
mod survey;
mod sys;
mod tables;

pub use attach::Mechanism;
pub use evict::Lifetimes;
pub use source::{Counting, Options, Source, SourceChoice, StepDown};
pub use survey::Status;

/// Addresses that can count as local, of either family.
const MAX_LOCAL: u32 = 4096;

/// How much is held at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Known flows.
    pub flows: u32,
    /// Known flows' streams.
    pub streams: u32,
    /// Strangers' flows.
    pub stranger_flows: u32,
    /// Strangers' streams.
    pub stranger_streams: u32,
    /// SSRCs of one flow, both directions together.
    pub ssrcs_per_flow: u32,
}

/// With the strangers', flows make a power of two: the kernel rounds their table's buckets up to one, and a
/// reading walks them all. Streams take their memory from the start, 330 bytes each.
impl Default for Limits {
    fn default() -> Self {
        Self {
            flows: 24_576,
            streams: 122_880,
            stranger_flows: 8_192,
            stranger_streams: 8_192,
            ssrcs_per_flow: 1_024,
        }
    }
}
