//! Asks rtnetlink for interfaces, addresses and local routes, and hears when they change.
//!
//! Any change is answered by asking for everything again: an overrun (ENOBUFS) then needs no other
//! care. That is cheap because routes to elsewhere, of which a router has hundreds of thousands, are
//! neither asked for nor heard of: the kernel leaves them out. What the answers are good for is decided
//! in `interfaces` and `addresses`, how often is asked in `pace`.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, Socket, SocketAddr, TokioSocket};

use super::interfaces::{Interface, Situation};
use super::netlink::Client;

/// More rows than this are not looked at.
const MOST: usize = 1 << 17;

/// Asks, in the network namespace in which it was made.
#[derive(Debug)]
pub struct Links {
    client: Client,
}

/// What rtnetlink tells.
#[derive(Debug, Default)]
pub struct Answer {
    /// Interfaces, and their addresses.
    pub situation: Situation,
    /// What the kernel takes for its own: addresses, and prefixes that are local by route.
    pub local: Vec<IpNet>,
}

impl Links {
    /// Opens the netlink socket.
    pub fn new() -> io::Result<Self> {
        let mut client = Client::new(NETLINK_ROUTE)?;
        client.check_strictly();
        Ok(Self { client })
    }

    /// All but what is known of workers.
    pub fn ask(&mut self) -> io::Result<Answer> {
        let mut answer = Answer::default();
        let mut question = LinkMessage::default();
        question.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        self.dump(RouteNetlinkMessage::GetLink(question), |row| {
            if let RouteNetlinkMessage::NewLink(row) = row {
                answer.situation.interfaces.push(interface(row));
            }
        })?;
        // The addresses of an interface that belongs to a VRF are not in the table of local routes.
        self.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()), |row| {
            if let RouteNetlinkMessage::NewAddress(row) = row
                && let Some(address) = address(&row)
            {
                answer.situation.addresses.push((row.header.index, address));
                answer.local.push(address.into());
            }
        })?;
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut question = RouteMessage::default();
            question.header.address_family = (family as u8).into();
            question.header.table = libc::RT_TABLE_LOCAL;
            question.header.kind = RouteType::Local;
            self.dump(RouteNetlinkMessage::GetRoute(question), |row| {
                if let RouteNetlinkMessage::NewRoute(row) = row {
                    answer.local.extend(local_route(&row));
                }
            })?;
        }
        Ok(answer)
    }

    /// The number that this network namespace has given to that of a process; `None` while it has
    /// none, as where no link leads there.
    pub fn number_of(&mut self, pid: u32) -> io::Result<Option<i32>> {
        let mut question = NsidMessage::default();
        question.attributes.push(NsidAttribute::Pid(pid));
        let mut number = None;
        self.client.get(RouteNetlinkMessage::GetNsId(question), |row| {
            if let RouteNetlinkMessage::NewNsId(row) = row {
                number = row.attributes.iter().find_map(|attribute| match attribute {
                    NsidAttribute::Id(id) => Some(*id),
                    _ => None,
                });
            }
        })?;
        Ok(number.filter(|&number| number >= 0))
    }

    fn dump(
        &mut self,
        question: RouteNetlinkMessage,
        each: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        self.client.dump(question, MOST, each).map(drop)
    }
}

/// Hears of changes. Made outside of the runtime, before privileges are dropped.
#[derive(Debug)]
pub struct Changes {
    socket: Socket,
}

impl Changes {
    /// Subscribes; what happens from here on is heard.
    pub fn new() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        // Before anything can be heard.
        leave_out_routes_elsewhere(&socket)?;
        let groups = libc::RTMGRP_LINK
            | libc::RTMGRP_IPV4_IFADDR
            | libc::RTMGRP_IPV6_IFADDR
            | libc::RTMGRP_IPV4_ROUTE
            | libc::RTMGRP_IPV6_ROUTE;
        socket.bind(&SocketAddr::new(0, groups.cast_unsigned()))?;
        socket.set_non_blocking(true)?;
        Ok(Self { socket })
    }

    /// Joins the runtime.
    pub fn listen(self) -> io::Result<Listening> {
        use std::os::fd::{FromRawFd, IntoRawFd};
        let raw = self.socket.into_raw_fd();
        // SAFETY: the descriptor was just given up by its owner.
        let socket = unsafe { TokioSocket::from_raw_fd(raw) };
        Ok(Listening { socket, buffer: Vec::with_capacity(64 << 10) })
    }
}

/// [`Changes`] within a runtime.
pub struct Listening {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

impl Listening {
    /// Waits for the next change; an overrun is one, too.
    pub async fn changed(&mut self) -> io::Result<()> {
        self.buffer.clear();
        match self.socket.recv(&mut self.buffer).await {
            Err(error) if error.raw_os_error() != Some(libc::ENOBUFS) => Err(error),
            _ => Ok(()),
        }
    }

    /// Forgets changes that have been told already.
    pub fn skip(&mut self) {
        self.buffer.clear();
        while let Ok(1..) = self.socket.socket_mut().recv(&mut self.buffer, 0) {
            self.buffer.clear();
        }
    }
}

/// A filter in the kernel: of notifications about routes, only those about local ones wake this
/// process. A notification is a message of its own: its kind is at byte 4, and a route's kind is the
/// last byte but four of the `rtmsg` behind the header.
fn leave_out_routes_elsewhere(socket: &Socket) -> io::Result<()> {
    const KIND: u32 = 4;
    const ROUTE_KIND: u32 = 16 + 7;
    // The filter's loads are in network order, netlink is in the host's.
    let message = |kind: u16| u32::from(u16::from_be_bytes(kind.to_ne_bytes()));
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let equals = |jt, jf, k| step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, jt, jf, k);
    let answer = |k| step(libc::BPF_RET | libc::BPF_K, 0, 0, k);
    let mut program = [
        step(libc::BPF_LD | libc::BPF_H | libc::BPF_ABS, 0, 0, KIND),
        equals(1, 0, message(libc::RTM_NEWROUTE)),
        equals(0, 2, message(libc::RTM_DELROUTE)),
        step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, ROUTE_KIND),
        equals(0, 1, libc::RTN_LOCAL.into()),
        answer(u32::MAX),
        answer(0),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: SO_ATTACH_FILTER reads a sock_fprog and the program that it points to; both live.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            std::ptr::from_ref(&filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn interface(row: LinkMessage) -> Interface {
    let mut interface = Interface {
        index: row.header.index,
        kind: row.header.link_layer_type.into(),
        up: row.header.flags.contains(LinkFlags::Up),
        ..Interface::default()
    };
    let (mut lower, mut namespace) = (None, None);
    let (mut vlan, mut veth) = (false, false);
    for attribute in row.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name = name,
            LinkAttribute::Controller(index) => interface.controller = Some(index),
            LinkAttribute::Link(index) => lower = Some(index),
            LinkAttribute::LinkNetNsId(number) => namespace = Some(number),
            LinkAttribute::LinkInfo(infos) => {
                vlan = infos.contains(&LinkInfo::Kind(InfoKind::Vlan));
                veth = infos.contains(&LinkInfo::Kind(InfoKind::Veth));
            }
            _ => {}
        }
    }
    interface.vlan_parent = lower.filter(|_| vlan);
    interface.far_namespace = namespace.filter(|_| veth);
    interface
}

fn address(row: &AddressMessage) -> Option<IpAddr> {
    let find = |want: fn(&AddressAttribute) -> Option<IpAddr>| row.attributes.iter().find_map(want);
    // On a point-to-point interface IFA_ADDRESS is the far end, IFA_LOCAL this one.
    let local = find(|attribute| match attribute {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    local.or_else(|| {
        find(|attribute| match attribute {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        })
    })
}

/// A kernel that does not know the filter of the question tells of all routes.
fn local_route(row: &RouteMessage) -> Option<IpNet> {
    if row.header.kind != RouteType::Local {
        return None;
    }
    let destination = row.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(ip)) => Some(IpAddr::from(*ip)),
        RouteAttribute::Destination(RouteAddress::Inet6(ip)) => Some(IpAddr::from(*ip)),
        _ => None,
    })?;
    IpNet::new(destination, row.header.destination_prefix_length).ok()
}
