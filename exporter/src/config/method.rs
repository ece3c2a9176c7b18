//! What counts packets, and by which hooks, as the operator says it.

/// What counts packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The best that the rights allow.
    Auto,
    /// eBPF or nothing: without the right, the program ends.
    Ebpf,
    /// Packet capture or nothing.
    Capture,
    /// Only what the observer tells.
    None,
}

impl Method {
    /// The source's name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Ebpf => "ebpf",
            Self::Capture => "capture",
            Self::None => "none",
        }
    }
}

/// By which of the kernel's hooks programs see packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hooks {
    /// TCX where the kernel has it, else clsact.
    Auto,
    /// clsact always.
    Clsact,
}

impl Hooks {
    /// Its name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Clsact => "clsact",
        }
    }
}
