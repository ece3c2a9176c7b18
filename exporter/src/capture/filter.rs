//! The classic BPF program of a socket: only UDP and TCP of chosen ports are copied to userspace.
//!
//! It loads relative to where IP begins, so it is the same whatever stands before that. It is coarser than
//! the parser, never finer.

use std::collections::BTreeSet;

use crate::host::classic_bpf::{
    IP, Instruction, JEQ, JGE, JGT, JSET, JUMP, LD_B, LD_H, LD_H_INDEXED, LD_W, LDX_HEADER_LENGTH,
    LDX_NUMBER, OUTGOING, PACKET_TYPE, PROTOCOL, TAG_PRESENT, TCP, UDP, leave, load, one_of,
    refuse, require,
};

/// Bytes copied of a frame where only headers are wanted: all headers, generously.
pub(super) const SHORT: u32 = 512;
/// Bytes copied where all is wanted: aggregates, too.
pub(super) const WHOLE: u32 = 262_144;

/// With more, all ports between the first and the last pass, and userspace decides.
const MOST_PORTS: usize = 800;

/// What passes.
#[derive(Clone, Debug)]
pub(super) struct Filter<'a> {
    /// As either end.
    pub(super) ports: &'a BTreeSet<u16>,
    /// Every packet is seen twice: going out, then coming in.
    pub(super) is_loopback: bool,
    /// Packets with a VLAN tag are another interface's.
    pub(super) skip_tagged: bool,
    /// Bytes copied.
    pub(super) length: u32,
}

impl Filter<'_> {
    pub(super) fn compile(&self) -> Vec<Instruction> {
        let mut code = Vec::new();
        if self.is_loopback {
            code.push(load(LD_W, PACKET_TYPE));
            code.extend(refuse(JEQ, OUTGOING));
        }
        if self.skip_tagged {
            code.push(load(LD_B, TAG_PRESENT));
            code.extend(require(JEQ, 0));
        }
        let (ipv4, ipv6, ports) = (self.ipv4(), self.ipv6(), self.ports());
        code.push(load(LD_H, PROTOCOL));
        // A block goes on behind the other family's.
        code.push(Instruction { code: JEQ, jt: 0, jf: ipv4.len() as u8 + 1, k: 0x0800 });
        code.extend(&ipv4);
        code.push(load(JUMP, ipv6.len() as u32 + 2));
        code.extend(require(JEQ, 0x86dd));
        code.extend(&ipv6);
        code.extend(ports);
        code
    }

    /// Leaves in the index where ports are.
    fn ipv4(&self) -> Vec<Instruction> {
        let mut code = vec![load(LD_B, IP + 9)];
        code.extend(one_of(&[UDP, TCP]));
        // Later fragments have no ports.
        code.push(load(LD_H, IP + 6));
        code.extend(refuse(JSET, 0x1fff));
        code.push(load(LDX_HEADER_LENGTH, IP));
        code
    }

    /// The same. Whoever has extension headers passes.
    fn ipv6(&self) -> Vec<Instruction> {
        let mut code = vec![load(LD_B, IP + 6)];
        for extension in [0, 43, 44, 51, 60] {
            code.push(Instruction { code: JEQ, jt: 0, jf: 1, k: extension });
            code.push(leave(self.length));
        }
        code.extend(one_of(&[UDP, TCP]));
        code.push(load(LDX_NUMBER, 40));
        code
    }

    fn ports(&self) -> Vec<Instruction> {
        let pass = leave(self.length);
        let mut code = Vec::new();
        for at in [0, 2] {
            code.push(load(LD_H_INDEXED, IP + at));
            if self.ports.len() <= MOST_PORTS {
                for port in self.ports {
                    code.push(Instruction { code: JEQ, jt: 0, jf: 1, k: u32::from(*port) });
                    code.push(pass);
                }
            } else if let (Some(first), Some(last)) = (self.ports.first(), self.ports.last()) {
                code.push(Instruction { code: JGE, jt: 0, jf: 2, k: u32::from(*first) });
                code.push(Instruction { code: JGT, jt: 1, jf: 0, k: u32::from(*last) });
                code.push(pass);
            }
        }
        code.push(leave(0));
        code
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::classic_bpf::RET;

    /// What the kernel does with it. Bytes are those of IP.
    fn run(code: &[Instruction], protocol: u32, packet_type: u32, tagged: bool, ip: &[u8]) -> u32 {
        let half = |at: u32| {
            let at = at.wrapping_sub(IP) as usize;
            ip.get(at..at + 2).map(|it| u32::from(u16::from_be_bytes([it[0], it[1]])))
        };
        let (mut a, mut x, mut at) = (0_u32, 0_u32, 0);
        loop {
            let Instruction { code, jt, jf, k } = code[at];
            at += 1;
            let jump = |holds: bool| usize::from(if holds { jt } else { jf });
            match code {
                LD_W if k == PACKET_TYPE => a = packet_type,
                LD_B if k == TAG_PRESENT => a = tagged.into(),
                LD_H if k == PROTOCOL => a = protocol,
                LD_B => a = ip[(k - IP) as usize].into(),
                LD_H => a = half(k).unwrap(),
                LD_H_INDEXED => match half(k + x) {
                    Some(loaded) => a = loaded,
                    None => return 0,
                },
                LDX_NUMBER => x = k,
                LDX_HEADER_LENGTH => x = u32::from(ip[(k - IP) as usize] & 15) * 4,
                JUMP => at += k as usize,
                JEQ => at += jump(a == k),
                JGT => at += jump(a > k),
                JGE => at += jump(a >= k),
                JSET => at += jump(a & k != 0),
                RET => return k,
                other => panic!("instruction {other:#x}"),
            }
        }
    }

    fn ipv4(words: u8, proto: u8, fragment: u16, ports: [u16; 2]) -> Vec<u8> {
        let mut bytes = vec![0; usize::from(words) * 4];
        (bytes[0], bytes[9]) = (0x40 | words, proto);
        bytes[6..8].copy_from_slice(&fragment.to_be_bytes());
        bytes.extend(ports.map(u16::to_be_bytes).concat());
        bytes
    }

    fn ipv6(next: u8, ports: [u16; 2]) -> Vec<u8> {
        let mut bytes = vec![0; 40];
        (bytes[0], bytes[6]) = (0x60, next);
        bytes.extend(ports.map(u16::to_be_bytes).concat());
        bytes
    }

    #[test]
    fn chosen_ports_pass_as_either_end() {
        for many in [false, true] {
            let mut ports = BTreeSet::from([443, 40_000]);
            if many {
                ports.extend(40_000..41_000);
            }
            let filter =
                Filter { ports: &ports, is_loopback: false, skip_tagged: false, length: SHORT };
            let code = filter.compile();
            assert!(code.len() < 4096);
            let check = |ends, expected| {
                for ip in [ipv4(5, 17, 0, ends), ipv4(15, 6, 0x4000, ends)] {
                    assert_eq!(run(&code, 0x0800, 0, false, &ip) == SHORT, expected, "{ends:?}");
                }
                for ip in [ipv6(17, ends), ipv6(6, ends)] {
                    assert_eq!(run(&code, 0x86dd, 0, true, &ip) == SHORT, expected, "{ends:?}");
                }
            };
            check([9, 40_000], true);
            check([40_000, 9], true);
            check([9, 443], true);
            check([9, 442], false);
            check([65_000, 9], false);
            check([9, 41_001], false);
            assert_eq!(run(&code, 0x0800, 0, false, &ipv4(5, 1, 0, [9, 443])), 0);
            assert_eq!(run(&code, 0x0800, 0, false, &ipv4(5, 17, 3, [9, 443])), 0);
            assert_eq!(run(&code, 0x86dd, 0, false, &ipv6(44, [9, 9])), SHORT);
            assert_eq!(run(&code, 0x86dd, 0, false, &ipv6(58, [9, 443])), 0);
            assert_eq!(run(&code, 0x0806, 0, false, &[0; 60]), 0);
        }
    }

    #[test]
    fn what_is_seen_elsewhere_does_not_pass() {
        let ports = BTreeSet::from([443]);
        let filter = Filter { ports: &ports, is_loopback: true, skip_tagged: true, length: WHOLE };
        let (code, ip) = (filter.compile(), ipv4(5, 17, 0, [9, 443]));
        assert_eq!(run(&code, 0x0800, 0, false, &ip), WHOLE);
        assert_eq!(run(&code, 0x0800, OUTGOING, false, &ip), 0);
        assert_eq!(run(&code, 0x0800, 0, true, &ip), 0);
    }
}
