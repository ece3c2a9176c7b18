//! Decides which interfaces are counted on.
//!
//! Interfaces, addresses and routes come in as values; a list of interfaces goes out, the ones that
//! matter most first. No I/O here: see `rtnetlink` for where the values come from.
//!
//! Linux takes a packet for any of its addresses on any of its interfaces, and answers by whichever
//! route there is; a far side on the same host comes by `lo`, whatever the address. So unless the
//! operator says otherwise, every interface that is up is counted on, before a worker is there and
//! whatever it is bound to: nothing is missed when a worker binds another address, and what is no
//! worker's is turned away by four comparisons. That a packet passes several interfaces (a bridge and its
//! members, a VLAN, a veth pair) does no harm: it carries a mark once it is counted.

use std::collections::BTreeSet;
use std::net::IpAddr;

use globset::{Glob, GlobSet, GlobSetBuilder};

/// Interfaces that are counted on at most. Each holds up to four descriptors, and a service has 1024
/// unless it is given more.
pub const MOST_INTERFACES: usize = 128;

/// One network interface, as rtnetlink tells it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    /// Of a veth whose other end is in another network namespace: that namespace's number here.
    pub far_namespace: Option<i32>,
}

/// What the kernel tells of interfaces.
#[derive(Clone, Debug, Default)]
pub struct Situation {
    /// All interfaces.
    pub interfaces: Vec<Interface>,
    /// All addresses, by interface index.
    pub addresses: Vec<(u32, IpAddr)>,
    /// Numbers of the network namespaces of workers, as [`Interface::far_namespace`] has them.
    pub workers: BTreeSet<i32>,
}

/// What comes before the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// An Ethernet header.
    Ethernet,
    /// Nothing (tun, WireGuard, PPP, tunnels).
    Raw,
    /// What GRE over IPv4 or InfiniBand puts there, or nothing.
    Wrapped,
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
    /// This host's end of a veth pair into another network namespace. What goes out here is received
    /// there, and what comes in was sent there; a worker's far side may be in the host or in the next
    /// container, and addresses may have been translated on the way, so that no other interface sees
    /// the worker's own.
    pub crossing: bool,
}

/// The choice, and what was wanted but cannot be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Count on these; the most important first.
    pub attach: Vec<Attach>,
    /// Names of wanted interfaces whose link header is not understood, with their ARPHRD number.
    pub unsupported: Vec<(String, u16)>,
    /// Wanted interfaces for which there was no room.
    pub left_out: usize,
}

/// Chooses interfaces: those that are up and match a pattern; without patterns, all that are up.
pub fn choose(situation: &Situation, patterns: Option<&GlobSet>) -> Choice {
    let wanted = |link: &Interface| patterns.is_none_or(|it| it.is_match(&link.name));
    let mut chosen: Vec<&Interface> =
        situation.interfaces.iter().filter(|link| link.up && wanted(link)).collect();
    let addressed: BTreeSet<u32> = situation.addresses.iter().map(|&(index, _)| index).collect();
    chosen.sort_by_key(|link| (rank(link, &addressed, &situation.workers), link.index));
    let mut choice = Choice::default();
    for link in chosen {
        match layer(link.kind) {
            Some(_) if choice.attach.len() >= MOST_INTERFACES => choice.left_out += 1,
            Some(layer) => choice.attach.push(Attach {
                index: link.index,
                name: link.name.clone(),
                layer,
                crossing: link.far_namespace.is_some(),
            }),
            // Without an address nothing of IP's is to be expected (CAN, say), unless it was asked for.
            None if patterns.is_some() || addressed.contains(&link.index) => {
                choice.unsupported.push((link.name.clone(), link.kind));
            }
            None => {}
        }
    }
    choice
}

/// Who gives way where there are too many: ends of containers' links that have no worker, before
/// members of bridges, before interfaces with an address of their own and workers' containers.
fn rank(link: &Interface, addressed: &BTreeSet<u32>, workers: &BTreeSet<i32>) -> u8 {
    let reaches_worker = link.far_namespace.is_some_and(|number| workers.contains(&number));
    match () {
        () if link.kind == libc::ARPHRD_LOOPBACK => 0,
        () if addressed.contains(&link.index) || reaches_worker => 1,
        () if link.far_namespace.is_none() => 2,
        () => 3,
    }
}

/// An interface to capture on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Top {
    /// Which.
    pub attach: Attach,
    /// Packets with a VLAN tag are another interface's, on which they are captured, too.
    pub skip_tagged: bool,
}

/// Where interfaces stand on each other, a packet passes several. Without the marks that the kernel
/// program leaves on packets, it must be captured on one only: not on members of a bridge or bond if
/// anything else is captured, and with its VLAN tag not below a VLAN interface that is.
pub fn on_top(chosen: &[Attach], situation: &Situation) -> Vec<Top> {
    let is_chosen = |index: u32| chosen.iter().any(|attach| attach.index == index);
    let belongs = |attach: &Attach| {
        let link = situation.interfaces.iter().find(|link| link.index == attach.index);
        link.is_some_and(|link| link.controller.is_some())
    };
    let only_members = chosen.iter().all(belongs);
    let is_member = |attach: &Attach| !only_members && belongs(attach);
    let carries_vlans = |attach: &Attach| {
        let mut links = situation.interfaces.iter();
        links.any(|link| link.vlan_parent == Some(attach.index) && is_chosen(link.index))
    };
    let tops = chosen.iter().filter(|attach| !is_member(attach));
    tops.map(|attach| Top { attach: attach.clone(), skip_tagged: carries_vlans(attach) }).collect()
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

/// ARPHRD_RAWIP and ARPHRD_IP6GRE (include/uapi/linux/if_arp.h), unknown to libc.
const RAW_IP: u16 = 519;
const IP6_GRE: u16 = 823;

fn layer(kind: u16) -> Option<Layer> {
    match kind {
        libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => Some(Layer::Ethernet),
        libc::ARPHRD_NONE
        | libc::ARPHRD_PPP
        | RAW_IP
        | libc::ARPHRD_TUNNEL
        | libc::ARPHRD_TUNNEL6
        | libc::ARPHRD_SIT
        | IP6_GRE => Some(Layer::Raw),
        libc::ARPHRD_IPGRE | libc::ARPHRD_INFINIBAND => Some(Layer::Wrapped),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ARPHRD_X25
    const X25: u16 = 271;

    fn link(index: u32, name: &str, kind: u16) -> Interface {
        Interface { index, name: name.to_owned(), kind, up: true, ..Interface::default() }
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
                link(6, "ib0", libc::ARPHRD_INFINIBAND),
                link(8, "x25", X25),
                link(7, "gre6", IP6_GRE),
            ],
            addresses: vec![
                (2, "192.0.2.1".parse().unwrap()),
                (3, "fd00::1".parse().unwrap()),
                (6, "10.9.0.1".parse().unwrap()),
                (8, "10.9.1.1".parse().unwrap()),
            ],
            workers: BTreeSet::new(),
        }
    }

    fn names(choice: &Choice) -> Vec<&str> {
        choice.attach.iter().map(|attach| attach.name.as_str()).collect()
    }

    #[test]
    fn without_patterns_all_that_are_up_and_understood_are_chosen() {
        let choice = choose(&host(), None);
        assert_eq!(names(&choice), ["lo", "eth0", "wg0", "ib0", "gre6"]);
        let layers: Vec<Layer> = choice.attach.iter().map(|attach| attach.layer).collect();
        let (ethernet, raw) = (Layer::Ethernet, Layer::Raw);
        assert_eq!(layers, [ethernet, ethernet, raw, Layer::Wrapped, raw]);
        // Only where IP is spoken something is missing.
        assert_eq!(choice.unsupported, [("x25".to_owned(), X25)]);
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
        let choice = choose(&host(), patterns(&["can0".to_owned()]).unwrap().as_ref());
        assert_eq!(choice.unsupported, [("can0".to_owned(), 280)]);
    }

    #[test]
    fn with_too_many_interfaces_containers_without_workers_give_way() {
        let mut situation = host();
        for number in 0_u32..500 {
            let index = 100 + number;
            situation.interfaces.push(Interface {
                controller: Some(2),
                far_namespace: Some(number.cast_signed()),
                ..link(index, &format!("veth{number}"), libc::ARPHRD_ETHER)
            });
        }
        situation.interfaces.push(link(900, "eth2", libc::ARPHRD_ETHER));
        situation.addresses.push((900, "198.51.100.1".parse().unwrap()));
        situation.workers.insert(450);
        let choice = choose(&situation, None);
        let names = names(&choice);
        assert_eq!(names.len(), MOST_INTERFACES);
        assert_eq!(names[..7], ["lo", "eth0", "wg0", "ib0", "veth450", "eth2", "gre6"]);
        assert_eq!(choice.left_out, 500 + 6 - MOST_INTERFACES);
        assert!(choice.attach[4].crossing && !choice.attach[5].crossing);
    }

    #[test]
    fn of_a_stack_only_the_top_is_captured() {
        let link = |index: u32, controller, vlan_parent| Interface {
            index,
            name: format!("if{index}"),
            kind: 1,
            up: true,
            controller,
            vlan_parent,
            ..Interface::default()
        };
        // 2 is a member of bridge 3; VLAN interface 4 stands on 3.
        let links = vec![link(2, Some(3), None), link(3, None, None), link(4, None, Some(3))];
        let situation = Situation { interfaces: links, ..Situation::default() };
        let check = |chosen: &[u32], expected: &[(u32, bool)]| {
            let attach = |&index: &u32| {
                let name = format!("if{index}");
                Attach { index, name, layer: Layer::Ethernet, crossing: false }
            };
            let chosen: Vec<Attach> = chosen.iter().map(attach).collect();
            let captured = on_top(&chosen, &situation);
            let captured: Vec<(u32, bool)> =
                captured.iter().map(|what| (what.attach.index, what.skip_tagged)).collect();
            assert_eq!(captured, expected);
        };
        check(&[2], &[(2, false)]);
        check(&[2, 3], &[(3, false)]);
        check(&[2, 3, 4], &[(3, true), (4, false)]);
        check(&[2, 4], &[(4, false)]);
    }
}
