//! One server's socket that is followed: what its follower and its sessions share.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::options::{Options, Sink};
use super::place;
use super::status::Source;
use super::trust::{self, Ground, Known, Party};

/// One socket that is followed, until the exporter ends or nobody is there any more.
pub(super) struct Followed {
    pub(super) path: PathBuf,
    pub(super) options: Options,
    pub(super) source: Arc<Source>,
    pub(super) known: Arc<Mutex<Known>>,
    /// The exporter's own user.
    pub(super) own: u32,
    pub(super) sink: Sink,
    pub(super) shutdown: watch::Receiver<bool>,
}

impl Followed {
    /// Whether whoever listens is believed by now, and why.
    pub(super) fn ground(&self, party: Party) -> Option<Ground> {
        let named = self.is_named();
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        trust::ground_at(place::is_elsewhere(&self.path), party, named, self.own, &known)
    }

    pub(super) fn is_named(&self) -> bool {
        self.source.ground() == Ground::Named
    }
}
