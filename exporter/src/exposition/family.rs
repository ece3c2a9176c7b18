//! What a family of series is, and what families are grouped by.

use crate::exposition::text::{Head, Lines, MetricType};
use crate::ledger::View;

/// Families that are switched on and off together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    /// The replaced exporter's families.
    Contract,
    /// What people read: rooms, peers, transports, producers, consumers.
    Info,
    /// What servers say of producers and consumers, beyond the contract.
    Objects,
    /// 5-tuples, as counted on the wire.
    Connections,
    /// SSRCs, as counted on the wire.
    Streams,
    /// Unknown far ends, in aggregate, and how much of the known traffic found its owner.
    Strangers,
    /// The SFU's sockets.
    Sockets,
    /// Peers with a bad call, and where it goes wrong.
    Verdicts,
    /// What the host does to packets, and what the workers take of it.
    Host,
    /// Everything of a host in a number each, as a later version of the replaced exporter has it.
    Aggregates,
}

/// Where a family's values come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The servers' observer sockets: state that costs no worker request.
    Observer,
    /// mediasoup's `getStats`, asked for at the stats interval.
    Stats,
    /// Packets counted by the kernel, or by packet capture.
    Packets,
    /// The kernel's socket diagnosis.
    Sockets,
    /// The history: all of these over the last minute.
    History,
    /// The kernel's own counts, in /proc.
    Host,
    /// All of these together.
    Aggregate,
}

/// One family.
#[derive(Clone, Copy)]
pub struct Family {
    /// In the text format.
    pub name: &'static str,
    /// What its value means.
    pub kind: MetricType,
    /// Base unit; empty where there is none.
    pub unit: &'static str,
    /// One sentence for the HELP line.
    pub help: &'static str,
    /// Labels in their order.
    pub labels: &'static [&'static str],
    /// What it is switched on and off with.
    pub group: Group,
    /// Where its values come from.
    pub origin: Origin,
    /// Writes samples from a place on; `Some` is the place to go on from when the buffer was full.
    pub(crate) rows: fn(&View, usize, &mut Lines<'_>) -> Option<usize>,
}

impl Family {
    /// What stands before its samples.
    pub(crate) fn head(&self) -> Head {
        let Self { name, kind, unit, help, .. } = *self;
        Head { name, kind, unit, help }
    }
}

impl Group {
    /// All, in the order of their first family.
    pub const ALL: [Self; 10] = [
        Self::Contract,
        Self::Info,
        Self::Objects,
        Self::Connections,
        Self::Streams,
        Self::Strangers,
        Self::Sockets,
        Self::Verdicts,
        Self::Host,
        Self::Aggregates,
    ];

    /// As a request names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Contract => "contract",
            Self::Info => "info",
            Self::Objects => "objects",
            Self::Connections => "connections",
            Self::Streams => "streams",
            Self::Strangers => "strangers",
            Self::Sockets => "sockets",
            Self::Verdicts => "verdicts",
            Self::Host => "host",
            Self::Aggregates => "aggregates",
        }
    }
}
