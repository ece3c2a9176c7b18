//! Counting captured packets: the fallback without the right for eBPF.
//!
//! On each interface one socket hears what comes in and one what goes out, each read by a thread of
//! its own, because a packet does not tell its direction once it was read. A filter in the kernel
//! leaves only the counted ports. Compared with eBPF it costs a copy and two system calls a packet,
//! and what this process is too slow for is lost, and counted as lost.

mod filter;
mod ports;
mod socket;
mod table;

use std::collections::{BTreeMap, HashSet};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::Context;
use exporter_ebpf::abi::{RECEIVE, SEND};
use exporter_ebpf::packet::{Link, View};

use self::filter::Filter;
use self::ports::{NONE, Open, Owned};
use self::socket::{Heard, Socket};
use self::table::{Local, Table};
use super::keeper::Keeper;
use super::options::Options;
use super::status::{self, Failures, Knowledge, Status};
use crate::host::interfaces::{Layer, Top, on_top};
use crate::host::ownership::Ownership;
use crate::host::survey::Surveyor;
use crate::model::{Direction, JoinKey, Reading};

/// Two threads for each.
const MOST_INTERFACES: usize = 32;

/// A running capture; dropping it ends its threads.
pub(super) struct CaptureEngine {
    placement: Mutex<Placement>,
    counted: Arc<Counted>,
    ownership: Arc<Ownership>,
}

struct Placement {
    surveyor: Surveyor,
    failures: Failures,
    running: BTreeMap<u32, Running>,
    owners: Owners,
}

/// How it is known which ports are the SFU's.
enum Owners {
    /// By the operator.
    Named(RangeInclusive<u16>),
    /// By looking for sockets.
    Looked(Box<Keeper<Owned>>),
}

/// What the threads write. The lock is held for one packet; a reading holds it for longer, and
/// packets wait in the sockets' buffers meanwhile.
struct Counted {
    table: Mutex<Table>,
    ports: Arc<Open>,
    start: Instant,
    /// Packets that the sockets had no room for, or that could not be read.
    lost: AtomicU64,
}

struct Running {
    what: Top,
    /// What its filters let through.
    ports: RangeInclusive<u16>,
    ears: Vec<Ear>,
}

struct Ear {
    direction: Direction,
    socket: Arc<Socket>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl CaptureEngine {
    /// Opens the sockets. Fails when nothing at all could be opened.
    pub(super) fn start(options: &Options, ownership: &Arc<Ownership>) -> anyhow::Result<Self> {
        Socket::probe().context("open a packet socket")?;
        let Options { limits, lifetimes, jitter, .. } = *options;
        let local = (!options.every_address).then(Local::default);
        let owned = options.ports.is_none().then(|| ownership.clone());
        let table = Table::new(limits, lifetimes, local, owned, jitter);
        let (start, lost) = (Instant::now(), AtomicU64::new(0));
        let ports = Arc::new(Open::range(options.ports.as_ref().unwrap_or(&NONE)));
        let owners = match &options.ports {
            Some(range) => Owners::Named(range.clone()),
            None => {
                let (owned, workers) = (Owned::new(ports.clone()), options.workers.clone());
                Owners::Looked(Box::new(Keeper::new(owned, ownership.clone(), workers, None)))
            }
        };
        let counted = Arc::new(Counted { table: Mutex::new(table), ports, start, lost });
        let surveyor = Surveyor::new(&options.interfaces, &options.local, options.workers.clone())?;
        let (failures, running) = (Failures::default(), BTreeMap::new());
        let placement = Placement { surveyor, failures, running, owners };
        let ownership = ownership.clone();
        let engine = Self { placement: Mutex::new(placement), counted, ownership };
        match engine.place()? {
            Some(error) if engine.status().interfaces.is_empty() => Err(error),
            _ => Ok(engine),
        }
    }

    pub(super) fn read(&self) -> Reading {
        let now = self.counted.start.elapsed().as_secs();
        lock(&self.counted.table).read(now)
    }

    pub(super) fn tell(&self, told: &HashSet<JoinKey>) {
        lock(&self.counted.table).tell(told);
    }

    pub(super) fn refresh(&self) -> anyhow::Result<()> {
        self.place().map(drop)
    }

    pub(super) fn status(&self) -> Status {
        let placement = lock(&self.placement);
        for ear in placement.running.values().flat_map(|running| &running.ears) {
            self.counted.lost.fetch_add(ear.socket.lost_since(), Ordering::Relaxed);
        }
        let running = placement.running.values();
        let interfaces = running.map(|running| running.what.attach.name.clone()).collect();
        let lost = self.counted.lost.load(Ordering::Relaxed);
        let owned = placement.owners.status();
        Status { capture_lost: Some(lost), ..placement.failures.status(interfaces, owned) }
    }

    /// Looks for sockets only.
    pub(super) fn look_for_sockets(&self) -> anyhow::Result<()> {
        let mut placement = lock(&self.placement);
        let Placement { running, owners, .. } = &mut *placement;
        owners.look().context("look for the SFU's sockets")?;
        let ports = owners.range();
        for running in running.values_mut().filter(|running| running.ports != ports) {
            running.refilter(&ports)?;
        }
        Ok(())
    }

    fn place(&self) -> anyhow::Result<Option<anyhow::Error>> {
        self.look_for_sockets()?;
        let mut placement = lock(&self.placement);
        let Placement { surveyor, failures, running, owners } = &mut *placement;
        let ports = &owners.range();
        let survey = surveyor.look()?;
        lock(&self.counted.table).set_local(&survey.local.prefixes);
        self.ownership.set_local(survey.local.prefixes.iter().map(|(prefix, _)| *prefix));
        let wanted = on_top(&survey.choice.attach, &survey.situation);
        running.retain(|_, running| {
            let stays = wanted.contains(&running.what) && running.ears.iter().all(Ear::lives);
            if !stays {
                tracing::info!("no longer capturing on {}", running.what.attach.name);
                for ear in &running.ears {
                    self.counted.lost.fetch_add(ear.socket.lost_since(), Ordering::Relaxed);
                }
            }
            stays
        });
        let mut failed = Vec::new();
        for what in wanted {
            if running.contains_key(&what.attach.index) {
                continue;
            }
            if running.len() >= MOST_INTERFACES {
                let error = anyhow::anyhow!("{MOST_INTERFACES} interfaces are captured already");
                failed.push((what.attach, error));
                continue;
            }
            match open(&what, ports, &self.counted) {
                Ok(ears) => {
                    tracing::info!("capturing on {}", what.attach.name);
                    let ports = ports.clone();
                    running.insert(what.attach.index, Running { what, ports, ears });
                }
                Err(error) => failed.push((what.attach, error)),
            }
        }
        failures.note(&survey, &failed, BTreeMap::new());
        Ok(failed.into_iter().next().map(|(_, error)| error))
    }
}

impl Owners {
    fn look(&mut self) -> std::io::Result<()> {
        match self {
            Self::Named(_) => Ok(()),
            Self::Looked(keeper) => keeper.look(),
        }
    }

    fn range(&self) -> RangeInclusive<u16> {
        match self {
            Self::Named(range) => range.clone(),
            Self::Looked(keeper) => keeper.tables().range(),
        }
    }

    fn status(&self) -> status::Owned {
        match self {
            Self::Named(_) => status::Owned { by: Knowledge::Flag, ..status::Owned::default() },
            Self::Looked(keeper) => status::Owned {
                by: Knowledge::Scan,
                why: Some("packet capture sees no sockets being bound".to_owned()),
                sockets: keeper.tables().len() as u64,
                refused: keeper.refused(),
                lost: 0,
            },
        }
    }
}

impl Running {
    fn refilter(&mut self, ports: &RangeInclusive<u16>) -> anyhow::Result<()> {
        for ear in &self.ears {
            let filter = filter(&self.what, ear.direction, ports);
            let filtered = ear.socket.refilter(&filter);
            filtered.with_context(|| format!("filter on {}", self.what.attach.name))?;
        }
        self.ports = ports.clone();
        Ok(())
    }
}

fn filter(top: &Top, direction: Direction, ports: &RangeInclusive<u16>) -> Filter {
    let (layer, ports, skip_tagged) = (top.attach.layer, ports.clone(), top.skip_tagged);
    Filter { layer, direction, ports, skip_tagged }
}

fn open(
    what: &Top,
    ports: &RangeInclusive<u16>,
    counted: &Arc<Counted>,
) -> anyhow::Result<Vec<Ear>> {
    let mut ears = Vec::new();
    for direction in [Direction::Receive, Direction::Send] {
        let filter = filter(what, direction, ports);
        let (socket, receiver) = Socket::open(&what.attach, &filter)
            .with_context(|| format!("capture on {}", what.attach.name))?;
        let socket = Arc::new(socket);
        let stop = Arc::new(AtomicBool::new(false));
        let link = match what.attach.layer {
            Layer::Ethernet => Link::Ethernet,
            Layer::Raw => Link::Raw,
            Layer::Wrapped => Link::Wrapped,
        };
        let (counted, ended) = (Arc::clone(counted), Arc::clone(&stop));
        let its_socket = Arc::clone(&socket);
        let listen = move || {
            // Only reading is left to do here.
            let _ = caps::clear(None, caps::CapSet::Effective);
            let _ = caps::clear(None, caps::CapSet::Permitted);
            let hear = |heard: Heard<'_>| counted.hear(&heard, link, direction);
            if let Err(error) = its_socket.listen(receiver, &ended, &counted.lost, hear) {
                tracing::debug!("a packet socket ended: {error}");
            }
        };
        let thread = std::thread::Builder::new().name("capture".into()).spawn(listen)?;
        ears.push(Ear { direction, socket, stop, thread: Some(thread) });
    }
    Ok(ears)
}

impl Counted {
    fn hear(&self, heard: &Heard<'_>, link: Link, direction: Direction) {
        let now = self.start.elapsed();
        let direction = if direction == Direction::Receive { RECEIVE } else { SEND };
        let view = View { link, direction, ports: &*self.ports, frame: heard.length };
        lock(&self.table).frame(heard.bytes, &view, heard.segment, now);
    }
}

impl Ear {
    fn lives(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has nothing more to count.
            let _ = thread.join();
        }
    }
}

/// A panic while the lock was held leaves counters that are at worst one packet behind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
