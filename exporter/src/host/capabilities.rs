//! Gives up every capability but those that are needed after the start.
//!
//! Capabilities belong to threads, so this must run on the main thread before any other thread (the
//! runtime's above all) is made. What counts comes in; nothing is opened or attached here.
//!
//! What is kept, and why:
//! - `CAP_NET_ADMIN`, `CAP_BPF` and `CAP_PERFMON` with eBPF: attaching to interfaces that come later;
//!   the first of its kind (with or without link header) loads its programs, too.
//! - `CAP_NET_RAW` with packet capture: capturing on interfaces that come later.
//! - `CAP_SYS_PTRACE`: seeing which sockets another user's worker has open, and its namespace.
//! - `CAP_DAC_READ_SEARCH`: the directories of /proc and of observer sockets of other users.
//! - `CAP_DAC_OVERRIDE`, only where observer sockets are used: connecting to a Unix socket needs the
//!   right to write to it, and a server's socket belongs to the server's user.

use caps::{CapSet, Capability, CapsHashSet};

/// What the exporter will do after the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Attaches kernel programs to interfaces that come later.
    pub programs: bool,
    /// Captures on interfaces that come later.
    pub capture: bool,
    /// Connects to observer sockets.
    pub observers: bool,
}

/// Reduces this thread's capabilities, those that a program started from here could gain, and the
/// bounding set where that is permitted. Returns the names of those that are kept.
pub fn drop_all_but(needs: Needs) -> anyhow::Result<Vec<String>> {
    keep(&kept(needs))
}

/// The same for who only captures packets.
pub fn keep_capturing() -> anyhow::Result<()> {
    keep(&CapsHashSet::from([Capability::CAP_NET_RAW])).map(drop)
}

fn keep(wanted: &CapsHashSet) -> anyhow::Result<Vec<String>> {
    let permitted = caps::read(None, CapSet::Permitted)?;
    let kept: CapsHashSet = permitted.intersection(wanted).copied().collect();
    no_new_privileges();
    // Needs CAP_SETPCAP, so before that goes; without it nothing could be gained from the set.
    if permitted.contains(&Capability::CAP_SETPCAP) {
        for capability in caps::all().difference(&kept) {
            // A kernel older than the list does not know the newest.
            let _ = caps::drop(None, CapSet::Bounding, *capability);
        }
    }
    // The ambient set is bounded by the inheritable one, so it empties by itself.
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new())?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    let mut names: Vec<String> = kept.iter().map(ToString::to_string).collect();
    names.sort();
    Ok(names)
}

/// Leaves this thread no capability, and none to be gained.
pub fn drop_all() -> anyhow::Result<()> {
    no_new_privileges();
    for set in [CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &CapsHashSet::new())?;
    }
    Ok(())
}

/// The capabilities that make it possible after the start.
fn kept(needs: Needs) -> CapsHashSet {
    let mut kept = CapsHashSet::from([Capability::CAP_SYS_PTRACE, Capability::CAP_DAC_READ_SEARCH]);
    if needs.programs {
        kept.extend([Capability::CAP_NET_ADMIN, Capability::CAP_BPF, Capability::CAP_PERFMON]);
    }
    if needs.capture {
        kept.insert(Capability::CAP_NET_RAW);
    }
    if needs.observers {
        kept.insert(Capability::CAP_DAC_OVERRIDE);
    }
    kept
}

/// Set-user-ID programs and file capabilities give nothing from here on.
fn no_new_privileges() {
    // SAFETY: this prctl takes numbers only.
    unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_need_keeps_its_own() {
        let check = |needs, has, has_not| {
            let kept = kept(needs);
            assert!(kept.contains(&has) && !kept.contains(&has_not), "{needs:?}: {kept:?}");
        };
        let none = Needs { programs: false, capture: false, observers: false };
        let (bpf, raw) = (Capability::CAP_BPF, Capability::CAP_NET_RAW);
        check(Needs { programs: true, ..none }, bpf, raw);
        check(Needs { capture: true, ..none }, raw, bpf);
        check(none, Capability::CAP_SYS_PTRACE, Capability::CAP_NET_ADMIN);
        let observing = kept(Needs { observers: true, ..none });
        assert!(observing.contains(&Capability::CAP_DAC_OVERRIDE));
    }

    /// On a thread of its own: the test process keeps what it has.
    #[test]
    fn a_thread_is_left_with_no_more_than_was_asked_for() {
        let left = std::thread::spawn(|| {
            drop_all_but(Needs { programs: false, capture: false, observers: false }).unwrap();
            caps::read(None, CapSet::Permitted).unwrap()
        });
        let left = left.join().unwrap();
        assert!(left.is_subset(&kept(Needs { programs: false, capture: false, observers: false })));
    }
}
