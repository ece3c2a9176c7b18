//! What is in a reading, counted while it is read: a reading of 100,000 streams has 20 MB, and nobody should have to
//! walk through it again to find that there is nothing to do.

use exporter_ebpf::abi::{OCCUPANCIES, Occupancy};

use crate::model::{Flow, Reading, Stream};

/// Entries that live, and how long the one among the streams has rested that rests longest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Census {
    entries: [u64; OCCUPANCIES],
    /// Seconds.
    pub(super) oldest_stream: u32,
}

impl Census {
    /// Of a whole reading.
    pub(super) fn of(reading: &Reading) -> Self {
        let mut census = Self::default();
        reading.flows.iter().filter(|flow| !flow.ended).for_each(|flow| census.flow(flow));
        let streams = reading.streams.iter().filter(|stream| !stream.ended);
        streams.for_each(|stream| census.stream(stream));
        census
    }

    /// One more.
    pub(super) fn flow(&mut self, flow: &Flow) {
        self.entries[flow_cell(flow.known) as usize] += 1;
    }

    /// One more.
    pub(super) fn stream(&mut self, stream: &Stream) {
        self.entries[stream_cell(stream.known) as usize] += 1;
        self.oldest_stream = self.oldest_stream.max(stream.idle_seconds);
    }

    /// One that is no longer in the table.
    pub(super) fn flow_ended(&mut self, known: bool) {
        self.entries[flow_cell(known) as usize] -= 1;
    }

    /// By [`Occupancy`].
    pub(super) fn entries(&self, of: Occupancy) -> u64 {
        self.entries[of as usize]
    }
}

/// Whose room a flow takes.
pub(super) fn flow_cell(known: bool) -> Occupancy {
    if known { Occupancy::Flows } else { Occupancy::Strangers }
}

/// Whose room a stream takes.
pub(super) fn stream_cell(known: bool) -> Occupancy {
    if known { Occupancy::Streams } else { Occupancy::StrangerStreams }
}
