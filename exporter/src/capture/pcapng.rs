//! A capture file (pcapng, draft-ietf-opsawg-pcapng): sections, interfaces, packets, statistics, as bytes.
//!
//! Four kinds of block, in this machine's order of bytes, which a reader finds out by the section's mark.

use std::time::Duration;

/// What an interface's frames begin with (tcpdump.org/linktypes.html).
pub(super) const ETHERNET: u16 = 1;
/// The same: IP's header.
pub(super) const RAW: u16 = 101;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
const PACKET: u32 = 6;

const COMMENT: u16 = 1;
const SECTION_OS: u16 = 3;
const SECTION_APPLICATION: u16 = 4;
const INTERFACE_NAME: u16 = 2;
const INTERFACE_RESOLUTION: u16 = 9;
const PACKET_FLAGS: u16 = 2;
const STATISTICS_START: u16 = 2;
const STATISTICS_END: u16 = 3;
const STATISTICS_FILTERED: u16 = 6;
const STATISTICS_LOST: u16 = 7;
const STATISTICS_DELIVERED: u16 = 8;

/// An option's value at most, and so a comment.
const LONGEST: usize = u16::MAX as usize - 3;

/// A block, while it is made.
struct Block(Vec<u8>);

impl Block {
    fn new(kind: u32) -> Self {
        let mut block = Self(Vec::with_capacity(256));
        // The length comes in at the end.
        block.put(&kind.to_ne_bytes()).put(&[0; 4]);
        block
    }

    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn pad(&mut self) -> &mut Self {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn option(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = value.len() as u16;
        self.put(&kind.to_ne_bytes()).put(&length.to_ne_bytes()).put(value).pad()
    }

    fn text(&mut self, kind: u16, text: &str) -> &mut Self {
        self.option(kind, &text.as_bytes()[..text.floor_char_boundary(LONGEST)])
    }

    fn time(&mut self, kind: u16, at: Duration) -> &mut Self {
        self.option(kind, &moment(at))
    }

    fn number(&mut self, kind: u16, number: u64) -> &mut Self {
        self.option(kind, &number.to_ne_bytes())
    }

    /// Options end with an empty one, and a block as it begins: with its length.
    fn end(&mut self) -> Vec<u8> {
        self.put(&[0; 4]);
        let length = (self.0.len() as u32 + 4).to_ne_bytes();
        self.put(&length);
        self.0[4..8].copy_from_slice(&length);
        std::mem::take(&mut self.0)
    }
}

/// Nanoseconds since 1970; the upper half stands first in either order.
fn moment(at: Duration) -> [u8; 8] {
    let nanos = at.as_nanos() as u64;
    let halves = [(nanos >> 32) as u32, nanos as u32].map(u32::to_ne_bytes);
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&halves[0]);
    bytes[4..].copy_from_slice(&halves[1]);
    bytes
}

/// What a file begins with.
pub(super) fn section(application: &str, system: &str, comment: &str) -> Vec<u8> {
    let mut block = Block::new(SECTION);
    block.put(&0x1a2b_3c4d_u32.to_ne_bytes());
    // Version 1.0, and a length that is not told.
    block.put(&1_u16.to_ne_bytes()).put(&0_u16.to_ne_bytes()).put(&[0xff; 8]);
    block.text(COMMENT, comment).text(SECTION_OS, system).text(SECTION_APPLICATION, application);
    block.end()
}

/// Interfaces are numbered as they come.
pub(super) fn interface(link: u16, name: &str, comment: &str) -> Vec<u8> {
    let mut block = Block::new(INTERFACE);
    // No bound of lengths: each packet is cut where its headers end.
    block.put(&link.to_ne_bytes()).put(&[0; 2]).put(&0_u32.to_ne_bytes());
    block.text(COMMENT, comment).text(INTERFACE_NAME, name);
    // 10^-9 s
    block.option(INTERFACE_RESOLUTION, &[9]).end()
}

/// A packet, or its beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    /// The interface's number.
    pub(super) interface: u32,
    /// Since 1970.
    pub(super) at: Duration,
    pub(super) bytes: Vec<u8>,
    /// Of all of it.
    pub(super) length: u32,
    /// It came in; else it went out.
    pub(super) inbound: bool,
    pub(super) comment: String,
}

impl Packet {
    pub(super) fn to_block(&self) -> Vec<u8> {
        let Self { interface, at, bytes, length, inbound, comment } = self;
        let mut block = Block::new(PACKET);
        block.put(&interface.to_ne_bytes()).put(&moment(*at));
        let here = bytes.len() as u32;
        block.put(&here.to_ne_bytes()).put(&here.max(*length).to_ne_bytes());
        block.put(bytes).pad().text(COMMENT, comment);
        let direction: u32 = if *inbound { 1 } else { 2 };
        block.option(PACKET_FLAGS, &direction.to_ne_bytes()).end()
    }
}

/// What was counted on an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Statistics {
    pub(super) start: Duration,
    pub(super) end: Duration,
    /// Of those who were chosen.
    pub(super) wanted: u64,
    /// For which the kernel had no room.
    pub(super) lost: u64,
    /// In the file.
    pub(super) written: u64,
    pub(super) comment: String,
}

impl Statistics {
    pub(super) fn to_block(&self, interface: u32) -> Vec<u8> {
        let Self { start, end, wanted, lost, written, comment } = self;
        let mut block = Block::new(STATISTICS);
        block.put(&interface.to_ne_bytes()).put(&moment(*end));
        block.text(COMMENT, comment).time(STATISTICS_START, *start).time(STATISTICS_END, *end);
        block.number(STATISTICS_FILTERED, *wanted).number(STATISTICS_LOST, *lost);
        block.number(STATISTICS_DELIVERED, *written).end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_whole_words_and_say_their_length_twice() {
        let mut packet = Packet {
            interface: 3,
            at: Duration::new(1_700_000_000, 123_456_789),
            bytes: vec![1, 2, 3],
            length: 1500,
            inbound: true,
            comment: "room=\"β\"".into(),
        };
        let statistics = Statistics { wanted: 7, comment: "none".into(), ..Statistics::default() };
        let check = |block: &[u8], kind: u32| {
            let word = |at: usize| u32::from_ne_bytes(block[at..at + 4].try_into().unwrap());
            let length = block.len() as u32;
            assert_eq!((word(0), word(4), word(block.len() - 4)), (kind, length, length));
            assert_eq!(length % 4, 0);
        };
        check(&section("a", "Linux", "b"), SECTION);
        check(&interface(RAW, "tun0", ""), INTERFACE);
        check(&statistics.to_block(1), STATISTICS);
        for length in 0..5 {
            packet.bytes.resize(length, 9);
            check(&packet.to_block(), PACKET);
        }
        packet.comment = "β".repeat(70_000);
        check(&packet.to_block(), PACKET);
    }
}
