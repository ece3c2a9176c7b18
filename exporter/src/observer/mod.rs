//! Listens to mediasoup servers: finds their observer sockets, brings the script in or meets the one
//! that is there, and passes on what they tell.
//!
//! Sockets come in, [`Event`]s go out. What the events mean is `state`'s business; nothing here
//! keeps objects. A server that is away, hangs or talks nonsense costs its `up` and nothing else.

mod backoff;
mod console;
mod followed;
mod follower;
mod leftovers;
mod lines;
mod options;
mod place;
pub mod protocol;
mod roster;
mod screen;
mod search;
mod session;
mod status;
mod trust;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use self::followed::Followed;
use self::options::Sink;
pub use self::options::{AGENT_SCRIPT, KNOWN_SOCKETS, Options};
use self::roster::Roster;
use self::search::Search;
pub use self::search::known_sockets;
use self::status::Source;
pub use self::status::{Refusal, Status, Tally};
pub use self::trust::Ground;
use crate::state::{Event, SourceId};

/// All servers, for whoever reports on them.
#[derive(Debug)]
pub struct Observer {
    options: Options,
    /// The exporter's own user.
    own: u32,
    /// Locked for the length of a copy, or of a look's booking; tasks hold their own `Arc`s.
    roster: Mutex<Roster>,
    /// What is to be followed from the start.
    first: Mutex<Vec<(PathBuf, Arc<Source>)>>,
}

impl Observer {
    /// An observer that does not listen yet.
    pub fn new(options: Options) -> Arc<Self> {
        let own = rustix::process::geteuid().as_raw();
        let mut roster = Roster::new(own);
        // What the operator named shows from the start, whether it is there or not.
        let first = Mutex::new(roster.take(&search::named_only(&options.sockets)));
        Arc::new(Self { options, own, roster: Mutex::new(roster), first })
    }

    /// How each server is, in the order of their paths.
    pub fn statuses(&self) -> Vec<Status> {
        self.roster().statuses()
    }

    /// The process of a server, as this process sees it, and whether somebody answers for it; `None`
    /// where its process cannot be known.
    pub fn process(&self, id: SourceId) -> Option<(u32, Ground)> {
        self.roster().process(id)
    }

    /// Some of the servers that are not believed, and how many there are.
    pub fn refusals(&self) -> (Vec<Refusal>, usize) {
        self.roster().refusals()
    }

    /// Patterns of the operator's that stand for no socket now.
    pub fn unmatched(&self) -> Vec<PathBuf> {
        self.roster().unmatched().cloned().collect()
    }

    /// Workers, by process id, of which no server tells.
    pub fn unobserved(&self) -> Vec<u32> {
        self.roster().unobserved()
    }

    /// Listens until `shutdown` is true. The sink is called with what one reading of a socket
    /// brought, in order; that socket is read again when it has taken that.
    pub async fn run<S, F>(self: Arc<Self>, sink: S, mut shutdown: watch::Receiver<bool>)
    where
        S: Fn(SourceId, Vec<Event>) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let sink: Sink = Arc::new(move |source, events| -> BoxFuture<'static, ()> {
            Box::pin(sink(source, events))
        });
        let opener = Handle::current();
        let readers = self.options.readers.clone().unwrap_or_else(|| opener.clone());
        let mut tasks = JoinSet::new();
        leftovers::remove(&self.options.folder).await;
        let mut new =
            std::mem::take(&mut *self.first.lock().unwrap_or_else(PoisonError::into_inner));
        loop {
            new.extend(self.look().await);
            for (path, source) in new.drain(..) {
                let followed = Followed {
                    path,
                    options: self.options.clone(),
                    source,
                    known: self.roster().known(),
                    own: self.own,
                    sink: sink.clone(),
                    shutdown: shutdown.clone(),
                    opener: opener.clone(),
                };
                tasks.spawn_on(followed.follow(), &readers);
            }
            while tasks.try_join_next().is_some() {}
            tokio::select! {
                () = sleep(self.options.look) => {}
                _ = shutdown.wait_for(|shutdown| *shutdown) => break,
            }
        }
        while tasks.join_next().await.is_some() {}
    }

    /// What is to be followed from now on.
    async fn look(&self) -> Vec<(PathBuf, Arc<Source>)> {
        let search = Search {
            is_wide: self.options.search,
            named: self.options.sockets.clone(),
            folder: self.options.folder.clone(),
            workers: Arc::clone(&self.options.workers),
            age: self.options.look / 2,
        };
        match tokio::task::spawn_blocking(move || search.look()).await {
            Ok(found) => {
                let mut roster = self.roster();
                let new = roster.take(&found);
                roster.look_after(&found.workers);
                new
            }
            Err(error) => {
                tracing::error!("look for servers: {error}");
                Vec::new()
            }
        }
    }

    fn roster(&self) -> MutexGuard<'_, Roster> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// mediasoup 3.6 runs on Node.js 12, which knows no syntax younger than 2019's.
    #[test]
    fn the_scripts_are_ascii_and_have_no_young_syntax() {
        for script in [AGENT_SCRIPT, console::LOADER] {
            assert!(script.is_ascii() && !script.contains('\0'));
            for young in ["?.", "??", "||=", "&&=", "catch {", "#", "replaceAll", "import("] {
                assert!(!script.contains(young), "{young}");
            }
        }
    }
}
