//! Each kind of server, with each version of mediasoup that there is a worker of: what the observer
//! finds is what the server holds, and stays so as objects come and go.

use std::path::PathBuf;

use anyhow::Result;
use exporter_tests::observer_fixture::{Fixture, differences};
use exporter_tests::observer_watch::{Watch, options};
use exporter_tests::process::TempDir;
use exporter_tests::sfu::{Build, VERSIONS};
use exporter_tests::{skip, wait};
use serde_json::{Value, json};

/// Follows a server of this kind through the changes of its life.
fn check(kind: &str) -> Result<()> {
    for version in VERSIONS {
        let Some(build) = Build::find(version) else {
            skip(&format!("no mediasoup {version}"));
            continue;
        };
        let folder = TempDir::new("observer")?;
        let socket = folder.path().join("console.sock");
        let mut server = Fixture::start(kind, &build, &socket, 2, 2)?;
        let before = server.census()?;
        let watch = Watch::start(options(&[socket]))?;
        watch.synced()?;
        agree(&watch, &mut server)?;
        let hello = watch.status().and_then(|status| status.hello).expect("it is up");
        assert_eq!((&*hello.kind, &*hello.mediasoup), (kind, version));

        server.ask(&json!({ "do": "lobby", "room": "room-0", "peer": "guest" }))?;
        server.ask(&json!({ "do": "open-peer", "room": "room-1", "peer": "late" }))?;
        agree(&watch, &mut server)?;
        server.ask(&json!({ "do": "pause", "producer": true }))?;
        agree(&watch, &mut server)?;
        server.ask(&json!({ "do": "close-peer", "room": "room-0", "peer": "room-0-peer-0" }))?;
        agree(&watch, &mut server)?;
        server.ask(&json!({ "do": "close-room", "room": "room-1" }))?;
        agree(&watch, &mut server)?;

        let status = watch.status().expect("it is up");
        assert_eq!((status.tally.bad_lines, status.tally.oversized_lines), (0, 0));
        assert_eq!(status.beat.failures, 0);
        watch.stop()?;
        nothing_left(&mut server, &before)?;
    }
    Ok(())
}

fn agree(watch: &Watch, server: &mut Fixture) -> Result<()> {
    wait::until_equal("observer and server agree", wait::LONG, || {
        Ok((differences(&watch.seen(), &server.truth()?), Vec::new()))
    })
}

/// The console is closed, the script's global is gone, and no listener stays.
fn nothing_left(server: &mut Fixture, before: &Value) -> Result<()> {
    wait::until("the server is as before", wait::LONG, || {
        let census = server.census()?;
        let same = census["consoles"] == 0 && census["registry"] == 0 && census["prompts"] == 0;
        Ok((same && census["pipes"] == before["pipes"]).then_some(()))
    })?;
    // The rooms that were closed took their own listeners along; a fresh visit changes nothing.
    let rested = server.census()?;
    let watch = Watch::start(options(&[server.socket().to_owned()]))?;
    watch.synced()?;
    assert!(server.census()?["listeners"].as_u64() > rested["listeners"].as_u64());
    watch.stop()?;
    wait::until_equal("no listener stays", wait::LONG, || Ok((server.census()?, rested.clone())))
}

#[test]
fn edumeet_3() -> Result<()> {
    check("edumeet3")
}

#[test]
fn edumeet_4_media_node() -> Result<()> {
    check("edumeet4-media-node")
}

#[test]
fn mediasoup_demo_in_javascript() -> Result<()> {
    check("mediasoup-demo-js")
}

#[test]
fn mediasoup_demo_in_typescript() -> Result<()> {
    check("mediasoup-demo-ts")
}

/// Room server and media node together give every stream its room's name and its peer. Who waits in the
/// lobby is in no room.
#[test]
fn edumeet_4_room_server_and_media_node() -> Result<()> {
    let Some(build) = VERSIONS.iter().rev().find_map(|version| Build::find(version)) else {
        skip("no mediasoup");
        return Ok(());
    };
    let folder = TempDir::new("observer")?;
    let sockets: Vec<PathBuf> =
        ["media.sock", "room.sock"].map(|name| folder.path().join(name)).into();
    let mut media = Fixture::start("edumeet4-media-node", &build, &sockets[0], 2, 2)?;
    media.ask(&json!({ "do": "lobby", "room": "room-0", "peer": "guest" }))?;
    let mut rooms = Fixture::start("edumeet4-room-server", &build, &sockets[1], 0, 0)?;
    let watch = Watch::start(options(&sockets))?;
    let view = media.ask(&json!({ "do": "view" }))?;
    rooms.ask(&json!({ "do": "rooms", "rooms": view }))?;
    wait::until_equal("both sides meet", wait::LONG, || {
        Ok((placed(&watch.seen()), expected(&media.ask(&json!({ "do": "view" }))?)))
    })?;
    let seen = watch.seen();
    assert_eq!(seen["rooms"], json!(["0/room-0", "0/room-1"]));
    let mut people =
        list(&seen["peers"]).iter().map(|peer| text(&peer["room"])).collect::<Vec<_>>();
    people.sort_unstable();
    assert_eq!(people, ["", "0/room-0", "0/room-0", "0/room-1", "0/room-1"]);
    // The room server forgets its rooms: what the media node knows remains.
    rooms.ask(&json!({ "do": "rooms", "rooms": [] }))?;
    wait::until("sessions stand in for rooms, and are none", wait::LONG, || {
        let seen = watch.seen();
        let bare = list(&seen["transports"])
            .iter()
            .all(|transport| text(&transport["room"]).starts_with("session-"));
        let none = seen["peers"] == json!([]) && seen["rooms"] == json!([]);
        Ok((bare && none).then_some(()))
    })
}

/// Stream id, room and peer of all that is not piped.
fn placed(seen: &Value) -> Vec<(String, String, String)> {
    let pipes = list(&seen["transports"]).into_iter().filter(|it| it["kind"] == "pipe");
    let pipes: Vec<Value> = pipes.map(|it| it["id"].clone()).collect();
    let streams = list(&seen["producers"]).into_iter().chain(list(&seen["consumers"]));
    let streams = streams.filter(|it| !pipes.contains(&it["transport"]));
    let mut placed: Vec<_> =
        streams.map(|it| (text(&it["id"]), text(&it["room"]), text(&it["peer"]))).collect();
    placed.sort_unstable();
    placed
}

fn expected(view: &Value) -> Vec<(String, String, String)> {
    let mut expected = Vec::new();
    for room in list(view) {
        for peer in list(&room["peers"]) {
            for id in list(&peer["producers"]).iter().chain(&list(&peer["consumers"])) {
                expected.push((text(id), text(&room["id"]), text(&peer["id"])));
            }
        }
    }
    expected.sort_unstable();
    expected
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
