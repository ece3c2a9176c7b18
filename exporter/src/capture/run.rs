//! A capture from its beginning to its end.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};

use crate::capture::asker::{Answer, Asker};
use crate::capture::choice::{Choice, Wanted, comment};
use crate::capture::ears::{Ear, Ears, Heard};
use crate::capture::filter::WHOLE;
use crate::capture::frames::look;
use crate::capture::output::{Output, Target};
use crate::capture::pace::Limit;
use crate::capture::pcapng::{self, Packet, Statistics};
use crate::capture::twins::Twins;
use crate::client::Client;
use crate::config;
use crate::host::capabilities;
use crate::host::interfaces::Layer;
use crate::model::Direction;
use crate::signals;

/// How long nothing but packets is looked at.
const PATIENCE: Duration = Duration::from_millis(100);
/// Between two looks at which interfaces there are.
const LOOK: Duration = Duration::from_secs(2);
/// Frames of one interface that are read before the next one's turn comes.
const TURN: usize = 256;

/// Captures, and says what became of it on standard error.
pub fn run(options: &config::Capture) -> anyhow::Result<()> {
    let config::Capture { rooms, peers, ips, ssrcs, .. } = options.clone();
    let wanted = Wanted { rooms, peers, ips, ssrcs };
    let target = match &options.write {
        Some(path) => Target::File(path.clone(), options.force),
        None => Target::Standard,
    };
    target.check()?;
    signals::hold();
    let client = Client::new(&options.exporter)?;
    let asker = Asker::start(client, wanted.clone(), options.despite_deidentification)?;
    let Answer { choice, host } = first(&asker)?;
    if choice.is_empty() {
        bail!(
            "{} knows nobody there now who is {wanted}, and has sent or been sent anything in the last minute; \
             `mediasoup-exporter top` shows who is there{}",
            options.exporter.url,
            if wanted.ips.is_empty() {
                ""
            } else {
                " (--ip takes what stands there, be it a name)"
            }
        );
    }
    let mut ears = Ears::new(options.payload)?;
    ears.choose(choice.ports())?;
    ears.follow()?;
    if ears.open.is_empty() {
        bail!("no interface is up on which packets can be captured");
    }
    let file = target.open()?;
    capabilities::keep_capturing().context("drop privileges")?;
    let output = Output::new(
        file,
        target.to_string(),
        options.max_bytes,
        &section(&wanted, &host, options.payload),
    )?;
    let mut capture = Capture {
        choice,
        output,
        payload: options.payload,
        limit: Limit::new(options.max_rate),
        twins: Twins::default(),
        interfaces: BTreeMap::new(),
        left: Vec::new(),
    };
    capture.follow(&mut ears)?;
    let (connections, streams) = capture.choice.counts();
    let hidden = if streams > 0 { format!(" and {streams} streams") } else { String::new() };
    eprintln!("capturing {connections} connections{hidden} for {:?}", options.span);
    let began = Instant::now();
    let why = capture.listen(&mut ears, &asker, began + options.span);
    let total = capture.finish(ears);
    match why.and_then(|why| Ok((why, total?))) {
        Ok((why, Total { packets, bytes, refused, lost })) => eprintln!(
            "{packets} packets, {bytes} bytes, in {:.1} s; left out by --max-rate: {refused}; lost by the \
             kernel: {lost}; end: {why}",
            began.elapsed().as_secs_f64()
        ),
        Err(error) if is_gone(&error) => eprintln!("the reader has gone"),
        Err(error) => return Err(error),
    }
    Ok(())
}

fn first(asker: &Asker) -> anyhow::Result<Answer> {
    loop {
        if signals::came() {
            bail!("interrupted");
        }
        if let Some(answer) = asker.next(PATIENCE) {
            return answer;
        }
    }
}

/// Who read along needs no more; that is no failure.
fn is_gone(error: &anyhow::Error) -> bool {
    let mut io = error.chain().filter_map(|error| error.downcast_ref::<io::Error>());
    io.any(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Since 1970.
fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn section(wanted: &Wanted, host: &str, payload: bool) -> Vec<u8> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let system = format!("Linux {}", read("/proc/sys/kernel/osrelease"));
    let application = concat!("mediasoup-exporter ", env!("CARGO_PKG_VERSION"));
    let what = if payload { "whole packets" } else { "headers only" };
    pcapng::section(application, &system, &format!("host={host:?} capture {wanted}, {what}"))
}

struct Total {
    packets: u64,
    bytes: u64,
    refused: u64,
    lost: u64,
}

/// What is known of an interface of the file.
#[derive(Debug, Default)]
struct Known {
    number: u32,
    statistics: Statistics,
    refused: u64,
}

struct Capture<W> {
    choice: Choice,
    output: Output<W>,
    payload: bool,
    limit: Limit,
    twins: Twins,
    /// By index, of those that are up.
    interfaces: BTreeMap<u32, Known>,
    /// Those that are not any more.
    left: Vec<Known>,
}

impl<W: Write> Capture<W> {
    /// Until something ends it; says what.
    fn listen(
        &mut self,
        ears: &mut Ears,
        asker: &Asker,
        deadline: Instant,
    ) -> anyhow::Result<&'static str> {
        let mut looked = Instant::now();
        let mut is_silent = false;
        let why = loop {
            if signals::came() {
                break "interrupted";
            }
            let Some(rest) = deadline.checked_duration_since(Instant::now()) else {
                break "--for";
            };
            ears.wait(rest.min(PATIENCE));
            if !self.take(ears, Duration::MAX)?.has_room {
                return Ok("--max-bytes");
            }
            while let Some(answer) = asker.next(Duration::ZERO) {
                match answer {
                    Ok(answer) => {
                        is_silent = false;
                        ears.choose(answer.choice.ports())?;
                        self.choice = answer.choice;
                    }
                    Err(error) if !is_silent => {
                        is_silent = true;
                        eprintln!("mediasoup-exporter: {error:#}; capturing whom it told before");
                    }
                    Err(_) => {}
                }
            }
            if looked.elapsed() > LOOK {
                looked = Instant::now();
                self.follow(ears)?;
            }
        };
        // What came before the end and waits.
        let end = now();
        loop {
            let Taken { read, has_room } = self.take(ears, end)?;
            if !has_room {
                return Ok("--max-bytes");
            }
            if !read {
                return Ok(why);
            }
        }
    }

    /// Takes in which interfaces there are.
    fn follow(&mut self, ears: &mut Ears) -> anyhow::Result<()> {
        for gone in ears.follow()? {
            self.leave(gone);
        }
        for (index, ear) in &ears.open {
            if self.interfaces.contains_key(index) {
                continue;
            }
            let link = match ear.top.attach.layer {
                Layer::Ethernet => pcapng::ETHERNET,
                Layer::Raw | Layer::Wrapped => pcapng::RAW,
            };
            let block = pcapng::interface(link, &ear.top.attach.name, "");
            if let Some(number) = self.output.interface(&block)? {
                let statistics = Statistics { start: now(), ..Statistics::default() };
                self.interfaces.insert(*index, Known { number, statistics, refused: 0 });
            }
        }
        Ok(())
    }

    fn leave(&mut self, mut ear: Ear) {
        ear.count();
        if let Some(mut known) = self.interfaces.remove(&ear.top.attach.index) {
            known.statistics.end = now();
            known.statistics.lost = ear.lost;
            self.left.push(known);
        }
    }

    /// Reads a turn of each interface and writes what is wanted, in order, up to a moment.
    fn take(&mut self, ears: &Ears, until: Duration) -> anyhow::Result<Taken> {
        let mut buffer = vec![0; 4 + WHOLE as usize];
        let mut taken = Taken { read: false, has_room: true };
        let mut packets: Vec<(u32, Packet)> = Vec::new();
        for (index, ear) in &ears.open {
            for _ in 0..TURN {
                let Some(heard) = ear.hear(&mut buffer) else { break };
                if heard.at > until {
                    break;
                }
                taken.read = true;
                let packet = self.want(*index, ear.top.attach.layer, &heard);
                packets.extend(packet.map(|packet| (*index, packet)));
            }
        }
        packets.sort_by_key(|(_, packet)| packet.at);
        for (index, packet) in &packets {
            let Some(known) = self.interfaces.get_mut(index) else { continue };
            if !self.limit.admits(packet.at) {
                known.refused += 1;
            } else if self.output.packet(packet)? {
                known.statistics.written += 1;
            } else {
                taken.has_room = false;
                break;
            }
        }
        if !packets.is_empty() {
            self.output.flush()?;
        }
        Ok(taken)
    }

    /// What of a frame is to be written, if it is wanted.
    fn want(&mut self, index: u32, layer: Layer, heard: &Heard<'_>) -> Option<Packet> {
        let seen = look(heard.bytes, layer, heard.length)?;
        let found = self.choice.find(&seen)?;
        let known = self.interfaces.get_mut(&index)?;
        if !self.twins.is_first(&seen, heard.bytes, index, heard.at) {
            return None;
        }
        known.statistics.wanted += 1;
        let end = if self.payload { heard.bytes.len() } else { seen.cut(found.is_known) };
        // What stands before IP in a tunnel has no kind of link of its own in a file.
        let start = if layer == Layer::Wrapped { seen.network } else { 0 };
        Some(Packet {
            interface: known.number,
            at: heard.at,
            bytes: heard.bytes[start..end].to_vec(),
            length: heard.length - start as u32,
            inbound: found.direction == Direction::Receive,
            comment: comment(&found, seen.carried),
        })
    }

    /// Writes what was counted.
    fn finish(mut self, ears: Ears) -> anyhow::Result<Total> {
        for (_, ear) in ears.open {
            self.leave(ear);
        }
        let mut total = Total { packets: 0, bytes: 0, refused: self.limit.refused, lost: 0 };
        for known in std::mem::take(&mut self.left) {
            let Known { number, mut statistics, refused } = known;
            statistics.comment = format!("{refused} left out by --max-rate");
            total.packets += statistics.written;
            total.lost += statistics.lost;
            self.output.statistics(number, &statistics)?;
        }
        self.output.flush()?;
        total.bytes = self.output.written;
        Ok(total)
    }
}

struct Taken {
    /// There was something.
    read: bool,
    /// And there is room for more.
    has_room: bool,
}
