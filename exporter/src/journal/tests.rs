//! What the journal says of a meeting from which people leave, and what becomes of its files.

use std::fs;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use super::folder::Folder;
use super::*;
use crate::fixture;
use crate::history::tests::{Meeting, STEP};
use crate::labels::AddressPolicy;
use crate::model::Direction;
use crate::views::{Thresholds, verdicts};

const EPOCH: u64 = 1_700_000_000_000;

/// A folder of its own, which goes with it.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("journal-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    fn options(&self) -> config::Journal {
        let folder = self.0.clone();
        config::Journal { folder, retention: Duration::from_secs(86_400), most_bytes: 1 << 20 }
    }

    fn entries(&self) -> Vec<Entry> {
        let mut files: Vec<_> =
            fs::read_dir(&self.0).unwrap().map(|it| it.unwrap().path()).collect();
        files.sort();
        let texts = files.iter().map(|file| fs::read_to_string(file).unwrap());
        texts.flat_map(|text| text.lines().map(entry).collect::<Vec<_>>()).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn entry(line: &str) -> Entry {
    serde_json::from_str(line).unwrap()
}

/// A step of a meeting that is written down.
fn step(meeting: &mut Meeting, journal: &mut Journal, lost: &[&str]) {
    meeting.step();
    let past = meeting.history.lend(EPOCH);
    journal.look(&verdicts(&past, &Thresholds::default()), past.now);
    journal.lose(lost.iter().map(|it| (*it).into()).collect(), past.now);
    let ended = meeting.history.take_ended(false);
    journal.write(&past, &ended, false);
}

fn end(meeting: &mut Meeting, journal: &mut Journal) {
    let ended = meeting.history.take_ended(true);
    journal.write(&meeting.history.lend(EPOCH), &ended, true);
    journal.close(Duration::from_secs(60));
}

fn leave(meeting: &mut Meeting, name: &str, ssrc: u32) {
    meeting.told.state.remove_transport(&(*format!("t-{name}")).into());
    meeting
        .told
        .state
        .remove_producer(&((*format!("t-{name}")).into(), (*format!("p-{name}")).into()));
    meeting.reading.streams.retain(|stream| stream.ssrc != ssrc);
    meeting.reading.flows.retain(|_| false);
}

#[test]
fn every_packet_of_a_call_is_in_its_lines() {
    let scratch = Scratch::new("packets");
    let mut journal = Journal::start(&scratch.options(), "media-1").unwrap();
    let mut meeting = Meeting::new(AddressPolicy::None);
    let tuple = meeting.join("bob", "203.0.113.7:5000");
    meeting.produce("bob", tuple, 7);
    let steps = 30;
    for number in 0..steps {
        meeting.send(7, 90, if number >= 10 { 10 } else { 0 });
        step(&mut meeting, &mut journal, &[]);
    }
    leave(&mut meeting, "bob", 7);
    for _ in 0..10 {
        step(&mut meeting, &mut journal, &[]);
    }
    end(&mut meeting, &mut journal);
    let tally = journal.tally();
    let entries = scratch.entries();
    assert_eq!((tally.written, tally.lost), (entries.len() as u64, 0));
    let stream = entries.iter().find(|it| it.what == "stream").unwrap();
    assert_eq!((&*stream.room_id, &*stream.peer_id, &*stream.display_name), ("r1", "bob", "BOB"));
    assert_eq!((stream.ssrc, &*stream.id, &*stream.how), (Some(7), "p-bob", "closed"));
    assert_eq!((stream.receive_packets, stream.receive_bytes), (90 * steps, 90 * steps * 100));
    assert_eq!(stream.receive_lost_packets, Some(200));
    assert_eq!((stream.send_packets, stream.send_lost_packets), (0, None));
    assert_eq!(stream.receive_loss_ratio, Some(0.068966));
    assert_eq!((&*stream.started, stream.seconds), ("2023-11-14T22:13:20Z", 150.0));
    assert_eq!(stream.worst_minute_loss_ratio, Some(0.1));
    assert_eq!((&*stream.verdict, &*stream.host), ("uplink", "media-1"));
    assert!(stream.evidence.contains("10.0 % of"), "{}", stream.evidence);
    let connections: Vec<_> = entries.iter().filter(|it| it.what == "connection").collect();
    let [connection] = &*connections else { panic!("{connections:?}") };
    assert_eq!((&*connection.how, &*connection.transport_id), ("closed", "t-bob"));
    assert_eq!(&*connection.remote_addr, "203.0.113.7:5000");
    // STUN: one packet in each step, and one before.
    assert_eq!(connection.receive_packets, 90 * steps + steps + 1);
    assert_eq!((connection.receive_lost_packets, connection.ssrc), (None, None));
}

#[test]
fn how_something_ended_is_said() {
    let scratch = Scratch::new("how");
    let mut journal = Journal::start(&scratch.options(), "").unwrap();
    let mut meeting = Meeting::new(AddressPolicy::None);
    let tuple = meeting.join("ada", "203.0.113.7:5000");
    // It never has a packet.
    meeting.told.transport("t-never", "203.0.113.9:9", 40_009);
    meeting.produce("ada", tuple, 7);
    meeting.reading.streams.push(fixture::stream(tuple, Direction::Receive, 8, 0));
    for number in 0..60 {
        meeting.send(7, 10, 0);
        if number < 4 {
            meeting.send(8, 1, 0);
        }
        if number == 10 {
            meeting.told.state.remove_transport(&"t-never".into());
        }
        step(&mut meeting, &mut journal, &[]);
    }
    end(&mut meeting, &mut journal);
    let entries = scratch.entries();
    let how = |is: &dyn Fn(&&Entry) -> bool| {
        let found: Vec<_> = entries.iter().filter(is).map(|it| &*it.how).collect();
        assert_eq!(found.len(), 1, "{entries:#?}");
        found[0].to_owned()
    };
    assert_eq!(how(&|it| it.ssrc == Some(7)), "exporter_ended");
    assert_eq!(how(&|it| it.transport_id == "t-never"), "closed");
    assert_eq!(how(&|it| it.ssrc == Some(8)), "quiet");
}

#[test]
fn a_server_that_is_lost_is_no_hang_up() {
    let scratch = Scratch::new("lost");
    let mut journal = Journal::start(&scratch.options(), "").unwrap();
    let mut meeting = Meeting::new(AddressPolicy::None);
    let tuple = meeting.join("ada", "203.0.113.7:5000");
    meeting.produce("ada", tuple, 7);
    for _ in 0..4 {
        meeting.send(7, 10, 0);
        step(&mut meeting, &mut journal, &[]);
    }
    leave(&mut meeting, "ada", 7);
    step(&mut meeting, &mut journal, &["t-ada"]);
    for _ in 0..5 {
        step(&mut meeting, &mut journal, &[]);
    }
    end(&mut meeting, &mut journal);
    let entries = scratch.entries();
    assert_eq!(entries.len(), 2, "{entries:?}");
    assert!(entries.iter().all(|it| it.how == "server_lost"), "{entries:?}");
}

#[test]
fn addresses_are_as_the_policy_shows_them() {
    let scratch = Scratch::new("privacy");
    let mut journal = Journal::start(&scratch.options(), "").unwrap();
    let mut meeting = Meeting::new(AddressPolicy::truncate(24, 48).unwrap());
    let tuple = meeting.join("ada", "203.0.113.7:5000");
    meeting.produce("ada", tuple, 7);
    meeting.send(7, 10, 0);
    step(&mut meeting, &mut journal, &[]);
    end(&mut meeting, &mut journal);
    let entries = scratch.entries();
    assert!(entries.iter().any(|it| it.remote_addr.starts_with("203.0.113.0")), "{entries:?}");
    assert!(!format!("{entries:?}").contains("203.0.113.7"), "{entries:?}");
}

#[test]
fn old_files_go_and_what_is_not_ours_stays() {
    let scratch = Scratch::new("files");
    let options = config::Journal { most_bytes: 16_000, ..scratch.options() };
    let mut folder = Folder::open(&options).unwrap();
    fs::write(scratch.0.join("notes.txt"), vec![b'x'; 50_000]).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", scratch.0.join("calls-0-00.jsonl")).unwrap();
    let start = SystemTime::now();
    let line = [&[b'x'; 499][..], b"\n"].concat();
    for second in 0..100 {
        folder.write(&line, start + Duration::from_secs(second)).unwrap();
    }
    let files = || {
        let names = fs::read_dir(&scratch.0).unwrap().map(|it| it.unwrap());
        let ours = names.filter(|it| it.metadata().unwrap().is_file());
        ours.filter(|it| it.file_name() != "notes.txt").collect::<Vec<_>>()
    };
    let bytes: u64 = files().iter().map(|it| it.metadata().unwrap().len()).sum();
    // A file has a sixteenth, and the last one is not finished.
    assert!((15_000..=17_000).contains(&bytes), "{bytes}");
    folder.tidy(start + Duration::from_secs(90_000));
    assert_eq!(files().len(), 1, "the one that is written");
    assert!(
        scratch.0.join("notes.txt").exists() && scratch.0.join("calls-0-00.jsonl").is_symlink()
    );
    // Another process begins another file.
    let mut again = Folder::open(&options).unwrap();
    again.write(&line, start).unwrap();
    assert_eq!(files().len(), 2);
}

#[test]
fn lines_are_found_by_what_they_say() {
    let bob = Entry {
        what: "stream".into(),
        room_id: "lobby".into(),
        peer_id: "b".into(),
        display_name: "Bob".into(),
        remote_addr: "203.0.113.7:5000".into(),
        country: "DE".into(),
        ssrc: Some(7),
        receive_packets: 90,
        receive_lost_packets: Some(10),
        verdict: "never_connected".into(),
        ..Entry::default()
    };
    let check = |line: &str, expected: bool| {
        assert_eq!(read::is_wanted(&bob, &line.parse().unwrap()), expected, "{line}");
    };
    check("", true);
    check("room:lobby loss:>2% net:203.0.113.0/24 -country:FR ssrc:7 bob", true);
    check("verdict:never", true);
    check("loss:>20%", false);
    check("ip:203.0.113.8", false);
    assert_eq!(UNIX_EPOCH + Duration::from_millis(STEP), UNIX_EPOCH + Duration::from_secs(5));
}

#[test]
fn the_documented_table_has_each_field_and_no_other() {
    let document = include_str!("../../../docs/journal.md");
    let table = document.split("CREATE TABLE").nth(1).and_then(|rest| rest.split("ENGINE").next());
    let columns = table.unwrap().lines().filter_map(|line| line.strip_prefix("    "));
    let mut columns: Vec<&str> = columns.filter_map(|line| line.split(' ').next()).collect();
    columns.sort_unstable();
    let line = serde_json::to_value(Entry::default()).unwrap();
    let mut fields: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
    fields.sort_unstable();
    assert_eq!(columns, fields);
    for field in fields {
        assert!(document.contains(&format!("`{field}`")), "{field} is not explained");
    }
}
