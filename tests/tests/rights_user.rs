//! The exporter as the unit runs it: a user of its own with some capabilities, beside a real mediasoup of
//! another user's.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use exporter_tests::exporter::{self, Exporter, PASS_SOCKET};
use exporter_tests::netns::Netns;
use exporter_tests::scene::{self, Scene};
use exporter_tests::scrape::Scrape;
use exporter_tests::{cast, expect, skip, wait};

/// Nobody's number.
const USER: &str = "61234";
/// What the unit gives.
const RIGHTS: [&str; 5] = ["bpf", "net_admin", "perfmon", "sys_ptrace", "dac_override"];
/// Media time of a performance: 2 seconds.
const TICKS: u64 = 100;

/// Arguments of setpriv: the binary as that user, with these capabilities and none to be gained.
fn as_user(rights: &[&str]) -> Result<Vec<String>> {
    let listed: String = rights.iter().map(|right| format!(",+{right}")).collect();
    let sets = ["bounding-set", "inh-caps", "ambient-caps"];
    let sets = sets.map(|set| format!("--{set}=-all{listed}"));
    let binary = exporter::binary()?;
    let binary = binary.to_str().context("a path that is not UTF-8")?;
    let user = ["--reuid", USER, "--regid", USER, "--clear-groups", "--no-new-privs"];
    let all = user.map(str::to_owned).into_iter().chain(sets);
    Ok(all.chain([binary.to_owned()]).collect())
}

fn start(host: &Arc<Netns>, rights: &[&str], flags: &[&str]) -> Result<Exporter> {
    let user = as_user(rights)?;
    let all: Vec<&str> = user.iter().map(String::as_str).chain(flags.iter().copied()).collect();
    Exporter::start_binary(Path::new("setpriv"), host, &all, &[])
}

/// The SFU with the cast in it, and the flags of an exporter that finds the rest by itself.
fn set() -> Result<Option<(Scene, Vec<String>)>> {
    let Some(build) = cast::newest() else { return Ok(None) };
    if std::process::Command::new("setpriv").arg("--version").output().is_err() {
        skip("setpriv is not installed");
        return Ok(None);
    }
    let scene = cast::enter(&build)?;
    let console = scene.sfu.console().to_str().context("a path that is not UTF-8")?;
    let flags =
        ["--numeric", "--observer", console, "--interface", scene::BRIDGE, "--interface", "lo"];
    let flags = flags.map(str::to_owned).to_vec();
    Ok(Some((scene, flags)))
}

#[test]
fn five_capabilities_are_enough_beside_another_users_worker() -> Result<()> {
    let Some((mut scene, flags)) = set()? else { return Ok(()) };
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let exporter = start(&scene.host, &RIGHTS, &flags)?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", exporter.pid()))?;
    assert!(status.contains(&format!("Uid:\t{USER}\t{USER}\t{USER}\t{USER}")), "{status}");
    wait::until("the server to be listened to", wait::LONG, || {
        Ok(is_heard(&exporter.scrape()?).then_some(()))
    })?;
    cast::play(&mut scene, TICKS)?;
    wait::until_equal("streams as sent and received", wait::LONG, || {
        Ok(expect::streams(&scene, &exporter.scrape()?))
    })?;
    let scrape = exporter.scrape()?;
    assert!(
        scrape.find("mediasoup_socket_receive_drops_total", &[]).next().is_some(),
        "no sockets"
    );
    exporter.stop()
}

/// What is missing without each of them, so that none is given for nothing.
#[test]
fn each_of_them_is_needed() -> Result<()> {
    let Some((scene, flags)) = set()? else { return Ok(()) };
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let all = Signs { programs: true, sockets: true, servers: true };
    for right in RIGHTS {
        let rest: Vec<&str> = RIGHTS.into_iter().filter(|it| *it != right).collect();
        let exporter = start(&scene.host, &rest, &flags)?;
        let (expected, told) = match right {
            "sys_ptrace" => (Signs { sockets: false, ..all }, "may not see which sockets"),
            "dac_override" => {
                (Signs { sockets: false, servers: false, ..all }, "Permission denied")
            }
            _ => (Signs { programs: false, ..all }, "CAP_"),
        };
        let what = format!("what is left without {right}, and a word of it");
        wait::until_equal(&what, wait::LONG, || {
            let words = exporter.get("/", &[])?.text()? + &exporter.log();
            let signs = Signs::of(&exporter.scrape()?);
            Ok(((expected, true), (signs, words.contains(told))))
        })?;
        exporter.stop()?;
    }
    Ok(())
}

fn is_heard(scrape: &Scrape) -> bool {
    let mut sources = scrape.find("mediasoup_exporter_source_up", &[]);
    sources.any(|it| it.label("source").starts_with("observer:") && it.value == 1.0)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Signs {
    /// Packets are counted in the kernel.
    programs: bool,
    /// It is seen which sockets a worker has.
    sockets: bool,
    /// The observer socket is connected to.
    servers: bool,
}

impl Signs {
    fn of(scrape: &Scrape) -> Self {
        let ebpf = [("source", "ebpf")];
        Self {
            programs: scrape.sum("mediasoup_exporter_counting_source", &ebpf) == 1.0,
            sockets: scrape.find("mediasoup_socket_receive_drops_total", &[]).next().is_some(),
            servers: is_heard(scrape),
        }
    }
}

/// As the unit has it, after [`PASS_SOCKET`]: no socket of the Internet can be made any more
/// (`RestrictAddressFamilies=`), which a seccomp filter answers with EAFNOSUPPORT (97).
const CONFINE: &str = "
import ctypes, platform, struct
call = {'x86_64': 41, 'aarch64': 198}[platform.machine()]
load, equal, give = 0x20, 0x15, 0x06
code = [(load, 0, 0, 0), (equal, 0, 3, call), (load, 0, 0, 16), (equal, 2, 0, 2), (equal, 1, 0, 10),
        (give, 0, 0, 0x7fff0000), (give, 0, 0, 0x00050000 | 97)]
code = b''.join(struct.pack('HBBI', *line) for line in code)
buffer = ctypes.create_string_buffer(code, len(code))
program = struct.pack('HxxxxxxP', len(code) // 8, ctypes.addressof(buffer))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0, ctypes.get_errno()
try:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sys.exit('sockets can be made')
except OSError:
    os.execvp(sys.argv[3], sys.argv[3:])
";

#[test]
fn no_socket_of_the_internet_is_needed() -> Result<()> {
    let Some((mut scene, flags)) = set()? else { return Ok(()) };
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let address = exporter::address();
    let place = [address.ip().to_string(), address.port().to_string()];
    let user = as_user(&RIGHTS)?;
    let user: Vec<&str> = user.iter().map(String::as_str).collect();
    let confine = format!("{PASS_SOCKET}{CONFINE}");
    let launcher = ["-c", &confine, &place[0], &place[1], "setpriv"];
    let all = [&launcher[..], &user, &["--web.systemd-socket"], &flags].concat();
    let exporter = Exporter::start_binary(Path::new("python3"), &scene.host, &all, &[])?;
    cast::play(&mut scene, TICKS)?;
    wait::until_equal("streams as sent and received", wait::LONG, || {
        Ok(expect::streams(&scene, &exporter.scrape()?))
    })?;
    // Nothing could be bound to try it, and still it is seen what others bind.
    let by = exporter.scrape()?.sum("mediasoup_exporter_ownership", &[("by", "cgroup")]);
    assert_eq!(by, 1.0, "{}", exporter.log());
    exporter.stop()
}
