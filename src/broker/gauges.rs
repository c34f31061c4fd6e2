//! Metrics that are read from the broker's parts at every scrape, because the parts know them anyway. (What waits on disk for
//! sessions that outlive their connection, the store counts: `tidegate_session_queue_...`.)

use std::sync::{Arc, Mutex, PoisonError, Weak};

use prometheus::{
    IntGauge, IntGaugeVec, Opts,
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
}

impl Gauges {
    pub(super) fn new(hub: &Arc<Hub>) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| IntGauge::new(format!("tidegate_broker_{name}"), help);
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
        };
        Ok(Self { hub: Arc::downgrade(hub), families, reading: Mutex::new(()) })
    }
}

impl Families {
    fn all(&self) -> Vec<&dyn Collector> {
        let Self { clients_most, sessions, subscriptions, retained, memory } = self;
        let [messages, bytes] = retained;
        vec![clients_most, sessions, subscriptions, messages, bytes, memory]
    }

    fn read(&self, hub: &Hub) {
        let (sessions, connected) = hub.sessions.counts();
        let (retained, retained_bytes) = hub.retained.size();
        set(&self.clients_most, hub.metrics.clients.most());
        set(&self.sessions.with_label_values(&["connected"]), connected);
        set(&self.sessions.with_label_values(&["away"]), sessions.saturating_sub(connected));
        let (own, shared) = hub.fanout.subscriptions();
        set(&self.subscriptions.with_label_values(&["no"]), own);
        set(&self.subscriptions.with_label_values(&["yes"]), shared);
        set(&self.retained[0], retained);
        set(&self.retained[1], retained_bytes);
        set(&self.memory, hub.fanout.waiting_bytes());
    }
}

fn set(gauge: &IntGauge, value: u64) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
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
