//! A peer's UDP socket in its own namespace: counts what leaves and arrives, by SSRC, and answers
//! the SFU's reports as a client would. Never counts through the exporter or its kernel program.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Error, ErrorKind, Result as IoResult};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::netns::Netns;
use crate::rtp::{self, Lost, Report, Seen};

const RECEIVE_BUFFER: libc::c_int = 8 << 20;
const FEEDBACK_KEPT: usize = 4096;

/// Packets and bytes above UDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Datagrams.
    pub packets: u64,
    /// Their payload.
    pub bytes: u64,
}

impl Count {
    /// One more datagram.
    pub fn add(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }
}

impl std::ops::Add for Count {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { packets: self.packets + other.packets, bytes: self.bytes + other.bytes }
    }
}

impl std::iter::Sum for Count {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), |sum, count| sum + count)
    }
}

/// What passed in one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// RTP, by SSRC.
    pub rtp: BTreeMap<u32, Count>,
    /// RTCP.
    pub rtcp: Count,
    /// STUN.
    pub stun: Count,
    /// None of these.
    pub other: Count,
}

impl Counts {
    /// Everything.
    pub fn total(&self) -> Count {
        self.rtp.values().copied().sum::<Count>() + self.rtcp + self.stun + self.other
    }

    fn add(&mut self, datagram: &[u8], seen: &Seen) {
        match seen {
            Seen::Rtp { ssrc, .. } => self.rtp.entry(*ssrc).or_default().add(datagram.len()),
            Seen::Rtcp(_) => self.rtcp.add(datagram.len()),
            Seen::Stun => self.stun.add(datagram.len()),
            Seen::Other => self.other.add(datagram.len()),
        }
    }
}

/// How an endpoint answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Habits {
    /// Every packet whose sequence number this divides is asked for again, once.
    pub ask_again_every: Option<u16>,
    /// One RTP packet of so many is lost on the way from the SFU, and reported so.
    pub lose_one_of: Option<u16>,
}

/// What the SFU asks a sender for.
#[derive(Debug, PartialEq, Eq)]
pub enum Feedback {
    /// These packets once more.
    Nack(u32, Vec<u16>),
    /// A key frame.
    KeyFrame(u32),
}

#[derive(Debug, Default)]
struct Inner {
    received: Counts,
    sent: Counts,
    highest: BTreeMap<u32, u16>,
    lost: BTreeMap<u32, Losses>,
    feedback: VecDeque<Feedback>,
}

/// What was lost of a source on the way here, in all and as of the last report.
#[derive(Clone, Copy, Debug, Default)]
struct Losses {
    packets: u32,
    lost: u32,
    reported: (u32, u32),
}

impl Losses {
    fn take(&mut self, is_lost: bool) {
        self.packets += 1;
        self.lost += u32::from(is_lost);
    }

    fn report(&mut self) -> Lost {
        let (packets, lost) = (self.packets - self.reported.0, self.lost - self.reported.1);
        self.reported = (self.packets, self.lost);
        let fraction = (lost * 256).checked_div(packets).unwrap_or_default();
        Lost { fraction: fraction.min(255) as u8, packets: self.lost }
    }
}

/// A socket that talks with one port of the SFU.
#[derive(Debug)]
pub struct Endpoint {
    socket: Arc<UdpSocket>,
    inner: Arc<Mutex<Inner>>,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Endpoint {
    /// Opens a socket on `local` inside `host`; it talks with nobody before [`Endpoint::talk_to`].
    pub fn open(host: &Netns, local: IpAddr) -> Result<Self> {
        let socket = host
            .run_in(|| UdpSocket::bind((local, 0)))
            .with_context(|| format!("bind a UDP socket to {local} in {}", host.name()))?;
        force_receive_buffer(&socket).context("enlarge a receive buffer (needs CAP_NET_ADMIN)")?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        Ok(Self {
            socket: Arc::new(socket),
            inner: Arc::default(),
            stop: Arc::default(),
            reader: None,
        })
    }

    /// Takes datagrams from `remote` only, and sends there.
    pub fn talk_to(&mut self, remote: SocketAddr, habits: Habits) -> Result<()> {
        self.socket.connect(remote).with_context(|| format!("connect to {remote}"))?;
        let (socket, inner, stop) =
            (Arc::clone(&self.socket), Arc::clone(&self.inner), Arc::clone(&self.stop));
        self.reader = Some(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                receive(&socket, &inner, habits);
            }
        }));
        Ok(())
    }

    /// Where it is.
    pub fn local(&self) -> Result<SocketAddr> {
        Ok(self.socket.local_addr()?)
    }

    /// Sends one datagram and counts it.
    pub fn send(&self, datagram: &[u8]) -> Result<()> {
        send(&self.socket, &mut lock(&self.inner), datagram).context("send a datagram")
    }

    /// What the SFU asked for since the last call.
    pub fn feedback(&self) -> VecDeque<Feedback> {
        std::mem::take(&mut lock(&self.inner).feedback)
    }

    /// All that left.
    pub fn sent(&self) -> Counts {
        lock(&self.inner).sent.clone()
    }

    /// All that arrived.
    pub fn received(&self) -> Counts {
        lock(&self.inner).received.clone()
    }

    /// Datagrams that the kernel dropped for want of room in the socket's buffer.
    pub fn dropped(&self) -> Result<u32> {
        let mut info = [0u32; 9];
        let mut size = size_of_val(&info) as libc::socklen_t;
        // SAFETY: the descriptor is open, and `info` is as large as `size` says.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MEMINFO,
                info.as_mut_ptr().cast(),
                &mut size,
            )
        };
        if result != 0 {
            return Err(Error::last_os_error()).context("read a socket's drops");
        }
        Ok(info[8])
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn lock(inner: &Mutex<Inner>) -> MutexGuard<'_, Inner> {
    inner.lock().expect("nobody panics while counting")
}

fn send(socket: &UdpSocket, inner: &mut Inner, datagram: &[u8]) -> IoResult<()> {
    // An error that an earlier datagram met (ICMP) is told once, in place of sending.
    if let Err(error) = socket.send(datagram)
        && (error.kind() != ErrorKind::ConnectionRefused || socket.send(datagram).is_err())
    {
        return Err(error);
    }
    inner.sent.add(datagram, &rtp::read(datagram));
    Ok(())
}

fn receive(socket: &UdpSocket, inner: &Mutex<Inner>, habits: Habits) {
    let mut buffer = [0; 65536];
    let Ok(length) = socket.recv(&mut buffer) else { return };
    let datagram = &buffer[..length];
    let seen = rtp::read(datagram);
    let mut inner = lock(inner);
    if let Seen::Rtp { ssrc, sequence } = seen {
        let is_lost = habits.lose_one_of.is_some_and(|of| sequence % of == of - 1);
        inner.lost.entry(ssrc).or_default().take(is_lost);
        if is_lost {
            return;
        }
    }
    inner.received.add(datagram, &seen);
    match seen {
        Seen::Rtp { ssrc, sequence } => {
            let again = habits.ask_again_every.is_some_and(|every| sequence % every == 0);
            let new = inner.highest.insert(ssrc, sequence) != Some(sequence);
            if again && new {
                let _ = send(socket, &mut inner, &rtp::nack(1, ssrc, sequence));
            }
        }
        Seen::Rtcp(reports) => {
            reports.into_iter().for_each(|report| heed(socket, &mut inner, report))
        }
        Seen::Stun | Seen::Other => {}
    }
}

fn heed(socket: &UdpSocket, inner: &mut Inner, report: Report) {
    let feedback = match report {
        Report::Sender { ssrc, middle } => {
            let highest = inner.highest.get(&ssrc).copied().unwrap_or_default();
            let lost = inner.lost.entry(ssrc).or_default().report();
            let report = rtp::receiver_report(1, ssrc, lost, highest.into(), middle);
            let _ = send(socket, inner, &report);
            return;
        }
        Report::Nack { ssrc, sequences } => Feedback::Nack(ssrc, sequences),
        Report::KeyFrame { ssrc } => Feedback::KeyFrame(ssrc),
    };
    if inner.feedback.len() < FEEDBACK_KEPT {
        inner.feedback.push_back(feedback);
    }
}

fn force_receive_buffer(socket: &UdpSocket) -> IoResult<()> {
    let size = RECEIVE_BUFFER;
    // SAFETY: the descriptor is open, and the option's value is an int of this size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const size).cast(),
            size_of_val(&size) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}
