//! The kernel, the rights of this user, and the file systems that counting needs.

use std::path::Path;

use super::finding::Finding;
use crate::host::procfs;

/// From then on packets are counted in the kernel.
const OLDEST: (u32, u32) = (5, 17);

/// Capabilities without which the kernel takes no programs.
const PROGRAMS: [caps::Capability; 3] =
    [caps::Capability::CAP_BPF, caps::Capability::CAP_NET_ADMIN, caps::Capability::CAP_PERFMON];

/// Looks.
pub(super) fn look() -> Vec<Finding> {
    let release = procfs::read(Path::new("/proc/sys/kernel/osrelease")).unwrap_or_default();
    let mounts = procfs::read(Path::new("/proc/self/mounts")).unwrap_or_default();
    let effective = caps::read(None, caps::CapSet::Effective).unwrap_or_default();
    let missing = PROGRAMS.iter().filter(|it| !effective.contains(it));
    let missing: Vec<String> = missing.map(ToString::to_string).collect();
    let can_capture = effective.contains(&caps::Capability::CAP_NET_RAW);
    let is_root = rustix::process::geteuid().is_root();
    vec![
        kernel(release.trim(), Path::new("/sys/kernel/btf/vmlinux").exists()),
        rights(&missing, can_capture, is_root),
        cgroup(&mounts),
        bpf(&mounts),
    ]
}

fn kernel(release: &str, has_types: bool) -> Finding {
    let mut numbers = release.split(['.', '-']).map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return Finding::skipped("kernel", format!("release `{release}` is not understood"));
    };
    if (major, minor) < OLDEST {
        let seen = format!("Linux {release} is too old to count in the kernel");
        return Finding::warning(
            "kernel",
            seen,
            "boot Linux 5.17 or later; until then packets are captured",
        );
    }
    let types = if has_types {
        "with BTF"
    } else {
        "without BTF: a large datagram that a guest has cut into fragments is taken for several"
    };
    Finding::ok("kernel", format!("Linux {release}, {types}"))
}

fn rights(missing: &[String], can_capture: bool, is_root: bool) -> Finding {
    if missing.is_empty() {
        return Finding::ok("rights", "kernel programs can be loaded");
    }
    let list = missing.join(", ");
    match () {
        () if !is_root => Finding::warning(
            "rights",
            format!("this user has not {list}: less is seen here than the exporter would see"),
            "check as root, or as the exporter's user with the capabilities of its unit",
        ),
        () if can_capture => Finding::warning(
            "rights",
            format!("{list} missing: packets would be captured, not counted in the kernel"),
            "give the container or unit these capabilities",
        ),
        () => Finding::fault(
            "rights",
            format!("{list} and CAP_NET_RAW missing: nothing can be counted"),
            "give the container or unit these capabilities",
        ),
    }
}

fn cgroup(mounts: &str) -> Finding {
    match procfs::mounted(mounts, "cgroup2").next() {
        Some(place) => Finding::ok("cgroup", format!("version 2 at {place}")),
        None => Finding::warning(
            "cgroup",
            "no cgroup v2 is mounted: a new port is known only at the next look",
            "mount -t cgroup2 none /sys/fs/cgroup, or give the container the host's (--cgroupns host)",
        ),
    }
}

fn bpf(mounts: &str) -> Finding {
    match procfs::mounted(mounts, "bpf").next() {
        Some(place) => Finding::ok("bpf", format!("file system at {place}")),
        // The unit's folder is made by it; without --pin nothing needs one.
        None => Finding::skipped(
            "bpf",
            "no bpf file system is mounted: --pin would need one (mount -t bpf bpf /sys/fs/bpf)",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn old_kernels_capture() {
        assert_eq!(kernel("6.1.0-9-amd64", true).level, Level::Ok);
        assert_eq!(kernel("5.17.1", false).level, Level::Ok);
        assert_eq!(kernel("5.15.0-91-generic", true).level, Level::Warning);
        assert_eq!(kernel("", true).level, Level::Skipped);
    }

    #[test]
    fn rights_are_a_fault_only_where_root_has_none() {
        let missing = ["CAP_BPF".to_owned()];
        assert_eq!(rights(&[], false, false).level, Level::Ok);
        assert_eq!(rights(&missing, false, false).level, Level::Warning);
        assert_eq!(rights(&missing, true, true).level, Level::Warning);
        assert_eq!(rights(&missing, false, true).level, Level::Fault);
    }

    #[test]
    fn file_systems_are_found_by_their_kind() {
        let mounts = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\nnone /run/bpf tmpfs rw 0 0\n";
        assert_eq!(cgroup(mounts).level, Level::Ok);
        assert_eq!(bpf(mounts).level, Level::Skipped);
        assert_eq!(cgroup("").level, Level::Warning);
        assert_eq!(bpf("bpf /sys/fs/bpf bpf rw 0 0").text, "file system at /sys/fs/bpf");
    }
}
