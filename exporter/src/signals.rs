//! The signals that ask the exporter to end. They wait until somebody listens to them, so that one that comes
//! while programs are being attached does not leave half of them behind.

use std::mem::MaybeUninit;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Holds SIGTERM and SIGINT back in this thread, and in those that it makes, until [`Signals::listen`].
pub fn hold() {
    change(libc::SIG_BLOCK);
}

/// SIGHUP asks for files to be read again. One that comes before somebody listens ends nothing: they are just
/// being read.
pub fn ignore_hangup() {
    // SAFETY: no handler runs; whoever listens later takes its place.
    unsafe {
        libc::signal(libc::SIGHUP, libc::SIG_IGN);
    }
}

/// Takes one that is held back, if one has come. For who has no runtime.
pub fn came() -> bool {
    let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the set is filled, the time lives; nothing is asked about the signal.
    unsafe { libc::sigtimedwait(set().as_ptr(), std::ptr::null_mut(), &raw const at_once) > 0 }
}

fn change(how: libc::c_int) {
    // SAFETY: the set is filled.
    unsafe {
        libc::pthread_sigmask(how, set().as_ptr(), std::ptr::null_mut());
    }
}

fn set() -> MaybeUninit<libc::sigset_t> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: `sigemptyset` fills the set, and the others take one that is filled.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGTERM);
        libc::sigaddset(set.as_mut_ptr(), libc::SIGINT);
    }
    set
}

/// SIGTERM and SIGINT.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Listens, and lets this thread have those that were held back. Needs a runtime.
    pub fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("listen for signals");
        let signals = Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        };
        change(libc::SIG_UNBLOCK);
        Ok(signals)
    }

    /// Returns when one of them came.
    pub async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
