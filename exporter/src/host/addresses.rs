//! Which addresses are local, and to which network namespace, within bounds.
//!
//! Prefixes come in as the host and each other namespace has them; what is to be counted as local goes
//! out. Everybody on the host can make a network namespace of his own with whatever addresses he
//! likes, and a process in it that looks like a worker. So the host's own come first, nobody else's can
//! stand within them, each other namespace has a room of its own, and namespaces of unprivileged users
//! come last.

use std::collections::{HashMap, HashSet};

use ipnet::IpNet;

use super::namespaces::NamespaceCookie;

/// Prefixes that can count as local, of either family.
pub const MAX_LOCAL: u32 = 4096;
/// Prefixes of one other network namespace.
pub const MOST_OF_NAMESPACE: usize = 64;
/// Prefixes of all other network namespaces.
const MOST_FOREIGN: usize = 1024;

/// What another network namespace has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign {
    /// The namespace.
    pub namespace: NamespaceCookie,
    /// It was made by somebody who needed no right on this host to make it.
    pub is_unprivileged: bool,
    /// Its prefixes, loopback apart.
    pub prefixes: Vec<IpNet>,
}

/// What counts as local.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Local {
    /// Each prefix once, with the namespace that it leads to; this host's first.
    pub prefixes: Vec<(IpNet, NamespaceCookie)>,
    /// Prefixes of this host that there was no room for.
    pub left_out: usize,
    /// Prefixes of other namespaces that there was no room for.
    pub foreign_left_out: usize,
}

/// Brings them together.
pub fn local(
    own: NamespaceCookie,
    host: impl IntoIterator<Item = IpNet>,
    foreign: &[Foreign],
) -> Local {
    let mut local = Local::default();
    let mut of_host = HashSet::new();
    for prefix in host {
        let prefix = canonical(prefix);
        if !of_host.insert(prefix) {
            continue;
        }
        match local.prefixes.len() < MAX_LOCAL as usize {
            true => local.prefixes.push((prefix, own)),
            false => local.left_out += 1,
        }
    }
    let most = (MAX_LOCAL as usize).min(local.prefixes.len() + MOST_FOREIGN);
    let mut taken = HashSet::new();
    let mut by_namespace: HashMap<NamespaceCookie, usize> = HashMap::new();
    let (unprivileged, privileged): (Vec<_>, Vec<_>) =
        foreign.iter().partition(|foreign| foreign.is_unprivileged);
    for Foreign { namespace, prefixes, .. } in privileged.into_iter().chain(unprivileged) {
        for prefix in prefixes.iter().map(|&prefix| canonical(prefix)) {
            if is_within(prefix, &of_host) || !taken.insert(prefix) {
                continue;
            }
            let count = by_namespace.entry(*namespace).or_default();
            if *count >= MOST_OF_NAMESPACE || local.prefixes.len() >= most {
                local.foreign_left_out += 1;
                continue;
            }
            *count += 1;
            local.prefixes.push((prefix, *namespace));
        }
    }
    local
}

/// The longest match decides, so a prefix within another would take addresses from it.
fn is_within(prefix: IpNet, others: &HashSet<IpNet>) -> bool {
    std::iter::successors(Some(prefix), IpNet::supernet).any(|it| others.contains(&it))
}

/// Without host bits, and never IPv4-mapped.
fn canonical(prefix: IpNet) -> IpNet {
    if let IpNet::V6(v6) = prefix
        && let (Some(v4), Some(length)) =
            (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(96))
        && let Ok(mapped) = IpNet::new(v4.into(), length)
    {
        return mapped.trunc();
    }
    prefix.trunc()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const OWN: NamespaceCookie = NamespaceCookie(1);

    fn prefixes(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn foreign(number: u64, is_unprivileged: bool, prefixes: Vec<IpNet>) -> Foreign {
        Foreign { namespace: NamespaceCookie(number), is_unprivileged, prefixes }
    }

    fn many(first: u32, count: u32) -> Vec<IpNet> {
        (first..first + count)
            .map(|it| IpNet::from(std::net::IpAddr::V4(Ipv4Addr::from(it))))
            .collect()
    }

    #[test]
    fn each_prefix_is_there_once_with_its_namespace() {
        let host = prefixes(&["192.0.2.1/32", "192.0.2.1/32", "::ffff:192.0.2.2/128", "fd00::/64"]);
        let found = local(OWN, host, &[foreign(2, false, prefixes(&["172.17.0.2/32"]))]);
        let expected =
            [("192.0.2.1/32", 1), ("192.0.2.2/32", 1), ("fd00::/64", 1), ("172.17.0.2/32", 2)];
        let expected: Vec<(IpNet, NamespaceCookie)> =
            expected.map(|(text, it)| (text.parse().unwrap(), NamespaceCookie(it))).to_vec();
        assert_eq!(found.prefixes, expected);
        assert_eq!((found.left_out, found.foreign_left_out), (0, 0));
    }

    #[test]
    fn nobody_takes_addresses_from_the_host() {
        let host = prefixes(&["203.0.113.0/24", "192.0.2.1/32"]);
        let thief = prefixes(&["203.0.113.7/32", "203.0.113.0/25", "192.0.2.1/32", "192.0.2.0/24"]);
        let found = local(OWN, host, &[foreign(9, true, thief)]);
        let of_thief: Vec<IpNet> =
            found.prefixes.iter().filter(|row| row.1 != OWN).map(|row| row.0).collect();
        // A larger one does no harm: the longest match is the host's.
        assert_eq!(of_thief, prefixes(&["192.0.2.0/24"]));
    }

    #[test]
    fn many_addresses_of_a_users_namespace_push_nobody_out() {
        let host = many(0x0a00_0000, 3000);
        let user = foreign(7, true, many(0x1400_0000, 20_000));
        let container = foreign(8, false, prefixes(&["172.17.0.2/32"]));
        let found = local(OWN, host, &[user, container]);
        let of =
            |number| found.prefixes.iter().filter(|it| it.1 == NamespaceCookie(number)).count();
        assert_eq!((of(1), of(7), of(8)), (3000, MOST_OF_NAMESPACE, 1));
        assert_eq!(found.prefixes[3000].1, NamespaceCookie(8));
        assert_eq!(found.foreign_left_out, 20_000 - MOST_OF_NAMESPACE);
        // And many such namespaces neither.
        let users: Vec<Foreign> = (0..500)
            .map(|it| foreign(100 + it, true, many(0x1400_0000 + (it as u32) * 64, 64)))
            .collect();
        let found = local(OWN, many(0x0a00_0000, 5000), &users);
        assert_eq!(found.prefixes.len(), MAX_LOCAL as usize);
        assert!(found.prefixes.iter().all(|row| row.1 == OWN));
        assert_eq!(found.left_out, 5000 - MAX_LOCAL as usize);
    }
}
