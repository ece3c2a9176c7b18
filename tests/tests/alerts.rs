//! The rules and alerts that come with the exporter: with a real Prometheus, and a real call behind it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use exporter_tests::prometheus::{self, Prometheus};
use exporter_tests::{cast, skip, wait};
use serde_json::Value;

/// Series that a call without faults does not have.
const NOT_THERE: [&str; 2] = ["mediasoup_exporter_interface_behind", "mediasoup_peer_verdict"];

#[test]
fn each_alert_begins_and_stays_quiet_where_it_should() -> Result<()> {
    let folder = prometheus::rules().parent().context("a folder")?.to_owned();
    for (what, file) in [("check", "mediasoup.rules.yml"), ("test", "mediasoup.test.yml")] {
        let mut promtool = Command::new("promtool");
        promtool.current_dir(&folder).args([what, "rules", file]);
        let Ok(output) = promtool.output() else {
            skip("no promtool (Debian package prometheus)");
            return Ok(());
        };
        let said = [output.stdout, output.stderr].concat();
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&said));
    }
    let tests = fs::read_to_string(folder.join("mediasoup.test.yml"))?;
    let rules = fs::read_to_string(prometheus::rules())?;
    let alerts = || rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    ensure!(alerts().count() > 10, "there are few alerts");
    for alert in alerts() {
        ensure!(tests.contains(&format!("alertname: {alert}\n")), "{alert} is not tested");
    }
    Ok(())
}

#[test]
fn a_call_without_faults_alerts_nobody_and_has_every_series() -> Result<()> {
    let Some(build) = cast::newest() else { return Ok(()) };
    let mut scene = cast::enter(&build)?;
    let exporter = cast::exporter(&scene, &[], &[])?;
    let prometheus = Prometheus::start(&scene.host, scene.dir.path())?;
    let rules = wait::until("Prometheus to evaluate its rules", wait::LONG, || {
        let rules = prometheus.evaluated()?;
        Ok((!rules.is_empty() && rules.iter().all(|rule| rule["health"] == "ok")).then_some(rules))
    })?;
    let names: BTreeSet<String> =
        rules.iter().flat_map(|rule| names(text(rule, "query"))).collect();
    let documented = docs("metrics.md")?;
    for name in &names {
        ensure!(documented.contains(&format!("`{name}`")), "{name} is in no documentation");
    }
    wait::until_equal("each series of the rules", wait::LONG, || {
        cast::play(&mut scene, 25)?;
        let mut missing = BTreeSet::new();
        for name in &names {
            if prometheus.query(&format!("count({name})"))?.is_empty() {
                missing.insert(name.clone());
            }
        }
        Ok((missing, NOT_THERE.map(str::to_owned).into_iter().collect()))
    })?;
    wait::until_equal("no alert", wait::LONG, || {
        let rules = prometheus.evaluated()?;
        let active =
            rules.iter().filter(|rule| rule["state"].as_str().is_some_and(|it| it != "inactive"));
        Ok((active.map(|rule| text(rule, "name").to_owned()).collect::<Vec<_>>(), Vec::new()))
    })?;
    for record in rules.iter().filter(|rule| rule["type"] == "recording") {
        let name = text(record, "name");
        wait::until("a recorded series", wait::LONG, || {
            cast::play(&mut scene, 25)?;
            let found = prometheus.query(name)?;
            Ok(found.iter().any(|(_, value)| *value > 0.0).then_some(()))
        })
        .with_context(|| name.to_owned())?;
    }
    exporter.stop()
}

#[test]
fn each_alert_has_its_page() -> Result<()> {
    let (page, rules) = (docs("alerts.md")?, fs::read_to_string(prometheus::rules())?);
    let mut lines = rules.lines().map(str::trim);
    while let Some(line) = lines.next() {
        let Some(alert) = line.strip_prefix("- alert: ") else { continue };
        ensure!(page.contains(&format!("### {alert}\n")), "{alert} is not in docs/alerts.md");
        let runbook = lines.by_ref().find_map(|it| it.strip_prefix("runbook: "));
        assert_eq!(runbook, Some(&*format!("docs/alerts.md#{}", alert.to_lowercase())));
    }
    for title in page.lines().filter_map(|line| line.strip_prefix("### ")) {
        ensure!(rules.contains(&format!("- alert: {title}\n")), "{title} is no alert");
    }
    Ok(())
}

fn text<'a>(rule: &'a Value, field: &str) -> &'a str {
    rule[field].as_str().unwrap_or_default()
}

/// Names of the exporter's series in an expression; names of recorded series have colons.
fn names(query: &str) -> impl Iterator<Item = String> {
    let words = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    let own = words.filter(|word| word.starts_with("mediasoup_") || word.starts_with("edumeet_"));
    own.map(str::to_owned)
}

fn docs(file: &str) -> Result<String> {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(file);
    fs::read_to_string(&path).with_context(|| path.display().to_string())
}
