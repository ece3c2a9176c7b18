//! A process of its own that takes `clsact` filters away when the exporter is gone, however it ended: unlike a
//! link, a filter stays when nobody holds it.
//!
//! It is told over its standard input on which interfaces the exporter made a qdisc, one number a line, and
//! that it is gone by the input's end. It does nothing else, so there is little that could go wrong
//! with it before then.

use std::collections::BTreeSet;
use std::io::{self, BufRead, Write};
use std::process::{Child, ChildStdin, Command, Stdio};

use anyhow::Context;

use super::clsact::Clsact;
use crate::host::rtnetlink;

/// The flag that makes a guard of the exporter's program; its value is the exporter's name.
pub const FLAG: &str = "--guard-filters";

/// The exporter's side.
#[derive(Debug)]
pub(super) struct Guard {
    child: Child,
    input: Option<ChildStdin>,
}

impl Guard {
    /// Starts one for the exporter of that name.
    pub(super) fn start(exporter: &str) -> io::Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.args([FLAG, exporter]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn()?;
        let input = child.stdin.take();
        Ok(Self { child, input })
    }

    /// The exporter made a qdisc there.
    pub(super) fn made(&mut self, interface: u32) -> io::Result<()> {
        let Some(input) = &mut self.input else { return Ok(()) };
        writeln!(input, "{interface}")
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.input.take());
        // It has an end to read, and then some milliseconds of work at most.
        let _ = self.child.wait();
    }
}

/// The guard's side: returns when the exporter is gone and its filters are.
pub fn watch(exporter: &str) -> anyhow::Result<()> {
    // What ends the exporter must not end its guard before.
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: a signal's number, and what to do with it.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    let lines = io::stdin().lock().lines().map_while(Result::ok);
    let made: BTreeSet<u32> = lines.filter_map(|line| line.parse().ok()).collect();
    remove(|maker| maker == exporter, &made).map(drop)
}

/// Removes the filters of those makers from all interfaces, and qdiscs that they made if nobody uses them.
/// Returns how many filters there were.
pub(in crate::kernel) fn remove(
    is_left: impl Fn(&str) -> bool,
    made: &BTreeSet<u32>,
) -> anyhow::Result<usize> {
    let mut clsact = Clsact::new(String::new()).context("open a netlink socket")?;
    let answer = rtnetlink::Links::new().and_then(|mut links| links.ask());
    let mut removed = 0;
    for interface in answer.context("ask for interfaces")?.situation.interfaces {
        let index = interface.index;
        removed += clsact.remove_left(index, &is_left).context("remove clsact filters")?;
        if made.contains(&index) {
            clsact.remove_unused(index).context("remove a clsact qdisc")?;
        }
    }
    Ok(removed)
}
