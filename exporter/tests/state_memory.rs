//! What objects take of memory in the state, held against the allocator: the estimates by which sources
//! are bounded must not be too low, and what one line can take must be small.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use mediasoup_exporter::observer::protocol;
use mediasoup_exporter::state::{SourceId, State};

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is the system allocator's; counting touches none of the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One test at a time: the counter is everybody's.
static ALONE: Mutex<()> = Mutex::new(());

/// Objects of each kind.
const OBJECTS: usize = 4000;

fn apply(state: &mut State, line: &str) {
    let event = protocol::decode(line.as_bytes()).unwrap_or_else(|error| panic!("{line}: {error}"));
    state.apply(SourceId(1), event);
}

/// Bytes that an object of these lines takes, as the allocator and as the state has it.
fn bytes_of(line: impl Fn(usize) -> String) -> (usize, usize) {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let mut state = State::default();
    // What is on it needs a transport and a router.
    apply(&mut state, r#"{"t":"router","id":"R","pid":7,"session":"S"}"#);
    apply(&mut state, r#"{"t":"transport","id":"T","router":"R","kind":"webrtc","tuples":[]}"#);
    let (held, estimate) = (HELD.load(Relaxed), state.bytes());
    for number in 0..OBJECTS {
        apply(&mut state, &line(number));
    }
    let found = (HELD.load(Relaxed) - held) / OBJECTS;
    (found, (state.bytes() - estimate) / OBJECTS)
}

fn uuid(kind: &str, number: usize) -> String {
    format!("{kind}0000000-77aa-4bbb-8ccc-{number:012x}")
}

fn encodings(number: usize, count: usize) -> String {
    let one = |at: usize| {
        let ssrc = 1000 * number + 10 * at;
        format!(r#"{{"ssrc":{ssrc},"rtx":{},"rid":"r{at}"}}"#, ssrc + 1)
    };
    (0..count).map(one).collect::<Vec<_>>().join(",")
}

fn consumer(number: usize, count: usize) -> String {
    let (id, producer, encodings) =
        (uuid("c", number), uuid("a", number), encodings(number, count));
    format!(
        r#"{{"t":"consumer","id":"{id}","transport":"T","producer":"{producer}","kind":"video",
            "codec":"VP8","enc":[{encodings}]}}"#
    )
}

#[track_caller]
fn check(what: &str, line: impl Fn(usize) -> String) -> usize {
    let (found, estimate) = bytes_of(line);
    println!("{what}: {found} bytes, estimated {estimate}");
    assert!(estimate >= found, "{what}: {estimate} bytes are estimated, {found} are taken");
    assert!(estimate <= 3 * found, "{what}: {estimate} bytes are estimated, {found} are taken");
    found
}

#[test]
fn estimates_are_right() {
    check("consumer", |number| consumer(number, 1));
    check("producer", |number| {
        let (id, encodings) = (uuid("a", number), encodings(number, 3));
        format!(
            r#"{{"t":"producer","id":"{id}","transport":"T","kind":"video","codec":"VP8",
                "peer":"peer-{number}","enc":[{encodings}]}}"#
        )
    });
    check("transport", |number| {
        let (id, port) = (uuid("b", number), number + 1);
        format!(
            r#"{{"t":"transport","id":"{id}","router":"R","kind":"webrtc","ice":"completed",
                "dtls":"connected","tuples":[{{"proto":"udp","local":"203.0.113.5","port":40000,
                "remote":"198.51.100.1","rport":{port}}}]}}"#
        )
    });
    check("router", |number| {
        format!(r#"{{"t":"router","id":"{}","pid":7,"session":"s{number}"}}"#, uuid("d", number))
    });
    check("room", |number| {
        let session = |at: usize| format!("\"{}\"", uuid("e", 100 * number + at));
        let sessions = (0..16).map(session).collect::<Vec<_>>().join(",");
        format!(r#"{{"t":"room","id":"tenant/room-{number}","sessions":[{sessions}]}}"#)
    });
    check("peer", |number| {
        format!(
            r#"{{"t":"peer","id":"{}","room":"r","name":"Participant {number}","agent":"A"}}"#,
            uuid("f", number)
        )
    });
    check("owner", |number| {
        format!(r#"{{"t":"own","peer":"p","what":"consumer","ids":["{}"]}}"#, uuid("c", number))
    });
}

/// Such a consumer once took 39 KB, and 4,000 of them 108 MB.
#[test]
fn a_consumer_with_many_encodings_is_small() {
    let found = check("consumer with 64 encodings", |number| consumer(number, 64));
    assert!(found < 4096, "{found} bytes");
}
