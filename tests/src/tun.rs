//! A tun device: an interface without link headers whose other end is this process.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};

use anyhow::{Result, ensure};

/// Makes one in this thread's network namespace, there for as long as the file is open. `kind` is what
/// it says of its link type (ARPHRD_*) instead of none.
pub fn open(name: &str, kind: Option<u16>) -> Result<File> {
    // SAFETY: open takes a C string literal.
    let fd = unsafe { libc::open(c"/dev/net/tun".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
    ensure!(fd >= 0, "open /dev/net/tun: {}", std::io::Error::last_os_error());
    // SAFETY: just opened, owned by nobody else.
    let file = unsafe { File::from_raw_fd(fd) };
    let mut request = [0_u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    let flags = (libc::IFF_TUN | libc::IFF_NO_PI) as u16;
    request[16..18].copy_from_slice(&flags.to_ne_bytes());
    // SAFETY: TUNSETIFF reads and writes a struct ifreq, which has 40 bytes.
    let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, request.as_mut_ptr()) };
    ensure!(made == 0, "make {name}: {}", std::io::Error::last_os_error());
    if let Some(kind) = kind {
        /// `_IOW('T', 205, int)`.
        const TUNSETLINK: libc::Ioctl = 0x4004_54cd;
        // SAFETY: TUNSETLINK takes a number.
        let set = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETLINK, libc::c_ulong::from(kind)) };
        ensure!(set == 0, "make {name} of kind {kind}: {}", std::io::Error::last_os_error());
    }
    Ok(file)
}
