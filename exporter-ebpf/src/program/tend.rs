//! What userspace cannot do to a shared value from outside: an atomic subtraction; and the kernel's
//! clock.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_jiffies64;
use exporter_ebpf::abi::{FlowKeyV4, FlowKeyV6, FlowValue, Tend};

use super::atomic::fetch_add_u32;
use super::maps::{FLOWS_V4, FLOWS_V6};

/// Does what the data asks for, and tells the time.
#[inline(always)]
pub fn tend(skb: *mut __sk_buff) -> i32 {
    // SAFETY: the kernel's context.
    let (start, end) = unsafe { ((*skb).data as usize, (*skb).data_end as usize) };
    if start + size_of::<Tend>() <= end {
        // SAFETY: the bytes are there, and any bytes make a `Tend`.
        let asked = unsafe { &*(start as *const Tend) };
        let (family, streams, key) = (asked.family, asked.streams, asked.key);
        let flow = match family {
            4 => FLOWS_V4.get_ptr_mut(first_bytes(&key)),
            6 => FLOWS_V6.get_ptr_mut(key),
            _ => None,
        };
        if let Some(flow) = flow {
            give_back(flow, streams);
        }
    }
    // SAFETY: a helper without arguments.
    unsafe { bpf_jiffies64() as i32 }
}

#[inline(always)]
fn first_bytes(key: &FlowKeyV6) -> FlowKeyV4 {
    // SAFETY: integers only, and the one is shorter than the other.
    unsafe { core::ptr::from_ref(key).cast::<FlowKeyV4>().read() }
}

#[inline(always)]
fn give_back(flow: *mut FlowValue, streams: u32) {
    // SAFETY: the table's value.
    unsafe { fetch_add_u32(&raw mut (*flow).streams, streams.wrapping_neg()) };
}
