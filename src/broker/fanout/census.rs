//! What the fan-out says of itself, for metrics and `$SYS`.

use std::sync::atomic::Ordering;

use super::Fanout;

impl Fanout {
    /// Number of subscriptions: of one session each, and of members of shared ones.
    pub(crate) fn subscriptions(&self) -> (u64, u64) {
        self.read().count()
    }

    /// Whether somebody subscribed with a filter whose first level is this one.
    pub(crate) fn is_subscribed_below(&self, level: &str) -> bool {
        self.read().has_branch(level)
    }

    /// Bytes in all queues, and of what was sent and not acknowledged.
    pub(crate) fn waiting_bytes(&self) -> u64 {
        self.queued.load(Ordering::Relaxed) as u64
    }
}
