//! Rooms full of peers: an SFU in a network namespace of its own behind a bridge, and each peer in
//! another, with transports, producers and consumers between all who share a room.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::endpoint::{Endpoint, Habits};
use crate::netns::{Netns, veth};
use crate::peer::{Media, Pace, Queues, Sender, Track};
use crate::process::TempDir;
use crate::sfu::{Build, Consumer, Plain, Sfu, Transport};
use crate::wait;

/// The SFU's bridge.
pub const BRIDGE: &str = "br0";
/// The bridge's own link address. Without one of its own a bridge takes its ports' lowest, which may
/// change with any new port, and then what is on the way to the former one is lost.
const BRIDGE_ADDRESS: &str = "02:00:00:00:77:01";
const IPV4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const IPV6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);

/// Who takes part, and how.
#[derive(Clone, Debug)]
pub struct Role {
    /// Room.
    pub room: String,
    /// Which of its room's routers.
    pub router: usize,
    /// Peer id.
    pub peer: String,
    /// Display name.
    pub name: String,
    /// User agent.
    pub user_agent: String,
    /// Talks IPv6.
    pub ipv6: bool,
    /// Sends and receives on one transport.
    pub one_transport: bool,
    /// Producers, by their encodings.
    pub produces: Vec<Vec<Track>>,
    /// How its receiving end answers.
    pub habits: Habits,
}

/// A producer of a peer.
#[derive(Clone, Debug)]
pub struct Produced {
    /// Its id.
    pub id: String,
    /// `audio` or `video`.
    pub kind: &'static str,
    /// What it sends.
    pub tracks: Vec<Track>,
}

/// A consumer of a peer, and what it consumes.
#[derive(Clone, Debug)]
pub struct Consumed {
    /// The consumer.
    pub consumer: Consumer,
    /// Id of the producer.
    pub producer: String,
    /// `audio` or `video`.
    pub kind: &'static str,
}

/// What brings a producer to another router of its room.
#[derive(Clone, Debug)]
pub struct Piped {
    /// Id of the consumer that sends it.
    pub consumer: String,
    /// Id of the producer that receives it: the original's.
    pub producer: String,
}

/// A transport with the peer's end of it.
#[derive(Debug)]
pub struct Channel {
    /// The peer's socket.
    pub endpoint: Endpoint,
    /// The SFU's transport.
    pub transport: Transport,
}

impl Channel {
    /// The SFU's end, then the peer's.
    pub fn pair(&self) -> Result<(SocketAddr, SocketAddr)> {
        Ok((self.transport.address, self.endpoint.local()?))
    }
}

/// A peer in the scene.
#[derive(Debug)]
pub struct Person {
    /// As it was cast.
    pub role: Role,
    /// Where it sends, and maybe receives.
    pub sending: Channel,
    /// Where it receives, unless that is where it sends.
    pub receiving: Option<Channel>,
    /// What it sends.
    pub sender: Sender,
    /// Its producers.
    pub produced: Vec<Produced>,
    /// Its consumers.
    pub consumed: Vec<Consumed>,
    /// Where it lives.
    pub host: Netns,
}

impl Person {
    /// Where it receives.
    pub fn receiving(&self) -> &Channel {
        self.receiving.as_ref().unwrap_or(&self.sending)
    }

    /// All its transports.
    pub fn channels(&self) -> impl Iterator<Item = &Channel> {
        std::iter::once(&self.sending).chain(&self.receiving)
    }
}

/// The SFU and all peers. Fields are dropped in this order: peers, SFU, its namespace.
#[derive(Debug)]
pub struct Scene {
    /// By peer id.
    pub people: BTreeMap<String, Person>,
    /// The SFU.
    pub sfu: Sfu,
    /// The SFU's namespace, where an exporter belongs too.
    pub host: Arc<Netns>,
    /// For sockets and files of this scene.
    pub dir: TempDir,
    /// Producers that were brought to another router.
    pub pipes: Vec<Piped>,
    rooms: BTreeSet<String>,
    piped: BTreeSet<(String, usize)>,
    entered: u8,
    hosts: Vec<Netns>,
}

impl Scene {
    /// An SFU without rooms.
    pub fn open(build: &Build, workers: usize) -> Result<Self> {
        let host = Arc::new(Netns::new("sfu")?);
        let address = BRIDGE_ADDRESS;
        host.ip(&format!("link add {BRIDGE} address {address} type bridge forward_delay 0"))?;
        host.ip(&format!("link set {BRIDGE} up"))?;
        host.address(BRIDGE, IPV4.into(), 16)?;
        host.address(BRIDGE, IPV6.into(), 64)?;
        leave_ports(&host)?;
        let dir = TempDir::new("scene")?;
        let sfu = Sfu::start(build, &host, dir.path(), workers)?;
        let (people, pipes, rooms, piped, hosts) = Default::default();
        Ok(Self { people, sfu, host, dir, pipes, rooms, piped, entered: 0, hosts })
    }

    /// The SFU's address.
    pub fn address(&self, ipv6: bool) -> IpAddr {
        if ipv6 { IPV6.into() } else { IPV4.into() }
    }

    /// A fresh host on the SFU's bridge, and its address.
    pub fn new_host(&mut self, ipv6: bool) -> Result<(Netns, IpAddr)> {
        self.entered = self.entered.checked_add(1).context("no more than 255 hosts")?;
        let number = self.entered;
        let host = Netns::new("peer")?;
        let port = format!("port{number}");
        veth(&self.host, &port, &host, "eth0")?;
        self.host.ip(&format!("link set {port} master {BRIDGE}"))?;
        let (ip, prefix): (IpAddr, u8) = if ipv6 {
            (Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 1, number.into()).into(), 64)
        } else {
            (Ipv4Addr::new(10, 77, 1, number).into(), 16)
        };
        host.address("eth0", ip, prefix)?;
        leave_ports(&host)?;
        Ok((host, ip))
    }

    /// Opens a room with so many routers.
    pub fn room(&mut self, room: &str, routers: usize) -> Result<()> {
        if self.rooms.insert(room.to_owned()) {
            self.sfu.room(room, routers)?;
        }
        Ok(())
    }

    /// A peer comes in with its producers; it consumes nothing before [`Scene::introduce`].
    pub fn enter(&mut self, role: Role) -> Result<()> {
        self.room(&role.room, 1)?;
        let (host, ip) = self.new_host(role.ipv6)?;
        self.sfu.join(&role.room, &role.peer, &role.name, &role.user_agent)?;
        let sending = self.channel(&role, &host, ip, true, role.one_transport)?;
        let receiving = match role.one_transport {
            true => None,
            false => Some(self.channel(&role, &host, ip, false, true)?),
        };
        let mut produced = Vec::new();
        for tracks in &role.produces {
            let kind = kind(tracks);
            let mid = tracks.iter().any(|track| track.rid.is_some()).then_some("0");
            let encodings = encodings(tracks);
            let id = self.sfu.produce(&sending.transport, kind, mid, &encodings)?;
            produced.push(Produced { id, kind, tracks: tracks.clone() });
        }
        let sender = Sender::new(role.produces.iter().flatten().cloned());
        let consumed = Vec::new();
        let peer = role.peer.clone();
        let person = Person { role, sending, receiving, sender, produced, consumed, host };
        self.people.insert(peer, person);
        Ok(())
    }

    /// A peer without producers comes in through a WebRTC transport, whose tuple it selects by an ICE
    /// connectivity check; it gets no further than that. Its host goes with the scene.
    pub fn ice(&mut self, peer: &str, room: &str) -> Result<Channel> {
        let (host, ip) = self.new_host(false)?;
        self.sfu.join(room, peer, peer, "")?;
        let (transport, check) = self.sfu.webrtc(peer, self.address(false))?;
        let mut endpoint = Endpoint::open(&host, ip)?;
        endpoint.talk_to(transport.address, Habits::default())?;
        endpoint.send(&check)?;
        self.hosts.push(host);
        wait::until("the answer to an ICE check", wait::LONG, || {
            Ok((endpoint.received().stun.packets > 0).then_some(()))
        })?;
        Ok(Channel { endpoint, transport })
    }

    /// Everybody consumes what all others in the same room produce, unless they do already.
    pub fn introduce(&mut self) -> Result<()> {
        let Self { people, sfu, pipes, piped, .. } = self;
        let offers: Vec<(Role, Produced)> = people
            .values()
            .flat_map(|it| it.produced.iter().map(|made| (it.role.clone(), made.clone())))
            .collect();
        for person in people.values_mut() {
            for (from, made) in &offers {
                let own = from.peer == person.role.peer || from.room != person.role.room;
                if own || person.consumed.iter().any(|it| it.producer == made.id) {
                    continue;
                }
                let router = person.role.router;
                if router != from.router && piped.insert((made.id.clone(), router)) {
                    let fields = json!({ "room": from.room, "producer": made.id,
                        "from": from.router, "to": router });
                    let made = sfu.call("pipe", fields)?;
                    let id = |name: &str| made[name].as_str().unwrap_or_default().to_owned();
                    pipes.push(Piped { consumer: id("consumer"), producer: id("producer") });
                }
                let transport = &person.receiving.as_ref().unwrap_or(&person.sending).transport;
                let consumer = sfu.consume(transport, &made.id, &json!({ "router": router }))?;
                let (producer, kind) = (made.id.clone(), made.kind);
                person.consumed.push(Consumed { consumer, producer, kind });
            }
        }
        Ok(())
    }

    /// Everybody sends so many ticks of media at once, as fast as the SFU takes it.
    pub fn play(&mut self, ticks: u64) -> Result<()> {
        let pid = self.sfu.pid();
        thread::scope(|scope| {
            let playing = self.people.values_mut().map(|person| {
                let Person { sender, sending, .. } = person;
                scope.spawn(move || sender.play(&sending.endpoint, ticks, &Pace::Queues(pid)))
            });
            let playing: Vec<_> = playing.collect();
            playing.into_iter().try_for_each(|it| it.join().expect("a peer does not panic"))
        })
    }

    /// Everybody sends as people do, until `stop` is set.
    pub fn perform(&mut self, stop: &AtomicBool) -> Result<()> {
        /// How often a peer looks up from what it does.
        const SECOND: u64 = 50;
        let turn = |person: &mut Person| -> Result<()> {
            let Person { sender, sending, .. } = person;
            while !stop.load(Ordering::Relaxed) {
                sender.play(&sending.endpoint, SECOND, &Pace::RealTime)?;
            }
            Ok(())
        };
        thread::scope(|scope| {
            let people = self.people.values_mut();
            let playing: Vec<_> = people.map(|person| scope.spawn(|| turn(person))).collect();
            playing.into_iter().try_for_each(|it| it.join().expect("a peer does not panic"))
        })
    }

    /// Datagrams that any socket of the SFU or of the peers had no room for.
    pub fn dropped(&self) -> Result<u64> {
        let mut dropped = Queues::of(self.sfu.pid()).dropped()?;
        for channel in self.people.values().flat_map(Person::channels) {
            dropped += u64::from(channel.endpoint.dropped()?);
        }
        Ok(dropped)
    }

    fn channel(
        &mut self,
        role: &Role,
        host: &Netns,
        ip: IpAddr,
        sends: bool,
        receives: bool,
    ) -> Result<Channel> {
        let comedia = sends && !receives;
        let plain = Plain { ip: self.address(role.ipv6), comedia, router: role.router };
        let transport = self.sfu.plain(&role.peer, plain)?;
        let mut endpoint = Endpoint::open(host, ip)?;
        endpoint.talk_to(transport.address, role.habits)?;
        if !comedia {
            self.sfu.connect(&transport, endpoint.local()?)?;
        }
        Ok(Channel { endpoint, transport })
    }
}

/// Leaves the SFU's range of ports to the SFU: any other must be told from those by its number.
pub fn leave_ports(host: &Netns) -> Result<()> {
    host.run_in(|| fs::write("/proc/sys/net/ipv4/ip_local_port_range", "20000 29999"))
        .context("set the range of a host's own ports")
}

fn kind(tracks: &[Track]) -> &'static str {
    match tracks.first().map(|track| track.media) {
        Some(Media::Vp8 { .. }) => "video",
        _ => "audio",
    }
}

fn encodings(tracks: &[Track]) -> Value {
    let encoding = |track: &Track| match &track.rid {
        Some(rid) => json!({ "rid": rid }),
        None => json!({ "ssrc": track.ssrc, "rtx": track.rtx }),
    };
    tracks.iter().map(encoding).collect()
}
