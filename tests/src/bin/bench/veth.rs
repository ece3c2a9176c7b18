//! UDP throughput between two hosts with the exporter's programs attached and without.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use exporter_tests::pair::{Conversation, Pair, counted, start};
use exporter_tests::rtp::Packet;
use mediasoup_exporter::kernel::MethodChoice;
use mediasoup_exporter::model::Direction;

use crate::Effort;
use crate::figures::{Figure, Spread, Target};

const PAYLOAD: usize = 1100;
/// Packets sent between two looks at the clock.
const BURST: u16 = 256;
/// How long one pair sends before it is the other's turn, and how often each has its turn in a round.
const SLICE: Duration = Duration::from_millis(40);
const TURNS: usize = 16;

/// Measures. Two pairs of hosts are alike but for the programs, and change roles from round to round;
/// within a round they take turns quickly, so that whatever else the machine does falls on both.
pub fn measure(effort: Effort) -> Result<Vec<Figure>> {
    let pairs = [Pair::new()?, Pair::new()?];
    let mut talks = Vec::new();
    for pair in &pairs {
        talks.push(pair.connect("10.77.0.1:40000", "10.77.0.2")?);
    }
    let turns = if effort.quick { 2 } else { TURNS };
    let mut samples = [const { Vec::new() }; 4];
    for round in 0..=effort.rounds {
        let place = round % 2;
        let [with, without] = take_turns(&pairs[place], &mut talks, place, turns)?;
        if round > 0 {
            for (samples, value) in
                samples.iter_mut().zip([with.sent, without.sent, with.received, without.received])
            {
                samples.push(value);
            }
        }
    }
    let [sent, sent_without, received, received_without] = samples;
    let row = |name, with: &[f64], without: &[f64]| {
        // What changes from round to round, such as on which processor a thread wakes, changes for both.
        let ratios: Vec<f64> =
            with.iter().zip(without).map(|(with, without)| with / without).collect();
        let figure = Figure::new("veth", name, "packets/ms").measured(Spread::of(with));
        let figure = figure.beside("not attached", Spread::of(without)).paired(&ratios);
        figure.target(Target::AtLeastTimes(0.95))
    };
    Ok(vec![
        row("sent by one thread through the attached programs", &sent, &sent_without),
        row("received meanwhile by another", &received, &received_without),
    ])
}

/// Rates with the programs attached to one of the pairs, and of the other.
fn take_turns(
    pair: &Pair,
    talks: &mut [Conversation],
    place: usize,
    turns: usize,
) -> Result<[Rate; 2]> {
    let counting = start(&pair.sfu, &["sfu0"], MethodChoice::Ebpf)?;
    // The flow is known once both sides have sent.
    talks[place].say(Direction::Receive, 7, 1, PAYLOAD)?;
    talks[place].say(Direction::Send, 8, 1, PAYLOAD)?;
    let mut rates = [Rate::default(), Rate::default()];
    for turn in 0..2 * turns {
        // First one begins, then the other: with, without, without, with.
        let other = usize::from(turn % 4 == 1 || turn % 4 == 2);
        let at = (place + other) % 2;
        rates[other].add(&throughput(&talks[at], SLICE)?, turns);
    }
    let (packets, _) = counted(&counting.read()?, Direction::Receive, 7);
    ensure!(packets > rates[0].packets, "{packets} counted of {} and one", rates[0].packets);
    Ok(rates)
}

/// Packets a millisecond, and all that were sent.
#[derive(Default)]
struct Rate {
    sent: f64,
    received: f64,
    packets: u64,
}

impl Rate {
    /// Adds one of so many turns to their mean.
    fn add(&mut self, other: &Self, turns: usize) {
        self.sent += other.sent / turns as f64;
        self.received += other.received / turns as f64;
        self.packets += other.packets;
    }
}

fn throughput(talk: &Conversation, slice: Duration) -> Result<Rate> {
    let done = AtomicBool::new(false);
    let received = AtomicU64::new(0);
    let receiver = talk.sfu.try_clone()?;
    receiver.set_read_timeout(Some(Duration::from_millis(20)))?;
    let (sent, took) = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 2048];
            while !done.load(Ordering::Relaxed) || receiver.recv(&mut buffer).is_ok() {
                if receiver.recv(&mut buffer).is_ok() {
                    received.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let result = send(talk, slice);
        done.store(true, Ordering::Relaxed);
        result
    })?;
    // The timeout is shared with the socket that was cloned.
    talk.sfu.set_read_timeout(Some(Duration::from_secs(10)))?;
    let milliseconds = took.as_secs_f64() * 1e3;
    let received = received.load(Ordering::Relaxed) as f64;
    Ok(Rate { sent: sent as f64 / milliseconds, received: received / milliseconds, packets: sent })
}

fn send(talk: &Conversation, slice: Duration) -> Result<(u64, Duration)> {
    let packet =
        Packet { payload_type: 96, ssrc: 7, payload: vec![0; PAYLOAD], ..Packet::default() };
    let mut bytes = packet.to_bytes();
    let (begin, mut sent) = (Instant::now(), 0_u64);
    while begin.elapsed() < slice {
        for _ in 0..BURST {
            bytes[2..4].copy_from_slice(&(sent as u16).to_be_bytes());
            talk.peer.send(&bytes)?;
            sent += 1;
        }
    }
    Ok((sent, begin.elapsed()))
}
