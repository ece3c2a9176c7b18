//! What whoever counts by ownership can be told, and tells: the kernel's programs, and packet capture.

use std::collections::HashMap;
use std::io;

use exporter_ebpf::abi::{Comm, Happened};

use crate::host::ownership::{End, Socket, SocketId};
use crate::model::Proto;

/// Who counts by what is owned.
pub(super) trait OwnedTables {
    /// Sockets that there is room for.
    const MOST_SOCKETS: u32;
    /// Sockets that can have a place at one end.
    const MOST_SHARERS: usize;

    /// A process is a worker, and may own so many sockets. False: there is no room for one more.
    fn admit(&mut self, pid: u32, quota: u32) -> io::Result<bool>;
    /// A process is none any more; it owns no sockets.
    fn dismiss(&mut self, pid: u32) -> io::Result<()>;
    /// A process, with the name that it has now, is nobody whose sockets matter.
    fn ignore(&mut self, pid: u32, comm: &Comm) -> io::Result<()>;
    /// A socket of a worker is owned. False: there is no room.
    fn own(&mut self, id: SocketId, socket: &Socket) -> io::Result<bool>;
    /// A socket that is owned takes its place among those that share its end, where only so many have one.
    fn join(&mut self, id: SocketId, socket: &Socket) -> io::Result<()>;
    /// A socket is not owned any more.
    fn disown(&mut self, id: SocketId) -> io::Result<()>;
    /// A socket that was owned by its process' name only is a worker's. False: there is no room.
    fn verify(&mut self, id: SocketId) -> io::Result<bool>;
    /// What trails after the sockets of an end is not looked at any more; but for what somebody owns.
    fn close(&mut self, end: &End) -> io::Result<()>;
    /// All sockets that are owned, as they are known here. `None`: as they were told.
    fn all(&mut self) -> io::Result<Option<HashMap<SocketId, Socket>>>;
    /// Nothing that was told of before may be left of these ports and their ends but what somebody owns.
    fn sweep(&mut self, is_kept: impl Fn(Proto, u16) -> bool) -> io::Result<()>;
    /// What happened to sockets since, one after the other.
    fn seen(&mut self) -> Option<Seen>;
    /// What happened and could not be told, since the start.
    fn lost(&self) -> u64;
}

/// What happened to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) id: SocketId,
    pub(super) socket: Socket,
    pub(super) comm: Comm,
    pub(super) happened: Happened,
}
