//! Counting by eBPF: the loaded programs, where they are attached, and their tables.

use std::collections::HashSet;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use anyhow::{Context, bail};
use aya::Ebpf;
use aya_log::EbpfLogger;
use exporter_ebpf::abi::Ownership as Sum;
use exporter_ebpf::ports;

use super::attach::Attacher;
use super::attach::cgroup::Watch;
use super::attach::pinned::PinnedLinks;
use super::ebpf::load::{self, TracingLog};
use super::ebpf::owned::Owned;
use super::ebpf::pin::Pins;
use super::ebpf::tables::Tables;
use super::keeper::Keeper;
use super::options::{Options, Sockets};
use super::owners::Seen;
use super::status::{self, Failures, Knowledge, Status};
use crate::host::claim::Claim;
use crate::host::cookies::{self, Cookies};
use crate::host::ownership::{Ownership, SocketId};
use crate::host::procfs;
use crate::host::survey::Surveyor;
use crate::model::{JoinKey, Reading};

/// Each part has a lock of its own, so that reading never waits for an attach, which may take
/// milliseconds. Whoever takes several takes them in this order.
pub(super) struct EbpfEngine {
    placement: Mutex<Placement>,
    owners: Mutex<Owners>,
    tables: Mutex<Tables>,
    /// As it was last told.
    status: Mutex<Status>,
    ownership: Arc<Ownership>,
    links: PinnedLinks,
    pins: Option<Pins>,
    unpinned: Option<String>,
}

struct Placement {
    attacher: Attacher,
    surveyor: Surveyor,
    failures: Failures,
    log: Option<EbpfLogger<TracingLog>>,
}

/// How it is known which ports are the SFU's.
enum Owners {
    /// By the operator.
    Named,
    /// By programs that see sockets being bound and closed.
    Watched { keeper: Keeper<Owned>, watch: Watch },
    /// By looking for sockets.
    Looked {
        keeper: Keeper<Owned>,
        /// Why.
        why: String,
        /// Programs that somebody detached, and that could not be attached again yet.
        detached: Option<Watch>,
    },
}

impl EbpfEngine {
    /// Loads and attaches. Fails when nothing at all could be attached.
    pub(super) fn start(
        options: &Options,
        ownership: &Arc<Ownership>,
        claim: Claim,
    ) -> anyhow::Result<Self> {
        let mut loaded = load::load(options, claim.tag())?;
        if let Some(why) = &loaded.unpinned {
            tracing::warn!(
                "{why}; counting without pins: what passes while no exporter runs is not counted"
            );
        }
        let tables = Tables::new(loaded.tables, options.limits, options.lifetimes)?;
        let owned = Owned::new(loaded.owned)?;
        let owners = Owners::start(options, ownership, owned, &mut loaded.ebpf)?;
        let links = PinnedLinks::new(loaded.pins.as_ref().map(Pins::links));
        let attacher =
            Attacher::new(loaded.ebpf, options.mechanism, claim, links.clone(), options.guard)?;
        let surveyor = Surveyor::new(&options.interfaces, &options.local, options.workers.clone())?;
        let placement =
            Placement { attacher, surveyor, failures: Failures::default(), log: loaded.log };
        let engine = Self {
            placement: Mutex::new(placement),
            owners: Mutex::new(owners),
            tables: Mutex::new(tables),
            status: Mutex::default(),
            ownership: ownership.clone(),
            links,
            pins: loaded.pins,
            unpinned: loaded.unpinned,
        };
        engine.place().and_then(|failed| match failed {
            Some(error) if engine.status().interfaces.is_empty() => Err(error),
            _ => Ok(()),
        })?;
        engine.settle().context("pin what counts")?;
        Ok(engine)
    }

    /// Programs are in their places: now what an earlier exporter left can go.
    fn settle(&self) -> anyhow::Result<()> {
        let placement = lock(&self.placement);
        let watched = match &mut *lock(&self.owners) {
            Owners::Watched { watch, .. } => {
                watch.pin(&self.links)?;
                Some(Watch::names())
            }
            Owners::Named | Owners::Looked { .. } => None,
        };
        Ok(placement.attacher.forget_others(watched.into_iter().flatten())?)
    }

    pub(super) fn read(&self) -> anyhow::Result<Reading> {
        lock(&self.tables).read()
    }

    pub(super) fn tell(&self, told: &HashSet<JoinKey>) -> anyhow::Result<()> {
        lock(&self.tables).tell(told).context("write the tables of told flows")
    }

    pub(super) fn refresh(&self) -> anyhow::Result<()> {
        self.place().map(drop)
    }

    /// Takes the programs from all interfaces.
    pub(super) fn detach(&self) {
        lock(&self.placement).attacher.detach_all();
    }

    /// Looks for sockets only.
    pub(super) fn look_for_sockets(&self) -> anyhow::Result<()> {
        lock(&self.owners).look().context("look for the SFU's sockets")
    }

    /// Takes in which sockets were bound and closed. True: in a network namespace of which nothing was heard before.
    pub(super) fn hear(&self) -> anyhow::Result<bool> {
        lock(&self.owners).hear().context("hear of the SFU's sockets")
    }

    /// Readable when sockets were bound or closed; `None`: that is only seen by looking.
    pub(super) fn binds(&self) -> io::Result<Option<OwnedFd>> {
        match &*lock(&self.owners) {
            Owners::Watched { keeper, .. } => keeper.tables().ring().try_clone_to_owned().map(Some),
            Owners::Named | Owners::Looked { .. } => Ok(None),
        }
    }

    /// As it is; or as it was, while somebody looks: whoever makes a look long makes no scrape wait.
    pub(super) fn status(&self) -> Status {
        let mut known = lock(&self.status);
        if let Some(placement) = try_lock(&self.placement)
            && let Some(owners) = try_lock(&self.owners)
        {
            let interfaces = placement.attacher.interfaces().map(str::to_owned).collect();
            let status = placement.failures.status(interfaces, owners.status());
            *known = Status {
                is_pinned: self.pins.is_some(),
                unpinned: self.unpinned.clone(),
                ..status
            };
        }
        known.clone()
    }

    /// Attaches where programs should be and detaches elsewhere; the first failure comes back.
    fn place(&self) -> anyhow::Result<Option<anyhow::Error>> {
        let mut placement = lock(&self.placement);
        let Placement { attacher, surveyor, failures, log } = &mut *placement;
        if let Some(log) = log {
            log.flush();
        }
        lock(&self.owners).look_after(attacher.programs(), &self.links);
        self.look_for_sockets()?;
        let survey = surveyor.look()?;
        let local = &survey.local.prefixes;
        self.ownership.set_local(local.iter().map(|(prefix, _)| *prefix));
        lock(&self.tables).set_local(local).context("write the tables of addresses")?;
        let outcome = attacher.attach_to(&survey.choice.attach);
        failures.note(&survey, &outcome.failed, outcome.behind);
        Ok(outcome.failed.into_iter().next().map(|(_, error)| error))
    }
}

impl Owners {
    fn start(
        options: &Options,
        ownership: &Arc<Ownership>,
        owned: Owned,
        ebpf: &mut Ebpf,
    ) -> anyhow::Result<Self> {
        if let Some(range) = &options.ports {
            owned.open(&ports::of_range(*range.start(), *range.end())).context("open ports")?;
            return Ok(Self::Named);
        }
        let workers = options.workers.clone();
        let cookies = match Cookies::new() {
            Ok(cookies) => cookies,
            Err(error) => return Err(error).context("open a netlink socket"),
        };
        let mut keeper = Keeper::new(owned, ownership.clone(), workers, Some(cookies));
        match watch(options, &mut keeper, ebpf) {
            Ok(watch) => Ok(Self::Watched { keeper, watch }),
            Err(error) => {
                let why = format!("{error:#}");
                tracing::warn!(
                    "cannot see sockets being bound ({why}); looking for the SFU's ports every second \
                     instead, so that the first packets to a new port may be missed"
                );
                told_anew(keeper.know_by(None));
                Ok(Self::Looked { keeper, why, detached: None })
            }
        }
    }

    /// Attaches programs again that somebody detached; what was bound meanwhile is found by looking. Where they
    /// cannot be attached, sockets are looked for until they can.
    fn look_after(&mut self, ebpf: &mut Ebpf, links: &PinnedLinks) {
        let attach = |watch: &Watch, ebpf: &mut Ebpf| {
            watch.again(ebpf).and_then(|mut watch| watch.pin(links).map(|()| watch))
        };
        let by_cookie = || Cookies::new().context("open a netlink socket");
        *self = match std::mem::replace(self, Self::Named) {
            // Where that cannot be asked it is left at what was true when they were attached.
            Self::Watched { mut keeper, watch } if !watch.is_whole().unwrap_or(true) => {
                match attach(&watch, ebpf) {
                    Ok(watch) => {
                        tracing::warn!(
                            "somebody detached our programs from the root of the cgroups: attached them \
                             again; the first packets to ports that were bound meanwhile are missed"
                        );
                        Self::Watched { keeper, watch }
                    }
                    Err(error) => {
                        let why = format!("somebody detached our programs: {error:#}");
                        tracing::warn!(
                            "cannot see sockets being bound any more ({why}); looking for the SFU's ports \
                             every second instead, so that the first packets to a new port may be missed"
                        );
                        told_anew(keeper.know_by(None));
                        Self::Looked { keeper, why, detached: Some(watch) }
                    }
                }
            }
            Self::Looked { mut keeper, why, detached: Some(watch) } => {
                match attach(&watch, ebpf).and_then(|watch| Ok((watch, by_cookie()?))) {
                    Ok((watch, cookies)) => {
                        tracing::info!("sockets are seen being bound again");
                        told_anew(keeper.know_by(Some(cookies)));
                        Self::Watched { keeper, watch }
                    }
                    Err(_) => Self::Looked { keeper, why, detached: Some(watch) },
                }
            }
            same => same,
        };
    }

    fn look(&mut self) -> io::Result<()> {
        match self {
            Self::Named => Ok(()),
            Self::Watched { keeper, .. } | Self::Looked { keeper, .. } => keeper.look(),
        }
    }

    fn hear(&mut self) -> io::Result<bool> {
        match self {
            Self::Watched { keeper, .. } => keeper.hear(),
            Self::Looked { keeper, .. } => keeper.look().map(|()| false),
            Self::Named => Ok(false),
        }
    }

    fn status(&self) -> status::Owned {
        let (keeper, by, why) = match self {
            Self::Named => {
                return status::Owned { by: Knowledge::Flag, ..status::Owned::default() };
            }
            Self::Watched { keeper, .. } => (keeper, Knowledge::Cgroup, None),
            Self::Looked { keeper, why, .. } => (keeper, Knowledge::Scan, Some(why.clone())),
        };
        let sum = |which| keeper.tables().sum(which);
        status::Owned {
            by,
            why,
            sockets: sum(Sum::Verified) + sum(Sum::Claimed),
            refused: sum(Sum::Refused) + keeper.refused(),
            lost: sum(Sum::Lost),
        }
    }
}

/// Attaches the programs that see sockets being bound, and makes sure that they do.
fn watch(options: &Options, keeper: &mut Keeper<Owned>, ebpf: &mut Ebpf) -> anyhow::Result<Watch> {
    if options.sockets == Sockets::Looks {
        bail!("it was not asked for");
    }
    let watch = Watch::start(ebpf)?;
    let probe = match UdpSocket::bind("0.0.0.0:0") {
        Ok(probe) => probe,
        // A service manager may forbid such sockets to this process: then there is none to be seen.
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            if !procfs::is_in_first_namespaces() {
                bail!(
                    "this process may bind no socket to try it with, and has not the host's process numbers \
                     and cgroups (`--pid host --cgroupns host`)"
                );
            }
            return Ok(watch);
        }
        Err(error) => return Err(error).context("bind a socket"),
    };
    let bound = seen(keeper, &probe)?;
    let (here, there) = (std::process::id(), bound.socket.pid);
    if here != there {
        bail!(
            "this process is number {there} of the host, and sees itself as {here}: run it with the \
             host's process numbers (`--pid host`)"
        );
    }
    for is_v6_only in [true, false] {
        // Where there is no IPv6, nobody's sockets take it.
        let Ok(probe) = any_v6(is_v6_only) else { break };
        if seen(keeper, &probe)?.socket.end.is_v6_only != is_v6_only {
            bail!("the programs cannot tell which sockets take IPv6 only on this kernel");
        }
    }
    Ok(watch)
}

/// What the programs saw of a socket of this process.
fn seen(keeper: &mut Keeper<Owned>, socket: &impl AsFd) -> anyhow::Result<Seen> {
    let cookie = cookies::of_socket(socket).context("ask for a socket's cookie")?.cookie;
    let seen = keeper.has_seen(SocketId::cookie(cookie));
    seen.context("the programs did not see this process' own socket")
}

fn any_v6(is_v6_only: bool) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(socket2::Domain::IPV6, socket2::Type::DGRAM, None)?;
    socket.set_only_v6(is_v6_only)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into())?;
    Ok(socket)
}

/// Whoever looks for sockets looks again.
fn told_anew(found: io::Result<()>) {
    if let Err(error) = found {
        tracing::warn!("look for the SFU's sockets: {error}");
    }
}

/// A panic while the lock was held leaves tables and links as they are: both can still be used.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `None`: somebody has it.
fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}
