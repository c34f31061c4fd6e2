//! The store's own metrics; those of the streams are rendered from [`Handle::streams`](super::Handle::streams).

use prometheus::{Histogram, HistogramOpts, IntGauge, Registry, exponential_buckets};

/// Handles of the metrics; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Metrics {
    pub(super) commit_seconds: Histogram,
    pub(super) commit_messages: Histogram,
    pub(super) bytes: IntGauge,
    pub(super) free_bytes: IntGauge,
}

impl Metrics {
    /// Makes and registers them.
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let histogram = |name: &str, help: &str, start, factor, count| {
            Histogram::with_opts(HistogramOpts::new(name, help).buckets(exponential_buckets(start, factor, count)?))
        };
        let metrics = Self {
            // 100 µs .. 13 s: from a flash disk with a capacitor to an SD card that cleans up.
            commit_seconds: histogram(
                "tidegate_store_commit_seconds",
                "Duration of a synced commit, from the first write of the transaction on.",
                1e-4,
                2.0,
                18,
            )?,
            // 1 .. 16384
            commit_messages: histogram(
                "tidegate_store_commit_messages",
                "Messages stored by one commit.",
                1.0,
                4.0,
                8,
            )?,
            bytes: IntGauge::new("tidegate_store_bytes", "Bytes of live data in the database.")?,
            free_bytes: IntGauge::new("tidegate_store_free_bytes", "Bytes free on the file system of the database.")?,
        };
        registry.register(Box::new(metrics.commit_seconds.clone()))?;
        registry.register(Box::new(metrics.commit_messages.clone()))?;
        registry.register(Box::new(metrics.bytes.clone()))?;
        registry.register(Box::new(metrics.free_bytes.clone()))?;
        Ok(metrics)
    }
}
