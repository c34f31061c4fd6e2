//! The end of the demo: the figures that prove the promise, or do not.

use std::time::Duration;

use serde::Serialize;

use super::{
    gateway::StreamFigures,
    screen::{per_second, thousands},
};

/// What was counted, by three parties: the sensors, the gateway, and the subscriber upstream.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct Proof {
    /// Readings that sensors published.
    pub sent: u64,
    /// Readings that the gateway acknowledged.
    pub acknowledged: u64,
    /// Acknowledged readings that arrived upstream.
    pub received: u64,
    /// Deliveries under a `tg-id` that had arrived before: what was in flight when the connection broke.
    pub duplicates: u64,
    /// Readings that a sensor published again because their acknowledgement was lost, stored and delivered twice.
    pub published_again: u64,
    /// Acknowledged readings that never arrived. The promise: 0.
    pub lost: u64,
    /// First deliveries that came after a later one of the same sensor or stream. The promise: 0.
    pub out_of_order: u64,
    /// Messages in the gateway's books: accepted.
    pub accepted: u64,
    /// Messages in the gateway's books: acknowledged by the upstream.
    pub forwarded: u64,
    /// Messages in the gateway's books: still there.
    pub backlog: u64,
    /// Whether the books balance, and agree with what arrived.
    pub books_balance: bool,
    /// The largest backlog seen.
    pub largest_backlog: u64,
    /// Resident memory of the gateway while there was no backlog, in bytes; `None` where the system does not tell.
    pub memory_bytes_before: Option<u64>,
    /// Resident memory of the gateway with the backlog of the whole outage, in bytes.
    pub memory_bytes_with_backlog: Option<u64>,
    /// How long the upstream was away, in seconds.
    pub outage_seconds: f64,
    /// From the restart after `kill -9` to ready, in seconds.
    pub restart_seconds: f64,
    /// From the upstream's return to the first message of the backlog that arrived, in seconds.
    pub reconnect_seconds: f64,
    /// From there until all that had waited had arrived, in seconds.
    pub drain_seconds: f64,
    /// Messages that arrived in that time, a second.
    pub drained_per_s: u64,
    /// The whole demo, in seconds.
    pub total_seconds: f64,
}

/// How long the parts took.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Times {
    pub(super) outage: Duration,
    pub(super) restart: Duration,
    pub(super) reconnect: Duration,
    pub(super) drain: Duration,
    pub(super) drained: u64,
    pub(super) total: Duration,
}

impl Proof {
    /// The same as JSON, with the verdict (`holds`) first.
    pub fn json(&self) -> String {
        #[derive(Serialize)]
        struct Verdict<'proof> {
            holds: bool,
            #[serde(flatten)]
            proof: &'proof Proof,
        }
        let verdict = Verdict { holds: self.holds(), proof: self };
        serde_json::to_string_pretty(&verdict).expect("numbers and truth values can always be written")
    }

    /// Whether every acknowledged message arrived, in order, and the books say the same.
    pub fn holds(&self) -> bool {
        self.lost == 0
            && self.out_of_order == 0
            && self.books_balance
            && self.sent == self.acknowledged
            && self.sent > 0
    }

    pub(super) fn with_books(mut self, books: StreamFigures, distinct_ids: u64) -> Self {
        let left = books.forwarded + books.expired + books.dropped + books.dead + books.purged;
        self.accepted = books.accepted;
        self.forwarded = books.forwarded;
        self.backlog = books.backlog.messages;
        self.books_balance = books.accepted == left + books.backlog.messages
            && books.forwarded == distinct_ids
            && books.accepted >= self.acknowledged
            && books.backlog.bytes == 0;
        self
    }

    pub(super) fn with_times(mut self, times: Times) -> Self {
        self.outage_seconds = seconds(times.outage);
        self.restart_seconds = seconds(times.restart);
        self.reconnect_seconds = seconds(times.reconnect);
        self.drain_seconds = seconds(times.drain);
        self.drained_per_s = per_second(times.drained, times.drain);
        self.total_seconds = seconds(times.total);
        self
    }

    /// The table; `paint` puts an SGR code around a text, where there are colours.
    pub(super) fn table(&self, paint: impl Fn(&str, &str) -> String) -> String {
        let promise = |ok: bool, text: &str| paint(if ok { "1;32" } else { "1;31" }, text);
        let row = |name: &str, figure: String, remark: &str| format!("  {name:<22}{figure}   {}\n", paint("2", remark));
        let count = |number: u64| format!("{:>10}", thousands(number));
        let seconds = |seconds: f64| format!("{seconds:>8.2} s");
        let rule = format!("  {}\n", paint("2", &"─".repeat(76)));
        let balance = format!("{:>10}", if self.books_balance { "yes" } else { "NO" });
        [
            rule.clone(),
            row("sent", count(self.sent), "published by the sensors, QoS 1"),
            row("acknowledged", count(self.acknowledged), "each after its commit was synced to disk"),
            row("received upstream", count(self.received), "counted by a subscriber of the upstream"),
            row("resent by gateway", count(self.duplicates), "duplicates, recognised by their tg-id"),
            row("resent by sensors", count(self.published_again), "their acknowledgement died with kill -9"),
            row("lost", promise(self.lost == 0, &count(self.lost)), "acknowledged, and never arrived"),
            row(
                "out of order",
                promise(self.out_of_order == 0, &count(self.out_of_order)),
                "first deliveries, per sensor and per stream",
            ),
            row(
                "books balance",
                promise(self.books_balance, &balance),
                &format!(
                    "accepted {} = forwarded {} + {}",
                    thousands(self.accepted),
                    thousands(self.forwarded),
                    thousands(self.backlog)
                ),
            ),
            rule.clone(),
            row("upstream away", seconds(self.outage_seconds), "with kill -9 in the middle"),
            row("ready after kill -9", seconds(self.restart_seconds), "from its start to ready, backlog and all"),
            row("largest backlog", count(self.largest_backlog), "messages, on disk"),
            self.memory().map_or_else(String::new, |(with, remark)| row("gateway's memory", with, &remark)),
            row("first after return", seconds(self.reconnect_seconds), "the gateway came back by itself"),
            row(
                "drained in",
                seconds(self.drain_seconds),
                &format!("{} messages/s, while sensors went on", thousands(self.drained_per_s)),
            ),
            row("all in all", seconds(self.total_seconds), ""),
            rule,
            self.verdict(promise),
        ]
        .concat()
    }

    /// Memory with the backlog, and without it.
    fn memory(&self) -> Option<(String, String)> {
        let tenths = |bytes: u64| bytes * 10 / (1024 * 1024);
        let mebibytes = |bytes| format!("{}.{}", tenths(bytes) / 10, tenths(bytes) % 10);
        let (before, with) = self.memory_bytes_before.zip(self.memory_bytes_with_backlog)?;
        let figure = format!("{:>6} MiB", mebibytes(with));
        Some((figure, format!("with that backlog; {} MiB without any", mebibytes(before))))
    }

    fn verdict(&self, promise: impl Fn(bool, &str) -> String) -> String {
        let text = if self.holds() {
            "Every acknowledged message arrived, in order: lost 0, out of order 0."
        } else if self.sent == self.acknowledged && self.lost == 0 && self.out_of_order == 0 {
            "The books do not agree with what arrived. This must not happen: please report it."
        } else {
            "The promise was broken. This must not happen: please report it."
        };
        format!("  {}\n", promise(self.holds(), text))
    }
}

/// Milliseconds are as fine as anybody wants to read.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Proof {
        let books = StreamFigures { accepted: 1001, forwarded: 1001, ..StreamFigures::default() };
        let proof = Proof { sent: 1000, acknowledged: 1000, received: 1000, published_again: 1, ..Proof::default() };
        proof.with_books(books, 1001)
    }

    fn table(proof: &Proof) -> String {
        proof.table(|_, text| text.to_owned())
    }

    #[test]
    fn a_good_run_is_proof() {
        assert!(good().holds());
        assert!(table(&good()).contains("lost 0, out of order 0"));
        assert!(good().json().starts_with("{\n  \"holds\": true,\n  \"sent\": 1000,"));
    }

    #[test]
    fn anything_missing_breaks_the_proof() {
        let books = |accepted, forwarded, ids| {
            good().with_books(StreamFigures { accepted, forwarded, ..StreamFigures::default() }, ids)
        };
        for broken in [
            Proof { lost: 1, ..good() },
            Proof { out_of_order: 1, ..good() },
            Proof { acknowledged: 999, ..good() },
            Proof::default(),
            books(1001, 1000, 1000),
            books(1001, 1001, 1000),
            books(999, 999, 999),
        ] {
            assert!(!broken.holds(), "{broken:?}");
            assert!(table(&broken).contains("please report"), "{broken:?}");
        }
    }

    #[test]
    fn the_table_fits_a_terminal() {
        let mut proof = good();
        proof.memory_bytes_before = Some(20_000_000);
        proof.memory_bytes_with_backlog = Some(123_000_000);
        proof.accepted = 123_456;
        proof.forwarded = 123_456;
        for line in table(&proof).lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        assert!(table(&proof).contains("117.3 MiB   with that backlog; 19.0 MiB without any"));
    }
}
