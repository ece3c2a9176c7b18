//! Families that the `prometheus` crate gathered, in either format.
//!
//! The exporter's own metrics are few and live in that crate's registry, which writes the text format
//! only; here they get the same names and end as the rest of the scrape.

use prometheus::proto::{Metric, MetricFamily, MetricType};

use crate::exposition::text::{Format, MetricType as Ours, Value};
use crate::labels::block::Block;

/// The families' text, without an end mark.
pub fn text(families: &[MetricFamily], format: Format) -> Vec<u8> {
    let mut out = Vec::new();
    for family in families.iter().filter(|family| !family.get_metric().is_empty()) {
        write(family, format, &mut out);
    }
    out
}

fn write(family: &MetricFamily, format: Format, out: &mut Vec<u8>) {
    let sample = family.name();
    let (name, word) = match family.get_field_type() {
        MetricType::COUNTER => {
            (format.family_name(sample, Ours::Counter), format.kind(sample, Ours::Counter))
        }
        MetricType::HISTOGRAM => (sample, "histogram"),
        MetricType::GAUGE => (sample, "gauge"),
        // The registry is ours, and has none of the others.
        MetricType::SUMMARY | MetricType::UNTYPED => return,
    };
    let help = format.help(family.help());
    out.extend_from_slice(format!("# HELP {name} {help}\n# TYPE {name} {word}\n").as_bytes());
    for metric in family.get_metric() {
        match family.get_field_type() {
            MetricType::COUNTER => put(sample, metric, None, metric.get_counter().get_value(), out),
            MetricType::GAUGE => put(sample, metric, None, metric.get_gauge().get_value(), out),
            _ => histogram(sample, metric, out),
        }
    }
}

fn histogram(name: &str, metric: &Metric, out: &mut Vec<u8>) {
    let histogram = metric.get_histogram();
    let bucket = format!("{name}_bucket");
    let count = histogram.get_sample_count() as f64;
    for entry in histogram.get_bucket().iter().filter(|entry| entry.upper_bound().is_finite()) {
        let mut bound = entry.upper_bound().to_string();
        // OpenMetrics 1.0 wants the bounds as floats.
        if !bound.contains('.') {
            bound.push_str(".0");
        }
        put(&bucket, metric, Some(&bound), entry.cumulative_count() as f64, out);
    }
    put(&bucket, metric, Some("+Inf"), count, out);
    put(&format!("{name}_sum"), metric, None, histogram.get_sample_sum(), out);
    put(&format!("{name}_count"), metric, None, count, out);
}

fn put(name: &str, metric: &Metric, bound: Option<&str>, value: f64, out: &mut Vec<u8>) {
    let pairs = metric.get_label().iter().map(|pair| (pair.name(), pair.value()));
    let mut block = Block::open();
    let mut empty = true;
    for (label, value) in pairs.chain(bound.map(|bound| ("le", bound))) {
        block = block.label(label, value);
        empty = false;
    }
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(if empty { " ".into() } else { block.close() }.as_bytes());
    value.write(out);
    out.push(b'\n');
}
