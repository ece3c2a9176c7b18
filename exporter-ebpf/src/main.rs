//! The kernel program. For any target but the kernel it is empty.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    target_arch = "bpf",
    expect(internal_features, reason = "core's atomics have no fetch_add on this target"),
    feature(asm_experimental_arch, core_intrinsics)
)]

#[cfg(target_arch = "bpf")]
mod program;

#[cfg(not(target_arch = "bpf"))]
fn main() {}
