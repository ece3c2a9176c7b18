//! The ledger of the SFU's sockets: drops and queues.
//!
//! Socket diagnosis comes in; one series for each protocol, local end and shown far end goes out.
//! Several sockets can share one (a listening TCP socket and what it accepted from a masked network),
//! and each of them closes when it likes.

use std::net::SocketAddr;
use std::sync::Arc;

use foldhash::HashMap;

use crate::labels::block::Block;
use crate::labels::{Labels, Tick};
use crate::ledger::capacity::Capacity;
use crate::ledger::series::{GRACE, SeriesId, Table};
use crate::ledger::totals::grown_total;
use crate::model::{Proto, SocketStats, Tuple};

/// Families that one socket has a series in, TCP's apart.
const SOCKET_SERIES: u64 = 3;
/// Families that a TCP connection has a series in besides.
const TCP_SERIES: u64 = 2;

type SocketKey = (Proto, SocketAddr, Option<SocketAddr>);

/// The ledger of sockets.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    meters: HashMap<SocketKey, Meter>,
    pub(crate) series: Table<Arc<str>, SocketSeries>,
    round: u64,
}

#[derive(Debug)]
struct Meter {
    drops: u64,
    retransmits: u64,
    pending: [u64; 2],
    series: Option<SeriesId>,
    round: u64,
}

/// One socket, or several that share their labels.
#[derive(Clone, Debug, Default)]
pub(crate) struct SocketSeries {
    pub(crate) drops: u64,
    /// Of all that are open.
    pub(crate) receive_queue: u64,
    pub(crate) send_queue: u64,
    /// TCP connections only.
    pub(crate) retransmits: Option<u64>,
    /// The highest of all that are open, microseconds.
    pub(crate) round_trip_time: Option<u64>,
    cost: u64,
    _remote: Option<Arc<str>>,
}

impl Sockets {
    /// Takes one look at the sockets in.
    pub(crate) fn update(
        &mut self,
        sockets: &[SocketStats],
        tick: Tick,
        labels: &mut Labels,
        capacity: &mut Capacity,
    ) {
        self.round += 1;
        for series in self.series.iter_mut() {
            let values = &mut series.values;
            (values.receive_queue, values.send_queue) = (0, 0);
            values.round_trip_time = None;
        }
        for socket in sockets {
            self.take(socket, tick, labels, capacity);
        }
        let round = self.round;
        self.meters.retain(|_, meter| meter.round == round);
        self.series.retire(tick, GRACE, |_| false, |series| capacity.give_back(series.cost));
    }

    fn take(
        &mut self,
        socket: &SocketStats,
        tick: Tick,
        labels: &mut Labels,
        capacity: &mut Capacity,
    ) {
        let SocketStats { proto, local, remote, drops, receive_queue_bytes, send_queue_bytes, tcp } =
            socket;
        let meter = self.meters.entry((*proto, *local, *remote)).or_insert_with(|| Meter {
            drops: 0,
            retransmits: 0,
            pending: [0; 2],
            series: None,
            round: 0,
        });
        meter.round = self.round;
        meter.pending[0] += grown_total(&mut meter.drops, *drops);
        if let Some(tcp) = tcp {
            meter.pending[1] += grown_total(&mut meter.retransmits, tcp.retransmits);
        }
        if meter.series.is_none_or(|id| self.series.get(id).is_none()) {
            meter.series = open(&mut self.series, socket, tick, labels, capacity);
        }
        let Some(series) = meter.series.and_then(|id| self.series.get_mut(id)) else { return };
        series.touch(tick);
        let values = &mut series.values;
        let [drops, retransmits] = std::mem::take(&mut meter.pending);
        values.drops += drops;
        values.receive_queue += receive_queue_bytes;
        values.send_queue += send_queue_bytes;
        if let Some(tcp) = tcp {
            *values.retransmits.get_or_insert(0) += retransmits;
            values.round_trip_time =
                values.round_trip_time.max(Some(u64::from(tcp.round_trip_time_us)));
        }
    }
}

/// The socket's series; `None` while its far end's label is undecided or there is no room.
fn open(
    table: &mut Table<Arc<str>, SocketSeries>,
    socket: &SocketStats,
    tick: Tick,
    labels: &mut Labels,
    capacity: &mut Capacity,
) -> Option<SeriesId> {
    let remote = match socket.remote {
        None => None,
        Some(remote) => {
            Some(labels.remote(&Tuple::new(socket.proto, socket.local, remote).join_key())?)
        }
    };
    let text = Block::open()
        .label("proto", socket.proto.as_str())
        .label("local_addr", &crate::model::canonical(socket.local).to_string())
        .label("remote_addr", remote.as_deref().unwrap_or(""))
        .close();
    if let Some(id) = table.join(&text) {
        return Some(id);
    }
    let tcp = socket.proto == Proto::Tcp;
    let cost = SOCKET_SERIES + if tcp { TCP_SERIES } else { 0 };
    capacity.take(cost).then(|| {
        table.open(text, SocketSeries { cost, _remote: remote, ..SocketSeries::default() }, tick)
    })
}
