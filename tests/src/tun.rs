//! A tun device: an interface without link headers whose other end is this process.

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};

use anyhow::{Result, ensure};

/// Makes one in this thread's network namespace, there for as long as the file is open. `kind` is what
/// it says of its link type (ARPHRD_*) instead of none.
pub fn open(name: &str, kind: Option<u16>) -> Result<File> {
    open_with(name, kind, 0)
}

/// As [`open`], for a guest that has its packets put together: each begins with a [`VirtioHeader`].
pub fn open_for_guest(name: &str) -> Result<File> {
    open_with(name, None, libc::IFF_VNET_HDR)
}

/// `struct virtio_net_hdr` (virtio 1.2, 5.1.6) of a UDP packet over IPv4 whose checksum is to be made.
#[derive(Clone, Copy, Debug)]
pub struct VirtioHeader {
    /// VIRTIO_NET_HDR_GSO_*.
    pub gso_type: u8,
    /// Payload of one of the packets that it stands for.
    pub gso_size: u16,
}

impl VirtioHeader {
    /// One datagram that is to be cut into IP fragments.
    pub const GSO_UDP: u8 = 3;
    /// Many datagrams.
    pub const GSO_UDP_L4: u8 = 5;

    /// As it stands before the packet.
    pub fn to_bytes(self) -> [u8; 10] {
        const NEEDS_CHECKSUM: u8 = 1;
        let [header, checksum_start, checksum_offset] = [28_u16, 20, 6].map(u16::to_le_bytes);
        let size = self.gso_size.to_le_bytes();
        let mut bytes = [0; 10];
        (bytes[0], bytes[1]) = (NEEDS_CHECKSUM, self.gso_type);
        for (at, field) in [header, size, checksum_start, checksum_offset].iter().enumerate() {
            bytes[2 + 2 * at..4 + 2 * at].copy_from_slice(field);
        }
        bytes
    }
}

fn open_with(name: &str, kind: Option<u16>, flags: libc::c_int) -> Result<File> {
    // SAFETY: open takes a C string literal.
    let fd = unsafe { libc::open(c"/dev/net/tun".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
    ensure!(fd >= 0, "open /dev/net/tun: {}", std::io::Error::last_os_error());
    // SAFETY: just opened, owned by nobody else.
    let file = unsafe { File::from_raw_fd(fd) };
    let mut request = [0_u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    let flags = (libc::IFF_TUN | libc::IFF_NO_PI | flags) as u16;
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
