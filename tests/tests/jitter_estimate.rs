//! How far the jitter of a sample is from the jitter of every packet (RFC 3550 A.8), over many streams
//! of each kind.

use exporter_tests::arrivals::PROCESSES;

const STREAMS: u64 = 200;

#[test]
fn a_sample_estimates_what_every_packet_says() {
    for process in PROCESSES {
        let (sampled, every): (Vec<f64>, Vec<f64>) =
            (0..STREAMS).map(|seed| process.play(seed)).unzip();
        let (sampled, every) = (Moments::of(&sampled), Moments::of(&every));
        let name = process.name;
        // Some 30 samples after a step, 15 percent of what was before it is still there.
        let least = if name.contains("500 packets ago") { 0.8 } else { 0.95 };
        let ratio = sampled.mean / every.mean;
        assert!((least..=1.05).contains(&ratio), "{name}: {ratio}");
        // In frames a sample varies more: it meets the few long spacings by chance, every packet in turn.
        assert!(sampled.deviation < 1.75 * every.deviation, "{name}");
    }
}

struct Moments {
    mean: f64,
    deviation: f64,
}

impl Moments {
    fn of(values: &[f64]) -> Self {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
        Self { mean, deviation: (squares / count).sqrt() }
    }
}
