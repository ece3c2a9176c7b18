//! One line: what is said of a connection or a stream that ended.

use serde::{Deserialize, Serialize};

use crate::history::{Ended, Life, Minute, Past, Sample, Side, Station, Whose};
use crate::views::{Attributes, Verdict, moment};

/// A line. Text that is empty, and a number that is `null`, is not known or does not apply.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Entry {
    /// When it ended: RFC 3339, UTC, to the step of five seconds.
    pub ended: String,
    /// When it was first seen: the same.
    pub started: String,
    /// From the one to the other.
    pub seconds: f64,
    /// `connection` or `stream`.
    pub what: String,
    /// How it ended: `closed`, `server_lost`, `quiet`, `exporter_ended`.
    pub how: String,
    /// The host on which it was counted.
    pub host: String,
    /// The room, or the session.
    pub room_id: String,
    /// Whose it was.
    pub peer_id: String,
    /// What the peer called itself.
    pub display_name: String,
    /// The transport's.
    pub transport_id: String,
    /// `webrtc`, `plain`, `pipe`.
    pub transport: String,
    /// The producer's or consumer's.
    pub id: String,
    /// Of the producer that was consumed.
    pub producer_id: String,
    /// `audio` or `video`.
    pub kind: String,
    /// The codec's name.
    pub codec: String,
    /// The stream's; `null` of a connection.
    pub ssrc: Option<u32>,
    /// `media`, `rtx`, `probation`.
    pub role: String,
    /// `udp` or `tcp`.
    pub proto: String,
    /// The local end.
    pub local_addr: String,
    /// The far end as it may be shown.
    pub remote_addr: String,
    /// Where a database places it.
    pub country: String,
    /// Its network's number.
    pub asn: String,
    /// Its network's name.
    pub as_org: String,
    /// The last that was told of ICE.
    pub ice_state: String,
    /// The last that was told of DTLS.
    pub dtls_state: String,
    /// Of a connection everything that was counted, of a stream its RTP.
    pub receive_packets: u64,
    /// The same.
    pub send_packets: u64,
    /// The same.
    pub receive_bytes: u64,
    /// The same.
    pub send_bytes: u64,
    /// Packets lost before this host; `null` of a connection.
    pub receive_lost_packets: Option<i64>,
    /// Packets that the far side reported lost; `null` of a connection.
    pub send_lost_packets: Option<i64>,
    /// A share of one; `null` where nothing was to come.
    pub receive_loss_ratio: Option<f64>,
    /// The same, of what was sent; `null` where nothing was reported.
    pub send_loss_ratio: Option<f64>,
    /// The highest interarrival jitter.
    pub jitter_seconds: Option<f64>,
    /// The longest round trip time.
    pub round_trip_time_seconds: Option<f64>,
    /// The lowest score.
    pub score: Option<u8>,
    /// When the minute with the most losses began; empty without losses.
    pub worst_minute: String,
    /// Its losses, a share of one.
    pub worst_minute_loss_ratio: Option<f64>,
    /// The peer's last verdict in that time.
    pub verdict: String,
    /// How that was known.
    pub evidence: String,
}

/// How something ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Its server closed it.
    Closed,
    /// Nothing is heard of its server any more.
    ServerLost,
    /// No server told of it, or its transport went over to another address, and it was quiet for two minutes.
    Quiet,
    /// It went on when the exporter ended.
    ExporterEnded,
}

impl End {
    fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::ServerLost => "server_lost",
            Self::Quiet => "quiet",
            Self::ExporterEnded => "exporter_ended",
        }
    }
}

/// What a line is made with.
pub(super) struct Context<'a> {
    pub(super) host: &'a str,
    pub(super) past: &'a Past,
    /// Of a transport's id.
    pub(super) end: &'a dyn Fn(&str) -> End,
}

impl Entry {
    /// What is said of something that ended. `verdict` is asked by room and peer.
    pub(super) fn of<'a>(
        ended: &Ended,
        context: &Context<'_>,
        verdict: impl Fn(&str, &str) -> Option<&'a Verdict>,
    ) -> Self {
        let Context { host, past, end } = context;
        let who = Attributes::of_whose(&ended.whose, ended.carrier.as_deref(), &past.facts);
        let time = |millis: u64| moment(past.epoch.saturating_add(millis));
        let connection = match &ended.whose {
            Whose::Connection(connection) => Some(connection),
            Whose::Stream { .. } => ended.carrier.as_ref(),
        };
        let station = past.facts.stations.get(who.transport);
        let (local_addr, remote_addr) = ends(connection, station, &who);
        let state = |of: fn(&Station) -> &str| station.map(of).unwrap_or_default().to_owned();
        let verdict = verdict(who.room, who.peer);
        let mut entry = Self {
            ended: time(ended.last),
            started: time(ended.first),
            seconds: ended.last.saturating_sub(ended.first) as f64 / 1e3,
            what: if who.is_connection { "connection" } else { "stream" }.into(),
            how: end(who.transport).as_str().into(),
            host: (*host).to_owned(),
            room_id: who.room.into(),
            peer_id: who.peer.into(),
            display_name: who.name.into(),
            transport_id: who.transport.into(),
            transport: state(|station| &station.transport.kind),
            id: who.id.into(),
            producer_id: who.consumed.into(),
            kind: who.kind.into(),
            codec: who.codec.into(),
            ssrc: who.ssrc,
            role: who.role.into(),
            proto: who.proto.into(),
            local_addr,
            remote_addr,
            country: who.country.into(),
            asn: who.asn.into(),
            as_org: who.as_org.into(),
            ice_state: state(|station| &station.transport.ice),
            dtls_state: state(|station| &station.transport.dtls),
            verdict: verdict.map(|it| it.cause.as_label()).unwrap_or_default().into(),
            evidence: verdict.map(|it| it.evidence.clone()).unwrap_or_default(),
            ..Self::default()
        };
        entry.count(ended, who.is_connection, time);
        entry
    }

    fn count(&mut self, ended: &Ended, is_connection: bool, time: impl Fn(u64) -> String) {
        let sum = |life: &Option<Life>| life.as_ref().map(|life| life.sum).unwrap_or_default();
        let (received, sent) = (sum(&ended.received), sum(&ended.sent));
        (self.receive_packets, self.receive_bytes) = (received.packets, received.bytes);
        (self.send_packets, self.send_bytes) = (sent.packets, sent.bytes);
        if is_connection {
            return;
        }
        let seconds = |micros: u32| f64::from(micros) / 1e6;
        if ended.received.is_some() {
            self.receive_lost_packets = Some(received.lost);
            self.receive_loss_ratio = received.loss(Side::Received).map(round);
            self.jitter_seconds = received.jitter.map(seconds);
        }
        if ended.sent.is_some() {
            self.send_lost_packets = Some(sent.lost);
            self.send_loss_ratio = sent.loss(Side::Sent).map(round);
            self.round_trip_time_seconds = sent.round_trip.map(seconds);
        }
        self.score = [received.score, sent.score].into_iter().flatten().min();
        let worst = |life: &Option<Life>, side| {
            let Minute { start, sample } = life.as_ref()?.worst?;
            Some((start, Sample::loss(&sample, side)?))
        };
        let worst = worst(&ended.received, Side::Received).or(worst(&ended.sent, Side::Sent));
        if let Some((start, loss)) = worst {
            (self.worst_minute, self.worst_minute_loss_ratio) = (time(start), Some(round(loss)));
        }
    }
}

/// Millionths are more than anybody needs.
fn round(number: f64) -> f64 {
    (number * 1e6).round() / 1e6
}

/// Both ends as the connection's series named them, or as the transport has them.
fn ends(
    connection: Option<&std::sync::Arc<crate::history::Connection>>,
    station: Option<&Station>,
    who: &Attributes<'_>,
) -> (String, String) {
    let local = connection.map(|it| &*it.local).unwrap_or_default();
    let remote = connection.map(|it| &*it.remote).filter(|remote| !remote.is_empty());
    let remote = remote.or(station.map(|station| &*station.transport.remote));
    (local.to_owned(), remote.unwrap_or(who.host).to_owned())
}
