//! What the kernel program and userspace share: the tables' layout ([`abi`]), and the pure code
//! that turns packets into keys and keeps RTP sequence state and jitter.
//!
//! Nothing here calls a helper, allocates or panics, so the same code runs in the kernel, in the
//! packet-capture fallback and in tests.
#![no_std]

pub mod abi;
pub mod jitter;
pub mod packet;
pub mod ports;
#[cfg(test)]
mod random;
pub mod rtp;
pub mod table;
