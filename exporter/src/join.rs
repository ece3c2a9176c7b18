//! Matches what was counted with what the servers told.
//!
//! A reading and the servers' state come in; one row for each flow and each stream goes out, with the
//! transport, producer or consumer that claims it. Nothing is dropped and nothing is added up here:
//! whether an unclaimed row is shown is the ledger's decision. Rows borrow from what came in.

use foldhash::{HashMap, HashMapExt as _};

use crate::model::{Class, Counter, Flow, Reading, Stream, Transport, Tuple};
use crate::state::{Owner, State, StreamRole};

/// One reading, joined.
#[derive(Debug, Default)]
pub struct Joined<'a> {
    /// Each tuple once, tuples that only have streams among them.
    pub flows: Vec<FlowRow<'a>>,
    /// Each (tuple, direction, SSRC) once.
    pub streams: Vec<StreamRow<'a>>,
    /// How much of the known traffic has an owner.
    pub coverage: Coverage,
}

/// A flow and its transport.
#[derive(Debug)]
pub struct FlowRow<'a> {
    /// The 5-tuple.
    pub tuple: Tuple,
    /// Its counters; `None` when the reading has only streams of it.
    pub flow: Option<&'a Flow>,
    /// Proven or told to the kernel, or claimed by a transport that the kernel has not been told yet.
    pub known: bool,
    /// Who claims it.
    pub transport: Option<&'a Transport>,
}

/// A stream and its owner.
#[derive(Debug)]
pub struct StreamRow<'a> {
    /// Index of its flow's row.
    pub flow: usize,
    /// Its counters.
    pub stream: &'a Stream,
    /// Who claims it, and as what.
    pub owner: Option<(Owner<'a>, StreamRole)>,
}

/// Bytes of known flows that the tables still hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// All of them.
    pub known_bytes: u64,
    /// Those of flows that a transport claims.
    pub joined_bytes: u64,
}

impl Coverage {
    /// Joined bytes by known bytes; `None` before there are any.
    pub fn ratio(&self) -> Option<f64> {
        (self.known_bytes > 0).then(|| self.joined_bytes as f64 / self.known_bytes as f64)
    }
}

/// Joins a reading with the servers' state: on protocol, local port and remote address first, then on
/// the SSRC within the transport.
pub fn join<'a>(reading: &'a Reading, state: &'a State) -> Joined<'a> {
    // Events and table fill belong to no row; they are exported as they are.
    let Reading { flows, streams, events: _, tables: _ } = reading;
    let mut rows: Vec<FlowRow<'a>> = Vec::with_capacity(flows.len());
    let mut by_tuple: HashMap<Tuple, usize> = HashMap::with_capacity(flows.len());
    for flow in flows {
        by_tuple.insert(flow.tuple, rows.len());
        rows.push(FlowRow::new(flow.tuple, Some(flow), state));
    }
    let streams = streams
        .iter()
        .map(|stream| {
            // The tables are not read at the same moment: a stream's flow may be younger than the
            // reading of the flows, or have ended with an earlier reading.
            let flow = *by_tuple.entry(stream.tuple).or_insert_with(|| {
                rows.push(FlowRow::new(stream.tuple, None, state));
                rows.len() - 1
            });
            let row = &mut rows[flow];
            row.known |= stream.known;
            let owner = row
                .transport
                .and_then(|transport| state.owner(&transport.id, stream.direction, stream.ssrc));
            StreamRow { flow, stream, owner }
        })
        .collect();
    let coverage = coverage(&rows, &streams);
    Joined { flows: rows, streams, coverage }
}

impl<'a> FlowRow<'a> {
    fn new(tuple: Tuple, flow: Option<&'a Flow>, state: &'a State) -> Self {
        let transport = state.transport_by_tuple(&tuple.join_key());
        let known = transport.is_some() || flow.is_some_and(|flow| flow.known);
        Self { tuple, flow, known, transport }
    }

    /// The table let go of it with this reading.
    pub fn ended(&self) -> bool {
        self.flow.is_some_and(|flow| flow.ended)
    }

    fn own_bytes(&self) -> u64 {
        let counts = self.flow.map(|flow| flow.counts).unwrap_or_default();
        counts.iter().flatten().map(|Counter { packets: _, bytes }| bytes).sum()
    }
}

fn coverage(flows: &[FlowRow<'_>], streams: &Vec<StreamRow<'_>>) -> Coverage {
    let mut coverage = Coverage::default();
    let mut add = |row: &FlowRow<'_>, bytes: u64| {
        if row.known {
            coverage.known_bytes += bytes;
            coverage.joined_bytes += if row.transport.is_some() { bytes } else { 0 };
        }
    };
    for row in flows.iter().filter(|row| !row.ended()) {
        add(row, row.own_bytes());
    }
    for row in streams.iter().filter(|row| !row.stream.ended) {
        add(&flows[row.flow], row.stream.total.bytes);
    }
    coverage
}

/// The classes by their index in [`Flow::counts`], with the text of their label.
pub const CLASSES: [(Class, &str); 5] = [
    (Class::Rtp, "rtp"),
    (Class::Rtcp, "rtcp"),
    (Class::Stun, "stun"),
    (Class::Dtls, "dtls"),
    (Class::Other, "other"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, Told};
    use crate::model::Direction::{Receive, Send};

    fn check(state: &State, reading: &Reading, expected: &[(u32, &str, &str)]) {
        let joined = join(reading, state);
        let mut found: Vec<(u32, String, String)> = joined
            .streams
            .iter()
            .map(|row| {
                let transport = joined.flows[row.flow].transport.map(|t| t.id.as_str());
                let owner = match row.owner {
                    None => String::new(),
                    Some((Owner::Producer(producer), role)) => {
                        format!("{} {role:?}", producer.id.as_str())
                    }
                    Some((Owner::Consumer(consumer), role)) => {
                        format!("{} {role:?}", consumer.id.as_str())
                    }
                    Some((Owner::Transport, role)) => format!("{role:?}"),
                };
                (row.stream.ssrc, transport.unwrap_or_default().to_owned(), owner)
            })
            .collect();
        found.sort();
        let mut expected: Vec<_> =
            expected.iter().map(|(ssrc, t, o)| (*ssrc, (*t).to_owned(), (*o).to_owned())).collect();
        expected.sort();
        assert_eq!(found, expected);
    }

    fn told() -> State {
        let mut told = Told::default();
        told.transport("t1", "192.0.2.1:1000", 40_000);
        told.transport("t2", "[2001:db8::2]:2000", 40_000);
        told.producer("p1", "t1", &[(11, Some(12)), (21, None)]);
        told.consumer("c1", "t2", &[(31, Some(32))]);
        told.state
    }

    #[test]
    fn a_stream_joins_its_owner_whatever_the_local_address() {
        let one = fixture::tuple("10.9.8.7:40000", "192.0.2.1:1000");
        let two = fixture::tuple("[2001:db8::ff]:40000", "[2001:db8::2]:2000");
        let mapped = fixture::tuple("[::ffff:10.9.8.7]:40000", "[::ffff:192.0.2.1]:1000");
        assert_eq!(one, mapped);
        let mut reading = Reading::default();
        for (tuple, direction, ssrc) in [
            (one, Receive, 11),
            (one, Receive, 12),
            (one, Receive, 21),
            (one, Receive, 99),
            (one, Send, 1234),
            (two, Send, 31),
            (two, Send, 32),
            (two, Receive, 31),
        ] {
            reading.streams.push(fixture::stream(tuple, direction, ssrc, 1));
        }
        let expected = [
            (11, "t1", "p1 Media"),
            (12, "t1", "p1 Rtx"),
            (21, "t1", "p1 Media"),
            (99, "t1", ""),
            (1234, "t1", "Probation"),
            (31, "t2", "c1 Media"),
            (32, "t2", "c1 Rtx"),
            (31, "t2", ""),
        ];
        check(&told(), &reading, &expected);
    }

    #[test]
    fn a_port_or_protocol_apart_is_nobodys() {
        let mut reading = Reading::default();
        let other_port = fixture::tuple("10.9.8.7:40001", "192.0.2.1:1000");
        let mut other_proto = fixture::tuple("10.9.8.7:40000", "192.0.2.1:1000");
        other_proto.proto = crate::model::Proto::Tcp;
        reading.streams.push(fixture::stream(other_port, Receive, 11, 1));
        reading.streams.push(fixture::stream(other_proto, Receive, 12, 1));
        check(&told(), &reading, &[(11, "", ""), (12, "", "")]);
    }

    #[test]
    fn coverage_counts_live_known_bytes() {
        let claimed = fixture::tuple("10.0.0.1:40000", "192.0.2.1:1000");
        let proven = fixture::tuple("10.0.0.1:40000", "192.0.2.9:9000");
        let stranger = fixture::tuple("10.0.0.1:40000", "192.0.2.66:6666");
        let mut reading = Reading::default();
        for tuple in [claimed, proven, stranger] {
            let mut flow = fixture::flow(tuple, 10);
            flow.known = tuple == proven;
            reading.flows.push(flow);
            let mut stream = fixture::stream(tuple, Receive, 11, 2);
            stream.known = tuple == proven;
            reading.streams.push(stream);
        }
        let own = 10 * fixture::PACKET;
        let streams = 2 * fixture::PACKET;
        let state = told();
        let coverage = join(&reading, &state).coverage;
        assert_eq!(coverage.joined_bytes, own + streams);
        assert_eq!(coverage.known_bytes, 2 * (own + streams));
        assert_eq!(coverage.ratio(), Some(0.5));
        assert_eq!(Coverage::default().ratio(), None);
    }
}
