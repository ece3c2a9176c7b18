//! Which exporter is asked, by who asks one.

use std::path::PathBuf;

use crate::config::flags::ExporterFlags;

/// A running exporter, for who asks it.
#[derive(Clone, Debug, PartialEq)]
pub struct Exporter {
    /// `http://host:port`.
    pub url: String,
    /// File with its token.
    pub token_file: Option<PathBuf>,
}

impl From<ExporterFlags> for Exporter {
    fn from(ExporterFlags { url, token_file }: ExporterFlags) -> Self {
        Self { url, token_file }
    }
}
