//! What the broker counts.

use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

/// The words of `tidegate_broker_refused_total{reason}`, a closed set: what happened, and what the client is told
/// (MQTT 5 code / MQTT 3.1.1).
pub(crate) const REFUSED: &[(&str, &str)] = &[
    // Who may come in.
    ("accept", "the system gave no connection (file descriptors, mostly): the client waits in its queue"),
    ("pending-full", "too many connections without a CONNECT, or too many bytes of them: the oldest is closed"),
    ("connect-timeout", "no CONNECT in its time: closed"),
    ("connections-full", "max_connections: CONNACK 0x97 / CONNACK 3"),
    ("sessions-full", "no room for another session: CONNACK 0x97 / CONNACK 3"),
    ("busy", "the previous connection of the client id does not let go: CONNACK 0x89 / CONNACK 3"),
    ("client-id", "a client id that is too long, or empty where it must not be: CONNACK 0x85 / CONNACK 2"),
    ("not-authorized", "no such user, or anonymous where that is not allowed: CONNACK 0x86, 0x87 / CONNACK 4, 5"),
    ("auth-method", "enhanced authentication: CONNACK 0x8C"),
    ("tls", "a TLS handshake or record that fails: closed"),
    ("version", "a protocol level that is not spoken: CONNACK 0x84 / CONNACK 1"),
    ("store", "the store could not open the session: CONNACK 0x88 / CONNACK 3"),
    // What may be sent.
    ("packet-too-large", "max_packet, or a CONNECT above its own limit: CONNACK or DISCONNECT 0x95 / closed"),
    (
        "receive-maximum",
        "more in flight than max_inflight: DISCONNECT 0x93 / (3.1.1: not read for a while, not counted)",
    ),
    ("publish-rate", "max_publish_rate: PUBLISHes wait in the socket; counted once for each wait"),
    ("sys-topic", "a publish or will to $SYS, which is the gateway's: PUBACK or PUBREC 0x87 / acknowledged, dropped"),
    ("payload-format", "a payload that is not what its format indicator says: PUBACK or PUBREC 0x99"),
    ("retained-full", "no room for another retained message: published, not retained"),
    ("stream-full", "a stream's limits with when_full = reject: PUBACK or PUBREC 0x97 / not read until there is room"),
    ("store-full", "the store's max_bytes: as stream-full"),
    ("disk-full", "no space on the disk: as stream-full"),
    ("queue-full", "a queue's limits with queue_when_full = reject: as stream-full"),
    ("subscribe", "a filter that is not taken: SUBACK 0x8F, 0x97 / SUBACK 0x80"),
    ("quota", "more user properties or topic aliases than are kept: DISCONNECT 0x97 / closed"),
    // What breaks the protocol.
    ("malformed", "bytes that are no packet: DISCONNECT 0x81 / closed"),
    ("protocol", "a packet that must not come now: DISCONNECT 0x82 or its own code / closed"),
    ("protocol-name", "not MQTT: closed"),
    ("topic", "a topic that cannot be published to: DISCONNECT 0x90 / closed"),
    ("topic-alias", "a topic alias that was not given, or is above the maximum: DISCONNECT 0x94"),
    ("keep-alive", "not heard within 1.5 times its keep alive: DISCONNECT 0x8D / closed"),
    ("slow-reader", "reads nothing of what is sent to it: closed"),
];

/// The broker's metrics; cheap to clone. `$SYS` shows the same counters.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pub(crate) connections: IntGaugeVec,
    pub(crate) tls_not_after: IntGaugeVec,
    /// From clients.
    pub(crate) received: Traffic,
    /// To clients.
    pub(crate) sent: Traffic,
    /// Sockets accepted.
    pub(crate) sockets: IntCounter,
    /// CONNECT packets received.
    pub(crate) connects: IntCounter,
    pub(crate) sessions_expired: IntCounter,
    pub(crate) sessions_evicted: IntCounter,
    refused: IntCounterVec,
    pub(crate) drops: Drops,
}

/// What went in one direction.
#[derive(Debug, Clone)]
pub(crate) struct Traffic {
    /// PUBLISHes by QoS.
    pub(crate) messages: [IntCounter; 3],
    /// Bytes of their payloads.
    pub(crate) payload_bytes: IntCounter,
    /// Packets of any kind.
    pub(crate) packets: IntCounter,
    /// Bytes of packets, without what transports add.
    pub(crate) bytes: IntCounter,
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
        registry.register(Box::new(tls_not_after.clone()))?;
        registry.register(Box::new(connections.clone()))?;
        let by_reason = |name: &str, help: &str| {
            let vec = counters(name, help, "reason")?;
            registry.register(Box::new(vec.clone()))?;
            Ok::<_, prometheus::Error>(vec)
        };
        let refused = by_reason(
            "tidegate_broker_refused_total",
            "Connections, packets and messages that were refused or made to wait, by reason.",
        )?;
        let dropped = by_reason(
            "tidegate_broker_dropped_total",
            "Messages that a local subscriber did not get, by reason (streams are not concerned).",
        )?;
        for (word, _) in REFUSED {
            refused.with_label_values(&[word]);
        }
        Ok(Self {
            connections,
            tls_not_after,
            received: Traffic::new(registry, "received", "received from clients")?,
            sent: Traffic::new(registry, "sent", "sent to clients")?,
            sockets: counter(registry, "tidegate_broker_sockets_total", "Sockets accepted.")?,
            connects: counter(registry, "tidegate_broker_connects_total", "CONNECT packets received.")?,
            sessions_expired: counter(
                registry,
                "tidegate_broker_sessions_expired_total",
                "Sessions that ended because their client did not come back in time.",
            )?,
            sessions_evicted: counter(
                registry,
                "tidegate_broker_sessions_evicted_total",
                "Sessions that ended because there were too many: clients away longest, with no message waiting.",
            )?,
            refused,
            drops: Drops(dropped),
        })
    }

    /// `reason` is a word of [`REFUSED`].
    pub(crate) fn refused(&self, reason: &'static str) {
        self.refused.with_label_values(&[reason]).inc();
    }
}

impl Traffic {
    fn new(registry: &Registry, word: &str, text: &str) -> Result<Self, prometheus::Error> {
        let name = |what: &str| format!("tidegate_broker_{word}_{what}total");
        let messages = counters(&name(""), &format!("Messages {text}, by QoS."), "qos")?;
        registry.register(Box::new(messages.clone()))?;
        Ok(Self {
            messages: ["0", "1", "2"].map(|qos| messages.with_label_values(&[qos])),
            payload_bytes: counter(
                registry,
                &name("payload_bytes_"),
                &format!("Bytes of the payloads of messages {text}."),
            )?,
            packets: counter(registry, &name("packets_"), &format!("MQTT packets of any kind {text}."))?,
            bytes: counter(registry, &name("bytes_"), &format!("Bytes of MQTT packets {text}."))?,
        })
    }

    /// PUBLISHes of any QoS.
    pub(crate) fn all_messages(&self) -> u64 {
        self.messages.iter().map(IntCounter::get).sum()
    }
}

impl Drops {
    /// Counters that nobody reads, for measurements of the fan-out alone.
    pub fn unregistered() -> Self {
        Self(counters("dropped", "dropped", "reason").expect("the name is a valid metric name"))
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        ["queue-full", "memory-full", "away", "expired", "too-large", "not-authorized"]
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

    /// The receiver may not have it any more.
    pub(crate) fn not_authorized(&self) {
        self.add("not-authorized", 1);
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

fn counter(registry: &Registry, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
    let counter = IntCounter::new(name, help)?;
    registry.register(Box::new(counter.clone()))?;
    Ok(counter)
}
