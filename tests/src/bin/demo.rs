//! What `cargo xtask demo` runs once everything is built: a real mediasoup with rooms of peers that talk, the exporter beside it, and
//! the address to open.
//!
//! All of it lives in network namespaces made for the purpose; of this host only one loopback port
//! is used. What is started here ends here: on Ctrl-C, SIGTERM or an error.

use std::io::{Error, ErrorKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::Parser;
use exporter_tests::endpoint::Habits;
use exporter_tests::exporter::{self, Exporter};
use exporter_tests::peer::Track;
use exporter_tests::process;
use exporter_tests::proxy;
use exporter_tests::scene::{Role, Scene};
use exporter_tests::sfu::Build;

/// Shows the exporter at work.
#[derive(Parser)]
#[command(name = "cargo xtask demo", bin_name = "cargo xtask demo")]
struct Args {
    /// Rooms.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=12))]
    rooms: u16,
    /// Peers in each room.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=12))]
    peers: u16,
    /// Everybody has a good call. Otherwise one peer's uplink is bad, another's downlink, and a third falls silent
    #[arg(long)]
    well: bool,
    /// Seconds until it ends by itself; without it, Ctrl-C ends it.
    #[arg(long)]
    duration: Option<u64>,
    /// Port on this host's loopback.
    #[arg(long, default_value_t = exporter::PORT)]
    port: u16,
    /// mediasoup's version: 3.12.16, 3.15.8 or 3.27.1.
    #[arg(long, default_value = "3.27.1")]
    mediasoup: String,
    /// The exporter's binary.
    #[arg(long, env = "MEDIASOUP_EXPORTER_BIN", hide = true)]
    binary: PathBuf,
    /// Further arguments for the exporter.
    #[arg(last = true)]
    exporter: Vec<String>,
}

const NAMES: [&str; 12] =
    ["Ada", "Bob", "Cyd", "Dan", "Eve", "Fay", "Gil", "Hal", "Ida", "Jon", "Kim", "Lea"];
const ROOMS: [&str; 12] = [
    "stand-up", "lecture", "quartet", "board", "library", "kitchen", "garden", "workshop",
    "studio", "lab", "harbour", "attic",
];

fn main() -> Result<()> {
    let args = Args::parse();
    // From here on what was started must be ended before this program is.
    let signals = Signals::block()?;
    process::reap();
    let build = Build::find(&args.mediasoup)
        .with_context(|| format!("mediasoup {} is not set up", args.mediasoup))?;
    eprintln!("demo: starting mediasoup {}", args.mediasoup);
    let mut scene = Scene::open(&build, 2)?;
    fill(&mut scene, &args)?;
    perform(&mut scene, &args, &signals)
}

fn fill(scene: &mut Scene, args: &Args) -> Result<()> {
    for (number, room) in (0..args.rooms).zip(ROOMS) {
        // Every other room lies on two workers, joined by pipe transports.
        let routers = 1 + usize::from(number % 2);
        scene.room(room, routers)?;
        for (seat, name) in (0..args.peers).zip(NAMES) {
            let role = role(room, routers, seat, name);
            scene.enter(if args.well { role } else { befall(role, number % 3, seat) })?;
        }
        eprintln!("demo: room {room} is full");
    }
    scene.introduce()
}

fn role(room: &str, routers: usize, seat: u16, name: &str) -> Role {
    let base = 1000 * u32::from(seat + 1);
    let layer = |layer: u32| Track::vp8(base + layer, 300 << layer).with_rtx(base + 100 + layer);
    let video = (0..3).map(layer).collect();
    Role {
        room: room.to_owned(),
        router: usize::from(seat) % routers,
        peer: format!("{room}-{}", name.to_lowercase()),
        name: name.to_owned(),
        user_agent: "Demo/1.0".to_owned(),
        ipv6: seat % 3 == 1,
        one_transport: seat % 4 == 2,
        produces: vec![vec![Track::opus(base + 10)], video],
        habits: Habits { ask_again_every: Some(500), ..Habits::default() },
    }
}

/// What goes wrong for somebody in three rooms, each for another reason. Nobody is told but by the views.
fn befall(mut role: Role, room: u16, seat: u16) -> Role {
    let tracks = role.produces.iter_mut().flatten();
    match (room, seat) {
        (0, 1) => tracks.for_each(|track| track.script.lose_one_of = Some(9)),
        (1, 2) => role.habits.lose_one_of = Some(14),
        // Opus: 50 packets a second.
        (2, 3) => tracks.for_each(|track| track.script.silent_from = Some(50 * 20)),
        _ => {}
    }
    role
}

/// Serves and plays until a signal comes or the time is up.
fn perform(scene: &mut Scene, args: &Args, signals: &Signals) -> Result<()> {
    let (console, stop) = (scene.sfu.console().to_owned(), AtomicBool::new(false));
    let host = Arc::clone(&scene.host);
    let mut flags = vec!["--numeric", "--observer"];
    flags.push(console.to_str().context("a path that is not UTF-8")?);
    flags.extend(args.exporter.iter().map(String::as_str));
    let exporter = Exporter::start_binary(&args.binary, &host, &flags, &[])?;
    thread::scope(|scope| {
        let playing = scope.spawn(|| until_stopped(&stop, || scene.perform(&stop)));
        let serving = scope.spawn(|| {
            until_stopped(&stop, || {
                proxy::serve(&host, args.port, exporter::address(), &stop, |address| {
                    println!("open http://{address}/ (metrics: http://{address}/metrics)");
                })
            })
        });
        let waited = signals.wait(args.duration.map(Duration::from_secs), &stop);
        stop.store(true, Ordering::Relaxed);
        let ends = [playing.join(), serving.join()];
        for end in ends {
            end.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        waited
    })?;
    exporter.stop()
}

/// Sets `stop` when `work` ends, however it does, so that the others end too.
fn until_stopped(stop: &AtomicBool, work: impl FnOnce() -> Result<()>) -> Result<()> {
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let _stop = Stop(stop);
    work()
}

/// The signals that ask a program to end, held back until they are waited for. Children start with
/// none held back.
struct Signals(libc::sigset_t);

impl Signals {
    fn block() -> Result<Self> {
        // SAFETY: the set is initialised by sigemptyset before anything reads it; all pointers are
        // to that local, or null where POSIX permits it.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
                libc::sigaddset(&mut set, signal);
            }
            match libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) {
                0 => Ok(Self(set)),
                error => bail!("hold back signals: {}", Error::from_raw_os_error(error)),
            }
        }
    }

    /// Waits for a signal, at most `limit`, and not after `stop` is set.
    fn wait(&self, limit: Option<Duration>, stop: &AtomicBool) -> Result<()> {
        let slice = libc::timespec { tv_sec: 0, tv_nsec: 200_000_000 };
        let end = limit.map(|limit| Instant::now() + limit);
        while !stop.load(Ordering::Relaxed) && end.is_none_or(|end| Instant::now() < end) {
            // SAFETY: the set and the time outlive the call; no siginfo is wanted.
            let signal = unsafe { libc::sigtimedwait(&self.0, std::ptr::null_mut(), &slice) };
            if signal > 0 {
                return Ok(());
            }
            let error = Error::last_os_error();
            if !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) {
                return Err(error).context("wait for a signal");
            }
        }
        Ok(())
    }
}
