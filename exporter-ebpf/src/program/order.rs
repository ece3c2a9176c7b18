//! What userspace has the kernel do to what is owned, because it needs the kernel's atomic operations.

use aya_ebpf::bindings::__sk_buff;
use exporter_ebpf::abi::{Order, Own};

use super::owned::{admit, close, disown, forget, join_if_held, open_all, own, verify};

const OWN: u32 = Order::Own as u32;
const DISOWN: u32 = Order::Disown as u32;
const VERIFY: u32 = Order::Verify as u32;
const CLOSE: u32 = Order::Close as u32;
const FORGET: u32 = Order::Forget as u32;
const OPEN: u32 = Order::Open as u32;
const ADMIT: u32 = Order::Admit as u32;
const JOIN: u32 = Order::Join as u32;

/// Does what the data says. 1: done.
#[inline(always)]
pub fn obey(skb: *mut __sk_buff) -> i32 {
    // SAFETY: the kernel's context.
    let (start, end) = unsafe { ((*skb).data as usize, (*skb).data_end as usize) };
    if start + size_of::<Own>() > end {
        return 0;
    }
    // SAFETY: the bytes are there, and any bytes make an `Own`.
    let (order, word, bits, cookie, socket) = unsafe {
        let asked = &*(start as *const Own);
        (asked.order, asked.word, asked.bits, asked.cookie, asked.socket)
    };
    let is_done = match order {
        OWN => own(cookie, &socket),
        DISOWN => disown(cookie).is_some(),
        VERIFY => verify(cookie),
        CLOSE => close(socket.end.proto, socket.end.port),
        FORGET => forget(&socket.end),
        OPEN => {
            open_all(word, bits);
            true
        }
        ADMIT => admit(socket.process, bits),
        JOIN => join_if_held(&socket.end, cookie),
        _ => false,
    };
    is_done as i32
}
