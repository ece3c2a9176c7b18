//! RTP, RTCP and VP8 bytes as peers write and read them (RFC 3550, RFC 8285, RFC 4585, RFC 4588,
//! RFC 7741). Independent of the exporter's own parser, which it serves to test.

/// One RTP packet before it is bytes.
#[derive(Clone, Debug, Default)]
pub struct Packet {
    /// 0–127.
    pub payload_type: u8,
    /// End of a frame.
    pub marker: bool,
    /// Sequence number.
    pub sequence: u16,
    /// In units of the codec's clock.
    pub timestamp: u32,
    /// Synchronisation source.
    pub ssrc: u32,
    /// One-byte header extensions: id 1–14, 1–16 bytes.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// After the header.
    pub payload: Vec<u8>,
}

impl Packet {
    /// As on the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(12 + 8 + self.payload.len());
        let extended = u8::from(!self.extensions.is_empty()) << 4;
        bytes.push(0x80 | extended);
        bytes.push(u8::from(self.marker) << 7 | self.payload_type);
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.timestamp.to_be_bytes());
        bytes.extend(self.ssrc.to_be_bytes());
        if extended != 0 {
            bytes.extend(one_byte_extensions(&self.extensions));
        }
        bytes.extend(&self.payload);
        bytes
    }

    /// The retransmission of this packet (RFC 4588 §4): its own sequence, and the original sequence
    /// number before the payload.
    pub fn repeated(&self, ssrc: u32, payload_type: u8, sequence: u16) -> Self {
        let mut payload = self.sequence.to_be_bytes().to_vec();
        payload.extend(&self.payload);
        Self { ssrc, payload_type, sequence, payload, ..self.clone() }
    }
}

fn one_byte_extensions(extensions: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut elements = Vec::new();
    for (id, value) in extensions {
        elements.push(id << 4 | (value.len() - 1) as u8);
        elements.extend(value);
    }
    elements.resize(elements.len().next_multiple_of(4), 0);
    let mut bytes = vec![0xbe, 0xde];
    bytes.extend(((elements.len() / 4) as u16).to_be_bytes());
    bytes.extend(elements);
    bytes
}

/// What a datagram is, seen by a peer.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen {
    /// An RTP packet.
    Rtp {
        /// Its source.
        ssrc: u32,
        /// Its sequence number.
        sequence: u16,
    },
    /// A compound RTCP packet.
    Rtcp(Vec<Report>),
    /// A STUN message (RFC 8489 §5).
    Stun,
    /// None of these.
    Other,
}

/// What a peer heeds in RTCP.
#[derive(Debug, PartialEq, Eq)]
pub enum Report {
    /// A sender report: its source and the middle of its NTP time.
    Sender {
        /// Who sends.
        ssrc: u32,
        /// For the receiver report's LSR field.
        middle: u32,
    },
    /// Lost packets of `ssrc` are asked for again (RFC 4585 §6.2.1).
    Nack {
        /// Whose packets.
        ssrc: u32,
        /// Which.
        sequences: Vec<u16>,
    },
    /// A key frame of `ssrc` is asked for (RFC 4585 §6.3.1, RFC 5104 §4.3.1).
    KeyFrame {
        /// Of which stream.
        ssrc: u32,
    },
}

/// Reads a datagram; anything that is cut short is [`Seen::Other`].
pub fn read(bytes: &[u8]) -> Seen {
    match bytes {
        [first, second, ..] if first >> 6 == 2 && (192..=223).contains(second) => {
            Seen::Rtcp(read_rtcp(bytes))
        }
        [first, ..] if first >> 6 == 2 && bytes.len() >= 12 => {
            Seen::Rtp { ssrc: word(bytes, 8), sequence: word(bytes, 0) as u16 }
        }
        [0..=3, ..] if bytes.len() >= 20 && word(bytes, 4) == 0x2112_a442 => Seen::Stun,
        _ => Seen::Other,
    }
}

fn read_rtcp(mut bytes: &[u8]) -> Vec<Report> {
    let mut reports = Vec::new();
    while bytes.len() >= 8 {
        let length = 4 * (usize::from(u16::from_be_bytes([bytes[2], bytes[3]])) + 1);
        let Some((packet, rest)) = bytes.split_at_checked(length) else { break };
        match (packet[1], packet[0] & 31) {
            (200, _) if length >= 28 => {
                reports.push(Report::Sender { ssrc: word(packet, 4), middle: word(packet, 10) });
            }
            (205, 1) if length >= 16 => {
                let sequences = packet[12..].chunks_exact(4).flat_map(nacked).collect();
                reports.push(Report::Nack { ssrc: word(packet, 8), sequences });
            }
            (206, 1) if length >= 12 => {
                reports.push(Report::KeyFrame { ssrc: word(packet, 8) });
            }
            (206, 4) if length >= 20 => {
                reports.push(Report::KeyFrame { ssrc: word(packet, 12) });
            }
            _ => {}
        }
        bytes = rest;
    }
    reports
}

fn nacked(item: &[u8]) -> impl Iterator<Item = u16> + use<> {
    let first = u16::from_be_bytes([item[0], item[1]]);
    let mask = u16::from_be_bytes([item[2], item[3]]);
    let more = (0..16).filter(move |bit| mask >> bit & 1 == 1);
    std::iter::once(first).chain(more.map(move |bit| first.wrapping_add(bit + 1)))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// A sender report without report blocks (RFC 3550 §6.4.1). `ntp_milliseconds` may count from any
/// moment: only differences between a sender's own reports matter here.
pub fn sender_report(
    ssrc: u32,
    ntp_milliseconds: u64,
    timestamp: u32,
    packets: u32,
    bytes: u32,
) -> Vec<u8> {
    let seconds = (ntp_milliseconds / 1000) as u32;
    let fraction = ((ntp_milliseconds % 1000) << 32).div_ceil(1000) as u32;
    let mut report = vec![0x80, 200, 0, 6];
    for word in [ssrc, seconds, fraction, timestamp, packets, bytes] {
        report.extend(word.to_be_bytes());
    }
    report
}

/// What a receiver lost of a source (RFC 3550 §6.4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Since the last report, of 256.
    pub fraction: u8,
    /// In all, 24 bits.
    pub packets: u32,
}

/// A receiver report with one block (RFC 3550 §6.4.2).
pub fn receiver_report(own: u32, ssrc: u32, lost: Lost, highest: u32, middle: u32) -> Vec<u8> {
    let mut report = vec![0x81, 201, 0, 7];
    let lost = u32::from(lost.fraction) << 24 | lost.packets & 0xff_ffff;
    for word in [own, ssrc, lost, highest, 0, middle, 0] {
        report.extend(word.to_be_bytes());
    }
    report
}

/// Asks for one packet again.
pub fn nack(own: u32, ssrc: u32, sequence: u16) -> Vec<u8> {
    let mut message = vec![0x81, 205, 0, 3];
    message.extend(own.to_be_bytes());
    message.extend(ssrc.to_be_bytes());
    message.extend(sequence.to_be_bytes());
    message.extend([0, 0]);
    message
}

/// One packet's payload of a VP8 frame, `length` bytes in all: the descriptor with picture id,
/// TL0PICIDX and temporal layer 0 (RFC 7741 §4.2), and at a frame's start the first byte of the
/// payload header (§4.3).
pub fn vp8_payload(key: bool, start: bool, picture: u16, length: usize) -> Vec<u8> {
    let [high, low] = (picture & 0x7fff | 0x8000).to_be_bytes();
    let mut payload = vec![0x80 | u8::from(start) << 4, 0xe0, high, low, picture as u8, 0x20];
    payload.push(u8::from(start && !key));
    payload.resize(length.max(7), 0x5a);
    payload
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let packet = Packet {
            ssrc: 7,
            sequence: 65535,
            extensions: vec![(2, b"r0".into())],
            ..Packet::default()
        };
        assert_eq!(packet.to_bytes().len(), 12 + 4 + 4);
        assert_eq!(read(&packet.to_bytes()), Seen::Rtp { ssrc: 7, sequence: 65535 });
        assert_eq!(packet.repeated(8, 97, 1).to_bytes()[20..], [0xff, 0xff]);
        let asked = vec![Report::Nack { ssrc: 7, sequences: vec![9] }];
        assert_eq!(read(&nack(1, 7, 9)), Seen::Rtcp(asked));
        let mut compound = sender_report(5, 1500, 0, 0, 0);
        compound.extend(nack(1, 7, 9));
        let Seen::Rtcp(reports) = read(&compound) else { panic!("not RTCP") };
        assert_eq!(reports[0], Report::Sender { ssrc: 5, middle: 0x0001_8000 });
        assert_eq!(reports.len(), 2);
        assert_eq!(read(&[0x80, 96]), Seen::Other);
    }

    #[test]
    fn a_nack_has_a_mask() {
        let sequences: Vec<u16> = nacked(&[0xff, 0xff, 0x80, 0x01]).collect();
        assert_eq!(sequences, [65535, 0, 15]);
    }
}
