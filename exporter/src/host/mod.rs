//! What this host has: workers, their sockets and ports, network namespaces, interfaces and addresses;
//! and what this process may do on it.
//!
//! `/proc` and netlink are asked here and nowhere else. What is counted, told or exported is not
//! known here.

pub mod addresses;
pub mod capabilities;
pub mod claim;
pub mod classic_bpf;
pub mod cookies;
pub mod interfaces;
pub mod listeners;
pub mod load;
pub mod namespaces;
pub mod netlink;
pub mod ownership;
pub mod pace;
pub mod packet_socket;
pub mod procfs;
pub mod recognise;
pub mod rtnetlink;
pub mod survey;
pub mod workers;
