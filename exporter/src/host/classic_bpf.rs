//! What programs of packet sockets are made of (classic BPF: include/uapi/linux/bpf_common.h and filter.h).

/// One instruction, as the kernel's `struct sock_filter`.
pub type Instruction = libc::sock_filter;

/// Loads a word.
pub const LD_W: u16 = 0x20;
/// Loads two bytes.
pub const LD_H: u16 = 0x28;
/// Loads a byte.
pub const LD_B: u16 = 0x30;
/// Loads the packet's length.
pub const LD_LENGTH: u16 = 0x80;
/// Loads two bytes at an offset from the index.
pub const LD_H_INDEXED: u16 = 0x48;
/// The index is a number.
pub const LDX_NUMBER: u16 = 0x01;
/// The index is the length of the IPv4 header that begins there.
pub const LDX_HEADER_LENGTH: u16 = 0xb1;
/// Goes on further down.
pub const JUMP: u16 = 0x05;
/// Whether what is loaded is that.
pub const JEQ: u16 = 0x15;
/// Whether it is more.
pub const JGT: u16 = 0x25;
/// Whether it is as much or more.
pub const JGE: u16 = 0x35;
/// Whether it has any of these bits.
pub const JSET: u16 = 0x45;
/// Ends the program: so many bytes are copied.
pub const RET: u16 = 0x06;

/// Offset from which on the kernel says what it knows about a packet beside its bytes.
const ABOUT: u32 = 0xffff_f000;
/// The EtherType.
pub const PROTOCOL: u32 = ABOUT;
/// Whether it goes out, among others.
pub const PACKET_TYPE: u32 = ABOUT + 4;
/// Whether it had a VLAN tag.
pub const TAG_PRESENT: u32 = ABOUT + 48;
/// Offset of the IP header, wherever that begins.
pub const IP: u32 = 0xfff0_0000;
/// PACKET_OUTGOING, as its type.
pub const OUTGOING: u32 = 4;

/// As IP's protocol.
pub const UDP: u32 = 17;
/// The same.
pub const TCP: u32 = 6;

/// An instruction that does not jump.
pub fn load(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

/// Ends the program.
pub fn leave(k: u32) -> Instruction {
    load(RET, k)
}

/// Ends the program unless the comparison holds.
pub fn require(code: u16, k: u32) -> [Instruction; 2] {
    [Instruction { code, jt: 1, jf: 0, k }, leave(0)]
}

/// Ends the program if the comparison holds.
pub fn refuse(code: u16, k: u32) -> [Instruction; 2] {
    [Instruction { code, jt: 0, jf: 1, k }, leave(0)]
}

/// Runs `block`, which ends the program, if the comparison holds. Blocks have 255 instructions at most.
pub fn when(code: u16, k: u32, block: &[Instruction]) -> Vec<Instruction> {
    let jf = u8::try_from(block.len()).expect("blocks are short");
    let mut all = vec![Instruction { code, jt: 0, jf, k }];
    all.extend_from_slice(block);
    all
}

/// Ends the program unless what is loaded is one of these.
pub fn one_of(values: &[u32]) -> Vec<Instruction> {
    let mut code: Vec<Instruction> = (0..values.len())
        .map(|at| Instruction { code: JEQ, jt: (values.len() - at) as u8, jf: 0, k: values[at] })
        .collect();
    code.push(leave(0));
    code
}
