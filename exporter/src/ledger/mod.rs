//! Turns totals that vanish, begin again and change their owner into series whose totals never fall.
//!
//! Joined readings and states come in; a table of series comes out, each with its label text made
//! once. No clock: time is the number of the scrape, which the caller counts.
//!
//! # What is exact
//!
//! A *meter* is what gives a total: an entry of a kernel table, an encoding's statistics, a socket.
//! The ledger remembers each meter's last total, and gives what it grew by to exactly one series.
//! Hence what all series together hold is what all meters counted: nothing twice, nothing lost. A
//! meter that *ended* gave its last total, and what comes under its key after that begins from zero.
//! A total that fell without having ended began from zero, too (a table was made anew).
//!
//! A connection's RTP is its flow's own plus that of the flow's streams. A stream hence gives what it
//! grew by twice, to its own series and to its connection's; these are different families.
//!
//! Several scrapers see the same totals: a reading changes the ledger once, however often the ledger
//! is written out after that.
//!
//! # Whose bytes
//!
//! The kernel sees packets before the server tells whose they are. So traffic that nobody claims is
//! held back for `hold` ticks, in which the ledger counts it but opens no series. When the claim comes
//! in time, all of it goes to the owner's series. When it does not, the series is opened with empty
//! ids; and when the claim comes still later, then
//! - the bytes follow their owner as long as the nameless series had this one meter only: the series
//!   is renamed, that is, its total goes to the owner's series and it disappears in the same scrape
//!   (its labels then rest for the grace, so that no one sees them fall);
//! - they stay where they were counted when the nameless series is shared (two flows that read the
//!   same because of a privacy policy, one SSRC on two unclaimed flows): its total must not fall, and
//!   they must not be seen twice. What comes from then on goes to the owner.
//!
//! Whoever had an owner keeps it. The state remembers for some minutes who closed, so what is first
//! read after a short stay goes to a series with its owner's ids. What still arrives is counted there
//! until the series is retired; from then on it only adds to an aggregate, since a series for each who
//! left would stand for as long as the tables keep their flows. Once the state has forgotten him it is
//! nobody's, and treated like any traffic that nobody claims. Where one owner follows another (an SSRC
//! used again by the next producer), each keeps what came in its time.
//!
//! A stranger's traffic is no meter: it is added to the strangers' totals when its entry ends. While
//! it lives it is only a gauge, so that a stranger who becomes known takes all of it along.
//!
//! # How long a series stays
//!
//! As long as its object lives, even when the kernel let go of a silent stream. After that two
//! scrapes, in which it shows its last values, and then it goes. Traffic under the same labels within
//! these two scrapes goes on from the old total; later, it begins from zero, as Prometheus expects of
//! a counter that begins again.
//!
//! # What does not fit
//!
//! Series are admitted one object at a time, up to a bound on all series of a scrape, and up to
//! another on those that nobody claims (`unclaimed`: where servers tell, these are few). Who is in keeps his place. Who is not is counted, asks again
//! with each update, and keeps what he has counted until then.

mod capacity;
mod contract;
mod flows;
mod leftovers;
mod lendable;
mod meters;
mod objects;
mod owners;
mod packets;
mod series;
mod sockets;
mod strangers;
mod stream_labels;
mod streams;
#[cfg(test)]
mod tests;
mod totals;
mod turn;
mod unclaimed;
mod view;

use std::sync::Arc;

use crate::labels::{Labels, Tick};
use crate::model::{Reading, SocketStats};
use crate::state::State;

use capacity::{Capacity, Part};
pub(crate) use contract::ContractSeries;
pub(crate) use meters::{FlowMeterReading, ShownStream, StreamMeterReading};
use objects::Objects;
pub(crate) use objects::{Gauges, Object};
use packets::Packets;
pub(crate) use series::{Rows, Series};
pub(crate) use sockets::SocketSeries;
use sockets::Sockets;
pub(crate) use totals::{Counts, StreamTotals};
use turn::Turn;
use unclaimed::Unclaimed;
pub(crate) use view::{Extent, View};

/// Bounds and habits of the ledger.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Series that a scrape holds at most.
    pub max_series: u64,
    /// Connections that nobody claims and that are shown, at most: where no server tells, and where servers
    /// do.
    pub unclaimed_connections: [usize; 2],
    /// Streams without an owner that are shown, both directions together, at most: the same.
    pub unclaimed_streams: [usize; 2],
    /// Ticks that traffic which nobody claims is held back. Zero where no server is there to claim it.
    pub hold: Tick,
    /// Readings have jitter.
    pub jitter: bool,
    /// Blank `transport_id` and `id` in the contract's families.
    pub quiet: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_series: 4_000_000,
            unclaimed_connections: [16_384, 16],
            unclaimed_streams: [65_536, 64],
            hold: 2,
            jitter: true,
            quiet: false,
        }
    }
}

/// What is new at one tick.
#[derive(Clone, Copy, Debug)]
pub struct Update<'a> {
    /// The scrape's number; it may stand still and jump, but never goes back.
    pub tick: Tick,
    /// What was counted; `None` when it could not be read, so that its series stay as they are.
    pub reading: Option<&'a Reading>,
    /// What the servers told.
    pub state: &'a State,
    /// What the kernel tells of the sockets; `None` as for the reading.
    pub sockets: Option<&'a [SocketStats]>,
}

/// How full the ledger is, for the exporter's own metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    /// Series that have been admitted.
    pub series: u64,
    /// Series that were wanted when they were last looked for and had no room.
    pub refused: u64,
    /// The same, of all updates together.
    pub refused_total: u64,
    /// Flows that are followed.
    pub flows: u64,
    /// Streams that are followed.
    pub streams: u64,
}

/// All series.
#[derive(Debug)]
pub struct Ledger {
    pub(crate) packets: Packets,
    pub(crate) objects: Objects,
    pub(crate) sockets: Sockets,
    capacity: Capacity,
    settings: Settings,
}

impl Ledger {
    /// An empty ledger.
    pub fn new(settings: Settings) -> Self {
        let packets = Packets::new(Unclaimed::new(
            settings.unclaimed_connections,
            settings.unclaimed_streams,
        ));
        Self {
            packets,
            objects: Objects::default(),
            sockets: Sockets::default(),
            capacity: Capacity::new(settings.max_series),
            settings,
        }
    }

    /// Takes in what is new; of the servers' objects only if `objects` says so. What is left out now is
    /// made up for by the next update that does not.
    pub fn update(&mut self, update: Update<'_>, objects: bool, labels: &mut Labels) {
        let Update { tick, reading, state, sockets } = update;
        let Settings { hold, jitter, quiet, .. } = self.settings;
        labels.advance(tick);
        let capacity = &mut self.capacity;
        let mut turn = Turn { tick, hold, jitter, quiet, labels, capacity };
        if objects {
            turn.capacity.begin(Part::Objects);
            self.objects.update(state, &mut turn);
        }
        if reading.is_some() || sockets.is_some() {
            turn.capacity.begin(Part::Traffic);
        }
        if let Some(reading) = reading {
            self.packets.update(reading, state, &mut turn);
        }
        if let Some(sockets) = sockets {
            self.sockets.update(sockets, tick, turn.labels, turn.capacity);
        }
    }

    /// What each stream's meter last read.
    pub(crate) fn stream_meters(&self) -> impl Iterator<Item = StreamMeterReading<'_>> {
        self.packets.stream_meters()
    }

    /// What each flow's meter last read.
    pub(crate) fn flow_meters(&self) -> impl Iterator<Item = FlowMeterReading<'_>> {
        self.packets.flow_meters()
    }

    /// The labels of the series that a flow counts into; `None` while nobody sees it on its own.
    pub(crate) fn flow_labels(&self, slot: u32) -> Option<&Arc<str>> {
        self.packets.flow_labels(slot)
    }

    /// Claims whose packets were met for the first time since this was last asked.
    pub fn take_seen(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.packets.seen)
    }

    /// Peers in rooms, as the metrics have them.
    pub fn peers(&self) -> u64 {
        self.objects.room_peers.iter().map(|room| room.values).sum()
    }

    /// What texts are written from, as it is now.
    pub(crate) fn lend(&mut self, extent: Extent) -> View {
        let mut view = View::default();
        if extent.objects {
            let objects = &mut self.objects;
            view.open_rooms = objects.open_rooms;
            view.ladder = objects.ladder;
            view.room_peers = objects.room_peers.lend();
            view.peer_infos = objects.peer_infos.lend();
            view.transports = objects.transports.lend();
            view.producers = objects.producers.lend();
            view.consumers = objects.consumers.lend();
            view.contract = objects.contract.each_mut().map(|table| table.lend());
        }
        if extent.packets {
            let packets = &mut self.packets;
            view.connections = packets.connections.lend();
            view.streams = packets.stream_series.each_mut().map(|table| table.lend());
            view.strangers = packets.strangers.clone();
            view.trailed = packets.trailed;
            view.crowd = packets.unclaimed.crowd.clone();
            view.coverage = packets.coverage.ratio();
        }
        if extent.sockets {
            view.sockets = self.sockets.series.lend();
        }
        view
    }

    /// How full it is.
    pub fn fill(&self) -> Fill {
        let (flows, streams) = self.packets.meters();
        let (refused, refused_total) = self.capacity.refused();
        let (flows, streams) = (flows as u64, streams as u64);
        Fill { series: self.capacity.used(), refused, refused_total, flows, streams }
    }
}
