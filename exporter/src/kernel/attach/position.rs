//! Where a program hangs on an interface, and who is in front of it there.

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    /// Coming in.
    Ingress,
    /// Going out.
    Egress,
}

/// Where an attachment is found to be.
pub(super) enum Position {
    First,
    /// What stands in front of it.
    Behind(String),
    /// Somebody took it away.
    Gone,
}
