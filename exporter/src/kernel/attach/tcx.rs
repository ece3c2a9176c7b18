//! PinnedLinks at an interface's TCX hooks (Linux 6.6).
//!
//! A program comes in and goes to the front of the chain, because a program that ends the chain must not
//! hide packets from the count; ours always passes on to the next. PinnedLinks are held by descriptor, so they
//! go with a crashed process, too, but where they are pinned: then the program that an earlier exporter left
//! is replaced where it is, between two packets. Others' are looked at and never touched.

use anyhow::Context;
use aya::programs::links::FdLink;
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions, TcAttachType};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier};

use super::pinned::PinnedLinks;
use super::position::{Position, Side};
use crate::kernel::ebpf::sys;

/// A program at a hook; dropping it detaches, unless it is pinned.
#[derive(Debug)]
pub(super) struct Link {
    index: u32,
    side: Side,
    id: u32,
    name: String,
    _link: FdLink,
}

/// Attaches to the interface of that name and index. `function` is what the program is called.
pub(super) fn attach(
    program: &mut SchedClassifier,
    (index, name): (u32, &str),
    (side, function): (Side, &str),
    pins: &PinnedLinks,
) -> anyhow::Result<Link> {
    let pin = format!("{}-{index}-{function}", if side == Side::Ingress { "in" } else { "out" });
    if let Some(left) = pins.left(&pin) {
        match take_place(program, left, (index, side), &pin) {
            Ok(Some(link)) => return Ok(link),
            // It hung on an interface that is gone, perhaps in another network namespace.
            Ok(None) => {}
            Err(error) => {
                tracing::warn!("replace the program that an earlier run left on {name}: {error:#}");
            }
        }
        pins.forget(&pin);
    }
    let hook = match side {
        Side::Ingress => TcAttachType::Ingress,
        Side::Egress => TcAttachType::Egress,
    };
    let order = TcAttachOptions::TcxOrder(LinkOrder::first());
    let link = program.attach_with_options(name, hook, order)?;
    let link: FdLink = program.take_link(link)?.try_into().context("a TCX link")?;
    let id = link.info().context("ask for a TCX link")?.id();
    let link = pins.keep(&pin, link)?;
    Ok(Link { index, side, id, name: pin, _link: link })
}

/// Has a link run this program instead of an earlier exporter's. `None`: it is not on that interface.
fn take_place(
    program: &mut SchedClassifier,
    left: FdLink,
    (index, side): (u32, Side),
    pin: &str,
) -> anyhow::Result<Option<Link>> {
    let id = left.info().context("ask for a pinned link")?.id();
    let chain = sys::tcx_chain(index, side == Side::Ingress).context("ask for TCX programs")?;
    if !chain.iter().any(|member| member.link == id) {
        return Ok(None);
    }
    let left = SchedClassifierLink::try_from(left).context("a TCX link")?;
    let updated = program.attach_to_link(left)?;
    let link: FdLink = program.take_link(updated)?.try_into().context("a TCX link")?;
    Ok(Some(Link { index, side, id, name: pin.to_owned(), _link: link }))
}

/// Kernels before 6.6 do not know the attach type (EINVAL), or were built without it.
pub(super) fn is_missing(error: &anyhow::Error) -> bool {
    let Some(ProgramError::SyscallError(error)) = error.downcast_ref() else { return false };
    matches!(error.io_error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP))
}

/// Where the link is now. `ours` says of links whether they are this exporter's.
pub(super) fn position(link: &Link, ours: impl Fn(u32) -> bool) -> anyhow::Result<Position> {
    let chain =
        sys::tcx_chain(link.index, link.side == Side::Ingress).context("ask for TCX programs")?;
    let Some(at) = chain.iter().position(|member| member.link == link.id) else {
        return Ok(Position::Gone);
    };
    let before = chain[..at].iter().find(|member| !ours(member.link));
    Ok(match before {
        Some(member) => Position::Behind(format!("the TCX program with id {}", member.program)),
        None => Position::First,
    })
}

impl Link {
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// What it is called where it is pinned.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}
