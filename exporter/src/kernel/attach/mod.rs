//! Attaches the four programs to interfaces, by TCX where the kernel has it (6.6) and as `clsact`
//! filters elsewhere, in front of everybody else's programs where that can be, and keeps them there.
//!
//! Which interfaces is decided elsewhere; this only carries it out, and says where it could not or no
//! longer holds. Whatever was attached goes when this is dropped, unless links are pinned.

pub(super) mod cgroup;
mod clsact;
pub(super) mod guard;
pub(super) mod pinned;
mod position;
mod tcx;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd;

use anyhow::Context;
use aya::Ebpf;

use self::clsact::{Clsact, Filter};
use self::guard::Guard;
use self::pinned::PinnedLinks;
use self::position::{Position, Side};
use super::ebpf::load;
use super::options::Mechanism;
use crate::host::claim::Claim;
use crate::host::interfaces::{Attach, Layer};

/// The programs, and where they are attached.
pub(super) struct Attacher {
    ebpf: Ebpf,
    mechanism: Mechanism,
    clsact: Clsact,
    claim: Claim,
    links: PinnedLinks,
    guarded: Guarded,
    attached: BTreeMap<u32, Attached>,
}

/// Whether filters have a process of their own that takes them away.
enum Guarded {
    /// They are to stay, or whoever starts this has no program that could be one.
    Not,
    /// When the first is attached.
    Soon,
    By(Guard),
}

/// What an interface is like after a look.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Not, or not all of, what should be attached is; for each reason.
    pub(super) failed: Vec<(Attach, anyhow::Error)>,
    /// Somebody's program stands in front of ours: which.
    pub(super) behind: BTreeMap<String, String>,
}

struct Attached {
    what: Attach,
    attachments: BTreeMap<Hook, Attachment>,
}

/// A program and where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Hook {
    program: &'static str,
    side: Side,
}

enum Attachment {
    /// Detached by its own drop.
    Tcx(tcx::Link),
    Clsact(Filter),
}

impl Attacher {
    /// Takes programs that were loaded into the kernel.
    pub(super) fn new(
        ebpf: Ebpf,
        mechanism: Mechanism,
        claim: Claim,
        links: PinnedLinks,
        is_guarded: bool,
    ) -> anyhow::Result<Self> {
        let clsact = Clsact::new(claim.id()).context("open a netlink socket")?;
        let guarded = if is_guarded && !links.are_pinned() { Guarded::Soon } else { Guarded::Not };
        let attached = BTreeMap::new();
        Ok(Self { ebpf, mechanism, clsact, claim, links, guarded, attached })
    }

    /// Detaches from interfaces that are no longer wanted, attaches to new ones, and looks after the
    /// others.
    pub(super) fn attach_to(&mut self, wanted: &[Attach]) -> Outcome {
        let stale = |attached: &Attached| !wanted.contains(&attached.what);
        let stale: Vec<u32> =
            self.attached.iter().filter(|(_, at)| stale(at)).map(|(&index, _)| index).collect();
        for index in stale {
            self.detach(index);
        }
        let mut outcome = Outcome::default();
        for what in wanted {
            if let Err(error) = self.look_after(what, &mut outcome) {
                outcome.failed.push((what.clone(), error));
            }
            if let Err(error) = self.complete(what) {
                outcome.failed.push((what.clone(), error));
            }
        }
        outcome
    }

    /// The programs, for others that hang some of them elsewhere.
    pub(super) fn programs(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// Names of the interfaces that are counted on in both directions.
    pub(super) fn interfaces(&self) -> impl Iterator<Item = &str> {
        let whole =
            self.attached.values().filter(|it| it.attachments.len() == hooks(&it.what).len());
        whole.map(|attached| attached.what.name.as_str())
    }

    /// Lets go of an interface if anything of it is gone, so that all is attached again in its order.
    fn look_after(&mut self, what: &Attach, outcome: &mut Outcome) -> anyhow::Result<()> {
        let Some(attached) = self.attached.get(&what.index) else { return Ok(()) };
        let links: BTreeSet<u32> = attached.links().collect();
        let (mut behind, mut gone) = (None, false);
        for attachment in attached.attachments.values() {
            let position = match attachment {
                Attachment::Tcx(link) => tcx::position(link, |id| links.contains(&id))?,
                Attachment::Clsact(filter) => self.clsact.position(filter)?,
            };
            match position {
                Position::First => {}
                Position::Behind(whose) => behind = Some(whose),
                Position::Gone => gone = true,
            }
        }
        if gone {
            tracing::warn!(
                "somebody detached our programs from {}: attaching them again",
                what.name
            );
            self.detach(what.index);
            return Ok(());
        }
        // Another exporter's programs let all pass, and nobody without CAP_SYS_ADMIN can tell whose a
        // TCX program is.
        let is_exporter = || self.claim.ids_of_others().is_ok_and(|others| !others.is_empty());
        if let Some(whose) =
            behind.filter(|_| self.mechanism == Mechanism::Clsact || !is_exporter())
        {
            outcome.behind.insert(what.name.clone(), whose);
        }
        Ok(())
    }

    /// Attaches what is missing; the first failure comes back, the others are tried all the same.
    fn complete(&mut self, what: &Attach) -> anyhow::Result<()> {
        let mut failure = Ok(());
        for hook in hooks(what) {
            let there = self.attached.get(&what.index);
            if there.is_some_and(|there| there.attachments.contains_key(&hook)) {
                continue;
            }
            match self.attach(what, hook) {
                Ok(attachment) => self.keep(what, hook, attachment),
                Err(error) if failure.is_ok() => {
                    let Hook { program, .. } = hook;
                    failure = Err(error.context(format!("attach {program} to {}", what.name)));
                }
                Err(_) => {}
            }
            // A right that is missing would be missed four times.
            if failure.is_err() && !self.attached.contains_key(&what.index) {
                break;
            }
        }
        failure
    }

    fn keep(&mut self, what: &Attach, hook: Hook, attachment: Attachment) {
        let attached = self.attached.entry(what.index).or_insert_with(|| {
            let by = match attachment {
                Attachment::Tcx(_) => "TCX",
                Attachment::Clsact(_) => "clsact",
            };
            tracing::info!("counting on {} (by {by})", what.name);
            Attached { what: what.clone(), attachments: BTreeMap::new() }
        });
        attached.attachments.insert(hook, attachment);
    }

    fn attach(&mut self, what: &Attach, hook: Hook) -> anyhow::Result<Attachment> {
        let Hook { program: name, side } = hook;
        let program = load::verified(&mut self.ebpf, name)?;
        if self.mechanism == Mechanism::Auto {
            let interface = (what.index, what.name.as_str());
            match tcx::attach(program, interface, (side, name), &self.links) {
                Ok(link) => return Ok(Attachment::Tcx(link)),
                Err(error) if tcx::is_missing(&error) => {
                    tracing::debug!("no TCX here ({error}), using clsact");
                    self.mechanism = Mechanism::Clsact;
                }
                Err(error) => return Err(error),
            }
        }
        let program = program.fd()?.try_clone()?;
        let alive = self.claim.ids_of_others().context("look for other exporters")?;
        if matches!(self.guarded, Guarded::Soon) {
            let guard = Guard::start(&self.claim.id());
            self.guarded = Guarded::By(guard.context("start the guard of clsact filters")?);
        }
        let had_made = self.clsact.has_made(what.index);
        let filter = self.clsact.attach(what.index, side, program.as_fd(), name, &alive)?;
        if let Guarded::By(guard) = &mut self.guarded
            && !had_made
            && self.clsact.has_made(what.index)
        {
            guard.made(what.index).context("tell the guard of clsact filters")?;
        }
        Ok(Attachment::Clsact(filter))
    }

    fn detach(&mut self, index: u32) {
        let Some(attached) = self.attached.remove(&index) else { return };
        let name = attached.what.name.clone();
        self.release(attached);
        tracing::info!("no longer counting on {name}");
    }

    /// Detaches from all interfaces, unless programs are to stay there.
    pub(super) fn detach_all(&mut self) {
        let all = std::mem::take(&mut self.attached);
        if self.links.are_pinned() {
            return;
        }
        all.into_values().for_each(|attached| self.release(attached));
    }

    /// Takes away what earlier exporters pinned and this one does not use, now that everything of its own
    /// has its place.
    pub(super) fn forget_others(&self, used: impl IntoIterator<Item = String>) -> io::Result<()> {
        let all = self.attached.values().flat_map(|attached| attached.attachments.values());
        let links = all.filter_map(|attachment| match attachment {
            Attachment::Tcx(link) => Some(link.name().to_owned()),
            Attachment::Clsact(_) => None,
        });
        self.links.forget_all_but(&links.chain(used).collect())
    }

    fn release(&mut self, attached: Attached) {
        for attachment in attached.attachments.into_values() {
            match attachment {
                Attachment::Tcx(link) => self.links.forget(link.name()),
                Attachment::Clsact(filter) => {
                    if let Err(error) = self.clsact.detach(&filter) {
                        tracing::warn!("remove a clsact filter: {error}");
                    }
                }
            }
        }
    }
}

impl Attached {
    fn links(&self) -> impl Iterator<Item = u32> {
        self.attachments.values().filter_map(|attachment| match attachment {
            Attachment::Tcx(link) => Some(link.id()),
            Attachment::Clsact(_) => None,
        })
    }
}

impl Drop for Attacher {
    fn drop(&mut self) {
        self.detach_all();
    }
}

/// What belongs on an interface, in the order in which it is attached: the last comes first. Where a
/// packet is both sent and received, it is sent first: once it is marked as received, it is taken for
/// one that is only passed on.
fn hooks(what: &Attach) -> Vec<Hook> {
    let (receive, send) = match what.layer {
        Layer::Ethernet => ("count_receive", "count_send"),
        Layer::Raw => ("count_receive_raw", "count_send_raw"),
        Layer::Wrapped => ("count_receive_wrapped", "count_send_wrapped"),
    };
    let mut hooks = vec![Hook { program: receive, side: Side::Ingress }];
    if what.crossing {
        hooks.push(Hook { program: receive, side: Side::Egress });
        hooks.push(Hook { program: send, side: Side::Ingress });
    }
    hooks.push(Hook { program: send, side: Side::Egress });
    hooks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_a_link_into_a_container_packets_are_sent_before_they_are_received() {
        let what =
            |crossing| Attach { index: 1, name: "a".into(), layer: Layer::Ethernet, crossing };
        let on = |side, crossing| {
            let hooks = hooks(&what(crossing)).into_iter().filter(|hook| hook.side == side);
            hooks.map(|hook| hook.program).rev().collect::<Vec<_>>()
        };
        for side in [Side::Ingress, Side::Egress] {
            assert_eq!(on(side, true), ["count_send", "count_receive"]);
        }
        assert_eq!(on(Side::Ingress, false), ["count_receive"]);
        assert_eq!(on(Side::Egress, false), ["count_send"]);
    }
}
