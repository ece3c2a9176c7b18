//! Writes each family's samples out of the ledger's tables.
//!
//! Every function starts at a place in its table and returns the place to go on from when the buffer
//! is full. A table is walked once for each of its families: the label text is shared between them,
//! the numbers lie side by side.

use std::hash::Hash;
use std::sync::Arc;

use crate::exposition::text::{Lines, Micros, Value};
use crate::join::CLASSES;
use crate::ledger::{
    ContractSeries, Counts, Gauges, Ledger, Object, Series, SocketSeries, StreamTotals, Table,
};
use crate::prefetch;

/// Writes each series of a table. `text` is what most of a row is copied from: it is fetched from
/// memory some rows ahead, because with 100,000 streams no cache holds it, and waiting for it would be
/// a third of the writing.
fn walk<L: Clone + Eq + Hash, T>(
    table: &Table<L, T>,
    start: usize,
    lines: &mut Lines<'_>,
    text: impl Fn(&Series<L, T>) -> &str,
    mut row: impl FnMut(&Series<L, T>, &mut Lines<'_>),
) -> Option<usize> {
    for (place, series) in table.from(start) {
        if lines.is_full() {
            return Some(place);
        }
        table.prefetch(place + 3 * prefetch::AHEAD);
        if let Some(later) = table.at(place + prefetch::AHEAD) {
            prefetch::text(text(later));
        }
        row(series, lines);
    }
    None
}

pub(crate) fn rooms(ledger: &Ledger, _: usize, lines: &mut Lines<'_>) -> Option<usize> {
    lines.put(&[" "], ledger.objects.open_rooms);
    None
}

pub(crate) fn peers(ledger: &Ledger, start: usize, lines: &mut Lines<'_>) -> Option<usize> {
    walk(
        &ledger.objects.room_peers,
        start,
        lines,
        |room| &*room.labels,
        |room, lines| lines.put(&[&room.labels], room.values),
    )
}

/// A family of the replaced exporter, of producers (side 0) or consumers (side 1).
pub(crate) fn contract<V: Value>(
    ledger: &Ledger,
    side: usize,
    start: usize,
    lines: &mut Lines<'_>,
    value: impl Fn(&ContractSeries) -> Option<V>,
) -> Option<usize> {
    walk(
        &ledger.objects.contract[side],
        start,
        lines,
        |series| series.labels.parts()[0],
        |series, lines| {
            if let Some(value) = value(&series.values) {
                let [prefix, id, media, kind] = series.labels.parts();
                lines.put(&[prefix, ",", id, ",", media, ",", kind], value);
            }
        },
    )
}

pub(crate) fn peer_info(ledger: &Ledger, start: usize, lines: &mut Lines<'_>) -> Option<usize> {
    walk(
        &ledger.objects.peer_infos,
        start,
        lines,
        |peer| &*peer.labels,
        |peer, lines| lines.put(&[&peer.labels], 1_u8),
    )
}

pub(crate) fn transport_info(
    ledger: &Ledger,
    start: usize,
    lines: &mut Lines<'_>,
) -> Option<usize> {
    walk(
        &ledger.objects.transports,
        start,
        lines,
        |it| label_text(&it.values.labels),
        |transport, lines| {
            if let Some(labels) = &transport.values.labels {
                lines.put(&[labels], 1_u8);
            }
        },
    )
}

fn label_text(labels: &Option<Arc<str>>) -> &str {
    labels.as_deref().unwrap_or("")
}

pub(crate) fn producer_info(ledger: &Ledger, start: usize, lines: &mut Lines<'_>) -> Option<usize> {
    walk(
        &ledger.objects.producers,
        start,
        lines,
        |it| &*it.values.ids,
        |producer, lines| {
            let Object { ids, who, media, .. } = &producer.values;
            if !who.is_empty() {
                lines.put(&[ids, ",", who, ",", media, "} "], 1_u8);
            }
        },
    )
}

pub(crate) fn consumer_info(ledger: &Ledger, start: usize, lines: &mut Lines<'_>) -> Option<usize> {
    walk(
        &ledger.objects.consumers,
        start,
        lines,
        |it| &*it.values.ids,
        |consumer, lines| {
            let Object { ids, who, media, consumed, .. } = &consumer.values;
            if !who.is_empty() {
                lines.put(&[ids, ",", who, ",", media, ",producer_id=\"", consumed, "\"} "], 1_u8);
            }
        },
    )
}

pub(crate) fn producers<V: Value>(
    ledger: &Ledger,
    start: usize,
    lines: &mut Lines<'_>,
    value: impl Fn(&Gauges) -> Option<V>,
) -> Option<usize> {
    objects(&ledger.objects.producers, start, lines, value)
}

pub(crate) fn consumers<V: Value>(
    ledger: &Ledger,
    start: usize,
    lines: &mut Lines<'_>,
    value: impl Fn(&Gauges) -> Option<V>,
) -> Option<usize> {
    objects(&ledger.objects.consumers, start, lines, value)
}

fn objects<K: Clone + Eq + Hash, V: Value>(
    table: &Table<K, Object>,
    start: usize,
    lines: &mut Lines<'_>,
    value: impl Fn(&Gauges) -> Option<V>,
) -> Option<usize> {
    walk(
        table,
        start,
        lines,
        |it| &*it.values.ids,
        |object, lines| {
            if let Some(value) = value(&object.values.gauges) {
                lines.put(&[&object.values.ids, "} "], value);
            }
        },
    )
}

/// A class is shown from its first packet on, in both directions: most connections have no `other`.
pub(crate) fn connections(
    ledger: &Ledger,
    start: usize,
    lines: &mut Lines<'_>,
    value: impl Fn(&Counts, usize) -> u64,
) -> Option<usize> {
    walk(
        &ledger.packets.connections,
        start,
        lines,
        |it| &*it.labels,
        |connection, lines| {
            for (class, text) in CLASS_LABELS.iter().enumerate() {
                if connection.values.classes & 1 << class != 0 {
                    let value = value(&connection.values.counts, class);
                    lines.put(&[&connection.labels, text], value);
                }
            }
        },
    )
}

/// In the order of [`CLASSES`].
const CLASS_LABELS: [&str; 5] = [
    r#",class="rtp"} "#,
    r#",class="rtcp"} "#,
    r#",class="stun"} "#,
    r#",class="dtls"} "#,
    r#",class="other"} "#,
];

pub(crate) fn streams<V: Value>(
    ledger: &Ledger,
    direction: usize,
    start: usize,
    lines: &mut Lines<'_>,
    value: impl Fn(&StreamTotals) -> V,
) -> Option<usize> {
    walk(
        &ledger.packets.stream_series[direction],
        start,
        lines,
        |it| it.labels.parts()[0],
        |stream, lines| {
            lines.put(&stream.labels.parts(), value(&stream.values.totals));
        },
    )
}

/// A stream whose clock is not known has none.
pub(crate) fn jitter(
    ledger: &Ledger,
    direction: usize,
    start: usize,
    lines: &mut Lines<'_>,
) -> Option<usize> {
    let table = &ledger.packets.stream_series[direction];
    walk(
        table,
        start,
        lines,
        |it| it.labels.parts()[0],
        |stream, lines| {
            if let Some(sixteenths) = stream.values.jitter() {
                // As a receiver report has it (RFC 3550 A.8): whole units.
                lines.put(&stream.labels.parts(), Micros((sixteenths >> 4).into()));
            }
        },
    )
}

pub(crate) fn coverage(ledger: &Ledger, _: usize, lines: &mut Lines<'_>) -> Option<usize> {
    if let Some(ratio) = ledger.packets.coverage.ratio() {
        lines.put(&[" "], ratio);
    }
    None
}

pub(crate) fn by_class(
    counts: &Counts,
    lines: &mut Lines<'_>,
    value: impl Fn(&Counts, usize) -> u64,
) -> Option<usize> {
    for (class, text) in CLASSES {
        let value = value(counts, class as usize);
        lines.put(&["{class=\"", text, "\"} "], value);
    }
    None
}

pub(crate) fn pending(ledger: &Ledger, _: usize, lines: &mut Lines<'_>) -> Option<usize> {
    lines.put(&[" "], ledger.packets.strangers.pending_bytes);
    None
}

pub(crate) fn stranger_flows(ledger: &Ledger, _: usize, lines: &mut Lines<'_>) -> Option<usize> {
    lines.put(&[" "], ledger.packets.strangers.flows);
    None
}

pub(crate) fn sockets<V: Value>(
    ledger: &Ledger,
    start: usize,
    lines: &mut Lines<'_>,
    value: impl Fn(&SocketSeries) -> Option<V>,
) -> Option<usize> {
    walk(
        &ledger.sockets.series,
        start,
        lines,
        |it| &*it.labels,
        |socket, lines| {
            if let Some(value) = value(&socket.values) {
                lines.put(&[&socket.labels], value);
            }
        },
    )
}
