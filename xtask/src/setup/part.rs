//! What can be asked for of the set-up.

/// What can be installed by itself.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Debian packages, of every part.
    Packages,
    /// The toolchain for the kernel object, its packages among it.
    Ebpf,
    /// The mediasoup workers, their packages among it.
    Mediasoup,
    /// The browser of the WebRTC tests and what its page is made of.
    Webrtc,
    /// Everything.
    All,
}
