//! The exporter as the unit runs it: a user of its own with some capabilities, beside a real mediasoup of
//! another user's.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use exporter_tests::exporter::{self, Exporter};
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

/// The binary as that user, with these capabilities and none to be gained.
fn start(host: &Arc<Netns>, rights: &[&str], flags: &[&str]) -> Result<Exporter> {
    let listed: String = rights.iter().map(|right| format!(",+{right}")).collect();
    let set = |which: &str| format!("--{which}=-all{listed}");
    let (bounding, inheritable, ambient) =
        (set("bounding-set"), set("inh-caps"), set("ambient-caps"));
    let binary = exporter::binary()?;
    let binary = binary.to_str().context("a path that is not UTF-8")?;
    let user = ["--reuid", USER, "--regid", USER, "--clear-groups", "--no-new-privs"];
    let all = [&user[..], &[&bounding, &inheritable, &ambient, binary], flags].concat();
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
