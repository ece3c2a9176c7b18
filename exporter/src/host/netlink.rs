//! One question to the kernel over netlink, and its answers, synchronously.
//!
//! Messages of any netlink family come in and go out decoded; a message that cannot be decoded is
//! skipped, so that a newer kernel's attribute costs one row and not all. Nothing here knows what the
//! messages mean.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};

/// The kernel sends at most 32 kB at once.
const BUFFER: usize = 64 << 10;
/// NLM_F_DUMP_INTR: the table changed while it was dumped.
const INTERRUPTED: u16 = 0x10;
const NLMSG_DONE: u16 = 3;
const NLMSG_ERROR: u16 = 2;
const HEADER: usize = 16;

/// A socket for questions. It stays in the network namespace of the thread that made it.
#[derive(Debug)]
pub struct Client {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Client {
    /// Opens a socket of the family (`NETLINK_ROUTE`, `NETLINK_SOCK_DIAG`). Answers are waited for
    /// at most two seconds.
    pub fn new(family: isize) -> io::Result<Self> {
        let mut socket = Socket::new(family)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        set_timeout(&socket)?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(BUFFER) })
    }

    /// Has the kernel heed what a question leaves out of a table (Linux 4.20; an older one tells of all
    /// rows).
    pub fn check_strictly(&mut self) {
        /// Unknown to libc.
        const NETLINK_GET_STRICT_CHK: libc::c_int = 12;
        let _ = set_option(&self.socket, libc::SOL_NETLINK, NETLINK_GET_STRICT_CHK, &1_i32);
    }

    /// Asks for a table and calls `each` for every row, at most `most` of them. Rows of a table that
    /// changed meanwhile may be missing; returns false then, or when there were more.
    pub fn dump<M>(&mut self, question: M, most: usize, mut each: impl FnMut(M)) -> io::Result<bool>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        self.send(question, NLM_F_REQUEST | NLM_F_DUMP)?;
        let mut rows = 0;
        let mut whole = true;
        loop {
            let ended = self.receive(|header, bytes| {
                whole &= header.flags & INTERRUPTED == 0;
                if rows >= most {
                    whole = false;
                } else if let Some(row) = decode(bytes) {
                    rows += 1;
                    each(row);
                }
            })?;
            if ended {
                return Ok(whole);
            }
        }
    }

    /// Asks for one thing and calls `each` for what comes in answer.
    pub fn get<M>(&mut self, question: M, mut each: impl FnMut(M)) -> io::Result<()>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        self.send(question, NLM_F_REQUEST | NLM_F_ACK)?;
        while !self.receive(|_, bytes| decode(bytes).into_iter().for_each(&mut each))? {}
        Ok(())
    }

    /// Gives an order and waits for the kernel's yes or no.
    pub fn order<M>(&mut self, order: M, flags: u16) -> io::Result<()>
    where
        M: NetlinkSerializable + NetlinkDeserializable,
    {
        self.send(order, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        while !self.receive(|_, _| ())? {}
        Ok(())
    }

    fn send<M: NetlinkSerializable + NetlinkDeserializable>(
        &mut self,
        message: M,
        flags: u16,
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let payload = NetlinkPayload::InnerMessage(message);
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), payload);
        message.header.flags = flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }

    /// Reads one datagram of messages; true when it held the end of the answer.
    fn receive(&mut self, mut each: impl FnMut(&Header, &[u8])) -> io::Result<bool> {
        self.buffer.clear();
        self.socket.recv(&mut self.buffer, 0)?;
        let mut rest = self.buffer.as_slice();
        while let Some(header) = Header::read(rest) {
            let (message, next) = rest.split_at(header.length.min(rest.len()));
            // Padded to four bytes (RFC 3549 §2.3.2.1).
            rest = &next[(header.length.next_multiple_of(4) - header.length).min(next.len())..];
            if header.sequence != self.sequence {
                continue;
            }
            match header.kind {
                NLMSG_DONE => return status(message).map(|()| true),
                NLMSG_ERROR => return status(message).map(|()| true),
                _ => each(&header, message),
            }
        }
        Ok(false)
    }
}

struct Header {
    length: usize,
    kind: u16,
    flags: u16,
    sequence: u32,
}

impl Header {
    fn read(bytes: &[u8]) -> Option<Self> {
        let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
        let flags = u16::from_ne_bytes(bytes.get(6..8)?.try_into().ok()?);
        let sequence = u32::from_ne_bytes(bytes.get(8..12)?.try_into().ok()?);
        (length >= HEADER).then_some(Self { length, kind, flags, sequence })
    }
}

/// The negative error number that follows the header of NLMSG_ERROR and NLMSG_DONE.
fn status(message: &[u8]) -> io::Result<()> {
    let code = message.get(HEADER..HEADER + 4).and_then(|bytes| bytes.try_into().ok());
    match code.map_or(0, i32::from_ne_bytes) {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
    }
}

fn decode<M: NetlinkDeserializable>(bytes: &[u8]) -> Option<M> {
    match NetlinkMessage::<M>::deserialize(bytes) {
        Ok(NetlinkMessage { payload: NetlinkPayload::InnerMessage(row), .. }) => Some(row),
        Ok(_) => None,
        Err(error) => {
            tracing::debug!("skipped a netlink message: {error}");
            None
        }
    }
}

fn set_timeout(socket: &Socket) -> io::Result<()> {
    let timeout = libc::timeval { tv_sec: 2, tv_usec: 0 };
    set_option(socket, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &timeout)
}

fn set_option<T>(
    socket: &Socket,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: reads a value of the given size from a live reference.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Names the kernel's modules that an answer says are missing, and how to load them: of that the kernel says no more
/// than "No such file or directory".
pub fn needs(error: io::Error, modules: &str) -> io::Error {
    match error.raw_os_error() {
        Some(libc::ENOENT) => io::Error::new(
            io::ErrorKind::NotFound,
            format!(
                "the kernel lacks what it takes: `modprobe --all {modules}`, now and at each boot"
            ),
        ),
        _ => error,
    }
}
