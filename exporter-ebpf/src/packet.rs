//! Bytes of a frame in, one UDP or TCP payload with its two ends out.
//!
//! Every read is bounds-checked in the form that the kernel's verifier follows (`start + offset +
//! size > end`), and the local port is tested before anything that only a counted packet needs.
//! Nothing here knows tables, classes or RTP.

use core::marker::PhantomData;
use core::mem::size_of;

use crate::abi::{Event, FlowKeyV4, FlowKeyV6, RECEIVE, TCP, UDP, ends};
use crate::ports::PortSet;

/// IPv6 extension headers that are looked through.
pub const MAX_EXTENSIONS: usize = 6;
/// No header begins behind this, which as a mask says so to the verifier.
const MAX_OFFSET: usize = 0x3fff;
const _: () = assert!(60 + 16 + 40 + MAX_EXTENSIONS * 2048 <= MAX_OFFSET);

/// What stands before the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// An Ethernet header, with up to two VLAN tags: the customer's and the provider's.
    Ethernet,
    /// Nothing (tun, WireGuard, raw IP).
    Raw,
    /// What a tunnel or InfiniBand puts there: nothing; an IPv4 header with GRE's behind it (RFC 2784 and
    /// 2890), which Linux leaves in front of what comes in by an IPv4 GRE interface; or a hardware address
    /// of 20 bytes and a header of 4 (IPoIB, RFC 4391 §6, as Linux gives it to packet sockets).
    Wrapped,
}

/// How to look at a frame.
#[derive(Clone, Copy, Debug)]
pub struct View<P> {
    /// What the frame begins with.
    pub link: Link,
    /// [`RECEIVE`]: the destination is the local end. [`crate::abi::SEND`]: the source is.
    pub direction: u8,
    /// Local ports that are looked at.
    pub ports: P,
    /// Length of the whole frame, of which the readable bytes may be only the beginning.
    pub frame: u32,
}

/// The payload of a counted packet, and its two ends; `W` 32-bit words make an address (1 or 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<const W: usize> {
    /// The far side's address, in network order.
    pub remote: [u32; W],
    /// This side's address, in network order.
    pub local: [u32; W],
    /// The far side's port.
    pub remote_port: u16,
    /// This side's port.
    pub local_port: u16,
    /// [`UDP`] or [`TCP`].
    pub proto: u8,
    /// Where in the frame the payload begins.
    pub payload: usize,
    /// Bytes of payload by the IP, UDP and TCP headers, without a link's padding.
    pub length: u32,
}

/// Why a frame is no counted packet. Flat, because the kernel's verifier refuses a field that only
/// some of an enum's variants have, where the compiler moves it for all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skip {
    /// The reason.
    pub why: Why,
    /// Bytes that the event counts; zero without one.
    pub bytes: u32,
}

/// The reason of a [`Skip`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Not IP, neither UDP nor TCP, or a port that is not looked at: no concern of ours.
    Elsewhere,
    /// The readable bytes end before the headers do. The frame itself may have more.
    Short,
    /// The headers say that it cannot be counted.
    Event(Event),
}

impl Skip {
    /// [`Why::Elsewhere`].
    pub const ELSEWHERE: Self = Self { why: Why::Elsewhere, bytes: 0 };
    /// [`Why::Short`].
    pub const SHORT: Self = Self { why: Why::Short, bytes: 0 };

    /// [`Why::Event`].
    #[inline(always)]
    pub const fn event(event: Event, bytes: u32) -> Self {
        Self { why: Why::Event(event), bytes }
    }
}

/// A counted packet of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Over IPv4.
    V4(Packet<1>),
    /// Over IPv6.
    V6(Packet<4>),
}

/// Both steps at once: the link's header, then IP and what it carries.
#[inline(always)]
pub fn parse<P: PortSet>(bytes: Bytes<'_>, view: &View<P>) -> Result<Parsed, Skip> {
    Ok(match network(bytes, view)? {
        Network::V4(offset) => Parsed::V4(ipv4(bytes, offset, view)?),
        Network::V6(offset) => Parsed::V6(ipv6(bytes, offset, view)?),
    })
}

/// Where the IP header begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// IPv4, at this offset.
    V4(usize),
    /// IPv6, at this offset.
    V6(usize),
}

/// Readable bytes of a frame. A pair of addresses rather than a slice, because that is what the
/// kernel gives and what its verifier can follow.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<'a> {
    start: usize,
    end: usize,
    borrowed: PhantomData<&'a [u8]>,
}

impl<'a> Bytes<'a> {
    /// The bytes of a slice.
    pub fn new(slice: &'a [u8]) -> Self {
        let range = slice.as_ptr_range();
        Self {
            start: range.start.expose_provenance(),
            end: range.end.expose_provenance(),
            borrowed: PhantomData,
        }
    }

    /// The bytes between two addresses.
    ///
    /// # Safety
    /// They are readable throughout `'a`.
    #[inline(always)]
    pub const unsafe fn between(start: usize, end: usize) -> Self {
        Self { start, end, borrowed: PhantomData }
    }

    /// Reads a header at `offset`, if it is there as a whole.
    #[inline(always)]
    pub fn read<T: Plain>(self, offset: usize) -> Option<T> {
        let address = self.start + offset;
        if address + size_of::<T>() > self.end {
            return None;
        }
        let pointer = core::ptr::with_exposed_provenance::<T>(address);
        // SAFETY: the bytes lie within `'a`, and any bytes make a `Plain`. The kernel's packet bytes
        // need no alignment where its verifier accepts the load, and a load by bytes would cost
        // several times as much.
        #[cfg(target_arch = "bpf")]
        return Some(unsafe { pointer.read() });
        // SAFETY: as above.
        #[cfg(not(target_arch = "bpf"))]
        return Some(unsafe { pointer.read_unaligned() });
    }
}

/// Types that any bytes make.
///
/// # Safety
/// Every bit pattern is a value, and there is no padding.
pub unsafe trait Plain: Copy {}

// SAFETY: integers and arrays of them.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}

/// Looks through the link's header.
#[inline(always)]
pub fn network<P: PortSet>(bytes: Bytes<'_>, view: &View<P>) -> Result<Network, Skip> {
    match view.link {
        Link::Ethernet => ethernet(bytes),
        Link::Raw => match version(bytes)? {
            4 => Ok(Network::V4(0)),
            6 => Ok(Network::V6(0)),
            _ => Err(Skip::ELSEWHERE),
        },
        Link::Wrapped => match version(bytes)? {
            4 => generic_routing(bytes),
            6 => Ok(Network::V6(0)),
            _ => infiniband(bytes),
        },
    }
}

/// The first four bits, which say IP's version. Never a single byte: the verifier learns nothing from
/// `address >= end`, which is what the compiler makes of that test.
#[inline(always)]
fn version(bytes: Bytes<'_>) -> Result<u32, Skip> {
    Ok(u32::from_be(bytes.read(0).ok_or(Skip::SHORT)?) >> 28)
}

/// GRE's protocol number.
const GRE: u8 = 47;

/// IPv4, or what GRE carries in it.
#[inline(always)]
fn generic_routing(bytes: Bytes<'_>) -> Result<Network, Skip> {
    let outer: Ipv4 = bytes.read(0).ok_or(Skip::SHORT)?;
    if outer.proto != GRE {
        return Ok(Network::V4(0));
    }
    let start = (outer.version_and_words & 0x0f) as usize * 4;
    let flags = u16::from_be(bytes.read(start).ok_or(Skip::SHORT)?);
    let kind = u16::from_be(bytes.read(start + 2).ok_or(Skip::SHORT)?);
    // Checksum, key and sequence number take four bytes each; whoever sets another bit means another GRE.
    if flags & !0xb000 != 0 {
        return Err(Skip::ELSEWHERE);
    }
    let options = (flags >> 15) + (flags >> 13 & 1) + (flags >> 12 & 1);
    // So that the verifier goes through the rest once, whichever there are.
    let [forgotten, ..] = forget([(start + 4) as u8 + options as u8 * 4, 0, 0, 0]);
    carried(kind, forgotten as usize & 0x7f)
}

/// What IPoIB carries.
#[inline(always)]
fn infiniband(bytes: Bytes<'_>) -> Result<Network, Skip> {
    carried(u16::from_be(bytes.read(20).ok_or(Skip::SHORT)?), 24)
}

/// IP by its EtherType.
#[inline(always)]
fn carried(kind: u16, offset: usize) -> Result<Network, Skip> {
    match kind {
        0x0800 => Ok(Network::V4(offset)),
        0x86dd => Ok(Network::V6(offset)),
        _ => Err(Skip::ELSEWHERE),
    }
}

#[inline(always)]
fn ethernet(bytes: Bytes<'_>) -> Result<Network, Skip> {
    let mut kind = u16::from_be(bytes.read(12).ok_or(Skip::SHORT)?);
    let mut offset = 14;
    // Written out, because the compiler's loop is slower and harder on the verifier.
    if is_tag(kind) {
        kind = u16::from_be(bytes.read(16).ok_or(Skip::SHORT)?);
        offset = 18;
        if is_tag(kind) {
            kind = u16::from_be(bytes.read(20).ok_or(Skip::SHORT)?);
            offset = 22;
        }
        // So that the verifier goes through the rest once for all tagged frames.
        let [forgotten, ..] = forget([offset as u8, 0, 0, 0]);
        offset = forgotten as usize & 0x1f;
    }
    carried(kind, offset)
}

/// 802.1Q, 802.1ad, and the number that was used before 802.1ad had one.
#[inline(always)]
fn is_tag(kind: u16) -> bool {
    kind == 0x8100 || kind == 0x88a8 || kind == 0x9100
}

/// RFC 791 §3.1.
#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv4 {
    version_and_words: u8,
    service: u8,
    total: u16,
    identification: u16,
    fragment: u16,
    time_to_live: u8,
    proto: u8,
    checksum: u16,
    source: [u32; 1],
    destination: [u32; 1],
}

// SAFETY: integers without padding.
unsafe impl Plain for Ipv4 {}

/// Looks through an IPv4 header and what follows it.
#[inline(always)]
pub fn ipv4<P: PortSet>(
    bytes: Bytes<'_>,
    offset: usize,
    view: &View<P>,
) -> Result<Packet<1>, Skip> {
    let header: Ipv4 = bytes.read(offset).ok_or(Skip::SHORT)?;
    let malformed = Skip::event(Event::Malformed, view.frame);
    let words = (header.version_and_words & 0x0f) as usize;
    if header.version_and_words >> 4 != 4 || words < 5 {
        return Err(malformed);
    }
    if header.proto != UDP && header.proto != TCP {
        return Err(Skip::ELSEWHERE);
    }
    let room = view.frame.wrapping_sub(offset as u32);
    let total = u16::from_be(header.total) as u32;
    let fragment = u16::from_be(header.fragment);
    if fragment & 0x1fff != 0 {
        let bytes = total.saturating_sub(words as u32 * 4);
        return Err(Skip::event(Event::LaterFragment, bytes));
    }
    let transport = offset + words * 4;
    let ports = ports(bytes, transport, header.proto, view)?;
    // A TCP aggregate of more than 64 KiB has no room for its length (BIG TCP, Linux 6.3).
    let total = if total == 0 && header.proto == TCP { room } else { total };
    if total > room {
        return Err(Skip::event(Event::Truncated, view.frame));
    }
    if total < words as u32 * 4 {
        return Err(malformed);
    }
    let segment = Segment {
        offset: transport,
        proto: header.proto,
        length: total - words as u32 * 4,
        is_fragment: fragment & 0x2000 != 0,
        is_jumbo: false,
    };
    let (payload, length) = segment.payload(bytes, view)?;
    Ok(ports.with_ends(header.source, header.destination, header.proto, payload, length, view))
}

/// An IPv4 header without options, and the ports behind it.
#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv4AndPorts {
    ip: Ipv4,
    ports: [u16; 2],
}

// SAFETY: integers without padding.
unsafe impl Plain for Ipv4AndPorts {}

/// Tells [`Why::Elsewhere`] of the commonest frame, IPv4 without tags and options, by four tests. On a
/// host with other traffic this is all that most packets cost. False: look closer.
#[inline(always)]
pub fn is_plainly_elsewhere<P: PortSet>(bytes: Bytes<'_>, view: &View<P>) -> bool {
    let offset = match view.link {
        Link::Ethernet if bytes.read::<u16>(12) != Some(0x0800u16.to_be()) => return false,
        Link::Ethernet => 14,
        Link::Raw => 0,
        Link::Wrapped => return false,
    };
    let Some(header) = bytes.read::<Ipv4AndPorts>(offset) else { return false };
    if header.ip.version_and_words != 0x45 || header.ip.fragment & 0x1fffu16.to_be() != 0 {
        return false;
    }
    // Of another protocol these are no ports, but then it is elsewhere anyway.
    let [source, destination] = header.ports;
    let local = if view.direction == RECEIVE { destination } else { source };
    !view.ports.contains(header.ip.proto, local)
}

/// RFC 8200 §3.
#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv6 {
    version_class_flow: u32,
    length: u16,
    next: u8,
    hop_limit: u8,
    source: [u32; 4],
    destination: [u32; 4],
}

// SAFETY: integers without padding.
unsafe impl Plain for Ipv6 {}

/// Looks through an IPv6 header, its extensions, and what follows them.
#[inline(always)]
pub fn ipv6<P: PortSet>(
    bytes: Bytes<'_>,
    offset: usize,
    view: &View<P>,
) -> Result<Packet<4>, Skip> {
    let header: Ipv6 = bytes.read(offset).ok_or(Skip::SHORT)?;
    if u32::from_be(header.version_class_flow) >> 28 != 6 {
        return Err(Skip::event(Event::Malformed, view.frame));
    }
    let mut chain = Chain {
        next: header.next,
        offset: offset + size_of::<Ipv6>(),
        is_fragment: false,
        is_later_fragment: false,
    };
    if chain.next != UDP && chain.next != TCP {
        chain.follow(bytes, view)?;
        chain.forget();
    }
    let room = view.frame.wrapping_sub((offset + size_of::<Ipv6>()) as u32);
    let extensions = (chain.offset - offset - size_of::<Ipv6>()) as u32;
    let total = u16::from_be(header.length) as u32;
    if chain.is_later_fragment {
        let bytes = total.saturating_sub(extensions);
        return Err(Skip::event(Event::LaterFragment, bytes));
    }
    let ports = ports(bytes, chain.offset, chain.next, view)?;
    // A jumbogram (RFC 2675 §3), or an aggregate of more than 64 KiB (Linux 5.19).
    let is_jumbo = total == 0;
    let total = if is_jumbo { room } else { total };
    if total > room {
        return Err(Skip::event(Event::Truncated, view.frame));
    }
    if total < extensions {
        return Err(Skip::event(Event::Malformed, view.frame));
    }
    let segment = Segment {
        offset: chain.offset,
        proto: chain.next,
        length: total - extensions,
        is_fragment: chain.is_fragment,
        is_jumbo,
    };
    let (payload, length) = segment.payload(bytes, view)?;
    Ok(ports.with_ends(header.source, header.destination, chain.next, payload, length, view))
}

/// A walk along IPv6 extension headers (RFC 8200 §4).
struct Chain {
    next: u8,
    offset: usize,
    is_fragment: bool,
    is_later_fragment: bool,
}

impl Chain {
    /// Goes to the UDP or TCP header, or to where a later fragment's bytes begin.
    #[inline(always)]
    fn follow<P>(&mut self, bytes: Bytes<'_>, view: &View<P>) -> Result<(), Skip> {
        for _ in 0..MAX_EXTENSIONS {
            // Hop-by-hop options, routing, destination options; fragment; authentication.
            let [next, units] = match self.next {
                0 | 43 | 60 | 44 | 51 => bytes.read(self.offset).ok_or(Skip::SHORT)?,
                _ => return Err(Skip::ELSEWHERE),
            };
            let size = match self.next {
                44 => {
                    let [_, place]: [u16; 2] = bytes.read(self.offset).ok_or(Skip::SHORT)?;
                    let place = u16::from_be(place);
                    self.is_fragment = place & 1 != 0;
                    self.is_later_fragment = place & 0xfff8 != 0;
                    8
                }
                51 => (units as usize + 2) * 4,
                _ => (units as usize + 1) * 8,
            };
            self.next = next;
            self.offset += size;
            if next == UDP || next == TCP || self.is_later_fragment {
                return Ok(());
            }
        }
        match self.next {
            0 | 43 | 60 | 44 | 51 => Err(Skip::event(Event::TooManyExtensions, view.frame)),
            _ => Err(Skip::ELSEWHERE),
        }
    }
}

impl Chain {
    /// Else the verifier would go through all that follows once for every chain there could be.
    #[inline(always)]
    fn forget(&mut self) {
        let flags = self.is_fragment as u8 | (self.is_later_fragment as u8) << 1;
        let [low, high] = (self.offset as u16).to_ne_bytes();
        let [low, high, next, flags] = forget([low, high, self.next, flags]);
        self.offset = u16::from_ne_bytes([low, high]) as usize & MAX_OFFSET;
        self.next = next;
        self.is_fragment = flags & 1 != 0;
        self.is_later_fragment = flags & 2 != 0;
    }
}

/// Changes nothing, but makes the verifier forget what it has learned of these bytes on the way: a
/// word that was stored in bytes is unknown to it when it is loaded again.
#[inline(always)]
pub fn forget(known: [u8; 4]) -> [u8; 4] {
    let mut slot = 0u32;
    let bytes = (&raw mut slot).cast::<u8>();
    // SAFETY: the four bytes of `slot`.
    let forgotten = unsafe {
        bytes.write_volatile(known[0]);
        bytes.add(1).write_volatile(known[1]);
        bytes.add(2).write_volatile(known[2]);
        bytes.add(3).write_volatile(known[3]);
        (&raw const slot).read_volatile()
    };
    forgotten.to_ne_bytes()
}

/// The two ports that UDP and TCP both begin with, the local one among those that are looked at.
#[derive(Clone, Copy)]
struct Ports {
    remote: u16,
    local: u16,
}

#[inline(always)]
fn ports<P: PortSet>(
    bytes: Bytes<'_>,
    offset: usize,
    proto: u8,
    view: &View<P>,
) -> Result<Ports, Skip> {
    let [source, destination]: [u16; 2] = bytes.read(offset).ok_or(Skip::SHORT)?;
    let (remote, local) =
        if view.direction == RECEIVE { (source, destination) } else { (destination, source) };
    if !view.ports.contains(proto, local) {
        return Err(Skip::ELSEWHERE);
    }
    Ok(Ports { remote: u16::from_be(remote), local: u16::from_be(local) })
}

impl Ports {
    #[inline(always)]
    fn with_ends<const W: usize, P>(
        self,
        source: [u32; W],
        destination: [u32; W],
        proto: u8,
        payload: usize,
        length: u32,
        view: &View<P>,
    ) -> Packet<W> {
        let (remote, local) =
            if view.direction == RECEIVE { (source, destination) } else { (destination, source) };
        Packet {
            remote,
            local,
            remote_port: self.remote,
            local_port: self.local,
            proto,
            payload,
            length,
        }
    }
}

/// What IP carries, beginning with a UDP or TCP header.
struct Segment {
    offset: usize,
    proto: u8,
    length: u32,
    is_fragment: bool,
    is_jumbo: bool,
}

impl Segment {
    /// Offset and length of the payload.
    #[inline(always)]
    fn payload<P>(&self, bytes: Bytes<'_>, view: &View<P>) -> Result<(usize, u32), Skip> {
        let (header, end) = if self.proto == UDP {
            let told = u16::from_be(bytes.read(self.offset + 4).ok_or(Skip::SHORT)?) as u32;
            // A first fragment has the length of the whole datagram, a jumbogram has none.
            let has_no_length = self.is_jumbo && told == 0;
            (8, if self.is_fragment || has_no_length { self.length } else { told })
        } else {
            // Reading the last byte of the fixed part makes sure that all of it is there.
            let [words, ..]: [u8; 8] = bytes.read(self.offset + 12).ok_or(Skip::SHORT)?;
            let words = (words >> 4) as u32;
            if words < 5 {
                return Err(Skip::event(Event::Malformed, view.frame));
            }
            (words * 4, self.length)
        };
        if end < header || end > self.length {
            return Err(Skip::event(Event::Malformed, view.frame));
        }
        Ok((self.offset + header as usize, end - header))
    }
}

impl Packet<1> {
    /// Key of the packet's flow; a stream's key has the direction set.
    #[inline(always)]
    pub fn flow(&self, direction: u8) -> FlowKeyV4 {
        let [ports, rest] = ends(self.remote_port, self.local_port, self.proto, direction);
        FlowKeyV4::from_words([self.remote[0], self.local[0], ports, rest])
    }
}

impl Packet<4> {
    /// Key of the packet's flow; a stream's key has the direction set.
    #[inline(always)]
    pub fn flow(&self, direction: u8) -> FlowKeyV6 {
        let [ports, rest] = ends(self.remote_port, self.local_port, self.proto, direction);
        let ([a, b, c, d], [e, f, g, h]) = (self.remote, self.local);
        FlowKeyV6::from_words([a, b, c, d, e, f, g, h, ports, rest])
    }
}

#[cfg(test)]
#[path = "packet_tests.rs"]
mod tests;
