//! What views show of a meeting in which three suffer, each for another reason.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;

use super::*;
use crate::history::tests::Meeting;
use crate::labels::AddressPolicy;

/// Alice sends well; Bob's uplink is bad, Carol's downlink; Dave sends nothing.
fn meeting() -> Meeting {
    let mut meeting = Meeting::new(AddressPolicy::None);
    let names = ["alice", "bob", "carol", "dave"];
    for (at, name) in (0..).zip(names) {
        let tuple = meeting.join(name, &format!("203.0.{}.7:5000", 113 + at));
        meeting.produce(name, tuple, 1 + at);
        for (from, of) in (0..).zip(names).filter(|(_, of)| *of != name) {
            meeting.consume(name, of, tuple, 100 + 10 * at + from);
        }
    }
    for _ in 0..16 {
        meeting.send(1, 500, 0);
        meeting.send(2, 450, 50);
        meeting.send(3, 500, 0);
        for (at, name) in (0..).zip(names) {
            for (from, of) in (0..3).zip(names).filter(|(_, of)| *of != name) {
                let ssrc = 100 + 10 * at + from;
                meeting.send(ssrc, 450, 0);
                // What Bob lost, everybody reports; Carol reports more.
                let lost = if of == "bob" { 45 } else { 0 } + if name == "carol" { 30 } else { 0 };
                meeting.report(name, of, ssrc, lost);
            }
        }
        meeting.step();
    }
    meeting
}

const EPOCH: u64 = 1_700_000_000_000;

fn get(meeting: &Meeting, path: &str) -> Answer {
    let (path, query) = path.split_once('?').map_or((path, None), |(a, b)| (a, Some(b)));
    let setting = Setting {
        host: "media-1".into(),
        thresholds: Thresholds::default(),
        hidden: Hidden::default(),
    };
    match asked(path, query) {
        Some(Asked::View(wanted)) => answer(&meeting.history.lend(EPOCH), &setting, &wanted),
        other => panic!("{path}: {other:?}"),
    }
}

fn json(meeting: &Meeting, path: &str) -> Value {
    serde_json::from_slice(&get(meeting, path).body).unwrap()
}

fn page(meeting: &Meeting, path: &str) -> String {
    String::from_utf8(get(meeting, path).body).unwrap()
}

fn column<'a>(table: &'a Value, name: &str) -> Vec<&'a Value> {
    table["rows"].as_array().unwrap().iter().map(|row| &row[name]).collect()
}

/// A server tells of a peer long before there is a transport, and sometimes there never is one.
#[test]
fn a_peer_without_a_transport_is_there() {
    let mut meeting = meeting();
    meeting.arrive("mallory", "r2");
    let peers = json(&meeting, "/api/v1/peers");
    assert!(!column(&peers, "key").contains(&&Value::from("r2/mallory")), "not yet");
    meeting.step();
    let row = |meeting: &Meeting, path: &str| {
        let table = json(meeting, path);
        let rows = table["rows"].as_array().unwrap().clone();
        assert_eq!(rows.len(), 1, "{table}");
        rows[0].clone()
    };
    let peer = row(&meeting, "/api/v1/peers?q=mallory");
    assert_eq!((&peer["key"], &peer["live"]), (&"r2/mallory".into(), &true.into()));
    assert_eq!((&peer["receive_packets"], &peer["rooms"][0]), (&0.into(), &"r2".into()));
    let room = row(&meeting, "/api/v1/rooms?q=room:r2");
    assert_eq!((&room["key"], &room["peers"][0]), (&"r2".into(), &"MALLORY".into()));
    for by in ["ips", "transports", "streams"] {
        let table = json(&meeting, &format!("/api/v1/{by}?q=mallory"));
        assert_eq!(table["rows"].as_array().unwrap().len(), 0, "{by}");
    }
    assert!(page(&meeting, "/peers").contains("mallory"));
    // He leaves, and nothing was ever counted of him.
    meeting.leave("mallory");
    meeting.step();
    let gone = json(&meeting, "/api/v1/peers?q=mallory");
    assert_eq!(gone["rows"].as_array().unwrap().len(), 0);
}

#[test]
fn who_suffers_stands_first_with_the_reason() {
    let table = json(&meeting(), "/api/v1/peers");
    let rows = table["rows"].as_array().unwrap();
    let verdict = |name: &str| {
        let row = rows.iter().find(|row| row["key"] == format!("r1/{name}")).unwrap();
        (row["verdict"].as_str().unwrap_or("well"), row["evidence"].as_str().unwrap_or(""))
    };
    assert_eq!(verdict("alice").0, "well");
    let (cause, evidence) = verdict("bob");
    assert_eq!(cause, "uplink");
    assert!(evidence.starts_with("10.0 % of 6000 packets"), "{evidence}");
    let (cause, evidence) = verdict("carol");
    assert_eq!(cause, "downlink");
    assert!(evidence.contains("6.7 % of 10800 packets"), "{evidence}");
    let (cause, evidence) = verdict("dave");
    assert_eq!(cause, "silent, not muted");
    assert!(evidence.contains("for 80 s"), "{evidence}");
    assert_eq!(rows.last().unwrap()["key"], "r1/alice");
    assert_eq!(rows.last().unwrap()["title"], "ALICE");
}

#[test]
fn a_metric_says_the_same() {
    let labels = complaints(&verdicts(&meeting().history.lend(EPOCH), &Thresholds::default()));
    let expected = [("bob", "uplink"), ("carol", "downlink"), ("dave", "silent")];
    let expected = expected.map(|(peer, verdict)| {
        format!("{{room_id=\"r1\",peer_id=\"{peer}\",verdict=\"{verdict}\"}} ")
    });
    assert_eq!(labels.iter().map(|it| it.to_string()).collect::<Vec<_>>(), expected);
}

#[test]
fn a_view_of_the_past_knows_nothing_of_what_came_after() {
    let mut meeting = meeting();
    let healthy = meeting.now;
    for _ in 0..16 {
        meeting.send(1, 300, 200);
        meeting.step();
    }
    let now = json(&meeting, "/api/v1/peers?q=peer:alice");
    assert_eq!(now["rows"][0]["verdict"], "uplink");
    let since = UNIX_EPOCH + Duration::from_millis(EPOCH + healthy);
    assert_eq!(now["rows"][0]["since"], humantime::format_rfc3339_seconds(since).to_string());
    let before =
        json(&meeting, &format!("/api/v1/peers?q=peer:alice&for=1m&at={}", EPOCH + healthy));
    assert_eq!(before["rows"][0]["verdict"], Value::Null);
    assert_eq!(before["rows"][0]["receive_packets"], 12 * 500);
    assert_eq!(before["rows"][0]["receive_bits_per_second"], 80_000.0);
}

#[test]
fn who_has_left_is_judged_for_the_time_when_he_was_there() {
    let mut meeting = meeting();
    let bad = meeting.now;
    for name in ["p-bob", "c-bob-alice", "c-bob-carol", "c-bob-dave"] {
        let producer = ("t-bob".into(), name.into());
        meeting.told.state.remove_producer(&producer);
        meeting.told.state.remove_consumer(&name.into());
    }
    meeting.told.state.remove_transport(&"t-bob".into());
    meeting.leave("bob");
    meeting.reading.flows.retain(|flow| flow.tuple.remote.ip().to_string() != "203.0.114.7");
    meeting.reading.streams.retain(|stream| stream.tuple.remote.ip().to_string() != "203.0.114.7");
    (0..30).for_each(|_| meeting.step());
    let now = json(&meeting, "/api/v1/peers?q=peer:bob");
    assert_eq!(
        (&now["rows"][0]["verdict"], &now["rows"][0]["live"]),
        (&Value::Null, &false.into())
    );
    let then = json(&meeting, &format!("/api/v1/peers?q=peer:bob&at={}", EPOCH + bad));
    assert_eq!(
        (&then["rows"][0]["verdict"], &then["rows"][0]["live"]),
        (&"uplink".into(), &true.into())
    );
    assert_eq!(then["rows"][0]["title"], "BOB");
}

#[test]
fn where_no_server_tells_addresses_live_as_long_as_they_send() {
    let mut meeting = Meeting::new(AddressPolicy::None);
    let tuple = crate::fixture::tuple("192.0.2.1:40000", "203.0.113.7:5000");
    meeting.reading.flows.push(crate::fixture::flow(tuple, 1));
    let stream = crate::fixture::stream(tuple, crate::model::Direction::Receive, 9, 0);
    meeting.reading.streams.push(stream);
    for _ in 0..9 {
        meeting.send(9, 45, 5);
        meeting.step();
    }
    let ips = json(&meeting, "/api/v1/ips");
    let row = &ips["rows"][0];
    assert_eq!(
        (&ips["total"], &row["key"], &row["live"]),
        (&1.into(), &"203.0.113.7".into(), &true.into())
    );
    assert_eq!((&row["receive_loss_ratio"], &row["streams"]), (&0.1.into(), &1.into()));
    let streams = json(&meeting, "/api/v1/streams?q=ip:203.0.113.7");
    assert_eq!(streams["rows"][0]["title"], "SSRC 9");
    meeting.reading.flows.clear();
    (0..9).for_each(|_| meeting.step());
    assert_eq!(json(&meeting, "/api/v1/ips")["rows"][0]["live"], false);
}

#[test]
fn rows_are_grouped_filtered_sorted_and_paged() {
    let meeting = meeting();
    let ips = json(&meeting, "/api/v1/ips?sort=name");
    let keys = ["203.0.113.7", "203.0.114.7", "203.0.115.7", "203.0.116.7"];
    assert_eq!(column(&ips, "key"), keys);
    assert_eq!(ips["rows"][1]["peers"][0], "BOB");
    assert_eq!(ips["rows"][1]["receive_loss_ratio"], 0.1);
    // STUN is an address's traffic, and none of a stream's.
    assert_eq!(ips["rows"][3]["receive_packets"], 17);
    let nets = json(&meeting, "/api/v1/ips?by=net&width=22");
    assert_eq!(column(&nets, "key"), ["203.0.112.0/22", "203.0.116.0/22"]);
    assert_eq!(nets["rows"][0]["peers"].as_array().unwrap().len(), 3);
    let lossy = json(&meeting, "/api/v1/ips?q=loss_in:%3E2%25");
    assert_eq!(column(&lossy, "key"), ["203.0.114.7"]);
    let page = json(&meeting, "/api/v1/ips?sort=-name&offset=1&limit=2");
    assert_eq!(column(&page, "key"), ["203.0.115.7", "203.0.114.7"]);
    assert_eq!((&page["total"], &page["offset"]), (&4.into(), &1.into()));
    let rooms = json(&meeting, "/api/v1/rooms");
    assert_eq!(column(&rooms, "key"), ["r1"]);
    assert_eq!(rooms["rows"][0]["streams"], 12);
    let streams = json(&meeting, "/api/v1/streams?q=peer:dave");
    assert_eq!(streams["total"], 4, "what was never sent has a row, too");
    assert_eq!(json(&meeting, "/api/v1/transports")["total"], 4);
    let countries = json(&meeting, "/api/v1/ips?by=country");
    assert_eq!(countries["rows"][0]["key"], "");
}

#[test]
fn a_document_says_how_packets_are_told_apart_if_that_is_asked_for() {
    let meeting = meeting();
    let table = json(&meeting, "/api/v1/transports?q=peer:bob&traffic=yes");
    let document: Document = serde_json::from_value(table).unwrap();
    let traffic = document.rows[0].traffic.as_ref().unwrap();
    let streams = traffic.streams.iter().map(|it| (it.ssrc, &*it.role, &*it.id, &*it.peer));
    let expected = [(2, "producer", "p-bob", "bob"), (110, "consumer", "c-bob-alice", "bob")];
    assert_eq!(streams.take(2).collect::<Vec<_>>(), expected);
    // What Dave never sent has no SSRC yet.
    assert_eq!((document.rows.len(), traffic.streams.len(), traffic.more), (1, 3, false));
    let [ends] = &traffic.connections[..] else { panic!("{:?}", traffic.connections) };
    assert_eq!(
        (&*ends.remote, &*ends.transport, &*ends.peer),
        ("203.0.114.7:5000", "t-bob", "bob")
    );
    assert_eq!(document.deidentified, Some(Vec::new()));
    let table = json(&meeting, "/api/v1/transports?q=peer:bob");
    assert_eq!(table["rows"][0]["traffic"], Value::Null);
}

#[test]
fn documents_are_what_the_description_says() {
    let schema: Value = serde_json::from_str(documents::OPENAPI).unwrap();
    let row = &schema["components"]["schemas"]["Row"]["properties"];
    let table = &schema["components"]["schemas"]["Table"]["properties"];
    let names =
        |object: &Value| -> Vec<String> { object.as_object().unwrap().keys().cloned().collect() };
    let meeting = meeting();
    for (path, _) in VIEWS {
        assert!(schema["paths"][format!("/api/v1/{path}")]["get"].is_object(), "{path}");
        let shown = json(&meeting, &format!("/api/v1/{path}?plots=yes&traffic=yes"));
        assert_eq!(names(&shown), names(table));
        for shown in shown["rows"].as_array().unwrap() {
            assert_eq!(names(shown), names(row));
            for (name, property) in row.as_object().unwrap() {
                let kinds = match &property["type"] {
                    Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
                    kind => vec![kind.as_str().unwrap()],
                };
                let value = &shown[name];
                let fits = kinds.iter().any(|kind| match *kind {
                    "string" => value.is_string(),
                    "number" => value.is_number(),
                    "integer" => value.is_i64() || value.is_u64(),
                    "boolean" => value.is_boolean(),
                    "array" => value.is_array(),
                    "object" => value.is_object(),
                    "null" => value.is_null(),
                    other => panic!("{other}"),
                });
                assert!(fits, "{name}: {value} is no {kinds:?}");
            }
        }
    }
    let plain = json(&meeting, "/api/v1/peers");
    assert!(plain["rows"][0].get("send_plot").is_none());
    assert_eq!(schema["paths"].as_object().unwrap().len(), VIEWS.len());
}

#[test]
fn csv_has_a_line_for_each_row_and_no_formula() {
    let mut meeting = meeting();
    let tuple = meeting.join("=cmd|x,\"y\"", "203.0.120.1:1");
    meeting.produce("=cmd|x,\"y\"", tuple, 77);
    meeting.send(77, 5, 0);
    meeting.step();
    let text = String::from_utf8(get(&meeting, "/api/v1/peers?format=csv").body).unwrap();
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    assert_eq!(reader.headers().unwrap().len(), 24);
    let rows: Vec<_> = reader.records().map(|record| record.unwrap()).collect();
    assert_eq!(rows.len(), 5);
    assert!(rows.iter().any(|row| &row[1] == "'=CMD|X,\"Y\""), "{text}");
    assert!(!rows.iter().any(|row| row.iter().any(|field| field.starts_with('='))));
}

#[test]
fn a_page_is_whole_and_inert() {
    let mut meeting = meeting();
    let evil = "<script>\"'&";
    let tuple = meeting.join(evil, "203.0.120.1:1");
    meeting.produce(evil, tuple, 77);
    meeting.send(77, 5, 0);
    meeting.step();
    for path in [
        "/rooms",
        "/peers",
        "/ips",
        "/streams",
        "/transports",
        "/peers?q=room:r1",
        "/peers?q=%3Cscript%3E%22",
    ] {
        let text = page(&meeting, path);
        assert!(text.ends_with("</html>") || text.ends_with("</html>\n"), "{path}");
        assert_eq!(text.matches("<script").count(), 1, "{path}: only our own");
        assert!(text.contains("<script src=\"/assets/views.js\" defer></script>"));
        assert!(!text.contains("://") && !text.contains(" style=") && !text.contains(" onclick"));
    }
    let room = page(&meeting, "/peers?q=room:r1");
    assert!(room.contains("Who sends to whom") && room.contains("BOB in r1</a>: uplink"), "{room}");
    let ips = page(&meeting, "/ips");
    assert!(ips.contains("href=\"/ips?q=ip%3A203.0.114.7\""), "{ips}");
    assert!(ips.contains("<polyline"));
}

#[test]
fn what_is_not_there_is_not_asked_for() {
    assert_eq!(asked("/", None), None);
    assert_eq!(asked("/metrics", None), None);
    assert_eq!(asked("/ips/", None), None);
    assert_eq!(asked("/api/v1/", None), None);
    let unclear = |path, query| match asked(path, Some(query)) {
        Some(Asked::Unclear { content_type, body }) => (content_type, body),
        other => panic!("{other:?}"),
    };
    let (content_type, body) = unclear("/api/v1/ips", "sort=x");
    assert!(content_type.starts_with("text/plain") && body.starts_with("sort"), "{body}");
    let (content_type, body) = unclear("/ips", "q=rome%3A%22%3Cb%3E%22&for=1h");
    assert!(content_type.starts_with("text/html") && body.contains("unknown field"), "{body}");
    // What was asked for is there to be mended, and is no markup.
    assert!(body.contains("rome:&#34;&#60;b&#62;&#34;") && body.contains("value=\"1h\""), "{body}");
    assert!(!body.contains("<b>\""), "{body}");
    assert!(matches!(asked("/assets/views.css", None), Some(Asked::Asset(..))));
    assert!(matches!(asked("/api/v1/openapi.json", None), Some(Asked::Asset(..))));
    let meeting = Meeting::new(AddressPolicy::None);
    assert!(page(&meeting, "/ips").contains("Nothing was counted"));
    assert!(page(&meeting, "/ips?q=bob").contains("the filter leaves nothing"));
    assert_eq!(json(&meeting, "/api/v1/ips?at=1")["total"], 0);
}

#[test]
fn one_who_suffers_is_named_alone_wherever_he_is() {
    let meeting = meeting();
    for path in ["/rooms", "/ips", "/peers", "/transports", "/ips?by=net&width=16,48", "/streams"] {
        let page = page(&meeting, path);
        let boxes: Vec<&str> = page.split("<div class=\"verdict").skip(1).collect();
        assert_eq!(boxes.len(), 3, "{path}: {page}");
        for (name, cause) in [("BOB", "uplink"), ("CAROL", "downlink"), ("DAVE", "silent")] {
            let found = boxes.iter().filter(|it| it.contains(&format!(">{name} in r1<")));
            let found: Vec<_> = found.collect();
            assert!(found.len() == 1 && found[0].contains(cause), "{path}: {boxes:?}");
        }
        assert!(!page.contains("ALICE in r1"), "{path}");
    }
    let rooms = json(&meeting, "/api/v1/rooms");
    let room = &rooms["rows"][0];
    assert_eq!((&room["suffering"], room["whose"].is_string()), (&Value::from(3), true));
    // A stream has what shows in it.
    let streams = json(&meeting, "/api/v1/streams?q=peer:bob");
    for row in streams["rows"].as_array().unwrap() {
        let is_producer = row["subtitle"].as_str().unwrap().starts_with("producer");
        assert_eq!(row["verdict"].is_string(), is_producer, "{row}");
    }
}

#[test]
fn what_a_peer_sends_is_not_its_own_once_more_in_a_pipe() {
    let mut meeting = meeting();
    let before = json(&meeting, "/api/v1/peers?q=peer:alice")["rows"][0].clone();
    // Alice's producer on another router: it has the same id.
    let tuple = meeting.join("pipe", "127.0.0.1:7000");
    let mut transport = crate::fixture::transport("t-pipe", Some("127.0.0.1:7000"), 40_000);
    transport.kind = crate::model::TransportKind::Pipe;
    transport.owner = Some(crate::fixture::peer("alice"));
    meeting.told.state.put_transport(transport);
    meeting.told.producer("p-alice", "t-pipe", &[(900, None)]);
    let stream = crate::fixture::stream(tuple, crate::model::Direction::Receive, 900, 0);
    meeting.reading.streams.push(stream);
    for _ in 0..2 {
        meeting.send(900, 500, 0);
        meeting.step();
    }
    let after = json(&meeting, "/api/v1/peers?q=peer:alice&for=1h")["rows"][0].clone();
    assert_eq!(after["receive_packets"], before["receive_packets"]);
    let pipe = json(&meeting, "/api/v1/ips?q=ip:127.0.0.1")["rows"][0].clone();
    assert!(pipe["receive_packets"].as_u64().unwrap() >= 1_000, "{pipe}");
    assert_eq!(
        (&pipe["peers"], &pipe["verdict"]),
        (&Value::from(Vec::<String>::new()), &Value::Null)
    );
}

#[test]
fn an_empty_page_says_why() {
    let empty = Meeting::new(AddressPolicy::None);
    let shown = page(&empty, "/peers");
    assert!(shown.contains("nobody</b> is here") && !shown.contains("-0 bit"), "{shown}");
    let meeting = meeting();
    let early = page(&meeting, &format!("/peers?at={}", EPOCH - 3_600_000));
    assert!(early.contains("The history begins later"), "{early}");
    assert!(page(&meeting, "/peers?offset=40").contains("There are 4 rows only"));
}

#[test]
fn an_address_has_a_page_of_its_own() {
    let meeting = meeting();
    let all = page(&meeting, "/ips");
    let link = "/ips?q=ip%3A203.0.114.7";
    assert!(all.contains(link) && !all.contains("<h2>Transports</h2>"), "{all}");
    for path in [link, "/ips?q=203.0.114.7%2F32"] {
        let own = page(&meeting, path);
        for part in
            ["<h2>Transports</h2>", "<h2>Streams</h2>", "t-bob", "producer video", "<figure>"]
        {
            assert!(own.contains(part), "{path}: {part}: {own}");
        }
        assert!(!own.contains("t-alice") && own.matches("<table>").count() == 3, "{own}");
        // From here on downwards: to what it is made of.
        assert!(own.contains("/streams?q=ip%3A203.0.114.7"), "{own}");
    }
}
