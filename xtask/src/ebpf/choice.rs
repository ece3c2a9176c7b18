//! The operator's word on which compiler makes the kernel object.

use std::env;

const VARIABLE: &str = "MEDIASOUP_EXPORTER_BPF_TOOLCHAIN";

/// The rustup toolchain that the environment asks for.
pub fn chosen() -> Option<String> {
    env::var(VARIABLE).ok().filter(|name| !name.is_empty())
}
