//! Entry points, nothing else. Below them, one way: `count` → `aggregate` → `admit` → `record` →
//! `streams`, `tables`, `owned` → `maps`; `bind`, `order` → `owned`.

mod admit;
mod aggregate;
mod atomic;
mod bind;
mod count;
mod maps;
mod order;
mod owned;
mod record;
mod streams;
mod tables;
mod tend;

use aya_ebpf::macros::{cgroup_sock, classifier};
use aya_ebpf::programs::{SockContext, TcContext};
use exporter_ebpf::abi::{RECEIVE, SEND};

use self::count::{ETHERNET, RAW, WRAPPED};

/// TCX_NEXT, which to clsact is TC_ACT_UNSPEC: whoever comes next decides.
const NEXT: i32 = -1;
/// To the programs of a cgroup 0 is a refusal.
const PERMITTED: i32 = 1;

/// Towards this host, on an interface with Ethernet headers.
#[classifier]
#[inline(always)]
pub fn count_receive(ctx: TcContext) -> i32 {
    count::frame::<ETHERNET, RECEIVE>(ctx.skb.skb);
    NEXT
}

/// From this host, on an interface with Ethernet headers.
#[classifier]
#[inline(always)]
pub fn count_send(ctx: TcContext) -> i32 {
    count::frame::<ETHERNET, SEND>(ctx.skb.skb);
    NEXT
}

/// Towards this host, on an interface without link headers.
#[classifier]
#[inline(always)]
pub fn count_receive_raw(ctx: TcContext) -> i32 {
    count::frame::<RAW, RECEIVE>(ctx.skb.skb);
    NEXT
}

/// From this host, on an interface without link headers.
#[classifier]
#[inline(always)]
pub fn count_send_raw(ctx: TcContext) -> i32 {
    count::frame::<RAW, SEND>(ctx.skb.skb);
    NEXT
}

/// Towards this host, on an interface of a tunnel or of InfiniBand.
#[classifier]
#[inline(always)]
pub fn count_receive_wrapped(ctx: TcContext) -> i32 {
    count::frame::<WRAPPED, RECEIVE>(ctx.skb.skb);
    NEXT
}

/// From this host, on an interface of a tunnel or of InfiniBand.
#[classifier]
#[inline(always)]
pub fn count_send_wrapped(ctx: TcContext) -> i32 {
    count::frame::<WRAPPED, SEND>(ctx.skb.skb);
    NEXT
}

/// A socket was bound over IPv4. Whoever runs it may bind: it only looks.
#[cgroup_sock(post_bind4)]
pub fn bound_v4(ctx: SockContext) -> i32 {
    bind::bound_v4(ctx.sock);
    PERMITTED
}

/// A socket was bound over IPv6.
#[cgroup_sock(post_bind6)]
pub fn bound_v6(ctx: SockContext) -> i32 {
    bind::bound_v6(ctx.sock);
    PERMITTED
}

/// A socket was closed by the last who had it.
#[cgroup_sock(sock_release)]
pub fn released(ctx: SockContext) -> i32 {
    bind::released(ctx.sock);
    PERMITTED
}

/// Never attached: userspace runs it with an [`exporter_ebpf::abi::Own`] as its data.
#[classifier]
pub fn own(ctx: TcContext) -> i32 {
    order::obey(ctx.skb.skb)
}

/// Never attached: userspace runs it with a [`exporter_ebpf::abi::Tend`] as its data.
#[classifier]
pub fn tend(ctx: TcContext) -> i32 {
    tend::tend(ctx.skb.skb)
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
