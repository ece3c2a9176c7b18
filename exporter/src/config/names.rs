//! What becomes of the words of people.

/// How ids of peers and rooms, display names and user agents are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// As they are.
    None,
    /// As a keyed hash.
    Pseudonym,
    /// Not at all.
    Drop,
}

impl Names {
    /// Its name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Pseudonym => "pseudonym",
            Self::Drop => "drop",
        }
    }
}
