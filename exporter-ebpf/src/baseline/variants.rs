//! Tables to choose from: programs that count the same frames alike and differ in one thing each,
//! which is the table's type, its key, its value, or how its value is written.
//!
//! Frames are IPv4 without options, UDP and RTP. The RTP timestamp's place says whose packet it is:
//! zero, the frame's own flow's; any other number, that of one of [`FLOWS`] flows, which differ in the
//! source address. The number is what the walk along them is multiplied with, so that a table can be
//! filled in one order and walked in another.

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, BPF_NOEXIST};
use aya_ebpf::macros::{classifier, map};
use aya_ebpf::maps::{HashMap, LruHashMap, PerCpuHashMap};
use aya_ebpf::programs::TcContext;
use exporter_ebpf::abi::{FlowKeyV4, StreamKeyV4};

use self::streams::Entrances as _;
use crate::atomic::{self, add, try_lock, unlock};

/// The product's table of streams.
#[path = "../program/streams.rs"]
#[expect(dead_code, reason = "the product needs more of it")]
mod streams;

/// Flows that a walk goes along.
const FLOWS: u32 = 100_000;
/// The walk's steps before it repeats itself, a power of two: the first flows come twice.
const STEPS: u32 = 1 << 17;

/// Addresses, ports and protocol.
type Flow = [u32; 4];
/// A flow and its SSRC: the product's key over IPv4.
type Stream = [u32; 5];
/// As [`Stream`], both families in one table (IPv4-mapped addresses, RFC 4291 §2.5.5.2).
type Mapped = [u32; 11];

/// Packets and bytes.
type Small = [u64; 2];
/// About as long as a stream's value.
type Wide = [u64; 16];

// The sizes are placeholders: whoever measures sets them.
#[map]
static SHARED: HashMap<Stream, Wide> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);
#[map]
static PER_CPU: PerCpuHashMap<Stream, Wide> = PerCpuHashMap::with_max_entries(1, BPF_F_NO_PREALLOC);
#[map]
static SMALL: HashMap<Stream, Small> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);
#[map]
static PER_CPU_SMALL: PerCpuHashMap<Stream, Small> =
    PerCpuHashMap::with_max_entries(1, BPF_F_NO_PREALLOC);
#[map]
static ALLOCATED: HashMap<Stream, Wide> = HashMap::with_max_entries(1, 0);
#[map]
static LRU: LruHashMap<Stream, Wide> = LruHashMap::with_max_entries(2, 0);
#[map]
static SHORT_KEY: HashMap<Flow, Wide> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);
#[map]
static LONG_KEY: HashMap<Mapped, Wide> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);

/// Where the walk is.
static mut STEP: u32 = 0;

macro_rules! variants {
    ($($program:ident: $table:ident[$key:ty => $value:ty], $count:expr;)+) => {$(
        /// Counts a frame.
        #[classifier]
        pub fn $program(ctx: TcContext) -> i32 {
            const ZERO: &$value = &[0; _];
            let Some(frame) = Frame::read(&ctx) else { return -1 };
            let key = <$key as Key>::of(&frame);
            match $table.get_ptr_mut(&key) {
                Some(value) => {
                    let value: *mut u64 = value.cast();
                    // SAFETY: the table's value, which is as long as what `$count` writes.
                    unsafe {
                        $count(value, frame.bytes);
                        frame.go_on(value.read_volatile());
                    }
                }
                None => {
                    let _ = $table.insert(&key, ZERO, BPF_NOEXIST as u64);
                    frame.go_on(0);
                }
            }
            -1
        }
    )+};
}

variants! {
    lock: SHARED[Stream => Wide], locked::<0>;
    atomic: SHARED[Stream => Wide], atomically::<0>;
    per_cpu: PER_CPU[Stream => Wide], plainly;
    small: SMALL[Stream => Small], atomically::<0>;
    per_cpu_small: PER_CPU_SMALL[Stream => Small], plainly;
    allocated: ALLOCATED[Stream => Wide], locked::<0>;
    lru: LRU[Stream => Wide], locked::<0>;
    short_key: SHORT_KEY[Flow => Wide], locked::<0>;
    long_key: LONG_KEY[Mapped => Wide], locked::<0>;
    lock_six: SHARED[Stream => Wide], locked::<4>;
    atomic_six: SHARED[Stream => Wide], atomically::<4>;
}

/// Counts a frame in the product's table: as `lock` does, in the first words of the slot.
#[classifier]
pub fn own(ctx: TcContext) -> i32 {
    let Some(frame) = Frame::read(&ctx) else { return -1 };
    let Frame { source, destination, ports, proto, ssrc, .. } = frame;
    let flow = FlowKeyV4::from_words([source, destination, ports, proto]);
    let key = StreamKeyV4 { flow, ssrc };
    match streams::find_quickly(&key) {
        Some(value) => {
            let value: *mut u64 = value.cast();
            // SAFETY: the table's value, which is longer than what is written.
            unsafe {
                locked::<0>(value, frame.bytes);
                frame.go_on(value.read_volatile());
            }
        }
        None => {
            key.insert(false);
            frame.go_on(0);
        }
    }
    -1
}

/// What a frame says.
struct Frame {
    source: u32,
    destination: u32,
    ports: u32,
    proto: u32,
    ssrc: u32,
    bytes: u64,
    walk: u32,
}

impl Frame {
    #[inline(always)]
    fn read(ctx: &TcContext) -> Option<Self> {
        let (start, end) = (ctx.data(), ctx.data_end());
        if start + 54 > end {
            return None;
        }
        // SAFETY: the bytes are there, and the kernel's packet bytes need no alignment.
        unsafe {
            if *((start + 12) as *const u16) != 0x0800u16.to_be() {
                return None;
            }
            let walk = *((start + 46) as *const u32);
            let mut source = *((start + 26) as *const u32);
            if walk != 0 {
                let step = (&raw const STEP).read_volatile();
                source ^= if step < FLOWS { step } else { step - FLOWS };
            }
            Some(Self {
                source,
                destination: *((start + 30) as *const u32),
                ports: *((start + 34) as *const u32),
                proto: *((start + 23) as *const u8) as u32,
                ssrc: *((start + 50) as *const u32),
                bytes: ctx.len() as u64,
                walk,
            })
        }
    }

    /// One step further in the walk: multiplied by a number of which four divides the predecessor, it
    /// comes to every flow. `packets` has no say in it, but the processor does not know that, and
    /// cannot look for the next packet's value before it has this one's: on a line, packets are apart.
    #[inline(always)]
    fn go_on(&self, packets: u64) {
        if self.walk != 0 {
            // SAFETY: a word; only one processor at a time walks.
            unsafe {
                let step = (&raw const STEP).read_volatile();
                let next = step.wrapping_mul(self.walk).wrapping_add(1 + (packets >> 62) as u32);
                (&raw mut STEP).write_volatile(next & (STEPS - 1));
            }
        }
    }
}

/// How a frame is looked up.
trait Key {
    fn of(frame: &Frame) -> Self;
}

impl Key for Flow {
    #[inline(always)]
    fn of(frame: &Frame) -> Self {
        [frame.source, frame.destination, frame.ports, frame.proto]
    }
}

impl Key for Stream {
    #[inline(always)]
    fn of(frame: &Frame) -> Self {
        [frame.source, frame.destination, frame.ports, frame.proto, frame.ssrc]
    }
}

impl Key for Mapped {
    #[inline(always)]
    fn of(frame: &Frame) -> Self {
        const MAPPED: u32 = 0xffff_u32.to_be();
        let Frame { source, destination, ports, proto, ssrc, .. } = *frame;
        [0, 0, MAPPED, source, 0, 0, MAPPED, destination, ports, proto, ssrc]
    }
}

/// Words of a value: packets, bytes, then those below, then others that every packet adds to.
const LOCK: usize = 2;
const GAVE_UP: usize = 3;
const OTHERS: usize = 4;

/// Adds where no other processor does.
#[inline(always)]
unsafe fn plainly(value: *mut u64, bytes: u64) {
    // SAFETY: the caller's.
    unsafe {
        *value += 1;
        *value.add(1) += bytes;
    }
}

/// Adds to packets, bytes and others, whoever else does.
#[inline(always)]
unsafe fn atomically<const MORE: usize>(value: *mut u64, bytes: u64) {
    // SAFETY: the caller's.
    unsafe {
        add(value, 1);
        add(value.add(1), bytes);
        for other in 0..MORE {
            add(value.add(OTHERS + other), bytes);
        }
    }
}

/// As [`atomically`], under the value's lock. Whoever does not get it gives up, as the product does,
/// and says so.
#[inline(always)]
unsafe fn locked<const MORE: usize>(value: *mut u64, bytes: u64) {
    // SAFETY: the caller's.
    unsafe {
        let lock: *mut u32 = value.add(LOCK).cast();
        if !try_lock(lock) && !spin(lock) {
            add(value.add(GAVE_UP), 1);
            return;
        }
        plainly(value, bytes);
        for other in 0..MORE {
            *value.add(OTHERS + other) += bytes;
        }
        unlock(lock);
    }
}

/// As many tries as the product's.
const TRIES: u32 = 16;

#[inline(never)]
unsafe fn spin(lock: *mut u32) -> bool {
    for _ in 0..TRIES {
        // SAFETY: the caller's.
        if unsafe { try_lock(lock) } {
            return true;
        }
    }
    false
}
