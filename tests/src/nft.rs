//! The kernel's packet filter as an independent count of each UDP 5-tuple, in a test's own namespace.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::endpoint::Count;
use crate::netns::Netns;

/// Local end, then remote end.
pub type Pair = (SocketAddr, SocketAddr);

/// Counters of all UDP flows of one namespace whose local port is in the SFU's range.
#[derive(Debug)]
pub struct Nft<'a> {
    host: &'a Netns,
}

/// What nftables counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// To the local end.
    pub received: BTreeMap<Pair, Count>,
    /// From the local end.
    pub sent: BTreeMap<Pair, Count>,
}

impl<'a> Nft<'a> {
    /// Begins to count in `host`.
    pub fn start(host: &'a Netns) -> Result<Self> {
        let mut nft = host.command("nft");
        nft.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut nft = nft.spawn().context("run nft (Debian package nftables)")?;
        nft.stdin.take().context("nft's stdin")?.write_all(rules().as_bytes())?;
        let output = nft.wait_with_output()?;
        if !output.status.success() {
            bail!("nft -f -: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(Self::of(host))
    }

    /// The count that was begun in `host`.
    pub fn of(host: &'a Netns) -> Self {
        Self { host }
    }

    /// What was counted so far, as UDP payload.
    pub fn read(&self) -> Result<Counted> {
        let mut counted = Counted::default();
        for (family, headers) in [(4, 20 + 8), (6, 40 + 8)] {
            counted.received.extend(self.list(&format!("receive{family}"), headers)?);
            counted.sent.extend(self.list(&format!("send{family}"), headers)?);
        }
        Ok(counted)
    }

    fn list(&self, set: &str, headers: u64) -> Result<BTreeMap<Pair, Count>> {
        let mut nft = self.host.command("nft");
        let output = nft.args(["-j", "list", "set", "inet", "count", set]).output()?;
        let json: Value = serde_json::from_slice(&output.stdout).with_context(|| {
            format!("nft list set: {}", String::from_utf8_lossy(&output.stderr))
        })?;
        let objects = json["nftables"].as_array().context("nft lists no objects")?;
        let elements = objects.iter().filter_map(|object| object["set"]["elem"].as_array());
        elements.flatten().map(|element| parse_element(element, headers)).collect()
    }
}

fn rules() -> String {
    let mut rules = String::from("table inet count {\n");
    for (family, name) in [(4, "ipv4_addr"), (6, "ipv6_addr")] {
        for direction in ["receive", "send"] {
            rules += &format!(
                "set {direction}{family} {{ type {name} . inet_service . {name} . inet_service\n\
                 size 65535\nflags dynamic\ncounter\n}}\n"
            );
        }
    }
    for (hook, port, direction, local, remote) in [
        ("input", "dport", "receive", ("daddr", "dport"), ("saddr", "sport")),
        ("output", "sport", "send", ("saddr", "sport"), ("daddr", "dport")),
    ] {
        rules += &format!("chain {hook} {{ type filter hook {hook} priority -300;\n");
        for (family, ip) in [(4, "ip"), (6, "ip6")] {
            rules += &format!(
                "udp {port} 40000-49999 add @{direction}{family} {{ {ip} {} . udp {} . {ip} {} . \
                 udp {} }}\n",
                local.0, local.1, remote.0, remote.1
            );
        }
        rules += "}\n";
    }
    rules + "}\n"
}

/// `bytes` counts IP packets: `headers` of each are IP's and UDP's (there are no IP options here).
fn parse_element(element: &Value, headers: u64) -> Result<(Pair, Count)> {
    let element = &element["elem"];
    let parts = element["val"]["concat"].as_array().context("a set element without parts")?;
    let end = |at: usize| -> Result<SocketAddr> {
        let ip: IpAddr = parts[at].as_str().context("an address that is no text")?.parse()?;
        let port = parts[at + 1].as_u64().context("a port that is no number")?;
        Ok(SocketAddr::new(ip, port.try_into()?))
    };
    let count = |name: &str| element["counter"][name].as_u64().context("no counter");
    let packets = count("packets")?;
    let bytes = count("bytes")? - packets * headers;
    Ok(((end(0)?, end(2)?), Count { packets, bytes }))
}
