//! Pinned tables: counters outlive the exporter, and tables of another size do not.

use std::process::Command;

use anyhow::{Result, ensure};
use exporter_tests::pair::{Pair, counted, options, start_with};
use exporter_tests::process::TempDir;
use exporter_tests::root_or_skip;
use mediasoup_exporter::kernel::{Limits, Options, SourceChoice};
use mediasoup_exporter::model::Direction::Receive;

#[test]
fn counters_outlive_a_restart() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let mounted = BpfFs::mount()?;
    let pair = Pair::new()?;
    let options = Options {
        interfaces: vec!["sfu0".into()],
        source: SourceChoice::Ebpf,
        pin: Some(mounted.0.path().to_owned()),
        ..options()
    };
    let mut talk = pair.connect("10.77.0.1:40000", "10.77.0.2")?;
    let mut run = |options: &Options| {
        let counting = start_with(&pair.sfu, options.clone())?;
        talk.say(Receive, 1, 10, 100)?;
        let reading = counting.read()?;
        anyhow::Ok((counted(&reading, Receive, 1).0, reading.tables[2].entries))
    };
    assert_eq!(run(&options)?, (10, 1));
    assert_eq!(run(&options)?, (20, 1));
    let limits = Limits { flows: 100, ..Limits::default() };
    let other = Options { limits, ..options.clone() };
    assert_eq!(run(&other)?, (10, 1), "tables of another size begin anew");
    assert_eq!(run(&other)?, (20, 1));
    Ok(())
}

#[test]
fn a_directory_that_cannot_hold_tables_is_named() -> Result<()> {
    if !root_or_skip() {
        return Ok(());
    }
    let pair = Pair::new()?;
    let pin = std::env::temp_dir();
    let (source, shown) = (SourceChoice::Ebpf, pin.display().to_string());
    let refused = start_with(&pair.sfu, Options { pin: Some(pin), source, ..options() });
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
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}
