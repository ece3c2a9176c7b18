//! Filters at the `clsact` qdisc, for kernels without TCX (before 6.6).
//!
//! Program descriptors come in. The qdisc is made where there is none, and taken away again only if
//! it was made here and nobody else uses it by then. Filters carry a name of ours and of the exporter that
//! made them, so what a crashed run left behind is recognised and replaced; other filters are never
//! touched, nor those of an exporter that is alive.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use anyhow::{Context, bail};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::position::{Position, Side};
use crate::host::netlink::{Client, needs};

/// Every filter of ours is called this, the exporter, a colon, and the program's name.
const NAME: &str = "mediasoup-exporter:";
/// More filters than this on one side of an interface, and qdiscs of a host, are not looked at.
const MOST_ROWS: usize = 10_000;
/// ETH_P_ALL in network order, in the low half of `tcm_info`; the priority is the high half.
const ALL_PROTOCOLS: u32 = (libc::ETH_P_ALL as u16).to_be() as u32;
/// The high half of our filters' handles, far from 1, which tools that replace their own filter take.
const HANDLES: u16 = 0x6d65;

/// A filter that was attached here.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Filter {
    index: u32,
    side: Side,
    name: String,
    /// Priority and protocol, as the kernel tells them.
    info: u32,
    handle: TcHandle,
}

/// A filter that is there.
struct Row {
    kind: String,
    /// Of a program; empty where it has none.
    name: String,
    info: u32,
    handle: TcHandle,
}

impl Row {
    fn priority(&self) -> u16 {
        (self.info >> 16) as u16
    }

    fn is_ours(&self) -> bool {
        self.name.starts_with(NAME)
    }
}

/// Attaches and detaches, in the network namespace in which it was made.
#[derive(Debug)]
pub(super) struct Clsact {
    client: Client,
    /// This exporter.
    id: String,
    /// Interfaces whose qdisc was made here.
    made: HashSet<u32>,
}

impl Clsact {
    pub(super) fn new(id: String) -> io::Result<Self> {
        Ok(Self { client: Client::new(NETLINK_ROUTE)?, id, made: HashSet::new() })
    }

    /// Attaches a program in front of all filters that are there, if that can be. A filter of that program
    /// that an exporter left who is not `alive` gets the new program between two packets; where it does not
    /// stand in front, it goes when the new one has come.
    pub(super) fn attach(
        &mut self,
        index: u32,
        side: Side,
        program: BorrowedFd<'_>,
        name: &str,
        alive: &BTreeSet<String>,
    ) -> anyhow::Result<Filter> {
        self.ensure_qdisc(index, side)?;
        let rows = self.list(index, side).context("list filters")?;
        let is_left = |row: &Row| is_left(&row.name, name, alive);
        let first = rows.iter().find(|row| !row.is_ours() || is_left(row));
        let taken = first.filter(|row| is_left(row));
        let name = format!("{NAME}{}:{name}", self.id);
        let filter = match taken {
            Some(Row { info, handle, .. }) => {
                Filter { index, side, name, info: *info, handle: *handle }
            }
            None => Filter {
                index,
                side,
                name,
                info: (u32::from(priority(&rows)) << 16) | ALL_PROTOCOLS,
                handle: free_handle(&rows)?,
            },
        };
        let flags = if taken.is_some() { NLM_F_REPLACE } else { NLM_F_EXCL };
        let put = self.put(&filter, program, flags);
        put.map_err(|error| needs(error, "cls_bpf")).context("add the filter")?;
        let handle = taken.map(|row| row.handle);
        for left in rows.into_iter().filter(|row| is_left(row) && Some(row.handle) != handle) {
            tracing::info!("removing the filter {} that an earlier run left behind", left.name);
            let Row { name, info, handle, .. } = left;
            self.delete(&Filter { index, side, name, info, handle })
                .context("remove an earlier run's filter")?;
        }
        Ok(filter)
    }

    fn put(&mut self, filter: &Filter, program: BorrowedFd<'_>, flags: u16) -> io::Result<()> {
        let mut message = message(filter.index, filter.side);
        (message.header.info, message.header.handle) = (filter.info, filter.handle);
        message.attributes = vec![
            TcAttribute::Kind("bpf".into()),
            TcAttribute::Options(vec![
                TcOption::Bpf(TcFilterBpfOption::ProgFd(program.as_raw_fd().cast_unsigned())),
                TcOption::Bpf(TcFilterBpfOption::ProgName(filter.name.clone())),
                TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
            ]),
        ];
        self.client.order(RouteNetlinkMessage::NewTrafficFilter(message), NLM_F_CREATE | flags)
    }

    /// Removes the filters of these makers from an interface.
    pub(super) fn remove_left(
        &mut self,
        index: u32,
        is_left: impl Fn(&str) -> bool,
    ) -> io::Result<usize> {
        let mut removed = 0;
        for side in [Side::Ingress, Side::Egress] {
            for row in self.list(index, side)? {
                let Some((maker, _)) = maker(&row.name) else { continue };
                if is_left(maker) {
                    let Row { name, info, handle, .. } = row;
                    self.delete(&Filter { index, side, name, info, handle })?;
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }

    /// Where the filter is now.
    pub(super) fn position(&mut self, filter: &Filter) -> anyhow::Result<Position> {
        let rows = self.list(filter.index, filter.side).context("list filters")?;
        let Some(at) = rows.iter().position(|row| row.name == filter.name) else {
            return Ok(Position::Gone);
        };
        let before = rows[..at].iter().find(|row| !row.is_ours());
        Ok(match before {
            Some(row) => {
                let side = match filter.side {
                    Side::Ingress => "ingress",
                    Side::Egress => "egress",
                };
                let (kind, priority) = (&row.kind, row.priority());
                Position::Behind(format!("the {side} filter of kind {kind} with pref {priority}"))
            }
            None => Position::First,
        })
    }

    /// Removes a filter, and the qdisc with the last one if it was made here. An interface that is
    /// gone has taken both along.
    pub(super) fn detach(&mut self, filter: &Filter) -> io::Result<()> {
        self.delete(filter)?;
        let index = filter.index;
        if self.made.contains(&index) && self.remove_unused(index)? {
            self.made.remove(&index);
        }
        Ok(())
    }

    /// Removes the qdisc of an interface if it has no filters; false if it has.
    pub(super) fn remove_unused(&mut self, index: u32) -> io::Result<bool> {
        if !self.unused(index)? {
            return Ok(false);
        }
        let order = RouteNetlinkMessage::DelQueueDiscipline(qdisc(index));
        gone_is_well(self.client.order(order, 0)).map(|()| true)
    }

    /// Whether the qdisc of an interface was made here.
    pub(super) fn has_made(&self, index: u32) -> bool {
        self.made.contains(&index)
    }

    fn delete(&mut self, filter: &Filter) -> io::Result<()> {
        let mut message = message(filter.index, filter.side);
        message.header.info = filter.info;
        message.header.handle = filter.handle;
        message.attributes = vec![TcAttribute::Kind("bpf".into())];
        gone_is_well(self.client.order(RouteNetlinkMessage::DelTrafficFilter(message), 0))
    }

    /// An interface has one place for a qdisc `clsact`, which has filters on both sides, or `ingress`.
    /// There the kernel would take a filter for egress and run it on ingress.
    fn ensure_qdisc(&mut self, index: u32, side: Side) -> anyhow::Result<()> {
        let order = RouteNetlinkMessage::NewQueueDiscipline(qdisc(index));
        match self.client.order(order, NLM_F_CREATE | NLM_F_EXCL) {
            Ok(()) => {
                self.made.insert(index);
                return Ok(());
            }
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            Err(error) => {
                return Err(needs(error, "sch_ingress")).context("add the clsact qdisc");
            }
        }
        let kind = self.kind_of_qdisc(index).context("list qdiscs")?;
        match kind.as_deref() {
            Some("clsact") => Ok(()),
            Some("ingress") if side == Side::Ingress => Ok(()),
            Some("ingress") => bail!(
                "egress cannot be counted beside the qdisc `ingress` of another tool; replace it by `clsact`, \
                 which takes the same ingress filters: `tc qdisc del dev {0} ingress; tc qdisc add dev {0} \
                 clsact`",
                name_of(index)
            ),
            kind => {
                bail!("there is another qdisc in the place of clsact: {}", kind.unwrap_or("none"))
            }
        }
    }

    fn kind_of_qdisc(&mut self, index: u32) -> io::Result<Option<String>> {
        let question = TcMessage::with_index(index.cast_signed());
        let mut kind = None;
        let question = RouteNetlinkMessage::GetQueueDiscipline(question);
        self.client.dump(question, MOST_ROWS, |row| {
            let RouteNetlinkMessage::NewQueueDiscipline(row) = row else { return };
            let header = &row.header;
            if header.index == index.cast_signed() && header.parent == TcHandle::CLSACT {
                kind = row.attributes.iter().find_map(kind_of);
            }
        })?;
        Ok(kind)
    }

    fn unused(&mut self, index: u32) -> io::Result<bool> {
        Ok(self.list(index, Side::Ingress)?.is_empty()
            && self.list(index, Side::Egress)?.is_empty())
    }

    /// The filters that packets meet, in that order: those of other chains are only jumped to.
    fn list(&mut self, index: u32, side: Side) -> io::Result<Vec<Row>> {
        let question = RouteNetlinkMessage::GetTrafficFilter(message(index, side));
        let mut rows = Vec::new();
        let whole = self.client.dump(question, MOST_ROWS, |row| {
            if let RouteNetlinkMessage::NewTrafficFilter(row) = row {
                rows.extend(filter(&row));
            }
        });
        match whole {
            Err(error) if !is_gone(&error) => Err(error),
            _ => Ok(rows),
        }
    }
}

/// The exporter that made a filter of ours, and the filter's program.
fn maker(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix(NAME)?.rsplit_once(':')
}

/// The name of a filter of that program whose exporter is not `alive`.
fn is_left(name: &str, program: &str, alive: &BTreeSet<String>) -> bool {
    match maker(name) {
        Some((maker, of)) => of == program && !alive.contains(maker),
        // As exporters before 0.2 called theirs.
        None => name.strip_prefix(NAME) == Some(program),
    }
}

fn free_handle(rows: &[Row]) -> anyhow::Result<TcHandle> {
    let mut handles = (1..u16::MAX).map(|minor| TcHandle { major: HANDLES, minor });
    let is_free = |handle: &TcHandle| rows.iter().all(|row| row.handle != *handle);
    handles.find(is_free).context("no free handle")
}

/// For people; the number where it has no name any more.
fn name_of(index: u32) -> String {
    let mut name = [0_u8; libc::IF_NAMESIZE];
    // SAFETY: the buffer is as long as the longest name with its end.
    let found = unsafe { libc::if_indextoname(index, name.as_mut_ptr().cast()) };
    let text = std::ffi::CStr::from_bytes_until_nul(&name).ok().filter(|_| !found.is_null());
    text.map_or_else(|| index.to_string(), |name| name.to_string_lossy().into_owned())
}

/// A filter; what has no handle yet is the kernel's heading for a priority.
fn filter(message: &TcMessage) -> Option<Row> {
    let TcMessage { header, attributes, .. } = message;
    let in_first_chain =
        !attributes.iter().any(|it| matches!(it, TcAttribute::Chain(chain) if *chain != 0));
    if !in_first_chain || u32::from(header.handle) == 0 {
        return None;
    }
    let options = attributes.iter().filter_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    });
    let name = options.flatten().find_map(|option| match option {
        TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => Some(name.clone()),
        _ => None,
    });
    Some(Row {
        kind: attributes.iter().find_map(kind_of).unwrap_or_default(),
        name: name.unwrap_or_default(),
        info: header.info,
        handle: header.handle,
    })
}

fn kind_of(attribute: &TcAttribute) -> Option<String> {
    match attribute {
        TcAttribute::Kind(kind) => Some(kind.clone()),
        _ => None,
    }
}

/// The first, where everybody else has an automatic one (from 49152 down) or a later one. Filters of
/// programs share a priority, the newest first; behind others there only the next free one is left.
fn priority(rows: &[Row]) -> u16 {
    let is_free = |priority: &u16| {
        let mut there = rows.iter().filter(|row| row.priority() == *priority);
        there.all(|row| row.kind == "bpf" && row.info & 0xffff == ALL_PROTOCOLS)
    };
    (1..u16::MAX).find(is_free).unwrap_or(u16::MAX)
}

fn message(index: u32, side: Side) -> TcMessage {
    let mut message = TcMessage::with_index(index.cast_signed());
    let minor = match side {
        Side::Ingress => TcHandle::MIN_INGRESS,
        Side::Egress => TcHandle::MIN_EGRESS,
    };
    message.header.parent = TcHandle { major: TcHandle::CLSACT.major, minor };
    message
}

fn qdisc(index: u32) -> TcMessage {
    let mut message = TcMessage::with_index(index.cast_signed());
    message.header.parent = TcHandle::CLSACT;
    message.header.handle = TcHandle { major: TcHandle::CLSACT.major, minor: 0 };
    message.attributes = vec![TcAttribute::Kind("clsact".into())];
    message
}

fn gone_is_well(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if !is_gone(&error) => Err(error),
        _ => Ok(()),
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EINVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_priority_is_taken_where_programs_can_share_it() {
        let row = |kind: &str, priority: u32, protocol: u32| Row {
            kind: kind.to_owned(),
            name: String::new(),
            info: priority << 16 | protocol,
            handle: TcHandle { major: 0, minor: 1 },
        };
        assert_eq!(priority(&[]), 1);
        assert_eq!(priority(&[row("bpf", 49_152, ALL_PROTOCOLS)]), 1);
        assert_eq!(priority(&[row("bpf", 1, ALL_PROTOCOLS)]), 1);
        assert_eq!(priority(&[row("flower", 1, ALL_PROTOCOLS), row("u32", 2, 8)]), 3);
        assert_eq!(priority(&[row("bpf", 1, u32::from(0x0800_u16.to_be()))]), 2);
    }
}
