//! Decides which interfaces are counted on, and which addresses are this host's.
//!
//! Interfaces, addresses, routes and what the workers listen on come in as values; a list of interfaces
//! goes out. No I/O here: see `rtnetlink` for where the values come from.

use std::collections::BTreeSet;
use std::net::IpAddr;

use globset::{Glob, GlobSet, GlobSetBuilder};

/// One network interface, as rtnetlink tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// ARPHRD_*.
    pub kind: u16,
    /// IFF_UP.
    pub up: bool,
    /// The bridge or bond that it belongs to.
    pub controller: Option<u32>,
    /// The interface that a VLAN interface stands on.
    pub vlan_parent: Option<u32>,
}

/// What the kernel tells of interfaces, and the workers of themselves.
#[derive(Clone, Debug, Default)]
pub struct Situation {
    /// All interfaces.
    pub interfaces: Vec<Interface>,
    /// All addresses, by interface index.
    pub addresses: Vec<(u32, IpAddr)>,
    /// Interfaces that carry a default route.
    pub default_routes: BTreeSet<u32>,
    /// Addresses that workers listen on.
    pub listening: Vec<IpAddr>,
}

/// What comes before the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// An Ethernet header.
    Ethernet,
    /// Nothing (tun, WireGuard, PPP, tunnels).
    Raw,
}

/// One interface to count on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attach {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// What its packets begin with.
    pub layer: Layer,
}

/// The choice, and what was wanted but cannot be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Count on these, by index.
    pub attach: Vec<Attach>,
    /// Names of wanted interfaces whose link header is not understood, with their ARPHRD number.
    pub unsupported: Vec<(String, u16)>,
}

/// Chooses interfaces. With patterns: every interface that is up and matches one. Without: those
/// that are up and carry a default route or own an address that a worker listens on (the loopback
/// interface owns all of 127.0.0.0/8). When that finds none although something listens on all
/// addresses, as on a host without default route: every interface that is up.
pub fn choose(situation: &Situation, patterns: Option<&GlobSet>) -> Choice {
    let wanted = |link: &Interface| match patterns {
        Some(patterns) => patterns.is_match(&link.name),
        None => situation.default_routes.contains(&link.index) || listens(situation, link),
    };
    let mut chosen: Vec<&Interface> =
        situation.interfaces.iter().filter(|link| link.up && wanted(link)).collect();
    let everywhere = situation.listening.iter().any(IpAddr::is_unspecified);
    if chosen.is_empty() && patterns.is_none() && everywhere {
        chosen = situation.interfaces.iter().filter(|link| link.up).collect();
    }
    let mut choice = Choice::default();
    for link in chosen {
        match layer(link.kind) {
            Some(layer) => {
                let (index, name) = (link.index, link.name.clone());
                choice.attach.push(Attach { index, name, layer });
            }
            None => choice.unsupported.push((link.name.clone(), link.kind)),
        }
    }
    choice.attach.sort();
    choice.attach.dedup();
    choice
}

/// Compiles `--interface` patterns; none at all is `None`.
pub fn patterns(globs: &[String]) -> Result<Option<GlobSet>, globset::Error> {
    if globs.is_empty() {
        return Ok(None);
    }
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        set.add(Glob::new(glob)?);
    }
    set.build().map(Some)
}

fn listens(situation: &Situation, link: &Interface) -> bool {
    situation.listening.iter().map(IpAddr::to_canonical).any(|listening| {
        (listening.is_loopback() && link.kind == libc::ARPHRD_LOOPBACK)
            || situation.addresses.contains(&(link.index, listening))
    })
}

/// ARPHRD_RAWIP (include/uapi/linux/if_arp.h), unknown to libc.
const RAW_IP: u16 = 519;

fn layer(kind: u16) -> Option<Layer> {
    match kind {
        libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => Some(Layer::Ethernet),
        libc::ARPHRD_NONE
        | libc::ARPHRD_PPP
        | RAW_IP
        | libc::ARPHRD_TUNNEL
        | libc::ARPHRD_TUNNEL6
        | libc::ARPHRD_SIT
        | libc::ARPHRD_IPGRE => Some(Layer::Raw),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, kind: u16) -> Interface {
        let name = name.to_owned();
        Interface { index, name, kind, up: true, controller: None, vlan_parent: None }
    }

    fn host() -> Situation {
        let down = Interface { up: false, ..link(4, "eth1", libc::ARPHRD_ETHER) };
        Situation {
            interfaces: vec![
                link(1, "lo", libc::ARPHRD_LOOPBACK),
                link(2, "eth0", libc::ARPHRD_ETHER),
                link(3, "wg0", libc::ARPHRD_NONE),
                down,
                link(5, "can0", 280),
            ],
            addresses: vec![
                (1, "127.0.0.1".parse().unwrap()),
                (2, "192.0.2.1".parse().unwrap()),
                (3, "10.9.0.1".parse().unwrap()),
                (3, "fd00::1".parse().unwrap()),
            ],
            default_routes: BTreeSet::from([2, 4]),
            listening: Vec::new(),
        }
    }

    fn names(choice: &Choice) -> Vec<&str> {
        choice.attach.iter().map(|attach| attach.name.as_str()).collect()
    }

    #[test]
    fn default_route_and_listening_addresses_choose() {
        let check = |listening: &[&str], expected: &[&str]| {
            let listening = listening.iter().map(|ip| ip.parse().unwrap()).collect();
            let choice = choose(&Situation { listening, ..host() }, None);
            assert_eq!(names(&choice), expected);
        };
        check(&[], &["eth0"]);
        check(&["0.0.0.0"], &["eth0"]);
        check(&["127.0.0.1"], &["lo", "eth0"]);
        check(&["127.5.5.5"], &["lo", "eth0"]);
        check(&["::ffff:10.9.0.1"], &["eth0", "wg0"]);
        check(&["fd00::1", "fd00::2"], &["eth0", "wg0"]);
    }

    #[test]
    fn without_a_default_route_listening_everywhere_means_everywhere() {
        let situation = Situation {
            default_routes: BTreeSet::new(),
            listening: vec!["::".parse().unwrap()],
            ..host()
        };
        let choice = choose(&situation, None);
        assert_eq!(names(&choice), ["lo", "eth0", "wg0"]);
        assert_eq!(choice.unsupported, [("can0".to_owned(), 280)]);
        assert!(choose(&Situation { listening: vec![], ..situation }, None).attach.is_empty());
    }

    #[test]
    fn patterns_replace_the_default() {
        let check = |globs: &[&str], expected: &[&str]| {
            let globs: Vec<String> = globs.iter().map(|&glob| glob.to_owned()).collect();
            let choice = choose(&host(), patterns(&globs).unwrap().as_ref());
            assert_eq!(names(&choice), expected);
        };
        check(&["wg*"], &["wg0"]);
        check(&["eth*", "lo"], &["lo", "eth0"]);
        check(&["nothing"], &[]);
        assert!(patterns(&["a[".to_owned()]).is_err());
    }

    #[test]
    fn link_types_decide_the_layer() {
        let choice = choose(&host(), patterns(&["*".to_owned()]).unwrap().as_ref());
        let layers: Vec<Layer> = choice.attach.iter().map(|attach| attach.layer).collect();
        assert_eq!(layers, [Layer::Ethernet, Layer::Ethernet, Layer::Raw]);
    }
}
