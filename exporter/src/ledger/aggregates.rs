//! What a whole host's producers and consumers come to, without a label: sums, means and quarters.

use crate::model::{Encoding, MediaKind, Repair, StreamStats};
use crate::state::State;

/// Of all servers' producers and consumers that are there now; a piped producer counts on each of its
/// transports.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Aggregates {
    /// Producers, then consumers; of each, audio, then video.
    pub(crate) counts: [[u64; 2]; 2],
    /// Bits a second, in the same order.
    pub(crate) bitrates: [[Summary; 2]; 2],
    /// Producers' scores: audio's, then video's.
    pub(crate) scores: [Summary; 2],
    /// Packets of producers: received, lost, sent again.
    pub(crate) packets: [Summary; 3],
    /// Consumers' spatial, then temporal layers.
    pub(crate) layers: [Summary; 2],
    /// Of consumers, milliseconds.
    pub(crate) round_trip_times: Summary,
}

/// Some values.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Summary {
    pub(crate) sum: f64,
    /// `None`: there are no values.
    pub(crate) of_values: Option<OfValues>,
}

/// What there is no telling of no values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct OfValues {
    pub(crate) mean: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// The smallest value that a quarter of all do not exceed.
    pub(crate) p25: f64,
}

impl Aggregates {
    pub(crate) fn of(state: &State) -> Self {
        let mut bitrates: [[Vec<f64>; 2]; 2] = Default::default();
        let (mut scores, mut layers): ([Vec<f64>; 2], [Vec<f64>; 2]) = Default::default();
        let (mut packets, mut times): ([Vec<f64>; 3], Vec<f64>) = Default::default();
        let mut counts = [[0; 2]; 2];
        for producer in state.producers.values() {
            let (kind, encodings) = (place(producer.kind), &*producer.encodings);
            counts[0][kind] += 1;
            let best = encodings.iter().filter_map(|encoding| encoding.score).max();
            scores[kind].extend(best.map(f64::from));
            bitrates[0][kind].extend(sum(encodings, |it| it.bitrate.map(f64::from)));
            packets[0].extend(sum(encodings, |it| it.packets.map(|packets| packets as f64)));
            packets[1].extend(sum(encodings, |it| Some(it.packets_lost as f64)));
            let again = |it: &StreamStats| it.repairs.map(|it| it[Repair::Retransmitted as usize]);
            packets[2].extend(sum(encodings, |it| again(it).map(|packets| packets as f64)));
        }
        for consumer in state.consumers.values() {
            let (kind, encodings) = (place(consumer.kind), &*consumer.encodings);
            counts[1][kind] += 1;
            bitrates[1][kind].extend(sum(encodings, |it| it.bitrate.map(f64::from)));
            layers[0].extend(consumer.spatial_layer.map(f64::from));
            layers[1].extend(consumer.temporal_layer.map(f64::from));
            let stats = encodings.iter().filter_map(|encoding| encoding.stats.as_ref());
            times.extend(stats.filter_map(|it| it.round_trip_time).reduce(f64::max));
        }
        Self {
            counts,
            bitrates: bitrates.map(|of| of.map(Summary::of)),
            scores: scores.map(Summary::of),
            packets: packets.map(Summary::of),
            layers: layers.map(Summary::of),
            round_trip_times: Summary::of(times),
        }
    }
}

impl Summary {
    fn of(mut values: Vec<f64>) -> Self {
        let sum = values.iter().sum::<f64>() + 0.0;
        let Some(last) = values.len().checked_sub(1) else { return Self::default() };
        let rank = last / 4;
        let (_, p25, _) = values.select_nth_unstable_by(rank, f64::total_cmp);
        let of_values = OfValues {
            p25: *p25,
            mean: sum / values.len() as f64,
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        };
        Self { sum, of_values: Some(of_values) }
    }
}

fn place(kind: MediaKind) -> usize {
    match kind {
        MediaKind::Audio => 0,
        MediaKind::Video => 1,
    }
}

/// Over the encodings that tell it, if any does.
fn sum(encodings: &[Encoding], of: impl Fn(&StreamStats) -> Option<f64>) -> Option<f64> {
    let told = encodings.iter().filter_map(|encoding| of(encoding.stats.as_ref()?));
    told.reduce(|one, other| one + other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, Told};

    #[test]
    fn values_are_summed_up() {
        let of = |values: &[f64]| Summary::of(values.to_vec());
        assert_eq!(of(&[]), Summary { sum: 0.0, of_values: None });
        let one = OfValues { mean: 3.0, min: 3.0, max: 3.0, p25: 3.0 };
        assert_eq!(of(&[3.0]), Summary { sum: 3.0, of_values: Some(one) });
        let four = OfValues { mean: 2.5, min: 1.0, max: 4.0, p25: 1.0 };
        assert_eq!(of(&[4.0, 1.0, 3.0, 2.0]), Summary { sum: 10.0, of_values: Some(four) });
        let p25 = |count: u32| {
            let values: Vec<f64> = (1..=count).rev().map(f64::from).collect();
            of(&values).of_values.unwrap().p25
        };
        // The nearest rank: a quarter of the values, rounded up.
        assert_eq!([5, 8, 9, 100].map(p25), [2.0, 2.0, 3.0, 25.0]);
    }

    #[test]
    fn producers_and_consumers_are_told_apart() {
        let mut told = Told::default();
        told.transport("t", "192.0.2.1:1000", 40_000);
        let mut producer = fixture::producer("p", "t", &[(1, None), (2, None)]);
        for (encoding, bitrate) in producer.encodings.iter_mut().zip([100, 200]) {
            encoding.score = Some(bitrate as u8 / 25);
            encoding.stats = Some(StreamStats {
                bitrate: Some(bitrate),
                packets: Some(10),
                packets_lost: -1,
                repairs: Some([0, 4, 0, 0, 0]),
                ..StreamStats::default()
            });
        }
        let video = place(producer.kind);
        told.state.put_producer(producer);
        let mut consumer = fixture::consumer("c", "t", &[(3, None)]);
        consumer.kind = MediaKind::Audio;
        consumer.temporal_layer = Some(2);
        consumer.encodings[0].stats =
            Some(StreamStats { round_trip_time: Some(12.5), ..StreamStats::default() });
        told.state.put_consumer(consumer);
        let found = Aggregates::of(&told.state);
        assert_eq!((found.counts[0][video], found.counts[1][0]), (1, 1));
        assert_eq!(found.counts.as_flattened().iter().sum::<u64>(), 2);
        assert_eq!(found.bitrates[0][video].sum, 300.0);
        assert_eq!(found.scores[video].of_values.unwrap().max, 8.0);
        assert_eq!(found.packets.map(|it| it.sum), [20.0, -2.0, 8.0]);
        assert_eq!(found.bitrates[1][0].of_values, None, "it is not told");
        assert_eq!(found.layers[1].of_values.unwrap().p25, 2.0);
        assert_eq!(
            found.layers[0].of_values.map(|it| it.max),
            fixture::consumer("c", "t", &[]).spatial_layer.map(f64::from)
        );
        assert_eq!(found.round_trip_times.sum, 12.5);
    }
}
