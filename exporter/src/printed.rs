//! Text for standard output, where a disk can be full.

use std::io::{self, ErrorKind, Write};

use anyhow::Context;

/// Writes all of it.
///
/// # Errors
/// What the system says, but for a reader that has had enough (`| head`): that is no failure.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    enough(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// The same of what was written otherwise.
pub(crate) fn enough(written: io::Result<()>) -> anyhow::Result<()> {
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("write to standard output"),
    }
}
