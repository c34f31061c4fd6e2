//! The books of downlinks, for Prometheus and the status: read from the store whenever somebody looks, so that they balance.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use prometheus::{
    IntCounterVec, Opts, Registry,
    core::{Collector, Desc},
    proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};

use super::Queue;
use crate::{stats::DownlinkStats, store};

/// Why messages of an upstream are refused at the door: by the message, or for want of room.
const REFUSALS: [&str; 7] = ["unmatched", "topic", "too-large", "queue-full", "store-full", "disk-full", "suspended"];

/// Why messages that were received are dropped.
const DROPS: [&str; 4] = ["oldest", "newest", "too-large", "damaged"];

/// Messages that were refused at the door, by uplink and reason.
#[derive(Debug, Clone)]
pub(super) struct Refused(IntCounterVec);

impl Refused {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let help = "Messages of an upstream that no downlink took in, by reason.";
        let refused = IntCounterVec::new(Opts::new("tidegate_downlink_refused_total", help), &["uplink", "reason"])?;
        registry.register(Box::new(refused.clone()))?;
        Ok(Self(refused))
    }

    /// Forgets what is of uplinks that are no more.
    pub(super) fn keep(&self, uplinks: &[String]) {
        for metric in self.0.collect().iter().flat_map(MetricFamily::get_metric) {
            let label = |name| metric.get_label().iter().find(|label| label.name() == name).map(LabelPair::value);
            let (Some(uplink), Some(reason)) = (label("uplink"), label("reason")) else { continue };
            if !uplinks.iter().any(|kept| kept == uplink) {
                // It is there: nobody else takes any away.
                let _ = self.0.remove_label_values(&[uplink, reason]);
            }
        }
    }

    /// Shows that there were none yet, so that the first is an increase.
    pub(super) fn show(&self, uplink: &str) {
        for reason in REFUSALS {
            self.0.with_label_values(&[uplink, reason]);
        }
    }

    pub(super) fn count(&self, uplink: &str, reason: &str) {
        self.0.with_label_values(&[uplink, reason]).inc();
    }
}

/// A downlink and where its figures are.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) name: String,
    /// Its uplink.
    pub(super) from: String,
    /// Known as soon as the store has found or made it.
    pub(super) queue: Arc<Queue>,
}

/// Where the figures are. What is shown can change; it is registered once.
#[derive(Debug)]
pub(super) struct Books {
    store: store::Handle,
    shelf: Mutex<Arc<Shelf>>,
    descs: Vec<Desc>,
}

/// All that is shown.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    pub(super) downlinks: Vec<Shown>,
    /// QoS 0 messages that found no room, by uplink.
    pub(super) lost: Vec<(String, Arc<AtomicU64>)>,
}

const RECEIVED: (&str, &str) = ("tidegate_downlink_received_total", "Messages of an upstream that were committed.");
const DELIVERED: (&str, &str) = ("tidegate_downlink_delivered_total", "Messages that a local client took.");
const EXPIRED: (&str, &str) = ("tidegate_downlink_expired_total", "Messages that nobody took in time.");
const DROPPED: (&str, &str) = ("tidegate_downlink_dropped_total", "Messages that were dropped, by reason.");
const WAITING: (&str, &str) = ("tidegate_downlink_waiting_messages", "Messages received and not yet gone.");
const LOST: (&str, &str) =
    ("tidegate_downlink_lost_total", "QoS 0 messages that came faster than they could be stored.");

impl Books {
    pub(super) fn new(store: store::Handle) -> Result<Self, prometheus::Error> {
        let desc = |(name, help): (&str, &str), labels: &[&str]| {
            let labels = labels.iter().map(|label| (*label).to_owned()).collect();
            Desc::new(name.to_owned(), help.to_owned(), labels, HashMap::new())
        };
        let plain = [RECEIVED, DELIVERED, EXPIRED, WAITING].map(|family| desc(family, &["downlink"]));
        let mut descs = plain.into_iter().collect::<Result<Vec<_>, _>>()?;
        descs.push(desc(DROPPED, &["downlink", "reason"])?);
        descs.push(desc(LOST, &["uplink"])?);
        Ok(Self { store, shelf: Mutex::default(), descs })
    }

    /// From now on this is shown.
    pub(super) fn show(&self, shown: Arc<Shelf>) {
        *self.shelf.lock().unwrap_or_else(PoisonError::into_inner) = shown;
    }

    fn shelf(&self) -> Arc<Shelf> {
        Arc::clone(&self.shelf.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn stats(&self) -> Vec<DownlinkStats> {
        let stats = |Shown { name, from, queue }: &Shown| {
            let books = self.store.queue(queue.id()).unwrap_or_default();
            DownlinkStats {
                name: name.clone(),
                from: from.clone(),
                received: books.queued,
                delivered: books.delivered,
                expired: books.expired,
                dropped: books.dropped,
                waiting_messages: books.messages,
                waiting_bytes: books.bytes,
            }
        };
        self.shelf().downlinks.iter().map(stats).collect()
    }

    /// For a registry.
    pub(super) fn collector(self: Arc<Self>) -> impl Collector {
        Collected(self)
    }
}

struct Collected(Arc<Books>);

impl Collector for Collected {
    fn desc(&self) -> Vec<&Desc> {
        self.0.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let stats = self.0.stats();
        let plain = |of: fn(&DownlinkStats) -> u64| -> Vec<_> {
            stats.iter().map(|it| (vec![("downlink", it.name.clone())], of(it))).collect()
        };
        let dropped = stats.iter().flat_map(|it| {
            let labels = |reason: &str| vec![("downlink", it.name.clone()), ("reason", reason.to_owned())];
            let count =
                |word: &str| it.dropped.iter().find(|(reason, _)| reason == word).map_or(0, |(_, count)| *count);
            DROPS.into_iter().map(move |word| (labels(word), count(word)))
        });
        let shown = self.0.shelf();
        let lost =
            shown.lost.iter().map(|(uplink, lost)| (vec![("uplink", uplink.clone())], lost.load(Ordering::Relaxed)));
        let mut families = vec![
            family(RECEIVED, MetricType::COUNTER, plain(|it| it.received)),
            family(DELIVERED, MetricType::COUNTER, plain(|it| it.delivered)),
            family(EXPIRED, MetricType::COUNTER, plain(|it| it.expired)),
            family(WAITING, MetricType::GAUGE, plain(|it| it.waiting_messages)),
            family(DROPPED, MetricType::COUNTER, dropped.collect()),
            family(LOST, MetricType::COUNTER, lost.collect()),
        ];
        families.retain(|family| !family.get_metric().is_empty());
        families
    }
}

type Sample = (Vec<(&'static str, String)>, u64);

fn family((name, help): (&str, &str), kind: MetricType, samples: Vec<Sample>) -> MetricFamily {
    let metric = |(labels, value): Sample| {
        #[expect(clippy::cast_precision_loss, reason = "counts beyond 2^53 do not happen")]
        let value = value as f64;
        let mut metric = Metric::default();
        if kind == MetricType::GAUGE {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        } else {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        }
        let pair = |(name, value): (&str, String)| {
            let mut pair = LabelPair::default();
            pair.set_name(name.to_owned());
            pair.set_value(value);
            pair
        };
        metric.set_label(labels.into_iter().map(pair).collect());
        metric
    };
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(samples.into_iter().map(metric).collect());
    family
}
