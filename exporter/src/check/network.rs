//! Interfaces that would be counted on.

use std::sync::Arc;

use super::finding::Finding;
use super::hooks;
use crate::host::interfaces::Choice;
use crate::host::survey::Surveyor;
use crate::host::workers::Workers;

/// Looks.
pub(super) fn look(patterns: &[String], workers: Arc<Workers>) -> Vec<Finding> {
    let survey = Surveyor::new(patterns, &[], workers).and_then(|mut it| it.look());
    match survey {
        Ok(survey) => {
            let mut findings = judge(&survey.choice);
            findings.push(hooks::look(&survey.choice.attach));
            findings
        }
        Err(error) => vec![Finding::skipped("interfaces", format!("{error:#}"))],
    }
}

fn judge(choice: &Choice) -> Vec<Finding> {
    let names: Vec<&str> = choice.attach.iter().map(|it| it.name.as_str()).collect();
    let mut findings = vec![match names.is_empty() {
        false => Finding::ok("interfaces", format!("would be counted on: {}", names.join(", "))),
        true => Finding::fault(
            "interfaces",
            "none is up and wanted: nothing would be counted",
            "set one up (ip link set NAME up), or correct --interface",
        ),
    }];
    for (name, kind) in &choice.unsupported {
        findings.push(Finding::warning(
            "interfaces",
            format!("{name} has a link header (ARPHRD {kind}) that is not understood"),
            "leave it out with --interface, or carry the SFU's traffic on another",
        ));
    }
    if choice.left_out > 0 {
        findings.push(Finding::warning(
            "interfaces",
            format!("{} more are up than there is room for", choice.left_out),
            "name those that carry the SFU's traffic with --interface",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn nothing_to_count_on_is_a_fault_and_what_is_missed_a_warning() {
        let choice =
            Choice { unsupported: vec![("x25".into(), 271)], left_out: 2, ..Choice::default() };
        let levels: Vec<Level> = judge(&choice).iter().map(|it| it.level).collect();
        assert_eq!(levels, [Level::Fault, Level::Warning, Level::Warning]);
    }
}
