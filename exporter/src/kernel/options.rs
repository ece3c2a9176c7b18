//! What to count, where, and how much to hold: the words that all parts of `kernel` are told with.
//! Plain values.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;

use crate::host::workers::Workers;

/// What to count, where, and how much to hold.
#[derive(Clone, Debug)]
pub struct Options {
    /// Patterns of interface names; none: see [`crate::host::interfaces::choose`].
    pub interfaces: Vec<String>,
    /// Finds the SFU's processes.
    pub workers: Arc<Workers>,
    /// Local ports of which all count, whoever owns them; `None`: those that the SFU's sockets have.
    pub ports: Option<RangeInclusive<u16>>,
    /// How it is known which ports those are.
    pub sockets: Sockets,
    /// Where counts come from.
    pub method: MethodChoice,
    /// Table sizes.
    pub limits: Limits,
    /// How long what rests is held.
    pub lifetimes: Lifetimes,
    /// Addresses that count as local besides this host's and its workers'.
    pub local: Vec<IpAddr>,
    /// Count whatever the local address is, forwarded traffic too.
    pub every_address: bool,
    /// Keep interarrival jitter.
    pub jitter: bool,
    /// How programs are attached.
    pub mechanism: Mechanism,
    /// Directory below a bpffs where tables and programs are pinned, so that counting goes on without the
    /// exporter.
    pub pin: Option<PathBuf>,
    /// `clsact` filters that are not pinned get a guard ([`super::guard_filters`]); this process' program must
    /// know its flag.
    pub guard: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            workers: Arc::default(),
            ports: None,
            sockets: Sockets::Auto,
            method: MethodChoice::Auto,
            limits: Limits::default(),
            lifetimes: Lifetimes::default(),
            local: Vec::new(),
            every_address: false,
            jitter: true,
            mechanism: Mechanism::Auto,
            pin: None,
            guard: false,
        }
    }
}

/// What was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MethodChoice {
    /// The best that this process may do.
    #[default]
    Auto,
    /// eBPF or an error.
    Ebpf,
    /// Packet capture or an error.
    Capture,
    /// No counting.
    None,
}

/// How the SFU's sockets are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sockets {
    /// By programs that see them being bound and closed, where they can be attached, else by looking.
    #[default]
    Auto,
    /// By looking always.
    Looks,
}

/// How programs are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mechanism {
    /// TCX if the kernel has it, else clsact.
    #[default]
    Auto,
    /// clsact always.
    Clsact,
}

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

/// Seconds after which entries that saw no packet are let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// A stranger's flow.
    pub stranger: u32,
    /// A known flow that the observer does not tell (any more).
    pub untold: u32,
    /// A stream of a flow that stays.
    pub stream: u32,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self { stranger: 30, untold: 120, stream: 600 }
    }
}
