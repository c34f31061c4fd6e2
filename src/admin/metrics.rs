//! `/metrics`: what the rooms registered, the streams' books, and the process, as Prometheus text.

#![allow(
    clippy::cast_precision_loss,
    reason = "counts beyond 2^53 do not happen, and a figure to look at may be rounded"
)]

use std::{collections::HashSet, sync::Arc};

use prometheus::{
    Registry, TextEncoder,
    core::{Collector, Desc},
    proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};

use super::Sources;
use crate::stats::{DEAD_REASONS, DROP_REASONS, StreamStats};

/// The content type of the text format.
pub(super) const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// All that a scrape shows.
pub(super) struct Metrics {
    rooms: Registry,
    own: Registry,
}

impl Metrics {
    /// `rooms` is the registry in which the other rooms have put, and will put, their metrics.
    pub(super) fn new(rooms: Registry, sources: Arc<dyn Sources>) -> Result<Self, prometheus::Error> {
        let own = Registry::new();
        own.register(Box::new(StreamCollector::new(sources)?))?;
        #[cfg(target_os = "linux")]
        own.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(Self { rooms, own })
    }

    /// What the other rooms have registered. May block: see [`Sources`].
    pub(super) fn rooms(&self) -> Vec<MetricFamily> {
        self.rooms.gather()
    }

    /// The text of a scrape. May block: see [`Sources`].
    pub(super) fn text(&self) -> Result<String, prometheus::Error> {
        let mut families = self.rooms.gather();
        let known: HashSet<String> = families.iter().map(|family| family.name().to_owned()).collect();
        // A family may appear once in the text: where a room registered one of ours, the room knows better.
        families.extend(self.own.gather().into_iter().filter(|family| !known.contains(family.name())));
        TextEncoder::new().encode_to_string(&families)
    }
}

/// How a family gets its samples from the books of a stream: (reason, value) pairs where it has reasons.
enum Value {
    Counter(fn(&StreamStats) -> u64),
    /// With the words that are always there, so that the first of a kind is an increase that an alert sees.
    Reasons(&'static [&'static str], fn(&StreamStats) -> &[(String, u64)]),
    Gauge(fn(&StreamStats) -> f64),
}

const FAMILIES: &[(&str, &str, Value)] = &[
    (
        "tidegate_stream_accepted_total",
        "Messages accepted: committed to the store.",
        Value::Counter(|stream| stream.accepted),
    ),
    (
        "tidegate_stream_forwarded_total",
        "Messages acknowledged by the upstream.",
        Value::Counter(|stream| stream.forwarded),
    ),
    (
        "tidegate_stream_expired_total",
        "Messages that left because their time to live had passed.",
        Value::Counter(|stream| stream.expired),
    ),
    (
        "tidegate_stream_dropped_total",
        "Messages dropped because of the limits of the stream, by reason.",
        Value::Reasons(&DROP_REASONS, |stream| &stream.dropped),
    ),
    (
        "tidegate_stream_dead_total",
        "Messages moved to the dead letters, by reason.",
        Value::Reasons(&DEAD_REASONS, |stream| &stream.dead),
    ),
    ("tidegate_stream_purged_total", "Messages removed by an operator.", Value::Counter(|stream| stream.purged)),
    (
        "tidegate_stream_backlog_messages",
        "Messages accepted and not yet gone.",
        Value::Gauge(|stream| stream.backlog_messages as f64),
    ),
    (
        "tidegate_stream_backlog_bytes",
        "Bytes of the backlog: topics, payloads, properties, client ids.",
        Value::Gauge(|stream| stream.backlog_bytes as f64),
    ),
    (
        "tidegate_stream_max_messages",
        "Most messages of the backlog, 0 for no limit.",
        Value::Gauge(|stream| stream.limit_messages.unwrap_or(0) as f64),
    ),
    (
        "tidegate_stream_max_bytes",
        "Most bytes of the backlog, 0 for no limit.",
        Value::Gauge(|stream| stream.limit_bytes.unwrap_or(0) as f64),
    ),
    (
        "tidegate_stream_oldest_age_seconds",
        "Age of the oldest message of the backlog, 0 where there is none.",
        Value::Gauge(|stream| stream.oldest_age.unwrap_or_default().as_secs_f64()),
    ),
    (
        "tidegate_stream_kept_messages",
        "Forwarded messages that are kept for replay.",
        Value::Gauge(|stream| stream.kept_messages as f64),
    ),
    (
        "tidegate_stream_kept_bytes",
        "Bytes of the messages that are kept for replay.",
        Value::Gauge(|stream| stream.kept_bytes as f64),
    ),
    (
        "tidegate_stream_replayed_total",
        "Messages that the upstream acknowledged again, in replays.",
        Value::Counter(|stream| stream.replayed),
    ),
    (
        "tidegate_stream_replay_left",
        "Messages that the replay which runs still has to send, 0 where none runs.",
        Value::Gauge(|stream| stream.replay_left.unwrap_or(0) as f64),
    ),
    (
        "tidegate_stream_paused",
        "Whether an operator has paused the stream.",
        Value::Gauge(|stream| f64::from(u8::from(stream.paused))),
    ),
    (
        "tidegate_stream_configured",
        "Whether the configuration has the stream; one that it does not have any more keeps its messages.",
        Value::Gauge(|stream| f64::from(u8::from(stream.configured))),
    ),
];

/// The books of the streams, read at every scrape: one reading for all families, so that they balance.
struct StreamCollector {
    sources: Arc<dyn Sources>,
    descs: Vec<Desc>,
}

impl StreamCollector {
    fn new(sources: Arc<dyn Sources>) -> Result<Self, prometheus::Error> {
        let desc = |(name, help, value): &(&str, &str, Value)| {
            let mut labels = vec!["stream".to_owned()];
            if matches!(value, Value::Reasons(..)) {
                labels.push("reason".to_owned());
            }
            Desc::new((*name).to_owned(), (*help).to_owned(), labels, std::collections::HashMap::new())
        };
        let descs = FAMILIES.iter().map(desc).collect::<Result<_, _>>()?;
        Ok(Self { sources, descs })
    }
}

impl Collector for StreamCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let streams = self.sources.streams();
        FAMILIES.iter().map(|(name, help, value)| family(name, help, value, &streams)).collect()
    }
}

fn family(name: &str, help: &str, value: &Value, streams: &[StreamStats]) -> MetricFamily {
    let mut samples = Vec::new();
    for stream in streams {
        let label = |name: &str, value: &str| {
            let mut pair = LabelPair::default();
            pair.set_name(name.to_owned());
            pair.set_value(value.to_owned());
            pair
        };
        match value {
            Value::Counter(of) => samples.push(counter(vec![label("stream", &stream.name)], of(stream))),
            Value::Reasons(always, of) => {
                let met = of(stream).iter().map(|(reason, count)| (reason.as_str(), *count));
                let not_met = always.iter().filter(|word| !of(stream).iter().any(|(reason, _)| reason == *word));
                samples.extend(met.chain(not_met.map(|word| (*word, 0))).map(|(reason, count)| {
                    // Labels go in name order, as the registry's own vectors have them.
                    counter(vec![label("reason", reason), label("stream", &stream.name)], count)
                }));
            }
            Value::Gauge(of) => {
                let mut gauge = Gauge::default();
                gauge.set_value(of(stream));
                let mut metric = Metric::from_gauge(gauge);
                metric.set_label(vec![label("stream", &stream.name)]);
                samples.push(metric);
            }
        }
    }
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(if matches!(value, Value::Gauge(_)) { MetricType::GAUGE } else { MetricType::COUNTER });
    family.set_metric(samples);
    family
}

fn counter(labels: Vec<LabelPair>, value: u64) -> Metric {
    let mut counter = Counter::default();
    counter.set_value(value as f64);
    let mut metric = Metric::default();
    metric.set_label(labels);
    metric.set_counter(counter);
    metric
}
