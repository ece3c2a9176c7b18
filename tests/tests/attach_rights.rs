//! Which rights counting needs, and what happens without them.

use std::sync::mpsc;

use anyhow::Result;
use caps::{CapSet, Capability, CapsHashSet};
use exporter_tests::netns::{Netns, veth};
use exporter_tests::pair::{Pair, counted, options};
use exporter_tests::{root_or_skip, wait};
use mediasoup_exporter::host::capabilities::{Needs, drop_all_but};
use mediasoup_exporter::kernel::{Counting, Mechanism, Method, MethodChoice, Options};
use mediasoup_exporter::model::Direction::Receive;

#[test]
fn three_capabilities_are_enough_for_ebpf() -> Result<()> {
    let rights = [Capability::CAP_BPF, Capability::CAP_PERFMON, Capability::CAP_NET_ADMIN];
    steps(&rights, Method::Ebpf, &[])
}

#[test]
fn a_program_that_is_refused_for_want_of_a_right_names_it() -> Result<()> {
    let rights = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW];
    steps(&rights, Method::Capture, &["CAP_PERFMON"])
}

#[test]
fn without_the_right_for_ebpf_packets_are_captured() -> Result<()> {
    steps(&[Capability::CAP_NET_RAW], Method::Capture, &["CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN"])
}

#[test]
fn without_any_right_nothing_is_counted() -> Result<()> {
    steps(&[], Method::None, &["CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN", "CAP_NET_RAW"])
}

/// Starts with these capabilities only; each step down has to name the right that is missing and
/// how to give it.
fn steps(rights: &[Capability], method: Method, missing: &[&str]) -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let pair = Pair::new()?;
    let options = Options { interfaces: vec!["sfu0".into()], ..options() };
    let counting = pair.sfu.run_in(|| {
        let rights: CapsHashSet = rights.iter().copied().collect();
        caps::set(None, CapSet::Effective, &rights)?;
        caps::set(None, CapSet::Permitted, &rights)?;
        Counting::start(&options)
    })?;
    assert_eq!(counting.method(), method, "{:?}", counting.step_downs());
    let told: Vec<&str> = counting.step_downs().iter().map(|step| step.why.as_str()).collect();
    assert_eq!(told.len(), missing.len(), "{told:?}");
    for (told, missing) in told.iter().zip(missing) {
        for part in [missing, "setcap", "AmbientCapabilities="] {
            assert!(told.contains(part), "{told}");
        }
        assert!(!told.contains('\n'), "{told}");
    }
    Ok(())
}

/// What is kept after the start is enough to attach to an interface that comes later, to read, and
/// to let go.
#[test]
fn what_is_kept_is_enough_for_later_interfaces() -> Result<()> {
    for mechanism in [Mechanism::Auto, Mechanism::Clsact] {
        later(Method::Ebpf, Options { mechanism, ..options() })?;
    }
    Ok(())
}

#[test]
fn what_is_kept_is_enough_for_later_captures() -> Result<()> {
    let method = MethodChoice::Capture;
    later(Method::Capture, Options { method, ..options() })
}

fn later(method: Method, options: Options) -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let pair = Pair::new()?;
    let options = Options { interfaces: vec!["sfu*".into()], ..options };
    let (started, has_started) = mpsc::channel();
    let (come, has_come) = mpsc::channel();
    std::thread::scope(|scope| {
        let exporter = scope.spawn(|| {
            pair.sfu.run_in(move || {
                let counting = Counting::start(&options)?;
                let kept = drop_all_but(Needs {
                    programs: method == Method::Ebpf,
                    capture: method == Method::Capture,
                    observers: false,
                })?;
                started.send(kept)?;
                has_come.recv()?;
                counting.refresh()?;
                anyhow::Ok(counting)
            })
        });
        let kept = has_started.recv()?;
        let needed = if method == Method::Ebpf { "CAP_BPF" } else { "CAP_NET_RAW" };
        assert!(kept.iter().any(|name| name == needed), "{kept:?}");
        assert!(!kept.iter().any(|name| name == "CAP_SYS_ADMIN"), "{kept:?}");
        add_interface(&pair.sfu, &pair.peer)?;
        // Its programs have not been loaded yet.
        pair.sfu.ip("tuntap add dev sfu2 mode tun")?;
        pair.sfu.ip("link set sfu2 up")?;
        come.send(())?;
        let counting = exporter.join().unwrap()?;
        assert_eq!(counting.status().interfaces, ["sfu0", "sfu1", "sfu2"]);
        assert_eq!(counting.status().failures, 0);
        let mut talk = pair.connect("10.81.0.1:40000", "10.81.0.2")?;
        talk.say(Receive, 1, 5, 100)?;
        wait::until_equal("packets", wait::LONG, || {
            Ok((counted(&counting.read()?, Receive, 1).0, 5))
        })
    })
}

fn add_interface(sfu: &Netns, peer: &Netns) -> Result<()> {
    veth(sfu, "sfu1", peer, "peer1")?;
    sfu.address("sfu1", "10.81.0.1".parse()?, 24)?;
    peer.address("peer1", "10.81.0.2".parse()?, 24)
}
