//! Other programs on the hooks that the exporter's would be on.
//!
//! TCX only (Linux 6.6): filters of clsact and programs of XDP are not looked at.

use std::collections::BTreeMap;

use aya::programs::tc::TcAttachType;
use aya::programs::{ProgramError, SchedClassifier};

use super::finding::Finding;
use crate::host::interfaces::Attach;

/// Interfaces that are asked about.
const MOST: usize = 64;
/// How the exporter's own programs begin.
const OWN: &str = "count_";

/// Looks.
pub(super) fn look(interfaces: &[Attach]) -> Finding {
    let mut others: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for Attach { name, .. } in interfaces.iter().take(MOST) {
        for (side, hook) in [("in", TcAttachType::Ingress), ("out", TcAttachType::Egress)] {
            let programs = match programs(name, hook) {
                Ok(programs) => programs,
                Err(error) => return Finding::skipped("hooks", format!("{name}: {error}")),
            };
            for program in programs.into_iter().filter(|it| !it.starts_with(OWN)) {
                others.entry(program).or_default().push(format!("{name} {side}"));
            }
        }
    }
    judge(&others)
}

fn programs(interface: &str, hook: TcAttachType) -> Result<Vec<String>, ProgramError> {
    let (_, programs) = SchedClassifier::query_tcx(interface, hook)?;
    let name =
        |name: Option<&str>| name.filter(|it| !it.is_empty()).unwrap_or("unnamed").to_owned();
    Ok(programs.iter().map(|program| name(program.name_as_str())).collect())
}

fn judge(others: &BTreeMap<String, Vec<String>>) -> Finding {
    if others.is_empty() {
        return Finding::ok("hooks", "no other program at the hooks of TCX");
    }
    let others = others.iter().map(|(name, places)| format!("{name} ({})", places.join(", ")));
    Finding::ok(
        "hooks",
        format!(
            "also at the hooks of TCX: {}; the exporter's programs stand in front, where others do not insist \
             (mediasoup_exporter_interface_behind)",
            others.collect::<Vec<_>>().join("; ")
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_named_with_their_places() {
        assert_eq!(judge(&BTreeMap::new()).text, "no other program at the hooks of TCX");
        let places = vec!["eth0 in".to_owned(), "eth0 out".to_owned()];
        let found = judge(&BTreeMap::from([("cil_from_netdev".to_owned(), places)]));
        assert!(found.text.contains("cil_from_netdev (eth0 in, eth0 out)"), "{found:?}");
    }
}
