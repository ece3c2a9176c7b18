//! A datagram's payload in, its class and RTP header out (RFC 7983, RFC 5761, RFC 3550 §5.1); and
//! the sequence state of one RTP stream (RFC 3550 A.1, A.3), on whose turns [`jitter`] depends.
//!
//! Nothing here knows addresses, tables or clocks.

use crate::abi::{Class, StreamValue};
use crate::jitter;
use crate::packet::Bytes;

/// A jump ahead by fewer numbers than this is loss, by more a restart (RFC 3550 A.1 `MAX_DROPOUT`).
pub const MAX_DROPOUT: u16 = 3000;
/// A number that is behind by fewer than this is late, by more a restart (RFC 3550 A.1
/// `MAX_MISORDER`).
pub const MAX_MISORDER: u16 = 100;
/// No sequence number (RFC 3550 A.1 sets `bad_seq` to it).
pub const NO_SEQUENCE: u32 = (1 << 16) + 1;

/// What a datagram carries. Flat rather than an enum with fields: where an enum leaves a field
/// undefined, the kernel's verifier refuses the register that would hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// What it is.
    pub kind: Kind,
    /// Its header, zero unless [`Kind::Rtp`].
    pub rtp: Rtp,
}

/// Kinds of datagrams; finer than [`Class`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// RTP or SRTP with a header that fits.
    Rtp,
    /// RTCP or SRTCP.
    Rtcp,
    /// STUN, but no success response.
    Stun,
    /// A STUN success response: whoever sends it has checked the request's credentials.
    StunSuccess,
    /// DTLS.
    Dtls,
    /// First byte of RTP, but the header does not fit the datagram.
    BadRtp,
    /// Anything else: TURN channels, ZRTP, keep-alives.
    Other,
    /// It has bytes that decide, but they cannot be read.
    Unreadable,
}

impl Kind {
    /// The class that counts it.
    #[inline(always)]
    pub fn class(self) -> Class {
        match self {
            Self::Rtp => Class::Rtp,
            Self::Rtcp => Class::Rtcp,
            Self::Stun | Self::StunSuccess => Class::Stun,
            Self::Dtls => Class::Dtls,
            Self::BadRtp | Self::Other | Self::Unreadable => Class::Other,
        }
    }

    /// A server sends this to no stranger.
    #[inline(always)]
    pub fn is_proof(self) -> bool {
        matches!(self, Self::Rtp | Self::Rtcp | Self::StunSuccess | Self::Dtls)
    }

    const fn alone(self) -> Content {
        let rtp = Rtp { ssrc: 0, sequence: 0, timestamp: 0, payload_type: 0 };
        Content { kind: self, rtp }
    }
}

/// The fields of an RTP header that are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rtp {
    /// Synchronisation source.
    pub ssrc: u32,
    /// Sequence number.
    pub sequence: u16,
    /// Timestamp, in units of the payload's clock.
    pub timestamp: u32,
    /// Payload type, 0–127.
    pub payload_type: u8,
}

/// A payload's bytes; `None` where they cannot be read.
pub trait Payload {
    /// Big-endian words from a byte offset on, in network order.
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]>;
    /// The first two bytes.
    fn lead(&self) -> Option<[u8; 2]>;
}

/// A payload within a frame's readable bytes.
#[derive(Clone, Copy, Debug)]
pub struct Within<'a> {
    /// The frame.
    pub frame: Bytes<'a>,
    /// Where the payload begins.
    pub offset: usize,
}

impl Payload for Within<'_> {
    #[inline(always)]
    fn words<const N: usize>(&self, offset: usize) -> Option<[u32; N]> {
        self.frame.read(self.offset + offset)
    }

    #[inline(always)]
    fn lead(&self) -> Option<[u8; 2]> {
        self.frame.read(self.offset)
    }
}

/// Tells what a payload of `length` bytes is.
#[inline(always)]
pub fn classify(payload: &impl Payload, length: u32) -> Content {
    if length < RTP_HEADER {
        return classify_short(payload, length).alone();
    }
    let Some([first, timestamp, ssrc]) = payload.words(0) else {
        return Kind::Unreadable.alone();
    };
    let first = u32::from_be(first);
    if !is_rtp_or_rtcp(first >> 24) {
        return classify_other(payload, first, u32::from_be(timestamp), length).alone();
    }
    let second = (first >> 16) & 0xff;
    if is_rtcp(second) {
        return Kind::Rtcp.alone();
    }
    if first & (HAS_EXTENSION | SOURCES) != 0 {
        let mut header = RTP_HEADER + ((first & SOURCES) >> 24) * 4;
        if first & HAS_EXTENSION != 0 {
            if header + 4 > length {
                return Kind::BadRtp.alone();
            }
            let Some([extension]) = payload.words(header as usize) else {
                return Kind::Unreadable.alone();
            };
            header += 4 + (u32::from_be(extension) & 0xffff) * 4;
        }
        if header > length {
            return Kind::BadRtp.alone();
        }
    }
    let rtp = Rtp {
        ssrc: u32::from_be(ssrc),
        sequence: first as u16,
        timestamp: u32::from_be(timestamp),
        payload_type: (second & 0x7f) as u8,
    };
    Content { kind: Kind::Rtp, rtp }
}

/// The fixed header (RFC 3550 §5.1), and in its first word the extension bit and the CSRC count.
const RTP_HEADER: u32 = 12;
const HAS_EXTENSION: u32 = 0x1000_0000;
const SOURCES: u32 = 0x0f00_0000;

#[inline(always)]
fn is_rtp_or_rtcp(first_byte: u32) -> bool {
    first_byte & 0xc0 == 0x80
}

#[inline(always)]
fn is_rtcp(second_byte: u32) -> bool {
    second_byte & 0xe0 == 0xc0
}

/// Neither RTP nor RTCP, and at least as long as RTP's header.
#[inline(always)]
fn classify_other(payload: &impl Payload, first: u32, second: u32, length: u32) -> Kind {
    match first >> 24 {
        0..=3 => stun(first, second, length),
        // Change of ciphers, alert, handshake, data, heartbeat (RFC 6520 §2); acknowledgement (RFC 9147
        // §7). A record with a connection ID (25) is none of WebRTC's.
        20..=24 | 26 => dtls(payload, first, length),
        32..=63 => dtls_unified(first, second, length),
        _ => Kind::Other,
    }
}

/// A STUN message (RFC 8489 §5) by its cookie, and a length that is in whole words and fits.
#[inline(always)]
fn stun(first: u32, cookie: u32, length: u32) -> Kind {
    const HEADER: u32 = 20;
    let told = first & 0xffff;
    if cookie != 0x2112_a442 || told & 3 != 0 || HEADER + told > length {
        return Kind::Other;
    }
    // Class bits 0b10 (RFC 8489 §5).
    if (first >> 16) & 0x0110 == 0x0100 { Kind::StunSuccess } else { Kind::Stun }
}

/// A DTLS record (RFC 6347 §4.1) by its version, and a length that fits. Versions 1.0 and 1.2 (1.3
/// says 1.2 here, RFC 9147 §4), and what OpenSSL called 1.0 before the RFC.
#[inline(always)]
fn dtls(payload: &impl Payload, first: u32, length: u32) -> Kind {
    const HEADER: u32 = 13;
    if !matches!((first >> 8) & 0xffff, 0xfefd | 0xfeff | 0x0100) || length < HEADER {
        return Kind::Other;
    }
    // The header's last four bytes, of which two are the length.
    let Some([end]) = payload.words(HEADER as usize - 4) else { return Kind::Unreadable };
    let told = u32::from_be(end) & 0xffff;
    if told == 0 || HEADER + told > length { Kind::Other } else { Kind::Dtls }
}

/// A DTLS 1.3 record under its unified header (RFC 9147 §4), which has no version. Only with the length
/// that may be left out, and without the connection ID that WebRTC does not use, does it say enough of
/// itself.
#[inline(always)]
fn dtls_unified(first: u32, second: u32, length: u32) -> Kind {
    const CONNECTION_ID: u32 = 0x1000_0000;
    const LONG_SEQUENCE: u32 = 0x0800_0000;
    const LENGTH: u32 = 0x0400_0000;
    /// What the encryption of sequence numbers takes (RFC 9147 §4.2.3).
    const SHORTEST: u32 = 16;
    if first & (CONNECTION_ID | LENGTH) != LENGTH {
        return Kind::Other;
    }
    let (header, told) = match first & LONG_SEQUENCE {
        0 => (4, first & 0xffff),
        _ => (5, (first & 0xff) << 8 | second >> 24),
    };
    if told < SHORTEST || header + told > length { Kind::Other } else { Kind::Dtls }
}

/// Whether a TCP segment begins with a frame (RFC 4571 §2) that holds a STUN success response. Nothing
/// else in a TCP connection proves that it is ICE-TCP's: an HTTP server's port may lie in the range,
/// too.
#[inline(always)]
pub fn is_framed_stun_success(payload: &impl Payload, length: u32) -> bool {
    const FRAME: u32 = 2;
    const STUN: u32 = 20;
    if length < FRAME + STUN {
        return false;
    }
    match payload.words(FRAME as usize) {
        Some([first, cookie]) => {
            stun(u32::from_be(first), u32::from_be(cookie), length - FRAME) == Kind::StunSuccess
        }
        None => false,
    }
}

/// Too short for RTP, and for all but RTCP's shortest packets.
#[inline(always)]
fn classify_short(payload: &impl Payload, length: u32) -> Kind {
    if length < 2 {
        return Kind::Other;
    }
    match payload.lead() {
        None => Kind::Unreadable,
        Some([lead, _]) if !is_rtp_or_rtcp(lead as u32) => Kind::Other,
        Some([_, second]) if length >= 4 && is_rtcp(second as u32) => Kind::Rtcp,
        Some(_) => Kind::BadRtp,
    }
}

/// Adds one packet of `bytes` bytes, come at `now` jiffies.
#[inline(always)]
pub fn count(stream: &mut StreamValue, rtp: &Rtp, bytes: u32, now: u64) {
    stream.total.packets += 1;
    stream.total.bytes += bytes as u64;
    stream.last_seen = now;
    stream.payload_type = rtp.payload_type as u32;
    let ahead = rtp.sequence.wrapping_sub(stream.max_seq as u16);
    // The window is empty before the first packet only.
    if stream.window != 0 && ahead.wrapping_sub(1) < MAX_DROPOUT - 1 {
        stream.max_seq += ahead as u64;
        stream.window = if ahead < 64 { stream.window << ahead | 1 } else { 1 };
        stream.received += 1;
    } else {
        count_out_of_line(stream, rtp, ahead);
    }
}

/// The first packet, and any that does not continue the sequence.
#[inline(always)]
fn count_out_of_line(stream: &mut StreamValue, rtp: &Rtp, ahead: u16) {
    let sequence = rtp.sequence as u32;
    if stream.window == 0 {
        begin(stream, rtp);
    } else if ahead == 0 || ahead > MAX_MISORDER.wrapping_neg() {
        let bit = 1u64.checked_shl(ahead.wrapping_neg() as u32).unwrap_or(0);
        if stream.window & bit != 0 {
            stream.duplicates += 1;
        } else {
            stream.window |= bit;
            stream.out_of_order += 1;
        }
        stream.received += 1;
    } else if sequence == stream.bad_seq {
        // Two in a row far off: the source began anew without telling.
        stream.expected_prior += stream.max_seq - stream.base_seq + 1;
        stream.restarts += 1;
        begin(stream, rtp);
    } else {
        stream.bad_seq = (sequence + 1) & 0xffff;
        jitter::skip(stream);
    }
}

#[inline(always)]
fn begin(stream: &mut StreamValue, rtp: &Rtp) {
    stream.base_seq = rtp.sequence as u64;
    stream.max_seq = rtp.sequence as u64;
    stream.window = 1;
    stream.bad_seq = NO_SEQUENCE;
    stream.received += 1;
    jitter::begin(stream);
}

/// Packets that the sequence numbers promise (RFC 3550 A.3).
pub fn expected(stream: &StreamValue) -> u64 {
    if stream.window == 0 {
        return stream.contended.packets;
    }
    // Of words that were read at two moments it may be less than nothing.
    let run = stream.max_seq.wrapping_sub(stream.base_seq).wrapping_add(1) as i64;
    stream.expected_prior.saturating_add_signed(run)
}

/// Packets that came of those, duplicates included. One that found the stream's lock taken counts:
/// its number is within what its neighbours span.
pub fn received(stream: &StreamValue) -> u64 {
    stream.received + stream.contended.packets
}

#[cfg(test)]
#[path = "rtp_tests.rs"]
mod tests;
