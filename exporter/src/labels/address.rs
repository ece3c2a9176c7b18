//! What becomes of the far side's address before anyone sees it.
//!
//! An address comes in, the text that may be shown goes out. In every mode but [`AddressPolicy::None`]
//! the port is left out together with the rest: a port and a time single out one subscriber behind a
//! carrier's address translation as surely as an address does. The SFU's own end is no personal datum
//! and never comes here. IPv4-mapped IPv6 is IPv4, and local or piped far ends get no exception.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipcrypt_rs::IpcryptPfx;
use ipnet::IpNet;

use crate::model::canonical_ip;

/// Length of the key of [`AddressPolicy::pseudonym`].
pub const KEY_BYTES: usize = IpcryptPfx::KEY_BYTES;

/// How the far side's address is shown.
pub enum AddressPolicy {
    /// `ip:port`, as it is (`[ip]:port` for IPv6).
    None,
    /// Only the network, as `203.0.113.0/24`; make it with [`AddressPolicy::truncate`].
    Truncate {
        /// Bits of an IPv4 address that stay.
        ipv4: u8,
        /// Bits of an IPv6 address that stay.
        ipv6: u8,
    },
    /// Another address, the same for the same key, with prefixes preserved: two addresses that share
    /// n bits have pseudonyms that share n bits. Make it with [`AddressPolicy::pseudonym`].
    Pseudonym(Box<IpcryptPfx>),
    /// Nothing.
    Drop,
    /// The replaced exporter's form: all groups but the last two are masked, `xx.xx.113.77`. It keeps
    /// the half that tells hosts apart, which is why it is not what `PROM_DEIDENTIFY` means any more.
    Legacy,
}

impl std::fmt::Debug for AddressPolicy {
    /// The mode's name: never the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Truncate { .. } => "truncate",
            Self::Pseudonym(_) => "pseudonym",
            Self::Drop => "drop",
            Self::Legacy => "legacy",
        })
    }
}

/// A policy that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPolicy {
    /// Too many bits would stay.
    #[error("truncate to /{0}: that is the whole address; keep at most {1} bits")]
    Width(u8, u8),
    /// ipcrypt-pfx needs two different halves.
    #[error("pseudonym key: its two halves are equal; take 32 random bytes")]
    EqualHalves,
}

impl AddressPolicy {
    /// Keeps the first `ipv4` or `ipv6` bits. A width that keeps the whole address is refused.
    pub fn truncate(ipv4: u8, ipv6: u8) -> Result<Self, InvalidPolicy> {
        match (ipv4, ipv6) {
            (32.., _) => Err(InvalidPolicy::Width(ipv4, 31)),
            (_, 128..) => Err(InvalidPolicy::Width(ipv6, 127)),
            _ => Ok(Self::Truncate { ipv4, ipv6 }),
        }
    }

    /// Encrypts addresses with this key, prefix-preserving.
    pub fn pseudonym(key: [u8; KEY_BYTES]) -> Result<Self, InvalidPolicy> {
        // The library panics instead.
        if key[..KEY_BYTES / 2] == key[KEY_BYTES / 2..] {
            return Err(InvalidPolicy::EqualHalves);
        }
        Ok(Self::Pseudonym(Box::new(IpcryptPfx::new(key))))
    }

    /// The policy that keeps at most this prefix of an address, if this one truncates and would keep more.
    pub fn up_to(&self, prefix: Option<IpNet>) -> Option<Self> {
        let Self::Truncate { ipv4, ipv6 } = *self else { return None };
        match prefix? {
            IpNet::V4(network) => {
                Some(Self::Truncate { ipv4: ipv4.min(network.prefix_len()), ipv6 })
            }
            IpNet::V6(network) => {
                Some(Self::Truncate { ipv4, ipv6: ipv6.min(network.prefix_len()) })
            }
        }
    }

    /// Whether addresses are shown as they are, so that their names may be too.
    pub fn shows_addresses(&self) -> bool {
        matches!(self, Self::None)
    }

    /// The far end as it may be shown.
    pub fn show(&self, remote: SocketAddr) -> String {
        let ip = canonical_ip(remote.ip());
        match self {
            Self::None => SocketAddr::new(ip, remote.port()).to_string(),
            Self::Truncate { ipv4, ipv6 } => network(ip, *ipv4, *ipv6),
            Self::Pseudonym(cipher) => cipher.encrypt_ipaddr(ip).to_string(),
            Self::Drop => String::new(),
            Self::Legacy => masked(ip),
        }
    }
}

fn network(ip: IpAddr, ipv4: u8, ipv6: u8) -> String {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(ipv4)).unwrap_or(0);
            format!("{}/{ipv4}", Ipv4Addr::from_bits(ip.to_bits() & mask))
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(ipv6)).unwrap_or(0);
            format!("{}/{ipv6}", Ipv6Addr::from_bits(ip.to_bits() & mask))
        }
    }
}

fn masked(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => {
            let [_, _, third, last] = ip.octets();
            format!("xx.xx.{third}.{last}")
        }
        IpAddr::V6(ip) => {
            let [.., seventh, last] = ip.segments();
            let mut text = "xx:".repeat(6);
            // Writing to a string cannot fail.
            let _ = write!(text, "{seventh:x}:{last:x}");
            text
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::labels::random::Random;

    const KEY: [u8; KEY_BYTES] = *b"0123456789abcdefghijklmnopqrstuv";

    fn policies() -> [AddressPolicy; 4] {
        [
            AddressPolicy::truncate(24, 48).unwrap(),
            AddressPolicy::pseudonym(KEY).unwrap(),
            AddressPolicy::Drop,
            AddressPolicy::Legacy,
        ]
    }

    fn check(policy: &AddressPolicy, remote: &str, expected: &str) {
        assert_eq!(policy.show(remote.parse().unwrap()), expected, "{policy:?} of {remote}");
    }

    #[test]
    fn each_mode_has_its_form() {
        let [truncate, _, drop, legacy] = policies();
        let none = AddressPolicy::None;
        check(&none, "203.0.113.77:4000", "203.0.113.77:4000");
        check(&none, "[2001:db8::77]:4000", "[2001:db8::77]:4000");
        check(&none, "[::ffff:203.0.113.77]:4000", "203.0.113.77:4000");
        check(&truncate, "203.0.113.77:4000", "203.0.113.0/24");
        check(&truncate, "[::ffff:203.0.113.77]:4000", "203.0.113.0/24");
        check(&truncate, "[2001:db8:1:2:3:4:5:6]:4000", "2001:db8:1::/48");
        check(&truncate, "127.0.0.1:4000", "127.0.0.0/24");
        check(&drop, "203.0.113.77:4000", "");
        check(&legacy, "203.0.113.77:4000", "xx.xx.113.77");
        check(&legacy, "[::ffff:203.0.113.77]:4000", "xx.xx.113.77");
        check(&legacy, "[2001:db8:1:2:3:4:5:6]:4000", "xx:xx:xx:xx:xx:xx:5:6");
        check(&AddressPolicy::truncate(0, 0).unwrap(), "203.0.113.77:4000", "0.0.0.0/0");
        check(&AddressPolicy::truncate(0, 0).unwrap(), "[2001:db8::1]:4000", "::/0");
    }

    #[test]
    fn an_announced_network_only_makes_coarser() {
        let policy = AddressPolicy::truncate(24, 48).unwrap();
        let shown = |remote: &str, announced: &str| {
            let announced = Some(announced.parse().unwrap());
            policy.up_to(announced).unwrap().show(remote.parse().unwrap())
        };
        assert_eq!(shown("203.0.113.77:1", "203.0.112.0/22"), "203.0.112.0/22");
        assert_eq!(shown("203.0.113.77:1", "203.0.113.64/26"), "203.0.113.0/24");
        assert_eq!(shown("203.0.113.77:1", "203.0.113.77/32"), "203.0.113.0/24");
        assert_eq!(shown("[2001:db8:1:2::3]:1", "2001:db8::/32"), "2001:db8::/32");
        assert_eq!(shown("[2001:db8:1:2::3]:1", "2001:db8:1:2::/64"), "2001:db8:1::/48");
        assert!(policy.up_to(None).is_none());
        assert!(AddressPolicy::Drop.up_to(Some("203.0.112.0/22".parse().unwrap())).is_none());
    }

    #[test]
    fn impossible_policies_are_refused() {
        assert_eq!(AddressPolicy::truncate(32, 48).unwrap_err(), InvalidPolicy::Width(32, 31));
        assert_eq!(AddressPolicy::truncate(24, 128).unwrap_err(), InvalidPolicy::Width(128, 127));
        let equal = AddressPolicy::pseudonym([7; KEY_BYTES]).unwrap_err();
        assert_eq!(equal, InvalidPolicy::EqualHalves);
    }

    #[test]
    fn no_mode_shows_an_address_or_a_port() {
        let mut random = Random(0x5eed);
        for _ in 0..2_000 {
            let remote = random.remote();
            let ip = remote.ip();
            for policy in policies() {
                let text = policy.show(remote);
                // A network's own first address is no host's.
                let network = matches!(policy, AddressPolicy::Truncate { .. })
                    && text.starts_with(&format!("{ip}/"));
                assert!(network || !text.contains(&ip.to_string()), "{policy:?}: {ip} in {text}");
                assert!(!text.contains(&format!(":{}", remote.port())) || ip.is_ipv6());
            }
        }
    }

    #[test]
    fn the_port_changes_nothing() {
        let mut random = Random(0x909);
        for _ in 0..1000 {
            let one = random.remote();
            let other = SocketAddr::new(one.ip(), random.next() as u16);
            for policy in policies() {
                assert_eq!(policy.show(one), policy.show(other), "{policy:?}");
            }
        }
    }

    #[test]
    fn pseudonyms_preserve_prefixes_and_nothing_else() {
        fn common(one: IpAddr, other: IpAddr) -> u32 {
            match (one, other) {
                (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
                (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
                _ => panic!("families differ"),
            }
        }
        let policy = AddressPolicy::pseudonym(KEY).unwrap();
        let shown = |ip: IpAddr| -> IpAddr {
            policy.show(SocketAddr::new(ip, 1)).parse().expect("a pseudonym is an address")
        };
        let mut random = Random(0xcafe);
        for _ in 0..200 {
            let bits = random.next() as u32;
            let near = bits ^ (1 << (random.next() % 32));
            let (a, b) = (IpAddr::V4(bits.into()), IpAddr::V4(near.into()));
            assert_eq!(common(shown(a), shown(b)), common(a, b));
            let bits = u128::from(random.next()) << 64 | u128::from(random.next());
            let near = bits ^ (1 << (random.next() % 128));
            let (a, b) = (IpAddr::V6(bits.into()), IpAddr::V6(near.into()));
            assert_eq!(common(shown(a), shown(b)), common(a, b));
        }
    }
}
