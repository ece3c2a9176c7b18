//! Packet sockets, one on each interface that is up: opened, filtered, followed, read, and asked what they lost.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::Context;

use crate::capture::filter::{Filter, SHORT, WHOLE};
use crate::host::interfaces::{self, Layer, Top};
use crate::host::packet_socket::{self, Statistics};
use crate::host::rtnetlink::Links;

/// Between the addresses of an Ethernet header and its type.
const TAG: usize = 4;
const ADDRESSES: usize = 12;

/// A frame, or its beginning.
#[derive(Debug)]
pub(super) struct Heard<'a> {
    pub(super) bytes: &'a [u8],
    /// Of the whole frame.
    pub(super) length: u32,
    /// Since 1970.
    pub(super) at: Duration,
}

/// One interface.
#[derive(Debug)]
pub(super) struct Ear {
    fd: OwnedFd,
    pub(super) top: Top,
    is_loopback: bool,
    /// What came through the filter, and what of it the kernel had no room for.
    pub(super) passed: u64,
    pub(super) lost: u64,
}

/// All of them.
pub(super) struct Ears {
    links: Links,
    length: u32,
    ports: BTreeSet<u16>,
    /// By interface.
    pub(super) open: BTreeMap<u32, Ear>,
    /// On what could not be listened, and has been said.
    refused: BTreeSet<u32>,
}

impl Ears {
    /// Opens nothing yet.
    pub(super) fn new(payload: bool) -> anyhow::Result<Self> {
        let probe = packet_socket::open();
        probe.context(
            "open a packet socket: CAP_NET_RAW is needed; run it with sudo, or with that one right \
             (docs/capture.md)",
        )?;
        let links = Links::new().context("open a netlink socket")?;
        let length = if payload { WHOLE } else { SHORT };
        let (ports, open, refused) = Default::default();
        Ok(Self { links, length, ports, open, refused })
    }

    /// Lets packets of these ports through from now on.
    pub(super) fn choose(&mut self, ports: BTreeSet<u16>) -> anyhow::Result<()> {
        if ports != self.ports {
            self.ports = ports;
            for ear in self.open.values() {
                let filtered = ear.filter(&self.ports, self.length);
                filtered.with_context(|| format!("filter on {}", ear.top.attach.name))?;
            }
        }
        Ok(())
    }

    /// Looks which interfaces are up. Gives those that are gone.
    pub(super) fn follow(&mut self) -> anyhow::Result<Vec<Ear>> {
        let situation = self.links.ask().context("ask for interfaces")?.situation;
        let chosen = interfaces::choose(&situation, None).attach;
        let tops = interfaces::on_top(&chosen, &situation);
        let is_there = |ear: &Ear| tops.contains(&ear.top);
        let gone: Vec<u32> =
            self.open.iter().filter(|(_, ear)| !is_there(ear)).map(|(index, _)| *index).collect();
        let gone = gone.into_iter().filter_map(|index| self.open.remove(&index)).collect();
        for top in tops {
            let index = top.attach.index;
            if self.open.contains_key(&index) {
                continue;
            }
            let mut links = situation.interfaces.iter();
            let is_loopback =
                links.any(|link| link.index == index && link.kind == libc::ARPHRD_LOOPBACK);
            let name = top.attach.name.clone();
            match Ear::open(top, is_loopback, &self.ports, self.length) {
                Ok(ear) => drop(self.open.insert(index, ear)),
                Err(error) if self.refused.insert(index) => {
                    eprintln!("mediasoup-exporter: not captured on {name}: {error}");
                }
                Err(_) => {}
            }
        }
        Ok(gone)
    }

    /// Until there is something to read, or for so long.
    pub(super) fn wait(&self, patience: Duration) {
        let poll =
            |ear: &Ear| libc::pollfd { fd: ear.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let mut polls: Vec<libc::pollfd> = self.open.values().map(poll).collect();
        let millis = patience.as_millis().clamp(1, 1000) as libc::c_int;
        // SAFETY: a live array of that length. Whatever it returns, sockets are asked next.
        unsafe { libc::poll(polls.as_mut_ptr(), polls.len() as libc::nfds_t, millis) };
    }
}

impl Ear {
    fn open(top: Top, is_loopback: bool, ports: &BTreeSet<u16>, length: u32) -> io::Result<Self> {
        let ear = Self { fd: packet_socket::open()?, top, is_loopback, passed: 0, lost: 0 };
        ear.filter(ports, length)?;
        packet_socket::enlarge(&ear.fd)?;
        packet_socket::enable(&ear.fd, libc::SOL_SOCKET, libc::SO_TIMESTAMPNS)?;
        packet_socket::enable(&ear.fd, libc::SOL_PACKET, libc::PACKET_AUXDATA)?;
        // SAFETY: all zeroes is an address.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = ear.top.attach.index as i32;
        let length = size_of_val(&address) as libc::socklen_t;
        // SAFETY: the kernel reads a live address of that length.
        let bound = unsafe { libc::bind(ear.fd.as_raw_fd(), (&raw const address).cast(), length) };
        if bound == 0 { Ok(ear) } else { Err(io::Error::last_os_error()) }
    }

    fn filter(&self, ports: &BTreeSet<u16>, length: u32) -> io::Result<()> {
        let Top { skip_tagged, .. } = self.top;
        let filter = Filter { ports, is_loopback: self.is_loopback, skip_tagged, length };
        packet_socket::filter(&self.fd, filter.compile())
    }

    /// The next frame, if one waits. An interface that went down has none.
    pub(super) fn hear<'a>(&self, buffer: &'a mut [u8]) -> Option<Heard<'a>> {
        let mut control = [0_u64; 32];
        // A tag that the kernel took out is put in again.
        let (before, room) = buffer.split_at_mut(TAG);
        let mut part = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
        // SAFETY: all zeroes is a message.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        // SAFETY: the message's parts live; the socket does not block.
        let length =
            unsafe { libc::recvmsg(self.fd.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
        let length = usize::try_from(length).ok()?.min(room.len());
        let about = About::of(&message);
        let mut whole = about.length.max(length as u32);
        let has_tag = self.top.attach.layer == Layer::Ethernet && length >= ADDRESSES;
        let mut start = TAG;
        if let Some([tci, kind]) = about.tag.filter(|_| has_tag) {
            before.copy_from_slice(&room[..TAG]);
            room.copy_within(TAG..ADDRESSES, 0);
            room[ADDRESSES - TAG..ADDRESSES - 2].copy_from_slice(&kind.to_be_bytes());
            room[ADDRESSES - 2..ADDRESSES].copy_from_slice(&tci.to_be_bytes());
            whole += TAG as u32;
            start = 0;
        }
        Some(Heard { bytes: &buffer[start..TAG + length], length: whole, at: about.at })
    }

    /// Takes in what the kernel counted since the last time.
    pub(super) fn count(&mut self) {
        let Statistics { packets, lost } = packet_socket::statistics(&self.fd);
        self.passed += packets;
        self.lost += lost;
    }
}

/// What the kernel says of a frame.
#[derive(Debug, Default)]
struct About {
    length: u32,
    at: Duration,
    /// Tag and its kind.
    tag: Option<[u16; 2]>,
}

impl About {
    fn of(message: &libc::msghdr) -> Self {
        let mut about = Self::default();
        // SAFETY: the kernel has filled the message and its control buffer, which live.
        let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
        while !next.is_null() {
            // SAFETY: a header within the buffer, aligned as the buffer is.
            let (level, kind, data) =
                unsafe { ((*next).cmsg_level, (*next).cmsg_type, libc::CMSG_DATA(next)) };
            match (level, kind) {
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => {
                    let mut time = MaybeUninit::<libc::timespec>::uninit();
                    // SAFETY: what follows such a header is a `timespec`, any bytes of which are one.
                    let time = unsafe {
                        data.copy_to(time.as_mut_ptr().cast(), size_of::<libc::timespec>());
                        time.assume_init()
                    };
                    about.at = Duration::new(time.tv_sec as u64, time.tv_nsec as u32);
                }
                (libc::SOL_PACKET, libc::PACKET_AUXDATA) => {
                    let mut said = MaybeUninit::<libc::tpacket_auxdata>::uninit();
                    // SAFETY: as above, of a `tpacket_auxdata`.
                    let said = unsafe {
                        data.copy_to(said.as_mut_ptr().cast(), size_of::<libc::tpacket_auxdata>());
                        said.assume_init()
                    };
                    about.length = said.tp_len;
                    let has_tag = said.tp_status & libc::TP_STATUS_VLAN_VALID != 0;
                    let is_told = said.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
                    let kind = if is_told { said.tp_vlan_tpid } else { 0x8100 };
                    about.tag = has_tag.then_some([said.tp_vlan_tci, kind]);
                }
                _ => {}
            }
            // SAFETY: as the first one.
            next = unsafe { libc::CMSG_NXTHDR(message, next) };
        }
        about
    }
}
