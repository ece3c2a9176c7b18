//! What `check` is asked.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use crate::config::exporter::Exporter;
use crate::config::flags::CheckFlags;
use crate::config::invalid::Invalid;
use crate::config::values::{self, Origin};

/// What is to be checked, and how it is said.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// A running exporter, if there is one.
    pub exporter: Exporter,
    /// As `--sfu` of the exporter.
    pub sfu: Vec<String>,
    /// As `--observer` of the exporter.
    pub observers: Vec<PathBuf>,
    /// As `--interface` of the exporter.
    pub interfaces: Vec<String>,
    /// As `--ports` of the exporter.
    pub ports: Option<RangeInclusive<u16>>,
    /// Warnings fail.
    pub strict: bool,
    /// As JSON.
    pub json: bool,
}

pub(super) fn check(flags: CheckFlags) -> Result<Check, Invalid> {
    let CheckFlags { exporter, sfu, observers, interfaces, ports, strict, json } = flags;
    Ok(Check {
        exporter: exporter.into(),
        sfu: values::sfu(&sfu)?,
        observers,
        interfaces: values::interfaces(&interfaces)?,
        ports: ports.as_deref().map(|it| values::ports(Origin("--ports"), it)).transpose()?,
        strict,
        json,
    })
}
