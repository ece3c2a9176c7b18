//! Which ports are the SFU's, with a real mediasoup and no flag that says so: ports anywhere, workers
//! that start after the exporter, workers by other names, and hosts without any.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use exporter_tests::exporter::Exporter;
use exporter_tests::netns::{Netns, veth};
use exporter_tests::process::TempDir;
use exporter_tests::rtp::Packet;
use exporter_tests::scrape::Scrape;
use exporter_tests::sfu::{self, Build, Sfu, VERSIONS};
use exporter_tests::{cast, root_or_skip, skip, wait};
use serde_json::{Value, json};

/// Packets that each case sends.
const PACKETS: u16 = 50;
const RECEIVED: &str = "mediasoup_stream_receive_packets_total";
const SFU: &str = "10.84.0.1";
const PEER: &str = "10.84.0.2";

/// An SFU's host and a peer's, and an exporter that began before there was an SFU.
struct Hosts {
    exporter: Exporter,
    sfu: Arc<Netns>,
    peer: Netns,
    dir: TempDir,
}

impl Hosts {
    fn new() -> Result<Self> {
        let (sfu, peer) = (Arc::new(Netns::new("sfu")?), Netns::new("peer")?);
        veth(&sfu, "eth0", &peer, "eth0")?;
        sfu.address("eth0", SFU.parse()?, 24)?;
        peer.address("eth0", PEER.parse()?, 24)?;
        sfu.ip(&format!("route add default via {PEER}"))?;
        let dir = TempDir::new("ports")?;
        let console = sfu::console_in(dir.path());
        let console = console.to_str().context("a path that is not UTF-8")?;
        let exporter = Exporter::start(&sfu, &["--numeric", "--observer", console], &[])?;
        Ok(Self { exporter, sfu, peer, dir })
    }

    /// An SFU with a room and somebody in it.
    fn start(&self, build: &Build, variables: &[(&str, &str)]) -> Result<Sfu> {
        let mut sfu = Sfu::start_with(build, &self.sfu, self.dir.path(), variables)?;
        sfu.room("room", 1)?;
        sfu.join("room", "ann", "Ann", "")?;
        Ok(sfu)
    }

    /// A socket of the peer's.
    fn socket(&self) -> Result<UdpSocket> {
        Ok(self.peer.run_in(|| UdpSocket::bind((PEER, 0)))?)
    }

    /// A plain transport that learns its far end from the first packet, as `listen` says.
    fn plain(&self, sfu: &mut Sfu, listen: Value) -> Result<(String, u16)> {
        let mut fields = json!({ "peer": "ann", "ip": "0.0.0.0", "comedia": true });
        let (Some(all), Value::Object(more)) = (fields.as_object_mut(), listen) else {
            unreachable!("both are objects")
        };
        all.extend(more);
        let made = sfu.call("plain", fields)?;
        let port = made["port"].as_u64().context("a port")?.try_into()?;
        Ok((made["id"].as_str().context("an id")?.to_owned(), port))
    }

    /// Sends to a port of the SFU's: each packet is counted, as the transport's.
    fn arrives(&self, socket: &UdpSocket, (transport, port): (&str, u16)) -> Result<()> {
        let ssrc = u32::from(socket.local_addr()?.port()) << 8;
        send(socket, port, ssrc)?;
        wait::until_equal(&format!("all packets to port {port}"), wait::LONG, || {
            let labels = [("ssrc", &*ssrc.to_string()), ("transport_id", transport)];
            Ok((u64::from(PACKETS), self.exporter.scrape()?.sum(RECEIVED, &labels) as u64))
        })
    }
}

fn send(socket: &UdpSocket, port: u16, ssrc: u32) -> Result<()> {
    let to = SocketAddr::new(SFU.parse::<IpAddr>()?, port);
    for sequence in 0..PACKETS {
        let packet = Packet { sequence, ssrc, payload: vec![0; 100], ..Packet::default() };
        socket.send_to(&packet.to_bytes(), to)?;
    }
    Ok(())
}

#[test]
fn any_range_of_ports_is_known_of_a_server_that_starts_later() -> Result<()> {
    for version in VERSIONS {
        let Some(build) = cast::ready(version) else { continue };
        let hosts = Hosts::new()?;
        let range = [("PORT_MIN", "2000"), ("PORT_MAX", "2100")];
        let mut sfu = hosts.start(&build, &range)?;
        let (id, port) = hosts.plain(&mut sfu, json!({}))?;
        ensure!((2000..=2100).contains(&port), "mediasoup {version} listens on {port}");
        hosts.arrives(&hosts.socket()?, (&id, port))?;
        drop(sfu);
        hosts.exporter.stop()?;
    }
    Ok(())
}

#[test]
fn a_range_of_one_transport_is_known() -> Result<()> {
    let Some(build) = cast::ready(VERSIONS[VERSIONS.len() - 1]) else { return Ok(()) };
    let hosts = Hosts::new()?;
    let mut sfu = hosts.start(&build, &[])?;
    let range = json!({ "portRange": { "min": 5004, "max": 5005 } });
    let (id, port) = hosts.plain(&mut sfu, range)?;
    ensure!((5004..=5005).contains(&port), "mediasoup listens on {port}");
    hosts.arrives(&hosts.socket()?, (&id, port))?;
    drop(sfu);
    hosts.exporter.stop()
}

/// One port for everybody, below those that programs usually get, told apart by the far end.
#[test]
fn a_webrtc_server_on_port_443_is_known() -> Result<()> {
    for version in VERSIONS {
        let Some(build) = cast::ready(version) else { continue };
        let hosts = Hosts::new()?;
        let mut sfu = hosts.start(&build, &[("SERVER_PORT", "443")])?;
        for _ in 0..2 {
            let fields = json!({ "peer": "ann", "ip": SFU, "listen": "server" });
            let made = sfu.call("webrtc", fields)?;
            ensure!(made["port"] == 443, "{made}");
            let socket = hosts.socket()?;
            socket.send_to(&bytes(made["check"].as_str().context("a check")?)?, (SFU, 443))?;
            hosts.arrives(&socket, (made["id"].as_str().context("an id")?, 443))?;
        }
        drop(sfu);
        hosts.exporter.stop()?;
    }
    Ok(())
}

fn bytes(hexadecimal: &str) -> Result<Vec<u8>> {
    let byte = |at| Ok(u8::from_str_radix(&hexadecimal[at..at + 2], 16)?);
    (0..hexadecimal.len()).step_by(2).map(byte).collect()
}

#[test]
fn a_worker_by_another_name_is_known() -> Result<()> {
    let Some(build) = cast::newest() else { return Ok(()) };
    let hosts = Hosts::new()?;
    let renamed = hosts.dir.path().join("rtc-engine");
    std::fs::copy(build.worker(), &renamed)?;
    with_worker(&hosts, &build, &[("MEDIASOUP_WORKER_BIN", &utf8(renamed)?)])?;
    hosts.exporter.stop()
}

#[test]
fn a_worker_behind_a_link_is_known() -> Result<()> {
    let Some(build) = cast::newest() else { return Ok(()) };
    let hosts = Hosts::new()?;
    let link = hosts.dir.path().join("engine");
    symlink(build.worker(), &link)?;
    with_worker(&hosts, &build, &[("MEDIASOUP_WORKER_BIN", &utf8(link)?)])?;
    hosts.exporter.stop()
}

#[test]
fn a_worker_under_valgrind_is_known() -> Result<()> {
    let Some(build) = cast::newest() else { return Ok(()) };
    if Command::new("valgrind").arg("--version").output().is_err() {
        skip("there is no valgrind; `cargo xtask setup` installs it");
        return Ok(());
    }
    let hosts = Hosts::new()?;
    with_worker(&hosts, &build, &[("MEDIASOUP_USE_VALGRIND", "true")])?;
    hosts.exporter.stop()
}

/// A server whose workers are started as the variables say is counted like any other. Who has another
/// name is known within a moment of binding its first socket, if not before.
fn with_worker(hosts: &Hosts, build: &Build, variables: &[(&str, &str)]) -> Result<()> {
    let mut sfu = hosts.start(build, variables)?;
    let _first = hosts.plain(&mut sfu, json!({}))?;
    wait::until("the worker to be known", wait::LONG, || {
        let owned = hosts.exporter.scrape()?.sum("mediasoup_exporter_owned_sockets", &[]);
        Ok((owned >= 1.0).then_some(()))
    })?;
    let (id, port) = hosts.plain(&mut sfu, json!({}))?;
    hosts.arrives(&hosts.socket()?, (&id, port))
}

fn utf8(path: PathBuf) -> Result<String> {
    path.into_os_string().into_string().ok().context("a path that is not UTF-8")
}

/// Whatever else a host does is nobody's call: no connection, no stream, no socket.
#[test]
fn a_host_without_an_sfu_has_no_series() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let hosts = Hosts::new()?;
    questions(&hosts, 53, 400)?;
    questions(&hosts, 123, 1)?;
    let _connections = connections(&hosts, 300)?;
    // Several readings: what strangers do is believed only after a while, if ever.
    for _ in 0..3 {
        let scrape = hosts.exporter.scrape()?;
        let series = others(&scrape);
        assert!(series.is_empty(), "{series:?}");
        // Of nothing there is no share.
        assert_eq!(scrape.find("mediasoup_join_coverage_ratio", &[]).count(), 0);
    }
    hosts.exporter.stop()
}

/// Samples that name a connection, a stream or a socket.
fn others(scrape: &Scrape) -> Vec<String> {
    const PREFIXES: [&str; 3] = ["mediasoup_connection_", "mediasoup_stream_", "mediasoup_socket_"];
    let families = scrape.families.iter();
    let named = families.filter(|(name, _)| PREFIXES.iter().any(|it| name.starts_with(it)));
    named.flat_map(|(name, it)| it.samples.iter().map(move |it| format!("{name}{it:?}"))).collect()
}

/// The SFU's host asks, from a port of its own each time, and is answered.
fn questions(hosts: &Hosts, port: u16, count: u16) -> Result<()> {
    let server = hosts.peer.run_in(|| UdpSocket::bind((PEER, port)))?;
    let mut buffer = [0; 64];
    for id in 0..count {
        let client = hosts.sfu.run_in(|| UdpSocket::bind((SFU, 0)))?;
        // Its first bits are those of RTP, as those of an answered question may be.
        let [high, low] = id.to_be_bytes();
        let message = [0x80 | high, low, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        client.send_to(&message, (PEER, port))?;
        let (length, from) = server.recv_from(&mut buffer)?;
        server.send_to(&buffer[..length], from)?;
        client.recv(&mut buffer)?;
    }
    Ok(())
}

/// TCP connections of another program, from ports that servers often use.
fn connections(hosts: &Hosts, count: u16) -> Result<Vec<(TcpStream, TcpStream)>> {
    let listener = hosts.sfu.run_in(|| TcpListener::bind((SFU, 40_000)))?;
    let connect = |_| {
        let far = hosts.peer.run_in(|| TcpStream::connect((SFU, 40_000)))?;
        let (near, _) = listener.accept()?;
        std::io::Write::write_all(&mut &far, &[0; 1000])?;
        Ok((near, far))
    };
    (0..count).map(connect).collect()
}
