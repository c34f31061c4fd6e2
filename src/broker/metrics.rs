//! What the broker counts.

use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

use crate::message::QoS;

/// The broker's metrics; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pub(crate) connections: IntGaugeVec,
    pub(crate) tls_not_after: IntGaugeVec,
    received: [IntCounter; 3],
    sent: [IntCounter; 3],
    refused: IntCounterVec,
    pub(crate) drops: Drops,
}

/// Messages that a local subscriber did not get.
#[derive(Debug, Clone)]
pub struct Drops(IntCounterVec);

impl Metrics {
    /// Makes the metrics and registers them.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let connections = IntGaugeVec::new(
            Opts::new("tidegate_broker_connections", "Clients connected, by listener."),
            &["listener"],
        )?;
        let tls_not_after = IntGaugeVec::new(
            Opts::new(
                "tidegate_tls_not_after_seconds",
                "When the first certificate of a file ends, in seconds since 1970.",
            ),
            &["file"],
        )?;
        let received = counters("tidegate_broker_received_total", "Messages received from clients, by QoS.", "qos")?;
        let sent = counters("tidegate_broker_sent_total", "Messages sent to local subscribers, by QoS.", "qos")?;
        let refused = counters(
            "tidegate_broker_refused_total",
            "Connections, packets and messages that were refused, by reason.",
            "reason",
        )?;
        let dropped = counters(
            "tidegate_broker_dropped_total",
            "Messages that a local subscriber did not get, by reason (streams are not concerned).",
            "reason",
        )?;
        registry.register(Box::new(connections.clone()))?;
        registry.register(Box::new(tls_not_after.clone()))?;
        for counter in [&received, &sent, &refused, &dropped] {
            registry.register(Box::new(counter.clone()))?;
        }
        let by_qos = |counter: &IntCounterVec| ["0", "1", "2"].map(|qos| counter.with_label_values(&[qos]));
        let (received, sent) = (by_qos(&received), by_qos(&sent));
        Ok(Self { connections, tls_not_after, received, sent, refused, drops: Drops(dropped) })
    }

    pub(crate) fn received(&self, qos: QoS) {
        self.received[usize::from(qos.number())].inc();
    }

    pub(crate) fn sent(&self, qos: QoS) {
        self.sent[usize::from(qos.number())].inc();
    }

    /// `reason` is one of a closed set of words.
    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.with_label_values(&[reason]).inc();
    }
}

impl Drops {
    /// Counters that nobody reads, for measurements of the fan-out alone.
    pub fn unregistered() -> Self {
        Self(counters("dropped", "dropped", "reason").expect("the name is a valid metric name"))
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        ["queue-full", "memory-full", "away", "expired", "too-large", "replay-full"]
            .map(|reason| self.0.with_label_values(&[reason]).get())
            .iter()
            .sum()
    }

    /// The session's queue was full.
    pub(crate) fn queue_full(&self, count: usize) {
        self.add("queue-full", count);
    }

    /// All queues together were full.
    pub(crate) fn memory_full(&self) {
        self.add("memory-full", 1);
    }

    /// QoS 0 for a client that is away.
    pub(crate) fn away(&self, count: usize) {
        self.add("away", count);
    }

    /// The message expiry interval passed.
    pub(crate) fn expired(&self) {
        self.add("expired", 1);
    }

    /// Larger than the client's Maximum Packet Size.
    pub(crate) fn too_large(&self) {
        self.add("too-large", 1);
    }

    /// Too many retained messages for one subscriber.
    pub(crate) fn replay_full(&self, count: usize) {
        self.add("replay-full", count);
    }

    fn add(&self, reason: &'static str, count: usize) {
        if count > 0 {
            self.0.with_label_values(&[reason]).inc_by(count as u64);
        }
    }
}

fn counters(name: &str, help: &str, label: &str) -> Result<IntCounterVec, prometheus::Error> {
    IntCounterVec::new(Opts::new(name, help), &[label])
}
