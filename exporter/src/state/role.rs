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

impl StreamRole {
    /// It is media as far as is known, rather than what repairs or measures it.
    pub fn is_media(role: Option<Self>) -> bool {
        matches!(role, None | Some(Self::Media))
    }
}
