//! What a running exporter says of itself, if there is one.

use super::finding::Finding;
use crate::client::Client;

/// Asks.
pub(super) fn look(client: &Client) -> Vec<Finding> {
    match client.get("/metrics?families=self") {
        Ok(metrics) => judge(&metrics),
        Err(error) => {
            let refused = error.chain().filter_map(|it| it.downcast_ref::<std::io::Error>());
            let is_away =
                refused.into_iter().any(|it| it.kind() == std::io::ErrorKind::ConnectionRefused);
            let seen = format!("{error:#}");
            vec![match is_away {
                true => Finding::skipped("exporter", format!("none runs: {seen}")),
                false => Finding::warning("exporter", seen, "correct --url or --auth.token-file"),
            }]
        }
    }
}

fn judge(metrics: &str) -> Vec<Finding> {
    let mut findings = vec![Finding::ok("exporter", "runs and answers")];
    for (label, value) in rows(metrics, "mediasoup_exporter_source_up") {
        if value == 0.0 {
            let seen = format!("the running exporter does not hear server {label}");
            findings.push(Finding::warning(
                "exporter",
                seen,
                "see its log for why, or restart that server",
            ));
        }
    }
    for (label, value) in rows(metrics, "mediasoup_exporter_connections_uncounted") {
        if value > 0.0 {
            let seen = format!("{value} connections are told but not counted ({label})");
            findings.push(Finding::warning("exporter", seen, remedy(label)));
        }
    }
    findings
}

fn remedy(label: &str) -> &'static str {
    match label {
        _ if label.contains("no_interface") => "correct --interface",
        _ if label.contains("\"port\"") => {
            "see that the server's workers run on this host; --sfu names others"
        }
        _ if label.contains("\"address\"") => "bind the worker to an address of this host",
        _ => "look for a firewall or address translation before the ports",
    }
}

/// Labels and value of each row of a family.
fn rows<'a>(metrics: &'a str, family: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
    metrics.lines().filter_map(move |line| {
        let (labels, value) = line.strip_prefix(family)?.strip_prefix('{')?.rsplit_once("} ")?;
        Some((labels, value.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    #[test]
    fn what_is_away_or_uncounted_is_a_warning_with_its_own_remedy() {
        let metrics = "mediasoup_exporter_source_up{source=\"/a\"} 0\n\
                       mediasoup_exporter_connections_uncounted{reason=\"port\"} 3\n\
                       mediasoup_exporter_connections_uncounted{reason=\"address\"} 0\n";
        let findings = judge(metrics);
        let levels: Vec<Level> = findings.iter().map(|it| it.level).collect();
        assert_eq!(levels, [Level::Ok, Level::Warning, Level::Warning]);
        assert!(findings[2].remedy.contains("--sfu"));
        assert_eq!(judge("").len(), 1);
    }
}
