//! The reference of all families, as Markdown, from their definitions.

use std::fmt::Write as _;

use crate::exposition::families::{FAMILIES, Family, Group, Origin};
use crate::exposition::text::MetricType;

/// The text of `docs/metrics.md`.
pub fn markdown() -> String {
    let mut text = String::from(INTRODUCTION);
    for group in Group::ALL {
        let _ = write!(text, "\n## {}\n\n{}\n", title(group), about(group));
        for family in FAMILIES.iter().filter(|family| family.group == group) {
            describe(family, &mut text);
        }
    }
    text
}

const INTRODUCTION: &str = "\
# Metrics

<!-- Made from exporter/src/exposition/families.rs: change it there, then run
     BLESS=1 cargo test -p mediasoup-exporter exposition -->

All families of `/metrics` but the exporter's own (`mediasoup_exporter_…`, `process_…`). The names are
the same in the text format 0.0.4 and in OpenMetrics. OpenMetrics, when it is asked for, types `…_info` as
info, and the contract's two counters, whose names do not end in `_total`, as unknown.

`?families=` takes the names of groups, separated by commas (`kernel` is `connections,streams,strangers`),
and writes only those.

*Receive* is what the far side sent to the SFU, *send* what the SFU sent. Series whose labels are equal,
because a privacy setting made them so, are one series: counters are summed and never fall, of scores
the highest is shown. A series stays for two scrapes after its object closed.
";

fn title(group: Group) -> String {
    format!("`{}`", group.name())
}

fn about(group: Group) -> &'static str {
    match group {
        Group::Contract => {
            "Names and labels of the exporter that this one replaces. `PROM_QUIET` empties \
             `transport_id` and `id`. A byte count appears with the first `getStats` answer."
        }
        Group::Info => {
            "Always 1. What people read, to be joined on `transport_id`, `id` or `peer_id`."
        }
        Group::Objects => "What the servers say of transports, producers and consumers.",
        Group::Connections => {
            "One connection is one 5-tuple; `transport_id` is empty while no server claims it. \
             `class` is `rtp`, `rtcp`, `stun`, `dtls` or `other` (RFC 7983, RFC 5761); a class is \
             there from its first packet in either direction. TCP is `other`."
        }
        Group::Streams => {
            "One stream is one SSRC in one direction of a connection. `id` is the producer (receive) \
             or consumer (send), `role` is `media`, `rtx` or `probation`; `id` and `role` are empty \
             while no server claims the SSRC, `transport_id` too while none claims the connection.\n\n\
             Jitter is estimated from a sample: of every other two packets that come one after the \
             other among a stream's first 64, then of one pair in 17.5, at random; \
             docs/performance.md shows the estimate's error. A packet comes when the kernel program \
             sees it, at the interface's TC hook, where those of an aggregate (GRO, GSO) come at one \
             moment; or when packet capture reads it. Pairs that are more than a second apart, or \
             differ from their timestamps by more, do not count: pauses, and sources that begin new \
             timestamps. The clock is that of the owner's codec: 90 kHz for video, 48 kHz for Opus, 8 \
             kHz for PCMU, PCMA, G722 and iLBC. There is no jitter while no codec is told, for any \
             other clock, for `probation`, and with `--jitter=no`. Where several streams share a \
             series it is that of the one whose packets were read last; one that rests keeps its \
             value."
        }
        Group::Strangers => {
            "Anyone can send to an open port. Who is neither told by a server nor proven by traffic \
             in both directions is shown in aggregate only."
        }
        Group::Sockets => "`remote_addr` is empty for UDP and for listening sockets.",
        Group::Verdicts => {
            "What the pages of peers say (docs/views.md has the rules): worked out every five seconds from the \
             history, so there is none with `--web.views=no`. They are no part of `--max-series`: a peer has one \
             at most."
        }
        Group::Host => {
            "Causes, next to their effect. `pid` is the host's number of a worker. Workers are those of all \
             namespaces, UDP and interfaces are of the network namespace that the exporter runs in, processors are the \
             host's. Counts begin with the host, the interface or the worker."
        }
    }
}

fn describe(family: &Family, text: &mut String) {
    let Family { name, kind, unit, help, labels, group: _, origin, rows: _ } = family;
    let kind = match kind {
        MetricType::Counter => "counter",
        MetricType::Gauge => "gauge",
        MetricType::Info => "info",
    };
    let unit = if unit.is_empty() { String::new() } else { format!(", {unit}") };
    let origin = match origin {
        Origin::Observer => "observer socket, no worker request",
        Origin::Stats => "observer socket, mediasoup's `getStats` at the stats interval",
        Origin::Packets => "packets, counted by the kernel (or by packet capture)",
        Origin::Sockets => "the kernel's socket diagnosis",
        Origin::History => "the history of the last minute",
        Origin::Host => "the kernel's own counts in /proc",
    };
    let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
    let labels = if labels.is_empty() { "none".to_owned() } else { labels.join(" ") };
    let _ = write!(
        text,
        "\n### `{name}`\n\n{help}\n\n- {kind}{unit}\n- labels: {labels}\n- source: {origin}\n"
    );
}
