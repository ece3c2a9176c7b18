//! What is not the RTP of a known stream: finds or makes its flow and stream, within their bounds,
//! and lets strangers become known.

use aya_ebpf::helpers::generated::bpf_jiffies64;
use exporter_ebpf::abi::{
    CLASSES, Class, Counter, Event, FlowValue, KNOWN, PROVED_SEND, RESERVED_SSRCS, SEEN_RECEIVE,
    SEND, StreamKeyV4, StreamKeyV6, StreamValue,
};
use exporter_ebpf::packet::{Packet, forget};
use exporter_ebpf::rtp::Kind;

use super::atomic::{add, fetch_add_u32, fetch_or};
use super::maps::{CHECK_LOCAL, CHECK_OWNED, MAX_SSRCS};
use super::record::{record, unpack};
use super::streams::{self, Entrances as _, IS_NEW};
use super::tables::{Family, Quota, Standing, event, promote};

/// What counts a packet that is not the RTP of a known stream.
pub trait Admit: Family {
    /// Counts one RTP packet. False: perhaps this host has no part in it.
    fn admit_rtp(key: &Self::Stream, packed: u64, bytes: u32) -> bool;
    /// Counts other packets in their flow. False: as above.
    fn admit_plain(key: &Self::Stream, packets: u32, bytes: u32, sort: u32) -> bool;
}

/// A packet's class, whether it is of those by which a flow becomes known, and whether its RTP
/// header does not fit: in one word of which the verifier knows nothing, so that it goes through
/// [`plain`] once and not once for each kind.
#[inline(always)]
pub fn sort(kind: Kind, speaks: bool) -> u32 {
    let is_bad = (kind == Kind::BadRtp) as u8;
    u32::from_ne_bytes(forget([kind.class() as u8, speaks as u8, is_bad, 0]))
}

/// Counts packets that are no RTP in their flow, which the key names (its SSRC means nothing here).
/// False: perhaps this host has no part in them.
#[inline(always)]
fn plain<F: Family>(key: &F::Stream, packets: u32, bytes: u32, sort: u32) -> bool {
    let arrival = Arrival { direction: F::direction_of(key) as u32, packets, bytes };
    let [class, speaks, is_bad, _] = sort.to_ne_bytes();
    if is_bad != 0 {
        arrival.event(Event::BadRtp);
    }
    match flow::<F>(key, &arrival, speaks != 0) {
        Found::At(flow) => arrival.add_to(flow, class),
        Found::NoRoom => {}
        Found::NotOurs => return false,
    }
    true
}

/// Counts one RTP packet in its stream, or where that has no room, in its flow. False: perhaps
/// this host has no part in it.
#[inline(always)]
fn rtp<F: Family>(key: &F::Stream, packed: u64, bytes: u32) -> bool {
    let arrival = Arrival { direction: F::direction_of(key) as u32, packets: 1, bytes };
    let flow = match flow::<F>(key, &arrival, true) {
        Found::At(flow) => flow,
        Found::NoRoom => return true,
        Found::NotOurs => return false,
    };
    match stream::<F>(key, flow, &arrival) {
        Ok(stream) => record(stream, &unpack(packed), bytes, arrival.direction as u8),
        Err(refusal) => {
            arrival.event(refusal);
            arrival.add_to(flow, Class::Rtp as u8);
        }
    }
    true
}

/// Both for one address family, as functions that other objects could call, too: those the verifier goes
/// through once, knowing nothing of their arguments, instead of once for each way that leads to them
/// (Linux 5.13 for pointers to structures). It wants the pointer tested, and a number for an answer.
macro_rules! entrances {
    ($words:literal, $key:ty, $rtp:ident, $plain:ident) => {
        #[inline(never)]
        #[unsafe(no_mangle)]
        pub extern "C" fn $rtp(key: *const $key, packed: u64, bytes: u32) -> u32 {
            // SAFETY: null, or the caller's key.
            let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
            rtp::<Packet<$words>>(key, packed, bytes) as u32
        }

        #[inline(never)]
        #[unsafe(no_mangle)]
        pub extern "C" fn $plain(key: *const $key, packets: u32, bytes: u32, sort: u32) -> u32 {
            // SAFETY: as above.
            let Some(key) = (unsafe { key.as_ref() }) else { return 0 };
            plain::<Packet<$words>>(key, packets, bytes, sort) as u32
        }

        impl Admit for Packet<$words> {
            #[inline(always)]
            fn admit_rtp(key: &$key, packed: u64, bytes: u32) -> bool {
                $rtp(key, packed, bytes) != 0
            }

            #[inline(always)]
            fn admit_plain(key: &$key, packets: u32, bytes: u32, sort: u32) -> bool {
                $plain(key, packets, bytes, sort) != 0
            }
        }
    };
}

entrances!(1, StreamKeyV4, admit_rtp_v4, admit_plain_v4);
entrances!(4, StreamKeyV6, admit_rtp_v6, admit_plain_v6);

/// Packets to be counted, and their payload.
struct Arrival {
    direction: u32,
    packets: u32,
    bytes: u32,
}

impl Arrival {
    #[inline(always)]
    fn event(&self, kind: Event) {
        event(kind as u32, self.direction, self.packets, self.bytes);
    }

    #[inline(always)]
    fn add_to(&self, flow: *mut FlowValue, class: u8) {
        // The mask and the test tell the verifier what the caller knows.
        let (direction, class) = ((self.direction & 1) as usize, class as usize);
        if class >= CLASSES {
            return;
        }
        // SAFETY: the table's value, and both indexes are within it.
        unsafe {
            let counters = (&raw mut (*flow).counts).cast::<Counter>();
            let counter = counters.add(direction * CLASSES + class);
            add(&raw mut (*counter).packets, self.packets as u64);
            add(&raw mut (*counter).bytes, self.bytes as u64);
        }
    }
}

/// Finds or makes the stream of a flow.
#[inline(always)]
fn stream<F: Family>(
    key: &F::Stream,
    flow: *mut FlowValue,
    arrival: &Arrival,
) -> Result<*mut StreamValue, Event> {
    // SAFETY: the table's value.
    let is_known = unsafe { (*flow).flags } & KNOWN != 0;
    let Some(stream) = streams::at(key.find()) else {
        return admit_stream::<F>(flow, key, is_known);
    };
    // SAFETY: the table's values; a stream that is not known took a stranger's room.
    unsafe {
        if is_known && (*stream).flags & KNOWN == 0 {
            let flags = &raw mut (*stream).flags;
            let standing = standing::<F>(key, (*flow).streams);
            let (from, to) = (Quota::streams(Standing::Stranger), Quota::streams(standing));
            if !promote(flags, from, to) {
                arrival.event(Event::StreamsFull);
            }
        }
    }
    Ok(stream)
}

/// Of a stream of a known flow that has so many.
#[inline(always)]
fn standing<F: Family>(key: &F::Stream, streams: u32) -> Standing {
    if (streams as i32) < RESERVED_SSRCS as i32 && F::is_told(key, &mut F::flow_of(key)) {
        Standing::Told
    } else {
        Standing::Proven
    }
}

#[inline(always)]
fn admit_stream<F: Family>(
    flow: *mut FlowValue,
    key: &F::Stream,
    is_known: bool,
) -> Result<*mut StreamValue, Event> {
    // SAFETY: the table's value.
    let share = unsafe { &raw mut (*flow).streams };
    // SAFETY: as above.
    // Below zero when the flow was made anew beside a stream of the one before: that is no full share.
    let streams = unsafe { fetch_add_u32(share, 1) };
    if streams as i32 >= MAX_SSRCS.load() as i32 {
        give_back_ssrc(share);
        return Err(Event::SsrcsFull);
    }
    let standing = if is_known { standing::<F>(key, streams) } else { Standing::Stranger };
    if standing == Standing::Proven && F::is_greedy(key) {
        give_back_ssrc(share);
        return Err(Event::ShareFull);
    }
    let quota = Quota::streams(standing);
    if !quota.take() {
        give_back_ssrc(share);
        return Err(if is_known { Event::StreamsFull } else { Event::StrangerStreamsFull });
    }
    let inserted = key.insert(is_known);
    if inserted & IS_NEW == 0 {
        give_back_ssrc(share);
        quota.give_back();
    }
    streams::at(inserted as u32).ok_or(Event::InsertFailed)
}

#[inline(always)]
fn give_back_ssrc(share: *mut u32) {
    // SAFETY: the caller's: within a table's value.
    unsafe { fetch_add_u32(share, 1u32.wrapping_neg()) };
}

/// What became of looking for a flow.
enum Found {
    /// It is there.
    At(*mut FlowValue),
    /// It has no room; an event has counted the packet.
    NoRoom,
    /// It may be no flow of this host: where strangers have no room, a flood of them is not worth
    /// the look-up that would tell.
    NotOurs,
}

/// Finds or makes the flow, and lets it become known when it has earned that.
#[inline(always)]
fn flow<F: Family>(key: &F::Stream, arrival: &Arrival, speaks: bool) -> Found {
    let mut flow_key = F::flow_of(key);
    let flow = match F::find_flow(&flow_key) {
        Some(flow) => flow,
        None => {
            match admit_flow::<F>(key, &mut flow_key, speaks && arrival.direction == SEND as u32) {
                Ok(flow) => flow,
                Err(refusal) => {
                    arrival.event(refusal);
                    return match refusal {
                        Event::NotLocal | Event::NotOwned | Event::StrangersFull => Found::NotOurs,
                        _ => Found::NoRoom,
                    };
                }
            }
        }
    };
    // SAFETY: the table's value, and a helper without arguments.
    let flags = unsafe {
        (*flow).last_seen = bpf_jiffies64();
        (*flow).flags
    };
    if flags & KNOWN == 0 {
        introduce::<F>(key, &mut flow_key, flow, flags, arrival, speaks);
    }
    Found::At(flow)
}

static STRANGER_FLOW: FlowValue = empty_flow(0);
static KNOWN_FLOW: FlowValue = empty_flow(KNOWN);

const fn empty_flow(flags: u32) -> FlowValue {
    // SAFETY: integers only.
    let zero: FlowValue = unsafe { core::mem::zeroed() };
    FlowValue { flags, ..zero }
}

#[inline(always)]
fn admit_flow<F: Family>(
    stream: &F::Stream,
    key: &mut F::Flow,
    is_vouched: bool,
) -> Result<*mut FlowValue, Event> {
    let is_told = F::is_told(stream, key);
    let strangers_are_full = !Quota::flows(Standing::Stranger).has_room();
    let standing = match (is_told, strangers_are_full) {
        (true, _) => Standing::Told,
        (false, false) => Standing::Stranger,
        // Whom this host answers as it answers no stranger need not wait for a stranger's place while
        // forged addresses hold them all.
        (false, true) if is_vouched && !F::is_greedy(stream) => Standing::Proven,
        (false, true) => return Err(Event::StrangersFull),
    };
    let is_known = standing != Standing::Stranger;
    let quota = Quota::flows(standing);
    if CHECK_LOCAL.load() != 0 {
        let namespace = F::namespace(stream).ok_or(Event::NotLocal)?;
        // What was told is a worker's port, though perhaps behind an address of this host that is
        // translated.
        if CHECK_OWNED.load() != 0 && !is_told && !F::is_owned(stream, namespace) {
            return Err(Event::NotOwned);
        }
    }
    if !quota.take() {
        return Err(if is_known { Event::FlowsFull } else { Event::StrangersFull });
    }
    let template = if is_known { &KNOWN_FLOW } else { &STRANGER_FLOW };
    if !F::insert_flow(key, template) {
        quota.give_back();
    }
    F::find_flow(key).ok_or(Event::InsertFailed)
}

/// A stranger becomes known when both sides have spoken, or when the observer has told it since.
#[inline(always)]
fn introduce<F: Family>(
    stream: &F::Stream,
    key: &mut F::Flow,
    flow: *mut FlowValue,
    flags: u32,
    arrival: &Arrival,
    speaks: bool,
) {
    let mut flags = flags;
    let bit = if arrival.direction == SEND as u32 { PROVED_SEND } else { SEEN_RECEIVE };
    if speaks && flags & bit == 0 {
        // SAFETY: the table's value.
        flags = unsafe { fetch_or(&raw mut (*flow).flags, bit) } | bit;
    }
    let is_proven = flags & (SEEN_RECEIVE | PROVED_SEND) == SEEN_RECEIVE | PROVED_SEND;
    let standing = match is_proven {
        _ if F::is_told(stream, key) => Standing::Told,
        true => Standing::Proven,
        false => return,
    };
    if standing == Standing::Proven && F::is_greedy(stream) {
        return arrival.event(Event::ShareFull);
    }
    let (from, to) = (Quota::flows(Standing::Stranger), Quota::flows(standing));
    // SAFETY: the table's value, which took a stranger's room.
    if unsafe { !promote(&raw mut (*flow).flags, from, to) } {
        arrival.event(Event::FlowsFull);
    }
}
