//! The broker's own part of `$SYS`: names and values, from the counters of the metrics.

use std::time::Duration;

use super::load;
use crate::broker::hub::Hub;

/// Names below `$SYS/` and values.
pub(super) fn broker(hub: &Hub, uptime: Duration) -> Vec<(String, String)> {
    let mut facts = vec![
        ("broker/version".to_owned(), format!("tidegate version {}", env!("CARGO_PKG_VERSION"))),
        ("broker/uptime".to_owned(), format!("{} seconds", uptime.as_secs())),
    ];
    let number = |below: &str| {
        let below = below.to_owned();
        move |(name, number): (&str, u64)| (format!("{below}/{name}"), number.to_string())
    };
    facts.extend(numbers(hub).into_iter().map(number("broker")));
    facts.extend(hub.metrics.refusals().map(number("tidegate/refused")));
    facts.extend(hub.metrics.drops.by_reason().map(number("tidegate/dropped")));
    let queues = hub.intake.queues();
    let books = [
        ("messages", queues.messages),
        ("bytes", queues.bytes),
        ("queued", queues.queued),
        ("delivered", queues.delivered),
        ("expired", queues.expired),
        ("purged", queues.purged),
        ("dropped", queues.dropped.iter().map(|(_, count)| count).sum()),
    ];
    facts.extend(books.map(number("tidegate/queues")));
    facts
}

/// What Mosquitto has a name for. The names that it calls deprecated are what older dashboards look at.
fn numbers(hub: &Hub) -> [(&'static str, u64); 22] {
    let (sessions, connected) = hub.sessions.counts();
    let away = sessions.saturating_sub(connected);
    let (retained, retained_bytes) = hub.retained.size();
    let (subscriptions, shared) = hub.fanout.subscriptions();
    let (received, sent, queues) = (&hub.metrics.received, &hub.metrics.sent, hub.intake.queues());
    let stored = retained + queues.messages;
    [
        ("bytes/received", received.bytes.get()),
        ("bytes/sent", sent.bytes.get()),
        ("clients/active", connected),
        ("clients/connected", connected),
        ("clients/disconnected", away),
        ("clients/expired", hub.metrics.sessions_expired.get()),
        ("clients/inactive", away),
        ("clients/maximum", hub.metrics.clients.most()),
        ("clients/total", sessions),
        ("messages/received", received.packets.get()),
        ("messages/sent", sent.packets.get()),
        ("messages/stored", stored),
        ("publish/bytes/received", received.payload_bytes.get()),
        ("publish/bytes/sent", sent.payload_bytes.get()),
        ("publish/messages/dropped", dropped(hub)),
        ("publish/messages/received", received.all_messages()),
        ("publish/messages/sent", sent.all_messages()),
        ("retained messages/count", retained),
        ("shared_subscriptions/count", shared),
        ("store/messages/bytes", retained_bytes + queues.bytes),
        ("store/messages/count", stored),
        ("subscriptions/count", subscriptions),
    ]
}

/// Messages that local subscribers did not get, wherever they waited.
fn dropped(hub: &Hub) -> u64 {
    let queues: u64 = hub.intake.queues().dropped.iter().map(|(_, count)| count).sum();
    hub.metrics.drops.total() + queues
}

/// The counters behind the load averages, in the order of their names.
pub(super) fn loads(hub: &Hub) -> [u64; load::NAMES.len()] {
    let metrics = &hub.metrics;
    [
        metrics.received.packets.get(),
        metrics.sent.packets.get(),
        dropped(hub),
        metrics.received.all_messages(),
        metrics.sent.all_messages(),
        metrics.received.bytes.get(),
        metrics.sent.bytes.get(),
        metrics.sockets.get(),
        metrics.connects.get(),
    ]
}
