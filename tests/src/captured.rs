//! A capture as somebody else's reader has it.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::blocks::interface_statistics::InterfaceStatisticsOption;
use pcap_file::pcapng::blocks::opt_common::CommonOption;
use pcap_file::pcapng::blocks::section_header::SectionHeaderOption;
use pcap_file::pcapng::{Block, PcapNgReader};

use crate::rtp::{self, Seen};

/// A UDP packet in a capture.
#[derive(Clone, Debug)]
pub struct Captured {
    /// Whose, in words.
    pub comment: String,
    /// It came in.
    pub inbound: bool,
    /// Name of its interface.
    pub interface: String,
    /// Since 1970.
    pub at: Duration,
    /// The sender.
    pub source: SocketAddr,
    /// The receiver.
    pub destination: SocketAddr,
    /// What of the payload is there.
    pub payload: Vec<u8>,
    /// How long the payload was.
    pub length: usize,
}

impl Captured {
    /// SSRC and sequence number, of RTP.
    pub fn rtp(&self) -> Option<(u32, u16)> {
        match rtp::read(&self.payload) {
            Seen::Rtp { ssrc, sequence, .. } => Some((ssrc, sequence)),
            _ => None,
        }
    }
}

/// A whole capture.
#[derive(Clone, Debug, Default)]
pub struct Capture {
    /// The section's comment and application.
    pub about: Vec<String>,
    /// Interfaces' names.
    pub interfaces: Vec<String>,
    /// All packets.
    pub packets: Vec<Captured>,
    /// Comments and numbers of interfaces' statistics: delivered, accepted, lost by the system.
    pub statistics: Vec<(String, [u64; 3])>,
}

impl Capture {
    /// Reads one.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut capture = Self::default();
        let mut reader = PcapNgReader::new(bytes)?;
        for option in &reader.section().options {
            match option {
                SectionHeaderOption::UserApplication(text)
                | SectionHeaderOption::Common(CommonOption::Comment(text)) => {
                    capture.about.push(text.to_string());
                }
                _ => {}
            }
        }
        while let Some(block) = reader.next_block() {
            let (block, _) = block?;
            match block {
                Block::InterfaceDescription(block) => {
                    let name = block.options.iter().find_map(|option| match option {
                        InterfaceDescriptionOption::IfName(name) => Some(name.to_string()),
                        _ => None,
                    });
                    capture.interfaces.push(name.context("an interface without a name")?);
                }
                Block::EnhancedPacket(block) => {
                    let packet = packet(&block, &capture.interfaces)?;
                    capture.packets.push(packet);
                }
                Block::InterfaceStatistics(block) => {
                    let (mut says, mut numbers) = (String::new(), [0; 3]);
                    for option in &block.options {
                        match option {
                            InterfaceStatisticsOption::IsbUsrDeliv(number) => numbers[0] = *number,
                            InterfaceStatisticsOption::IsbFilterAccept(number) => {
                                numbers[1] = *number;
                            }
                            InterfaceStatisticsOption::IsbOsDrop(number) => numbers[2] = *number,
                            InterfaceStatisticsOption::Common(CommonOption::Comment(text)) => {
                                says = text.to_string();
                            }
                            _ => {}
                        }
                    }
                    capture.statistics.push((says, numbers));
                }
                Block::SectionHeader(_) => {}
                other => bail!("a block that nobody expects: {other:?}"),
            }
        }
        Ok(capture)
    }

    /// Reads a file; where there is tcpdump, it finds as many packets.
    pub fn read(path: &Path) -> Result<Self> {
        let capture = Self::parse(&std::fs::read(path)?)?;
        match Command::new("tcpdump").args(["-nr"]).arg(path).output() {
            Ok(output) => {
                let lines = String::from_utf8_lossy(&output.stdout).lines().count();
                let complaint = String::from_utf8_lossy(&output.stderr);
                ensure!(output.status.success(), "tcpdump: {complaint}");
                ensure!(
                    lines == capture.packets.len(),
                    "tcpdump: {lines}, not {}: {complaint}",
                    capture.packets.len()
                );
            }
            Err(error) => crate::skip(&format!("tcpdump reads it, too: {error}")),
        }
        Ok(capture)
    }
}

fn packet(block: &EnhancedPacketBlock<'_>, interfaces: &[String]) -> Result<Captured> {
    let (mut comment, mut direction) = (String::new(), 0);
    for option in &block.options {
        match option {
            EnhancedPacketOption::Flags(flags) => direction = flags & 3,
            EnhancedPacketOption::Common(CommonOption::Comment(Cow::Borrowed(text))) => {
                (*text).clone_into(&mut comment);
            }
            _ => {}
        }
    }
    ensure!(direction == 1 || direction == 2, "a packet without direction: {block:?}");
    let frame = &*block.data;
    let is_ipv6 = match frame.get(12..14).context("a frame without a type")? {
        [0x08, 0x00] => false,
        [0x86, 0xdd] => true,
        other => bail!("a frame of type {other:x?}"),
    };
    let (proto, addresses, length) = if is_ipv6 { (20, 22, 16) } else { (23, 26, 4) };
    ensure!(frame[proto] == 17, "no UDP: {frame:x?}");
    let udp = addresses + 2 * length;
    let end = |number: usize| -> Result<SocketAddr> {
        let at = addresses + number * length;
        let bytes = frame.get(at..at + length).context("a short header")?;
        let ip: IpAddr = match <[u8; 4]>::try_from(bytes) {
            Ok(bytes) => bytes.into(),
            Err(_) => <[u8; 16]>::try_from(bytes)?.into(),
        };
        let port = frame.get(udp + number * 2..udp + number * 2 + 2).context("a short header")?;
        Ok(SocketAddr::new(ip, u16::from_be_bytes([port[0], port[1]])))
    };
    let number = block.interface_id as usize;
    Ok(Captured {
        comment,
        inbound: direction == 1,
        interface: interfaces.get(number).context("an interface that is not told")?.clone(),
        at: block.timestamp,
        source: end(0)?,
        destination: end(1)?,
        payload: frame.get(udp + 8..).context("a short header")?.to_vec(),
        length: block.original_len as usize - udp - 8,
    })
}
