//! Country, city and autonomous system of an address, from MaxMind databases that someone else read.
//!
//! Works on the address as it is, before any policy: a place is what an operator may know when the
//! address is none of his business.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use maxminddb::{MaxMindDbError, Reader, WithinOptions};
use serde::Deserialize;

use crate::model::canonical_ip;

/// The databases, each asked in turn; what an earlier one knows is not asked again.
#[derive(Default)]
pub struct Geo {
    databases: Vec<Database>,
}

/// A database that is known to say something.
pub struct Database(Reader<Vec<u8>>);

/// Why a file is no database.
#[derive(Debug, thiserror::Error)]
pub enum NoDatabase {
    /// It cannot be read as one.
    #[error("{0}; expected a MaxMind database (.mmdb)")]
    Format(#[from] MaxMindDbError),
    /// None of the fields that are known is in its first records.
    #[error(
        "its records, of type {0:?}, have none of the fields that are understood; expected \
         country.iso_code, country_code, country, city.names.en, city, autonomous_system_number, asn, \
         autonomous_system_organization, as_name or as_organization"
    )]
    Fields(String),
}

/// What is known of an address; empty where nothing is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// ISO 3166-1 code.
    pub country: String,
    /// English name.
    pub city: String,
    /// Number of the autonomous system.
    pub asn: String,
    /// Its holder.
    pub as_org: String,
}

/// Records that are looked at to see whether a database says anything.
const SAMPLE: usize = 1000;

impl Database {
    /// From a file's content.
    pub fn new(content: Vec<u8>) -> Result<Self, NoDatabase> {
        let database = Self(Reader::from_source(content)?);
        match database.says_something()? {
            true => Ok(database),
            false => Err(NoDatabase::Fields(database.0.metadata().database_type.clone())),
        }
    }

    fn says_something(&self) -> Result<bool, MaxMindDbError> {
        let networks = self.0.networks(WithinOptions::default())?;
        let records = networks.take(SAMPLE).filter_map(|found| found.ok()?.decode().ok()?);
        let mut locations = records.map(|record: Record<'_>| {
            let mut location = Location::default();
            location.learn(record);
            location
        });
        Ok(locations.any(|location| location != Location::default()))
    }

    /// A broken record is as good as none: a database must not be able to end a scrape.
    fn record(&self, ip: IpAddr) -> Record<'_> {
        self.0.lookup(ip).and_then(|found| found.decode()).ok().flatten().unwrap_or_default()
    }

    /// The network of an address, if this database knows whose it is.
    fn announced(&self, ip: IpAddr) -> Option<IpNet> {
        let found = self.0.lookup(ip).ok()?;
        let record: Record<'_> = found.decode().ok()??;
        record.number.or(record.asn)?;
        let network = found.network().ok()?;
        let network = IpNet::new(network.ip(), network.prefix()).ok()?;
        // A database without a part for IPv4 says something of IPv6 only.
        network.contains(&ip).then_some(network)
    }
}

impl Geo {
    /// No databases: nothing is known, and the labels are left out.
    pub fn none() -> Self {
        Self::default()
    }

    /// Adds a database.
    pub fn add(&mut self, database: Database) {
        self.databases.push(database);
    }

    /// Puts another database in the place of the one that was added as this one.
    pub fn replace(&mut self, at: usize, database: Database) {
        if let Some(old) = self.databases.get_mut(at) {
            *old = database;
        }
    }

    /// Whether there is a database at all.
    pub fn is_empty(&self) -> bool {
        self.databases.is_empty()
    }

    /// The network in which an autonomous system announces this address, from the first database that knows
    /// the system.
    pub fn announced(&self, ip: IpAddr) -> Option<IpNet> {
        self.databases.iter().find_map(|database| database.announced(ip))
    }

    /// Where this address is.
    pub fn locate(&self, remote: SocketAddr) -> Location {
        let ip = canonical_ip(remote.ip());
        let mut location = Location::default();
        for database in &self.databases {
            location.learn(database.record(ip));
        }
        location
    }
}

impl Location {
    fn learn(&mut self, record: Record<'_>) {
        let Record { country, country_code, registered_country, city, number, asn, .. } = record;
        let code = country_code.or_else(|| country?.code()).or_else(|| registered_country?.code());
        fill(&mut self.country, code);
        fill(&mut self.city, city.and_then(Named::name));
        let number = number.or(asn).map(|number| number.to_string());
        fill(&mut self.asn, number.as_deref());
        fill(&mut self.as_org, record.organization.or(record.as_name).or(record.as_organization));
    }
}

fn fill(field: &mut String, known: Option<&str>) {
    if let Some(known) = known.filter(|it| field.is_empty() && !it.is_empty()) {
        known.clone_into(field);
    }
}

/// Of MaxMind's and DB-IP's databases, and of flat ones such as IPinfo's.
#[derive(Default, Deserialize)]
struct Record<'a> {
    #[serde(borrow, default)]
    country: Option<Named<'a>>,
    #[serde(default)]
    country_code: Option<&'a str>,
    #[serde(borrow, default)]
    registered_country: Option<Named<'a>>,
    #[serde(borrow, default)]
    city: Option<Named<'a>>,
    #[serde(rename = "autonomous_system_number", default)]
    number: Option<Number<'a>>,
    #[serde(borrow, default)]
    asn: Option<Number<'a>>,
    #[serde(rename = "autonomous_system_organization", default)]
    organization: Option<&'a str>,
    #[serde(default)]
    as_name: Option<&'a str>,
    #[serde(default)]
    as_organization: Option<&'a str>,
}

/// A country or a city: its name, or a map.
#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Named<'a> {
    Plain(&'a str),
    Map {
        #[serde(default)]
        iso_code: Option<&'a str>,
        #[serde(borrow, default)]
        names: Option<Names<'a>>,
    },
}

#[derive(Clone, Copy, Deserialize)]
struct Names<'a> {
    #[serde(default)]
    en: Option<&'a str>,
}

impl<'a> Named<'a> {
    fn code(self) -> Option<&'a str> {
        match self {
            // Some databases have the country's name here, and its code elsewhere.
            Self::Plain(code) => Some(code).filter(|code| code.len() == 2),
            Self::Map { iso_code, .. } => iso_code,
        }
    }

    fn name(self) -> Option<&'a str> {
        match self {
            Self::Plain(name) => Some(name),
            Self::Map { names, .. } => names?.en,
        }
    }
}

/// An autonomous system: `64496`, or `AS64496`.
#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Number<'a> {
    Number(u32),
    Text(&'a str),
}

impl std::fmt::Display for Number<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => {
                let digits = text.strip_prefix("AS").unwrap_or(text);
                let is_number = !digits.is_empty() && digits.bytes().all(|it| it.is_ascii_digit());
                f.write_str(if is_number { digits } else { "" })
            }
        }
    }
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
        let Location { country, city, asn, as_org } = geo.locate(remote.parse().unwrap());
        assert_eq!([&*country, &*city, &*asn, &*as_org], expected, "{remote}");
    }

    #[test]
    fn databases_complete_each_other() {
        let mut geo = Geo::none();
        assert!(geo.is_empty());
        geo.add(read(map(&[
            ("country", map(&[("iso_code", text("SE"))])),
            ("city", map(&[("names", map(&[("en", text("Lule\u{e5}"))]))])),
        ])));
        geo.add(read(map(&[
            ("autonomous_system_number", number(64496)),
            ("autonomous_system_organization", text("Example Net")),
            ("registered_country", map(&[("iso_code", text("NO"))])),
        ])));
        let known = ["SE", "Lule\u{e5}", "64496", "Example Net"];
        check(&geo, "203.0.113.77:1", known);
        check(&geo, "[::ffff:203.0.113.77]:1", known);
        check(&geo, "[2001:db8::1]:1", known);
        check(&geo, "192.0.2.1:1", [""; 4]);
    }

    /// A database with this record.
    fn read(record: Vec<u8>) -> Database {
        Database::new(database(&record)).unwrap()
    }

    #[test]
    fn flat_records_are_understood() {
        let known = |record| {
            let mut geo = Geo::none();
            geo.add(read(record));
            let Location { country, city, asn, as_org } =
                geo.locate("203.0.113.77:1".parse().unwrap());
            [country, city, asn, as_org]
        };
        let country_asn = map(&[
            ("asn", text("AS64496")),
            ("as_name", text("Example Net")),
            ("country", text("SE")),
        ]);
        assert_eq!(known(country_asn), ["SE", "", "64496", "Example Net"]);
        let lite = map(&[
            ("asn", text("AS64496")),
            ("country", text("Sweden")),
            ("country_code", text("SE")),
            ("city", text("Lule\u{e5}")),
        ]);
        assert_eq!(known(lite), ["SE", "Lule\u{e5}", "64496", ""]);
        assert_eq!(
            known(map(&[("country", text("Sweden")), ("asn", number(7))])),
            ["", "", "7", ""]
        );
    }

    #[test]
    fn the_announced_network_is_known_where_its_holder_is() {
        let mut geo = Geo::none();
        geo.add(read(map(&[("country", text("SE"))])));
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(geo.announced(ip("203.0.113.77")), None, "a country announces nothing");
        geo.add(read(map(&[("autonomous_system_number", number(64496))])));
        assert_eq!(geo.announced(ip("203.0.113.77")), Some("203.0.113.0/24".parse().unwrap()));
        assert_eq!(geo.announced(ip("2001:db8:1::1")), Some("2001:db8::/32".parse().unwrap()));
        assert_eq!(geo.announced(ip("192.0.2.1")), None);
    }

    #[test]
    fn a_database_can_be_replaced() {
        let mut geo = Geo::none();
        geo.add(read(map(&[("country", text("SE"))])));
        geo.replace(0, read(map(&[("country", text("NO"))])));
        geo.replace(7, read(map(&[("country", text("DK"))])));
        check(&geo, "203.0.113.77:1", ["NO", "", "", ""]);
    }

    #[test]
    fn what_says_nothing_is_refused() {
        let refused = |content| Database::new(content).err().unwrap().to_string();
        assert!(refused(b"no database".to_vec()).contains("expected a MaxMind database"));
        for record in [text("not a map"), map(&[("proxy", text("yes"))]), map(&[])] {
            let refusal = refused(database(&record));
            assert!(refusal.contains("\"Test\"") && refusal.contains("as_name"), "{refusal}");
        }
        check(&Geo::none(), "203.0.113.77:1", [""; 4]);
    }
}
