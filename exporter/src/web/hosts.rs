//! Whom a request may be for: a page in an operator's browser must not read the metrics by having its own
//! name resolve to this host (DNS rebinding). Names in, a decision out.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use hyper::header::HOST;
use hyper::http::Version;
use hyper::http::uri::Authority;
use hyper::{HeaderMap, Uri};

/// Names under which the exporter answers, besides addresses and `localhost`.
#[derive(Clone, Debug, Default)]
pub struct Hosts {
    names: BTreeSet<String>,
    /// Each is what a name may end in, from its dot on.
    suffixes: Vec<String>,
    all: bool,
}

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It names no host, or several (RFC 9112 §3.2).
    Unclear,
    /// It is for another host, by this name.
    Foreign(String),
}

impl Hosts {
    /// These names; `*` is every one, and `*.example.org` every one that ends so.
    pub fn new(names: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        let mut hosts = Self::default();
        for name in names {
            let name = name.as_ref().trim().trim_end_matches('.').to_ascii_lowercase();
            match name.strip_prefix('*') {
                Some("") => hosts.all = true,
                Some(suffix) => hosts.suffixes.push(suffix.to_owned()),
                None if name.is_empty() => {}
                None => drop(hosts.names.insert(name)),
            }
        }
        hosts
    }

    /// Whether a request's target, or else its `Host`, names this host.
    pub(super) fn judge(
        &self,
        version: Version,
        target: &Uri,
        headers: &HeaderMap,
    ) -> Result<(), Refusal> {
        let mut fields = headers.get_all(HOST).iter();
        let field = match (fields.next(), fields.next()) {
            (Some(field), None) => Some(field),
            (None, None) if version < Version::HTTP_11 => None,
            _ => return Err(Refusal::Unclear),
        };
        let field = field.map(|field| Authority::try_from(field.as_bytes()));
        let field = field.transpose().map_err(|_| Refusal::Unclear)?;
        // The target counts where it names a host (RFC 9112 §3.2.2). A browser always sends one of both.
        let Some(host) = target.host().or(field.as_ref().map(Authority::host)) else {
            return Ok(());
        };
        match self.allows(host) {
            true => Ok(()),
            false => Err(Refusal::Foreign(host.to_owned())),
        }
    }

    fn allows(&self, host: &str) -> bool {
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if self.all
            || host.parse::<Ipv4Addr>().is_ok()
            || bare.is_some_and(|bare| bare.parse::<Ipv6Addr>().is_ok())
        {
            return true;
        }
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        // Browsers take these for this machine, whatever a name server says (RFC 6761 §6.3).
        name == "localhost"
            || name.ends_with(".localhost")
            || self.names.contains(&name)
            || self.suffixes.iter().any(|suffix| name.ends_with(suffix.as_str()))
    }
}

/// The host's own names: its node name, that with each of the search domains, and the names that stand beside
/// it in the file of hosts.
pub fn own_names(node: &str, resolv_conf: &str, hosts: &str) -> Vec<String> {
    let node = node.trim();
    if node.is_empty() {
        return Vec::new();
    }
    let mut names = vec![node.to_owned()];
    for line in resolv_conf.lines() {
        let mut words = line.split_whitespace();
        if matches!(words.next(), Some("search" | "domain")) {
            names.extend(words.map(|domain| format!("{node}.{domain}")));
        }
    }
    let short = node.split('.').next().unwrap_or(node);
    for line in hosts.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let beside: Vec<&str> = line.split_whitespace().skip(1).collect();
        if beside.iter().any(|name| [node, short].contains(name)) {
            names.extend(beside.into_iter().map(str::to_owned));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(hosts: &Hosts, target: &str, fields: &[&str]) -> Result<(), Refusal> {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(HOST, field.parse().unwrap());
        }
        hosts.judge(Version::HTTP_11, &target.parse().unwrap(), &headers)
    }

    #[test]
    fn only_own_names_and_addresses_are_answered() {
        let hosts = Hosts::new(["sfu1", "SFU1.example.org.", "*.metrics.example.org", ""]);
        for host in [
            "127.0.0.1",
            "127.0.0.1:8889",
            "[::1]:8889",
            "[2001:db8::1]",
            "localhost",
            "LOCALHOST:1",
            "a.localhost",
            "sfu1:8889",
            "sfu1.example.org",
            "sfu1.example.org.:80",
            "a.metrics.example.org",
        ] {
            assert_eq!(judge(&hosts, "/", &[host]), Ok(()), "{host}");
        }
        for host in [
            "evil.example",
            "sfu1.evil.example",
            "127.0.0.1.evil.example",
            "metrics.example.org",
            "evilmetrics.example.org",
            "localhost.evil.example",
            "0x7f000001",
            "2130706433",
            "127.1",
        ] {
            let refusal = Refusal::Foreign(host.to_owned());
            assert_eq!(judge(&hosts, "/", &[host]), Err(refusal), "{host}");
        }
        assert_eq!(judge(&Hosts::new(["*"]), "/", &["evil.example"]), Ok(()));
    }

    #[test]
    fn a_request_names_one_host() {
        let hosts = Hosts::default();
        for fields in [&[][..], &["localhost", "localhost"], &["a b"], &[""]] {
            assert_eq!(judge(&hosts, "/", fields), Err(Refusal::Unclear), "{fields:?}");
        }
        let old = hosts.judge(Version::HTTP_10, &"/".parse().unwrap(), &HeaderMap::new());
        assert_eq!(old, Ok(()));
        // The target beats the header.
        assert!(judge(&hosts, "http://evil.example/", &["localhost"]).is_err());
        assert_eq!(judge(&hosts, "http://127.0.0.1/", &["evil.example"]), Ok(()));
    }

    #[test]
    fn a_host_knows_its_names() {
        let resolv = "nameserver 192.0.2.1\nsearch example.org lab.example.org\n";
        let hosts =
            "127.0.0.1 localhost\n127.0.1.1 sfu1.campus.example sfu1 # here\n192.0.2.9 other\n";
        let names = own_names("sfu1\n", resolv, hosts);
        let expected =
            ["sfu1", "sfu1.example.org", "sfu1.lab.example.org", "sfu1.campus.example", "sfu1"];
        assert_eq!(names, expected);
        assert!(own_names("", resolv, hosts).is_empty());
    }
}
