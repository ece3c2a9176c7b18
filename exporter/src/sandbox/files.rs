//! Landlock: no file, no port, no other process.

use anyhow::{Context, bail};
use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetStatus, Scope};

/// The newest version of which all is used. An older kernel closes what it knows of.
const NEWEST: ABI = ABI::V6;

/// For the calling thread and those that it starts: nothing may be opened any more, unless it `calls_out`: then ports
/// of TCP may be. What is open stays.
pub(super) fn close(calls_out: bool) -> anyhow::Result<()> {
    let ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|ruleset| match calls_out {
            true => Ok(ruleset),
            false => ruleset.handle_access(AccessNet::from_all(NEWEST)),
        })
        .and_then(|ruleset| ruleset.scope(Scope::from_all(NEWEST)))
        .and_then(|ruleset| ruleset.create())
        .context("make a Landlock ruleset")?;
    let status = ruleset.restrict_self().context("take up a Landlock ruleset")?;
    if status.ruleset == RulesetStatus::NotEnforced {
        bail!("this kernel has no Landlock, or it is off (lsm= on its command line)");
    }
    Ok(())
}
