//! What is not the RTP of a known stream: finds or makes its flow and stream, within their bounds,
//! and lets strangers become known.

use aya_ebpf::helpers::generated::bpf_jiffies64;
use exporter_ebpf::abi::{
    Class, Event, FlowValue, KNOWN, PROVED_SEND, SEEN_RECEIVE, SEND, StreamValue,
};
use exporter_ebpf::rtp::{Content, NO_SEQUENCE, Rtp};

use super::atomic::{add, fetch_add_u32, fetch_or};
use super::count::record;
use super::tables::{Family, Inserted, Quota, event, promote};
use super::{CHECK_LOCAL, MAX_SSRCS};

/// Packets of one flow, in one direction.
pub struct Arrival<F: Family> {
    /// The flow, without direction.
    pub flow: F::Flow,
    /// The flow as its streams' keys have it.
    pub half: F::Flow,
    /// RECEIVE or SEND.
    pub direction: u32,
    /// How many.
    pub packets: u32,
    /// Their payload.
    pub bytes: u32,
}

impl<F: Family> Arrival<F> {
    /// Packets between the two ends of `packet`.
    #[inline(always)]
    pub fn new(packet: &F, direction: u8, packets: u32, bytes: u32) -> Self {
        Self {
            flow: packet.flow(0),
            half: packet.flow(direction),
            direction: direction as u32,
            packets,
            bytes,
        }
    }
}

/// Counts a datagram that is no RTP. False: this host has no part in it.
#[inline(always)]
pub fn content<F: Family>(arrival: &Arrival<F>, content: &Content) -> bool {
    if *content == Content::BadRtp {
        event(Event::BadRtp as u32, arrival.direction, arrival.packets, arrival.bytes);
    }
    plain(arrival, content.class() as u32, content.is_proof())
}

/// Counts packets in their flow. False: this host has no part in them.
#[inline(never)]
pub fn plain<F: Family>(arrival: &Arrival<F>, class: u32, is_proof: bool) -> bool {
    match flow(arrival, is_proof) {
        Found::At(flow) => {
            add_to_flow(flow, arrival, class);
            true
        }
        Found::NoRoom => true,
        Found::NotLocal => false,
    }
}

/// Counts one RTP packet in its stream, or where that has no room, in its flow. False: this host
/// has no part in it.
#[inline(never)]
pub fn rtp<F: Family>(arrival: &Arrival<F>, rtp: &Rtp) -> bool {
    let flow = match flow(arrival, true) {
        Found::At(flow) => flow,
        Found::NoRoom => return true,
        Found::NotLocal => return false,
    };
    let key = F::stream(arrival.half, rtp.ssrc);
    // SAFETY: the table's value.
    let is_known = unsafe { (*flow).flags } & KNOWN != 0;
    let refusal = match F::find_stream(&key) {
        Some(stream) => {
            // SAFETY: the table's value; a stream that is not known took a stranger's room.
            unsafe {
                if is_known && (*stream).flags & KNOWN == 0 {
                    let flags = &raw mut (*stream).flags;
                    if !promote(flags, Quota::streams(false), Quota::streams(true)) {
                        event(Event::StreamsFull as u32, arrival.direction, 1, arrival.bytes);
                    }
                }
            }
            record(stream, rtp, arrival.bytes, arrival.direction as u8);
            return true;
        }
        None => match admit_stream::<F>(flow, &key, is_known) {
            Ok(stream) => {
                record(stream, rtp, arrival.bytes, arrival.direction as u8);
                return true;
            }
            Err(refusal) => refusal,
        },
    };
    event(refusal as u32, arrival.direction, 1, arrival.bytes);
    add_to_flow(flow, arrival, Class::Rtp as u32);
    true
}

/// Streams begin as one of these, so that no other processor ever sees one half made.
static STRANGER_STREAM: StreamValue = empty_stream(0);
static KNOWN_STREAM: StreamValue = empty_stream(KNOWN);

const fn empty_stream(flags: u32) -> StreamValue {
    // SAFETY: integers only.
    let zero: StreamValue = unsafe { core::mem::zeroed() };
    StreamValue { flags, bad_seq: NO_SEQUENCE, ..zero }
}

#[inline(always)]
fn admit_stream<F: Family>(
    flow: *mut FlowValue,
    key: &F::Stream,
    is_known: bool,
) -> Result<*mut StreamValue, Event> {
    // SAFETY: the table's value.
    let streams = unsafe { &raw mut (*flow).streams };
    // SAFETY: as above.
    if unsafe { fetch_add_u32(streams, 1) } >= MAX_SSRCS.load() {
        give_back_ssrc(streams);
        return Err(Event::SsrcsFull);
    }
    let quota = Quota::streams(is_known);
    if !quota.take() {
        give_back_ssrc(streams);
        return Err(if is_known { Event::StreamsFull } else { Event::StrangerStreamsFull });
    }
    let template = if is_known { &KNOWN_STREAM } else { &STRANGER_STREAM };
    if F::insert_stream(key, template) != Inserted::New {
        give_back_ssrc(streams);
        quota.give_back();
    }
    F::find_stream(key).ok_or(Event::InsertFailed)
}

#[inline(always)]
fn give_back_ssrc(streams: *mut u32) {
    // SAFETY: the caller's: within a table's value.
    unsafe { fetch_add_u32(streams, 1u32.wrapping_neg()) };
}

enum Found {
    At(*mut FlowValue),
    NoRoom,
    NotLocal,
}

/// Finds or makes the flow, and lets it become known when it has earned that.
#[inline(always)]
fn flow<F: Family>(arrival: &Arrival<F>, is_proof: bool) -> Found {
    let flow = match F::find_flow(&arrival.flow) {
        Some(flow) => flow,
        None => match admit_flow(arrival) {
            Ok(flow) => flow,
            Err(Event::NotLocal) => {
                refuse(Event::NotLocal, arrival);
                return Found::NotLocal;
            }
            Err(refusal) => {
                refuse(refusal, arrival);
                return Found::NoRoom;
            }
        },
    };
    // SAFETY: the table's value.
    unsafe { (*flow).last_seen = bpf_jiffies64() };
    // SAFETY: the table's value.
    let flags = unsafe { (*flow).flags };
    if flags & KNOWN == 0 {
        introduce(arrival, flow, flags, is_proof);
    }
    Found::At(flow)
}

#[inline(always)]
fn refuse<F: Family>(refusal: Event, arrival: &Arrival<F>) {
    event(refusal as u32, arrival.direction, arrival.packets, arrival.bytes);
}

static STRANGER_FLOW: FlowValue = empty_flow(0);
static KNOWN_FLOW: FlowValue = empty_flow(KNOWN);

const fn empty_flow(flags: u32) -> FlowValue {
    // SAFETY: integers only.
    let zero: FlowValue = unsafe { core::mem::zeroed() };
    FlowValue { flags, ..zero }
}

#[inline(always)]
fn admit_flow<F: Family>(arrival: &Arrival<F>) -> Result<*mut FlowValue, Event> {
    if CHECK_LOCAL.load() != 0 && !F::is_local(&arrival.flow) {
        return Err(Event::NotLocal);
    }
    let is_known = F::is_told(&arrival.flow);
    let quota = Quota::flows(is_known);
    if !quota.take() {
        return Err(if is_known { Event::FlowsFull } else { Event::StrangersFull });
    }
    let template = if is_known { &KNOWN_FLOW } else { &STRANGER_FLOW };
    if F::insert_flow(&arrival.flow, template) != Inserted::New {
        quota.give_back();
    }
    F::find_flow(&arrival.flow).ok_or(Event::InsertFailed)
}

/// A stranger becomes known when both sides have spoken, or when the observer has told it since.
#[inline(always)]
fn introduce<F: Family>(arrival: &Arrival<F>, flow: *mut FlowValue, flags: u32, is_proof: bool) {
    let bit = match (arrival.direction == SEND as u32, is_proof) {
        (true, true) => PROVED_SEND,
        (true, false) => 0,
        (false, _) => SEEN_RECEIVE,
    };
    let mut flags = flags;
    if bit & !flags != 0 {
        // SAFETY: the table's value.
        flags = unsafe { fetch_or(&raw mut (*flow).flags, bit) } | bit;
    }
    let is_proven = flags & (SEEN_RECEIVE | PROVED_SEND) == SEEN_RECEIVE | PROVED_SEND;
    if is_proven || F::is_told(&arrival.flow) {
        // SAFETY: the table's value, which took a stranger's room.
        let has_room =
            unsafe { promote(&raw mut (*flow).flags, Quota::flows(false), Quota::flows(true)) };
        if !has_room {
            refuse(Event::FlowsFull, arrival);
        }
    }
}

#[inline(always)]
fn add_to_flow<F: Family>(flow: *mut FlowValue, arrival: &Arrival<F>, class: u32) {
    // The masks are for the verifier.
    let (direction, class) = ((arrival.direction & 1) as usize, (class & 7) as usize);
    if class >= exporter_ebpf::abi::CLASSES {
        return;
    }
    // SAFETY: the table's value, and both indexes are within it.
    unsafe {
        let counter = (&raw mut (*flow).counts)
            .cast::<exporter_ebpf::abi::Counter>()
            .add(direction * exporter_ebpf::abi::CLASSES + class);
        add(&raw mut (*counter).packets, arrival.packets as u64);
        add(&raw mut (*counter).bytes, arrival.bytes as u64);
    }
}
