//! The cast of the end-to-end tests: two rooms whose peers between them use every way that media
//! reaches an SFU without a browser, and what must therefore be counted.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::endpoint::{Count, Habits};
use crate::exporter::Exporter;
use crate::peer::{Script, Track};
use crate::scene::{Person, Role, Scene};
use crate::sfu::{Build, VERSIONS};
use crate::{process, root_or_skip, scene, skip, wait};

/// The room with one router.
pub const ATRIUM: &str = "atrium";
/// The room with two routers on two workers; its name needs escaping.
pub const ATTIC: &str = "attic \"2\" \\ β";

/// A mediasoup build, or a word about why there is none.
pub fn ready(version: &str) -> Option<Build> {
    if !root_or_skip() {
        return None;
    }
    process::reap();
    let build = Build::find(version);
    if build.is_none() {
        skip(&format!("mediasoup {version} is not built: run `cargo xtask setup`"));
    }
    build
}

/// The newest mediasoup build there is, or a word about why there is none.
pub fn newest() -> Option<Build> {
    let found = VERSIONS.into_iter().rfind(|version| Build::find(version).is_some());
    ready(found.unwrap_or(VERSIONS[VERSIONS.len() - 1]))
}

/// The SFU with its rooms and everybody in them.
pub fn enter(build: &Build) -> Result<Scene> {
    let mut scene = open(build)?;
    for role in roles() {
        scene.enter(role)?;
    }
    scene.introduce()?;
    Ok(scene)
}

/// The SFU with its rooms, empty.
pub fn open(build: &Build) -> Result<Scene> {
    let mut scene = Scene::open(build, 2)?;
    scene.room(ATRIUM, 1)?;
    scene.room(ATTIC, 2)?;
    Ok(scene)
}

/// An exporter beside the SFU, which asks for statistics every second; with further flags and
/// variables. It counts on the bridge and on the loopback interface, unless told otherwise.
pub fn exporter(scene: &Scene, flags: &[&str], variables: &[(&str, &str)]) -> Result<Exporter> {
    let mut all = vec!["--observer.stats-interval", "1s"];
    // Workers of other tests may run on this machine, with other ports.
    all.extend(["--ports", "40000-49999"]);
    if !flags.contains(&"--interface") {
        // The SFU listens nowhere before somebody enters, so these are not yet found by themselves.
        all.extend(["--interface", scene::BRIDGE, "--interface", "lo"]);
    }
    all.extend(flags);
    default_exporter(scene, &all, variables)
}

/// An exporter beside the SFU, which finds interfaces and ports by itself.
pub fn default_exporter(
    scene: &Scene,
    flags: &[&str],
    variables: &[(&str, &str)],
) -> Result<Exporter> {
    let console = scene.sfu.console().to_str().context("a path that is not UTF-8")?;
    let all = [&["--numeric", "--observer", console], flags].concat();
    Exporter::start(&scene.host, &all, variables)
}

/// Everybody.
pub fn roles() -> Vec<Role> {
    let rough = Script {
        lose: vec![40, 41, 90],
        double: vec![60, 61],
        delay: vec![120, 200],
        ..Script::default()
    };
    let jumpy = Script { jump: Some(150), lose: vec![20], ..Script::default() };
    let simulcast = |base: u32| {
        (0..3).map(move |layer| Track::vp8(base + layer, 400 << layer).with_rtx(base + 100 + layer))
    };
    let by_rid = simulcast(3000).zip(["r0", "r1", "r2"]).map(|(track, rid)| track.with_rid(rid));
    let by_ssrc = simulcast(1000).map(|track| track.with_script(rough.clone()));
    vec![
        role(ATRIUM, "ada", |it| {
            it.name = "Ada \"the first\"\nLovelace".into();
            it.produces = vec![vec![Track::opus(1)], by_ssrc.collect()];
        }),
        role(ATRIUM, "bob", |it| {
            it.ipv6 = true;
            it.produces = vec![
                vec![Track::opus(2).with_script(jumpy)],
                vec![Track::vp8(2000, 1500).with_rtx(2100)],
            ];
            it.habits = Habits { ask_again_every: Some(100), ..Habits::default() };
        }),
        role(ATRIUM, "cyd", |it| {
            it.one_transport = true;
            it.produces = vec![vec![Track::opus(3)], by_rid.collect()];
        }),
        role(ATTIC, "dan", |it| {
            it.produces = vec![vec![Track::opus(4)], simulcast(4000).collect()];
        }),
        role(ATTIC, "eve", |it| {
            it.router = 1;
            it.ipv6 = true;
            it.produces = vec![vec![Track::opus(5).with_script(rough.clone())]];
        }),
        role(ATTIC, "fay", |_| {}),
    ]
}

fn role(room: &str, peer: &str, change: impl FnOnce(&mut Role)) -> Role {
    let mut role = Role {
        room: room.into(),
        router: 0,
        peer: peer.into(),
        name: format!("{peer} of {room}"),
        user_agent: format!("Tester/1.0 (namespace; {peer})"),
        ipv6: false,
        one_transport: false,
        produces: Vec::new(),
        habits: Habits::default(),
    };
    change(&mut role);
    role
}

/// Everybody sends so many ticks of media; then waits until nothing is under way any more, and makes
/// sure that nothing was dropped.
pub fn play(scene: &mut Scene, ticks: u64) -> Result<()> {
    scene.play(ticks)?;
    repair(scene)?;
    let limit = wait::LONG;
    wait::until_equal("producers to count what was sent", limit, || producers(scene))?;
    wait::until_equal("consumers to count what arrived", limit, || consumers(scene))?;
    ensure!(scene.dropped()? == 0, "a socket dropped datagrams");
    Ok(())
}

/// Answers the SFU until it has asked for every packet that can be repeated.
fn repair(scene: &mut Scene) -> Result<()> {
    wait::until("the SFU to ask for what was lost", wait::LONG, || {
        let mut missing = 0;
        for person in scene.people.values_mut() {
            missing += person.sender.heed(&person.sending.endpoint)?;
        }
        Ok((missing == 0).then_some(()))
    })
}

/// Counts by the id of a producer or consumer, and SSRC.
pub type ById = BTreeMap<(String, u32), Count>;

/// What each producer's encodings sent, as mediasoup counts them: with repaired packets, without
/// those that begin a new sequence; then what mediasoup counted.
pub fn producers(scene: &mut Scene) -> Result<(ById, ById)> {
    let stats = scene.sfu.stats()?;
    let (mut sent, mut counted) = (ById::new(), ById::new());
    for person in scene.people.values() {
        for made in &person.produced {
            for track in &made.tracks {
                sent.insert((made.id.clone(), track.ssrc), as_mediasoup_counts(person, track));
            }
            counted.extend(entries(&stats["producers"][&made.id], &made.id, "inbound-rtp")?);
        }
    }
    Ok((sent, counted))
}

/// What each consumer's peer received; then what mediasoup counted.
pub fn consumers(scene: &mut Scene) -> Result<(ById, ById)> {
    let stats = scene.sfu.stats()?;
    let (mut received, mut counted) = (ById::new(), ById::new());
    for person in scene.people.values() {
        let arrived = person.receiving().endpoint.received().rtp;
        for it in &person.consumed {
            let (id, ssrc) = (&it.consumer.id, it.consumer.ssrc);
            received.insert((id.clone(), ssrc), arrived.get(&ssrc).copied().unwrap_or_default());
            counted.extend(entries(&stats["consumers"][id], id, "outbound-rtp")?);
        }
    }
    Ok((received, counted))
}

fn as_mediasoup_counts(person: &Person, track: &Track) -> Count {
    let sent = person.sending.endpoint.sent().rtp;
    let of = |ssrc: u32| sent.get(&ssrc).copied().unwrap_or_default();
    let mut count = of(track.ssrc);
    if let Some(rtx) = track.rtx {
        let repaired = of(rtx);
        count.packets += repaired.packets;
        // Each without its original sequence number (RFC 4588 §4).
        count.bytes += repaired.bytes - 2 * repaired.packets;
    }
    let jumped = person.sender.jumped(track.ssrc);
    Count { packets: count.packets - jumped.packets, bytes: count.bytes - jumped.bytes }
}

fn entries(object: &Value, id: &str, kind: &str) -> Result<ById> {
    let entries = object["stats"].as_array().with_context(|| format!("no statistics of {id}"))?;
    let ours = entries.iter().filter(|entry| entry["type"] == kind);
    let number = |entry: &Value, name: &str| entry[name].as_u64().context("no number");
    ours.map(|entry| {
        let count =
            Count { packets: number(entry, "packetCount")?, bytes: number(entry, "byteCount")? };
        Ok(((id.to_owned(), number(entry, "ssrc")?.try_into()?), count))
    })
    .collect()
}
