//! Country, city and autonomous system of an address, from MaxMind databases that someone else read.
//!
//! Works on the address as it is, before any policy: a place is what an operator may know when the
//! address is none of his business.

use std::net::{IpAddr, SocketAddr};

use maxminddb::{MaxMindDbError, Reader};
use serde::Deserialize;

use crate::model::canonical_ip;

/// The databases, each asked in turn; what an earlier one knows is not asked again.
#[derive(Default)]
pub struct Geo {
    databases: Vec<Reader<Vec<u8>>>,
}

/// What is known of an address; empty where nothing is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// ISO 3166-1 code.
    pub country: String,
    /// English name.
    pub city: String,
    /// Number of the autonomous system.
    pub asn: String,
    /// Its holder.
    pub as_org: String,
}

impl Geo {
    /// No databases: nothing is known, and the labels are left out.
    pub fn none() -> Self {
        Self::default()
    }

    /// Adds a database, given as a file's content.
    pub fn add(&mut self, content: Vec<u8>) -> Result<(), MaxMindDbError> {
        self.databases.push(Reader::from_source(content)?);
        Ok(())
    }

    /// Whether there is a database at all.
    pub fn is_empty(&self) -> bool {
        self.databases.is_empty()
    }

    /// Where this address is.
    pub fn place(&self, remote: SocketAddr) -> Place {
        let ip = canonical_ip(remote.ip());
        let mut place = Place::default();
        for database in &self.databases {
            place.learn(record(database, ip));
        }
        place
    }
}

impl Place {
    fn learn(&mut self, record: Record<'_>) {
        let Record { country, registered_country, city, number, organization } = record;
        let code = country.and_then(|country| country.iso_code);
        let registered = registered_country.and_then(|country| country.iso_code);
        fill(&mut self.country, code.or(registered));
        fill(&mut self.city, city.and_then(|city| city.names).and_then(|names| names.en));
        fill(&mut self.asn, number.map(|number| number.to_string()).as_deref());
        fill(&mut self.as_org, organization);
    }
}

fn fill(field: &mut String, known: Option<&str>) {
    if let Some(known) = known.filter(|_| field.is_empty()) {
        known.clone_into(field);
    }
}

/// A broken record is as good as none: a database must not be able to end a scrape.
fn record(database: &Reader<Vec<u8>>, ip: IpAddr) -> Record<'_> {
    database.lookup(ip).and_then(|found| found.decode()).ok().flatten().unwrap_or_default()
}

#[derive(Default, Deserialize)]
struct Record<'a> {
    #[serde(borrow, default)]
    country: Option<Country<'a>>,
    #[serde(borrow, default)]
    registered_country: Option<Country<'a>>,
    #[serde(borrow, default)]
    city: Option<City<'a>>,
    #[serde(rename = "autonomous_system_number", default)]
    number: Option<u32>,
    #[serde(rename = "autonomous_system_organization", default)]
    organization: Option<&'a str>,
}

#[derive(Deserialize)]
struct Country<'a> {
    #[serde(default)]
    iso_code: Option<&'a str>,
}

#[derive(Deserialize)]
struct City<'a> {
    #[serde(borrow, default)]
    names: Option<Names<'a>>,
}

#[derive(Deserialize)]
struct Names<'a> {
    #[serde(default)]
    en: Option<&'a str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy)]
    enum Slot {
        Empty,
        Node(usize),
        Data,
    }

    /// A MaxMind database (format 2.0) that gives one record to all of 2001:db8::/32 and, as IPv4
    /// addresses live under ::/96, to all of 203.0.113.0/24.
    fn database(record: &[u8]) -> Vec<u8> {
        let mut nodes = vec![[Slot::Empty; 2]];
        for (bits, length) in [(0xcb00_7100_u128, 120), (0x2001_0db8 << 96, 32)] {
            let mut at = 0;
            for depth in 0..length {
                let side = (bits >> (127 - depth) & 1) as usize;
                let next = nodes.len();
                at = match nodes[at][side] {
                    _ if depth + 1 == length => {
                        nodes[at][side] = Slot::Data;
                        break;
                    }
                    Slot::Node(node) => node,
                    Slot::Empty | Slot::Data => {
                        nodes[at][side] = Slot::Node(next);
                        nodes.push([Slot::Empty; 2]);
                        next
                    }
                };
            }
        }
        let mut file = Vec::new();
        for slot in nodes.iter().flatten() {
            let value = match slot {
                Slot::Empty => nodes.len(),
                Slot::Node(node) => *node,
                Slot::Data => nodes.len() + 16,
            };
            file.extend_from_slice(&(value as u32).to_be_bytes()[1..]);
        }
        file.extend_from_slice(&[0; 16]);
        file.extend_from_slice(record);
        file.extend_from_slice(b"\xab\xcd\xefMaxMind.com");
        file.extend(map(&[
            ("binary_format_major_version", vec![5 << 5 | 1, 2]),
            ("binary_format_minor_version", vec![5 << 5]),
            ("build_epoch", vec![0, 2]),
            ("database_type", text("Test")),
            ("description", map(&[])),
            ("ip_version", vec![5 << 5 | 1, 6]),
            ("languages", vec![0, 4]),
            ("node_count", number(nodes.len() as u32)),
            ("record_size", vec![5 << 5 | 1, 24]),
        ]));
        file
    }

    fn map(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = vec![7 << 5 | entries.len() as u8];
        for (key, value) in entries {
            bytes.extend(text(key));
            bytes.extend(value);
        }
        bytes
    }

    fn text(text: &str) -> Vec<u8> {
        let mut bytes = match text.len() {
            length @ 0..29 => vec![2 << 5 | length as u8],
            length => vec![2 << 5 | 29, length as u8 - 29],
        };
        bytes.extend_from_slice(text.as_bytes());
        bytes
    }

    fn number(number: u32) -> Vec<u8> {
        let mut bytes = vec![6 << 5 | 4];
        bytes.extend_from_slice(&number.to_be_bytes());
        bytes
    }

    fn check(geo: &Geo, remote: &str, expected: [&str; 4]) {
        let Place { country, city, asn, as_org } = geo.place(remote.parse().unwrap());
        assert_eq!([&*country, &*city, &*asn, &*as_org], expected, "{remote}");
    }

    #[test]
    fn databases_complete_each_other() {
        let mut geo = Geo::none();
        assert!(geo.is_empty());
        geo.add(database(&map(&[
            ("country", map(&[("iso_code", text("SE"))])),
            ("city", map(&[("names", map(&[("en", text("Lule\u{e5}"))]))])),
        ])))
        .unwrap();
        geo.add(database(&map(&[
            ("autonomous_system_number", number(64496)),
            ("autonomous_system_organization", text("Example Net")),
            ("registered_country", map(&[("iso_code", text("NO"))])),
        ])))
        .unwrap();
        let known = ["SE", "Lule\u{e5}", "64496", "Example Net"];
        check(&geo, "203.0.113.77:1", known);
        check(&geo, "[::ffff:203.0.113.77]:1", known);
        check(&geo, "[2001:db8::1]:1", known);
        check(&geo, "192.0.2.1:1", [""; 4]);
    }

    #[test]
    fn nonsense_is_refused_or_ignored() {
        assert!(Geo::none().add(b"no database".to_vec()).is_err());
        let mut geo = Geo::none();
        geo.add(database(&text("not a map"))).unwrap();
        check(&geo, "203.0.113.77:1", [""; 4]);
        check(&Geo::none(), "203.0.113.77:1", [""; 4]);
    }
}
