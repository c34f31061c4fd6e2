//! What the broker counts.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

/// The words of `tidegate_broker_refused_total{reason}`, a closed set: what happened, and what the client is told
/// (MQTT 5 code / MQTT 3.1.1).
pub(crate) const REFUSED: &[(&str, &str)] = &[
    // Who may come in.
    ("accept", "the system gave no connection (file descriptors, mostly): the client waits in its queue"),
    ("pending-full", "too many connections without a CONNECT, or too many bytes of them: the oldest is closed"),
    ("connect-timeout", "no CONNECT in its time: closed"),
    ("tls", "no TLS handshake, a certificate that is not accepted, or TLS broken later: alert, closed"),
    ("websocket", "no upgrade to WebSocket with `mqtt`, or frames that must not be: HTTP 4xx, or a close frame"),
    ("connections-full", "max_connections: CONNACK 0x97 / CONNACK 3"),
    ("sessions-full", "no room for another session: CONNACK 0x97 / CONNACK 3"),
    ("busy", "the previous connection of the client id does not let go: CONNACK 0x89 / CONNACK 3"),
    ("client-id", "a client id that is too long, or empty where it must not be: CONNACK 0x85 / CONNACK 2"),
    ("not-authorized", "an anonymous client where there are none: CONNACK 0x87 / CONNACK 5"),
    ("bad-credentials", "no user of this name and password: CONNACK 0x86 / CONNACK 4"),
    ("guessing", "too many wrong passwords: CONNACK 0x9F / CONNACK 3"),
    ("acl-will", "a will to a topic that the client may not publish to: CONNACK 0x87 / CONNACK 5; later, dropped"),
    ("access-revoked", "the user is gone or has another password: DISCONNECT 0x87 / closed"),
    ("stopping", "the gateway stops: CONNACK 0x8B / CONNACK 3"),
    ("auth-method", "enhanced authentication: CONNACK 0x8C"),
    ("version", "a protocol level that is not spoken: CONNACK 0x84 / CONNACK 1"),
    ("store", "the store could not open the session: CONNACK 0x88 / CONNACK 3"),
    // What may be sent.
    ("packet-too-large", "max_packet, or a CONNECT above its own limit: CONNACK or DISCONNECT 0x95 / closed"),
    (
        "maximum-packet-size",
        "a CONNECT whose Maximum Packet Size has no room for a CONNACK: CONNACK 0x95 / not in 3.1.1",
    ),
    (
        "receive-maximum",
        "more in flight than max_inflight: DISCONNECT 0x93 / (3.1.1: not read for a while, not counted)",
    ),
    ("publish-rate", "max_publish_rate: PUBLISHes wait in the socket; counted once for each wait"),
    ("acl-publish", "a topic that the client may not publish to: PUBACK or PUBREC 0x87 / acknowledged, dropped"),
    ("acl-subscribe", "a filter that the client may not subscribe to: SUBACK 0x87 / SUBACK 0x80"),
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
    /// Clients connected, over all listeners.
    pub(crate) clients: Arc<Peak>,
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

/// How many there are, and how many there were at most.
#[derive(Debug, Default)]
pub(crate) struct Peak {
    now: AtomicU64,
    most: AtomicU64,
}

impl Peak {
    pub(crate) fn enter(&self) {
        let now = self.now.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(now, Ordering::Relaxed);
    }

    pub(crate) fn leave(&self) {
        self.now.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }
}

/// Why a message that was accepted did not reach a local subscriber: the words of `tidegate_broker_dropped_total{reason}`.
const DROPPED: [&str; 6] = ["queue-full", "memory-full", "away", "expired", "too-large", "not-authorized"];

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
        for word in DROPPED {
            dropped.with_label_values(&[word]);
        }
        for (word, _) in REFUSED {
            refused.with_label_values(&[word]);
        }
        Ok(Self {
            connections,
            clients: Arc::default(),
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

    /// The counts of all words.
    pub(crate) fn refusals(&self) -> impl Iterator<Item = (&'static str, u64)> {
        REFUSED.iter().map(|(word, _)| (*word, self.refused.with_label_values(&[word]).get()))
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
        self.by_reason().map(|(_, count)| count).sum()
    }

    /// Each of them.
    pub(crate) fn by_reason(&self) -> impl Iterator<Item = (&'static str, u64)> {
        DROPPED.into_iter().map(|reason| (reason, self.0.with_label_values(&[reason]).get()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_of_a_refusal_is_there_once() {
        let mut words: Vec<&str> = REFUSED.iter().map(|(word, _)| *word).collect();
        words.sort_unstable();
        let count = words.len();
        words.dedup();
        assert_eq!(words.len(), count);
    }

    #[test]
    fn the_highest_number_of_clients_is_remembered() {
        let peak = Peak::default();
        for _ in 0..3 {
            peak.enter();
        }
        peak.leave();
        peak.leave();
        peak.enter();
        assert_eq!(peak.most(), 3);
    }
}
