//! Between the kernel's keys and values and the model's rows. Pure.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;

use exporter_ebpf::abi::{
    CLOCKS, FlowKeyV4, FlowKeyV6, FlowValue, KNOWN, SEND, StreamValue, TCP, Tend, UDP,
};
use exporter_ebpf::rtp;
use ipnet::IpNet;

use super::sys::{self, Plain};
use crate::model::{Counter, Direction, Flow, JoinKey, Proto, Stream, Tuple};

// SAFETY: `abi` asserts that none of these has padding; all fields are integers.
unsafe impl Plain for FlowKeyV4 {}
// SAFETY: as above.
unsafe impl Plain for FlowKeyV6 {}
// SAFETY: as above.
unsafe impl Plain for FlowValue {}
// SAFETY: as above.
unsafe impl Plain for Counter {}
// SAFETY: as above.
unsafe impl Plain for Tend {}

/// Key of a table of prefixes: their length in bits, and the address (`struct bpf_lpm_trie_key`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::kernel) struct Prefix<T> {
    bits: u32,
    address: T,
}

// SAFETY: four bytes, and an array of bytes.
unsafe impl Plain for Prefix<[u8; 4]> {}
// SAFETY: as above.
unsafe impl Plain for Prefix<[u8; 16]> {}

/// The key of a prefix.
pub(in crate::kernel) fn prefix(prefix: &IpNet) -> Family<Prefix<[u8; 4]>, Prefix<[u8; 16]>> {
    let bits = prefix.prefix_len().into();
    match prefix.network() {
        IpAddr::V4(address) => Family::V4(Prefix { bits, address: address.octets() }),
        IpAddr::V6(address) => Family::V6(Prefix { bits, address: address.octets() }),
    }
}

/// Something of IPv4's or of IPv6's tables.
#[derive(Clone, Copy, Debug)]
pub(in crate::kernel) enum Family<A, B> {
    V4(A),
    V6(B),
}

impl<A, B> Family<A, B> {
    /// The table's place in a pair of tables.
    pub(in crate::kernel) fn number(&self) -> usize {
        match self {
            Self::V4(_) => 0,
            Self::V6(_) => 1,
        }
    }
}

impl<A: Plain, B: Plain> Family<A, B> {
    pub(in crate::kernel) fn put(self, map: BorrowedFd<'_>) -> std::io::Result<()> {
        match self {
            Self::V4(key) => sys::put(map, &key, &1_u8),
            Self::V6(key) => sys::put(map, &key, &1_u8),
        }
    }

    pub(in crate::kernel) fn remove(self, map: BorrowedFd<'_>) -> std::io::Result<()> {
        match self {
            Self::V4(key) => sys::remove(map, &key),
            Self::V6(key) => sys::remove(map, &key),
        }
        .map(drop)
    }
}

/// A flow's key of either family.
pub(in crate::kernel) trait Key {
    fn tuple(&self) -> Tuple;
    fn direction(&self) -> Direction;
}

macro_rules! key {
    ($key:ident) => {
        impl Key for $key {
            fn tuple(&self) -> Tuple {
                let proto = if self.proto == TCP { Proto::Tcp } else { Proto::Udp };
                let end = |address: IpAddr, port| SocketAddr::new(address, port);
                let local = end(self.local.into(), self.local_port);
                Tuple::new(proto, local, end(self.remote.into(), self.remote_port))
            }

            fn direction(&self) -> Direction {
                if self.direction == SEND { Direction::Send } else { Direction::Receive }
            }
        }
    };
}
key!(FlowKeyV4);
key!(FlowKeyV6);

/// A row of a flow table.
pub(in crate::kernel) fn flow(tuple: Tuple, value: &FlowValue, idle_seconds: u32) -> Flow {
    let counts = value.counts;
    let mut flow = Flow { tuple, known: false, idle_seconds, ended: false, streams: 0, counts };
    set_flow(&mut flow, value, idle_seconds);
    flow
}

/// Takes over a later value.
pub(in crate::kernel) fn set_flow(flow: &mut Flow, value: &FlowValue, idle_seconds: u32) {
    flow.known = value.flags & KNOWN != 0;
    flow.idle_seconds = idle_seconds;
    flow.streams = value.streams;
    flow.counts = value.counts;
}

/// A row of a stream table.
pub(in crate::kernel) fn stream(
    tuple: Tuple,
    direction: Direction,
    ssrc: u32,
    value: &StreamValue,
    idle_seconds: u32,
) -> Stream {
    let mut stream = Stream {
        tuple,
        direction,
        ssrc,
        known: false,
        idle_seconds,
        ended: false,
        payload_type: 0,
        total: Counter::default(),
        received: 0,
        expected: 0,
        out_of_order: 0,
        duplicates: 0,
        restarts: 0,
        jitter: [0; CLOCKS],
    };
    set_stream(&mut stream, value, idle_seconds);
    stream
}

/// Takes over a later value.
pub(in crate::kernel) fn set_stream(stream: &mut Stream, value: &StreamValue, idle_seconds: u32) {
    stream.known = value.flags & KNOWN != 0;
    stream.idle_seconds = idle_seconds;
    stream.payload_type = (value.payload_type & 0x7f) as u8;
    stream.total = Counter {
        packets: value.total.packets + value.contended.packets,
        bytes: value.total.bytes + value.contended.bytes,
    };
    stream.received = rtp::received(value);
    stream.expected = rtp::expected(value);
    stream.out_of_order = value.out_of_order;
    stream.duplicates = value.duplicates;
    stream.restarts = value.restarts;
    stream.jitter = value.jitter;
}

/// The key of a flow in its table.
pub(in crate::kernel) fn flow_key(tuple: &Tuple) -> Family<FlowKeyV4, FlowKeyV6> {
    let proto = match tuple.proto {
        Proto::Udp => UDP,
        Proto::Tcp => TCP,
    };
    let (remote_port, local_port) = (tuple.remote.port(), tuple.local.port());
    let (direction, pad) = (0, [0; 2]);
    match (tuple.remote.ip(), tuple.local.ip()) {
        (IpAddr::V4(remote), IpAddr::V4(local)) => {
            let (remote, local) = (remote.octets(), local.octets());
            Family::V4(FlowKeyV4 { remote, local, remote_port, local_port, proto, direction, pad })
        }
        (remote, local) => {
            let (remote, local) = (sixteen(remote), sixteen(local));
            Family::V6(FlowKeyV6 { remote, local, remote_port, local_port, proto, direction, pad })
        }
    }
}

/// The key of a told flow: any local address.
pub(in crate::kernel) fn told(key: &JoinKey) -> Family<FlowKeyV4, FlowKeyV6> {
    let anywhere: IpAddr = match key.remote {
        SocketAddr::V4(_) => [0_u8; 4].into(),
        SocketAddr::V6(_) => [0_u8; 16].into(),
    };
    let local = SocketAddr::new(anywhere, key.local_port);
    flow_key(&Tuple { proto: key.proto, local, remote: key.remote })
}

/// The request that takes removed streams from their flow's share.
pub(in crate::kernel) fn tend(tuple: &Tuple, streams: u32) -> Tend {
    let ethernet = [0; 16];
    match flow_key(tuple) {
        Family::V4(key) => Tend { ethernet, family: 4, streams, key: widened(&key) },
        Family::V6(key) => Tend { ethernet, family: 6, streams, key },
    }
}

fn sixteen(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// An IPv4 key at the beginning of the room for an IPv6 key: the first 16 bytes are `remote`.
fn widened(key: &FlowKeyV4) -> FlowKeyV6 {
    let mut remote = [0; 16];
    remote[..4].copy_from_slice(&key.remote);
    remote[4..8].copy_from_slice(&key.local);
    remote[8..10].copy_from_slice(&key.remote_port.to_ne_bytes());
    remote[10..12].copy_from_slice(&key.local_port.to_ne_bytes());
    remote[12] = key.proto;
    remote[13] = key.direction;
    FlowKeyV6 { remote, ..FlowKeyV6::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_leads_back_to_its_key() {
        let check = |local: &str, remote: &str| {
            let tuple = Tuple::new(Proto::Tcp, local.parse().unwrap(), remote.parse().unwrap());
            let back = match flow_key(&tuple) {
                Family::V4(key) => key.tuple(),
                Family::V6(key) => key.tuple(),
            };
            assert_eq!(back, tuple);
        };
        check("192.0.2.1:40000", "198.51.100.7:1234");
        check("[2001:db8::1]:40000", "[2001:db8::2]:65535");
    }

    #[test]
    fn packets_that_found_the_lock_taken_count() {
        let tuple = FlowKeyV4::default().tuple();
        let contended = Counter { packets: 2, bytes: 20 };
        let total = Counter { packets: 3, bytes: 30 };
        let value = StreamValue { contended, total, ..StreamValue::default() };
        let row = stream(tuple, Direction::Send, 1, &value, 7);
        assert_eq!((row.total, row.idle_seconds), (Counter { packets: 5, bytes: 50 }, 7));
    }

    #[test]
    fn an_ipv4_key_widens_byte_for_byte() {
        let key = FlowKeyV4 {
            remote: [1, 2, 3, 4],
            local: [5, 6, 7, 8],
            remote_port: 0x1234,
            local_port: 0x5678,
            proto: UDP,
            direction: SEND,
            pad: [0; 2],
        };
        let wide = widened(&key);
        // SAFETY: plain integers without padding, 16 bytes.
        let bytes = unsafe { std::mem::transmute::<FlowKeyV4, [u8; 16]>(key) };
        // SAFETY: plain integers without padding, 40 bytes.
        let first = unsafe { std::mem::transmute::<FlowKeyV6, [u8; 40]>(wide) };
        assert_eq!(first[..16], bytes);
    }
}
