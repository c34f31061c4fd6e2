//! Metrics that are read from the broker's parts at every scrape, because the parts know them anyway.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use prometheus::{
    IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::hub::Hub;

/// All of them.
pub(super) struct Gauges {
    /// Not an owner: whoever holds the registry must not keep the broker.
    hub: Weak<Hub>,
    families: Families,
    /// One scrape at a time.
    reading: Mutex<()>,
}

struct Families {
    clients_most: IntGauge,
    sessions: IntGaugeVec,
    subscriptions: IntGaugeVec,
    retained: [IntGauge; 2],
    memory: IntGauge,
    queues: [IntGauge; 2],
    queue_books: [IntCounter; 4],
    queue_dropped: IntCounterVec,
}

impl Gauges {
    pub(super) fn new(hub: &Arc<Hub>) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| IntGauge::new(format!("tidegate_broker_{name}"), help);
        let counter = |name: &str, help: &str| IntCounter::new(format!("tidegate_broker_queue_{name}_total"), help);
        let families = Families {
            clients_most: gauge("connections_max", "Most clients connected at the same time since the start.")?,
            sessions: IntGaugeVec::new(
                Opts::new("tidegate_broker_sessions", "Sessions, by whether their client is connected or away."),
                &["client"],
            )?,
            subscriptions: IntGaugeVec::new(
                Opts::new(
                    "tidegate_broker_subscriptions",
                    "Subscriptions of all sessions, by whether they are shared.",
                ),
                &["shared"],
            )?,
            retained: [
                gauge("retained_messages", "Retained messages.")?,
                gauge("retained_bytes", "Bytes of memory that retained messages take, about.")?,
            ],
            memory: gauge("waiting_bytes", "Bytes of messages that wait in memory for local subscribers, about.")?,
            queues: [
                gauge("queue_messages", "Messages on disk for sessions that outlive their connection.")?,
                gauge("queue_bytes", "Bytes of these messages.")?,
            ],
            queue_books: [
                counter("queued", "Messages put on disk for sessions that outlive their connection.")?,
                counter("delivered", "Such messages that their client has acknowledged.")?,
                counter("expired", "Such messages whose message expiry interval passed.")?,
                counter("purged", "Such messages whose session ended.")?,
            ],
            queue_dropped: IntCounterVec::new(
                Opts::new("tidegate_broker_queue_dropped_total", "Such messages that were dropped, by reason."),
                &["reason"],
            )?,
        };
        Ok(Self { hub: Arc::downgrade(hub), families, reading: Mutex::new(()) })
    }
}

impl Families {
    fn all(&self) -> Vec<&dyn Collector> {
        let Self { clients_most, sessions, subscriptions, retained, memory, queues, queue_books, queue_dropped } = self;
        let mut all: Vec<&dyn Collector> = vec![clients_most, sessions, subscriptions, memory, queue_dropped];
        all.extend(retained.iter().chain(queues).map(|gauge| gauge as &dyn Collector));
        all.extend(queue_books.iter().map(|counter| counter as &dyn Collector));
        all
    }

    fn read(&self, hub: &Hub) {
        let (sessions, connected) = hub.sessions.counts();
        let (retained, retained_bytes) = hub.retained.size();
        let queues = hub.intake.queues();
        set(&self.clients_most, hub.metrics.clients.most());
        set(&self.sessions.with_label_values(&["connected"]), connected);
        set(&self.sessions.with_label_values(&["away"]), sessions.saturating_sub(connected));
        let (own, shared) = hub.fanout.subscriptions();
        set(&self.subscriptions.with_label_values(&["no"]), own);
        set(&self.subscriptions.with_label_values(&["yes"]), shared);
        set(&self.retained[0], retained);
        set(&self.retained[1], retained_bytes);
        set(&self.memory, hub.fanout.waiting_bytes());
        set(&self.queues[0], queues.messages);
        set(&self.queues[1], queues.bytes);
        let books = [queues.queued, queues.delivered, queues.expired, queues.purged];
        for (counter, count) in self.queue_books.iter().zip(books) {
            raise(counter, count);
        }
        for (reason, count) in &queues.dropped {
            raise(&self.queue_dropped.with_label_values(&[reason]), *count);
        }
    }
}

fn set(gauge: &IntGauge, value: u64) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}

fn raise(counter: &IntCounter, to: u64) {
    counter.inc_by(to.saturating_sub(counter.get()));
}

impl Collector for Gauges {
    fn desc(&self) -> Vec<&Desc> {
        self.families.all().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let _one_at_a_time = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hub) = self.hub.upgrade() {
            self.families.read(&hub);
        }
        self.families.all().into_iter().flat_map(Collector::collect).collect()
    }
}
