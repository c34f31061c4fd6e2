//! Dead letters: messages that the upstream will never take, and rows that make no sense, kept with the reason for somebody to look at.
//!
//! # Constraints
//!
//! - At most [`DEAD_MESSAGES_MAX`] of them, and [`DEAD_BYTES_MAX`] bytes or an eighth of `store.max_bytes`, whichever is less; one alone may be larger.
//!   They count for the store like everything in it. At the bound the oldest are dropped, counted, and said in the log.
//! - Their ids only grow and are never used again.
//!
//! # Books
//!
//! A message that becomes a dead letter has left its stream (`dead`, with the reason), for good: what becomes of the letter changes nothing there. The
//! letters have a count of their own: `buried = kept + retried + purged + dropped`, where all but `kept` (the rows themselves) are rows of `dead_left`.
//!
//! *Retry* puts the message at the end of its stream as a new one, with a new number, accepted now: `accepted` grows by one, and it leaves the
//! stream in one of the usual ways, again perhaps as a dead letter. Back into its old place it cannot go: what came behind it is upstream,
//! and numbers are never used twice. The user properties `tg-retry-of` (the first `tg-id`) and `tg-retry-time` (when it was first accepted)
//! say where it came from; its time to live begins anew, for that is what whoever retries it wants. Where the stream, the store or the disk has no room, it stays.
//!
//! # What a crash does
//!
//! Burying, retrying and purging are one transaction each, together with what they count.

mod sql;

use prometheus::{IntCounterVec, IntGauge, Opts, Registry};

pub(super) use self::sql::{BYTES, COLUMNS, HEADS, delete, drop_oldest, drop_some, load, of_row, save, sums};
use crate::stats::DeadStats;

/// Most dead letters that are kept.
pub const DEAD_MESSAGES_MAX: u64 = 10_000;

/// Most bytes of dead letters that are kept: messages and details.
pub const DEAD_BYTES_MAX: u64 = 64 << 20;

/// Dead letters purged by one transaction.
pub(super) const PURGE_SLICE: u64 = 256;

/// The most bytes for a store of this limit (0: none).
pub(super) const fn bytes_max(store_max_bytes: u64) -> u64 {
    let eighth = store_max_bytes / 8;
    if store_max_bytes == 0 || eighth > DEAD_BYTES_MAX { DEAD_BYTES_MAX } else { eighth }
}

/// Whether the oldest has to go.
pub(super) const fn is_over(stats: &DeadStats, bytes_max: u64) -> bool {
    stats.messages > DEAD_MESSAGES_MAX || (stats.messages > 1 && stats.bytes > bytes_max)
}

/// The figures of all dead letters, as metrics.
#[derive(Debug, Clone)]
pub(super) struct DeadMetrics {
    messages: IntGauge,
    bytes: IntGauge,
    left: IntCounterVec,
}

impl DeadMetrics {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let left =
            Opts::new("tidegate_dead_letters_left_total", "Dead letters that are no more, by what became of them.");
        let metrics = Self {
            messages: IntGauge::new("tidegate_dead_letters", "Dead letters that are kept.")?,
            bytes: IntGauge::new("tidegate_dead_letters_bytes", "Bytes of the dead letters that are kept.")?,
            left: IntCounterVec::new(left, &["fate"])?,
        };
        registry.register(Box::new(metrics.messages.clone()))?;
        registry.register(Box::new(metrics.bytes.clone()))?;
        registry.register(Box::new(metrics.left.clone()))?;
        Ok(metrics)
    }

    /// Shows these figures, which go on from those of the last start.
    pub(super) fn show(&self, stats: &DeadStats) {
        self.messages.set(i64::try_from(stats.messages).unwrap_or(i64::MAX));
        self.bytes.set(i64::try_from(stats.bytes).unwrap_or(i64::MAX));
        for (fate, count) in fates(stats) {
            let counter = self.left.with_label_values(&[fate]);
            counter.inc_by(count.saturating_sub(counter.get()));
        }
    }
}

/// What became of those that are no more.
const fn fates(stats: &DeadStats) -> [(&'static str, u64); 3] {
    [("retried", stats.retried), ("purged", stats.purged), ("dropped", stats.dropped)]
}
