//! Attaches the four programs to interfaces, by TCX where the kernel has it (6.6) and as `clsact`
//! filters elsewhere, in front of everybody else's programs.
//!
//! Which interfaces is decided elsewhere; this only carries it out. Whatever was attached goes when
//! this is dropped. TCX links are held by descriptor, so they go with a crashed process, too.

pub(super) mod cgroup;
mod clsact;

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use anyhow::Context;
use aya::Ebpf;
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions, TcAttachType};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier};

use self::clsact::{Clsact, Filter, Side};
use super::ebpf::load;
use super::options::Mechanism;
use crate::host::interfaces::{Attach, Layer};

/// The programs, and where they are attached.
pub(super) struct Attacher {
    ebpf: Ebpf,
    mechanism: Mechanism,
    clsact: Clsact,
    attached: BTreeMap<u32, Attached>,
}

struct Attached {
    what: Attach,
    attachments: Vec<Attachment>,
}

enum Attachment {
    /// Detached by its own drop.
    Tcx(SchedClassifierLink),
    Clsact(Filter),
}

impl Attacher {
    /// Takes programs that were loaded into the kernel.
    pub(super) fn new(ebpf: Ebpf, mechanism: Mechanism) -> anyhow::Result<Self> {
        let clsact = Clsact::new().context("open a netlink socket")?;
        Ok(Self { ebpf, mechanism, clsact, attached: BTreeMap::new() })
    }

    /// Detaches from interfaces that are no longer wanted, attaches to new ones. Returns what failed.
    pub(super) fn attach_to(&mut self, wanted: &[Attach]) -> Vec<(Attach, anyhow::Error)> {
        let stale = |attached: &Attached| !wanted.contains(&attached.what);
        let stale: Vec<u32> =
            self.attached.iter().filter(|(_, at)| stale(at)).map(|(&index, _)| index).collect();
        for index in stale {
            self.detach(index);
        }
        let mut failed = Vec::new();
        for what in wanted {
            if self.attached.contains_key(&what.index) {
                continue;
            }
            match self.attach(what) {
                Ok(attachments) => {
                    let by = match attachments.first() {
                        Some(Attachment::Tcx(_)) => "TCX",
                        _ => "clsact",
                    };
                    tracing::info!("counting on {} (by {by})", what.name);
                    self.attached.insert(what.index, Attached { what: what.clone(), attachments });
                }
                Err(error) => failed.push((what.clone(), error)),
            }
        }
        failed
    }

    /// Names of the interfaces that are counted on.
    pub(super) fn interfaces(&self) -> impl Iterator<Item = &str> {
        self.attached.values().map(|attached| attached.what.name.as_str())
    }

    fn attach(&mut self, what: &Attach) -> anyhow::Result<Vec<Attachment>> {
        let (receive, send) = match what.layer {
            Layer::Ethernet => ("count_receive", "count_send"),
            Layer::Raw => ("count_receive_raw", "count_send_raw"),
        };
        let mut attachments = Vec::new();
        for (name, side) in [(receive, Side::Ingress), (send, Side::Egress)] {
            match self.attach_one(what, name, side) {
                Ok(attachment) => attachments.push(attachment),
                Err(error) => {
                    self.release(attachments);
                    return Err(error.context(format!("attach {name} to {}", what.name)));
                }
            }
        }
        Ok(attachments)
    }

    fn attach_one(&mut self, what: &Attach, name: &str, side: Side) -> anyhow::Result<Attachment> {
        let program = load::verified(&mut self.ebpf, name)?;
        if self.mechanism == Mechanism::Auto {
            match attach_tcx(program, what, side) {
                Ok(link) => return Ok(Attachment::Tcx(link)),
                Err(error) if no_tcx(&error) => {
                    tracing::debug!("no TCX here ({error}), using clsact");
                    self.mechanism = Mechanism::Clsact;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let program = program.fd()?.try_clone()?;
        self.clsact.attach(what.index, side, program.as_fd(), name).map(Attachment::Clsact)
    }

    fn detach(&mut self, index: u32) {
        let Some(Attached { what, attachments }) = self.attached.remove(&index) else { return };
        self.release(attachments);
        tracing::info!("no longer counting on {}", what.name);
    }

    fn release(&mut self, attachments: Vec<Attachment>) {
        for attachment in attachments {
            match attachment {
                Attachment::Tcx(link) => drop(link),
                Attachment::Clsact(filter) => {
                    if let Err(error) = self.clsact.detach(filter) {
                        tracing::warn!("remove a clsact filter: {error}");
                    }
                }
            }
        }
    }
}

impl Drop for Attacher {
    fn drop(&mut self) {
        for (_, attached) in std::mem::take(&mut self.attached) {
            self.release(attached.attachments);
        }
    }
}

/// First in the chain: a program that ends the chain must not hide packets from the count, and ours
/// always passes on to the next.
fn attach_tcx(
    program: &mut SchedClassifier,
    what: &Attach,
    side: Side,
) -> Result<SchedClassifierLink, ProgramError> {
    let side = match side {
        Side::Ingress => TcAttachType::Ingress,
        Side::Egress => TcAttachType::Egress,
    };
    let order = TcAttachOptions::TcxOrder(LinkOrder::first());
    let link = program.attach_with_options(&what.name, side, order)?;
    program.take_link(link)
}

/// Kernels before 6.6 do not know the attach type (EINVAL), or were built without it.
fn no_tcx(error: &ProgramError) -> bool {
    let ProgramError::SyscallError(error) = error else { return false };
    matches!(error.io_error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP))
}
