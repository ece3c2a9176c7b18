//! What the counting is measured against: a program that does nothing, the least that could be called
//! counting (an IPv4 5-tuple at fixed offsets into a per-CPU hash), and the tables that there was a
//! choice of. No part of the product.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    target_arch = "bpf",
    expect(internal_features, reason = "core's atomics have no fetch_add on this target"),
    feature(asm_experimental_arch, core_intrinsics)
)]

#[cfg(target_arch = "bpf")]
#[expect(dead_code, reason = "the product's, which needs more of them")]
#[path = "program/atomic.rs"]
mod atomic;
#[cfg(target_arch = "bpf")]
#[path = "baseline/variants.rs"]
mod variants;

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod program {
    use aya_ebpf::macros::{classifier, map};
    use aya_ebpf::maps::PerCpuHashMap;
    use aya_ebpf::programs::TcContext;

    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Key {
        source: u32,
        destination: u32,
        ports: u32,
        proto: u32,
    }

    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Value {
        packets: u64,
        bytes: u64,
    }

    #[map]
    static FLOWS: PerCpuHashMap<Key, Value> = PerCpuHashMap::with_max_entries(65_536, 0);

    /// Nothing at all.
    #[classifier]
    pub fn empty(_: TcContext) -> i32 {
        -1
    }

    /// Packets and bytes by 5-tuple.
    #[classifier]
    pub fn minimal(ctx: TcContext) -> i32 {
        let (start, end) = (ctx.data(), ctx.data_end());
        if start + 42 > end {
            return -1;
        }
        // SAFETY: the bytes are there, and the kernel's packet bytes need no alignment.
        let key = unsafe {
            if *((start + 12) as *const u16) != 0x0800u16.to_be() {
                return -1;
            }
            Key {
                source: *((start + 26) as *const u32),
                destination: *((start + 30) as *const u32),
                ports: *((start + 34) as *const u32),
                proto: *((start + 23) as *const u8) as u32,
            }
        };
        if let Some(value) = FLOWS.get_ptr_mut(&key) {
            // SAFETY: this processor's value.
            unsafe {
                (*value).packets += 1;
                (*value).bytes += ctx.len() as u64;
            }
        } else {
            let value = Value { packets: 1, bytes: ctx.len() as u64 };
            let _ = FLOWS.insert(&key, &value, 0);
        }
        -1
    }

    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

    #[panic_handler]
    fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }
}
