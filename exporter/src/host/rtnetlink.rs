//! Asks rtnetlink for interfaces, addresses and default routes, and hears when they change.
//!
//! Any change is answered by asking for everything again: the tables are small, and an overrun
//! (ENOBUFS) then needs no other care. What the answers are good for is decided in `interfaces`.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NetlinkDeserializable, NetlinkSerializable};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, Socket, SocketAddr, TokioSocket};

use super::interfaces::{Interface, Situation};
use super::netlink::Client;

/// More rows than this (a router's full table) are not looked at.
const MOST: usize = 2_000_000;

/// Asks, in the network namespace in which it was made.
#[derive(Debug)]
pub struct Links {
    client: Client,
}

impl Links {
    /// Opens the netlink socket.
    pub fn new() -> io::Result<Self> {
        Ok(Self { client: Client::new(NETLINK_ROUTE)? })
    }

    /// The situation, but for what the workers listen on.
    pub fn ask(&mut self) -> io::Result<Situation> {
        let mut situation = Situation::default();
        self.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()), |row| {
            if let RouteNetlinkMessage::NewLink(row) = row {
                situation.interfaces.push(interface(row));
            }
        })?;
        self.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()), |row| {
            if let RouteNetlinkMessage::NewAddress(row) = row {
                situation.addresses.extend(address(&row));
            }
        })?;
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut question = RouteMessage::default();
            question.header.address_family = (family as u8).into();
            self.dump(RouteNetlinkMessage::GetRoute(question), |row| {
                if let RouteNetlinkMessage::NewRoute(row) = row {
                    situation.default_routes.extend(default_route(&row));
                }
            })?;
        }
        Ok(situation)
    }

    fn dump<M>(&mut self, question: M, mut each: impl FnMut(M)) -> io::Result<()>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        self.client.dump(question, MOST, &mut each).map(drop)
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

fn interface(row: LinkMessage) -> Interface {
    let mut interface = Interface {
        index: row.header.index,
        name: String::new(),
        kind: row.header.link_layer_type.into(),
        up: row.header.flags.contains(LinkFlags::Up),
        controller: None,
        vlan_parent: None,
    };
    let mut lower = None;
    let mut vlan = false;
    for attribute in row.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name = name,
            LinkAttribute::Controller(index) => interface.controller = Some(index),
            LinkAttribute::Link(index) => lower = Some(index),
            LinkAttribute::LinkInfo(infos) => {
                vlan = infos.contains(&LinkInfo::Kind(InfoKind::Vlan));
            }
            _ => {}
        }
    }
    interface.vlan_parent = lower.filter(|_| vlan);
    interface
}

fn address(row: &AddressMessage) -> Option<(u32, IpAddr)> {
    let find = |want: fn(&AddressAttribute) -> Option<IpAddr>| row.attributes.iter().find_map(want);
    // On a point-to-point interface IFA_ADDRESS is the far end, IFA_LOCAL this one.
    let local = find(|attribute| match attribute {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    let address = local.or_else(|| {
        find(|attribute| match attribute {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        })
    });
    address.map(|ip| (row.header.index, ip))
}

fn default_route(row: &RouteMessage) -> Vec<u32> {
    if row.header.destination_prefix_length != 0 || row.header.kind != RouteType::Unicast {
        return Vec::new();
    }
    let mut interfaces = Vec::new();
    for attribute in &row.attributes {
        match attribute {
            RouteAttribute::Oif(index) => interfaces.push(*index),
            RouteAttribute::MultiPath(hops) => {
                interfaces.extend(hops.iter().map(|hop| hop.interface_index));
            }
            _ => {}
        }
    }
    let unique: BTreeSet<u32> = interfaces.into_iter().collect();
    unique.into_iter().collect()
}
