//! Processor time of the running exporter at rest: live streams, a scrape every 15 seconds.

use std::net::UdpSocket;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use exporter_tests::exporter::Exporter;
use exporter_tests::netns::{Netns, veth};
use exporter_tests::rtp::Packet;
use exporter_tests::wait;

use crate::Effort;
use crate::figures::{Figure, Spread, Target};
use crate::process::{kernel_tables, resident, used};

/// From scrape to scrape.
const INTERVAL: Duration = Duration::from_secs(15);
const SFU_SOCKETS: usize = 20;
const PEER_SOCKETS: usize = 100;
/// Streams of a flow: one is received, the others are sent.
const STREAMS: usize = 5;

/// Measures.
pub fn measure(effort: Effort) -> Result<Vec<Figure>> {
    let rounds = if effort.quick { 1 } else { 3 };
    let crowd = Crowd::new()?;
    let flags =
        ["--interface", "sfu0", "--ports", "40000-40999", "--numeric", "--observer", "/nowhere"];
    let exporter = Exporter::start(&crowd.sfu, &flags, &[])?;
    let mut idle = Vec::new();
    for _ in 0..rounds {
        idle.push(interval(&exporter, 0)?);
    }
    let before = resident(exporter.pid())?;
    let streams = SFU_SOCKETS * PEER_SOCKETS * STREAMS;
    // The first wave makes the flows known. What no server claims is shown two ticks later only.
    crowd.wave(0)?;
    crowd.wave(1)?;
    wait::until("all streams in the text", 2 * wait::LONG, || {
        Ok((found(&exporter.metrics()?) >= streams).then_some(()))
    })?;
    let mut live = Vec::new();
    for round in 0..rounds {
        crowd.wave(2 + round as u16)?;
        live.push(interval(&exporter, streams)?);
    }
    let (memory, tables) = (resident(exporter.pid())?, kernel_tables(exporter.pid())?);
    exporter.stop()?;
    let note = format!("{rounds} intervals of 15 s, no server observed");
    let row =
        |name: &str, unit| Figure::new("rest", format!("{streams} live streams, {name}"), unit);
    Ok(vec![
        row("processor time", "% of a core")
            .measured(Spread::of(&live))
            .beside("no stream", Spread::of(&idle))
            .target(Target::AtMost(1.0))
            .note(note),
        row("resident memory of the exporter", "MB")
            .measured(Spread::single(memory))
            .beside("no stream", Spread::single(before))
            .target(Target::AtMost(60.0))
            .note(format!("kernel tables {tables:.1} MB besides")),
    ])
}

/// Percent of a core that a scrape and what follows it until the next take.
fn interval(exporter: &Exporter, streams: usize) -> Result<f64> {
    let before = used(exporter.pid())?;
    let text = exporter.metrics()?;
    let found = found(&text);
    ensure!(found == streams, "{found} of {streams} streams in the text");
    // Nothing is waited for: the time that passes is what is measured.
    thread::sleep(INTERVAL);
    let used = used(exporter.pid())?.saturating_sub(before);
    Ok(used.as_secs_f64() / INTERVAL.as_secs_f64() * 100.0)
}

/// Streams in a text.
fn found(text: &str) -> usize {
    let lines = |name: &str| text.matches(&format!("\nmediasoup_stream_{name}_total{{")).count();
    lines("receive_packets") + lines("send_packets")
}

/// Peers at one host that talk with an SFU at another, each with each of its ports.
struct Crowd {
    sfu: Arc<Netns>,
    _peer: Netns,
    ours: Vec<UdpSocket>,
    theirs: Vec<UdpSocket>,
}

impl Crowd {
    fn new() -> Result<Self> {
        let (sfu, peer) = (Netns::new("sfu")?, Netns::new("peer")?);
        veth(&sfu, "sfu0", &peer, "peer0")?;
        sfu.address("sfu0", "10.77.0.1".parse()?, 24)?;
        peer.address("peer0", "10.77.0.2".parse()?, 24)?;
        let bind = |host: &Netns, address: &'static str, ports: u16, count: usize| {
            host.run_in(|| {
                (0..count as u16).map(|number| UdpSocket::bind((address, ports + number))).collect()
            })
        };
        let ours: std::io::Result<_> = bind(&sfu, "10.77.0.1", 40_000, SFU_SOCKETS);
        let theirs: std::io::Result<_> = bind(&peer, "10.77.0.2", 50_000, PEER_SOCKETS);
        Ok(Self { sfu: Arc::new(sfu), _peer: peer, ours: ours?, theirs: theirs? })
    }

    /// One packet of every stream. Nobody takes it from the sockets; it has been counted by then.
    fn wave(&self, sequence: u16) -> Result<()> {
        let mut ssrc = 10_000;
        for ours in &self.ours {
            for theirs in &self.theirs {
                for stream in 0..STREAMS {
                    ssrc += 1;
                    let (from, to) = if stream == 0 { (theirs, ours) } else { (ours, theirs) };
                    let packet = Packet {
                        payload_type: 96,
                        sequence,
                        ssrc,
                        payload: vec![0; 100],
                        ..Packet::default()
                    };
                    from.send_to(&packet.to_bytes(), to.local_addr()?)?;
                }
            }
        }
        Ok(())
    }
}
