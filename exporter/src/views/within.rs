//! One step down: what shows that which a row is made of.

/// The kinds of rows, and the pages that show them.
pub const KINDS: [(&str, &str); 8] = [
    ("peer", "peers"),
    ("room", "rooms"),
    ("ip", "ips"),
    ("net", "ips"),
    ("asn", "ips"),
    ("country", "ips"),
    ("stream", "streams"),
    ("transport", "transports"),
];

/// The page that shows rows of this kind.
pub fn page_of(kind: &str) -> &'static str {
    KINDS.iter().find(|(known, _)| *known == kind).map_or("peers", |(_, page)| page)
}

/// What a row of this kind and key is made of: a kind of rows, and a line of filters. A stream is made of itself.
/// `room` is the row's, where it has one.
pub fn within(kind: &str, key: &str, room: Option<&str>) -> Option<(&'static str, String)> {
    Some(match kind {
        "room" => ("peer", term("room", key)),
        "peer" => {
            let (room, peer) = split(key, room);
            ("stream", format!("{} {}", term("room", room), term("peer", peer)))
        }
        "ip" => ("stream", term("ip", key)),
        "transport" => ("stream", term("transport", key)),
        "net" | "asn" | "country" => ("ip", term(kind, key)),
        "stream" => {
            let id = key.split_once('/').map_or(key, |(_, id)| id);
            (
                "stream",
                match id.strip_prefix("SSRC ") {
                    Some(ssrc) => term("ssrc", ssrc),
                    None => term("id", id),
                },
            )
        }
        _ => return None,
    })
}

/// Room and peer of a peer's key. Both may have slashes: the room says where it ends.
fn split<'a>(key: &'a str, room: Option<&'a str>) -> (&'a str, &'a str) {
    let known = room.and_then(|room| Some((room, key.strip_prefix(room)?.strip_prefix('/')?)));
    known.or_else(|| key.split_once('/')).unwrap_or(("", key))
}

/// A term of a line of filters.
pub(super) fn term(field: &str, value: &str) -> String {
    let value = value.replace('"', "");
    match value.contains(char::is_whitespace) || value.is_empty() {
        true => format!("{field}:\"{value}\""),
        false => format!("{field}:{value}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_leads_to_what_it_is_made_of() {
        let check = |kind, key, room, by, line: &str| {
            assert_eq!(within(kind, key, room), Some((by, line.to_owned())), "{kind} {key}");
        };
        check("room", "Lecture 7", None, "peer", "room:\"Lecture 7\"");
        check("peer", "lobby/ada", Some("lobby"), "stream", "room:lobby peer:ada");
        check("peer", "a/b/c/d", Some("a/b"), "stream", "room:a/b peer:c/d");
        check("peer", "lobby/ada", None, "stream", "room:lobby peer:ada");
        check("net", "203.0.113.0/24", None, "ip", "net:203.0.113.0/24");
        check("asn", "64500", None, "ip", "asn:64500");
        check("stream", "t/p1", None, "stream", "id:p1");
        check("stream", "t/SSRC 7", None, "stream", "ssrc:7");
        check("room", "a\" -b:\"c", None, "peer", "room:\"a -b:c\"");
        assert_eq!(within("table", "x", None), None);
    }
}
