//! A few frames by hand; the whole corpus runs through this parser and through the kernel's in the
//! end-to-end tests.

extern crate std;

use std::vec::Vec;

use super::*;
use crate::abi::SEND;

/// From this port on, of either protocol.
#[derive(Clone, Copy)]
struct From(u16);

impl PortSet for From {
    fn contains(self, _: u8, port: u16) -> bool {
        u16::from_be(port) >= self.0
    }
}

const VIEW: View<From> =
    View { link: Link::Ethernet, direction: RECEIVE, ports: From(40_000), frame: 0 };

fn udp_frame(payload: usize) -> Vec<u8> {
    let mut frame = [0u8; 12].to_vec();
    frame.extend([0x08, 0x00, 0x45, 0]);
    frame.extend(((28 + payload) as u16).to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 17, 0, 0, 203, 0, 113, 7, 192, 0, 2, 1]);
    frame.extend(5000u16.to_be_bytes());
    frame.extend(40_000u16.to_be_bytes());
    frame.extend(((8 + payload) as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.resize(42 + payload, 0x80);
    frame
}

fn look(frame: &[u8], view: View<From>) -> Result<Parsed, Skip> {
    parse(Bytes::new(frame), &View { frame: frame.len() as u32, ..view })
}

#[test]
fn ends_ports_and_length() {
    let frame = udp_frame(100);
    let Ok(Parsed::V4(packet)) = look(&frame, VIEW) else { panic!("not parsed") };
    assert_eq!((packet.payload, packet.length), (42, 100));
    let key = packet.flow(RECEIVE);
    assert_eq!((key.remote, key.remote_port), ([203, 0, 113, 7], 5000));
    assert_eq!((key.local, key.local_port), ([192, 0, 2, 1], 40_000));
    assert_eq!(look(&frame, View { direction: SEND, ..VIEW }), Err(Skip::ELSEWHERE));
    assert_eq!(look(&frame, View { ports: From(40_001), ..VIEW }), Err(Skip::ELSEWHERE));
    let raw = look(&frame[14..], View { link: Link::Raw, ..VIEW });
    assert_eq!(raw, Ok(Parsed::V4(Packet { payload: 28, ..packet })));
}

#[test]
fn padding_of_the_link_is_no_payload() {
    let mut frame = udp_frame(3);
    frame.resize(60, 0);
    let Ok(Parsed::V4(packet)) = look(&frame, VIEW) else { panic!("not parsed") };
    assert_eq!(packet.length, 3);
}

#[test]
fn a_cut_frame_is_short_or_truncated() {
    let frame = udp_frame(100);
    for end in 0..frame.len() {
        let expected =
            if end < 40 { Skip::SHORT } else { Skip::event(Event::Truncated, end as u32) };
        let got = look(&frame[..end], VIEW);
        // The ports are known before the rest of the header is.
        let is_cut = got == Err(expected) || (34..40).contains(&end) && got.is_err();
        assert!(is_cut, "{end} bytes: {got:?}");
    }
}

#[test]
fn readable_bytes_may_end_before_the_frame() {
    let frame = udp_frame(100);
    let view = View { frame: frame.len() as u32, ..VIEW };
    assert!(parse(Bytes::new(&frame[..42]), &view).is_ok());
    assert_eq!(parse(Bytes::new(&frame[..36]), &view), Err(Skip::SHORT));
}
