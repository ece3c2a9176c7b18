//! Counting by eBPF: the loaded programs, where they are attached, and their tables.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use aya_log::EbpfLogger;

use super::attach::Attacher;
use super::ebpf::load::{self, TracingLog};
use super::ebpf::pin::Pins;
use super::ebpf::tables::Tables;
use super::options::Options;
use super::status::{Failures, Status};
use crate::host::survey::Surveyor;
use crate::model::{JoinKey, Reading};

/// Both halves have a lock of their own, so that reading never waits for an attach, which may take
/// milliseconds. Whoever takes both takes `placement` first.
pub(super) struct EbpfEngine {
    placement: Mutex<Placement>,
    tables: Mutex<Tables>,
    _pins: Option<Pins>,
}

struct Placement {
    attacher: Attacher,
    surveyor: Surveyor,
    failures: Failures,
    log: Option<EbpfLogger<TracingLog>>,
}

impl EbpfEngine {
    /// Loads and attaches. Fails when nothing at all could be attached.
    pub(super) fn start(options: &Options) -> anyhow::Result<Self> {
        let loaded = load::load(options)?;
        let tables = Tables::new(loaded.tables, options.limits, options.lifetimes)?;
        let attacher = Attacher::new(loaded.ebpf, options.mechanism)?;
        let surveyor = Surveyor::new(&options.interfaces, &options.local, options.workers.clone())?;
        let placement =
            Placement { attacher, surveyor, failures: Failures::default(), log: loaded.log };
        let engine = Self {
            placement: Mutex::new(placement),
            tables: Mutex::new(tables),
            _pins: loaded.pins,
        };
        engine.place().and_then(|failed| match failed {
            Some(error) if engine.status().interfaces.is_empty() => Err(error),
            _ => Ok(()),
        })?;
        Ok(engine)
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

    pub(super) fn status(&self) -> Status {
        let placement = lock(&self.placement);
        let interfaces = placement.attacher.interfaces().map(str::to_owned).collect();
        placement.failures.status(interfaces)
    }

    /// Attaches where programs should be and detaches elsewhere; the first failure comes back.
    fn place(&self) -> anyhow::Result<Option<anyhow::Error>> {
        let mut placement = lock(&self.placement);
        let Placement { attacher, surveyor, failures, log } = &mut *placement;
        if let Some(log) = log {
            log.flush();
        }
        let survey = surveyor.look()?;
        lock(&self.tables).set_local(&survey.hosts()).context("write the tables of addresses")?;
        let failed = attacher.attach_to(&survey.choice.attach);
        failures.note(&failed);
        Ok(failed.into_iter().next().map(|(_, error)| error))
    }
}

/// A panic while the lock was held leaves tables and links as they are: both can still be used.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
