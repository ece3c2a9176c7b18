//! Waits for the kernel's random numbers, which at early boot are not there yet, and says so.
//!
//! Keys, salts and the seeds of hash tables are made of them (getrandom(2)); a start that waits for them in silence
//! looks like a program that hangs.

use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

/// Returns once there are some.
pub fn wait() {
    let ask = |flags| getrandom(&mut [0_u8; 1][..], flags).map(drop);
    wait_for(ask, || {
        tracing::warn!(
            "the kernel has no random numbers yet, as at early boot: waiting for them (getrandom(2)); a source \
             such as virtio-rng, or random.trust_cpu=on, makes them come sooner"
        );
    });
}

fn wait_for(mut ask: impl FnMut(GetRandomFlags) -> Result<(), Errno>, tell: impl FnOnce()) {
    if ask(GetRandomFlags::NONBLOCK) == Err(Errno::AGAIN) {
        tell();
        // Whatever else is wrong is said by whoever needs them.
        let _ = ask(GetRandomFlags::empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_is_said_and_only_then_done() {
        let (mut asked, mut told) = (Vec::new(), false);
        let answers = |flags: GetRandomFlags| match flags.is_empty() {
            true => Ok(()),
            false => Err(Errno::AGAIN),
        };
        let ask = |flags| {
            asked.push(flags);
            answers(flags)
        };
        wait_for(ask, || told = true);
        assert_eq!(asked, [GetRandomFlags::NONBLOCK, GetRandomFlags::empty()]);
        assert!(told);
        wait_for(|_| Ok(()), || panic!("there are some"));
        wait_for(|_| Err(Errno::NOSYS), || panic!("nobody can know"));
        wait();
    }
}
