//! Counts every RTP byte of a mediasoup SFU in the kernel and serves it, joined with what the SFU
//! knows of rooms and peers, to Prometheus.
//!
//! The modules stand in reading order. `model` lies below all others; `state`, `join`, `labels`,
//! `ledger` and `exposition` are pure: values in, values out. `kernel`, `observer`, `sockets`, `web`
//! and `config` do I/O and do not know each other; only `main` knows them all.

pub mod model;

pub mod labels;
pub mod state;

pub mod config;
pub mod kernel;
pub mod netlink;
pub mod privileges;
pub mod resolver;
pub mod sockets;
pub mod telemetry;
pub mod web;
pub mod workers;
