//! A frame in; whose ends it has, what it carries, and how much of it is headers, out.
//!
//! The parser is the kernel program's, so what is counted and what is captured are told apart alike.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use exporter_ebpf::abi::{RECEIVE, TCP};
use exporter_ebpf::packet::{self, Bytes, Link, Network, Packet, Parsed, View};
use exporter_ebpf::ports::PortSet;
use exporter_ebpf::rtp::{self, Within};

use crate::host::interfaces::Layer;

/// What UDP or TCP carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carried {
    /// RTP with its SSRC.
    Rtp(u32),
    Rtcp,
    Stun,
    Dtls,
    /// Something else, or the middle of a TCP stream.
    Other,
}

/// A UDP or TCP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// IP's number.
    pub(super) proto: u8,
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    /// Where IP begins.
    pub(super) network: usize,
    /// Bytes of the frame up to the end of UDP's or TCP's header.
    pub(super) headers: usize,
    /// Bytes of the header behind it.
    pub(super) inner: usize,
    pub(super) carried: Carried,
}

impl Seen {
    /// Bytes to keep where only headers are wanted. What TCP carries may be the middle of anything, so it
    /// is only believed where somebody knows the stream.
    pub(super) fn cut(&self, is_known: bool) -> usize {
        let believes = self.proto != TCP || is_known;
        self.headers + if believes { self.inner } else { 0 }
    }
}

/// Looks at a frame of `length` bytes, of which these are there.
pub(super) fn look(bytes: &[u8], layer: Layer, length: u32) -> Option<Seen> {
    let link = match layer {
        Layer::Ethernet => Link::Ethernet,
        Layer::Raw => Link::Raw,
        Layer::Wrapped => Link::Wrapped,
    };
    // Which end is the local one is found out later.
    let view = View { link, direction: RECEIVE, ports: Every, frame: length };
    let frame = Bytes::new(bytes);
    let (Network::V4(network) | Network::V6(network)) = packet::network(frame, &view).ok()?;
    Some(match packet::parse(frame, &view).ok()? {
        Parsed::V4(packet) => {
            let address = |[word]: [u32; 1]| IpAddr::from(Ipv4Addr::from(word.to_ne_bytes()));
            seen(bytes, network, &packet, address)
        }
        Parsed::V6(packet) => seen(bytes, network, &packet, |words: [u32; 4]| {
            let mut octets = [0; 16];
            for (octets, word) in octets.chunks_exact_mut(4).zip(words) {
                octets.copy_from_slice(&word.to_ne_bytes());
            }
            IpAddr::from(Ipv6Addr::from(octets))
        }),
    })
}

/// Every port.
#[derive(Clone, Copy)]
struct Every;

impl PortSet for Every {
    fn contains(self, _: u8, _: u16) -> bool {
        true
    }
}

fn seen<const W: usize>(
    bytes: &[u8],
    network: usize,
    packet: &Packet<W>,
    address: impl Fn([u32; W]) -> IpAddr,
) -> Seen {
    let Packet { remote, local, remote_port, local_port, proto, payload, length } = *packet;
    let (carried, inner) = match proto {
        TCP => framed(bytes, payload, length),
        _ => content(bytes, payload, length),
    };
    Seen {
        proto,
        source: SocketAddr::new(address(remote), remote_port),
        destination: SocketAddr::new(address(local), local_port),
        network,
        headers: payload.min(bytes.len()),
        inner: inner.min(length as usize).min(bytes.len().saturating_sub(payload)),
        carried,
    }
}

/// RFC 4571 §2: a length of two bytes before each.
fn framed(bytes: &[u8], at: usize, length: u32) -> (Carried, usize) {
    const PREFIX: u32 = 2;
    let Some(prefix) = bytes.get(at..at + 2).filter(|_| length > PREFIX) else {
        return (Carried::Other, 0);
    };
    let told = u16::from_be_bytes([prefix[0], prefix[1]]);
    match content(bytes, at + 2, told.into()) {
        (Carried::Other, _) => (Carried::Other, 0),
        (carried, inner) => (carried, inner + PREFIX as usize),
    }
}

/// What it is, and how long its header is.
fn content(bytes: &[u8], at: usize, length: u32) -> (Carried, usize) {
    let payload = Within { frame: Bytes::new(bytes), offset: at };
    let content = rtp::classify(&payload, length);
    match content.kind {
        rtp::Kind::Rtp => (Carried::Rtp(content.rtp.ssrc), rtp_header(&bytes[at..])),
        // With the sender's SSRC.
        rtp::Kind::Rtcp => (Carried::Rtcp, 8),
        rtp::Kind::Stun | rtp::Kind::StunSuccess => (Carried::Stun, 20),
        // DTLS 1.3's header may be as short as that; what is behind it is not its.
        rtp::Kind::Dtls => (Carried::Dtls, if bytes[at] >= 32 { 5 } else { 13 }),
        rtp::Kind::BadRtp | rtp::Kind::Other | rtp::Kind::Unreadable => (Carried::Other, 0),
    }
}

/// RFC 3550 §5.1 and §5.3.1.
fn rtp_header(rtp: &[u8]) -> usize {
    let sources = usize::from(rtp[0] & 0x0f) * 4;
    let fixed = 12 + sources;
    match rtp.get(fixed + 2..fixed + 4) {
        Some(words) if rtp[0] & 0x10 != 0 => {
            fixed + 4 + usize::from(u16::from_be_bytes([words[0], words[1]])) * 4
        }
        _ => fixed,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A UDP datagram over IPv4 in an Ethernet frame.
    pub(in crate::capture) fn udp(payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend([0x08, 0x00]);
        frame.extend(ipv4(17, &segment(payload)));
        frame
    }

    fn segment(payload: &[u8]) -> Vec<u8> {
        let mut bytes =
            [5000_u16, 40_000, 8 + payload.len() as u16, 0].map(u16::to_be_bytes).concat();
        bytes.extend(payload);
        bytes
    }

    fn ipv4(proto: u8, segment: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x45, 0];
        bytes.extend((20 + segment.len() as u16).to_be_bytes());
        bytes.extend([0, 0, 0, 0, 64, proto, 0, 0]);
        bytes.extend([192, 0, 2, 7, 198, 51, 100, 1]);
        bytes.extend(segment);
        bytes
    }

    fn ipv6(next: u8, segment: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend((segment.len() as u16).to_be_bytes());
        bytes.extend([next, 64]);
        for last in [7, 1] {
            let mut address = [0_u8; 16];
            (address[0], address[15]) = (0xfd, last);
            bytes.extend(address);
        }
        bytes.extend(segment);
        bytes
    }

    /// An RTP packet with so many sources and words of extension.
    pub(in crate::capture) fn rtp(ssrc: u32, sources: u8, extension: Option<u16>) -> Vec<u8> {
        let mut bytes = vec![0x80 | sources | u8::from(extension.is_some()) << 4, 96, 0, 1];
        bytes.extend([0; 4]);
        bytes.extend(ssrc.to_be_bytes());
        bytes.extend(vec![7; usize::from(sources) * 4]);
        if let Some(words) = extension {
            bytes.extend([0xbe, 0xde]);
            bytes.extend(words.to_be_bytes());
            bytes.extend(vec![9; usize::from(words) * 4]);
        }
        bytes.extend([0xaa; 100]);
        bytes
    }

    fn see(frame: &[u8], layer: Layer) -> Seen {
        look(frame, layer, frame.len() as u32).unwrap()
    }

    #[test]
    fn rtp_is_cut_behind_its_whole_header() {
        let check = |sources, extension, header: usize| {
            let seen = see(&udp(&rtp(77, sources, extension)), Layer::Ethernet);
            assert_eq!(seen.carried, Carried::Rtp(77));
            assert_eq!(seen.cut(false), 14 + 20 + 8 + header);
        };
        check(0, None, 12);
        check(2, None, 20);
        check(0, Some(3), 28);
        check(15, Some(0), 76);
        check(1, Some(20), 100);
    }

    #[test]
    fn of_all_else_a_few_bytes_are_kept() {
        let check = |first: &[u8], carried, header: usize| {
            let payload = [first, &[0xaa; 200]].concat();
            let seen = see(&udp(&payload), Layer::Ethernet);
            assert_eq!((seen.carried, seen.cut(false)), (carried, 42 + header), "{first:x?}");
        };
        check(&[0x81, 200, 0, 6], Carried::Rtcp, 8);
        check(&[0, 1, 0, 8, 0x21, 0x12, 0xa4, 0x42], Carried::Stun, 20);
        check(&[22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 40], Carried::Dtls, 13);
        check(&[0x2c, 0, 0, 0, 40], Carried::Dtls, 5);
        check(&[0xff, 0xff], Carried::Other, 0);
        let short = see(&udp(&[]), Layer::Ethernet);
        assert_eq!((short.carried, short.cut(false)), (Carried::Other, 42));
    }

    #[test]
    fn ends_are_told_in_every_layer_and_family() {
        let payload = segment(&rtp(5, 0, None));
        let tagged = [&[2; 12][..], &[0x81, 0, 0, 7, 0x86, 0xdd], &ipv6(17, &payload)].concat();
        let gre = [&ipv4(47, &[0, 0, 8, 0])[..], &ipv4(17, &payload)].concat();
        let v4 = ["192.0.2.7:5000", "198.51.100.1:40000"];
        let v6 = ["[fd00::7]:5000", "[fd00::1]:40000"];
        let check = |frame: &[u8], layer, network, ends: [&str; 2]| {
            let seen = see(frame, layer);
            assert_eq!([seen.source, seen.destination].map(|end| end.to_string()), ends);
            assert_eq!((seen.network, seen.carried), (network, Carried::Rtp(5)));
        };
        check(&udp(&rtp(5, 0, None)), Layer::Ethernet, 14, v4);
        check(&tagged, Layer::Ethernet, 18, v6);
        check(&ipv4(17, &payload), Layer::Raw, 0, v4);
        check(&ipv6(17, &payload), Layer::Raw, 0, v6);
        check(&gre, Layer::Wrapped, 24, v4);
        assert_eq!(look(&ipv4(1, &payload), Layer::Raw, 200), None);
        assert_eq!(look(&[], Layer::Ethernet, 0), None);
    }

    #[test]
    fn what_tcp_carries_is_kept_only_where_the_stream_is_known() {
        let rtp = rtp(5, 0, Some(1));
        let mut segment = [5000_u16, 40_000].map(u16::to_be_bytes).concat();
        segment.extend([0; 8]);
        segment.extend([0x50, 0x10, 0, 0, 0, 0, 0, 0]);
        segment.extend((rtp.len() as u16).to_be_bytes());
        segment.extend(&rtp);
        let seen = see(&ipv4(6, &segment), Layer::Raw);
        assert_eq!(seen.carried, Carried::Rtp(5));
        assert_eq!((seen.cut(false), seen.cut(true)), (40, 40 + 2 + 20));
    }

    #[test]
    fn a_frame_that_was_copied_in_part_is_cut_where_it_ends() {
        let frame = udp(&rtp(5, 0, Some(100)));
        let whole = frame.len() as u32;
        let seen = look(&frame[..100], Layer::Ethernet, whole).unwrap();
        assert_eq!(seen.cut(false), 100);
        for length in 0..frame.len() {
            if let Some(seen) = look(&frame[..length], Layer::Ethernet, whole) {
                assert!(seen.cut(true) <= length);
            }
        }
    }
}
