//! What a stream is.

/// What a stream is to its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum StreamRole {
    /// The encoding itself.
    Media,
    /// Retransmissions (RFC 4588).
    Rtx,
    /// mediasoup's bandwidth probation.
    Probation,
}
