//! The classic BPF program that a capturing socket runs in the kernel, so that only packets of the
//! counted ports are copied to userspace.
//!
//! It is coarser than the parser, never finer: IPv6 packets with extension headers and later
//! fragments pass whatever their ports, and the parser decides.

use std::ops::RangeInclusive;

use crate::host::classic_bpf::{
    Instruction, JEQ, JGE, JGT, JSET, LD_B, LD_H, LD_H_INDEXED, LD_LENGTH, LD_W, LDX_HEADER_LENGTH,
    OUTGOING, PACKET_TYPE, TAG_PRESENT, TCP, UDP, leave, load, one_of, refuse, require, when,
};
use crate::host::interfaces::Layer;
use crate::model::Direction;

/// Bytes copied of a packet that is no aggregate: all headers, generously.
pub(super) const SHORT: u32 = 256;
/// A frame longer than this may be an aggregate, every datagram of which has headers to be seen.
pub(super) const LONGEST_SINGLE: u32 = 2048;
/// Bytes copied of an aggregate.
pub(super) const LONG: u32 = 66_000;

/// What is let through.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    pub(super) layer: Layer,
    pub(super) direction: Direction,
    pub(super) ports: RangeInclusive<u16>,
    /// Packets with a VLAN tag are another interface's, on which they are captured, too.
    pub(super) skip_tagged: bool,
}

const IPV4: u32 = 0x0800;
const IPV6: u32 = 0x86dd;
const TAGS: [u32; 3] = [0x8100, 0x88a8, 0x9100];

impl Filter {
    /// The program; it ends at each of its leaves, so blocks can be put one after the other.
    pub(super) fn compile(&self) -> Vec<Instruction> {
        let mut code = vec![load(LD_W, PACKET_TYPE)];
        match self.direction {
            Direction::Send => code.extend(require(JEQ, OUTGOING)),
            Direction::Receive => code.extend(refuse(JEQ, OUTGOING)),
        }
        if self.skip_tagged {
            code.push(load(LD_B, TAG_PRESENT));
            code.extend(require(JEQ, 0));
        }
        match self.layer {
            Layer::Raw => {
                code.push(load(LD_B, 0));
                code.extend(when(JGE, 0x60, &self.ipv6(0)));
                code.extend(when(JGE, 0x40, &self.ipv4(0)));
            }
            // Rare, and not worth a filter of its own.
            Layer::Wrapped => code.extend(pass()),
            Layer::Ethernet => {
                code.extend(self.ethernet(12));
                let tags = if self.skip_tagged { 0 } else { 2 };
                for tag in 1..=tags {
                    code.extend(one_of(&TAGS));
                    code.extend(self.ethernet(12 + tag * 4));
                }
            }
        }
        code.push(leave(0));
        code
    }

    /// Goes on behind itself with the EtherType loaded if that is neither IPv4 nor IPv6.
    fn ethernet(&self, kind: u32) -> Vec<Instruction> {
        let mut code = vec![load(LD_H, kind)];
        code.extend(when(JEQ, IPV4, &self.ipv4(kind + 2)));
        code.extend(when(JEQ, IPV6, &self.ipv6(kind + 2)));
        code
    }

    fn ipv4(&self, start: u32) -> Vec<Instruction> {
        let mut code = vec![load(LD_B, start + 9)];
        code.extend(one_of(&[UDP, TCP]));
        code.push(load(LD_H, start + 6));
        code.extend(when(JSET, 0x1fff, &pass()));
        code.push(load(LDX_HEADER_LENGTH, start));
        code.push(load(LD_H_INDEXED, start + self.port_offset()));
        code.extend(self.port());
        code
    }

    fn ipv6(&self, start: u32) -> Vec<Instruction> {
        let mut code = vec![load(LD_B, start + 6)];
        for extension in [0, 43, 44, 51, 60] {
            code.extend(when(JEQ, extension, &pass()));
        }
        code.extend(one_of(&[UDP, TCP]));
        code.push(load(LD_H, start + 40 + self.port_offset()));
        code.extend(self.port());
        code
    }

    /// The local port is the source's going out, the destination's coming in.
    fn port_offset(&self) -> u32 {
        match self.direction {
            Direction::Send => 0,
            Direction::Receive => 2,
        }
    }

    fn port(&self) -> Vec<Instruction> {
        let mut code = require(JGE, (*self.ports.start()).into()).to_vec();
        code.extend(refuse(JGT, (*self.ports.end()).into()));
        code.extend(pass());
        code
    }
}

/// Lets the packet through, all of it if it may be an aggregate.
fn pass() -> Vec<Instruction> {
    let mut code = vec![load(LD_LENGTH, 0)];
    code.extend(when(JGT, LONGEST_SINGLE, &[leave(LONG)]));
    code.push(leave(SHORT));
    code
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::classic_bpf::RET;

    /// What the kernel does with these instructions (Documentation/networking/filter.rst).
    fn run(code: &[Instruction], frame: &[u8], packet_type: u32, tagged: bool) -> u32 {
        let word = |at: usize, size: usize| {
            let bytes = frame.get(at..at + size)?;
            Some(bytes.iter().fold(0_u32, |sum, &byte| sum << 8 | u32::from(byte)))
        };
        let (mut a, mut x, mut at) = (0_u32, 0_usize, 0);
        loop {
            let Instruction { code, jt, jf, k } = code[at];
            at += 1;
            let jump = |holds: bool| if holds { jt } else { jf } as usize;
            let loaded = match code {
                LD_W if k == PACKET_TYPE => Some(packet_type),
                LD_B if k == TAG_PRESENT => Some(tagged.into()),
                LD_H => word(k as usize, 2),
                LD_B => word(k as usize, 1),
                LD_H_INDEXED => word(x + k as usize, 2),
                LD_LENGTH => Some(frame.len() as u32),
                LDX_HEADER_LENGTH => {
                    let Some(byte) = word(k as usize, 1) else { return 0 };
                    x = (byte & 0xf) as usize * 4;
                    continue;
                }
                RET => return k,
                _ => {
                    at += match code {
                        JEQ => jump(a == k),
                        JGT => jump(a > k),
                        JGE => jump(a >= k),
                        JSET => jump(a & k != 0),
                        other => panic!("instruction {other:#x}"),
                    };
                    continue;
                }
            };
            // A load beyond the packet ends the program.
            let Some(loaded) = loaded else { return 0 };
            a = loaded;
        }
    }

    fn ipv4(words: u8, proto: u8, fragment: u16, ports: [u16; 2]) -> Vec<u8> {
        let mut bytes = vec![0; usize::from(words) * 4 + 8];
        bytes[0] = 0x40 | words;
        bytes[6..8].copy_from_slice(&fragment.to_be_bytes());
        bytes[9] = proto;
        let at = usize::from(words) * 4;
        bytes[at..at + 2].copy_from_slice(&ports[0].to_be_bytes());
        bytes[at + 2..at + 4].copy_from_slice(&ports[1].to_be_bytes());
        bytes
    }

    fn ipv6(next: u8, ports: [u16; 2]) -> Vec<u8> {
        let mut bytes = vec![0; 48];
        bytes[0] = 0x60;
        bytes[6] = next;
        bytes[40..42].copy_from_slice(&ports[0].to_be_bytes());
        bytes[42..44].copy_from_slice(&ports[1].to_be_bytes());
        bytes
    }

    fn ethernet(tags: &[u16], kind: u16, ip: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 12];
        for tag in tags {
            bytes.extend(tag.to_be_bytes());
            bytes.extend([0, 7]);
        }
        bytes.extend(kind.to_be_bytes());
        bytes.extend(ip);
        bytes
    }

    fn filter(layer: Layer, direction: Direction) -> Filter {
        Filter { layer, direction, ports: 40_000..=40_100, skip_tagged: false }
    }

    #[test]
    fn the_local_port_decides() {
        let check = |direction, packet_type, ports, expected| {
            let code = filter(Layer::Ethernet, direction).compile();
            for frame in [
                ethernet(&[], 0x0800, &ipv4(5, 17, 0, ports)),
                ethernet(&[0x8100], 0x0800, &ipv4(15, 6, 0x4000, ports)),
                ethernet(&[0x88a8, 0x8100], 0x86dd, &ipv6(17, ports)),
                ethernet(&[], 0x86dd, &ipv6(6, ports)),
            ] {
                let passed = run(&code, &frame, packet_type, false) != 0;
                assert_eq!(passed, expected, "{direction:?} {packet_type} {ports:?} {frame:x?}");
            }
        };
        check(Direction::Receive, 0, [9, 40_000], true);
        check(Direction::Receive, 0, [9, 40_100], true);
        check(Direction::Receive, 0, [9, 39_999], false);
        check(Direction::Receive, 0, [40_000, 40_101], false);
        check(Direction::Receive, OUTGOING, [9, 40_000], false);
        check(Direction::Send, OUTGOING, [40_000, 9], true);
        check(Direction::Send, OUTGOING, [9, 40_000], false);
        check(Direction::Send, 0, [40_000, 9], false);
    }

    #[test]
    fn raw_interfaces_begin_with_ip() {
        let code = filter(Layer::Raw, Direction::Receive).compile();
        let check = |frame: &[u8], expected| {
            assert_eq!(run(&code, frame, 0, false) != 0, expected, "{frame:x?}");
        };
        check(&ipv4(5, 17, 0, [9, 40_000]), true);
        check(&ipv6(17, [9, 40_000]), true);
        check(&ipv4(5, 17, 0, [9, 9]), false);
        check(&[0x10; 60], false);
    }

    #[test]
    fn what_the_filter_cannot_decide_passes() {
        let code = filter(Layer::Ethernet, Direction::Receive).compile();
        let check = |frame: &[u8], expected| {
            assert_eq!(run(&code, frame, 0, false) != 0, expected, "{frame:x?}");
        };
        check(&ethernet(&[], 0x0800, &ipv4(5, 17, 0x0001, [9, 9])), true);
        check(&ethernet(&[], 0x86dd, &ipv6(44, [9, 9])), true);
        check(&ethernet(&[], 0x86dd, &ipv6(58, [9, 40_000])), false);
        check(&ethernet(&[], 0x0800, &ipv4(5, 1, 0, [9, 40_000])), false);
        check(&ethernet(&[], 0x0806, &[0; 60]), false);
        check(&ethernet(&[0x8100, 0x8100, 0x8100], 0x0800, &ipv4(5, 17, 0, [9, 40_000])), false);
        check(&[0; 13], false);
    }

    #[test]
    fn aggregates_are_copied_whole() {
        let code = filter(Layer::Ethernet, Direction::Receive).compile();
        let mut frame = ethernet(&[], 0x0800, &ipv4(5, 17, 0, [9, 40_000]));
        assert_eq!(run(&code, &frame, 0, false), SHORT);
        frame.resize(30_000, 0);
        assert_eq!(run(&code, &frame, 0, false), LONG);
    }

    #[test]
    fn tagged_packets_are_left_to_their_own_interface() {
        let filter = Filter { skip_tagged: true, ..filter(Layer::Ethernet, Direction::Receive) };
        let code = filter.compile();
        let ip = ipv4(5, 17, 0, [9, 40_000]);
        assert_ne!(run(&code, &ethernet(&[], 0x0800, &ip), 0, false), 0);
        assert_eq!(run(&code, &ethernet(&[], 0x0800, &ip), 0, true), 0);
        assert_eq!(run(&code, &ethernet(&[0x8100], 0x0800, &ip), 0, false), 0);
    }
}
