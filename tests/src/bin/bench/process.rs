//! What processes use: processor time and memory, from /proc.

use std::fs;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::time::Duration;

use anyhow::{Context as _, Result};

/// Processor time of the calling thread so far: a busy machine disturbs it less than wall time.
pub fn spent() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of our own, valid for the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Milliseconds of processor time that `work` takes.
pub fn cost<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let started = spent();
    let result = work();
    ((spent() - started).as_secs_f64() * 1e3, result)
}

/// Processor time that all living threads of a process have used.
pub fn used(pid: u32) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    let folder = format!("/proc/{pid}/task");
    for thread in fs::read_dir(&folder).with_context(|| folder.clone())? {
        // A thread may end between being listed and being asked.
        let text = fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
        let nanoseconds = text.split(' ').next().and_then(|it| it.parse().ok()).unwrap_or(0);
        sum += Duration::from_nanos(nanoseconds);
    }
    Ok(sum)
}

/// Resident memory in MB, without the eBPF maps that are mapped into the process: the kernel counts
/// those again, as a whole, as soon as they are mapped. See [`kernel_tables`].
pub fn resident(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/smaps");
    let mappings = fs::read_to_string(&path).with_context(|| path.clone())?;
    let (mut kilobytes, mut is_map) = (0, false);
    for line in mappings.lines() {
        if let Some(resident) = line.strip_prefix("Rss:") {
            let resident = resident.trim().strip_suffix(" kB").and_then(|it| it.parse().ok());
            let resident: u64 = resident.with_context(|| format!("{path}: {line}"))?;
            kilobytes += if is_map { 0 } else { resident };
        } else if line
            .starts_with(|first: char| first.is_ascii_digit() || first.is_ascii_lowercase())
        {
            is_map = line.ends_with("bpf-map");
        }
    }
    Ok(kilobytes as f64 / 1024.0)
}

/// Memory in MB of the eBPF maps that a process has open, by the kernel's account.
pub fn kernel_tables(pid: u32) -> Result<f64> {
    let mut maps = std::collections::BTreeMap::new();
    for info in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let text = fs::read_to_string(info?.path()).unwrap_or_default();
        if let (Some(id), Some(bytes)) = (field(&text, "map_id:"), field(&text, "memlock:")) {
            maps.insert(id, bytes);
        }
    }
    Ok(maps.values().sum::<u64>() as f64 / 1048576.0)
}

/// Memory in MB of one eBPF map of this process, by the kernel's account (as it is used from Linux
/// 6.4 on, an estimate before).
pub fn map_memory(map: BorrowedFd<'_>) -> Result<f64> {
    let path = format!("/proc/self/fdinfo/{}", map.as_raw_fd());
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    let bytes = field(&text, "memlock:").with_context(|| format!("no memlock in {path}"))?;
    Ok(bytes as f64 / 1048576.0)
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
}
