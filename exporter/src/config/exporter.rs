//! Which exporter is asked, by who asks one.

use std::path::PathBuf;

use crate::config::flags::ExporterFlags;

/// A running exporter, for who asks it.
#[derive(Clone, Debug, PartialEq)]
pub struct Exporter {
    /// `http://host:port`, or https.
    pub url: String,
    /// File with its token, or with the user's password.
    pub token_file: Option<PathBuf>,
    /// Who asks, where it has users.
    pub user: Option<String>,
    /// File with the certificates of whom to trust; `None`: whom this host trusts.
    pub ca_file: Option<PathBuf>,
}

impl From<ExporterFlags> for Exporter {
    fn from(ExporterFlags { url, token_file, user, ca_file }: ExporterFlags) -> Self {
        Self { url, token_file, user, ca_file }
    }
}
