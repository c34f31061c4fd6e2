//! The store's own metrics; those of the streams are rendered from [`Handle::streams`](super::Handle::streams).

use std::time::Duration;

use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, exponential_buckets,
};

use super::{
    alarms::Alarms,
    dead::DeadMetrics,
    queue::{Counts, Drop},
};
use crate::stats::DURATION_BUCKETS_S;

/// A commit that takes so long holds up acknowledgements long enough for people to notice.
const SLOW_COMMIT: Duration = Duration::from_secs(1);
/// One that takes so long is more than a card that cleans up.
const VERY_SLOW_COMMIT: Duration = Duration::from_secs(5);

/// Handles of the metrics; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    commit_seconds: Histogram,
    commit_messages: Histogram,
    pub(super) bytes: IntGauge,
    pub(super) free_bytes: IntGauge,
    written_bytes: IntCounter,
    pub(super) queues: QueueMetrics,
    pub(super) alarms: AlarmMetrics,
    pub(super) dead: DeadMetrics,
}

/// What somebody should be told of.
#[derive(Debug, Clone)]
pub(super) struct AlarmMetrics {
    pub(super) suspended: IntGauge,
    pub(super) refused: IntCounter,
    salvages: IntCounter,
    lost: IntCounter,
    quarantine_bytes: IntGauge,
    checked: Gauge,
}

/// All session queues together.
#[derive(Debug, Clone)]
pub(super) struct QueueMetrics {
    messages: IntGauge,
    bytes: IntGauge,
    delivered: IntCounter,
    expired: IntCounter,
    purged: IntCounter,
    dropped: IntCounterVec,
}

impl Metrics {
    /// Makes and registers them.
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let histogram = |name: &str, help: &str, buckets: Vec<f64>| {
            Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))
        };
        let metrics = Self {
            commit_seconds: histogram(
                "tidegate_store_commit_seconds",
                "Duration of a synced commit in seconds, from the first write of the transaction on.",
                DURATION_BUCKETS_S.to_vec(),
            )?,
            // 1 .. 16384
            commit_messages: histogram(
                "tidegate_store_commit_messages",
                "Messages stored by one commit.",
                exponential_buckets(1.0, 4.0, 8)?,
            )?,
            bytes: IntGauge::new("tidegate_store_bytes", "Bytes of live data in the database.")?,
            free_bytes: IntGauge::new("tidegate_store_free_bytes", "Bytes free on the file system of the database.")?,
            written_bytes: IntCounter::new(
                "tidegate_store_written_bytes_total",
                "Bytes that the gateway gave to the storage below it, as the kernel counts them (write_bytes of /proc/self/io).",
            )?,
            queues: QueueMetrics::register(registry)?,
            alarms: AlarmMetrics::register(registry)?,
            dead: DeadMetrics::register(registry)?,
        };
        registry.register(Box::new(metrics.commit_seconds.clone()))?;
        registry.register(Box::new(metrics.commit_messages.clone()))?;
        registry.register(Box::new(metrics.bytes.clone()))?;
        registry.register(Box::new(metrics.free_bytes.clone()))?;
        registry.register(Box::new(metrics.written_bytes.clone()))?;
        Ok(metrics)
    }

    /// A commit with so many messages took so long.
    pub(super) fn committed(&self, took: Duration, messages: u64) {
        self.commit_seconds.observe(took.as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "a count of messages is far below 2^52")]
        self.commit_messages.observe(messages as f64);
        let commit_s = (took.as_secs_f64() * 1000.0).round() / 1000.0;
        if took >= VERY_SLOW_COMMIT {
            tracing::warn!(commit_s, messages, "a commit took very long: is the disk failing, or worn out?");
        } else if took >= SLOW_COMMIT {
            tracing::info!(commit_s, messages, "a commit took long; acknowledgements waited for it");
        }
    }

    /// Shows what was written so far, and gives it back. Stays at 0 where the kernel does not count.
    pub(super) fn show_written(&self) -> u64 {
        let written = written_bytes().unwrap_or(0);
        self.written_bytes.inc_by(written.saturating_sub(self.written_bytes.get()));
        written
    }
}

impl AlarmMetrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let metrics = Self {
            suspended: IntGauge::new(
                "tidegate_store_suspended",
                "1 while the disk fails or a damaged database is being salvaged: nothing can be stored.",
            )?,
            refused: IntCounter::new(
                "tidegate_store_suspended_refused_total",
                "Messages refused while the store was suspended.",
            )?,
            salvages: IntCounter::new(
                "tidegate_store_salvages_total",
                "How often a damaged database was set aside and salvaged, ever.",
            )?,
            lost: IntCounter::new(
                "tidegate_store_lost_messages_total",
                "Stored messages that could not be read any more when a damaged database was salvaged, ever.",
            )?,
            quarantine_bytes: IntGauge::new(
                "tidegate_store_quarantine_bytes",
                "Bytes of databases that were set aside, damaged or replaced by a restore; never deleted by the gateway.",
            )?,
            checked: Gauge::new(
                "tidegate_store_checked_ratio",
                "How much of what is stored has been checked since a stop that was not clean: 0 to 1; 1 where none was needed.",
            )?,
        };
        registry.register(Box::new(metrics.suspended.clone()))?;
        registry.register(Box::new(metrics.refused.clone()))?;
        registry.register(Box::new(metrics.salvages.clone()))?;
        registry.register(Box::new(metrics.lost.clone()))?;
        registry.register(Box::new(metrics.quarantine_bytes.clone()))?;
        registry.register(Box::new(metrics.checked.clone()))?;
        Ok(metrics)
    }

    /// Shows these figures.
    pub(super) fn show(&self, alarms: &Alarms) {
        self.salvages.inc_by(alarms.salvages.saturating_sub(self.salvages.get()));
        self.lost.inc_by(alarms.lost.saturating_sub(self.lost.get()));
        self.quarantine_bytes.set(i64::try_from(alarms.quarantine_bytes).unwrap_or(i64::MAX));
        self.checked.set(alarms.checked.unwrap_or(1.0));
    }
}

impl QueueMetrics {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| IntGauge::new(format!("tidegate_session_queue_{name}"), help);
        let counter = |name: &str, help: &str| IntCounter::new(format!("tidegate_session_queue_{name}_total"), help);
        let dropped = Opts::new("tidegate_session_queue_dropped_total", "Messages dropped from session queues.");
        let metrics = Self {
            messages: gauge("messages", "Messages queued for sessions that outlive their connections.")?,
            bytes: gauge("bytes", "Bytes of the messages queued for sessions.")?,
            delivered: counter("delivered", "Queued messages that clients acknowledged.")?,
            expired: counter("expired", "Queued messages whose message expiry interval passed.")?,
            purged: counter("purged", "Queued messages whose session ended.")?,
            dropped: IntCounterVec::new(dropped, &["reason"])?,
        };
        registry.register(Box::new(metrics.messages.clone()))?;
        registry.register(Box::new(metrics.bytes.clone()))?;
        registry.register(Box::new(metrics.delivered.clone()))?;
        registry.register(Box::new(metrics.expired.clone()))?;
        registry.register(Box::new(metrics.purged.clone()))?;
        registry.register(Box::new(metrics.dropped.clone()))?;
        for (_, word) in Drop::ALL {
            // A series that is there from the beginning can be alarmed on.
            metrics.dropped.with_label_values(&[word]);
        }
        Ok(metrics)
    }

    /// Shows these figures, which go on from those of the last start.
    pub(super) fn show(&self, counts: &Counts) {
        let gauge = |gauge: &IntGauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        let counter = |counter: &IntCounter, value: u64| counter.inc_by(value.saturating_sub(counter.get()));
        gauge(&self.messages, counts.messages);
        gauge(&self.bytes, counts.bytes);
        counter(&self.delivered, counts.delivered);
        counter(&self.expired, counts.expired);
        counter(&self.purged, counts.purged);
        for (reason, word) in Drop::ALL {
            counter(&self.dropped.with_label_values(&[word]), counts.dropped[reason as usize]);
        }
    }
}

/// What the kernel counts as written by this process: the database and nothing else, for nothing else is written to files.
fn written_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/io").ok()?;
    text.lines().find_map(|line| line.strip_prefix("write_bytes: "))?.trim().parse().ok()
}
