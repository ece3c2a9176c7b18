//! Frames of every shape that the parser must know, each with what is to be counted of it.
//!
//! Small functions put headers around a body; [`corpus`] names the shapes. Nothing here knows how
//! the parser works.

use exporter_ebpf::abi::{Class, Event, RECEIVE};
use exporter_ebpf::packet::Link;

/// The SFU's addresses in all frames.
pub const LOCAL_V4: [u8; 4] = [192, 0, 2, 1];
/// As [`LOCAL_V4`].
pub const LOCAL_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
/// The far side's addresses in all frames.
pub const REMOTE_V4: [u8; 4] = [203, 0, 113, 7];
/// As [`REMOTE_V4`].
pub const REMOTE_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];

/// IPPROTO_TCP.
pub const TCP: u8 = 6;
/// IPPROTO_UDP.
pub const UDP: u8 = 17;

/// A frame, and what it must do.
#[derive(Clone, Debug)]
pub struct Shape {
    /// What it is.
    pub name: String,
    /// From the link's header on.
    pub frame: Vec<u8>,
    /// What that is.
    pub link: Link,
    /// Payload of one segment of an aggregate; 0: none.
    pub gso_size: u32,
    /// Segments of an aggregate; 0: none.
    pub gso_segs: u32,
    /// The ends of its flow.
    pub ends: Ends,
    /// What is counted, and nothing else.
    pub counted: Vec<Counted>,
}

/// Where packets and bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counted {
    /// To a stream, by SSRC.
    Stream(u32, u64, u64),
    /// To the flow, by class.
    Flow(usize, u64, u64),
    /// To an event.
    Event(u32, u64, u64),
}

/// What the frames of one flow have in common.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// Towards the SFU or from it.
    pub direction: u8,
    /// IPv6 rather than IPv4.
    pub is_v6: bool,
    /// The far side's port; the shapes of a corpus differ in it.
    pub remote_port: u16,
    /// The SFU's port.
    pub local_port: u16,
}

impl Ends {
    /// Over IPv4.
    pub fn v4(direction: u8, remote_port: u16) -> Self {
        Self { direction, is_v6: false, remote_port, local_port: 40_000 }
    }

    /// Over IPv6.
    pub fn v6(direction: u8, remote_port: u16) -> Self {
        Self { is_v6: true, ..Self::v4(direction, remote_port) }
    }

    /// Source and destination, in the order of the wire.
    fn on_the_wire<T>(&self, remote: T, local: T) -> [T; 2] {
        if self.direction == RECEIVE { [remote, local] } else { [local, remote] }
    }

    /// A UDP datagram, whole.
    pub fn udp(&self, payload: &[u8]) -> Vec<u8> {
        self.udp_of_length(payload, 8 + payload.len() as u16)
    }

    /// A UDP datagram with any length in its header.
    pub fn udp_of_length(&self, payload: &[u8], length: u16) -> Vec<u8> {
        let [source, destination] = self.on_the_wire(self.remote_port, self.local_port);
        let words = [source, destination, length, 0];
        [&words.map(u16::to_be_bytes).concat(), payload].concat()
    }

    /// A TCP segment; options in whole words.
    pub fn tcp(&self, options: &[u8], payload: &[u8]) -> Vec<u8> {
        let [source, destination] = self.on_the_wire(self.remote_port, self.local_port);
        let mut header = [source, destination].map(u16::to_be_bytes).concat();
        header.extend([0, 0, 0, 1, 0, 0, 0, 1, ((20 + options.len()) as u8 / 4) << 4, 0x10]);
        header.extend([0xff, 0xff, 0, 0, 0, 0]);
        [&header, options, payload].concat()
    }

    /// Around it an IP header without options.
    pub fn ip(&self, proto: u8, body: &[u8]) -> Vec<u8> {
        if self.is_v6 { self.ipv6(proto, body) } else { self.ipv4(&[], 0x4000, proto, body) }
    }

    /// An IPv4 packet; options in whole words; the flags and offset of its fragment.
    pub fn ipv4(&self, options: &[u8], fragment: u16, proto: u8, body: &[u8]) -> Vec<u8> {
        let header = 20 + options.len();
        let mut packet = vec![0x40 | (header / 4) as u8, 0];
        packet.extend(((header + body.len()) as u16).to_be_bytes());
        packet.extend([0, 1]);
        packet.extend(fragment.to_be_bytes());
        packet.extend([64, proto, 0, 0]);
        packet.extend(self.on_the_wire(REMOTE_V4, LOCAL_V4).concat());
        [&packet, options, body].concat()
    }

    /// An IPv6 packet whose body begins with the header that `next` names.
    pub fn ipv6(&self, next: u8, body: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend((body.len() as u16).to_be_bytes());
        packet.extend([next, 64]);
        packet.extend(self.on_the_wire(REMOTE_V6, LOCAL_V6).concat());
        [&packet[..], body].concat()
    }
}

/// IPv6 extension headers of some bytes each, before what `last` names.
pub fn extensions(chain: &[(u8, usize)], last: u8, body: &[u8]) -> (u8, Vec<u8>) {
    let mut next = last;
    let mut bytes = body.to_vec();
    for &(kind, size) in chain.iter().rev() {
        let mut header = vec![0; size];
        header[0] = next;
        header[1] = match kind {
            FRAGMENT => 0,
            AUTHENTICATION => (size / 4 - 2) as u8,
            _ => (size / 8 - 1) as u8,
        };
        bytes = [header, bytes].concat();
        next = kind;
    }
    (next, bytes)
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const ESP: u8 = 50;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;

/// An Ethernet frame around an IP packet, with any VLAN tags.
pub fn ethernet(tags: &[u16], packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![2; 12];
    for tag in tags {
        frame.extend(tag.to_be_bytes());
        frame.extend([0, 100]);
    }
    frame.extend(if packet[0] >> 4 == 6 { [0x86, 0xdd] } else { [0x08, 0x00] });
    [&frame, packet].concat()
}

/// An RTP packet: sources, words of extension (`None`: no extension), bytes of payload.
pub fn rtp(
    ssrc: u32,
    sequence: u16,
    sources: u8,
    extension: Option<u16>,
    payload: usize,
) -> Vec<u8> {
    let mut packet = vec![0x80 | sources, 0x80 | 96];
    packet.extend(sequence.to_be_bytes());
    packet.extend([0, 0, 3, 0xc0]);
    packet.extend(ssrc.to_be_bytes());
    packet.extend(vec![7; usize::from(sources) * 4]);
    if let Some(words) = extension {
        packet[0] |= 0x10;
        packet.extend([0xbe, 0xde]);
        packet.extend(words.to_be_bytes());
        packet.extend(vec![0x11; usize::from(words) * 4]);
    }
    packet.extend(vec![0xa5; payload]);
    packet
}

/// A DTLS record of some bytes, under a header that says so many.
pub fn dtls(kind: u8, version: u16, told: u16, bytes: usize) -> Vec<u8> {
    let mut record = vec![kind];
    record.extend(version.to_be_bytes());
    record.extend([0, 1, 0, 0, 0, 0, 0, 7]);
    record.extend(told.to_be_bytes());
    record.resize(13 + bytes, 0x55);
    record
}

/// DTLS 1.2, and the number of a record with a handshake.
pub const DTLS_1_2: u16 = 0xfefd;
/// As [`DTLS_1_2`].
pub const DTLS_HANDSHAKE: u8 = 22;

/// A STUN message of 20 bytes and some attributes.
pub fn stun(kind: u16, attributes: usize) -> Vec<u8> {
    let mut message = kind.to_be_bytes().to_vec();
    message.extend((attributes as u16).to_be_bytes());
    message.extend(0x2112_a442_u32.to_be_bytes());
    message.extend(vec![9; 12 + attributes]);
    message
}

/// Without its last bytes.
fn cut(mut bytes: Vec<u8>, last: usize) -> Vec<u8> {
    bytes.truncate(bytes.len() - last);
    bytes
}

/// STUN binding request, success response and error response.
pub const STUN_REQUEST: u16 = 0x0001;
/// As [`STUN_REQUEST`].
pub const STUN_SUCCESS: u16 = 0x0101;
/// As [`STUN_REQUEST`].
pub const STUN_ERROR: u16 = 0x0111;

/// Some bytes that begin as told.
pub fn beginning(start: &[u8], length: usize) -> Vec<u8> {
    let mut bytes = start.to_vec();
    bytes.resize(length, 0x33);
    bytes
}

/// All shapes in one direction, each with a remote port of its own from `first_port` on.
pub fn corpus(direction: u8, first_port: u16) -> Vec<Shape> {
    let mut corpus = Corpus { direction, port: first_port, shapes: vec![] };
    corpus.links();
    corpus.networks();
    corpus.fragments();
    corpus.payloads();
    corpus.lengths();
    corpus.ports();
    corpus.aggregates();
    corpus.shapes
}

/// An IPv4 header and GRE's (RFC 2784 §2, RFC 2890 §2).
pub fn gre(flags: [u8; 2], kind: [u8; 2], options: &[u8]) -> Vec<u8> {
    let mut outer = vec![0x45; 1];
    outer.resize(20, 0);
    outer[9] = 47;
    [&outer[..], &flags, &kind, options].concat()
}

struct Corpus {
    direction: u8,
    port: u16,
    shapes: Vec<Shape>,
}

const SSRC: u32 = 0xcafe_0001;

impl Corpus {
    fn v4(&mut self) -> Ends {
        self.port += 1;
        Ends::v4(self.direction, self.port)
    }

    fn v6(&mut self) -> Ends {
        self.port += 1;
        Ends::v6(self.direction, self.port)
    }

    fn add(&mut self, name: &str, ends: Ends, frame: Vec<u8>, counted: &[Counted]) -> &mut Shape {
        self.shapes.push(Shape {
            name: name.to_owned(),
            frame,
            link: Link::Ethernet,
            gso_size: 0,
            gso_segs: 0,
            ends,
            counted: counted.to_vec(),
        });
        self.shapes.last_mut().expect("just pushed")
    }

    /// An IP packet in a plain Ethernet frame.
    fn packet(&mut self, name: &str, ends: Ends, packet: Vec<u8>, counted: &[Counted]) {
        self.add(name, ends, ethernet(&[], &packet), counted);
    }

    /// A payload in a plain datagram over IPv4.
    fn payload(&mut self, name: &str, payload: Vec<u8>, counted: &[Counted]) {
        let ends = self.v4();
        self.packet(name, ends, ends.ip(UDP, &ends.udp(&payload)), counted);
    }

    /// As GRE over IPv4 and IPoIB give it.
    fn wrapped(&mut self, ends: Ends, media: &[u8], counted: &[Counted]) {
        let kind: [u8; 2] = if ends.is_v6 { [0x86, 0xdd] } else { [8, 0] };
        let options = |flags: u8| vec![0; 4 * flags.count_ones() as usize];
        for (name, wrap) in [
            ("a tunnel's IP", Vec::new()),
            ("GRE", gre([0, 0], kind, &[])),
            ("GRE with a key", gre([0x20, 0], kind, &options(0x20))),
            ("GRE with all options", gre([0xb0, 0], kind, &options(0xb0))),
            ("IPoIB", [&[0; 20][..], &kind, &[0, 0]].concat()),
            ("IPoIB to an address", [&[0x80; 20][..], &kind, &[0, 0]].concat()),
        ] {
            self.port += 1;
            let ends = Ends { remote_port: self.port, ..ends };
            let packet = ends.ip(UDP, &ends.udp(media));
            self.add(name, ends, [wrap, packet].concat(), counted).link = Link::Wrapped;
        }
        for (name, wrap) in [
            ("GRE with routing", gre([0x40, 0], kind, &[0; 4])),
            ("GRE version 1", gre([0x20, 1], kind, &[0; 4])),
            ("Ethernet in GRE", gre([0, 0], [0x65, 0x58], &[])),
            ("IPoIB of another kind", [&[0; 20][..], &[8, 6, 0, 0]].concat()),
        ] {
            let packet = ends.ip(UDP, &ends.udp(media));
            self.add(name, ends, [wrap, packet].concat(), &[]).link = Link::Wrapped;
        }
    }

    fn links(&mut self) {
        let media = rtp(SSRC, 1, 0, Some(1), 100);
        let counted = [Counted::Stream(SSRC, 1, media.len() as u64)];
        for ends in [self.v4(), self.v6()] {
            let packet = ends.ip(UDP, &ends.udp(&media));
            for (name, tags) in [
                ("no tag", &[][..]),
                ("802.1Q tag", &[0x8100]),
                ("802.1ad tag", &[0x88a8]),
                ("0x9100 tag", &[0x9100]),
                ("two tags", &[0x88a8, 0x8100]),
                ("two 802.1Q tags", &[0x8100, 0x8100]),
            ] {
                self.port += 1;
                let ends = Ends { remote_port: self.port, ..ends };
                let packet = ends.ip(UDP, &ends.udp(&media));
                self.add(name, ends, ethernet(tags, &packet), &counted);
            }
            self.add("three tags", ends, ethernet(&[0x88a8, 0x8100, 0x8100], &packet), &[]);
            self.add("no link header", ends, packet, &counted).link = Link::Raw;
            self.wrapped(ends, &media, &counted);
        }
        let ends = self.v4();
        let mut arp = ethernet(&[], &ends.ip(UDP, &ends.udp(&media)));
        arp[12..14].copy_from_slice(&[0x08, 0x06]);
        self.add("ARP", ends, arp, &[]);
        let ends = self.v4();
        let mut padded = ethernet(&[], &ends.ip(UDP, &ends.udp(&rtp(SSRC, 1, 0, None, 3))));
        padded.resize(60, 0);
        self.add("Ethernet padding", ends, padded, &[Counted::Stream(SSRC, 1, 15)]);
        let ends = self.v4();
        let mut odd = ends.ip(UDP, &ends.udp(&media));
        odd[0] = 0x35;
        self.add("no IP version", ends, odd, &[]).link = Link::Raw;
    }

    fn networks(&mut self) {
        let media = rtp(SSRC, 1, 0, None, 100);
        let counted = [Counted::Stream(SSRC, 1, media.len() as u64)];
        for options in [4, 12, 40] {
            let ends = self.v4();
            let packet = ends.ipv4(&vec![1; options], 0x4000, UDP, &ends.udp(&media));
            self.packet(&format!("IPv4 with {options} bytes of options"), ends, packet, &counted);
        }
        for (name, chain) in [
            ("hop-by-hop options", &[(HOP_BY_HOP, 8)][..]),
            ("destination options", &[(DESTINATION, 24)]),
            ("a routing header", &[(ROUTING, 40)]),
            ("an authentication header", &[(AUTHENTICATION, 24)]),
            ("an atomic fragment header", &[(FRAGMENT, 8)]),
            ("a long extension header", &[(DESTINATION, 2048)]),
            (
                "four extension headers",
                &[(HOP_BY_HOP, 8), (DESTINATION, 16), (ROUTING, 24), (AUTHENTICATION, 12)],
            ),
            ("six extension headers", &[(DESTINATION, 8); 6]),
        ] {
            let ends = self.v6();
            let (next, body) = extensions(chain, UDP, &ends.udp(&media));
            self.packet(&format!("IPv6 with {name}"), ends, ends.ipv6(next, &body), &counted);
        }
        let ends = self.v6();
        let (next, body) = extensions(&[(DESTINATION, 8); 7], UDP, &ends.udp(&media));
        let frame = ethernet(&[], &ends.ipv6(next, &body));
        let counted = [event(Event::TooManyExtensions, frame.len())];
        self.add("IPv6 with seven extension headers", ends, frame, &counted);
        for (name, last) in [("ESP", ESP), ("no next header", 59), ("ICMPv6", 58)] {
            let ends = self.v6();
            let (next, body) = extensions(&[(DESTINATION, 8)], last, &ends.udp(&media));
            self.packet(&format!("IPv6 with {name}"), ends, ends.ipv6(next, &body), &[]);
        }
        let ends = self.v4();
        let packet = ends.ip(1, &ends.udp(&media));
        self.packet("ICMP", ends, packet, &[]);
    }

    fn fragments(&mut self) {
        let media = rtp(SSRC, 1, 0, None, 500);
        let ends = self.v4();
        // 208 of 520 bytes: the UDP header, and 200 bytes of its payload.
        let first = &ends.udp(&media)[..208];
        let counted = [Counted::Stream(SSRC, 1, 200)];
        self.packet("first fragment", ends, ends.ipv4(&[], 0x2000, UDP, first), &counted);
        let ends = self.v4();
        let counted = [event(Event::LaterFragment, 104)];
        let packet = ends.ipv4(&[], 0x2000 | 26, UDP, &[0x55; 104]);
        self.packet("middle fragment", ends, packet, &counted);
        let packet = ends.ipv4(&[], 26, UDP, &[0x55; 104]);
        self.packet("last fragment", ends, packet, &counted);
        let ends = self.v6();
        for (name, place, counted) in [
            ("first fragment over IPv6", 1, Counted::Stream(SSRC, 1, 200)),
            ("later fragment over IPv6", 26 << 3, event(Event::LaterFragment, 208)),
        ] {
            let datagram = ends.udp(&media);
            let (next, mut body) = extensions(&[(FRAGMENT, 8)], UDP, &datagram[..208]);
            body[2..4].copy_from_slice(&u16::to_be_bytes(place));
            self.packet(name, ends, ends.ipv6(next, &body), &[counted]);
        }
    }

    fn payloads(&mut self) {
        let stream = |bytes| [Counted::Stream(SSRC, 1, bytes)];
        self.payload("RTP without payload", rtp(SSRC, 1, 0, None, 0), &stream(12));
        self.payload("RTP with sources", rtp(SSRC, 1, 15, None, 50), &stream(122));
        self.payload("RTP with an extension", rtp(SSRC, 1, 0, Some(3), 50), &stream(78));
        self.payload("RTP with both", rtp(SSRC, 1, 2, Some(5), 50), &stream(94));
        self.payload("RTP with both, no payload", rtp(SSRC, 1, 2, Some(5), 0), &stream(44));
        let mut padded = rtp(SSRC, 1, 0, None, 20);
        padded[0] |= 0x20;
        padded[31] = 20;
        self.payload("RTP with padding", padded, &stream(32));
        for (name, start, length) in [
            ("RTP cut within its header", &[0x80, 96][..], 11),
            ("RTP cut within its sources", &[0x8f, 96], 71),
            ("RTP cut before its extension", &[0x90, 96], 14),
        ] {
            self.payload(
                name,
                beginning(start, length),
                &[flow(Class::Other, 1, length), event(Event::BadRtp, length)],
            );
        }
        let mut long = rtp(SSRC, 1, 0, Some(2), 0);
        long[15] = 3;
        let counted = [flow(Class::Other, 1, 24), event(Event::BadRtp, 24)];
        self.payload("RTP with an extension longer than itself", long, &counted);
        for (name, payload, class) in [
            ("RTCP sender report", beginning(&[0x81, 200, 0, 6], 28), Class::Rtcp),
            ("RTCP with feedback", beginning(&[0x8f, 206, 0, 2], 12), Class::Rtcp),
            ("RTCP goodbye of nobody", beginning(&[0x80, 203, 0, 0], 4), Class::Rtcp),
            ("STUN request", stun(STUN_REQUEST, 80), Class::Stun),
            ("STUN success", stun(STUN_SUCCESS, 24), Class::Stun),
            ("STUN error", stun(STUN_ERROR, 12), Class::Stun),
            ("STUN without its cookie", beginning(&[0, 1], 28), Class::Other),
            ("STUN longer than its datagram", cut(stun(STUN_REQUEST, 24), 4), Class::Other),
            ("STUN in broken words", cut(stun(STUN_REQUEST, 23), 0), Class::Other),
            ("DTLS 1.2", dtls(DTLS_HANDSHAKE, DTLS_1_2, 100, 100), Class::Dtls),
            ("DTLS 1.0", dtls(21, 0xfeff, 2, 2), Class::Dtls),
            ("DTLS of old OpenSSL", dtls(20, 0x0100, 1, 1), Class::Dtls),
            ("two DTLS records", dtls(23, DTLS_1_2, 40, 93), Class::Dtls),
            ("DTLS longer than its datagram", dtls(22, DTLS_1_2, 101, 100), Class::Other),
            ("DTLS without content", dtls(22, DTLS_1_2, 0, 0), Class::Other),
            ("TLS 1.2 in a datagram", dtls(22, 0x0303, 100, 100), Class::Other),
            ("DTLS 1.3", beginning(&[0x2f, 1, 2, 0, 40], 45), Class::Dtls),
            ("DTLS 1.3 with a short number", beginning(&[0x24, 1, 0, 40], 45), Class::Dtls),
            (
                "DTLS 1.3 longer than its datagram",
                beginning(&[0x2f, 1, 2, 0, 41], 45),
                Class::Other,
            ),
            ("DTLS 1.3 without a length", beginning(&[0x2b, 1, 2, 0, 40], 45), Class::Other),
            ("first byte of DTLS", beginning(&[30, 0xfe, 0xfd], 100), Class::Other),
            ("TURN channel", beginning(&[0x40, 0, 0, 20], 24), Class::Other),
            ("ZRTP", beginning(&[0x10, 0, 0, 1], 40), Class::Other),
            ("one byte", vec![0x80], Class::Other),
            ("nothing", vec![], Class::Other),
        ] {
            let length = payload.len();
            self.payload(name, payload, &[flow(class, 1, length)]);
        }
        for (name, options, payload) in [
            ("TCP without payload", 0, 0),
            ("TCP with payload", 0, 700),
            ("TCP with options", 32, 700),
            ("TCP with all options", 40, 1),
        ] {
            for ends in [self.v4(), self.v6()] {
                let packet = ends.ip(TCP, &ends.tcp(&vec![1; options], &vec![0x80; payload]));
                self.packet(name, ends, packet, &[flow(Class::Other, 1, payload)]);
            }
        }
    }

    fn lengths(&mut self) {
        let media = rtp(SSRC, 1, 0, None, 100);
        for (name, length) in [("too short", 7), ("longer than its packet", 121)] {
            for ends in [self.v4(), self.v6()] {
                let frame = ethernet(&[], &ends.ip(UDP, &ends.udp_of_length(&media, length)));
                let counted = [event(Event::Malformed, frame.len())];
                self.add(&format!("UDP length {name}"), ends, frame, &counted);
            }
        }
        let ends = self.v4();
        let packet = ends.ip(UDP, &ends.udp_of_length(&media, 50));
        let counted = [Counted::Stream(SSRC, 1, 42)];
        self.packet("UDP shorter than its packet", ends, packet, &counted);
        for (name, at, value) in [
            ("IPv4 with another version", 0, 0x65),
            ("IPv4 header too short", 0, 0x44),
            ("IPv4 length within its header", 3, 19),
        ] {
            let ends = self.v4();
            let mut packet = ends.ip(UDP, &ends.udp(&media));
            packet[at] = value;
            packet[2] = 0;
            let frame = beginning(&[2; 12], 12);
            let frame = [&frame[..], &[0x08, 0x00], &packet].concat();
            let counted = [event(Event::Malformed, frame.len())];
            self.add(name, ends, frame, &counted);
        }
        let ends = self.v4();
        let mut segment = ends.tcp(&[], &[0x80; 50]);
        segment[12] = 0x40;
        let frame = ethernet(&[], &ends.ip(TCP, &segment));
        let counted = [event(Event::Malformed, frame.len())];
        self.add("TCP header too short", ends, frame, &counted);
        // Longer than a length can say, had a test run room for it.
        let ends = self.v4();
        let mut packet = ends.ip(TCP, &ends.tcp(&[], &[0x80; 900]));
        packet[2..4].fill(0);
        self.packet("BIG TCP over IPv4", ends, packet, &[flow(Class::Other, 1, 900)]);
        let ends = self.v6();
        let mut packet = ends.ip(TCP, &ends.tcp(&[], &[0x80; 900]));
        packet[4..6].fill(0);
        self.packet("BIG TCP over IPv6", ends, packet, &[flow(Class::Other, 1, 900)]);
        let ends = self.v6();
        let (next, body) = extensions(&[(HOP_BY_HOP, 8)], UDP, &ends.udp_of_length(&media, 0));
        let mut packet = ends.ipv6(next, &body);
        packet[4..6].fill(0);
        self.packet("jumbogram", ends, packet, &[Counted::Stream(SSRC, 1, 112)]);
    }

    fn ports(&mut self) {
        let media = rtp(SSRC, 1, 0, None, 100);
        for (local_port, is_counted) in
            [(39_999, false), (40_000, true), (49_999, true), (50_000, false)]
        {
            for ends in [self.v4(), self.v6()] {
                let ends = Ends { local_port, ..ends };
                let counted = is_counted.then_some(Counted::Stream(SSRC, 1, 112));
                let packet = ends.ip(UDP, &ends.udp(&media));
                self.packet(&format!("port {local_port}"), ends, packet, counted.as_slice());
            }
        }
        // The far side's port is in the range, the local one is not.
        let ends = Ends { remote_port: 40_000, local_port: 5_000, ..self.v4() };
        self.packet("a port of the other side", ends, ends.ip(UDP, &ends.udp(&media)), &[]);
    }

    fn aggregates(&mut self) {
        let datagrams = [
            rtp(1, 10, 0, Some(1), 80),
            rtp(2, 20, 1, None, 84),
            rtp(1, 11, 0, None, 88),
            beginning(&[0x80, 200], 100),
            beginning(&[0x8f, 96], 30),
        ];
        let payload = datagrams.concat();
        assert!(datagrams[..4].iter().all(|datagram| datagram.len() == 100));
        let counted = [
            Counted::Stream(1, 2, 200),
            Counted::Stream(2, 1, 100),
            flow(Class::Rtcp, 1, 100),
            flow(Class::Other, 1, 30),
            event(Event::BadRtp, 30),
        ];
        for ends in [self.v4(), self.v6()] {
            let frame = ethernet(&[], &ends.ip(UDP, &ends.udp(&payload)));
            let shape = self.add("UDP aggregate of several streams", ends, frame, &counted);
            (shape.gso_size, shape.gso_segs) = (100, 5);
        }
        let ends = self.v4();
        let frame = ethernet(&[0x8100], &ends.ip(UDP, &ends.udp(&[0x77; 150 * 12])));
        let counted = [flow(Class::Other, 150, 1800)];
        let shape = self.add("UDP aggregate of more than is looked at", ends, frame, &counted);
        (shape.gso_size, shape.gso_segs) = (12, 150);
        let ends = self.v4();
        let frame = ethernet(&[], &ends.ip(UDP, &ends.udp(&datagrams[0])));
        let shape = self.add("UDP aggregate of one", ends, frame, &[Counted::Stream(1, 1, 100)]);
        (shape.gso_size, shape.gso_segs) = (100, 1);
        let ends = self.v4();
        let frame = ethernet(&[], &ends.ip(TCP, &ends.tcp(&[1; 12], &[0x80; 1500])));
        let shape = self.add("TCP aggregate", ends, frame, &[flow(Class::Other, 4, 1500)]);
        (shape.gso_size, shape.gso_segs) = (400, 4);
        let ends = self.v4();
        let frame = ethernet(&[], &ends.ip(TCP, &ends.tcp(&[1; 12], &[0x80; 1500])));
        let shape =
            self.add("TCP aggregate from a tap", ends, frame, &[flow(Class::Other, 4, 1500)]);
        (shape.gso_size, shape.gso_segs) = (400, 0);
    }
}

fn flow(class: Class, packets: u64, bytes: usize) -> Counted {
    Counted::Flow(class as usize, packets, bytes as u64)
}

fn event(event: Event, bytes: usize) -> Counted {
    Counted::Event(event as u32, 1, bytes as u64)
}
