//! Counts packets: in the kernel by eBPF, from captured packets where the right for eBPF is missing,
//! or not at all.
//!
//! [`Options`] come in, [`crate::model::Reading`]s go out. Who sent the packets, and what the server
//! knows of them, is not known here. `ebpf` loads the programs and has their tables, `attach` hangs
//! them on interfaces, `engine` is both together; `capture` is the same without eBPF.

mod attach;
mod capture;
mod census;
mod counting;
mod ebpf;
mod engine;
mod evict;
mod keeper;
mod leftovers;
mod options;
mod owners;
mod shares;
mod status;

pub use attach::guard::{FLAG as GUARD_FLAG, watch as guard_filters};
pub use counting::{Counting, Method, StepDown};
pub use ebpf::directory::may_be_on_bpffs;
pub use leftovers::{Removed, count as count_leftovers, remove as remove_leftovers};
pub use options::{Lifetimes, Limits, Mechanism, MethodChoice, Options, Sockets};
pub use status::{Knowledge, Owned, Status};
