use exporter_ebpf::abi::{Class, SEND};
use exporter_ebpf::packet::Link;
use exporter_ebpf::ports::{self, Fixed};

use super::*;
use crate::host::ownership::{Socket, SocketId};
use crate::model::Clock;

const HERE: NamespaceCookie = NamespaceCookie(1);

const LIMITS: Limits =
    Limits { flows: 4, streams: 4, stranger_flows: 2, stranger_streams: 2, ssrcs_per_flow: 3 };

fn table() -> Table {
    table_of(None)
}

fn table_of(owned: Option<Arc<Ownership>>) -> Table {
    let local = Some(Local::default());
    let mut table = Table::new(LIMITS, Lifetimes::default(), local, owned, true);
    table.set_local(&[("10.0.0.1/32".parse().unwrap(), HERE)]);
    table
}

/// A raw IPv4 packet between the SFU's 10.0.0.1:40000 and 10.0.0.2 at a port.
fn packet(direction: u8, port: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x45, 0];
    bytes.extend((28 + payload.len() as u16).to_be_bytes());
    bytes.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    let (sfu, peer) = (([10, 0, 0, 1], 40_000_u16), ([10, 0, 0, 2], port));
    let (from, to) = if direction == RECEIVE { (peer, sfu) } else { (sfu, peer) };
    bytes.extend(from.0.iter().chain(&to.0));
    bytes.extend(from.1.to_be_bytes());
    bytes.extend(to.1.to_be_bytes());
    bytes.extend((8 + payload.len() as u16).to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(payload);
    bytes
}

fn rtp(ssrc: u32, sequence: u16) -> Vec<u8> {
    let mut bytes = vec![0x80, 96];
    bytes.extend(sequence.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(ssrc.to_be_bytes());
    bytes.extend([0; 8]);
    bytes
}

fn count(table: &mut Table, direction: u8, port: u16, payload: &[u8], segment: u32, now: u64) {
    let bytes = packet(direction, port, payload);
    let frame = bytes.len() as u32;
    let ports = ports::of_range(40_000, 40_000);
    let view = View { link: Link::Raw, direction, ports: Fixed(&ports), frame };
    table.frame(&bytes, &view, segment, Duration::from_secs(now));
}

fn event(table: &mut Table, event: Event) -> u64 {
    table.read(0).events[event as usize][0].packets
}

#[test]
fn traffic_in_both_directions_makes_a_flow_known_and_loses_nothing() {
    let mut table = table();
    count(&mut table, RECEIVE, 9, &rtp(1, 1), 0, 0);
    assert!(!table.read(0).flows[0].known);
    count(&mut table, SEND, 9, &rtp(2, 1), 0, 0);
    count(&mut table, RECEIVE, 9, &rtp(1, 2), 0, 0);
    let reading = table.read(0);
    assert!(reading.flows[0].known);
    assert!(reading.streams.iter().all(|stream| stream.known));
    let received = reading.streams.iter().find(|stream| stream.ssrc == 1).unwrap();
    assert_eq!(received.total, Counter { packets: 2, bytes: 40 });
    let entries: Vec<u64> = reading.tables.iter().map(|table| table.entries).collect();
    assert_eq!(entries, [1, 2, 0, 0]);
}

#[test]
fn strangers_have_bounds_of_their_own() {
    let mut table = table();
    table.tell(&HashSet::from([JoinKey {
        proto: Proto::Udp,
        local_port: 40_000,
        remote: "10.0.0.2:77".parse().unwrap(),
    }]));
    for port in 1..=5 {
        count(&mut table, RECEIVE, port, &rtp(1, 1), 0, 0);
    }
    count(&mut table, RECEIVE, 77, &rtp(1, 1), 0, 0);
    let reading = table.read(0);
    assert_eq!(reading.flows.iter().filter(|flow| flow.known).count(), 1);
    assert_eq!(reading.flows.len(), 3);
    assert_eq!(event(&mut table, Event::StrangersFull), 3);
}

#[test]
fn ssrcs_beyond_a_flows_share_are_counted_in_the_flow() {
    let mut table = table();
    count(&mut table, SEND, 9, &rtp(1, 1), 0, 0);
    for ssrc in 1..=5 {
        count(&mut table, RECEIVE, 9, &rtp(ssrc, 1), 0, 0);
    }
    let reading = table.read(0);
    assert_eq!(reading.streams.len(), 3);
    let rest = reading.flows[0].counts[0][Class::Rtp as usize];
    assert_eq!(rest, Counter { packets: 3, bytes: 60 });
    assert_eq!(event(&mut table, Event::SsrcsFull), 3);
}

#[test]
fn an_aggregates_datagrams_are_told_apart() {
    let mut table = table();
    let payload = [rtp(1, 1), rtp(2, 1), rtp(1, 2), rtp(1, 3)[..16].to_vec()].concat();
    count(&mut table, RECEIVE, 9, &payload, 20, 0);
    let reading = table.read(0);
    let total =
        |ssrc| reading.streams.iter().find(|stream| stream.ssrc == ssrc).map(|row| row.total);
    assert_eq!(total(1), Some(Counter { packets: 3, bytes: 56 }));
    assert_eq!(total(2), Some(Counter { packets: 1, bytes: 20 }));
}

#[test]
fn jitter_is_kept_unless_it_is_off() {
    let check = |jitter, expected: std::ops::RangeInclusive<u32>| {
        let mut table = Table::new(LIMITS, Lifetimes::default(), None, None, jitter);
        for number in 0..64_u16 {
            let mut payload = rtp(1, number);
            // Half a second at 90 kHz, and no time between them.
            payload[4..8].copy_from_slice(&(u32::from(number) * 45_000).to_be_bytes());
            count(&mut table, RECEIVE, 9, &payload, 0, 7);
        }
        let millis = table.read(7).streams[0].jitter[Clock::Khz90 as usize] / 16_000;
        assert!(expected.contains(&millis), "{millis} ms");
    };
    check(true, 400..=500);
    check(false, 0..=0);
}

#[test]
fn foreign_addresses_are_not_counted() {
    let mut table = table();
    table.set_local(&[]);
    count(&mut table, RECEIVE, 9, &rtp(1, 1), 0, 0);
    assert!(table.read(0).flows.is_empty());
    assert_eq!(event(&mut table, Event::NotLocal), 1);
}

#[test]
fn what_rests_goes_once_with_its_last_values() {
    let mut table = table();
    count(&mut table, RECEIVE, 9, &rtp(1, 1), 0, 0);
    assert!(!table.read(30).flows[0].ended);
    // The flow goes after its streams.
    let last = table.read(31);
    assert!(!last.flows[0].ended && last.streams[0].ended);
    assert_eq!(last.streams[0].total.packets, 1);
    let last = table.read(31);
    assert!(last.flows[0].ended && last.streams.is_empty());
    assert!(last.tables.iter().all(|table| table.entries == 0));
    assert!(table.read(31).flows.is_empty());
}

#[test]
fn the_longest_prefix_says_whose_an_address_is() {
    let prefixes = [("10.0.0.0/8", 1), ("10.1.0.0/16", 2), ("10.1.2.3/32", 3), ("fd00::/64", 4)];
    let prefixes = prefixes.map(|(net, it)| (net.parse().unwrap(), NamespaceCookie(it)));
    let local = Local::new(&prefixes);
    let check = |address: &str, expected: Option<u64>| {
        let found = local.namespace(address.parse().unwrap());
        assert_eq!(found, expected.map(NamespaceCookie), "{address}");
    };
    check("10.2.0.1", Some(1));
    check("10.1.0.1", Some(2));
    check("10.1.2.3", Some(3));
    check("11.0.0.1", None);
    check("fd00::7", Some(4));
    check("fd01::7", None);
}

#[test]
fn only_what_a_worker_owns_is_counted() {
    let owned = Arc::new(Ownership::default());
    let mut table = table_of(Some(owned.clone()));
    count(&mut table, RECEIVE, 9, &rtp(1, 1), 0, 0);
    assert_eq!((event(&mut table, Event::NotOwned), table.read(0).flows.len()), (1, 0));
    let end = End::new(HERE, Proto::Udp, "0.0.0.0:40000".parse().unwrap());
    owned.insert(SocketId::made_up(1), Socket { pid: 1, end });
    count(&mut table, RECEIVE, 9, &rtp(1, 2), 0, 0);
    assert_eq!((event(&mut table, Event::NotOwned), table.read(0).flows.len()), (1, 1));
    // What trails after it is its own, what is new is not, but for what was told.
    owned.remove(SocketId::made_up(1));
    count(&mut table, RECEIVE, 9, &rtp(1, 3), 0, 0);
    count(&mut table, RECEIVE, 8, &rtp(1, 1), 0, 0);
    assert_eq!((event(&mut table, Event::NotOwned), table.read(0).flows.len()), (2, 1));
    let remote = "10.0.0.2:8".parse().unwrap();
    let told = JoinKey { proto: Proto::Udp, local_port: 40_000, remote };
    table.tell(&HashSet::from([told]));
    count(&mut table, RECEIVE, 8, &rtp(1, 1), 0, 0);
    assert_eq!(table.read(0).flows.len(), 2);
}
