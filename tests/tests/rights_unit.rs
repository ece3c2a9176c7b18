//! The systemd unit gives no more than it must: systemd's own judgement of it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use exporter_tests::netns::Netns;
use exporter_tests::process::Guard;
use exporter_tests::scrape::Scrape;
use exporter_tests::{exporter, http, root_or_skip, skip, wait};

/// The exposure that `systemd-analyze security` may find at most.
const MOST_EXPOSED: f64 = 2.0;

fn unit(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist").join(name)
}

#[test]
fn systemd_finds_the_unit_little_exposed() -> Result<()> {
    let mut analyze = Command::new("systemd-analyze");
    analyze.args(["security", "--offline=true", "--no-pager"]);
    let Ok(judged) = analyze.arg(unit("mediasoup-exporter.service")).output() else {
        skip("systemd-analyze is not installed");
        return Ok(());
    };
    let (text, errors) = (String::from_utf8(judged.stdout)?, String::from_utf8(judged.stderr)?);
    if errors.contains("unrecognized option") {
        skip("systemd-analyze is older than 250 and judges no files");
        return Ok(());
    }
    ensure!(!errors.contains("mediasoup-exporter.service:"), "it is misunderstood: {errors}");
    let exposure = text.rsplit_once("exposure level for mediasoup-exporter.service: ");
    let exposure = exposure.with_context(|| format!("no judgement: {text} {errors}"))?.1;
    let figure: f64 = exposure.split_whitespace().next().context("no figure")?.parse()?;
    assert!(figure <= MOST_EXPOSED, "{text}");
    Ok(())
}

/// Values of a setting, those of repeated lines together.
fn setting(text: &str, name: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    lines.flat_map(str::split_whitespace).map(str::to_owned).collect()
}

#[test]
fn no_right_is_left_that_is_not_given() -> Result<()> {
    let text = std::fs::read_to_string(unit("mediasoup-exporter.service"))?;
    let given = setting(&text, "AmbientCapabilities");
    assert!(!given.is_empty());
    assert_eq!(given, setting(&text, "CapabilityBoundingSet"));
    // Each is explained, and README's command for the file gives the same.
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = std::fs::read_to_string(readme)?;
    let setcap = readme.lines().find_map(|line| line.trim().strip_prefix("setcap "));
    let setcap = setcap.and_then(|line| line.split('+').next()).context("no setcap")?;
    let mut of_file: Vec<String> = setcap.split(',').map(str::to_uppercase).collect();
    let mut of_unit = given.clone();
    of_file.sort();
    of_unit.sort();
    assert_eq!(of_file, of_unit);
    for right in given {
        let explained = text.lines().any(|line| line.starts_with('#') && line.contains(&right));
        assert!(explained, "{right}");
    }
    Ok(())
}

/// A cgroup that goes, with what systemd makes below it.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Result<Option<Self>> {
        let mounts = std::fs::read_to_string("/proc/mounts")?;
        let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let root = mounts.find(|words| words.get(2) == Some(&"cgroup2"));
        let Some(root) = root else { return Ok(None) };
        let path = Path::new(root[1]).join(format!("mex-systemd-{}", std::process::id()));
        std::fs::create_dir(&path)?;
        Ok(Some(Self(path)))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = std::fs::write(self.0.join("cgroup.kill"), "1");
        // The kernel takes a moment to let go of what was killed.
        let _ = wait::until("the cgroup to be empty", wait::LONG, || {
            let mut find = Command::new("find");
            find.arg(&self.0).args(["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"]);
            find.output()?;
            Ok((!self.0.exists()).then_some(()))
        });
    }
}

/// A real systemd starts the exporter by its units, in namespaces of its own.
#[test]
fn systemd_runs_the_unit() -> Result<()> {
    let systemd = Path::new("/lib/systemd/systemd");
    if !root_or_skip() {
        return Ok(());
    }
    if !systemd.exists() {
        skip("systemd is not installed");
        return Ok(());
    }
    let Some(cgroup) = Cgroup::new()? else {
        skip("no cgroup hierarchy of version 2 is mounted");
        return Ok(());
    };
    let host = Netns::new("systemd")?;
    let boot = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/boot.sh");
    let mut command = host.command("bash");
    command.arg(boot).arg(exporter::binary()?).arg(unit("mediasoup-exporter.service"));
    command.arg(unit("mediasoup-exporter.socket")).arg(&cgroup.0);
    let mut process = Guard::spawn("systemd", command)?;
    let page = |path: &str| http::get(&host, exporter::address(), path, &[])?.text();
    let ready = wait::until("/-/ready", wait::LONG, || {
        process.alive()?;
        Ok(page("/-/ready").ok().map(drop))
    });
    ready.with_context(|| process.log())?;
    let metrics = Scrape::parse(&page("/metrics")?)?;
    let one = |family: &str, labels: &[(&str, &str)]| {
        assert_eq!(metrics.sum(family, labels), 1.0, "{family}: {}", page("/").unwrap_or_default());
    };
    one("mediasoup_exporter_counting_source", &[("source", "ebpf")]);
    one("mediasoup_exporter_pinned", &[]);
    one("mediasoup_exporter_sandbox", &[("layer", "seccomp")]);
    one("mediasoup_exporter_sandbox", &[("layer", "capabilities")]);
    Ok(())
}
