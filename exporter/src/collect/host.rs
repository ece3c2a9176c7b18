//! What the host says of servers' words: which of its processes are a server's workers, and which ports
//! those own. Joins the servers that `observer` knows with what `host` knows; asks no server.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::host::ownership::Ownership as Ports;
use crate::host::workers::{WorkerProcess, Workers};
use crate::model::{Proto, SourceId};
use crate::observer::Observer;
use crate::state::{Bound, Ownership};

/// Workers may have been found so long ago; where one is missing, it may be younger, and all are looked
/// for anew, but not more often than this.
const AGE: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(1);

/// Answers the state's questions.
#[derive(Debug)]
pub struct Host {
    /// Who has which port.
    pub ports: Arc<Ports>,
    /// Finds workers.
    pub workers: Arc<Workers>,
    /// Knows servers' processes.
    pub observer: Arc<Observer>,
}

fn find(workers: &[WorkerProcess], server: u32, pid: u32) -> Option<&WorkerProcess> {
    let family =
        |worker: &&WorkerProcess| worker.pid == server || worker.ancestors.contains(&server);
    let mut family = workers.iter().filter(family);
    family.find(|worker| worker.inner_pid == pid)
}

impl Ownership for Host {
    fn worker(&self, source: SourceId, pid: u32) -> Option<Option<u32>> {
        let (server, ground) = self.observer.process(source)?;
        let mut workers = self.workers.within(AGE);
        if find(&workers, server, pid).is_none() {
            workers = self.workers.within(SOON);
        }
        let found = find(&workers, server, pid).map(|worker| worker.pid);
        // Whoever answers for others, as a proxy does, has no workers itself.
        let is_parent = || workers.iter().any(|worker| worker.ancestors.contains(&server));
        (found.is_some() || !ground.vouches() || is_parent()).then_some(found)
    }

    fn bound(&self, process: u32, proto: Proto, port: u16) -> Option<Bound> {
        self.ports.bound(process, proto, port)
    }

    fn is_local(&self, address: IpAddr) -> Option<bool> {
        self.ports.is_local(address)
    }
}
