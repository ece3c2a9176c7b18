//! Seccomp: the system calls that answering requests and reading servers' lines takes. All others fail with
//! EPERM, so a library that can do without goes on.

use std::collections::BTreeMap;

use anyhow::Context;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

/// With whatever arguments.
const ALLOWED: &[libc::c_long] = &[
    // Connections that are open, and those that come in. None is opened.
    libc::SYS_accept4,
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_write,
    libc::SYS_writev,
    // Waiting.
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_futex,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_ppoll,
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    // Memory.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_sysinfo,
    // Threads and their ends.
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_rseq,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    // Refused by a filter of its own, so that the C library tries `clone`.
    libc::SYS_clone3,
    // Older ones, which only old architectures have.
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
];

/// The filters, ready for any thread.
#[derive(Debug)]
pub(super) struct Filter {
    /// `clone3` has its flags in memory, where no filter can look: it must not seem to exist.
    no_clone3: BpfProgram,
    allowed: BpfProgram,
}

impl Filter {
    /// `calls_out`: sockets of the Internet may be made.
    pub(super) fn new(calls_out: bool) -> anyhow::Result<Self> {
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
            ALLOWED.iter().map(|&call| (call, Vec::new())).collect();
        // A name for a thread, and nothing else of what prctl can do.
        rules.insert(libc::SYS_prctl, only(0, SeccompCmpOp::Eq, libc::PR_SET_NAME as u64)?);
        rules.insert(libc::SYS_ioctl, only(1, SeccompCmpOp::Eq, libc::FIONBIO)?);
        // Threads, but no processes.
        let threads = libc::CLONE_THREAD as u64;
        rules.insert(libc::SYS_clone, only(0, SeccompCmpOp::MaskedEq(threads), threads)?);
        // No memory that can be run.
        let runnable = SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64);
        rules.insert(libc::SYS_mmap, only(2, runnable.clone(), 0)?);
        rules.insert(libc::SYS_mprotect, only(2, runnable, 0)?);
        if calls_out {
            let families = [libc::AF_INET, libc::AF_INET6];
            let families = families.map(|family| only(0, SeccompCmpOp::Eq, family as u64));
            let families = families.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
            rules.insert(libc::SYS_socket, families.into_iter().flatten().collect());
            rules.extend([libc::SYS_bind, libc::SYS_connect].map(|call| (call, Vec::new())));
        }
        let refusal = SeccompAction::Errno(libc::EPERM as u32);
        let absence = SeccompAction::Errno(libc::ENOSYS as u32);
        let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
        Ok(Self {
            no_clone3: compiled(clone3, SeccompAction::Allow, absence)?,
            allowed: compiled(rules, refusal, SeccompAction::Allow)?,
        })
    }

    /// For the calling thread, and those that it starts.
    pub(super) fn apply(&self) -> anyhow::Result<()> {
        apply_filter(&self.no_clone3).context("take up a seccomp filter")?;
        apply_filter(&self.allowed).context("take up a seccomp filter")
    }
}

fn compiled(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    action: SeccompAction,
) -> anyhow::Result<BpfProgram> {
    let architecture = std::env::consts::ARCH.try_into().context("an unknown architecture")?;
    let filter = SeccompFilter::new(rules, otherwise, action, architecture)?;
    Ok(filter.try_into()?)
}

/// Only where this argument, a word of 32 bits, is so.
fn only(argument: u8, is: SeccompCmpOp, value: u64) -> anyhow::Result<Vec<SeccompRule>> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, is, value)?;
    Ok(vec![SeccompRule::new(vec![condition])?])
}

/// Whether the calling thread has the filter already. This call never fails but for it.
pub(super) fn is_filtered() -> bool {
    // SAFETY: getppid takes nothing and touches no memory.
    unsafe { libc::syscall(libc::SYS_getppid) == -1 }
}
