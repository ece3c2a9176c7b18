//! A set of local ports: one bit for each of UDP's and TCP's, 16 KiB together.
//!
//! It is what a packet is asked first, so a port is looked up as it stands in the packet, without
//! turning its bytes. Who puts ports in, and when they go, is not known here.

use crate::abi::{TCP, UDP};

/// Words of a set.
pub const WORDS: usize = 2 * HALF;
/// Words of one protocol's ports.
const HALF: usize = (1 << 16) / 32;

/// Something that can be asked for ports.
pub trait PortSet: Copy {
    /// Whether a port, in network order, is in the set. Of a protocol that is neither UDP nor TCP the
    /// answer means nothing.
    fn contains(self, proto: u8, port: u16) -> bool;
}

/// Where a port, in network order, stands: the word's number, and its bit there.
#[inline(always)]
pub const fn place(proto: u8, port: u16) -> (usize, u32) {
    (half(proto) * HALF + (port >> 5) as usize, 1 << (port & 31))
}

/// The same in bytes, for who only reads, on a processor that puts a word's low byte first.
#[cfg(target_endian = "little")]
#[inline(always)]
pub const fn byte(proto: u8, port: u16) -> (usize, u8) {
    (half(proto) * HALF * 4 + (port >> 3) as usize, (port & 7) as u8)
}

/// The protocols' numbers differ in their lowest bit, which costs less than to compare them.
#[inline(always)]
const fn half(proto: u8) -> usize {
    (proto & 1) as usize
}

const _: () = assert!(half(TCP) != half(UDP));

/// Numbers of ports of both protocols.
pub const NUMBERS: u32 = 2 << 16;

/// The number of a port, in host order, among both protocols'.
#[inline(always)]
pub const fn number(proto: u8, port: u16) -> u32 {
    port as u32 | if proto == TCP { 1 << 16 } else { 0 }
}

/// A set that does not change.
#[derive(Clone, Copy)]
pub struct Fixed<'a>(pub &'a [u32; WORDS]);

impl PortSet for Fixed<'_> {
    #[inline(always)]
    fn contains(self, proto: u8, port: u16) -> bool {
        let (word, bit) = place(proto, port);
        self.0[word] & bit != 0
    }
}

/// Ports of both protocols, by number.
pub fn of_range(first: u16, last: u16) -> [u32; WORDS] {
    let mut words = [0; WORDS];
    for proto in [UDP, TCP] {
        for port in first..=last {
            let (word, bit) = place(proto, port.to_be());
            words[word] |= bit;
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_has_a_bit_of_its_own() {
        let mut words = [0u32; WORDS];
        for proto in [UDP, TCP] {
            for port in 0..=u16::MAX {
                let (word, bit) = place(proto, port);
                let (byte, shift) = byte(proto, port);
                assert_eq!((byte / 4, 1 << (byte % 4 * 8 + usize::from(shift))), (word, bit));
                assert_eq!(words[word] & bit, 0, "{proto} {port}");
                words[word] |= bit;
            }
        }
        assert!(words.iter().all(|&word| word == u32::MAX));
    }

    #[test]
    fn a_range_holds_its_ends_and_nothing_beside() {
        let words = of_range(443, 1023);
        for (port, is_in) in [(442, false), (443, true), (1023, true), (1024, false)] {
            for proto in [UDP, TCP] {
                assert_eq!(Fixed(&words).contains(proto, u16::to_be(port)), is_in, "{port}");
            }
        }
        let count: u32 = words.iter().map(|word| word.count_ones()).sum();
        assert_eq!(count, 2 * (1023 - 443 + 1));
    }
}
