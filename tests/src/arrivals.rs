//! Made-up arrivals of RTP packets, and their jitter: by RFC 3550 A.8 from every packet, and as the
//! sample that the kernel program takes estimates it.
//!
//! A seed gives the same packets each time; nothing waits, and no clock is read.

use exporter_ebpf::abi::{Clock, StreamValue};
use exporter_ebpf::jitter;
use exporter_ebpf::rtp::{self, Rtp};

/// Packets of a stream before its jitter is looked at; a few more, so that frames end anywhere.
const PACKETS: u64 = 10_000;
/// Packets between a step and the look, where that is soon.
const SOON: u64 = 500;

/// How packets come.
#[derive(Clone, Copy, Debug)]
pub struct Process {
    /// What it stands for.
    pub name: &'static str,
    /// What its timestamps count.
    pub clock: Clock,
    /// A packet by its number.
    packet: fn(Draw) -> Packet,
}

/// What there is to know of a packet.
struct Packet {
    /// When it was sent.
    milliseconds: f64,
    /// How long it took, in milliseconds.
    delay: f64,
    timestamp: u64,
}

/// All processes.
pub const PROCESSES: [Process; 7] = [
    Process {
        name: "Opus, 20 ms; delay uniform in 0 to 10 ms",
        clock: Clock::Khz48,
        packet: |draw| opus(draw, 10.0 * draw.share(draw.number)),
    },
    Process {
        name: "Opus, 20 ms; delay exponential, mean 5 ms",
        clock: Clock::Khz48,
        packet: |draw| opus(draw, -5.0 * (1.0 - draw.share(draw.number)).ln()),
    },
    Process {
        name: "video, frames of 10 packets; a frame's delay uniform in 0 to 5 ms",
        clock: Clock::Khz90,
        packet: |draw| video(draw, 10),
    },
    Process {
        name: "video, frames of 16 packets, otherwise the same",
        clock: Clock::Khz90,
        packet: |draw| video(draw, 16),
    },
    Process {
        name: "video, frames of 35 packets, otherwise the same",
        clock: Clock::Khz90,
        packet: |draw| video(draw, 35),
    },
    Process {
        name: "Opus; delay uniform in 0 to 2 ms, and 5,000 packets ago it became 0 to 19 ms",
        clock: Clock::Khz48,
        packet: |draw| step(draw, PACKETS / 2),
    },
    Process {
        name: "the same, 500 packets ago",
        clock: Clock::Khz48,
        packet: |draw| step(draw, PACKETS - SOON),
    },
];

impl Process {
    /// Jitter in seconds after some 10,000 packets: estimated from a sample, and by RFC 3550 A.8.
    pub fn play(&self, seed: u64) -> (f64, f64) {
        let mut stream = StreamValue::default();
        let mut every = EveryPacket::default();
        let mut now = 0;
        for number in 0..PACKETS + seed % 97 {
            let packet = (self.packet)(Draw { seed, number });
            // What was sent later does not come earlier, and no clock begins at zero.
            let arrival = 1e9 + (packet.milliseconds + packet.delay) * 1e6;
            now = now.max(arrival as u64);
            let timestamp = packet.timestamp as u32;
            let header = Rtp { ssrc: 1, sequence: number as u16, timestamp, payload_type: 96 };
            rtp::count(&mut stream, &header, 100, 0);
            if jitter::is_due(&stream) {
                jitter::take(&mut stream, timestamp, now);
            }
            every.packet(now as f64 / 1e9, packet.timestamp as f64 / rate(self.clock));
        }
        (f64::from(stream.jitter[self.clock as usize]) / 16e6, every.jitter)
    }
}

/// RFC 3550 A.8 in floating point.
#[derive(Default)]
struct EveryPacket {
    transit: Option<f64>,
    jitter: f64,
}

impl EveryPacket {
    fn packet(&mut self, arrival: f64, timestamp: f64) {
        let transit = arrival - timestamp;
        if let Some(before) = self.transit.replace(transit) {
            self.jitter += ((transit - before).abs() - self.jitter) / 16.0;
        }
    }
}

fn rate(clock: Clock) -> f64 {
    match clock {
        Clock::Khz90 => 90_000.0,
        Clock::Khz48 => 48_000.0,
        Clock::Khz8 => 8_000.0,
    }
}

fn opus(draw: Draw, delay: f64) -> Packet {
    Packet { milliseconds: draw.number as f64 * 20.0, delay, timestamp: draw.number * 960 }
}

/// 30 frames a second, each sent at once: a packet takes 0.05 ms on the line.
fn video(draw: Draw, length: u64) -> Packet {
    let (frame, place) = (draw.number / length, draw.number % length);
    Packet {
        milliseconds: frame as f64 * 100.0 / 3.0 + place as f64 * 0.05,
        delay: 5.0 * draw.share(frame),
        timestamp: frame * 3_000,
    }
}

fn step(draw: Draw, at: u64) -> Packet {
    let most = if draw.number < at { 2.0 } else { 19.0 };
    opus(draw, most * draw.share(draw.number))
}

/// Chance that depends on nothing but the seed and a number.
#[derive(Clone, Copy)]
struct Draw {
    seed: u64,
    number: u64,
}

impl Draw {
    /// From 0 to less than 1 (SplitMix64).
    fn share(self, of: u64) -> f64 {
        let mixed = (self.seed << 32 | of).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ mixed >> 31) >> 11) as f64 / (1_u64 << 53) as f64
    }
}
