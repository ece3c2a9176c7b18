//! What texts are written from: the ledger's series as they were at one moment, lent, not copied.

use std::sync::Arc;

use crate::ledger::contract::{ContractLabels, ContractSeries};
use crate::ledger::flows::Connection;
use crate::ledger::objects::Object;
use crate::ledger::owners::TransportText;
use crate::ledger::series::Rows;
use crate::ledger::sockets::SocketSeries;
use crate::ledger::strangers::Strangers;
use crate::ledger::stream_labels::StreamLabels;
use crate::ledger::streams::StreamSeries;
use crate::ledger::totals::Counts;
use crate::ledger::unclaimed::Crowd;
use crate::model::{ConsumerId, HostLoad, TransportId};
use crate::state::{Ladder, ProducerKey};

/// What is lent: what is not wanted need not be copied when the ledger changes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    /// Rooms, peers, transports, producers, consumers.
    pub(crate) objects: bool,
    /// What was counted on the wire.
    pub(crate) packets: bool,
    /// Sockets.
    pub(crate) sockets: bool,
}

/// Series of one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(crate) open_rooms: u64,
    /// How far WebRTC transports came.
    pub(crate) ladder: Ladder,
    pub(crate) room_peers: Rows<Arc<str>, u64>,
    pub(crate) peer_infos: Rows<Arc<str>, ()>,
    pub(crate) transports: Rows<TransportId, TransportText>,
    pub(crate) producers: Rows<ProducerKey, Object>,
    pub(crate) consumers: Rows<ConsumerId, Object>,
    /// Producers', then consumers'.
    pub(crate) contract: [Rows<ContractLabels, ContractSeries>; 2],
    pub(crate) connections: Rows<Arc<str>, Connection>,
    /// By direction.
    pub(crate) streams: [Rows<StreamLabels, StreamSeries>; 2],
    pub(crate) strangers: Strangers,
    pub(crate) trailed: Counts,
    pub(crate) crowd: Crowd,
    /// How much of the known traffic found its owner.
    pub(crate) coverage: Option<f64>,
    pub(crate) sockets: Rows<Arc<str>, SocketSeries>,
    /// Labels of peers with a bad call, in order, each once.
    pub(crate) verdicts: Arc<[Arc<str>]>,
    /// What the host does to packets.
    pub(crate) load: Arc<HostLoad>,
}
