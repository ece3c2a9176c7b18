//! The same work on two processors at once.

use std::io;
use std::mem::MaybeUninit;
use std::sync::Barrier;
use std::thread;

use anyhow::{Result, ensure};

/// Runs `work` on both processors at once; tells the mean of what it gave.
pub fn mean(pair: [usize; 2], work: impl Fn() -> Result<f64> + Sync) -> Result<f64> {
    let barrier = Barrier::new(pair.len());
    let results = thread::scope(|scope| {
        let threads = pair.map(|processor| {
            let (barrier, work) = (&barrier, &work);
            scope.spawn(move || {
                let pinned = pin(processor);
                barrier.wait();
                pinned.and_then(|()| work())
            })
        });
        threads.map(|thread| thread.join().expect("measuring does not panic"))
    });
    let [first, second] = results;
    Ok((first? + second?) / 2.0)
}

/// Two of the processors that this process may use; `None`: there is one.
pub fn processors() -> Result<Option<[usize; 2]>> {
    let mut set = MaybeUninit::<libc::cpu_set_t>::zeroed();
    // SAFETY: the pointer is to a set of our own, of the size that is told.
    let result =
        unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), set.as_mut_ptr()) };
    ensure!(result == 0, "ask for this process's processors: {}", io::Error::last_os_error());
    // SAFETY: all zero is a set, and the kernel has written one.
    let set = unsafe { set.assume_init() };
    // SAFETY: within the set's size.
    let mut ours =
        (0..libc::CPU_SETSIZE as usize).filter(|&it| unsafe { libc::CPU_ISSET(it, &set) });
    Ok(ours.next().zip(ours.next()).map(<[usize; 2]>::from))
}

fn pin(processor: usize) -> Result<()> {
    // SAFETY: all zero is a set without processors.
    let mut set = unsafe { MaybeUninit::<libc::cpu_set_t>::zeroed().assume_init() };
    // SAFETY: the processor is one of the set's size; the pointer is to a set of our own.
    let result = unsafe {
        libc::CPU_SET(processor, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    ensure!(result == 0, "stay on processor {processor}: {}", io::Error::last_os_error());
    Ok(())
}
