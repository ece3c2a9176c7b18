//! Where views are of, and what is bad there.

use crate::views::verdict::Thresholds;

/// What the history does not know.
#[derive(Clone, Debug)]
pub struct Setting {
    /// This host's name.
    pub host: String,
    /// When a call is bad.
    pub thresholds: Thresholds,
}

/// Where, and since when.
pub(super) struct Scene<'a> {
    pub(super) host: &'a str,
    pub(super) thresholds: &'a Thresholds,
    /// When the exporter began, milliseconds of Unix time.
    pub(super) epoch: u64,
}
