//! Counting captured packets: the fallback without the right for eBPF.
//!
//! On each interface one socket hears what comes in and one what goes out, each read by a thread of
//! its own, because a packet does not tell its direction once it was read. A filter in the kernel
//! leaves only the counted ports. Compared with eBPF it costs a copy and two system calls a packet,
//! and what this process is too slow for is lost, and counted as lost.

mod filter;
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
use self::socket::{Heard, Socket};
use self::table::Table;
use super::options::Options;
use super::status::{Failures, Status};
use crate::host::interfaces::{Attach, Layer, Situation};
use crate::host::survey::Surveyor;
use crate::model::{Direction, JoinKey, Reading};

/// Two threads for each.
const MOST_INTERFACES: usize = 32;

/// A running capture; dropping it ends its threads.
pub(super) struct CaptureEngine {
    placement: Mutex<Placement>,
    counted: Arc<Counted>,
}

struct Placement {
    surveyor: Surveyor,
    failures: Failures,
    running: BTreeMap<u32, Running>,
    ports: RangeInclusive<u16>,
}

/// What the threads write. The lock is held for one packet; a reading holds it for longer, and
/// packets wait in the sockets' buffers meanwhile.
struct Counted {
    table: Mutex<Table>,
    start: Instant,
    /// Packets that the sockets had no room for, or that could not be read.
    lost: AtomicU64,
}

struct Running {
    what: Capture,
    ears: Vec<Ear>,
}

struct Ear {
    socket: Arc<Socket>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// One interface to capture on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Capture {
    attach: Attach,
    /// See [`Filter`].
    skip_tagged: bool,
}

impl CaptureEngine {
    /// Opens the sockets. Fails when nothing at all could be opened.
    pub(super) fn start(options: &Options) -> anyhow::Result<Self> {
        Socket::probe().context("open a packet socket")?;
        let Options { limits, lifetimes, jitter, .. } = *options;
        let table = Table::new(limits, lifetimes, !options.every_address, jitter);
        let (start, lost) = (Instant::now(), AtomicU64::new(0));
        let counted = Arc::new(Counted { table: Mutex::new(table), start, lost });
        let surveyor = Surveyor::new(&options.interfaces, &options.local, options.workers.clone())?;
        let ports = options.ports.clone();
        let placement =
            Placement { surveyor, failures: Failures::default(), running: BTreeMap::new(), ports };
        let engine = Self { placement: Mutex::new(placement), counted };
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
        Status { capture_lost: Some(lost), ..placement.failures.status(interfaces) }
    }

    fn place(&self) -> anyhow::Result<Option<anyhow::Error>> {
        let mut placement = lock(&self.placement);
        let Placement { surveyor, failures, running, ports } = &mut *placement;
        let survey = surveyor.look()?;
        lock(&self.counted.table).set_local(&survey.hosts());
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
                    running.insert(what.attach.index, Running { what, ears });
                }
                Err(error) => failed.push((what.attach, error)),
            }
        }
        failures.note(&failed);
        Ok(failed.into_iter().next().map(|(_, error)| error))
    }
}

/// Where interfaces stand on each other, a packet passes several. Without the marks that the kernel
/// program leaves on packets, it must be captured on one only: not on members of a bridge or bond if
/// anything else is captured, and with its VLAN tag not below a VLAN interface that is.
fn on_top(chosen: &[Attach], situation: &Situation) -> Vec<Capture> {
    let is_chosen = |index: u32| chosen.iter().any(|attach| attach.index == index);
    let belongs = |attach: &Attach| {
        let link = situation.interfaces.iter().find(|link| link.index == attach.index);
        link.is_some_and(|link| link.controller.is_some())
    };
    let only_members = chosen.iter().all(belongs);
    let is_member = |attach: &Attach| !only_members && belongs(attach);
    let carries_vlans = |attach: &Attach| {
        let mut links = situation.interfaces.iter();
        links.any(|link| link.vlan_parent == Some(attach.index) && is_chosen(link.index))
    };
    let tops = chosen.iter().filter(|attach| !is_member(attach));
    tops.map(|attach| Capture { attach: attach.clone(), skip_tagged: carries_vlans(attach) })
        .collect()
}

fn open(
    what: &Capture,
    ports: &RangeInclusive<u16>,
    counted: &Arc<Counted>,
) -> anyhow::Result<Vec<Ear>> {
    let mut ears = Vec::new();
    for direction in [Direction::Receive, Direction::Send] {
        let filter = Filter {
            layer: what.attach.layer,
            direction,
            ports: ports.clone(),
            skip_tagged: what.skip_tagged,
        };
        let (socket, receiver) = Socket::open(&what.attach, &filter)
            .with_context(|| format!("capture on {}", what.attach.name))?;
        let socket = Arc::new(socket);
        let stop = Arc::new(AtomicBool::new(false));
        let view = View {
            link: match what.attach.layer {
                Layer::Ethernet => Link::Ethernet,
                Layer::Raw => Link::Raw,
            },
            direction: if direction == Direction::Receive { RECEIVE } else { SEND },
            port_min: *ports.start(),
            port_max: *ports.end(),
            frame: 0,
        };
        let (counted, ended) = (Arc::clone(counted), Arc::clone(&stop));
        let its_socket = Arc::clone(&socket);
        let listen = move || {
            // Only reading is left to do here.
            let _ = caps::clear(None, caps::CapSet::Effective);
            let _ = caps::clear(None, caps::CapSet::Permitted);
            let hear = |heard: Heard<'_>| counted.hear(&heard, view);
            if let Err(error) = its_socket.listen(receiver, &ended, &counted.lost, hear) {
                tracing::debug!("a packet socket ended: {error}");
            }
        };
        let thread = std::thread::Builder::new().name("capture".into()).spawn(listen)?;
        ears.push(Ear { socket, stop, thread: Some(thread) });
    }
    Ok(ears)
}

impl Counted {
    fn hear(&self, heard: &Heard<'_>, view: View) {
        let now = self.start.elapsed();
        let view = View { frame: heard.length, ..view };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::interfaces::Interface;

    #[test]
    fn of_a_stack_only_the_top_is_captured() {
        let link = |index: u32, controller, vlan_parent| Interface {
            index,
            name: format!("if{index}"),
            kind: 1,
            up: true,
            controller,
            vlan_parent,
            ..Interface::default()
        };
        // 2 is a member of bridge 3; VLAN interface 4 stands on 3.
        let links = vec![link(2, Some(3), None), link(3, None, None), link(4, None, Some(3))];
        let situation = Situation { interfaces: links, ..Situation::default() };
        let check = |chosen: &[u32], expected: &[(u32, bool)]| {
            let attach = |&index: &u32| {
                let name = format!("if{index}");
                Attach { index, name, layer: Layer::Ethernet, crossing: false }
            };
            let chosen: Vec<Attach> = chosen.iter().map(attach).collect();
            let captured = on_top(&chosen, &situation);
            let captured: Vec<(u32, bool)> =
                captured.iter().map(|what| (what.attach.index, what.skip_tagged)).collect();
            assert_eq!(captured, expected);
        };
        check(&[2], &[(2, false)]);
        check(&[2, 3], &[(3, false)]);
        check(&[2, 3, 4], &[(3, true), (4, false)]);
        check(&[2, 4], &[(4, false)]);
    }
}
