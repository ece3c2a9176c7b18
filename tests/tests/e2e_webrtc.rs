//! Real browsers on a real mediasoup, the exporter beside it: what it counts by SSRC is what the
//! browsers count, to the packet and to the byte, over every way that WebRTC reaches an SFU.
//!
//! A browser counts retransmissions and padding with the stream that they belong to, so an SSRC and
//! its RTX are held against it together, and the SSRC alone against mediasoup.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use exporter_tests::browser::{Browser, Site};
use exporter_tests::endpoint::Count;
use exporter_tests::exporter::Exporter;
use exporter_tests::netns::Netns;
use exporter_tests::peer::Queues;
use exporter_tests::scene::Scene;
use exporter_tests::scrape::{Sample, Scrape};
use exporter_tests::sfu::VERSIONS;
use exporter_tests::{cast, wait};
use serde_json::{Value, json};

/// What AEAD_AES_256_GCM adds to an RTP packet (RFC 7714).
const TAG: u64 = 16;
/// Packets of each stream that make a performance.
const ENOUGH: u64 = 20;
/// What there is to count: Ada's voice and three layers, and what Bob hears and sees.
const STREAMS: usize = 4 + 2;
/// The SSRC of mediasoup's bandwidth probation.
const PROBATION: u64 = 1234;

#[test]
fn browsers_on_3_12_are_counted() -> Result<()> {
    a_call("3.12.16", "udp")
}

#[test]
fn browsers_on_3_15_are_counted() -> Result<()> {
    a_call("3.15.8", "udp")
}

#[test]
fn browsers_on_3_27_are_counted() -> Result<()> {
    a_call("3.27.1", "udp")
}

#[test]
fn browsers_that_share_a_port_are_counted() -> Result<()> {
    a_call(VERSIONS[VERSIONS.len() - 1], "server")
}

/// A whole call: media, a new connection under way with some loss, and a page that is killed.
fn a_call(version: &str, listen: &'static str) -> Result<()> {
    let Some(mut call) = Call::open(version, listen)? else { return Ok(()) };
    call.send(true)?;
    call.receive()?;
    call.perform()?;
    let ports = call.ports()?;
    ensure!((ports.len() == 1) == (listen == "server"), "mediasoup listens on {ports:?}");
    let first = call.everything_is_counted(Mediasoup::All)?;
    call.everything_is_labelled("udp")?;

    // From here on mediasoup loses some of what the kernel has seen, and asks for it again.
    call.lose_some()?;
    call.restart_ice()?;
    call.perform()?;
    let second = call.everything_is_counted(Mediasoup::AtMost)?;
    let (before, after) = (first.keys().collect::<BTreeSet<_>>(), second.keys().collect());
    ensure!(before.is_subset(&after), "{before:?} have become {after:?}");
    let mut media = second.iter().filter(|(row, _)| row.3 == "media");
    ensure!(media.all(|(row, count)| first[row].packets < count.packets), "a stream did not go on");
    call.everything_is_labelled("udp")?;
    call.a_killed_page_is_let_go()?;
    call.exporter.stop()
}

/// Media that comes before its producer is there is the connection's, though not yet mediasoup's.
#[test]
fn what_comes_before_its_producer_is_counted() -> Result<()> {
    let Some(mut call) = Call::open(VERSIONS[VERSIONS.len() - 1], "udp")? else { return Ok(()) };
    call.send(false)?;
    call.receive()?;
    call.perform()?;
    call.everything_is_counted(Mediasoup::AtMost)?;
    call.everything_is_labelled("udp")?;
    call.exporter.stop()
}

/// TCP is counted by connection: its bytes, whatever they carry.
#[test]
fn browsers_over_tcp_are_counted() -> Result<()> {
    let Some(mut call) = Call::open(VERSIONS[VERSIONS.len() - 1], "tcp")? else { return Ok(()) };
    call.send(true)?;
    call.receive()?;
    call.perform()?;
    call.everything_is_labelled("tcp")?;
    call.tcp_is_counted()?;
    // Each packet comes with its length (RFC 4571 §2), among checks, handshakes and reports.
    let scrape = call.exporter.scrape()?;
    let media: Count = call.browsers()?.into_values().map(|it| it.count).sum();
    let counted: u64 = call.connections(&scrape, "tcp").into_values().sum();
    ensure!(counted > media.bytes + 2 * media.packets, "{counted} bytes are less than {media:?}");
    ensure!(call.counts(&scrape).is_empty(), "TCP has no streams");
    call.a_killed_page_is_let_go()?;
    call.exporter.stop()
}

/// What mediasoup's count of a stream is to be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mediasoup {
    /// The kernel's.
    All,
    /// Less what came before the producer was there, or what was lost behind the kernel's count.
    AtMost,
}

/// Labels that a sample has, among others.
type Labels = Vec<(&'static str, String)>;

/// Ada sends, Bob receives.
struct Call {
    ada: Browser,
    bob: Browser,
    exporter: Exporter,
    scene: Scene,
    listen: &'static str,
    sent: Value,
    received: Value,
}

/// One stream as a browser counts it, with its RTX.
struct Stream {
    kind: String,
    rtx: Option<u64>,
    count: Count,
}

/// Direction and SSRC.
type Id = (&'static str, u64);
/// Direction, id of the producer or consumer, SSRC and role.
type Row = (&'static str, String, u64, String);

impl Call {
    fn open(version: &str, listen: &'static str) -> Result<Option<Self>> {
        let Some(build) = cast::ready(version) else { return Ok(None) };
        let mut scene = cast::open(&build)?;
        let Some(site) = Site::open(&mut scene)? else { return Ok(None) };
        let exporter = cast::exporter(&scene, &[], &[])?;
        let ada = Browser::open(&mut scene, &site, cast::ATRIUM, "ada")?;
        let bob = Browser::open(&mut scene, &site, cast::ATRIUM, "bob")?;
        let (sent, received) = (Value::Null, Value::Null);
        Ok(Some(Self { ada, bob, exporter, scene, listen, sent, received }))
    }

    fn send(&mut self, held: bool) -> Result<()> {
        let fields =
            json!({ "listen": self.listen, "ip": self.scene.address(false), "held": held });
        self.sent = self.ada.order(&mut self.scene.sfu, "send", fields)?;
        Ok(())
    }

    fn receive(&mut self) -> Result<()> {
        let producers: Vec<&Value> =
            list(&self.sent["producers"]).iter().map(|it| &it["id"]).collect();
        let fields = json!({ "listen": self.listen, "ip": self.scene.address(false),
            "producers": producers });
        self.received = self.bob.order(&mut self.scene.sfu, "receive", fields)?;
        Ok(())
    }

    /// Ada sends until every stream has gone on for a while, then no more.
    fn perform(&mut self) -> Result<()> {
        self.ada.order(&mut self.scene.sfu, "release", json!({}))?;
        self.connected()?;
        let before = self.browsers()?;
        wait::until("every stream to go on", wait::LONG, || {
            let now = self.browsers()?;
            let gone_on = |(id, stream): (&Id, &Stream)| {
                let was = before.get(id).map_or(0, |it| it.count.packets);
                stream.count.packets >= was + ENOUGH
            };
            Ok((now.len() >= STREAMS && now.iter().all(gone_on)).then_some(()))
        })?;
        self.ada.order(&mut self.scene.sfu, "rest", json!({}))?;
        Ok(())
    }

    /// Every twentieth RTP packet does not reach mediasoup, though it did reach its host.
    fn lose_some(&self) -> Result<()> {
        let rules = "add table inet loss; \
            add chain inet loss input { type filter hook input priority 0; }; \
            add rule inet loss input udp dport 40000-49999 @th,64,2 2 numgen inc mod 20 0 drop";
        let output = self.scene.host.command("nft").arg(rules).output()?;
        ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Both browsers gather new candidates, and ICE selects new tuples.
    fn restart_ice(&mut self) -> Result<()> {
        let before = self.tuples()?;
        self.ada.order(&mut self.scene.sfu, "restartIce", json!({}))?;
        self.bob.order(&mut self.scene.sfu, "restartIce", json!({}))?;
        wait::until("new tuples", wait::LONG, || {
            let now = self.tuples()?;
            Ok((now.len() == 2 && now.is_disjoint(&before)).then_some(()))
        })
    }

    /// Far ends, as mediasoup has them.
    fn tuples(&mut self) -> Result<BTreeSet<String>> {
        let tuple = |it: &Value| format!("{}:{}", it["remoteIp"], it["remotePort"]);
        Ok(self.selected()?.values().map(tuple).collect())
    }

    /// Where mediasoup listens.
    fn ports(&mut self) -> Result<BTreeSet<u64>> {
        Ok(self.selected()?.values().filter_map(|it| it["localPort"].as_u64()).collect())
    }

    /// What ICE has selected, by transport.
    fn selected(&mut self) -> Result<BTreeMap<String, Value>> {
        let stats = self.scene.sfu.stats()?;
        let transports = stats["transports"].as_object().context("no transports")?.iter();
        let tuple = |it: &Value| it["stats"][0]["iceSelectedTuple"].clone();
        Ok(transports.map(|(id, it)| (id.clone(), tuple(it))).collect())
    }

    /// All of both browsers' transports have come through ICE and DTLS.
    fn connected(&mut self) -> Result<()> {
        let sfu = &mut self.scene.sfu;
        for browser in [&mut self.ada, &mut self.bob] {
            wait::until("transports to be connected", wait::LONG, || {
                let stats = browser.order(sfu, "stats", json!({}))?;
                let mut transports = stats.as_object().into_iter().flat_map(|it| it.values());
                Ok(transports.all(|it| it["dtlsState"] == "connected").then_some(()))
            })?;
        }
        Ok(())
    }

    /// What both browsers count of RTP, with SRTP's tag; without bandwidth probation, which comes
    /// before they know of it.
    fn browsers(&mut self) -> Result<BTreeMap<Id, Stream>> {
        let mut streams = BTreeMap::new();
        for (browser, direction, done) in
            [(&mut self.ada, "receive", "Sent"), (&mut self.bob, "send", "Received")]
        {
            let stats = browser.order(&mut self.scene.sfu, "stats", json!({}))?;
            for transport in stats.as_object().into_iter().flat_map(|it| it.values()) {
                ensure!(transport["srtpCipher"] == "SRTP_AEAD_AES_256_GCM", "{transport}");
                for it in list(&transport["streams"]) {
                    let number = |name: &str| it[name].as_u64();
                    let of = |name: &str| number(&format!("{name}{done}")).unwrap_or_default();
                    let packets = of("packets");
                    let bytes = of("bytes") + of("headerBytes") + TAG * packets;
                    let ssrc = number("ssrc").context("a stream without SSRC")?;
                    let kind = it["kind"].as_str().unwrap_or_default().to_owned();
                    if packets == 0 || ssrc == PROBATION {
                        continue;
                    }
                    let (rtx, count) = (number("rtxSsrc"), Count { packets, bytes });
                    streams.insert((direction, ssrc), Stream { kind, rtx, count });
                }
            }
        }
        Ok(streams)
    }

    /// Waits until browsers and exporter agree on each stream; then checks whose each is told to be,
    /// and what mediasoup says. Returns the rows with an owner.
    fn everything_is_counted(&mut self, mediasoup: Mediasoup) -> Result<BTreeMap<Row, Count>> {
        wait::until_equal("streams as the browsers count them", wait::LONG, || {
            let scrape = self.exporter.scrape()?;
            let browsers = self.browsers()?;
            let expected: BTreeMap<Id, Count> =
                browsers.iter().map(|(id, it)| (*id, it.count)).collect();
            Ok((expected, self.folded(&scrape, &browsers)))
        })?;
        let browsers = self.browsers()?;
        let mut owned = BTreeMap::new();
        wait::until_equal("owners and roles", wait::LONG, || {
            let stats = self.scene.sfu.stats()?;
            let scrape = self.exporter.scrape()?;
            owned = self.counts(&scrape);
            let expected = self.owners(&browsers, &stats);
            let scraped = owned.keys().cloned().collect::<BTreeSet<_>>();
            // Retransmissions are there when there were any.
            let expected =
                expected.into_iter().filter(|it| it.3 == "media" || scraped.contains(it));
            Ok((expected.collect(), scraped))
        })?;
        wait::until_equal("bandwidth probation as mediasoup counts it", wait::LONG, || {
            let stats = self.scene.sfu.stats()?;
            let transport = &stats["transports"][text(&self.received["transport"])]["stats"][0];
            let sent = transport["probationBytesSent"].as_u64().unwrap_or_default();
            let counts = self.counts(&self.exporter.scrape()?);
            let counted = counts.get(&probation()).copied().unwrap_or_default();
            Ok((sent, counted.bytes - TAG * counted.packets))
        })?;
        let stats = self.scene.sfu.stats()?;
        for ((direction, id, ssrc, role), counted) in &owned {
            if role != "media" {
                continue;
            }
            let theirs = mediasoup_count(&stats, id, *ssrc)
                .with_context(|| format!("mediasoup tells nothing of {ssrc} of {id}"))?;
            let ours =
                Count { packets: counted.packets, bytes: counted.bytes - TAG * counted.packets };
            let fits = match mediasoup {
                // Its bytes are not comparable: newer workers pad what they take out of RTX.
                Mediasoup::AtMost if *direction == "receive" => theirs.packets <= ours.packets,
                _ => theirs == ours,
            };
            ensure!(fits, "{direction} {ssrc} of {id}: counted {ours:?}, mediasoup {theirs:?}");
        }
        ensure!(Queues::of(self.scene.sfu.pid()).dropped()? == 0, "a socket dropped datagrams");
        owned.retain(|row, _| !row.1.is_empty());
        Ok(owned)
    }

    /// Rows of this call's transports.
    fn counts(&self, scrape: &Scrape) -> BTreeMap<Row, Count> {
        let mut counts = BTreeMap::<Row, Count>::new();
        for (direction, transport) in self.transports() {
            let labels = [("transport_id", transport)];
            let row = |it: &Sample| -> Row {
                let label = |name: &str| it.label(name).to_owned();
                let ssrc = it.label("ssrc").parse().expect("an SSRC is a number");
                (direction, label("id"), ssrc, label("role"))
            };
            let family = |what: &str| format!("mediasoup_stream_{direction}_{what}_total");
            for it in scrape.find(&family("packets"), &labels) {
                counts.entry(row(it)).or_default().packets += it.whole();
            }
            for it in scrape.find(&family("bytes"), &labels) {
                counts.entry(row(it)).or_default().bytes += it.whole();
            }
        }
        counts
    }

    /// Direction of the media, and the transport.
    fn transports(&self) -> [(&'static str, &str); 2] {
        [("receive", text(&self.sent["transport"])), ("send", text(&self.received["transport"]))]
    }

    /// The rows with those of each RTX added to what it repairs.
    fn folded(&self, scrape: &Scrape, browsers: &BTreeMap<Id, Stream>) -> BTreeMap<Id, Count> {
        let repaired = |direction, ssrc| {
            let mut streams = browsers.iter();
            let found = streams.find(|(id, it)| id.0 == direction && it.rtx == Some(ssrc));
            found.map_or((direction, ssrc), |(id, _)| *id)
        };
        let mut folded = BTreeMap::<Id, Count>::new();
        for ((direction, _, ssrc, _), count) in self.counts(scrape) {
            if ssrc == PROBATION {
                continue;
            }
            let sum = folded.entry(repaired(direction, ssrc)).or_default();
            *sum = *sum + count;
        }
        folded
    }

    /// Whose each stream is. A layer's RTX is its producer's from when mediasoup has told its SSRC,
    /// which it learns from a packet; one whose packets mediasoup does not take is nobody's.
    fn owners(&self, browsers: &BTreeMap<Id, Stream>, stats: &Value) -> BTreeSet<Row> {
        let mut owners = BTreeSet::from([probation()]);
        for ((direction, ssrc), stream) in browsers {
            let made = match *direction {
                "receive" => &self.sent["producers"],
                _ => &self.received["consumers"],
            };
            let id = list(made).iter().find(|it| it["kind"] == *stream.kind);
            let id = id.map(|it| text(&it["id"]).to_owned()).unwrap_or_default();
            let Some(rtx) = stream.rtx else {
                owners.insert((*direction, id, *ssrc, "media".to_owned()));
                continue;
            };
            let entries = list(&stats["producers"][&id]["stats"]);
            let told = *direction == "send" || entries.iter().any(|it| it["rtxSsrc"] == rtx);
            owners.insert(match told {
                true => (*direction, id.clone(), rtx, "rtx".to_owned()),
                false => (*direction, String::new(), rtx, String::new()),
            });
            owners.insert((*direction, id, *ssrc, "media".to_owned()));
        }
        owners
    }

    /// Peers, transports, producers and consumers are told as they are, and so are their scores.
    fn everything_is_labelled(&mut self, proto: &str) -> Result<()> {
        wait::until_equal("peers, transports and streams", wait::LONG, || {
            let expected = self.told(proto)?;
            let scrape = self.exporter.scrape()?;
            let found = expected.iter().filter(|(family, labels)| {
                let labels: Vec<_> = labels.iter().map(|(name, it)| (*name, it.as_str())).collect();
                scrape.find(family, &labels).count() == 1
            });
            let found: Vec<_> = found.cloned().collect();
            Ok((expected, found))
        })?;
        wait::until_equal("scores", wait::LONG, || {
            let stats = self.scene.sfu.stats()?;
            let scrape = self.exporter.scrape()?;
            let (mut expected, mut scraped) = (BTreeMap::new(), BTreeMap::new());
            for (family, made) in [
                ("mediasoup_producer_score", &self.sent["producers"]),
                ("mediasoup_consumer_score", &self.received["consumers"]),
            ] {
                for id in list(made).iter().map(|it| text(&it["id"])) {
                    expected.insert(id.to_owned(), score(&stats, id));
                    let labels = [("id", id), ("room_id", cast::ATRIUM), ("proto", proto)];
                    scraped.insert(id.to_owned(), scrape.sum(family, &labels) as u64);
                }
            }
            Ok((expected, scraped))
        })
    }

    /// Samples of info families that must be there, by some of their labels.
    fn told(&mut self, proto: &str) -> Result<Vec<(&'static str, Labels)>> {
        let mut told = Vec::new();
        let selected = self.selected()?;
        for (browser, peer, made, of, family) in [
            (&mut self.ada, "ada", &self.sent, "producers", "mediasoup_producer_info"),
            (&mut self.bob, "bob", &self.received, "consumers", "mediasoup_consumer_info"),
        ] {
            let transport = text(&made["transport"]);
            let stats = browser.order(&mut self.scene.sfu, "stats", json!({}))?;
            let stats = &stats[transport];
            let whose = [("peer_id", peer.to_owned()), ("room_id", cast::ATRIUM.to_owned())];
            let with = |more: &[(&'static str, &str)]| -> Vec<(&'static str, String)> {
                let more = more.iter().map(|(name, value)| (*name, (*value).to_owned()));
                whose.iter().cloned().chain(more).collect()
            };
            told.push(("mediasoup_peer_info", with(&[("display_name", peer)])));
            let remote = format!("{}:{}", browser.ip(), stats["port"]);
            let local =
                format!("{}:{}", self.scene.address(false), selected[transport]["localPort"]);
            told.push((
                "mediasoup_transport_info",
                with(&[
                    ("transport_id", transport),
                    ("proto", proto),
                    ("local_addr", &local),
                    ("remote_addr", &remote),
                    ("dtls_state", text(&stats["dtlsState"])),
                ]),
            ));
            for it in list(&made[of]) {
                let kind = text(&it["kind"]);
                let codec = if kind == "audio" { "opus" } else { "VP8" };
                let mut labels = vec![
                    ("id", text(&it["id"])),
                    ("transport_id", transport),
                    ("kind", kind),
                    ("codec", codec),
                ];
                labels.extend(it["producerId"].as_str().map(|id| ("producer_id", id)));
                told.push((family, with(&labels)));
            }
        }
        Ok(told)
    }

    /// Bytes of each connection are what both ends' TCP says that it sent, repeated segments included.
    fn tcp_is_counted(&mut self) -> Result<()> {
        let selected = self.selected()?;
        let _quiet = self.scene.sfu.quiet()?;
        wait::until_equal("bytes as TCP counts them", wait::LONG, || {
            let mut expected = BTreeMap::new();
            let browsers = [(&self.sent, &self.ada), (&self.received, &self.bob)];
            for (transport, browser) in browsers.map(|(it, peer)| (text(&it["transport"]), peer)) {
                let tuple = &selected[transport];
                let ports = [&tuple["localPort"], &tuple["remotePort"]];
                for (direction, host) in [("receive", browser.host()), ("send", &self.scene.host)] {
                    expected.insert((transport.to_owned(), direction), tcp_sent(host, ports)?);
                }
            }
            Ok((expected, self.connections(&self.exporter.scrape()?, "tcp")))
        })
    }

    /// Bytes of connections, by transport.
    fn connections(&self, scrape: &Scrape, proto: &str) -> BTreeMap<(String, &'static str), u64> {
        let mut bytes = BTreeMap::new();
        for (_, transport) in self.transports() {
            for direction in ["receive", "send"] {
                let family = format!("mediasoup_connection_{direction}_bytes_total");
                let labels = [("transport_id", transport), ("proto", proto)];
                let sum = scrape.find(&family, &labels).map(|it| it.whole()).sum();
                bytes.insert((transport.to_owned(), direction), sum);
            }
        }
        bytes
    }

    /// The server notices, closes what was the peer's, and the exporter forgets it; the other one
    /// stays.
    fn a_killed_page_is_let_go(&mut self) -> Result<()> {
        let before = self.exporter.scrape()?;
        let of_ada = [("peer_id", "ada"), ("kind", "webrtc")];
        let open = before.find("mediasoup_transport_info", &of_ada).count() as f64;
        self.ada.kill_page()?;
        let of = |made: &Value| -> Vec<String> {
            list(made).iter().map(|it| text(&it["id"]).to_owned()).collect()
        };
        let mut gone = of(&self.sent["producers"]);
        gone.extend(of(&self.received["consumers"]));
        gone.push(text(&self.sent["transport"]).to_owned());
        wait::until("the series of a page that was killed to go", wait::LONG, || {
            let scrape = self.exporter.scrape()?;
            let families = scrape.families.values();
            let mut labels = families.flat_map(|it| &it.samples).flat_map(|it| &it.labels);
            let gone = !labels.any(|(_, value)| gone.contains(value));
            Ok((gone && scrape.sum("edumeet_peers", &[]) == 1.0).then_some(()))
        })?;
        let scrape = self.exporter.scrape()?;
        let transport = [("transport_id", text(&self.received["transport"])), ("peer_id", "bob")];
        ensure!(scrape.find("mediasoup_transport_info", &transport).count() == 1, "Bob has gone");
        let closed = |scrape: &Scrape, reached| {
            scrape.sum("mediasoup_transports_closed_total", &[("reached", reached)])
        };
        let new = ["nothing", "ice", "dtls"].map(|it| closed(&scrape, it) - closed(&before, it));
        ensure!(open > 0.0 && new == [0.0, 0.0, open], "{open} were open, {new:?} closed");
        Ok(())
    }
}

/// Bandwidth probation is its transport's, and nobody's in particular.
fn probation() -> Row {
    ("send", String::new(), PROBATION, "probation".to_owned())
}

/// What the TCP socket in `host` between these two ports has sent.
fn tcp_sent(host: &Netns, ports: [&Value; 2]) -> Result<u64> {
    let output = host.command("ss").args(["-tinHO", "state", "established"]).output()?;
    let sockets = String::from_utf8(output.stdout)?;
    let mut lines = sockets.lines();
    let line = lines.find(|it| ports.iter().all(|port| it.contains(&format!(":{port} "))));
    let line = line.with_context(|| format!("no socket between {ports:?} in:\n{sockets}"))?;
    let sent = line.split_whitespace().find_map(|it| it.strip_prefix("bytes_sent:"));
    sent.context("ss does not say what was sent")?.parse().context("a number of bytes")
}

/// What mediasoup counts of a producer's or consumer's stream.
fn mediasoup_count(stats: &Value, id: &str, ssrc: u64) -> Option<Count> {
    let of = |what: &str, kind: &str| {
        let mut entries = list(&stats[what][id]["stats"]).iter();
        let entry = entries.find(|it| it["type"] == kind && it["ssrc"] == ssrc)?;
        let number = |name: &str| entry[name].as_u64();
        Some(Count { packets: number("packetCount")?, bytes: number("byteCount")? })
    };
    of("producers", "inbound-rtp").or_else(|| of("consumers", "outbound-rtp"))
}

/// A consumer's score; of a producer's encodings, the best.
fn score(stats: &Value, id: &str) -> u64 {
    match stats["consumers"][id]["score"]["score"].as_u64() {
        Some(score) => score,
        None => {
            let scores = list(&stats["producers"][id]["score"]).iter();
            scores.filter_map(|it| it["score"].as_u64()).max().unwrap_or_default()
        }
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
