//! What `capture` is asked for, valid.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::exporter::Exporter;
use crate::config::flags::CaptureFlags;
use crate::config::invalid::Invalid;
use crate::config::values::{Origin, bytes, duration};

/// Longer ones are what a ring of files is for, of which this makes none.
const LONGEST: Duration = Duration::from_secs(600);

/// Whose packets are captured, where to, and how many.
#[derive(Clone, Debug, PartialEq)]
pub struct Capture {
    /// Who knows whose they are.
    pub exporter: Exporter,
    /// Rooms' names.
    pub rooms: Vec<String>,
    /// Peers' ids, or what they call themselves.
    pub peers: Vec<String>,
    /// Far ends, as the exporter shows them.
    pub ips: Vec<String>,
    /// Single streams.
    pub ssrcs: Vec<u32>,
    /// How long.
    pub span: Duration,
    /// The file; `None`: standard output.
    pub write: Option<PathBuf>,
    /// It may be there already.
    pub force: bool,
    /// Bytes at most.
    pub max_bytes: u64,
    /// Packets in a second at most.
    pub max_rate: u32,
    /// Whole packets.
    pub payload: bool,
    /// Also where the exporter hides people.
    pub despite_deidentification: bool,
}

pub(super) fn capture(flags: CaptureFlags) -> Result<Capture, Invalid> {
    let CaptureFlags { exporter, rooms, peers, ips, ssrcs, span, write, stdout, .. } = flags;
    if rooms.is_empty() && peers.is_empty() && ips.is_empty() && ssrcs.is_empty() {
        return Err(Invalid(
            "capture: whose packets? expected --room, --peer, --ip or --ssrc".into(),
        ));
    }
    if write.is_some() == stdout {
        return Err(Invalid(
            "capture: where to? expected --write FILE or --stdout, one of them".into(),
        ));
    }
    let whole = span;
    let span = duration(Origin("--for"), &whole)?;
    if span.is_zero() || span > LONGEST {
        return Err(Origin("--for").refuse(&whole, "a time up to 10m such as 30s or 2m"));
    }
    Ok(Capture {
        exporter: exporter.into(),
        rooms: rooms.iter().map(|it| named("--room", it)).collect::<Result<_, _>>()?,
        peers: peers.iter().map(|it| named("--peer", it)).collect::<Result<_, _>>()?,
        ips: ips.iter().map(|it| address(it)).collect::<Result<_, _>>()?,
        ssrcs: ssrcs.iter().map(|it| ssrc(it)).collect::<Result<_, _>>()?,
        span,
        write,
        force: flags.force,
        max_bytes: bytes(Origin("--max-bytes"), &flags.max_bytes)?,
        max_rate: flags.max_rate.within("--max-rate", 1, 10_000_000)?,
        payload: flags.payload,
        despite_deidentification: flags.despite_deidentification,
    })
}

fn named(flag: &'static str, value: &str) -> Result<String, Invalid> {
    match value.is_empty() {
        true => Err(Origin(flag).refuse(value, "a name, an id or an address")),
        false => Ok(value.to_owned()),
    }
}

/// As views write it, if it is an address at all: pseudonyms and names are none.
fn address(value: &str) -> Result<String, Invalid> {
    let address = value.trim_matches(['[', ']']).parse::<IpAddr>();
    address.map_or_else(|_| named("--ip", value), |address| Ok(address.to_canonical().to_string()))
}

fn ssrc(value: &str) -> Result<u32, Invalid> {
    let hex = value.strip_prefix("0x");
    let number = hex.map_or_else(|| value.parse(), |hex| u32::from_str_radix(hex, 16));
    number.map_err(|_| Origin("--ssrc").refuse(value, "a number of 32 bits, such as 1234 or 0x4d2"))
}

#[cfg(test)]
mod tests {
    use crate::config::{Capture, Command};

    fn parse(line: &str) -> Result<Box<Capture>, String> {
        let arguments = std::iter::once("capture").chain(line.split_whitespace());
        match Command::parse(arguments, |_| None, "") {
            Ok(Command::Capture(capture)) => Ok(capture),
            Ok(other) => panic!("{line}: {other:?}"),
            Err(invalid) => Err(invalid.to_string()),
        }
    }

    #[test]
    fn defaults_are_bounds() {
        let capture = parse("--room a --peer b --ssrc 0xff --ssrc 7 --write f").unwrap();
        assert_eq!((capture.span.as_secs(), capture.max_bytes), (30, 100_000_000));
        assert_eq!((capture.max_rate, &capture.ssrcs[..]), (50_000, &[255, 7][..]));
        assert!(!capture.payload && !capture.force && !capture.despite_deidentification);
        let capture =
            parse("--ip 2001:DB8:0::1 --ip host.example --stdout --max-bytes 2MB --for 10m")
                .unwrap();
        assert_eq!((capture.write, capture.max_bytes), (None, 2_000_000));
        assert_eq!(capture.ips, ["2001:db8::1", "host.example"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |line: &str, expected: &str| {
            let said = parse(line).unwrap_err();
            assert!(said.contains(expected), "{line}: {said}");
        };
        check("--write f", "--peer");
        check("--peer b", "--stdout");
        check("--peer b --write f --stdout", "--write");
        check("--peer b --write f --for 11m", "--for");
        check("--peer b --write f --for 0", "--for");
        check("--peer b --write f --max-bytes 9k", "--max-bytes");
        check("--peer b --write f --max-bytes 5T", "--max-bytes");
        check("--peer b --write f --max-rate 0", "--max-rate");
        check("--ssrc b --write f", "--ssrc");
        check("--ssrc 4294967296 --write f", "--ssrc");
    }
}
