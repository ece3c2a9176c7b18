//! Where views are of, and what is bad there.

use crate::views::verdict::Thresholds;

/// What the history does not know.
#[derive(Clone, Debug)]
pub struct Setting {
    /// This host's name.
    pub host: String,
    /// When a call is bad.
    pub thresholds: Thresholds,
    /// What is shown otherwise than it is.
    pub hidden: Hidden,
}

/// Of people, what a privacy policy hides or shows as something else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hidden {
    /// `--deidentify`.
    pub addresses: bool,
    /// `--names`.
    pub names: bool,
}

/// Where, and since when.
pub(super) struct Scene<'a> {
    pub(super) host: &'a str,
    pub(super) thresholds: &'a Thresholds,
    /// When the exporter began, milliseconds of Unix time.
    pub(super) epoch: u64,
}
