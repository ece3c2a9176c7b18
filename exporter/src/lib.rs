//! Counts every RTP byte of a mediasoup SFU in the kernel and serves it, joined with what the SFU
//! knows of rooms and peers, to Prometheus.
//!
//! The modules stand in reading order. `model` lies below all others; `state`, `join`, `labels`,
//! `ledger`, `exposition`, `history` and `views` are pure: values in, values out. `host` asks the host. `kernel`, `observer`, `sockets`, `web`,
//! `resolver` and `config` do I/O and do not know each other; only `startup`, `collect` and `main`
//! know them all.

pub mod allocator;
pub mod entropy;
pub mod model;
mod prefetch;
pub mod printed;
mod texts;

pub mod exposition;
pub mod join;
pub mod labels;
pub mod ledger;
pub mod state;

pub mod history;
pub mod journal;
pub mod views;

pub mod files;
pub mod host;

pub mod kernel;
pub mod observer;
pub mod sockets;

pub mod config;
pub mod resolver;
pub mod sandbox;
pub mod service;
pub mod signals;
pub mod telemetry;
pub mod web;

pub mod check;
pub mod collect;
pub mod config_check;
pub mod startup;

pub mod capture;
pub mod client;
pub mod explain;
pub mod top;

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;

#[cfg(test)]
mod fixture;
