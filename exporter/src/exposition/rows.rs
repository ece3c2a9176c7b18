//! Writes each family's samples out of the ledger's tables.
//!
//! Every function starts at a place in its table and returns the place to go on from when the buffer
//! is full. A table is walked once for each of its families: the label text is shared between them,
//! the numbers lie side by side.

use std::hash::Hash;
use std::sync::Arc;

use crate::exposition::text::{Lines, Micros, Value};
use crate::join::CLASSES;
use crate::labels::TextCounts;
use crate::labels::block::Block;
use crate::labels::text::{clean, limit};
use crate::ledger::{
    ContractSeries, Counts, Object, Rows, Series, SocketSeries, StreamTotals, View,
};
use crate::model::{HostLoad, ProcessorLoad, WorkerLoad};
use crate::prefetch;
use crate::state::{Rung, Stage};

/// Writes each series of a table. `text` is what most of a row is copied from: it is fetched from
/// memory some rows ahead, because with 100,000 streams no cache holds it, and waiting for it would be
/// a third of the writing.
fn walk<L: Clone + Eq + Hash, T>(
    table: &Rows<L, T>,
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

pub(crate) fn rooms(view: &View, _: usize, lines: &mut Lines<'_>) -> Option<usize> {
    lines.put(&[" "], view.open_rooms);
    None
}

pub(crate) fn peers(view: &View, start: usize, lines: &mut Lines<'_>) -> Option<usize> {
    walk(
        &view.room_peers,
        start,
        lines,
        |room| &*room.labels,
        |room, lines| lines.put(&[&room.labels], room.values),
    )
}

/// A family of the replaced exporter, of producers (side 0) or consumers (side 1).
pub(crate) fn contract<V: Value>(
    view: &View,
    side: usize,
    start: usize,
    lines: &mut Lines<'_>,
    value: impl Fn(&ContractSeries) -> Option<V>,
) -> Option<usize> {
    walk(
        &view.contract[side],
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

pub(crate) fn peer_info(view: &View, start: usize, lines: &mut Lines<'_>) -> Option<usize> {
    walk(
        &view.peer_infos,
        start,
        lines,
        |peer| &*peer.labels,
        |peer, lines| lines.put(&[&peer.labels], 1_u8),
    )
}

pub(crate) fn transport_info(view: &View, start: usize, lines: &mut Lines<'_>) -> Option<usize> {
    walk(
        &view.transports,
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

pub(crate) fn producer_info(view: &View, start: usize, lines: &mut Lines<'_>) -> Option<usize> {
    walk(
        &view.producers,
        start,
        lines,
        |it| &*it.values.ids,
        |producer, lines| {
            let Object { ids, who, media, is_whole, .. } = &producer.values;
            if *is_whole && !who.is_empty() {
                lines.put(&[ids, ",", who, ",", media, "} "], 1_u8);
            }
        },
    )
}

pub(crate) fn consumer_info(view: &View, start: usize, lines: &mut Lines<'_>) -> Option<usize> {
    walk(
        &view.consumers,
        start,
        lines,
        |it| &*it.values.ids,
        |consumer, lines| {
            let Object { ids, who, media, consumed, is_whole, .. } = &consumer.values;
            if *is_whole && !who.is_empty() {
                lines.put(&[ids, ",", who, ",", media, ",producer_id=\"", consumed, "\"} "], 1_u8);
            }
        },
    )
}

pub(crate) fn producers<V: Value>(
    view: &View,
    start: usize,
    lines: &mut Lines<'_>,
    value: impl Fn(&Object) -> Option<V>,
) -> Option<usize> {
    objects(&view.producers, start, lines, value)
}

pub(crate) fn consumers<V: Value>(
    view: &View,
    start: usize,
    lines: &mut Lines<'_>,
    value: impl Fn(&Object) -> Option<V>,
) -> Option<usize> {
    objects(&view.consumers, start, lines, value)
}

fn objects<K: Clone + Eq + Hash, V: Value>(
    table: &Rows<K, Object>,
    start: usize,
    lines: &mut Lines<'_>,
    value: impl Fn(&Object) -> Option<V>,
) -> Option<usize> {
    walk(
        table,
        start,
        lines,
        |it| &*it.values.ids,
        |object, lines| {
            if object.values.is_whole
                && let Some(value) = value(&object.values)
            {
                lines.put(&[&object.values.ids, "} "], value);
            }
        },
    )
}

/// A class is shown from its first packet on, in both directions: most connections have no `other`.
pub(crate) fn connections(
    view: &View,
    start: usize,
    lines: &mut Lines<'_>,
    value: impl Fn(&Counts, usize) -> u64,
) -> Option<usize> {
    walk(
        &view.connections,
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
    view: &View,
    direction: usize,
    start: usize,
    lines: &mut Lines<'_>,
    value: impl Fn(&StreamTotals) -> V,
) -> Option<usize> {
    walk(
        &view.streams[direction],
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
    view: &View,
    direction: usize,
    start: usize,
    lines: &mut Lines<'_>,
) -> Option<usize> {
    let table = &view.streams[direction];
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

/// Those that closed, by how far they had come.
pub(crate) fn closed_transports(view: &View, _: usize, lines: &mut Lines<'_>) -> Option<usize> {
    for rung in Rung::ALL {
        lines.put(&["{reached=\"", rung.name(), "\"} "], view.ladder.closed(rung));
    }
    None
}

pub(crate) fn transport_failures(view: &View, _: usize, lines: &mut Lines<'_>) -> Option<usize> {
    for stage in Stage::ALL {
        lines.put(&["{stage=\"", stage.name(), "\"} "], view.ladder.failures(stage));
    }
    None
}

pub(crate) fn verdicts(view: &View, start: usize, lines: &mut Lines<'_>) -> Option<usize> {
    each(&view.verdicts, start, lines, |labels, lines| lines.put(&[labels], 1_u8))
}

pub(crate) fn coverage(view: &View, _: usize, lines: &mut Lines<'_>) -> Option<usize> {
    if let Some(ratio) = view.coverage {
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

/// A family of one sample.
pub(crate) fn one(value: u64, lines: &mut Lines<'_>) -> Option<usize> {
    lines.put(&[" "], value);
    None
}

pub(crate) fn sockets<V: Value>(
    view: &View,
    start: usize,
    lines: &mut Lines<'_>,
    value: impl Fn(&SocketSeries) -> Option<V>,
) -> Option<usize> {
    walk(
        &view.sockets,
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

pub(crate) fn workers<V: Value>(
    view: &View,
    start: usize,
    lines: &mut Lines<'_>,
    value: impl Fn(&WorkerLoad) -> V,
) -> Option<usize> {
    each(&view.load.workers, start, lines, |worker, lines| {
        lines.put(&["{pid=\"", &worker.pid.to_string(), "\"} "], value(worker));
    })
}

pub(crate) fn processors(
    view: &View,
    start: usize,
    lines: &mut Lines<'_>,
    value: impl Fn(&ProcessorLoad) -> u64,
) -> Option<usize> {
    each(&view.load.processors, start, lines, |processor, lines| {
        lines.put(&["{cpu=\"", &processor.number.to_string(), "\"} "], value(processor));
    })
}

/// In the order of [`UdpLoad`](crate::model::UdpLoad).
const UDP_REASONS: [&str; 5] = ["receive_buffer", "send_buffer", "memory", "checksum", "no_port"];

pub(crate) fn udp_drops(view: &View, _: usize, lines: &mut Lines<'_>) -> Option<usize> {
    let HostLoad { udp, .. } = &*view.load;
    for (version, load) in ["4", "6"].into_iter().zip(udp) {
        let counts = load.iter().flat_map(|load| load.0);
        for (reason, count) in UDP_REASONS.into_iter().zip(counts) {
            if let Some(count) = count {
                let labels = ["{version=\"", version, "\",reason=\"", reason, "\"} "];
                lines.put(&labels, count);
            }
        }
    }
    None
}

/// In the order of [`InterfaceLoad`](crate::model::InterfaceLoad).
const INTERFACE_REASONS: [&str; 3] = ["error", "drop", "overrun"];

pub(crate) fn interface_drops(view: &View, start: usize, lines: &mut Lines<'_>) -> Option<usize> {
    each(&view.load.interfaces, start, lines, |interface, lines| {
        // Whoever makes an interface names it.
        let name = clean(&interface.name, limit::ID, &mut TextCounts::default());
        let labels = Block::open().label("interface", &name).finish();
        for (direction, counts) in [("receive", interface.receive), ("send", interface.send)] {
            for (reason, count) in INTERFACE_REASONS.into_iter().zip(counts) {
                let rest = [",direction=\"", direction, "\",reason=\"", reason, "\"} "];
                lines.put(&[&[&*labels][..], &rest].concat(), count);
            }
        }
    })
}

/// One after the other, until the buffer is full.
fn each<T>(
    rows: &[T],
    start: usize,
    lines: &mut Lines<'_>,
    put: impl Fn(&T, &mut Lines<'_>),
) -> Option<usize> {
    for (place, row) in rows.iter().enumerate().skip(start) {
        if lines.is_full() {
            return Some(place);
        }
        put(row, lines);
    }
    None
}
