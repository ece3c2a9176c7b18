//! Every shape of the corpus, through the kernel's parser and through the host's: each must count
//! what the shape says, and nothing else.

use std::collections::BTreeMap;

use exporter_ebpf::abi::{CLASSES, Class, Counter, DIRECTIONS, Event, RECEIVE, SEND, StreamValue};
use exporter_ebpf::packet::{self, Bytes, Link, Parsed, Skip, View, Why};
use exporter_ebpf::ports::{self, Fixed};
use exporter_ebpf::rtp::{self, Kind, Within};
use exporter_tests::packets::{Counted, Shape, corpus};
use exporter_tests::prog::{Constants, Frame, Program};

#[test]
fn the_kernel_counts_what_each_shape_says() {
    if !exporter_tests::root_or_skip() {
        return;
    }
    let program = load();
    for direction in [RECEIVE, SEND] {
        for shape in corpus(direction, 10_000) {
            let before = Totals::read(&program, &shape);
            let result = program.run(program_for(&shape), frame(&shape)).expect("runs");
            assert_eq!(result, Some(-1), "{}: the next program must run", shape.name);
            let counted = Totals::read(&program, &shape).since(&before);
            assert_eq!(counted, sorted(&shape.counted), "{}, direction {direction}", shape.name);
        }
    }
}

#[test]
fn the_verifier_has_room_to_spare() {
    /// Half of the instructions that it goes through before it refuses (BPF_COMPLEXITY_LIMIT_INSNS).
    const MOST: u32 = 500_000;
    if !exporter_tests::root_or_skip() {
        return;
    }
    for (name, instructions) in load().verified().expect("read") {
        // Not told below Linux 5.16.
        assert!(instructions.is_none_or(|it| it < MOST), "{name}: {instructions:?}");
    }
}

#[test]
fn the_host_counts_what_each_shape_says() {
    for direction in [RECEIVE, SEND] {
        // Only the kernel gives aggregates away.
        for shape in corpus(direction, 10_000).iter().filter(|shape| shape.gso_size == 0) {
            let counted = host(shape, &shape.frame, shape.frame.len());
            assert_eq!(counted, sorted(&shape.counted), "{}, direction {direction}", shape.name);
        }
    }
}

#[test]
fn the_kernel_counts_no_frame_that_was_cut() {
    if !exporter_tests::root_or_skip() {
        return;
    }
    let program = load();
    let shapes: Vec<_> = corpus(RECEIVE, 10_000).into_iter().filter(is_worth_cutting).collect();
    let mut expected = 0;
    for shape in &shapes {
        for length in 14..headers_and_some(shape) {
            let cut = Frame { bytes: &shape.frame[..length], ..frame(shape) };
            let Some(result) = program.run(program_for(shape), cut).expect("runs") else {
                continue;
            };
            assert_eq!(result, -1, "{} cut to {length}", shape.name);
            expected += 1;
            let truncated = program.event(Event::Truncated, RECEIVE).expect("read");
            assert_eq!(truncated.packets, expected, "{} cut to {length}", shape.name);
        }
    }
    assert!(expected > 1_000, "only {expected} cut frames");
    assert!(program.flows_v4().expect("read").is_empty());
    assert!(program.flows_v6().expect("read").is_empty());
    assert!(program.streams_v4().expect("read").is_empty());
    assert!(program.streams_v6().expect("read").is_empty());
}

#[test]
fn the_host_counts_no_frame_that_was_cut() {
    for shape in corpus(RECEIVE, 10_000).iter().filter(|shape| is_worth_cutting(shape)) {
        for length in 0..headers_and_some(shape) {
            let counted = host(shape, &shape.frame[..length], length);
            let [Counted::Event(event, 1, _)] = counted[..] else {
                panic!("{} cut to {length}: {counted:?}", shape.name);
            };
            assert_eq!(event, Event::Truncated as u32, "{} cut to {length}", shape.name);
        }
    }
}

/// Frames that are counted whole, are no aggregates (their length says nothing when cut), and
/// whose length stands in their headers.
fn is_worth_cutting(shape: &Shape) -> bool {
    let is_counted = shape
        .counted
        .iter()
        .all(|counted| matches!(counted, Counted::Stream(..) | Counted::Flow(..)));
    let has_length = !shape.name.starts_with("BIG TCP") && shape.name != "jumbogram";
    is_counted && !shape.counted.is_empty() && has_length && shape.gso_size == 0
}

/// All of a short frame, and of a long one enough to be past its headers; never into an Ethernet
/// frame's padding, which may be cut without loss.
fn headers_and_some(shape: &Shape) -> usize {
    match shape.name.as_str() {
        "Ethernet padding" => 57,
        _ => shape.frame.len().min(300),
    }
}

fn load() -> Program {
    let constants = Constants { strangers: 1_000, stranger_streams: 1_000, ..Constants::default() };
    Program::load(&constants).expect("the kernel program loads")
}

fn program_for(shape: &Shape) -> &'static str {
    match (shape.ends.direction, shape.link) {
        (RECEIVE, Link::Ethernet) => "count_receive",
        (RECEIVE, Link::Raw) => "count_receive_raw",
        (RECEIVE, Link::Wrapped) => "count_receive_wrapped",
        (_, Link::Ethernet) => "count_send",
        (_, Link::Raw) => "count_send_raw",
        (_, Link::Wrapped) => "count_send_wrapped",
    }
}

fn frame(shape: &Shape) -> Frame<'_> {
    Frame { bytes: &shape.frame, gso_size: shape.gso_size, gso_segs: shape.gso_segs }
}

fn sorted(counted: &[Counted]) -> Vec<Counted> {
    let mut counted = counted.to_vec();
    counted.sort();
    counted
}

/// What the tables say of a shape's flow, streams and direction.
#[derive(Default)]
struct Totals {
    streams: BTreeMap<u32, Counter>,
    classes: [Counter; CLASSES],
    events: Vec<Counter>,
}

impl Totals {
    fn read(program: &Program, shape: &Shape) -> Self {
        let ends = shape.ends;
        let direction = usize::from(ends.direction);
        let mut totals = Self::default();
        let is_ours =
            |remote: u16, local: u16| (remote, local) == (ends.remote_port, ends.local_port);
        let mut stream = |ssrc: u32, value: &StreamValue| {
            assert_eq!(value.lock, 0, "{}: the lock is free", shape.name);
            totals.streams.insert(ssrc, value.total);
        };
        if ends.is_v6 {
            for (key, value) in program.streams_v6().expect("read").values() {
                if is_ours(key.flow.remote_port, key.flow.local_port)
                    && key.flow.direction == ends.direction
                {
                    stream(key.ssrc, value);
                }
            }
            for (key, value) in program.flows_v6().expect("read").values() {
                if is_ours(key.remote_port, key.local_port) {
                    totals.classes = value.counts[direction];
                }
            }
        } else {
            for (key, value) in program.streams_v4().expect("read").values() {
                if is_ours(key.flow.remote_port, key.flow.local_port)
                    && key.flow.direction == ends.direction
                {
                    stream(key.ssrc, value);
                }
            }
            for (key, value) in program.flows_v4().expect("read").values() {
                if is_ours(key.remote_port, key.local_port) {
                    totals.classes = value.counts[direction];
                }
            }
        }
        totals.events =
            Event::ALL.map(|event| program.event(event, ends.direction).expect("read")).to_vec();
        totals
    }

    fn since(&self, before: &Self) -> Vec<Counted> {
        let mut counted = vec![];
        for (&ssrc, now) in &self.streams {
            let then = before.streams.get(&ssrc).copied().unwrap_or_default();
            counted.push(Counted::Stream(ssrc, now.packets - then.packets, now.bytes - then.bytes));
        }
        for (class, (now, then)) in self.classes.iter().zip(&before.classes).enumerate() {
            counted.push(Counted::Flow(class, now.packets - then.packets, now.bytes - then.bytes));
        }
        for (event, (now, then)) in self.events.iter().zip(&before.events).enumerate() {
            let (packets, bytes) = (now.packets - then.packets, now.bytes - then.bytes);
            counted.push(Counted::Event(event as u32, packets, bytes));
        }
        counted.retain(|counted| {
            !matches!(
                counted,
                Counted::Stream(_, 0, 0) | Counted::Flow(_, 0, 0) | Counted::Event(_, 0, 0)
            )
        });
        sorted(&counted)
    }
}

/// What the host's parser makes of a frame, as the kernel would count it.
fn host(shape: &Shape, bytes: &[u8], length: usize) -> Vec<Counted> {
    assert!(DIRECTIONS > usize::from(shape.ends.direction));
    let view = View {
        link: shape.link,
        direction: shape.ends.direction,
        ports: Fixed(&ports::of_range(40_000, 49_999)),
        frame: length as u32,
    };
    let frame = Bytes::new(bytes);
    if packet::is_plainly_elsewhere(frame, &view) {
        assert_eq!(packet::parse(frame, &view), Err(Skip::ELSEWHERE), "{}", shape.name);
    }
    let one = |event: Event, bytes: u32| vec![Counted::Event(event as u32, 1, bytes.into())];
    let (proto, payload, length) = match packet::parse(frame, &view) {
        Ok(Parsed::V4(packet)) => (packet.proto, packet.payload, packet.length),
        Ok(Parsed::V6(packet)) => (packet.proto, packet.payload, packet.length),
        Err(skip) => match skip.why {
            Why::Elsewhere => return vec![],
            Why::Short => return one(Event::Truncated, view.frame),
            Why::Event(event) => return one(event, skip.bytes),
        },
    };
    if proto == exporter_tests::packets::TCP {
        return vec![Counted::Flow(Class::Other as usize, 1, length.into())];
    }
    let content = rtp::classify(&Within { frame, offset: payload }, length);
    match content.kind {
        Kind::Rtp => vec![Counted::Stream(content.rtp.ssrc, 1, length.into())],
        Kind::Unreadable => one(Event::Truncated, view.frame),
        Kind::BadRtp => sorted(&[
            Counted::Flow(Class::Other as usize, 1, length.into()),
            Counted::Event(Event::BadRtp as u32, 1, length.into()),
        ]),
        kind => vec![Counted::Flow(kind.class() as usize, 1, length.into())],
    }
}
