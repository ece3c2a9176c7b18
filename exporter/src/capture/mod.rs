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
