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
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::position::{Position, Side};
use crate::host::netlink::Client;

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
    /// Of a program.
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

    /// Attaches a program in front of all filters that are there, if that can be; filters of that
    /// program that exporters left who are not `alive` are removed.
    pub(super) fn attach(
        &mut self,
        index: u32,
        side: Side,
        program: BorrowedFd<'_>,
        name: &str,
        alive: &BTreeSet<String>,
    ) -> anyhow::Result<Filter> {
        self.ensure_qdisc(index, side)?;
        let mut rows = self.list(index, side).context("list filters")?;
        let is_stale = |row: &Row| match row.name.strip_prefix(NAME).map(|it| it.rsplit_once(':')) {
            Some(Some((maker, of))) => of == name && !alive.contains(maker),
            // As exporters before 0.2 called theirs.
            Some(None) => row.name == format!("{NAME}{name}"),
            None => false,
        };
        for stale in rows.extract_if(.., |row| is_stale(row)) {
            tracing::info!("removing the filter {} that an earlier run left behind", stale.name);
            let Row { name, info, handle, .. } = stale;
            self.delete(&Filter { index, side, name, info, handle })
                .context("remove an earlier run's filter")?;
        }
        let name = format!("{NAME}{}:{name}", self.id);
        let info = (u32::from(priority(&rows)) << 16) | ALL_PROTOCOLS;
        let mut handles = (1..u16::MAX).map(|minor| TcHandle { major: HANDLES, minor });
        let is_free = |handle: &TcHandle| rows.iter().all(|row| row.handle != *handle);
        let handle = handles.find(is_free).context("no free handle")?;
        let mut message = message(index, side);
        (message.header.info, message.header.handle) = (info, handle);
        message.attributes = vec![
            TcAttribute::Kind("bpf".into()),
            TcAttribute::Options(vec![
                TcOption::Bpf(TcFilterBpfOption::ProgFd(program.as_raw_fd().cast_unsigned())),
                TcOption::Bpf(TcFilterBpfOption::ProgName(name.clone())),
                TcOption::Bpf(TcFilterBpfOption::Flags(TcBpfFlags::DirectAction)),
            ]),
        ];
        let order = RouteNetlinkMessage::NewTrafficFilter(message);
        self.client.order(order, NLM_F_CREATE | NLM_F_EXCL).context("add the filter")?;
        Ok(Filter { index, side, name, info, handle })
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
        if self.made.contains(&index) && self.unused(index)? {
            self.made.remove(&index);
            gone_is_well(
                self.client.order(RouteNetlinkMessage::DelQueueDiscipline(qdisc(index)), 0),
            )?;
        }
        Ok(())
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
            Err(error) => return Err(error).context("add the clsact qdisc"),
        }
        let kind = self.kind_of_qdisc(index).context("list qdiscs")?;
        match kind.as_deref() {
            Some("clsact") => Ok(()),
            Some("ingress") if side == Side::Ingress => Ok(()),
            Some("ingress") => bail!(
                "egress cannot be counted beside the qdisc `ingress` of another tool; replace it by \
                 `clsact`, which takes the same ingress filters (tc qdisc del dev … ingress; tc qdisc add \
                 dev … clsact)"
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
