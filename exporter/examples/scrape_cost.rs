//! Prints what the pure part of a scrape costs, as medians: the ledger's update and writing, for the
//! kernel's families alone and for all. Times are the thread's processor time, so that a busy machine
//! disturbs less.
//!
//! `cargo run --release -p mediasoup-exporter --example scrape_cost [streams …]`

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use mediasoup_exporter::exposition::{Cursor, Format, Scrape, Selection};
use mediasoup_exporter::labels::{Geo, Policy};
use mediasoup_exporter::ledger::{Settings, Update};
use mediasoup_exporter::model::{
    Consumer, Counter, Direction, Encoding, Flow, MediaKind, Peer, Producer, Proto, Reading,
    ServerTuple, Stream, StreamStats, Transport, TransportKind, Tuple,
};
use mediasoup_exporter::state::State;

const ROUNDS: usize = 11;
/// Of each transport: one is received, the others are sent.
const STREAMS: usize = 5;
/// Transports in a room.
const ROOM: usize = 50;

fn main() {
    let mut sizes: Vec<usize> =
        std::env::args().skip(1).filter_map(|size| size.parse().ok()).collect();
    if sizes.is_empty() {
        sizes = vec![1_000, 10_000, 100_000];
    }
    println!(
        "| streams | update, kernel ms | update, all ms | write, kernel ms (MB) | write, all ms (MB) | \
         first piece µs | resident MB |"
    );
    println!("|---|---|---|---|---|---|---|");
    for size in sizes {
        measure(size);
    }
}

fn measure(streams: usize) {
    let world = World::new(streams / STREAMS);
    let before = resident();
    let settings = Settings { max_series: u64::MAX, hold: 0, ..Settings::default() };
    let mut scrape = Scrape::new(settings, Policy::default(), Geo::none());
    let mut reading = world.reading();
    let mut times: [Vec<Duration>; 5] = Default::default();
    let mut bytes = [0; 2];
    for round in 0..=ROUNDS {
        world.grow(&mut reading);
        let tick = round as u64;
        let started = spent();
        scrape.update(update(tick, &reading, &world));
        let updated = spent() - started;
        world.grow(&mut reading);
        let started = spent();
        scrape.update_for(update(tick, &reading, &world), Selection::kernel());
        let kernel_updated = spent() - started;
        let started = spent();
        bytes[0] = write(&scrape, Selection::kernel());
        let kernel = spent() - started;
        let started = spent();
        bytes[1] = write(&scrape, Selection::ALL);
        let all = spent() - started;
        let started = spent();
        let mut cursor = Cursor::new(Format::Text, Selection::ALL);
        std::hint::black_box(scrape.next_piece(&mut cursor));
        let first = spent() - started;
        // The first update makes all label text.
        if round > 0 {
            for (times, time) in times.iter_mut().zip([kernel_updated, updated, kernel, all, first])
            {
                times.push(time);
            }
        } else {
            eprintln!("{streams} streams: the first update took {updated:?}");
        }
    }
    let [kernel_updated, updated, kernel, all, first] = times.map(median);
    println!(
        "| {streams} | {:.1} | {:.1} | {:.1} ({:.0}) | {:.1} ({:.0}) | {} | {} (+{}) |",
        kernel_updated.as_secs_f64() * 1e3,
        updated.as_secs_f64() * 1e3,
        kernel.as_secs_f64() * 1e3,
        bytes[0] as f64 / 1e6,
        all.as_secs_f64() * 1e3,
        bytes[1] as f64 / 1e6,
        first.as_micros(),
        resident(),
        resident().saturating_sub(before),
    );
}

fn update<'a>(tick: u64, reading: &'a Reading, world: &'a World) -> Update<'a> {
    Update { tick, reading: Some(reading), state: &world.state, sockets: None }
}

/// Processor time of this thread so far.
fn spent() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of our own, valid for the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn write(scrape: &Scrape, selection: Selection) -> usize {
    let mut bytes = 0;
    scrape.write(Cursor::new(Format::Text, selection), |piece| bytes += piece.len());
    bytes
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// Megabytes; zero where /proc is not what it is on Linux.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

struct World {
    state: State,
    tuples: Vec<Tuple>,
    ssrcs: Vec<(usize, Direction, u32)>,
}

impl World {
    fn new(transports: usize) -> Self {
        let mut state = State::default();
        let (mut tuples, mut ssrcs) = (Vec::new(), Vec::new());
        for number in 0..transports {
            let room = format!("tenant/room-{}", number / ROOM);
            let peer = uuid(1, number);
            state.put_peer(Peer {
                id: (&*peer).into(),
                room: Some((&*room).into()),
                display_name: format!("Participant {number}").into(),
                user_agent: "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like \
                             Gecko) Chrome/126.0.0.0 Safari/537.36"
                    .into(),
            });
            let remote = SocketAddr::new(
                IpAddr::V4(Ipv4Addr::from_bits(0xc633_0000 + (number / 60_000) as u32 + 1)),
                1024 + (number % 60_000) as u16,
            );
            let port = 40_000 + (number % 10_000) as u16;
            let local = SocketAddr::from(([203, 0, 113, 5], port));
            let transport = uuid(2, number);
            state.put_transport(Transport {
                id: (&*transport).into(),
                kind: TransportKind::WebRtc,
                pid: 4242,
                room: Some((&*room).into()),
                peer: Some((&*peer).into()),
                tuples: vec![ServerTuple {
                    proto: Proto::Udp,
                    local_address: "203.0.113.5".into(),
                    local_port: port,
                    remote: Some(remote),
                }],
                ice_state: Some("completed".into()),
                dtls_state: Some("connected".into()),
            });
            tuples.push(Tuple::new(Proto::Udp, local, remote));
            for stream in 0..STREAMS {
                let ssrc = (number * STREAMS + stream + 10_000) as u32;
                let encodings = vec![Encoding {
                    ssrc: Some(ssrc),
                    rtx: None,
                    rid: None,
                    score: Some(10),
                    stats: Some(StreamStats {
                        byte_count: 123_456,
                        round_trip_time: Some(12.5),
                        ..StreamStats::default()
                    }),
                }];
                if stream == 0 {
                    ssrcs.push((number, Direction::Receive, ssrc));
                    state.put_producer(Producer {
                        id: (&*uuid(3, number)).into(),
                        transport: (&*transport).into(),
                        room: Some((&*room).into()),
                        peer: Some((&*peer).into()),
                        kind: MediaKind::Video,
                        codec: "VP8".into(),
                        encodings,
                        paused: false,
                    });
                } else {
                    ssrcs.push((number, Direction::Send, ssrc));
                    state.put_consumer(Consumer {
                        id: (&*uuid(3 + stream, number)).into(),
                        producer: (&*uuid(3, number.saturating_sub(stream))).into(),
                        transport: (&*transport).into(),
                        room: Some((&*room).into()),
                        peer: Some((&*peer).into()),
                        kind: MediaKind::Video,
                        codec: "VP8".into(),
                        encodings,
                        score: Some(10),
                        producer_score: Some(10),
                        spatial_layer: Some(2),
                        temporal_layer: Some(2),
                        paused: false,
                        producer_paused: false,
                    });
                }
            }
        }
        // Tables are read in the order of their hashes.
        let mut seed = 1_u64;
        for at in (1..ssrcs.len()).rev() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ssrcs.swap(at, (seed >> 33) as usize % (at + 1));
        }
        Self { state, tuples, ssrcs }
    }

    fn reading(&self) -> Reading {
        let mut counts = [[Counter::default(); 5]; 2];
        counts[0][1..4].fill(Counter { packets: 10, bytes: 1000 });
        let flow = |tuple: &Tuple| Flow {
            tuple: *tuple,
            known: true,
            idle_seconds: 0,
            ended: false,
            counts,
        };
        let stream = |(transport, direction, ssrc): &(usize, Direction, u32)| Stream {
            tuple: self.tuples[*transport],
            direction: *direction,
            ssrc: *ssrc,
            known: true,
            idle_seconds: 0,
            ended: false,
            payload_type: 96,
            total: Counter { packets: 1_000_000, bytes: 1_000_000_000 },
            received: 1_000_000,
            expected: 1_000_000,
            out_of_order: 12,
            duplicates: 3,
            restarts: 0,
        };
        Reading {
            flows: self.tuples.iter().map(flow).collect(),
            streams: self.ssrcs.iter().map(stream).collect(),
            ..Reading::default()
        }
    }

    fn grow(&self, reading: &mut Reading) {
        for stream in &mut reading.streams {
            stream.total.packets += 50;
            stream.total.bytes += 50_000;
            stream.received += 50;
            stream.expected += 50;
        }
    }
}

fn uuid(kind: usize, number: usize) -> String {
    format!("{kind:08x}-77aa-4bbb-8ccc-{number:012x}")
}
