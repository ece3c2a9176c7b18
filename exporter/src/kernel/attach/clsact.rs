//! Filters at the `clsact` qdisc, for kernels without TCX (before 6.6).
//!
//! Program descriptors come in. The qdisc is made where there is none, and taken away again only if
//! it was made here and nobody else uses it by then. Filters carry a name of ours, so what a crashed
//! run left behind is recognised and replaced; other filters are never touched.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use anyhow::Context;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    TcAttribute, TcBpfFlags, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::host::netlink::Client;

/// Every filter of ours is called this and the program's name.
const NAME: &str = "mediasoup-exporter:";
/// More filters than this on one side of an interface are not looked at.
const MOST_FILTERS: usize = 10_000;
/// ETH_P_ALL in network order, in the low half of `tcm_info`; the priority is the high half.
const ALL_PROTOCOLS: u32 = (libc::ETH_P_ALL as u16).to_be() as u32;

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Coming in.
    Ingress,
    /// Going out.
    Egress,
}

impl Side {
    fn parent(self) -> TcHandle {
        let minor = match self {
            Self::Ingress => TcHandle::MIN_INGRESS,
            Self::Egress => TcHandle::MIN_EGRESS,
        };
        TcHandle { major: TcHandle::CLSACT.major, minor }
    }
}

/// A filter that was attached here.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Filter {
    index: u32,
    side: Side,
    /// Priority and protocol, as the kernel tells them.
    info: u32,
    handle: TcHandle,
}

/// Attaches and detaches, in the network namespace in which it was made.
#[derive(Debug)]
pub(super) struct Clsact {
    client: Client,
    /// Interfaces whose qdisc was made here.
    made: HashSet<u32>,
}

impl Clsact {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { client: Client::new(NETLINK_ROUTE)?, made: HashSet::new() })
    }

    /// Attaches a program in front of all filters that are there; a filter of that name that an
    /// earlier run left is removed.
    pub(super) fn attach(
        &mut self,
        index: u32,
        side: Side,
        program: BorrowedFd<'_>,
        name: &str,
    ) -> anyhow::Result<Filter> {
        self.ensure_qdisc(index).context("add the clsact qdisc")?;
        let name = format!("{NAME}{name}");
        for stale in self.named(index, side, &name).context("list filters")? {
            tracing::info!("removing the filter {name} that an earlier run left behind");
            self.detach(stale).context("remove an earlier run's filter")?;
        }
        let mut message = message(index, side);
        // Priority 0: the kernel chooses one before the first filter's.
        message.header.info = ALL_PROTOCOLS;
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
        let mut filters = self.named(index, side, &name).context("list filters")?;
        filters.pop().context("the filter was added but is not listed")
    }

    /// Removes a filter, and the qdisc with the last one if it was made here. An interface that is
    /// gone has taken both along.
    pub(super) fn detach(&mut self, filter: Filter) -> io::Result<()> {
        let index = filter.index;
        let mut message = message(index, filter.side);
        message.header.info = filter.info;
        message.header.handle = filter.handle;
        message.attributes = vec![TcAttribute::Kind("bpf".into())];
        match self.client.order(RouteNetlinkMessage::DelTrafficFilter(message), 0) {
            Err(error) if !gone(&error) => return Err(error),
            _ => {}
        }
        if self.made.contains(&index) && self.unused(index)? {
            self.made.remove(&index);
            match self.client.order(RouteNetlinkMessage::DelQueueDiscipline(qdisc(index)), 0) {
                Err(error) if !gone(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn ensure_qdisc(&mut self, index: u32) -> io::Result<()> {
        let order = RouteNetlinkMessage::NewQueueDiscipline(qdisc(index));
        match self.client.order(order, NLM_F_CREATE | NLM_F_EXCL) {
            Ok(()) => {
                self.made.insert(index);
                Ok(())
            }
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn named(&mut self, index: u32, side: Side, name: &str) -> io::Result<Vec<Filter>> {
        let mut filters = Vec::new();
        self.list(index, side, |row| {
            let options = row.attributes.iter().filter_map(|attribute| match attribute {
                TcAttribute::Options(options) => Some(options),
                _ => None,
            });
            let named = options.flatten().any(|option| {
                matches!(option, TcOption::Bpf(TcFilterBpfOption::ProgName(found)) if found == name)
            });
            if named {
                let (info, handle) = (row.header.info, row.header.handle);
                filters.push(Filter { index, side, info, handle });
            }
        })?;
        Ok(filters)
    }

    fn unused(&mut self, index: u32) -> io::Result<bool> {
        let mut filters = 0;
        for side in [Side::Ingress, Side::Egress] {
            self.list(index, side, |_| filters += 1)?;
        }
        Ok(filters == 0)
    }

    fn list(&mut self, index: u32, side: Side, mut each: impl FnMut(TcMessage)) -> io::Result<()> {
        let question = RouteNetlinkMessage::GetTrafficFilter(message(index, side));
        let whole = self.client.dump(question, MOST_FILTERS, |row| {
            if let RouteNetlinkMessage::NewTrafficFilter(row) = row {
                each(row);
            }
        });
        match whole {
            Err(error) if !gone(&error) => Err(error),
            _ => Ok(()),
        }
    }
}

fn message(index: u32, side: Side) -> TcMessage {
    let mut message = TcMessage::with_index(index.cast_signed());
    message.header.parent = side.parent();
    message
}

fn qdisc(index: u32) -> TcMessage {
    let mut message = TcMessage::with_index(index.cast_signed());
    message.header.parent = TcHandle::CLSACT;
    message.header.handle = TcHandle { major: TcHandle::CLSACT.major, minor: 0 };
    message.attributes = vec![TcAttribute::Kind("clsact".into())];
    message
}

fn gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EINVAL))
}
