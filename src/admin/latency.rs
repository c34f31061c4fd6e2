//! Percentiles of a histogram over the last minute: plain arithmetic, `now` is an argument.
//!
//! Of a histogram that only grows, snapshots are kept while somebody looks, at most [`SNAPSHOTS`]. The difference between the newest and
//! the oldest of the window is the histogram of that time; a percentile is read off it, straight lines between the bounds of its buckets.

#![allow(
    clippy::cast_precision_loss,
    reason = "counts beyond 2^53 do not happen, and a figure to look at may be rounded"
)]

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// The time over which percentiles are taken.
pub(super) const WINDOW: Duration = Duration::from_secs(60);
/// Most snapshots kept: one a second, and both ends.
const SNAPSHOTS: usize = 62;

/// A histogram at one moment: bounds of its buckets, ascending, and how many were at or below each.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Buckets(pub(super) Vec<(f64, u64)>);

/// What the last minute says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Percentiles {
    /// How many there were.
    pub(super) count: u64,
    /// Half of them took no longer.
    pub(super) p50: f64,
    /// All but one in a hundred took no longer.
    pub(super) p99: f64,
    /// The time over which this was seen.
    pub(super) window: Duration,
}

/// The snapshots of the last minute.
#[derive(Debug, Default)]
pub(super) struct Latency(VecDeque<(Instant, Buckets)>);

impl Latency {
    /// Takes a snapshot, and says what the last minute was like: `None` where nothing was measured in it.
    ///
    /// The first look has nothing to compare with, and speaks of all the time since the start.
    pub(super) fn see(&mut self, now: Instant, all: Buckets, uptime: Duration) -> Option<Percentiles> {
        while self.0.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > WINDOW)
            || self.0.len() >= SNAPSHOTS
        {
            self.0.pop_front();
        }
        let (window, then) = match self.0.front() {
            Some((at, then)) => (now.saturating_duration_since(*at), then.clone()),
            None => (uptime, Buckets::default()),
        };
        let percentiles = all.since(&then).percentiles(window);
        self.0.push_back((now, all));
        percentiles
    }
}

impl Buckets {
    /// What came to it since `then`.
    fn since(&self, then: &Self) -> Self {
        let before = |index: usize| then.0.get(index).map_or(0, |(_, count)| *count);
        let rest = self.0.iter().enumerate();
        Self(rest.map(|(index, (bound, count))| (*bound, count.saturating_sub(before(index)))).collect())
    }

    fn percentiles(&self, window: Duration) -> Option<Percentiles> {
        let count = self.0.last().map_or(0, |(_, count)| *count);
        (count > 0).then(|| Percentiles { count, p50: self.quantile(0.5), p99: self.quantile(0.99), window })
    }

    /// Where all but `1 - share` of them are; the largest finite bound where that is all one can say.
    fn quantile(&self, share: f64) -> f64 {
        let rank = self.0.last().map_or(0.0, |(_, count)| *count as f64) * share;
        let (mut low, mut below) = (0.0, 0.0);
        for (bound, count) in &self.0 {
            let count = *count as f64;
            if count >= rank && count > below {
                return if bound.is_finite() { low + (bound - low) * (rank - below) / (count - below) } else { low };
            }
            below = count;
            if bound.is_finite() {
                low = *bound;
            }
        }
        low
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn buckets(counts: [u64; 4]) -> Buckets {
        Buckets([0.001, 0.01, 0.1, f64::INFINITY].into_iter().zip(counts).collect())
    }

    #[test]
    fn percentiles_lie_within_their_bucket() {
        let all = buckets([50, 100, 100, 100]).percentiles(WINDOW).unwrap();
        assert!((all.p50 - 0.001).abs() < 1e-9 && (0.0098..=0.01).contains(&all.p99), "{all:?}");
        assert_eq!(buckets([0, 0, 0, 0]).percentiles(WINDOW), None);
        assert_eq!(buckets([0, 0, 0, 5]).percentiles(WINDOW).unwrap().p50.to_bits(), 0.1f64.to_bits());
        assert_eq!(Buckets::default().percentiles(WINDOW), None);
    }

    #[test]
    fn only_the_last_minute_counts() {
        let (mut latency, begin) = (Latency::default(), Instant::now());
        let at = |second| begin + Duration::from_secs(second);
        let first = latency.see(at(0), buckets([100, 100, 100, 100]), Duration::from_secs(500)).unwrap();
        assert_eq!((first.count, first.window.as_secs()), (100, 500), "since the start");
        assert_eq!(latency.see(at(1), buckets([100, 100, 100, 100]), WINDOW), None, "nothing since");
        let slow = latency.see(at(2), buckets([100, 100, 104, 104]), WINDOW).unwrap();
        assert!(slow.count == 4 && slow.p50 > 0.01, "{slow:?}");
        assert_eq!(latency.see(at(90), buckets([100, 100, 104, 104]), WINDOW).unwrap().count, 104, "all is old");
    }

    proptest! {
        #[test]
        fn a_quantile_grows_with_its_share(steps in proptest::collection::vec(0u64..1000, 4), a in 0.0..1.0, b in 0.0..1.0) {
            let mut sum = 0;
            let counts = steps.iter().map(|step| { sum += step; sum }).collect::<Vec<_>>();
            let all = buckets([counts[0], counts[1], counts[2], counts[3]]);
            let (low, high) = if a < b { (a, b) } else { (b, a) };
            prop_assert!(all.quantile(low) <= all.quantile(high) + 1e-12);
            prop_assert!(all.quantile(high).is_finite());
        }

        #[test]
        fn snapshots_are_bounded(gaps in proptest::collection::vec(0u64..3000, 1..200)) {
            let (mut latency, mut now) = (Latency::default(), Instant::now());
            for gap in gaps {
                now += Duration::from_millis(gap);
                latency.see(now, buckets([1, 2, 3, 4]), WINDOW);
                prop_assert!(latency.0.len() <= SNAPSHOTS);
            }
        }
    }
}
