//! Which local ends workers' sockets have. Packets ask for the port, new flows for the whole end; it
//! changes when a socket is bound, closed or found.
//!
//! What is owned is a socket, by its cookie. It stands in its end's entry, so that a new flow finds it, and
//! is counted at its port, so that nobody needs to look for others when it goes. Both are changed by whoever
//! put the socket into its table or took it out, which is one processor; so nothing is counted twice,
//! and there is no lock.

use aya_ebpf::bindings::BPF_NOEXIST;
use exporter_ebpf::abi::{OwnedSocket, Ownership, PortKey, SHARERS, SfuProcess, Sharers};
use exporter_ebpf::ports::{PortSet, WORDS, byte, number, place};

use super::atomic::{
    add, exchange, fetch_add, fetch_add_u32, fetch_and, fetch_or, replace, replace_u32,
};
use super::maps::*;

/// Ports whose packets are looked at: those that somebody owns, and those that somebody owned a moment
/// ago, because what trails after a socket is its own.
static mut OPEN: [u32; WORDS] = [0; WORDS];

/// As a packet asks for them.
#[derive(Clone, Copy)]
pub struct OpenPorts;

impl PortSet for OpenPorts {
    #[inline(always)]
    fn contains(self, proto: u8, port: u16) -> bool {
        let (byte, shift) = byte(proto, port);
        // SAFETY: a byte of the set, which others write atomically.
        unsafe { (&raw const OPEN).cast::<u8>().add(byte).read_volatile() >> shift & 1 != 0 }
    }
}

/// A word of [`OPEN`].
#[inline(always)]
fn open_word(word: usize) -> *mut u32 {
    // SAFETY: the mask keeps it within, which the verifier must see.
    unsafe { (&raw mut OPEN).cast::<u32>().add(word & (WORDS - 1)) }
}

/// A worker's socket has this end, or this port at all addresses.
#[inline(never)]
pub fn is_owned_v4(namespace: u64, address: &u32, proto: u8, port: u16) -> bool {
    let mut end = PortKey::v4(namespace, *address, proto, port);
    if has_sharers(&end) {
        return true;
    }
    end.address[3] = 0;
    if has_sharers(&end) {
        return true;
    }
    // An IPv6 socket that takes IPv4, too.
    end.address[2] = 0;
    has_sharers(&end)
}

/// As [`is_owned_v4`].
#[inline(never)]
pub fn is_owned_v6(namespace: u64, address: &[u32; 4], proto: u8, port: u16) -> bool {
    let mut end = PortKey::v6(namespace, *address, proto, port);
    if has_sharers(&end) {
        return true;
    }
    end.address = [0; 4];
    if has_sharers(&end) {
        return true;
    }
    // One that takes no IPv4.
    end.v6_only = 1;
    has_sharers(&end)
}

#[inline(always)]
fn has_sharers(end: &PortKey) -> bool {
    OWNED_PORTS.get_ptr_mut(end).is_some_and(any)
}

#[inline(always)]
fn any(sharers: *mut Sharers) -> bool {
    let mut all = 0;
    for slot in 0..SHARERS {
        // SAFETY: within the table's value.
        all |= unsafe { sharers.cast::<u64>().add(slot).read_volatile() };
    }
    all != 0
}

/// Makes a bound socket owned; nothing happens if it is already. False: there is no room.
#[inline(always)]
pub fn own(cookie: u64, socket: &OwnedSocket) -> bool {
    const EXISTS: i32 = -17;
    if !take_room(socket.process, socket.is_verified) {
        return false;
    }
    match OWNED_SOCKETS.insert(cookie, socket, BPF_NOEXIST as u64) {
        Ok(()) => {}
        Err(error) => {
            give_room_back(socket.process, socket.is_verified);
            return error == EXISTS;
        }
    }
    if !join(&socket.end, cookie) {
        let _ = OWNED_SOCKETS.remove(cookie);
        give_room_back(socket.process, socket.is_verified);
        return false;
    }
    open(socket.end.proto, socket.end.port);
    true
}

/// [`OwnedSocket::is_verified`] of a socket that is being given up.
const GONE: u32 = 2;

/// Gives an owned socket up, and tells what it was. `None`: it is not owned.
#[inline(always)]
pub fn disown(cookie: u64) -> Option<OwnedSocket> {
    let entry = OWNED_SOCKETS.get_ptr_mut(cookie)?;
    // SAFETY: the table's value, of which only this word ever changes.
    let (was_verified, socket) =
        unsafe { (exchange(&raw mut (*entry).is_verified, GONE), entry.read()) };
    if was_verified == GONE {
        return None;
    }
    let _ = OWNED_SOCKETS.remove(cookie);
    give_room_back(socket.process, was_verified);
    leave(&socket.end, cookie);
    // Nobody else may be told of it, and ends are many.
    forget(&socket.end);
    if let Some(sockets) = PORT_SOCKETS.get_ptr_mut(number(socket.end.proto, socket.end.port)) {
        // SAFETY: the table's value.
        unsafe { fetch_add_u32(sockets, 1u32.wrapping_neg()) };
    }
    Some(socket)
}

/// Makes a process a worker, or changes how many sockets it may own. False: there is no room.
#[inline(always)]
pub fn admit(process: u32, quota: u32) -> bool {
    let made = SfuProcess { quota, sockets: 0 };
    if SFU_PROCESSES.insert(process, made, BPF_NOEXIST as u64).is_ok() {
        return true;
    }
    let Some(process) = SFU_PROCESSES.get_ptr_mut(process) else { return false };
    // SAFETY: the table's value.
    unsafe { (&raw mut (*process).quota).write_volatile(quota) };
    true
}

/// Moves a claimed socket to the verified ones' room. False: there is none, or no such socket.
#[inline(always)]
pub fn verify(cookie: u64) -> bool {
    let Some(entry) = OWNED_SOCKETS.get_ptr_mut(cookie) else { return false };
    // SAFETY: the table's value.
    unsafe {
        let process = (*entry).process;
        if (*entry).is_verified != 0 {
            return true;
        }
        if !take_room(process, 1) {
            return false;
        }
        let is_moved = replace_u32(&raw mut (*entry).is_verified, 0, 1);
        give_room_back(process, u32::from(!is_moved));
        is_moved
    }
}

/// Has packets of a port looked at no more, unless somebody owns it.
#[inline(always)]
pub fn close(proto: u8, port: u16) -> bool {
    let Some(sockets) = PORT_SOCKETS.get_ptr(number(proto, port)) else { return false };
    let (word, bit) = place(proto, port.to_be());
    let word = open_word(within(word));
    // SAFETY: a table's value, and a word of the set.
    unsafe {
        if sockets.read_volatile() != 0 || word.read_volatile() & bit == 0 {
            return false;
        }
        fetch_and(word, !bit);
        // Whoever has come since counted himself first, and opened the port before or after.
        if sockets.read_volatile() != 0 {
            fetch_or(word, bit);
        }
    }
    true
}

/// Has packets of all these ports looked at.
#[inline(always)]
pub fn open_all(word: u32, bits: u32) {
    // SAFETY: a word of the set.
    unsafe { fetch_or(open_word(within(word as usize)), bits) };
}

/// 1 while somebody lets go of an entry: two at once could take away what came after the one that they looked at.
static mut FORGETTING: u32 = 0;

/// Lets go of an end's entry, unless somebody owns it. False also where somebody lets go of another one at the
/// same moment.
#[inline(never)]
pub fn forget(end: &PortKey) -> bool {
    let lock = &raw mut FORGETTING;
    // SAFETY: a word that all programs share, which others write atomically.
    if unsafe { exchange(lock, 1) } != 0 {
        return false;
    }
    let is_done = forget_alone(end);
    // SAFETY: as above.
    unsafe { exchange(lock, 0) };
    is_done
}

#[inline(always)]
fn forget_alone(end: &PortKey) -> bool {
    let Some(sharers) = OWNED_PORTS.get_ptr_mut(end) else { return false };
    if any(sharers) || OWNED_PORTS.remove(end).is_err() {
        return false;
    }
    // Somebody may have found the entry before it went, and stand in it now.
    for slot in 0..SHARERS {
        // SAFETY: the table's value, which lives at least as long as this program runs.
        let cookie = unsafe { sharers.cast::<u64>().add(slot).read_volatile() };
        if cookie != 0 {
            join_if_held(end, cookie);
        }
    }
    true
}

/// Puts a socket into its end's entry, if it is owned.
#[inline(never)]
pub fn join_if_held(end: &PortKey, cookie: u64) -> bool {
    if !is_held(cookie) {
        return false;
    }
    join(end, cookie);
    // Whoever gives the socket up meanwhile has left before or will leave after; this is for before.
    if !is_held(cookie) {
        leave(end, cookie);
    }
    true
}

/// A socket is owned, and is not being given up.
#[inline(always)]
fn is_held(cookie: u64) -> bool {
    // SAFETY: the table's value.
    OWNED_SOCKETS
        .get_ptr(cookie)
        .is_some_and(|entry| unsafe { (&raw const (*entry).is_verified).read_volatile() } != GONE)
}

fn open(proto: u8, port: u16) {
    if let Some(sockets) = PORT_SOCKETS.get_ptr_mut(number(proto, port)) {
        // SAFETY: the table's value.
        unsafe { fetch_add_u32(sockets, 1) };
    }
    let (word, bit) = place(proto, port.to_be());
    // SAFETY: a word of the set.
    unsafe { fetch_or(open_word(within(word)), bit) };
}

/// The number of a word within the set, as the verifier must see it; the compiler would leave out what it
/// knows to change nothing.
#[inline(always)]
fn within(word: usize) -> usize {
    let mut word = word as u64;
    // SAFETY: the mask is one less than a power of two, and no number of a word is larger.
    unsafe { core::arch::asm!("{0} &= {mask}", inout(reg) word, mask = const WORDS - 1) };
    word as usize
}

const _: () = assert!(WORDS.is_power_of_two());

static NO_SHARERS: Sharers = [0; SHARERS];

/// Puts a socket into its end's entry. False: there is no room for one more entry.
#[inline(never)]
fn join(end: &PortKey, cookie: u64) -> bool {
    /// Once to find a place, once to see that the entry is still the end's, and once more if it is not.
    const TRIES: u32 = 3;
    let end = *end;
    let mut is_placed = false;
    for _ in 0..TRIES {
        let sharers = match OWNED_PORTS.get_ptr_mut(end) {
            Some(sharers) => sharers,
            None => {
                let _ = OWNED_PORTS.insert(end, NO_SHARERS, BPF_NOEXIST as u64);
                match OWNED_PORTS.get_ptr_mut(end) {
                    Some(sharers) => sharers,
                    // There is no room, or somebody let go of the entry before anybody stood in it.
                    None => continue,
                }
            }
        };
        if stands(sharers, cookie) || !place_in(sharers, cookie) {
            return true;
        }
        is_placed = true;
    }
    is_placed
}

#[inline(always)]
fn stands(sharers: *mut Sharers, cookie: u64) -> bool {
    let mut is_there = false;
    for slot in 0..SHARERS {
        // SAFETY: within the table's value.
        is_there |= unsafe { sharers.cast::<u64>().add(slot).read_volatile() == cookie };
    }
    is_there
}

/// False: as many as can be told apart have the end already. It stays owned as long as they have it.
#[inline(always)]
fn place_in(sharers: *mut Sharers, cookie: u64) -> bool {
    for slot in 0..SHARERS {
        // SAFETY: within the table's value.
        if unsafe { replace(sharers.cast::<u64>().add(slot), 0, cookie) } {
            return true;
        }
    }
    false
}

#[inline(never)]
fn leave(end: &PortKey, cookie: u64) {
    let Some(sharers) = OWNED_PORTS.get_ptr_mut(end) else { return };
    for slot in 0..SHARERS {
        // SAFETY: within the table's value.
        unsafe { replace(sharers.cast::<u64>().add(slot), cookie, 0) };
    }
}

#[inline(never)]
fn take_room(process: u32, is_verified: u32) -> bool {
    if is_verified == 0 {
        return take(Ownership::Claimed, MAX_CLAIMED.load());
    }
    let Some(process) = SFU_PROCESSES.get_ptr_mut(process) else { return false };
    // SAFETY: the table's value.
    unsafe {
        if fetch_add_u32(&raw mut (*process).sockets, 1) >= (*process).quota {
            fetch_add_u32(&raw mut (*process).sockets, 1u32.wrapping_neg());
            return false;
        }
        if !take(Ownership::Verified, MAX_VERIFIED.load()) {
            fetch_add_u32(&raw mut (*process).sockets, 1u32.wrapping_neg());
            return false;
        }
    }
    true
}

#[inline(always)]
fn take(cell: Ownership, bound: u64) -> bool {
    let Some(cell) = OWNERSHIP.get_ptr_mut(cell as u32) else { return false };
    // SAFETY: the table's value.
    unsafe {
        if fetch_add(cell, 1) >= bound {
            add(cell, 1u64.wrapping_neg());
            return false;
        }
    }
    true
}

#[inline(never)]
fn give_room_back(process: u32, is_verified: u32) {
    let cell = if is_verified == 0 { Ownership::Claimed } else { Ownership::Verified };
    tally(cell, 1u64.wrapping_neg());
    if is_verified == 0 {
        return;
    }
    if let Some(process) = SFU_PROCESSES.get_ptr_mut(process) {
        // SAFETY: the table's value.
        unsafe { fetch_add_u32(&raw mut (*process).sockets, 1u32.wrapping_neg()) };
    }
}

/// Adds to a sum.
#[inline(always)]
pub fn tally(cell: Ownership, value: u64) {
    if let Some(cell) = OWNERSHIP.get_ptr_mut(cell as u32) {
        // SAFETY: the table's value.
        unsafe { add(cell, value) };
    }
}
