//! What the tests against a real kernel, a real mediasoup and a real Prometheus share.
//!
//! Nothing here is specific to one test: hosts, processes and peers are started and stopped here,
//! and what they counted is handed out as plain values.

pub mod arrivals;
pub mod binders;
pub mod bpf;
pub mod bpffs;
pub mod browser;
pub mod captured;
pub mod cast;
pub mod endpoint;
pub mod expect;
pub mod exporter;
pub mod flood;
pub mod guest;
pub mod http;
pub mod netns;
pub mod nft;
pub mod observer_fixture;
pub mod observer_watch;
pub mod packets;
pub mod pair;
pub mod peer;
pub mod process;
pub mod prog;
pub mod prometheus;
pub mod proxy;
pub mod rtp;
pub mod scene;
pub mod scrape;
pub mod sfu;
pub mod stranger;
pub mod tun;
pub mod wait;

use std::io::Write;

/// Says on stderr that the running test could not run, and why; the caller then returns. The line
/// is written past the test runner's capture, so that whoever runs the tests can count the skips.
pub fn skip(why: &str) {
    let thread = std::thread::current();
    let line = format!("skipped: {}: {why}\n", thread.name().unwrap_or("unnamed test"));
    // A test that cannot say that it was skipped has nobody to say it to.
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

/// Whether the test runs as root; says that it is skipped where it does not.
pub fn root_or_skip() -> bool {
    // SAFETY: geteuid has no arguments, no failure and touches no memory.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        skip("needs root");
        return false;
    }
    // aya asks once in a process' life what the kernel can do, and believes for good what it was told. A test that
    // gives its rights up must not be the first to ask.
    let _ = aya::features();
    true
}
