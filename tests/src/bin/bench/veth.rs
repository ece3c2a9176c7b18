//! UDP throughput between two hosts with the exporter's programs attached and without.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use exporter_tests::pair::{Conversation, Pair, counted, start};
use exporter_tests::rtp::Packet;
use mediasoup_exporter::kernel::SourceChoice;
use mediasoup_exporter::model::Direction;

use crate::Effort;
use crate::figures::{Figure, Spread, Target};

const PAYLOAD: usize = 1100;
/// Packets sent between two looks at the clock.
const BURST: u16 = 256;

/// Measures.
pub fn measure(effort: Effort) -> Result<Vec<Figure>> {
    let pair = Pair::new()?;
    let mut talk = pair.connect("10.77.0.1:40000", "10.77.0.2")?;
    let slice = Duration::from_millis(if effort.quick { 100 } else { 500 });
    let mut samples = [const { Vec::new() }; 4];
    for round in 0..=effort.rounds {
        // Who comes second finds warmer caches, or a warmer processor: they take turns.
        let (with, without) = if round % 2 == 0 {
            let without = throughput(&talk, slice)?;
            (attached(&pair, &mut talk, slice)?, without)
        } else {
            let with = attached(&pair, &mut talk, slice)?;
            (with, throughput(&talk, slice)?)
        };
        if round > 0 {
            for (samples, value) in
                samples.iter_mut().zip([with.sent, without.sent, with.received, without.received])
            {
                samples.push(value);
            }
        }
    }
    let [sent, sent_without, received, received_without] = samples.map(|it| Spread::of(&it));
    let row = |name, with, without| {
        let figure = Figure::new("veth", name, "packets/ms").measured(with);
        figure.beside("not attached", without).target(Target::AtLeastTimes(0.95))
    };
    Ok(vec![
        row("sent by one thread through the attached programs", sent, sent_without),
        row("received meanwhile by another", received, received_without),
    ])
}

fn attached(pair: &Pair, talk: &mut Conversation, slice: Duration) -> Result<Rate> {
    let counting = start(&pair.sfu, &["sfu0"], SourceChoice::Ebpf)?;
    // The flow is known once both sides have sent.
    talk.say(Direction::Receive, 7, 1, PAYLOAD)?;
    talk.say(Direction::Send, 8, 1, PAYLOAD)?;
    let with = throughput(talk, slice)?;
    let (packets, _) = counted(&counting.read()?, Direction::Receive, 7);
    ensure!(packets > with.packets, "{packets} counted of {} and one", with.packets);
    Ok(with)
}

/// Packets a millisecond, and all that were sent.
struct Rate {
    sent: f64,
    received: f64,
    packets: u64,
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
