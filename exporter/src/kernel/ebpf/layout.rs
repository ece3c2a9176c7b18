//! Where the running kernel keeps what no program's context shows, by its own description of its types (BTF,
//! Documentation/bpf/btf.rst).
//!
//! Only offsets of members are looked for, in one pass that keeps nothing: a library that indexes all types takes
//! 50 MB and a tenth of a second.

use std::io::Read;

/// The running kernel's description: some 6 MB.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
const MOST_BYTES: u64 = 64 << 20;

/// Where to find of which kind an aggregate is; zeros where it cannot be known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    /// `sk_buff::head`.
    pub(super) head: u32,
    /// `sk_buff::end`, an offset from `head`.
    pub(super) end: u32,
    /// `skb_shared_info::gso_type`.
    pub(super) gso_type: u32,
}

impl Layout {
    /// The running kernel's. `None`: it does not tell, or not in a way that is understood here.
    pub(super) fn of_kernel() -> Option<Self> {
        let mut btf = Vec::new();
        let file = std::fs::File::open(VMLINUX).ok()?;
        file.take(MOST_BYTES).read_to_end(&mut btf).ok()?;
        Self::from_btf(&btf)
    }

    fn from_btf(btf: &[u8]) -> Option<Self> {
        let wanted = [("sk_buff", "head"), ("sk_buff", "end"), ("skb_shared_info", "gso_type")];
        let [head, end, gso_type] = offsets(btf, wanted)?;
        Some(Self { head: head?, end: end?, gso_type: gso_type? })
    }
}

/// Bytes from the beginning of a structure to a member, for each pair that there is. `None`: this is no BTF.
fn offsets<const N: usize>(btf: &[u8], wanted: [(&str, &str); N]) -> Option<[Option<u32>; N]> {
    const MAGIC: u16 = 0xeb9f;
    let magic = u16::from_ne_bytes(btf.get(..2)?.try_into().ok()?);
    let header = |at: usize| Some(word(btf, 4 + 4 * at)? as usize);
    let (length, types, types_length, strings) = (header(0)?, header(1)?, header(2)?, header(3)?);
    if magic != MAGIC {
        return None;
    }
    let names = Names(btf.get(length.checked_add(strings)?..)?);
    let types = btf.get(length.checked_add(types)?..)?;
    let mut types = types.get(..types_length)?;
    let mut found = [None; N];
    while let Some(described) = Type::parse(types) {
        if described.kind == Type::STRUCT {
            for (offset, (structure, member)) in found.iter_mut().zip(wanted) {
                if offset.is_none() && names.is(described.name, structure) {
                    *offset = described.member(|name| names.is(name, member));
                }
            }
        }
        types = described.rest;
    }
    Some(found)
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

/// Names by where they stand, each ended by a zero.
struct Names<'a>(&'a [u8]);

impl Names<'_> {
    fn is(&self, at: u32, name: &str) -> bool {
        let rest = self.0.get(at as usize..).and_then(|rest| rest.strip_prefix(name.as_bytes()));
        rest.is_some_and(|rest| rest.first() == Some(&0))
    }
}

/// `struct btf_type` and what follows it.
struct Type<'a> {
    name: u32,
    kind: u32,
    /// Members' offsets hold the size of a bit field in their upper byte.
    has_bit_fields: bool,
    members: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Type<'a> {
    const STRUCT: u32 = 4;

    /// `None`: there is no more, or nothing that is known.
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (name, info) = (word(bytes, 0)?, word(bytes, 4)?);
        let (count, kind) = (info as usize & 0xffff, info >> 24 & 0x1f);
        let length = match kind {
            // Integers, variables, tags.
            1 | 14 | 17 => 4,
            // Pointers and all else that only leads to another type.
            2 | 7..=12 | 16 | 18 => 0,
            // An array.
            3 => 12,
            // Structures, unions, sections, enumerations of 64 bits.
            4 | 5 | 15 | 19 => 12 * count,
            // Enumerations, prototypes.
            6 | 13 => 8 * count,
            _ => return None,
        };
        let (members, rest) = bytes.get(12..)?.split_at_checked(length)?;
        Some(Self { name, kind, has_bit_fields: info >> 31 != 0, members, rest })
    }

    fn member(&self, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let (members, _) = self.members.as_chunks::<12>();
        let member = members.iter().find(|member| word(*member, 0).is_some_and(&is_it))?;
        let bits = word(member, 8)?;
        let bits = if self.has_bit_fields { bits & 0xff_ffff } else { bits };
        bits.is_multiple_of(8).then_some(bits / 8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct sk_buff` with members, behind an integer, and `skb_shared_info` with bit fields.
    fn description() -> Vec<u8> {
        let names = b"\0int\0sk_buff\0head\0end\0skb_shared_info\0gso_type\0";
        let name = |name: &str| {
            let at = names.windows(name.len() + 2).position(|it| {
                it[0] == 0 && &it[1..=name.len()] == name.as_bytes() && it[name.len() + 1] == 0
            });
            at.unwrap() as u32 + 1
        };
        let types = [
            // int
            [name("int"), 1 << 24, 4, 32].as_slice(),
            &[name("sk_buff"), 4 << 24 | 2, 200],
            &[name("end"), 1, 188 * 8, name("head"), 1, 192 * 8],
            &[name("skb_shared_info"), 1 << 31 | 4 << 24 | 1, 48],
            &[name("gso_type"), 1, 24 * 8],
        ]
        .concat();
        let length = 4 * types.len() as u32;
        let mut btf = [0xeb9f_u16.to_ne_bytes(), [1, 0]].concat();
        for word in [24, 0, length, length, names.len() as u32].iter().chain(&types) {
            btf.extend(word.to_ne_bytes());
        }
        btf.extend(names);
        btf
    }

    #[test]
    fn members_are_found_where_they_are() {
        let btf = description();
        let expected = Layout { head: 192, end: 188, gso_type: 24 };
        assert_eq!(Layout::from_btf(&btf), Some(expected));
        // What is cut off, or something else, is no answer.
        for length in 0..btf.len() - 1 {
            assert_ne!(Layout::from_btf(&btf[..length]), Some(expected), "{length}");
        }
        assert_eq!(Layout::from_btf(&[0; 100]), None);
    }

    #[test]
    fn the_running_kernel_is_understood() {
        if !std::path::Path::new(VMLINUX).exists() {
            eprintln!("skipped: this kernel does not describe its types");
            return;
        }
        let Layout { head, end, gso_type } = Layout::of_kernel().expect("understood");
        assert!(head > 0 && end > 0 && head != end && gso_type > 0);
    }
}
