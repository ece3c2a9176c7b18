//! Pinned tables and programs: counting goes on without the exporter, and tables of another size begin anew.

use std::fs::{File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{Array, Map, MapData};
use exporter_ebpf::abi::LAYOUT_VERSION;
use exporter_ebpf::table::{Bucket, TAKEN};
use exporter_tests::bpffs::BpfFs;
use exporter_tests::exporter::{Exporter, attached, binary};
use exporter_tests::pair::{Conversation, PORTS, Pair, counted, options, start_with};
use exporter_tests::process::Guard;
use exporter_tests::{root_or_skip, wait};
use mediasoup_exporter::kernel::{Limits, Mechanism, MethodChoice, Options, remove_leftovers};
use mediasoup_exporter::model::Direction::{Receive, Send};

#[test]
fn counters_outlive_a_restart() -> Result<()> {
    let Some((mounted, pair)) = set()? else { return Ok(()) };
    let options = options_in(&mounted);
    let mut talk = pair.connect("10.77.0.1:40000", "10.77.0.2")?;
    let mut run = |options: &Options| {
        let counting = start_with(&pair.sfu, options.clone())?;
        talk.say(Receive, 1, 10, 100)?;
        let reading = counting.read()?;
        let of_strangers = [2, 3].map(|table| reading.tables[table].entries);
        // Found again, not put in a second time.
        assert_eq!((reading.streams.len(), of_strangers), (1, [1, 1]));
        anyhow::Ok(counted(&reading, Receive, 1).0)
    };
    assert_eq!(run(&options)?, 10);
    assert_eq!(run(&options)?, 20);
    let limits = Limits { flows: 100, ..Limits::default() };
    let other = Options { limits, ..options.clone() };
    assert_eq!(run(&other)?, 10, "tables of another size begin anew");
    assert_eq!(run(&other)?, 20);
    Ok(())
}

#[test]
fn what_a_dead_exporter_began_to_let_go_of_ends() -> Result<()> {
    let Some((mounted, pair)) = set()? else { return Ok(()) };
    let limits = Limits { ssrcs_per_flow: 1, ..Limits::default() };
    let options = Options { limits, ..options_in(&mounted) };
    let mut talk = pair.connect("10.77.0.1:40000", "10.77.0.2")?;
    let first = start_with(&pair.sfu, options.clone())?;
    talk.say(Receive, 1, 10, 100)?;
    drop(first);
    let tags = format!("mediasoup-exporter-{LAYOUT_VERSION}/TAGS");
    let tags = Map::from_map_data(MapData::from_pin(mounted.path().join(tags))?)?;
    let mut tags: Array<_, Bucket> = Array::try_from(tags)?;
    for number in 0..tags.len() {
        let bucket = tags.get(&number, 0)?;
        if bucket != Bucket::default() {
            tags.set(number, bucket.map(|tag| tag.min(TAKEN)), 0)?;
        }
    }
    let second = start_with(&pair.sfu, options)?;
    let reading = second.read()?;
    let rows = reading.streams.iter().map(|stream| (stream.ended, stream.total.packets));
    assert_eq!(rows.collect::<Vec<_>>(), [(true, 10)]);
    assert_eq!(reading.tables[3].entries, 0);
    // The flow's share, too, was given back.
    talk.say(Receive, 2, 10, 100)?;
    assert_eq!(counted(&second.read()?, Receive, 2).0, 10);
    Ok(())
}

#[test]
fn nothing_is_missed_while_no_exporter_runs() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    for mechanism in [Mechanism::Auto, Mechanism::Clsact] {
        let mounted = BpfFs::mount()?;
        let pair = Pair::new()?;
        let options = Options { mechanism, ..options_in(&mounted) };
        let mut talks = [
            pair.connect("10.77.0.1:40000", "10.77.0.2")?,
            pair.connect("10.77.0.1:40001", "10.77.0.2")?,
        ];
        let mut sent = [0; 2];
        let mut say = |count| -> Result<()> {
            sent[0] += talks[0].say(Receive, 1, count, 100)?;
            sent[1] += talks[1].say(Send, 2, count, 120)?;
            Ok(())
        };
        let first = start_with(&pair.sfu, options.clone())?;
        say(50)?;
        drop(first);
        say(50)?;
        let second = start_with(&pair.sfu, options.clone())?;
        say(50)?;
        let reading = second.read()?;
        assert_eq!(counted(&reading, Receive, 1), (150, sent[0]), "{mechanism:?}");
        assert_eq!(counted(&reading, Send, 2), (150, sent[1]), "{mechanism:?}");
        for stream in &reading.streams {
            assert_eq!((stream.expected, stream.received), (150, 150), "{mechanism:?}");
        }
        drop(second);
        // Its programs took the places of the first's: a link that may lead into a container has four.
        assert_eq!(attached(&pair.sfu)?.iter().filter(|it| is_program(it)).count(), 4);
        let removed = pair.sfu.run_in(|| remove_leftovers(mounted.path()))?;
        let filters = if mechanism == Mechanism::Clsact { 4 } else { 0 };
        assert_eq!((removed.links, removed.tables, removed.filters), (4 - filters, 1, filters));
        assert_eq!(attached(&pair.sfu)?, Vec::<String>::new(), "{mechanism:?}");
    }
    Ok(())
}

/// A line that names a program, by TCX or as a filter with its handle.
fn is_program(line: &str) -> bool {
    line.contains("count_") && (line.contains("handle") || !line.contains("filter"))
}

#[test]
fn programs_are_replaced_between_two_packets() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    for mechanism in [Mechanism::Auto, Mechanism::Clsact] {
        let mounted = BpfFs::mount()?;
        let pair = Pair::new()?;
        let options = Options { mechanism, ..options_in(&mounted) };
        let mut talk = pair.connect("10.77.0.1:40000", "10.77.0.2")?;
        let first = start_with(&pair.sfu, options.clone())?;
        talk.say(Receive, 1, 1, 100)?;
        drop(first);
        let end = AtomicBool::new(false);
        let sent = std::thread::scope(|scope| -> Result<usize> {
            let talking = scope.spawn(|| -> Result<usize> {
                let mut sent = 0;
                while !end.load(Ordering::Relaxed) {
                    talk.say(Receive, 1, 100, 100)?;
                    sent += 100;
                }
                Ok(sent)
            });
            let restarts =
                (0..8).try_for_each(|_| start_with(&pair.sfu, options.clone()).map(drop));
            end.store(true, Ordering::Relaxed);
            let sent = talking.join().expect("talking does not panic");
            restarts.and(sent)
        })?;
        let reading = start_with(&pair.sfu, options)?.read()?;
        assert_eq!(counted(&reading, Receive, 1).0, sent as u64 + 1, "{mechanism:?}");
        ensure!(sent > 0, "nothing was sent meanwhile");
    }
    Ok(())
}

#[test]
fn a_killed_exporters_programs_go_on() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    for attach in ["auto", "clsact"] {
        let mounted = BpfFs::mount()?;
        let Pair { sfu, peer } = Pair::new()?;
        let (sfu, peer) = (Arc::new(sfu), peer);
        let shown = mounted.path().to_str().context("a path that is not UTF-8")?.to_owned();
        let ports = format!("{}-{}", PORTS.start(), PORTS.end());
        let flags =
            ["--pin", &shown, "--ports", &ports, "--observer", "/nowhere", "--attach", attach];
        let mut talk =
            Conversation::new(&sfu, "10.77.0.1:40000".parse()?, &peer, "10.77.0.2".parse()?)?;
        let exporter = Exporter::start(&sfu, &flags, &[])?;
        ensure!(exporter.metrics()?.contains("\nmediasoup_exporter_pinned 1\n"));
        let mut bytes = talk.say(Receive, 1, 50, 100)?;
        exporter.kill()?;
        bytes += talk.say(Receive, 1, 50, 100)?;
        let exporter = Exporter::start(&sfu, &flags, &[])?;
        bytes += talk.say(Receive, 1, 50, 100)?;
        exporter.end()?;
        bytes += talk.say(Receive, 1, 50, 100)?;
        let interfaces = vec!["*".to_owned()];
        let mechanism = if attach == "auto" { Mechanism::Auto } else { Mechanism::Clsact };
        let options = Options { interfaces, mechanism, ..options_in(&mounted) };
        let reading = start_with(&sfu, options)?.read()?;
        assert_eq!(counted(&reading, Receive, 1), (200, bytes), "{attach}");
        assert_eq!(reading.streams.len(), 1, "{attach}");
        let mut unpin = sfu.command(binary()?.to_str().context("a path that is not UTF-8")?);
        let told = unpin.args(["--unpin", "--pin", &shown]).output()?;
        ensure!(told.status.success(), "{told:?}");
        assert_eq!(attached(&sfu)?, Vec::<String>::new(), "{attach}");
    }
    Ok(())
}

#[test]
fn without_pins_nothing_stays() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let Pair { sfu, peer: _peer } = Pair::new()?;
    let sfu = Arc::new(sfu);
    for attach in ["auto", "clsact"] {
        let flags = ["--observer", "/nowhere", "--attach", attach];
        Exporter::start(&sfu, &flags, &[])?.stop()?;
        Exporter::start(&sfu, &flags, &[])?.kill()?;
        wait::until_equal("nothing to be attached", wait::LONG, || {
            Ok((attached(&sfu)?, Vec::new()))
        })?;
        // At any moment of the start, of which some are before the first program and some behind the last.
        for moment in 0..12 {
            let mut command = sfu.command(binary()?.to_str().context("a path that is not UTF-8")?);
            command.args(flags);
            let mut process = Guard::spawn("mediasoup-exporter", command)?;
            process.log_stdout();
            std::thread::sleep(Duration::from_millis(moment * 12));
            process.signal(if moment % 2 == 0 { libc::SIGINT } else { libc::SIGTERM })?;
            process.wait(wait::LONG)?;
            assert_eq!(attached(&sfu)?, Vec::<String>::new(), "{attach}, {moment}");
        }
        let qdiscs = sfu.command("tc").args(["qdisc", "show", "dev", "sfu0"]).output()?;
        let qdiscs = String::from_utf8(qdiscs.stdout)?;
        ensure!(!qdiscs.contains("clsact"), "our qdisc is left: {qdiscs}");
    }
    Ok(())
}

#[test]
fn programs_of_another_layout_are_replaced_and_other_tables_removed() -> Result<()> {
    let Some((mounted, pair)) = set()? else { return Ok(()) };
    let options = options_in(&mounted);
    let mut talk = pair.connect("10.77.0.1:40000", "10.77.0.2")?;
    drop(start_with(&pair.sfu, options.clone())?);
    // As a version with another layout would find it.
    let (folder, old) = (mounted.path(), "mediasoup-exporter-1");
    std::fs::rename(folder.join(format!("mediasoup-exporter-{LAYOUT_VERSION}")), folder.join(old))?;
    talk.say(Receive, 1, 10, 100)?;
    let second = start_with(&pair.sfu, options)?;
    ensure!(!folder.join(old).exists(), "tables of another layout are still there");
    talk.say(Receive, 1, 10, 100)?;
    assert_eq!(counted(&second.read()?, Receive, 1).0, 10, "counting begins anew");
    let attached = attached(&pair.sfu)?;
    assert_eq!(attached.iter().filter(|it| is_program(it)).count(), 4, "{attached:?}");
    Ok(())
}

#[test]
fn somebody_elses_directories_and_locks_are_in_nobodys_way() -> Result<()> {
    const NOBODY: Option<u32> = Some(65_534);
    let Some((mounted, pair)) = set()? else { return Ok(()) };
    let parent = mounted.path().join("pins");
    std::fs::create_dir(&parent)?;
    let mut held = Vec::new();
    for name in ["mediasoup-exporter-links", &format!("mediasoup-exporter-{LAYOUT_VERSION}")] {
        let child = parent.join(name);
        std::fs::create_dir(&child)?;
        let lock = File::open(&child)?;
        lock.lock()?;
        std::os::unix::fs::chown(&child, NOBODY, NOBODY)?;
        held.push(lock);
    }
    let of_parent = File::open(&parent)?;
    of_parent.lock()?;
    std::os::unix::fs::chown(&parent, NOBODY, NOBODY)?;
    let options = Options { pin: Some(parent.clone()), ..options_in(&mounted) };
    let counting = start_with(&pair.sfu, options.clone())?;
    let status = counting.status();
    ensure!(status.is_pinned && status.unpinned.is_none(), "{status:?}");
    for path in [parent.clone(), parent.join("mediasoup-exporter-links")] {
        let found = std::fs::metadata(&path)?;
        assert_eq!((found.uid(), found.mode() & 0o77), (0, 0), "{}", path.display());
    }
    drop(counting);
    // Where somebody else may put things in, he could put in anything.
    std::fs::set_permissions(&parent, Permissions::from_mode(0o777))?;
    let status = start_with(&pair.sfu, options)?.status();
    let why = status.unpinned.context("pinned where everybody may write")?;
    ensure!(why.contains("chmod go-w"), "{why}");
    Ok(())
}

#[test]
fn tables_have_one_owner() -> Result<()> {
    let Some((mounted, pair)) = set()? else { return Ok(()) };
    let options = options_in(&mounted);
    let first = start_with(&pair.sfu, options.clone())?;
    // It may count beside the first, but not in the same tables.
    let beside = Options { ports: Some(50_000..=50_100), ..options.clone() };
    let second = start_with(&pair.sfu, beside)?.status();
    let why = second.unpinned.context("pinned twice")?;
    ensure!(why.contains("another exporter uses") && !second.is_pinned, "{why}");
    let Err(error) = pair.sfu.run_in(|| remove_leftovers(mounted.path())) else {
        bail!("removed what is in use");
    };
    ensure!(error.to_string().contains("another exporter uses"), "{error:#}");
    // Nor when the first is another user's, as the unit's is.
    let links = mounted.path().join("mediasoup-exporter-links");
    std::os::unix::fs::chown(&links, Some(65_534), Some(65_534))?;
    ensure!(pair.sfu.run_in(|| remove_leftovers(mounted.path())).is_err(), "removed another's");
    ensure!(std::fs::read_dir(&links)?.next().is_some(), "its programs are gone");
    std::os::unix::fs::chown(&links, Some(0), Some(0))?;
    drop(first);
    ensure!(start_with(&pair.sfu, options)?.status().is_pinned);
    Ok(())
}

#[test]
fn a_directory_that_cannot_hold_tables_is_named() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let pair = Pair::new()?;
    let pin = std::env::temp_dir();
    let (method, shown) = (MethodChoice::Ebpf, pin.display().to_string());
    let status = start_with(&pair.sfu, Options { pin: Some(pin), method, ..options() })?.status();
    let why = status.unpinned.with_context(|| format!("pinned in {shown}"))?;
    ensure!(why.contains("mount -t bpf") && why.contains(&shown), "{why}");
    Ok(())
}

/// Where to pin, and two hosts.
fn set() -> Result<Option<(BpfFs, Pair)>> {
    if !root_or_skip() {
        return Ok(None);
    }
    Ok(Some((BpfFs::mount()?, Pair::new()?)))
}

/// Counts by eBPF, with tables and programs pinned there.
fn options_in(mounted: &BpfFs) -> Options {
    Options {
        interfaces: vec!["sfu0".into()],
        method: MethodChoice::Ebpf,
        pin: Some(mounted.path().to_owned()),
        ..options()
    }
}
