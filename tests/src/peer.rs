//! A peer that sends audio and video by a script: it knows to the packet what left, what was lost,
//! doubled and late, and what an observer of the sequence numbers must therefore find.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::endpoint::{Count, Endpoint, Feedback};
use crate::rtp::{self, Packet};
use crate::wait;

/// Media time of one step.
pub const TICK: Duration = Duration::from_millis(20);
/// Payload types that `sfu/media.js` offers.
pub const OPUS: u8 = 111;
/// As [`OPUS`].
pub const VP8: u8 = 96;
/// As [`OPUS`].
pub const VP8_RTX: u8 = 97;

const MTU: usize = 1100;
const TICKS_PER_REPORT: u64 = 50;
const TICKS_PER_FRAME: u64 = 2;
/// Packets that go without extensions once the SFU has learned the RID.
const LEARNING: u64 = 50;
const MID: &[u8] = b"0";

/// What befalls packets of a track, by their place in it, the first being 0.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// Never sent (but sent as RTX when the SFU asks and the track has RTX).
    pub lose: Vec<u64>,
    /// Sent twice.
    pub double: Vec<u64>,
    /// Sent after their successor.
    pub delay: Vec<u64>,
    /// From this packet on, sequence numbers go on 20,000 further.
    pub jump: Option<u64>,
    /// One of so many is lost on the way to the SFU, and never repaired.
    pub lose_one_of: Option<u64>,
    /// From this packet on, nothing is sent, and nobody says so.
    pub silent_from: Option<u64>,
}

/// What a track carries.
#[derive(Clone, Copy, Debug)]
pub enum Media {
    /// 50 packets a second.
    Opus,
    /// 25 frames a second.
    Vp8 {
        /// Size of a frame; key frames are twice as large.
        frame: usize,
        /// Frames from one key frame to the next.
        key_every: u64,
    },
}

/// One encoding that a peer sends.
#[derive(Clone, Debug)]
pub struct Track {
    /// Its SSRC.
    pub ssrc: u32,
    /// The SSRC of its retransmissions.
    pub rtx: Option<u32>,
    /// Its RID, if that is how the SFU recognises it.
    pub rid: Option<String>,
    /// What it carries.
    pub media: Media,
    /// What befalls it.
    pub script: Script,
    /// Its first sequence number.
    pub first_sequence: u16,
}

impl Track {
    /// Audio.
    pub fn opus(ssrc: u32) -> Self {
        let (media, script) = (Media::Opus, Script::default());
        Self { ssrc, rtx: None, rid: None, media, script, first_sequence: 65_500 }
    }

    /// Video without RTX.
    pub fn vp8(ssrc: u32, frame: usize) -> Self {
        Self { media: Media::Vp8 { frame, key_every: 25 }, ..Self::opus(ssrc) }
    }

    /// With RTX.
    pub fn with_rtx(self, rtx: u32) -> Self {
        Self { rtx: Some(rtx), ..self }
    }

    /// Recognised by RID.
    pub fn with_rid(self, rid: &str) -> Self {
        Self { rid: Some(rid.to_owned()), ..self }
    }

    /// With a script.
    pub fn with_script(self, script: Script) -> Self {
        Self { script, ..self }
    }
}

/// What an observer of a track's sequence numbers must find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    /// Numbers that were used, lost ones included. The packet that begins a new sequence is not
    /// believed before its successor (RFC 3550 A.1), so it is not in here.
    pub expected: u64,
    /// Never sent.
    pub lost: u64,
    /// Sent again under the same number.
    pub duplicates: u64,
    /// Sent after a higher number.
    pub out_of_order: u64,
    /// Jumps.
    pub restarts: u64,
}

/// How fast a peer plays.
#[derive(Clone, Debug)]
pub enum Pace {
    /// As fast as the sockets of the process with this id take it, so that nothing is dropped.
    Queues(u32),
    /// As a person speaks.
    RealTime,
}

/// A sending peer.
#[derive(Debug)]
pub struct Sender {
    tracks: Vec<Playing>,
    ticks: u64,
}

#[derive(Debug)]
struct Playing {
    track: Track,
    packets: u64,
    frames: u64,
    key_asked: bool,
    held: Option<Packet>,
    lost: BTreeMap<u16, Packet>,
    rtx_sequence: u16,
    found: Sequence,
    jumped: Count,
}

impl Sender {
    /// A sender of these tracks.
    pub fn new(tracks: impl IntoIterator<Item = Track>) -> Self {
        let playing = |track: Track| Playing {
            packets: 0,
            frames: 0,
            key_asked: false,
            held: None,
            lost: BTreeMap::new(),
            rtx_sequence: track.first_sequence,
            found: Sequence::default(),
            jumped: Count::default(),
            track,
        };
        Self { tracks: tracks.into_iter().map(playing).collect(), ticks: 0 }
    }

    /// Sends so many ticks of media to where `endpoint` is connected, and answers what is asked.
    pub fn play(&mut self, endpoint: &Endpoint, ticks: u64, pace: &Pace) -> Result<()> {
        let begin = Instant::now();
        for tick in 0..ticks {
            match pace {
                Pace::Queues(pid) => Queues::of(*pid).calm()?,
                Pace::RealTime => {
                    let due = TICK * u32::try_from(tick)?;
                    thread::sleep(due.saturating_sub(begin.elapsed()));
                }
            }
            self.tick(endpoint)?;
            self.heed(endpoint)?;
        }
        for playing in &mut self.tracks {
            playing.release(endpoint)?;
        }
        Ok(())
    }

    /// Answers what the SFU asked for: retransmissions and key frames. Returns how many lost
    /// packets nobody has asked for yet.
    pub fn heed(&mut self, endpoint: &Endpoint) -> Result<usize> {
        for feedback in endpoint.feedback() {
            let (Feedback::Nack(wanted, _) | Feedback::KeyFrame(wanted)) = &feedback;
            let Some(playing) = self.tracks.iter_mut().find(|it| it.track.ssrc == *wanted) else {
                continue;
            };
            match feedback {
                Feedback::Nack(_, sequences) => playing.repeat(endpoint, &sequences)?,
                Feedback::KeyFrame(_) => playing.key_asked = true,
            }
        }
        let repairable = self.tracks.iter().filter(|it| it.track.rtx.is_some());
        Ok(repairable.map(|it| it.lost.len()).sum())
    }

    /// What an observer must find, by SSRC.
    pub fn sequences(&self) -> BTreeMap<u32, Sequence> {
        self.tracks.iter().map(|it| (it.track.ssrc, it.found)).collect()
    }

    /// What left of a track but was not believed to be of its sequence (RFC 3550 A.1).
    pub fn jumped(&self, ssrc: u32) -> Count {
        let of = self.tracks.iter().find(|it| it.track.ssrc == ssrc);
        of.map(|it| it.jumped).unwrap_or_default()
    }

    fn tick(&mut self, endpoint: &Endpoint) -> Result<()> {
        let (tick, report) = (self.ticks, self.ticks % TICKS_PER_REPORT == 1);
        self.ticks += 1;
        for playing in &mut self.tracks {
            match playing.track.media {
                Media::Opus => playing.speak(endpoint, tick)?,
                Media::Vp8 { .. } if tick % TICKS_PER_FRAME == 0 => playing.show(endpoint, tick)?,
                Media::Vp8 { .. } => {}
            }
            if report {
                playing.report(endpoint, tick)?;
            }
        }
        Ok(())
    }
}

impl Playing {
    fn speak(&mut self, endpoint: &Endpoint, tick: u64) -> Result<()> {
        let length = 40 + (self.packets * 37 % 90) as usize;
        self.send(endpoint, tick, false, vec![0x78; length])
    }

    fn show(&mut self, endpoint: &Endpoint, tick: u64) -> Result<()> {
        let Media::Vp8 { frame, key_every } = self.track.media else { return Ok(()) };
        let key = self.frames.is_multiple_of(key_every) || self.key_asked;
        self.key_asked = false;
        let mut left = if key { 2 * frame } else { frame } + (self.frames * 13 % 50) as usize;
        let mut start = true;
        while left > 0 {
            let length = left.min(MTU);
            left -= length;
            let payload = rtp::vp8_payload(key, start, self.frames as u16, length);
            self.send(endpoint, tick, left == 0, payload)?;
            start = false;
        }
        self.frames += 1;
        Ok(())
    }

    fn send(
        &mut self,
        endpoint: &Endpoint,
        tick: u64,
        marker: bool,
        payload: Vec<u8>,
    ) -> Result<()> {
        let place = self.packets;
        if self.track.script.silent_from.is_some_and(|from| place >= from) {
            return Ok(());
        }
        self.packets += 1;
        self.found.expected += 1;
        let packet = Packet {
            payload_type: if matches!(self.track.media, Media::Opus) { OPUS } else { VP8 },
            marker,
            sequence: self.sequence(place),
            timestamp: self.timestamp(tick),
            ssrc: self.track.ssrc,
            extensions: self.extensions(place),
            payload,
        };
        let script = &self.track.script;
        if script.jump == Some(place) {
            self.found.restarts += 1;
            self.found.expected -= 1;
            self.jumped.add(packet.to_bytes().len());
        }
        if script.lose_one_of.is_some_and(|of| place % of == of - 1) {
            self.found.lost += 1;
            return self.release(endpoint);
        }
        if script.lose.contains(&place) {
            self.found.lost += 1;
            self.lost.insert(packet.sequence, packet);
            return Ok(());
        }
        if script.delay.contains(&place) {
            self.found.out_of_order += 1;
            self.held = Some(packet);
            return Ok(());
        }
        endpoint.send(&packet.to_bytes())?;
        if script.double.contains(&place) {
            self.found.duplicates += 1;
            endpoint.send(&packet.to_bytes())?;
        }
        self.release(endpoint)
    }

    fn release(&mut self, endpoint: &Endpoint) -> Result<()> {
        self.held.take().map_or(Ok(()), |late| endpoint.send(&late.to_bytes()))
    }

    fn repeat(&mut self, endpoint: &Endpoint, sequences: &[u16]) -> Result<()> {
        let Some(rtx) = self.track.rtx else { return Ok(()) };
        for sequence in sequences {
            let Some(lost) = self.lost.remove(sequence) else { continue };
            let mut packet = lost.repeated(rtx, VP8_RTX, self.rtx_sequence);
            if let Some(rid) = &self.track.rid {
                packet.extensions = vec![(1, MID.into()), (3, rid.as_bytes().into())];
            }
            self.rtx_sequence = self.rtx_sequence.wrapping_add(1);
            endpoint.send(&packet.to_bytes())?;
        }
        Ok(())
    }

    fn report(&self, endpoint: &Endpoint, tick: u64) -> Result<()> {
        let milliseconds = tick * TICK.as_millis() as u64;
        let sent = endpoint.sent().rtp.get(&self.track.ssrc).copied().unwrap_or_default();
        endpoint.send(&rtp::sender_report(
            self.track.ssrc,
            1_000_000 + milliseconds,
            self.timestamp(tick),
            sent.packets as u32,
            sent.bytes as u32,
        ))
    }

    fn sequence(&self, place: u64) -> u16 {
        let jumped = self.track.script.jump.is_some_and(|jump| place >= jump);
        let place = place as u16;
        self.track.first_sequence.wrapping_add(place).wrapping_add(if jumped { 20_000 } else { 0 })
    }

    fn timestamp(&self, tick: u64) -> u32 {
        let clock = if matches!(self.track.media, Media::Opus) { 48_000 } else { 90_000 };
        (tick * TICK.as_millis() as u64 * clock / 1000) as u32
    }

    fn extensions(&self, place: u64) -> Vec<(u8, Vec<u8>)> {
        match &self.track.rid {
            Some(rid) if place < LEARNING || place.is_multiple_of(7) => {
                vec![(1, MID.into()), (2, rid.as_bytes().into())]
            }
            _ => Vec::new(),
        }
    }
}

/// The UDP sockets in a process's network namespace.
#[derive(Clone, Copy, Debug)]
pub struct Queues {
    pid: u32,
}

impl Queues {
    /// Of the process with this id.
    pub fn of(pid: u32) -> Self {
        Self { pid }
    }

    /// Waits until no socket has much waiting: a burst of a few dozen packets will then fit.
    pub fn calm(self) -> Result<()> {
        const MUCH: u64 = 48 << 10;
        wait::until("the SFU to read its sockets", wait::LONG, || {
            let longest = self.sockets()?.into_iter().map(|(queue, _)| queue).max();
            Ok((longest.unwrap_or(0) <= MUCH).then_some(()))
        })
    }

    /// Datagrams dropped so far by sockets that are open.
    pub fn dropped(self) -> Result<u64> {
        Ok(self.sockets()?.into_iter().map(|(_, drops)| drops).sum())
    }

    /// Bytes waiting, and drops, of each socket.
    fn sockets(self) -> Result<Vec<(u64, u64)>> {
        let mut sockets = Vec::new();
        for table in ["udp", "udp6"] {
            let path = format!("/proc/{}/net/{table}", self.pid);
            let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
            sockets.extend(text.lines().skip(1).filter_map(parse_socket));
        }
        Ok(sockets)
    }
}

fn parse_socket(line: &str) -> Option<(u64, u64)> {
    let mut fields = line.split_whitespace();
    let queue = fields.nth(4)?.split_once(':')?.1;
    let drops = fields.last()?;
    Some((u64::from_str_radix(queue, 16).ok()?, drops.parse().ok()?))
}
