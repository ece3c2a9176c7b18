//! One server's socket that is followed: what its follower and its sessions share.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::UnixStream;
use tokio::runtime::Handle;
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
    /// Where sockets are opened.
    pub(super) opener: Handle,
    pub(super) shutdown: watch::Receiver<bool>,
}

impl Followed {
    /// Whether whoever listens is believed by now, and why.
    pub(super) fn ground(&self, party: Party) -> Option<Ground> {
        let named = self.is_named();
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        trust::ground_at(place::is_in_container(&self.path), party, named, self.own, &known)
    }

    /// Connects with the rights of those who open sockets, whichever runtime asks.
    pub(super) async fn connect(&self) -> io::Result<UnixStream> {
        let path = self.path.clone();
        let opened = async move { place::connect(&path).await.and_then(UnixStream::into_std) };
        let opened = self.opener.spawn(opened).await.map_err(io::Error::other)?;
        opened.and_then(UnixStream::from_std)
    }

    pub(super) fn is_named(&self) -> bool {
        self.source.ground() == Ground::Named
    }
}
