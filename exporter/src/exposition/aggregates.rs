//! The families of a host's aggregates: names and meaning of a later version of the replaced exporter, for
//! its dashboard. All are gauges without labels.

use crate::exposition::family::{Family, Group, Origin};
use crate::exposition::rows;
use crate::exposition::text::MetricType;
use crate::ledger::View;

/// Where a value is `None`, nothing can be said, and there is no sample.
macro_rules! aggregate {
    ($name:literal, $help:literal, |$view:ident| $value:expr) => {
        Family {
            name: concat!("mediasoup_", $name),
            kind: MetricType::Gauge,
            unit: "",
            help: $help,
            labels: &[],
            group: Group::Aggregates,
            origin: Origin::Aggregate,
            rows: |$view, _, lines| rows::maybe($value, lines),
        }
    };
}

fn memory(view: &View) -> f64 {
    view.load.workers.iter().map(|worker| worker.resident_bytes as f64).sum::<f64>() + 0.0
}

/// In the order of the names that they were given.
pub(super) const AGGREGATES: &[Family] = &[
    aggregate!("workers_count", "The SFU's workers on this host.", |view| Some(
        view.load.workers.len() as f64
    )),
    aggregate!(
        "workers_cpu",
        "Processor time that all workers take, in per cent of one processor, over five seconds or more.",
        |view| view.load.workers_percent
    ),
    aggregate!("workers_memory", "Memory of all workers that is not swapped out, bytes.", |view| {
        Some(memory(view))
    }),
    aggregate!("rooms", "Rooms that the servers have open: edumeet_rooms.", |view| Some(
        view.open_rooms as f64
    )),
    aggregate!("peers", "Peers that are in rooms: the sum of edumeet_peers.", |view| Some(
        view.peers as f64
    )),
    aggregate!("audio_in_count", "Producers of audio.", |view| Some(
        view.aggregates.counts[0][0] as f64
    )),
    aggregate!("video_in_count", "Producers of video.", |view| Some(
        view.aggregates.counts[0][1] as f64
    )),
    aggregate!("audio_out_count", "Consumers of audio.", |view| Some(
        view.aggregates.counts[1][0] as f64
    )),
    aggregate!("video_out_count", "Consumers of video.", |view| Some(
        view.aggregates.counts[1][1] as f64
    )),
    aggregate!(
        "audio_bitrates_in_sum",
        "Bits a second of producers of audio, as mediasoup reckons: the sum of all.",
        |view| Some(view.aggregates.bitrates[0][0].sum)
    ),
    aggregate!(
        "audio_bitrates_in_mean",
        "Bits a second of producers of audio, as mediasoup reckons: the mean.",
        |view| view.aggregates.bitrates[0][0].of_values.map(|it| it.mean)
    ),
    aggregate!(
        "audio_bitrates_in_min",
        "Bits a second of producers of audio, as mediasoup reckons: the lowest.",
        |view| view.aggregates.bitrates[0][0].of_values.map(|it| it.min)
    ),
    aggregate!(
        "audio_bitrates_in_max",
        "Bits a second of producers of audio, as mediasoup reckons: the highest.",
        |view| view.aggregates.bitrates[0][0].of_values.map(|it| it.max)
    ),
    aggregate!(
        "audio_bitrates_in_p25",
        "Bits a second of producers of audio, as mediasoup reckons: what a quarter do not exceed.",
        |view| view.aggregates.bitrates[0][0].of_values.map(|it| it.p25)
    ),
    aggregate!(
        "audio_bitrates_out_sum",
        "Bits a second of consumers of audio, as mediasoup reckons: the sum of all.",
        |view| Some(view.aggregates.bitrates[1][0].sum)
    ),
    aggregate!(
        "audio_bitrates_out_mean",
        "Bits a second of consumers of audio, as mediasoup reckons: the mean.",
        |view| view.aggregates.bitrates[1][0].of_values.map(|it| it.mean)
    ),
    aggregate!(
        "audio_bitrates_out_min",
        "Bits a second of consumers of audio, as mediasoup reckons: the lowest.",
        |view| view.aggregates.bitrates[1][0].of_values.map(|it| it.min)
    ),
    aggregate!(
        "audio_bitrates_out_max",
        "Bits a second of consumers of audio, as mediasoup reckons: the highest.",
        |view| view.aggregates.bitrates[1][0].of_values.map(|it| it.max)
    ),
    aggregate!(
        "audio_bitrates_out_p25",
        "Bits a second of consumers of audio, as mediasoup reckons: what a quarter do not exceed.",
        |view| view.aggregates.bitrates[1][0].of_values.map(|it| it.p25)
    ),
    aggregate!(
        "video_bitrates_in_sum",
        "Bits a second of producers of video, as mediasoup reckons: the sum of all.",
        |view| Some(view.aggregates.bitrates[0][1].sum)
    ),
    aggregate!(
        "video_bitrates_in_mean",
        "Bits a second of producers of video, as mediasoup reckons: the mean.",
        |view| view.aggregates.bitrates[0][1].of_values.map(|it| it.mean)
    ),
    aggregate!(
        "video_bitrates_in_min",
        "Bits a second of producers of video, as mediasoup reckons: the lowest.",
        |view| view.aggregates.bitrates[0][1].of_values.map(|it| it.min)
    ),
    aggregate!(
        "video_bitrates_in_max",
        "Bits a second of producers of video, as mediasoup reckons: the highest.",
        |view| view.aggregates.bitrates[0][1].of_values.map(|it| it.max)
    ),
    aggregate!(
        "video_bitrates_in_p25",
        "Bits a second of producers of video, as mediasoup reckons: what a quarter do not exceed.",
        |view| view.aggregates.bitrates[0][1].of_values.map(|it| it.p25)
    ),
    aggregate!(
        "video_bitrates_out_sum",
        "Bits a second of consumers of video, as mediasoup reckons: the sum of all.",
        |view| Some(view.aggregates.bitrates[1][1].sum)
    ),
    aggregate!(
        "video_bitrates_out_mean",
        "Bits a second of consumers of video, as mediasoup reckons: the mean.",
        |view| view.aggregates.bitrates[1][1].of_values.map(|it| it.mean)
    ),
    aggregate!(
        "video_bitrates_out_min",
        "Bits a second of consumers of video, as mediasoup reckons: the lowest.",
        |view| view.aggregates.bitrates[1][1].of_values.map(|it| it.min)
    ),
    aggregate!(
        "video_bitrates_out_max",
        "Bits a second of consumers of video, as mediasoup reckons: the highest.",
        |view| view.aggregates.bitrates[1][1].of_values.map(|it| it.max)
    ),
    aggregate!(
        "video_bitrates_out_p25",
        "Bits a second of consumers of video, as mediasoup reckons: what a quarter do not exceed.",
        |view| view.aggregates.bitrates[1][1].of_values.map(|it| it.p25)
    ),
    aggregate!(
        "audio_scores_in_mean",
        "Scores of producers of audio, each by its best encoding: the mean.",
        |view| view.aggregates.scores[0].of_values.map(|it| it.mean)
    ),
    aggregate!(
        "audio_scores_in_min",
        "Scores of producers of audio, each by its best encoding: the lowest.",
        |view| view.aggregates.scores[0].of_values.map(|it| it.min)
    ),
    aggregate!(
        "audio_scores_in_max",
        "Scores of producers of audio, each by its best encoding: the highest.",
        |view| view.aggregates.scores[0].of_values.map(|it| it.max)
    ),
    aggregate!(
        "audio_scores_in_p25",
        "Scores of producers of audio, each by its best encoding: what a quarter do not exceed.",
        |view| view.aggregates.scores[0].of_values.map(|it| it.p25)
    ),
    aggregate!(
        "video_scores_in_mean",
        "Scores of producers of video, each by its best encoding: the mean.",
        |view| view.aggregates.scores[1].of_values.map(|it| it.mean)
    ),
    aggregate!(
        "video_scores_in_min",
        "Scores of producers of video, each by its best encoding: the lowest.",
        |view| view.aggregates.scores[1].of_values.map(|it| it.min)
    ),
    aggregate!(
        "video_scores_in_max",
        "Scores of producers of video, each by its best encoding: the highest.",
        |view| view.aggregates.scores[1].of_values.map(|it| it.max)
    ),
    aggregate!(
        "video_scores_in_p25",
        "Scores of producers of video, each by its best encoding: what a quarter do not exceed.",
        |view| view.aggregates.scores[1].of_values.map(|it| it.p25)
    ),
    aggregate!(
        "packets_counts_in_sum",
        "Packets of a producer that mediasoup counts (packetCount), since it began: the sum of all.",
        |view| Some(view.aggregates.packets[0].sum)
    ),
    aggregate!(
        "packets_counts_in_mean",
        "Packets of a producer that mediasoup counts (packetCount), since it began: the mean.",
        |view| view.aggregates.packets[0].of_values.map(|it| it.mean)
    ),
    aggregate!(
        "packets_counts_in_min",
        "Packets of a producer that mediasoup counts (packetCount), since it began: the lowest.",
        |view| view.aggregates.packets[0].of_values.map(|it| it.min)
    ),
    aggregate!(
        "packets_counts_in_max",
        "Packets of a producer that mediasoup counts (packetCount), since it began: the highest.",
        |view| view.aggregates.packets[0].of_values.map(|it| it.max)
    ),
    aggregate!(
        "packets_counts_in_p25",
        "Packets of a producer that mediasoup counts (packetCount), since it began: what a quarter do not exceed.",
        |view| view.aggregates.packets[0].of_values.map(|it| it.p25)
    ),
    aggregate!(
        "packets_losts_in_sum",
        "Packets of a producer that mediasoup missed (packetsLost), since it began: the sum of all.",
        |view| Some(view.aggregates.packets[1].sum)
    ),
    aggregate!(
        "packets_losts_in_mean",
        "Packets of a producer that mediasoup missed (packetsLost), since it began: the mean.",
        |view| view.aggregates.packets[1].of_values.map(|it| it.mean)
    ),
    aggregate!(
        "packets_losts_in_min",
        "Packets of a producer that mediasoup missed (packetsLost), since it began: the lowest.",
        |view| view.aggregates.packets[1].of_values.map(|it| it.min)
    ),
    aggregate!(
        "packets_losts_in_max",
        "Packets of a producer that mediasoup missed (packetsLost), since it began: the highest.",
        |view| view.aggregates.packets[1].of_values.map(|it| it.max)
    ),
    aggregate!(
        "packets_losts_in_p25",
        "Packets of a producer that mediasoup missed (packetsLost), since it began: what a quarter do not exceed.",
        |view| view.aggregates.packets[1].of_values.map(|it| it.p25)
    ),
    aggregate!(
        "packets_retransmitted_in_sum",
        "Packets of a producer that came once more (packetsRetransmitted), since it began: the sum of all.",
        |view| Some(view.aggregates.packets[2].sum)
    ),
    aggregate!(
        "packets_retransmitted_in_mean",
        "Packets of a producer that came once more (packetsRetransmitted), since it began: the mean.",
        |view| view.aggregates.packets[2].of_values.map(|it| it.mean)
    ),
    aggregate!(
        "packets_retransmitted_in_min",
        "Packets of a producer that came once more (packetsRetransmitted), since it began: the lowest.",
        |view| view.aggregates.packets[2].of_values.map(|it| it.min)
    ),
    aggregate!(
        "packets_retransmitted_in_max",
        "Packets of a producer that came once more (packetsRetransmitted), since it began: the highest.",
        |view| view.aggregates.packets[2].of_values.map(|it| it.max)
    ),
    aggregate!(
        "packets_retransmitted_in_p25",
        "Packets of a producer that came once more (packetsRetransmitted), since it began: what a quarter do not exceed.",
        |view| view.aggregates.packets[2].of_values.map(|it| it.p25)
    ),
    aggregate!(
        "spatial_layers_out_mean",
        "Current spatial layers of consumers that have any: the mean.",
        |view| view.aggregates.layers[0].of_values.map(|it| it.mean)
    ),
    aggregate!(
        "spatial_layers_out_min",
        "Current spatial layers of consumers that have any: the lowest.",
        |view| view.aggregates.layers[0].of_values.map(|it| it.min)
    ),
    aggregate!(
        "spatial_layers_out_max",
        "Current spatial layers of consumers that have any: the highest.",
        |view| view.aggregates.layers[0].of_values.map(|it| it.max)
    ),
    aggregate!(
        "spatial_layers_out_p25",
        "Current spatial layers of consumers that have any: what a quarter do not exceed.",
        |view| view.aggregates.layers[0].of_values.map(|it| it.p25)
    ),
    aggregate!(
        "temporal_layers_out_mean",
        "Current temporal layers of consumers that have any: the mean.",
        |view| view.aggregates.layers[1].of_values.map(|it| it.mean)
    ),
    aggregate!(
        "temporal_layers_out_min",
        "Current temporal layers of consumers that have any: the lowest.",
        |view| view.aggregates.layers[1].of_values.map(|it| it.min)
    ),
    aggregate!(
        "temporal_layers_out_max",
        "Current temporal layers of consumers that have any: the highest.",
        |view| view.aggregates.layers[1].of_values.map(|it| it.max)
    ),
    aggregate!(
        "temporal_layers_out_p25",
        "Current temporal layers of consumers that have any: what a quarter do not exceed.",
        |view| view.aggregates.layers[1].of_values.map(|it| it.p25)
    ),
    aggregate!(
        "round_trip_times_out_mean",
        "Round trip times of consumers that are known, in milliseconds: the mean.",
        |view| view.aggregates.round_trip_times.of_values.map(|it| it.mean)
    ),
    aggregate!(
        "round_trip_times_out_min",
        "Round trip times of consumers that are known, in milliseconds: the lowest.",
        |view| view.aggregates.round_trip_times.of_values.map(|it| it.min)
    ),
    aggregate!(
        "round_trip_times_out_max",
        "Round trip times of consumers that are known, in milliseconds: the highest.",
        |view| view.aggregates.round_trip_times.of_values.map(|it| it.max)
    ),
    aggregate!(
        "round_trip_times_out_p25",
        "Round trip times of consumers that are known, in milliseconds: what a quarter do not exceed.",
        |view| view.aggregates.round_trip_times.of_values.map(|it| it.p25)
    ),
];
