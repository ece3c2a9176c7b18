//! The one line in which people say what they want to see: `room:lobby loss:>2% net:203.0.113.0/24 -country:DE`.
//!
//! Text in, tests out. Terms are separated by spaces and all of them must hold; a minus before a term turns it
//! round; quotes hold a value together that has spaces. A word without a field is looked for in names and ids.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::views::attributes::Attributes;
use crate::views::figures::Figures;
use crate::views::verdict::Cause;

/// Characters of a line at most.
const LONGEST: usize = 1024;
/// Letters of a word that is looked for at the beginning of ids only.
const SHORT: usize = 6;
/// Terms of a line at most: each is tried on everybody.
const MOST_TERMS: usize = 32;

/// What a line asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Filter {
    of_tracks: Vec<Term<Trait>>,
    of_rows: Vec<Term<Measure>>,
}

#[derive(Clone, Debug, PartialEq)]
struct Term<T> {
    negated: bool,
    test: T,
}

/// What somebody is.
#[derive(Clone, Debug, PartialEq)]
enum Trait {
    /// Somewhere in a name or id; in lower case.
    Word(String),
    Text(Field, String),
    Ssrc(u32),
    Net(IpNet),
}

/// A field that is text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Room,
    Peer,
    Name,
    Ip,
    Country,
    Asn,
    Proto,
    Kind,
    Codec,
    Id,
    Transport,
    Role,
}

const FIELDS: [(&str, Field); 12] = [
    ("room", Field::Room),
    ("peer", Field::Peer),
    ("name", Field::Name),
    ("ip", Field::Ip),
    ("country", Field::Country),
    ("asn", Field::Asn),
    ("proto", Field::Proto),
    ("kind", Field::Kind),
    ("codec", Field::Codec),
    ("id", Field::Id),
    ("transport", Field::Transport),
    ("role", Field::Role),
];

/// What a row shows.
#[derive(Clone, Debug, PartialEq)]
enum Measure {
    Number(Quantity, Order, f64),
    /// Its verdict begins like that.
    Verdict(String),
    /// It is there now.
    Live,
}

/// A number that rows have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quantity {
    /// The worse of both directions.
    Loss,
    LossIn,
    LossOut,
    Jitter,
    RoundTrip,
    Score,
    In,
    Out,
    Packets,
}

const QUANTITIES: [(&str, Quantity); 9] = [
    ("loss", Quantity::Loss),
    ("loss_in", Quantity::LossIn),
    ("loss_out", Quantity::LossOut),
    ("jitter", Quantity::Jitter),
    ("rtt", Quantity::RoundTrip),
    ("score", Quantity::Score),
    ("in", Quantity::In),
    ("out", Quantity::Out),
    ("packets", Quantity::Packets),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Less,
    AtMost,
    Equal,
    AtLeast,
    More,
}

/// Longer ones first: one begins like another.
const ORDERS: [(&str, Order); 5] = [
    ("<=", Order::AtMost),
    (">=", Order::AtLeast),
    ("<", Order::Less),
    (">", Order::More),
    ("=", Order::Equal),
];

impl FromStr for Filter {
    type Err = String;

    /// # Errors
    /// What cannot be understood is named, with what was expected.
    fn from_str(line: &str) -> Result<Self, String> {
        if line.chars().count() > LONGEST {
            return Err(format!("the filter is longer than {LONGEST} characters"));
        }
        let terms = words(line)?;
        if terms.len() > MOST_TERMS {
            return Err(format!("the filter has more than {MOST_TERMS} terms"));
        }
        let mut filter = Self::default();
        for term in terms {
            filter.take(term)?;
        }
        Ok(filter)
    }
}

/// A term: whether it is turned round, its field if it has one, and its value.
struct Words {
    negated: bool,
    field: Option<String>,
    value: String,
}

fn words(line: &str) -> Result<Vec<Words>, String> {
    let mut words = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let negated = rest.starts_with('-');
        rest = rest.strip_prefix('-').unwrap_or(rest);
        if let Some((address, after)) = address(rest) {
            words.push(Words { negated, field: Some("net".into()), value: address.to_owned() });
            rest = after.trim_start();
            continue;
        }
        let plain = rest.find([':', ' ', '"']).unwrap_or(rest.len());
        let field = rest[plain..].starts_with(':').then(|| rest[..plain].to_ascii_lowercase());
        if field.is_some() {
            rest = &rest[plain + 1..];
        }
        let is_quoted = rest.starts_with('"');
        let (value, after) = match rest.strip_prefix('"') {
            Some(quoted) => {
                quoted.split_once('"').ok_or_else(|| format!("no quote ends `\"{quoted}`"))?
            }
            None => rest.split_once(' ').unwrap_or((rest, "")),
        };
        if field.is_none() && !is_quoted {
            refuse_stray(value, negated)?;
        }
        words.push(Words { negated, field, value: value.to_owned() });
        rest = after.trim_start();
    }
    Ok(words)
}

/// Refuses what other languages of filters have and this one has not: it would be looked for as a word.
fn refuse_stray(word: &str, negated: bool) -> Result<(), String> {
    let number = word.trim_start_matches(['<', '>', '=']);
    let is_number = number.is_empty() || number.starts_with(|c: char| c.is_ascii_digit());
    if (number.len() < word.len() && is_number) || (negated && word.is_empty()) {
        return Err(format!(
            "`{word}` stands alone; expected a term such as loss:>2%, without spaces"
        ));
    }
    match word {
        "OR" | "AND" | "NOT" => Err(format!(
            "`{word}`: all terms have to hold, and a minus turns one round; there is no OR"
        )),
        _ => Ok(()),
    }
}

/// An IPv6 address or a network without a field, and what comes after it.
fn address(rest: &str) -> Option<(&str, &str)> {
    let (word, after) = rest.split_once(' ').unwrap_or((rest, ""));
    let is_address = word.contains(':') && word.parse::<IpAddr>().is_ok();
    let is_network = word.contains('/') && word.parse::<IpNet>().is_ok();
    (is_address || is_network).then_some((word, after))
}

impl Filter {
    fn take(&mut self, Words { negated, field, value }: Words) -> Result<(), String> {
        let Some(field) = field else {
            if !value.is_empty() {
                self.of_tracks.push(Term { negated, test: Trait::Word(value.to_lowercase()) });
            }
            return Ok(());
        };
        if let Some(test) = trait_of(&field, &value)? {
            self.of_tracks.push(Term { negated, test });
        } else if let Some(test) = measure_of(&field, &value)? {
            self.of_rows.push(Term { negated, test });
        } else {
            return Err(unknown(&field));
        }
        Ok(())
    }

    /// The one room that is to be shown, in lower case.
    pub(super) fn room(&self) -> Option<&str> {
        self.of_tracks.iter().find_map(|term| match &term.test {
            Trait::Text(Field::Room, room) if !term.negated => Some(&**room),
            _ => None,
        })
    }

    /// Whether one address alone is to be shown.
    pub(super) fn is_of_one_address(&self) -> bool {
        self.of_tracks.iter().any(|term| {
            !term.negated
                && match &term.test {
                    Trait::Text(Field::Ip, _) => true,
                    Trait::Net(net) => net.prefix_len() == net.max_prefix_len(),
                    _ => false,
                }
        })
    }

    /// Whether somebody's traffic is to be shown at all.
    pub(crate) fn admits(&self, who: &Attributes<'_>) -> bool {
        self.of_tracks.iter().all(|term| term.test.holds(who) != term.negated)
    }

    /// Whether a row is to be shown. What it has no number for, is not compared, and fails.
    pub(crate) fn keeps(&self, figures: &Figures) -> bool {
        self.of_rows.iter().all(|term| match term.test.holds(figures) {
            Some(holds) => holds != term.negated,
            None => false,
        })
    }
}

fn unknown(field: &str) -> String {
    let texts = FIELDS.iter().map(|(name, _)| *name);
    let numbers = QUANTITIES.iter().map(|(name, _)| *name);
    let names: Vec<&str> = texts.chain(["net", "ssrc", "verdict", "is"]).chain(numbers).collect();
    format!("unknown field `{field}`; expected one of {}", names.join(", "))
}

fn trait_of(field: &str, value: &str) -> Result<Option<Trait>, String> {
    if let Some((_, text)) = FIELDS.iter().find(|(name, _)| *name == field) {
        let value = value.to_lowercase();
        let known: &[&str] = match text {
            Field::Kind => &["audio", "video"],
            Field::Role => &["media", "rtx", "probation"],
            Field::Proto => &["udp", "tcp"],
            _ => &[],
        };
        if !known.is_empty() && !known.contains(&&*value) {
            let known = known.join(", ");
            return Err(format!("{field}: `{value}` is not known; expected one of {known}"));
        }
        return Ok(Some(Trait::Text(*text, value)));
    }
    Ok(Some(match field {
        "ssrc" => {
            let ssrc = value.parse();
            Trait::Ssrc(ssrc.map_err(|_| format!("ssrc: `{value}` is not a number of 32 bits"))?)
        }
        "net" => {
            let net = value.parse::<IpNet>().or_else(|_| value.parse::<IpAddr>().map(IpNet::from));
            let net = net.map_err(|_| {
                format!("net: `{value}` is not a network; expected one like 203.0.113.0/24")
            })?;
            Trait::Net(net.trunc())
        }
        _ => return Ok(None),
    }))
}

fn measure_of(field: &str, value: &str) -> Result<Option<Measure>, String> {
    match (field, value) {
        ("verdict", _) => {
            let value = value.to_lowercase().replace('_', " ");
            let causes = Cause::ALL.map(Cause::as_str);
            return match causes.iter().any(|cause| cause.starts_with(&value)) {
                true => Ok(Some(Measure::Verdict(value))),
                false => Err(format!(
                    "verdict: `{value}` is not known; expected one of {}",
                    causes.join("; ")
                )),
            };
        }
        ("is", "live") => return Ok(Some(Measure::Live)),
        ("is", _) => return Err(format!("is: `{value}` is not known; expected live")),
        _ => {}
    }
    let Some((_, quantity)) = QUANTITIES.iter().find(|(name, _)| *name == field) else {
        return Ok(None);
    };
    let (order, number) = ORDERS
        .iter()
        .find_map(|(sign, order)| Some((*order, value.strip_prefix(sign)?)))
        .unwrap_or((Order::Equal, value));
    if order == Order::Equal && !value.starts_with('=') && !quantity.is_whole() {
        return Err(format!(
            "{field}: what `{value}` is compared with is missing; expected one like {}",
            quantity.example()
        ));
    }
    let number = quantity.number(number.trim()).ok_or_else(|| {
        format!("{field}: `{value}` cannot be compared; expected one like {}", quantity.example())
    })?;
    Ok(Some(Measure::Number(*quantity, order, number)))
}

impl Quantity {
    /// A number in the unit of the figures, from one as people write it.
    fn number(self, text: &str) -> Option<f64> {
        let (digits, factor) = match self {
            Self::Loss | Self::LossIn | Self::LossOut => {
                (text.strip_suffix('%').unwrap_or(text), 0.01)
            }
            Self::Jitter | Self::RoundTrip => match text.strip_suffix("ms") {
                Some(digits) => (digits, 0.001),
                None => match text.strip_suffix('s') {
                    Some(digits) => (digits, 1.0),
                    None => (text, 0.001),
                },
            },
            Self::In | Self::Out | Self::Packets => match text.to_ascii_lowercase() {
                lower if lower.ends_with('k') => (&text[..text.len() - 1], 1e3),
                lower if lower.ends_with('m') => (&text[..text.len() - 1], 1e6),
                lower if lower.ends_with('g') => (&text[..text.len() - 1], 1e9),
                _ => (text, 1.0),
            },
            Self::Score => (text, 1.0),
        };
        let number: f64 = digits.trim().parse().ok()?;
        number.is_finite().then_some(number * factor)
    }

    /// It is counted rather than measured.
    fn is_whole(self) -> bool {
        matches!(self, Self::Score | Self::Packets)
    }

    fn example(self) -> &'static str {
        match self {
            Self::Loss | Self::LossIn | Self::LossOut => ">2%",
            Self::Jitter | Self::RoundTrip => ">30ms",
            Self::In | Self::Out => ">2.5M (bits a second)",
            Self::Packets => ">1000",
            Self::Score => "<5",
        }
    }

    fn of(self, figures: &Figures) -> Option<f64> {
        match self {
            Self::Loss => {
                let losses = [figures.loss_in(), figures.loss_out()];
                losses.into_iter().flatten().reduce(f64::max)
            }
            Self::LossIn => figures.loss_in(),
            Self::LossOut => figures.loss_out(),
            Self::Jitter => figures.jitter(),
            Self::RoundTrip => figures.round_trip(),
            Self::Score => figures.score().map(f64::from),
            Self::In => Some(figures.now_in()),
            Self::Out => Some(figures.now_out()),
            Self::Packets => Some(figures.packets() as f64),
        }
    }
}

impl Measure {
    fn holds(&self, figures: &Figures) -> Option<bool> {
        match self {
            Self::Verdict(text) => {
                Some(figures.verdict.as_ref().is_some_and(|it| it.cause.as_str().starts_with(text)))
            }
            Self::Live => Some(figures.live),
            Self::Number(quantity, order, wanted) => {
                quantity.of(figures).map(|number| order.holds(number, *wanted))
            }
        }
    }
}

impl Order {
    fn holds(self, number: f64, wanted: f64) -> bool {
        match self {
            Self::Less => number < wanted,
            Self::AtMost => number <= wanted,
            Self::Equal => (number - wanted).abs() < 1e-9,
            Self::AtLeast => number >= wanted,
            Self::More => number > wanted,
        }
    }
}

impl Trait {
    fn holds(&self, who: &Attributes<'_>) -> bool {
        match self {
            Self::Word(word) => {
                // Ids are random: short words are in many of them.
                let is_short = word.len() < SHORT;
                let is_id = |id: &str| {
                    let id = id.to_lowercase();
                    if is_short { id.starts_with(word) } else { id.contains(word) }
                };
                who.texts().any(|text| text.to_lowercase().contains(word)) || who.ids().any(is_id)
            }
            Self::Text(field, wanted) => field.of(who).to_lowercase() == *wanted,
            Self::Ssrc(ssrc) => who.ssrc == Some(*ssrc),
            Self::Net(net) => who.ip.is_some_and(|ip| net.contains(&ip)),
        }
    }
}

impl Field {
    fn of<'a>(self, who: &Attributes<'a>) -> &'a str {
        match self {
            Self::Room => who.room,
            Self::Peer => who.peer,
            Self::Name => who.name,
            Self::Ip => who.host,
            Self::Country => who.country,
            Self::Asn => who.asn,
            Self::Proto => who.proto,
            Self::Kind => who.kind,
            Self::Codec => who.codec,
            Self::Id => who.id,
            Self::Transport => who.transport,
            Self::Role => who.role,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Sample;

    fn filter(line: &str) -> Filter {
        line.parse().unwrap_or_else(|why| panic!("{line}: {why}"))
    }

    fn refusal(line: &str) -> String {
        line.parse::<Filter>().unwrap_err()
    }

    fn bob() -> Attributes<'static> {
        Attributes {
            ip: Some("203.0.113.77".parse().unwrap()),
            host: "203.0.113.77",
            room: "The Lobby",
            peer: "b0b",
            name: "Bob",
            country: "DE",
            ssrc: Some(7),
            ..Attributes::default()
        }
    }

    #[test]
    fn who_somebody_is() {
        for line in [
            "",
            "  ",
            "bob",
            "\"the lobby\"",
            "lobby bob",
            "room:\"the lobby\" name:BOB",
            "net:203.0.113.0/24 -country:FR",
            "net:203.0.113.77",
            "-alice -net:2001:db8::/32",
            "ssrc:7",
            "is:live loss:>2%",
        ] {
            assert!(filter(line).admits(&bob()), "{line}");
        }
        for line in
            ["-bob", "room:lobby", "net:203.0.114.0/24", "-country:DE", "bob alice", "ssrc:8"]
        {
            assert!(!filter(line).admits(&bob()), "{line}");
        }
    }

    #[test]
    fn what_a_row_shows() {
        let mut figures =
            Figures { live: true, seconds: 10.0, now_seconds: 10.0, ..Figures::default() };
        figures.media_in =
            Sample { packets: 97, lost: 3, jitter: Some(38_000), ..Sample::default() };
        figures.now_received = 2_500_000;
        for line in [
            "loss:>2%",
            "loss:<=3",
            "loss_in:=3%",
            "jitter:>37ms",
            "jitter:<0.1s",
            "in:>1.9M",
            "in:<2.1m",
            "is:live",
            "room:x",
        ] {
            assert!(filter(line).keeps(&figures), "{line}");
        }
        for line in [
            "loss:>3%",
            "-loss:>2%",
            "rtt:>1ms",
            "-rtt:>1ms",
            "out:>1",
            "-is:live",
            "verdict:uplink",
        ] {
            assert!(!filter(line).keeps(&figures), "{line}");
        }
    }

    #[test]
    fn what_cannot_be_understood_is_named() {
        assert!(
            refusal("rome:lobby").contains("`rome`")
                && refusal("rome:lobby").contains("room, peer")
        );
        assert!(refusal("loss:>much").contains("`>much`") && refusal("loss:>much").contains(">2%"));
        assert!(refusal("net:here").contains("203.0.113.0/24"));
        assert!(refusal("is:dead").contains("live"));
        assert!(refusal("room:\"lobby").contains("lobby"));
        assert!(refusal("ssrc:-1").contains("-1"));
        assert!(refusal(&"x".repeat(LONGEST + 1)).contains("1024"));
        assert!(refusal(&"x ".repeat(MOST_TERMS + 1)).contains("32"));
        for odd in
            ["-", ":", "::", "-:", "\"\"", "loss:", "é:é", "-\"é", "in:é", "jitter:1és", "in:k"]
        {
            let _ = odd.parse::<Filter>();
        }
    }

    #[test]
    fn addresses_need_no_field() {
        let six = Attributes { ip: Some("fd77::1:6".parse().unwrap()), ..Attributes::default() };
        assert!(filter("fd77::1:6").admits(&six) && filter("fd77::/64").admits(&six));
        assert!(!filter("fd77::1:7").admits(&six) && !filter("-fd77::1:6").admits(&six));
        assert!(filter("203.0.113.0/24").admits(&bob()));
    }

    #[test]
    fn short_words_are_not_found_in_the_midst_of_ids() {
        let who = Attributes { id: "3f1cada7-9f00", peer: "da55-0ada", ..Attributes::default() };
        assert!(!filter("ada").admits(&who));
        assert!(filter("3f1c").admits(&who) && filter("cada7-9").admits(&who));
        assert!(filter("ada").admits(&Attributes { name: "Dr. Ada", ..who }));
    }

    #[test]
    fn what_other_languages_have_is_refused_rather_than_looked_for() {
        for (line, part) in [
            ("loss:2", "compared"),
            ("loss:2%", ">2%"),
            ("loss > 2%", "without spaces"),
            ("a OR b", "no OR"),
            ("-", "stands alone"),
            ("role:consumer", "probation"),
            ("kind:foo", "video"),
            ("proto:sctp", "udp"),
            ("verdict:xyz", "uplink"),
        ] {
            let why = refusal(line);
            assert!(why.contains(part), "{line}: {why}");
        }
        for line in ["score:5", "packets:0", "\"OR\"", "verdict:never_connected", "<script>"] {
            filter(line);
        }
    }
}
