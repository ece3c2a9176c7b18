//! A long run beside a real mediasoup: people come and go each second, a server starts again and again, interfaces
//! appear and vanish. Nothing grows past what is there. `SOAK_SECONDS` says how long.

use std::collections::VecDeque;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use exporter_tests::endpoint::{Endpoint, Habits};
use exporter_tests::exporter::Exporter;
use exporter_tests::netns::Netns;
use exporter_tests::observer_fixture::script;
use exporter_tests::peer::{Pace, Sender, Track};
use exporter_tests::process::Guard;
use exporter_tests::scene::Scene;
use exporter_tests::sfu::Plain;
use exporter_tests::{cast, wait};
use serde_json::json;

const SHORT: u64 = 40;
/// Who is there at a time.
const GUESTS: usize = 5;
/// Rounds between two starts of the other server.
const RESTART: u32 = 6;

#[test]
fn nothing_grows_in_the_long_run() -> Result<()> {
    let Some(mut soak) = Soak::new()? else { return Ok(()) };
    let seconds = std::env::var("SOAK_SECONDS").ok().map(|text| text.parse()).transpose()?;
    let time = Duration::from_secs(seconds.unwrap_or(SHORT));
    let (begun, mut round) = (Instant::now(), 0);
    let (mut middle, mut last) = (None, Measure::default());
    while begun.elapsed() < time {
        soak.round(round)?;
        round += 1;
        last = soak.measure()?;
        if begun.elapsed() >= time / 2 {
            let middle: &mut Measure = middle.get_or_insert_with(Measure::default);
            // The most of a quarter of the time: some of it comes and goes.
            if begun.elapsed() < time * 3 / 4 {
                middle.most(&last);
            }
        }
        if round % 60 == 0 {
            println!("after {round} rounds: {last:?}");
        }
    }
    let middle = middle.context("it was too short")?;
    println!("{round} rounds; in the middle at most {middle:?}, at last {last:?}");
    ensure!(last.resident_kb < middle.resident_kb + (6 << 10), "memory grows");
    ensure!(last.descriptors <= middle.descriptors + 4, "descriptors grow");
    ensure!(last.samples <= middle.samples + middle.samples / 10, "series grow");
    ensure!(last.threads <= middle.threads + 2, "threads grow");
    soak.everybody_leaves()
}

/// A busy exporter hears of connections when their sockets are long closed.
#[test]
fn who_came_and_left_before_it_was_heard_keeps_what_he_sent() -> Result<()> {
    let Some(mut soak) = Soak::new()? else { return Ok(()) };
    soak.enter(0)?;
    wait::until("the first to be known", wait::LONG, || {
        let scrape = soak.exporter.scrape()?;
        let mut named = scrape.find("mediasoup_stream_receive_bytes_total", &[]);
        Ok(named.any(|stream| !stream.label("id").is_empty()).then_some(()))
    })?;
    soak.exporter.signal(libc::SIGSTOP)?;
    let stayed = (1..=GUESTS as u32).try_for_each(|number| soak.enter(number));
    let left = soak.guests.drain(1..).try_for_each(|(peer, _)| soak.scene.sfu.leave(&peer));
    soak.exporter.signal(libc::SIGCONT)?;
    stayed.and(left)?;
    soak.everybody_leaves()
}

/// What must not grow.
#[derive(Clone, Debug, Default)]
struct Measure {
    resident_kb: u64,
    descriptors: usize,
    threads: usize,
    samples: usize,
}

impl Measure {
    fn most(&mut self, other: &Self) {
        self.resident_kb = self.resident_kb.max(other.resident_kb);
        self.descriptors = self.descriptors.max(other.descriptors);
        self.threads = self.threads.max(other.threads);
        self.samples = self.samples.max(other.samples);
    }
}

struct Soak {
    scene: Scene,
    exporter: Exporter,
    /// Where the guests are.
    host: Netns,
    ip: IpAddr,
    /// The socket of a server that comes and goes.
    other: PathBuf,
    server: Option<Guard>,
    guests: VecDeque<(String, Endpoint)>,
}

impl Soak {
    fn new() -> Result<Option<Self>> {
        let Some(build) = cast::newest() else { return Ok(None) };
        let mut scene = cast::open(&build)?;
        let other = scene.dir.path().join("other.sock");
        let flags = ["--observer.stats-interval", "1s", "--observer"];
        let flags = [&flags[..], &[other.to_str().context("a path that is not UTF-8")?]].concat();
        let exporter = cast::default_exporter(&scene, &flags, &[])?;
        let (host, ip) = scene.new_host(false)?;
        let guests = VecDeque::new();
        Ok(Some(Self { scene, exporter, host, ip, other, server: None, guests }))
    }

    fn round(&mut self, number: u32) -> Result<()> {
        self.enter(number)?;
        if self.guests.len() > GUESTS
            && let Some((peer, _)) = self.guests.pop_front()
        {
            self.scene.sfu.leave(&peer)?;
        }
        if number.is_multiple_of(RESTART) {
            self.start_again()?;
        }
        match number % 3 {
            0 => self.scene.host.ip("link add soak0 type veth peer name soak1")?,
            1 => self.scene.host.ip("link set soak0 up")?,
            _ => self.scene.host.ip("link del soak0")?,
        }
        std::thread::sleep(Duration::from_millis(500));
        Ok(())
    }

    /// Somebody comes and speaks.
    fn enter(&mut self, number: u32) -> Result<()> {
        let (peer, ssrc) = (format!("guest{number}"), 100_000 + number);
        let at = self.scene.address(false);
        let sfu = &mut self.scene.sfu;
        sfu.join(cast::ATRIUM, &peer, &peer, "Soak/1.0")?;
        let transport = sfu.plain(&peer, Plain { ip: at, comedia: false, router: 0 })?;
        let mut endpoint = Endpoint::open(&self.host, self.ip)?;
        endpoint.talk_to(transport.address, Habits::default())?;
        sfu.connect(&transport, endpoint.local()?)?;
        sfu.produce(&transport, "audio", None, &json!([{ "ssrc": ssrc }]))?;
        let pace = Pace::Queues(sfu.pid());
        Sender::new([Track::opus(ssrc)]).play(&endpoint, 25, &pace)?;
        self.guests.push_back((peer, endpoint));
        Ok(())
    }

    /// Another server dies, and one starts at its place.
    fn start_again(&mut self) -> Result<()> {
        self.server = None;
        let _ = fs::remove_file(&self.other);
        let mut command = Command::new("python3");
        command.arg("-B").arg(script("flood.py")).arg(&self.other).args(["routers", "50"]);
        let mut server = Guard::spawn("another server", command)?;
        server.log_stdout();
        self.server = Some(server);
        Ok(())
    }

    fn measure(&self) -> Result<Measure> {
        let count = |what: &str| -> Result<usize> {
            Ok(fs::read_dir(format!("/proc/{}/{what}", self.exporter.pid()))?.count())
        };
        let text = self.exporter.metrics()?;
        Ok(Measure {
            resident_kb: self.exporter.resident()? >> 10,
            descriptors: count("fd")?,
            threads: count("task")?,
            samples: text.lines().filter(|line| !line.starts_with('#')).count(),
        })
    }

    /// Then nobody is shown any more.
    fn everybody_leaves(mut self) -> Result<()> {
        for (peer, _) in std::mem::take(&mut self.guests) {
            self.scene.sfu.leave(&peer)?;
        }
        wait::until_equal("all series of those who left to go", wait::LONG, || {
            let scrape = self.exporter.scrape()?;
            let left = scrape.find("mediasoup_stream_receive_bytes_total", &[]);
            Ok((left.map(|sample| format!("{sample:?}")).collect(), Vec::new()))
        })?;
        self.exporter.stop()
    }
}
