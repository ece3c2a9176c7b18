//! Threads that read what others send have no rights, proven by what the kernel says of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use exporter_tests::exporter::Exporter;
use exporter_tests::netns::Netns;
use exporter_tests::process::TempDir;
use exporter_tests::{root_or_skip, skip, wait};

/// What the kernel says of a thread.
type Status = BTreeMap<String, String>;

/// What confined threads are called: those that serve, and those that ask for names.
const CONFINED: [&str; 2] = ["serve", "ask"];

/// Each thread's name and status.
fn threads(pid: u32) -> Result<Vec<(String, Status)>> {
    let folder = format!("/proc/{pid}/task");
    let threads = fs::read_dir(folder)?.filter_map(|entry| {
        let thread = entry.ok()?.path();
        // A thread may end meanwhile.
        let name = fs::read_to_string(thread.join("comm")).ok()?.trim().to_owned();
        let status = fs::read_to_string(thread.join("status")).ok()?;
        let lines = status.lines().filter_map(|line| line.split_once(":\t"));
        Some((name, lines.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()))
    });
    Ok(threads.collect())
}

fn confined(pid: u32) -> Result<Vec<Status>> {
    let named =
        |(name, status): (String, Status)| CONFINED.contains(&name.as_str()).then_some(status);
    Ok(threads(pid)?.into_iter().filter_map(named).collect())
}

fn set(status: &Status, which: &str) -> Result<u64> {
    Ok(u64::from_str_radix(status.get(which).context("no such line")?, 16)?)
}

/// A user with the password `open`.
const USERS: &str =
    "basic_auth_users:\n  alice: $2b$04$abcdefghijklmnopqrstuu5cldSTjqTa.nw4QeJC5.F6G/ueChgIa\n";

/// With threads of each kind: those that accept, and one that checks a password.
fn start(folder: &Path, flags: &[&str]) -> Result<Option<Exporter>> {
    if !root_or_skip() {
        return Ok(None);
    }
    let file = folder.join("web.yml");
    let file = file.to_str().context("a path that is not UTF-8")?;
    fs::write(file, USERS)?;
    let host = Arc::new(Netns::new("rights")?);
    let all = ["--observer", "/nowhere", "--interface", "lo", "--web.config.file", file];
    let exporter = Exporter::start(&host, &[&all[..], flags].concat(), &[])?;
    // alice:wrong
    let refused = exporter.get("/metrics", &["Authorization: Basic YWxpY2U6d3Jvbmc="])?;
    ensure!(refused.status == 401, "{}", refused.head);
    Ok(Some(exporter))
}

#[test]
fn threads_that_serve_have_no_rights_and_others_what_they_need() -> Result<()> {
    let folder = TempDir::new("rights")?;
    let Some(exporter) = start(folder.path(), &[])? else { return Ok(()) };
    let pid = exporter.pid();
    let all =
        wait::until("threads that accept, one that checks and one that asks", wait::LONG, || {
            let all = confined(pid)?;
            Ok((all.len() >= 4).then_some(all))
        })?;
    for status in &all {
        for which in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(set(status, which)?, 0, "{status:?}");
        }
        assert_eq!(status["NoNewPrivs"], "1");
    }
    if fs::exists("/proc/sys/kernel/seccomp/actions_avail")? {
        // 2: a filter (SECCOMP_MODE_FILTER).
        assert!(all.iter().all(|status| status["Seccomp"] == "2"), "{all:?}");
    } else {
        skip("this kernel has no seccomp filters");
    }
    let rights = |(name, status): &(String, Status)| {
        (!CONFINED.contains(&name.as_str())).then(|| set(status, "CapEff").unwrap_or_default())
    };
    let kept: Vec<u64> = threads(pid)?.iter().filter_map(rights).collect();
    assert!(!kept.is_empty() && kept.iter().all(|set| *set != 0), "{kept:x?}");
    exporter.stop()
}

/// What the process as a whole keeps after attaching, and no more.
#[test]
fn after_attaching_little_is_kept() -> Result<()> {
    // In <linux/capability.h>: DAC_OVERRIDE, DAC_READ_SEARCH, NET_ADMIN, SYS_PTRACE, PERFMON, BPF.
    const KEPT: u64 = 1 << 1 | 1 << 2 | 1 << 12 | 1 << 19 | 1 << 38 | 1 << 39;
    let folder = TempDir::new("rights")?;
    let Some(exporter) = start(folder.path(), &[])? else { return Ok(()) };
    for (name, status) in threads(exporter.pid())? {
        for which in ["CapInh", "CapPrm", "CapEff", "CapAmb", "CapBnd"] {
            assert_eq!(set(&status, which)? & !KEPT, 0, "{name}: {which}");
        }
        assert_eq!(status["NoNewPrivs"], "1", "{name}");
    }
    exporter.stop()
}

#[test]
fn the_sandbox_can_be_off_and_says_so() -> Result<()> {
    let folder = TempDir::new("rights")?;
    let Some(exporter) = start(folder.path(), &["--sandbox=no"])? else { return Ok(()) };
    for status in confined(exporter.pid())? {
        assert_ne!(set(&status, "CapEff")?, 0);
    }
    exporter.stop()
}
