//! A datagram's payload in, its class and RTP header out (RFC 7983, RFC 5761, RFC 3550 §5.1); and
//! the sequence state of one RTP stream (RFC 3550 A.1, A.3).
//!
//! Nothing here knows addresses, tables or clocks.

use crate::abi::{Class, StreamValue};
use crate::packet::Bytes;

/// A jump ahead by fewer numbers than this is loss, by more a restart (RFC 3550 A.1 `MAX_DROPOUT`).
pub const MAX_DROPOUT: u16 = 3000;
/// A number that is behind by fewer than this is late, by more a restart (RFC 3550 A.1
/// `MAX_MISORDER`).
pub const MAX_MISORDER: u16 = 100;
/// No sequence number (RFC 3550 A.1 sets `bad_seq` to it).
pub const NO_SEQUENCE: u32 = (1 << 16) + 1;

/// What a datagram carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// RTP or SRTP with a header that fits.
    Rtp(Rtp),
    /// RTCP or SRTCP.
    Rtcp,
    /// STUN.
    Stun {
        /// A success response: whoever sends it has checked the request's credentials.
        is_success: bool,
    },
    /// DTLS.
    Dtls,
    /// First byte of RTP, but the header does not fit the datagram.
    BadRtp,
    /// Anything else: TURN channels, ZRTP, keep-alives.
    Other,
}

impl Content {
    /// The class that counts it.
    #[inline(always)]
    pub fn class(&self) -> Class {
        match self {
            Self::Rtp(_) => Class::Rtp,
            Self::Rtcp => Class::Rtcp,
            Self::Stun { .. } => Class::Stun,
            Self::Dtls => Class::Dtls,
            Self::BadRtp | Self::Other => Class::Other,
        }
    }

    /// A server sends this to no stranger.
    #[inline(always)]
    pub fn is_proof(&self) -> bool {
        match self {
            Self::Rtp(_) | Self::Rtcp | Self::Dtls => true,
            Self::Stun { is_success } => *is_success,
            Self::BadRtp | Self::Other => false,
        }
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
    /// One byte.
    fn byte(&self, offset: usize) -> Option<u8>;
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
    fn byte(&self, offset: usize) -> Option<u8> {
        self.frame.read(self.offset + offset)
    }
}

/// Tells what a payload of `length` bytes is. `None`: it has bytes that decide, but they cannot be
/// read.
#[inline(always)]
pub fn classify(payload: &impl Payload, length: u32) -> Option<Content> {
    if length < RTP_HEADER {
        return classify_short(payload, length);
    }
    let [first, timestamp, ssrc] = payload.words(0)?;
    let first = u32::from_be(first);
    let (lead, second) = (first >> 24, (first >> 16) & 0xff);
    if !is_rtp_or_rtcp(lead) {
        return Some(match lead {
            0..=3 => {
                const COOKIE: u32 = 0x2112_a442;
                if length >= 20 && u32::from_be(timestamp) == COOKIE {
                    // Class bits 0b10 (RFC 8489 §5).
                    Content::Stun { is_success: (first >> 16) & 0x0110 == 0x0100 }
                } else {
                    Content::Other
                }
            }
            20..=63 => Content::Dtls,
            _ => Content::Other,
        });
    }
    if is_rtcp(second) {
        return Some(Content::Rtcp);
    }
    if first & (HAS_EXTENSION | SOURCES) != 0 {
        let mut header = RTP_HEADER + ((first & SOURCES) >> 24) * 4;
        if first & HAS_EXTENSION != 0 {
            if header + 4 > length {
                return Some(Content::BadRtp);
            }
            let [extension] = payload.words(header as usize)?;
            header += 4 + (u32::from_be(extension) & 0xffff) * 4;
        }
        if header > length {
            return Some(Content::BadRtp);
        }
    }
    Some(Content::Rtp(Rtp {
        ssrc: u32::from_be(ssrc),
        sequence: first as u16,
        timestamp: u32::from_be(timestamp),
        payload_type: (second & 0x7f) as u8,
    }))
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

/// Too short for RTP: only RTCP's shortest packets and DTLS's first byte say something.
#[inline(always)]
fn classify_short(payload: &impl Payload, length: u32) -> Option<Content> {
    if length == 0 {
        return Some(Content::Other);
    }
    let lead = payload.byte(0)? as u32;
    Some(match lead {
        20..=63 => Content::Dtls,
        lead if !is_rtp_or_rtcp(lead) => Content::Other,
        _ if length >= 4 && is_rtcp(payload.byte(1)? as u32) => Content::Rtcp,
        _ => Content::BadRtp,
    })
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
        stream.rtp_timestamp = rtp.timestamp;
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
    }
}

#[inline(always)]
fn begin(stream: &mut StreamValue, rtp: &Rtp) {
    stream.base_seq = rtp.sequence as u64;
    stream.max_seq = rtp.sequence as u64;
    stream.window = 1;
    stream.bad_seq = NO_SEQUENCE;
    stream.received += 1;
    stream.rtp_timestamp = rtp.timestamp;
}

/// Packets that the sequence numbers promise (RFC 3550 A.3).
pub fn expected(stream: &StreamValue) -> u64 {
    if stream.window == 0 {
        return stream.contended.packets;
    }
    stream.expected_prior + stream.max_seq - stream.base_seq + 1
}

/// Packets that came of those, duplicates included. One that found the stream's lock taken counts:
/// its number is within what its neighbours span.
pub fn received(stream: &StreamValue) -> u64 {
    stream.received + stream.contended.packets
}

#[cfg(test)]
#[path = "rtp_tests.rs"]
mod tests;
