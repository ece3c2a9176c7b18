//! Sockets as they are bound and closed, in every network namespace of the host. A worker's is owned before
//! its `bind` returns, so no packet that it is sent is missed; others' are told to userspace, which
//! finds out whose they are.

use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::{
    bpf_get_current_pid_tgid, bpf_get_netns_cookie, bpf_get_socket_cookie,
};
use aya_ebpf::helpers::{bpf_get_current_comm, bpf_probe_read_kernel_buf};
use exporter_ebpf::abi::{
    Bind, Comm, Happened, MAPPED, Nobody, OwnedSocket, Ownership, PortKey, TCP, UDP, WORKER_COMM,
};

use super::atomic::fetch_add_u32;
use super::maps::{BINDS, NOBODIES, SFU_PROCESSES, UNDECIDED};
use super::owned::{close, disown, own, tally};

/// After `bind`, over IPv4.
#[inline(always)]
pub fn bound_v4(sock: *mut bpf_sock) {
    // SAFETY: the kernel's context, which lets itself be read in words.
    let address = unsafe { [0, 0, MAPPED, (&raw const (*sock).src_ip4).read_volatile()] };
    bound(sock, address, false);
}

/// After `bind`, over IPv6.
#[inline(always)]
pub fn bound_v6(sock: *mut bpf_sock) {
    let mut address = [0; 4];
    for (at, word) in address.iter_mut().enumerate() {
        // SAFETY: as above.
        *word = unsafe { (&raw const (*sock).src_ip6).cast::<u32>().add(at).read_volatile() };
    }
    bound(sock, address, address == [0; 4] && is_v6_only(sock));
}

/// It takes no IPv4 (IPV6_V6ONLY). No context tells that; the kernel's own socket does, to which the context
/// points: `skc_ipv6only`, in the byte behind `skc_state` since Linux 3.13. Userspace tries it with sockets of
/// its own before it relies on it.
#[inline(always)]
fn is_v6_only(sock: *mut bpf_sock) -> bool {
    /// Behind two addresses, a hash, two ports, the family and the state.
    const AT: usize = 8 + 4 + 4 + 2 + 1;
    const BIT: u8 = 1 << 5;
    let mut byte = [0_u8];
    // SAFETY: the helper reads nothing that is not there.
    let read =
        unsafe { bpf_probe_read_kernel_buf(sock.cast_const().cast::<u8>().add(AT), &mut byte) };
    read.is_ok() && byte[0] & BIT != 0
}

/// Before the kernel gives a socket up.
#[inline(always)]
pub fn released(sock: *mut bpf_sock) {
    // SAFETY: the kernel's context.
    let cookie = unsafe { bpf_get_socket_cookie(sock.cast()) };
    if let Some(socket) = disown(cookie) {
        tell(cookie, &socket, &[0; 16], Happened::Released);
    }
}

#[inline(always)]
fn bound(sock: *mut bpf_sock, address: [u32; 4], is_v6_only: bool) {
    // SAFETY: the kernel's context, and helpers that take it or nothing.
    let (proto, port, namespace, cookie, process) = unsafe {
        (
            (&raw const (*sock).protocol).read_volatile(),
            (&raw const (*sock).src_port).read_volatile() as u16,
            bpf_get_netns_cookie(sock.cast()),
            bpf_get_socket_cookie(sock.cast()),
            (bpf_get_current_pid_tgid() >> 32) as u32,
        )
    };
    if proto != UDP as u32 && proto != TCP as u32 {
        return;
    }
    let mut end = PortKey::v6(namespace, address, proto as u8, port);
    end.v6_only = is_v6_only as u8;
    let comm = bpf_get_current_comm().unwrap_or_default();
    let is_verified = SFU_PROCESSES.get_ptr(process).is_some() as u32;
    let socket = OwnedSocket { end, process, is_verified };
    if is_verified != 0 {
        match own(cookie, &socket) {
            true => tell(cookie, &socket, &comm, Happened::Owned),
            false => tally(Ownership::Refused, 1),
        }
        return;
    }
    let is_nobody = is_nobody(process, &comm);
    // Until userspace has decided who it is, one process has no more than its share of the room, and of
    // the ring.
    let times = if is_nobody { 0 } else { bound_before(process) };
    let is_few = times < SHARE;
    if claims(&comm) && !is_nobody {
        if is_few && own(cookie, &socket) {
            tell(cookie, &socket, &comm, Happened::Owned);
            return;
        }
        tally(Ownership::Refused, 1);
        if is_few || times.is_multiple_of(SHARE) {
            tell(cookie, &socket, &comm, Happened::Refused);
        }
        return;
    }
    // What still came to the port was its last owner's; from now on it is another's.
    close(proto as u8, port);
    if !is_nobody && (is_few || times.is_multiple_of(SHARE)) {
        tell(cookie, &socket, &comm, Happened::Bound);
    }
}

/// Sockets of one process of whom userspace has not decided yet; it does so within milliseconds.
const SHARE: u32 = 64;

/// How many sockets it bound that userspace was told of, or will be.
#[inline(always)]
fn bound_before(process: u32) -> u32 {
    match UNDECIDED.get_ptr_mut(process) {
        // SAFETY: the table's value.
        Some(times) => unsafe { fetch_add_u32(times, 1) },
        None => {
            let _ = UNDECIDED.insert(process, 1, 0);
            0
        }
    }
}

/// Its name is a worker's, which anybody's may be.
#[inline(always)]
fn claims(comm: &Comm) -> bool {
    let [first, second] = words(comm);
    let [worker_first, worker_second] = words(&padded());
    // The last byte ends the name.
    first == worker_first && second == worker_second
}

const fn padded() -> Comm {
    let mut comm = [0; 16];
    let mut at = 0;
    while at < WORKER_COMM.len() {
        comm[at] = WORKER_COMM[at];
        at += 1;
    }
    comm
}

#[inline(always)]
fn words(comm: &Comm) -> [u64; 2] {
    // SAFETY: as many bytes, and any bytes make words.
    unsafe { core::mem::transmute(*comm) }
}

/// Userspace knows that it is no worker.
#[inline(always)]
fn is_nobody(process: u32, comm: &Comm) -> bool {
    NOBODIES.get_ptr(Nobody { comm: *comm, process }).is_some()
}

#[inline(never)]
fn tell(cookie: u64, socket: &OwnedSocket, comm: &Comm, happened: Happened) {
    let Some(mut entry) = BINDS.reserve::<Bind>(0) else {
        tally(Ownership::Lost, 1);
        return;
    };
    let (socket, comm, happened) = (*socket, *comm, happened as u32);
    entry.write(Bind { cookie, socket, comm, happened, pad: 0 });
    entry.submit(0);
}
