//! The keys of `[[listener]]` that say what one client may have.

use std::time::Duration;

use super::{section::Section, stream::WHEN_FULL};
use crate::broker::{
    DEFAULT_MAX_KEEP_ALIVE_S, DEFAULT_MAX_PUBLISH_RATE, DEFAULT_MAX_QUEUED_BYTES, DEFAULT_MAX_QUEUED_MESSAGES,
    DEFAULT_MAX_SUBSCRIPTIONS, DEFAULT_QUEUE_WHEN_FULL, ListenerSettings,
};

/// More than all clients together can have (see the broker's limits).
const MAX_SUBSCRIPTIONS: i64 = 500_000;
/// More than any client can publish.
const MAX_PUBLISH_RATE: i64 = 10_000_000;

/// Reads them into the settings of a listener that has everything else.
pub(super) fn read_client_limits(section: &Section<'_>, listener: ListenerSettings) -> ListenerSettings {
    let subscriptions = u32::from(DEFAULT_MAX_SUBSCRIPTIONS);
    let max_subscriptions = section.integer("max_subscriptions", subscriptions, 1..=MAX_SUBSCRIPTIONS);
    ListenerSettings {
        max_subscriptions: usize::try_from(max_subscriptions).unwrap_or(usize::MAX),
        max_queued_messages: section.integer("max_queued_messages", DEFAULT_MAX_QUEUED_MESSAGES, 0..=i64::MAX),
        max_queued_bytes: section.size("max_queued_bytes", DEFAULT_MAX_QUEUED_BYTES, 0..=u64::MAX),
        queue_when_full: section.choice("queue_when_full", DEFAULT_QUEUE_WHEN_FULL, WHEN_FULL),
        max_publish_rate: section.integer("max_publish_rate", DEFAULT_MAX_PUBLISH_RATE, 0..=MAX_PUBLISH_RATE),
        max_keep_alive_s: read_max_keep_alive(section),
        ..listener
    }
}

fn read_max_keep_alive(section: &Section<'_>) -> u16 {
    let default = Duration::from_secs(DEFAULT_MAX_KEEP_ALIVE_S.into());
    let longest = section.keep_alive("max_keep_alive", default, "no limit");
    u16::try_from(longest.as_secs()).unwrap_or(u16::MAX)
}
