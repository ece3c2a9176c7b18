//! `mediasoup-exporter capture`: the packets of chosen rooms, peers, addresses or streams, in a file.
//!
//! A client like `top`: it asks an exporter whose packets are whose. What it captures it captures itself, with
//! its own right to do so. `choice`, `frames`, `filter`, `twins`, `pace` and `pcapng` are pure; `asker`, `ears` and `output`
//! do I/O and do not know each other; `run` brings them together.

mod asker;
mod choice;
mod ears;
mod filter;
mod frames;
mod output;
mod pace;
mod pcapng;
mod run;
mod twins;

pub use run::run;

/// Bytes that are kept of a frame of `length` bytes, of which these were copied.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn kept(
    bytes: &[u8],
    layer: crate::host::interfaces::Layer,
    length: u32,
) -> Option<usize> {
    frames::look(bytes, layer, length).map(|seen| seen.cut(true))
}
