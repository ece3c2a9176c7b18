//! Pinned tables: counters outlive the exporter, and tables of another size do not.

use std::process::Command;

use anyhow::{Result, bail, ensure};
use aya::maps::{Array, Map, MapData};
use exporter_ebpf::abi::LAYOUT_VERSION;
use exporter_ebpf::table::{Bucket, TAKEN};
use exporter_tests::pair::{Pair, counted, options, start_with};
use exporter_tests::process::TempDir;
use exporter_tests::root_or_skip;
use mediasoup_exporter::kernel::{Limits, MethodChoice, Options};
use mediasoup_exporter::model::Direction::Receive;

#[test]
fn counters_outlive_a_restart() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mounted = BpfFs::mount()?;
    let pair = Pair::new()?;
    let options = mounted.options();
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
    if !root_or_skip() {
        return Ok(());
    }
    let mounted = BpfFs::mount()?;
    let pair = Pair::new()?;
    let limits = Limits { ssrcs_per_flow: 1, ..Limits::default() };
    let options = Options { limits, ..mounted.options() };
    let mut talk = pair.connect("10.77.0.1:40000", "10.77.0.2")?;
    let first = start_with(&pair.sfu, options.clone())?;
    talk.say(Receive, 1, 10, 100)?;
    drop(first);
    let tags = format!("mediasoup-exporter-{LAYOUT_VERSION}/TAGS");
    let tags = Map::from_map_data(MapData::from_pin(mounted.0.path().join(tags))?)?;
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
fn tables_have_one_owner_and_one_layout() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mounted = BpfFs::mount()?;
    let folder = mounted.0.path();
    let old = folder.join("mediasoup-exporter-1");
    std::fs::create_dir(&old)?;
    let pair = Pair::new()?;
    let options = mounted.options();
    let first = start_with(&pair.sfu, options.clone())?;
    ensure!(!old.exists(), "tables of another layout are still there");
    // It may count beside the first, but for the directory.
    let beside = Options { ports: Some(50_000..=50_100), ..options.clone() };
    let Err(error) = start_with(&pair.sfu, beside) else { bail!("pinned twice") };
    let told = format!("{error:#}");
    ensure!(told.contains("another exporter uses"), "{told}");
    drop(first);
    start_with(&pair.sfu, options)?;
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
    let refused = start_with(&pair.sfu, Options { pin: Some(pin), method, ..options() });
    let Err(error) = refused else { anyhow::bail!("pinned in {shown}") };
    let told = format!("{error:#}");
    ensure!(told.contains("mount -t bpf") && told.contains(&shown), "{told}");
    Ok(())
}

/// A bpffs of the test's own.
struct BpfFs(TempDir);

impl BpfFs {
    fn mount() -> Result<Self> {
        let folder = TempDir::new("bpffs")?;
        let mounted =
            Command::new("mount").args(["-t", "bpf", "bpf"]).arg(folder.path()).status()?;
        ensure!(mounted.success(), "mount a bpffs at {}", folder.path().display());
        Ok(Self(folder))
    }

    /// Counts by eBPF, with tables pinned here.
    fn options(&self) -> Options {
        Options {
            interfaces: vec!["sfu0".into()],
            method: MethodChoice::Ebpf,
            pin: Some(self.0.path().to_owned()),
            ..options()
        }
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}
