//! The way of every packet: parse, find the stream, add in place. What has no known stream goes to
//! [`super::admit`], what is an aggregate of datagrams to [`super::aggregate`].

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_skb_pull_data;
use exporter_ebpf::abi::{Event, KNOWN, MOST_TAG, RECEIVE, SEND, TAG_SHIFT, UDP};
use exporter_ebpf::packet::{self, Bytes, Link, Network, Packet, Skip, View, Why};
use exporter_ebpf::rtp::{self, Kind, Within};

use super::admit::{Admit, sort};
use super::aggregate::{self, Loaded};
use super::maps::{SKIP_SEEN, TAG};
use super::owned::OpenPorts;
use super::record::{pack, record};
use super::streams;
use super::tables::{Family as _, event, tell_if_full};

/// [`Link::Ethernet`], as a generic argument.
pub const ETHERNET: u8 = 0;
/// [`Link::Raw`].
pub const RAW: u8 = 1;
/// [`Link::Wrapped`].
pub const WRAPPED: u8 = 2;

/// Longest run of headers that are looked at, generously: two tags, IPv6, extensions, UDP, RTP.
const HEADERS: u32 = 512;

/// Counts one frame, which the kernel owns: nothing of it changes but the mark that says so.
#[inline(always)]
pub fn frame<const LINK: u8, const DIRECTION: u8>(skb: *mut __sk_buff) {
    let mut left = linear::<LINK, DIRECTION>(skb);
    // SAFETY: the kernel's context.
    let length = unsafe { (*skb).len };
    if left.why == Why::Short {
        // SAFETY: as above. A failure leaves the frame as it was: still too short.
        unsafe { bpf_skb_pull_data(skb, length.min(HEADERS)) };
        // Once more, written out: Linux 6.1 does not take the loop that the compiler would make, and
        // a function of its own would need more stack than there is.
        left = linear::<LINK, DIRECTION>(skb);
    }
    match left.why {
        Why::Elsewhere => {}
        Why::Short => skipped::<DIRECTION>(skb, Event::Truncated, length),
        Why::Event(event) => skipped::<DIRECTION>(skb, event, left.bytes),
    }
}

/// Counts a frame by why it is no packet.
#[inline(always)]
fn skipped<const DIRECTION: u8>(skb: *mut __sk_buff, kind: Event, bytes: u32) {
    if is_seen::<DIRECTION>(skb) {
        event(Event::SeenBefore as u32, DIRECTION as u32, 1, bytes);
        return;
    }
    event(kind as u32, DIRECTION as u32, 1, bytes);
    mark::<DIRECTION>(skb);
}

/// Counts a frame whose headers are readable, and tells what is left to do: nothing, as with frames
/// that are no concern of ours, unless it says otherwise.
#[inline(always)]
fn linear<const LINK: u8, const DIRECTION: u8>(skb: *mut __sk_buff) -> Skip {
    // SAFETY: the kernel's context: the bytes between the two addresses are readable.
    let (bytes, frame) =
        unsafe { (Bytes::between((*skb).data as usize, (*skb).data_end as usize), (*skb).len) };
    let view = View {
        link: match LINK {
            ETHERNET => Link::Ethernet,
            RAW => Link::Raw,
            _ => Link::Wrapped,
        },
        direction: DIRECTION,
        ports: OpenPorts,
        frame,
    };
    if packet::is_plainly_elsewhere(bytes, &view) {
        return Skip::ELSEWHERE;
    }
    match packet::network(bytes, &view) {
        Ok(Network::V4(offset)) => match packet::ipv4(bytes, offset, &view) {
            Ok(found) => packet::<_, DIRECTION>(skb, bytes, found),
            Err(skip) => skip,
        },
        Ok(Network::V6(offset)) => match packet::ipv6(bytes, offset, &view) {
            Ok(found) => packet::<_, DIRECTION>(skb, bytes, found),
            Err(skip) => skip,
        },
        Err(skip) => skip,
    }
}

#[inline(always)]
fn packet<const W: usize, const DIRECTION: u8>(
    skb: *mut __sk_buff,
    bytes: Bytes<'_>,
    packet: Packet<W>,
) -> Skip
where
    Packet<W>: Admit,
{
    if is_seen::<DIRECTION>(skb) {
        return Skip::event(Event::SeenBefore, packet.length);
    }
    if packet.proto != UDP {
        let key = packet.key(DIRECTION, 0);
        // What is sent by TCP lies in pages, seldom behind its headers.
        let payload = Loaded { skb, offset: packet.payload as u32 };
        let speaks = if DIRECTION == RECEIVE {
            packet.length != 0
        } else {
            rtp::is_framed_stun_success(&payload, packet.length)
        };
        let sort = sort(Kind::Other, speaks);
        let is_counted =
            Packet::<W>::admit_plain(&key, segments(skb, packet.length), packet.length, sort);
        return finish::<DIRECTION>(skb, is_counted);
    }
    // SAFETY: the kernel's context.
    let gso_size = unsafe { (*skb).gso_size };
    if gso_size != 0 && gso_size < packet.length {
        let is_counted = aggregate::datagrams::<Packet<W>>(
            skb,
            &mut packet.key(DIRECTION, 0),
            packet.payload as u32,
            packet.length,
            gso_size,
        );
        return finish::<DIRECTION>(skb, is_counted);
    }
    let payload = Within { frame: bytes, offset: packet.payload };
    let content = rtp::classify(&payload, packet.length);
    let key = packet.key(DIRECTION, content.rtp.ssrc);
    if content.kind == Kind::Rtp {
        if let Some(stream) = streams::find_quickly(&key) {
            // SAFETY: the table's value, which lives at least as long as this program runs.
            if unsafe { (*stream).flags } & KNOWN != 0 {
                record(stream, &content.rtp, packet.length, DIRECTION);
                mark::<DIRECTION>(skb);
                return Skip::ELSEWHERE;
            }
        }
        let is_counted = Packet::<W>::admit_rtp(&key, pack(&content.rtp), packet.length);
        return finish::<DIRECTION>(skb, is_counted);
    }
    if content.kind == Kind::Unreadable {
        return Skip::SHORT;
    }
    let sort = sort(content.kind, DIRECTION == RECEIVE || content.kind.is_proof());
    let is_counted = Packet::<W>::admit_plain(&key, 1, packet.length, sort);
    finish::<DIRECTION>(skb, is_counted)
}

/// Ends what is not the RTP of a known stream.
#[inline(always)]
fn finish<const DIRECTION: u8>(skb: *mut __sk_buff, is_counted: bool) -> Skip {
    if is_counted {
        mark::<DIRECTION>(skb);
    }
    tell_if_full();
    Skip::ELSEWHERE
}

/// Packets that a TCP aggregate with so much payload stands for. What comes from a tap or by virtio has the size of
/// its segments, but not their number (`gso_segs` is 0 until somebody trusts the sender's headers).
#[inline(always)]
fn segments(skb: *mut __sk_buff, length: u32) -> u32 {
    // SAFETY: the kernel's context.
    let (segments, size) = unsafe { ((*skb).gso_segs, (*skb).gso_size) };
    if segments == 0 && size != 0 {
        return length.div_ceil(size).max(1);
    }
    segments.max(1)
}

/// Marks in `skb->tc_index`: counted as received, counted as sent, and by whom ([`TAG`]). They live as long as the
/// frame, on its way from interface to interface, and into other network namespaces, where another
/// exporter may count. The low byte is left to queueing disciplines, which keep a DSCP there.
const COUNTED_RECEIVE: u32 = 0x4000;
const COUNTED_SEND: u32 = 0x8000;
const BY_WHOM: u32 = (MOST_TAG as u32) << TAG_SHIFT;

/// Another interface has counted this frame. On its way out, a frame that was received is one that
/// is only passed on; on its way in, a frame that was sent came through loopback, and both ends count.
#[inline(always)]
fn is_seen<const DIRECTION: u8>(skb: *mut __sk_buff) -> bool {
    let marks = if DIRECTION == SEND { COUNTED_RECEIVE | COUNTED_SEND } else { COUNTED_RECEIVE };
    // SAFETY: the kernel's context.
    let before = unsafe { (*skb).tc_index };
    before & marks != 0 && before & BY_WHOM == TAG.load() && SKIP_SEEN.load() != 0
}

#[inline(always)]
fn mark<const DIRECTION: u8>(skb: *mut __sk_buff) {
    let bit = if DIRECTION == RECEIVE { COUNTED_RECEIVE } else { COUNTED_SEND };
    // SAFETY: the kernel's context.
    unsafe {
        let mut marks = (*skb).tc_index;
        if marks & BY_WHOM != TAG.load() {
            // Of an exporter in the network namespace that the frame came from, which sees it no more.
            marks &= !(BY_WHOM | COUNTED_RECEIVE | COUNTED_SEND);
        }
        (*skb).tc_index = marks | TAG.load() | bit;
    }
}
