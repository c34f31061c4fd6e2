//! Durations in buckets of at most 1/32 relative width, from one microsecond to hours.

use serde::Serialize;

/// Buckets per power of two.
const STEPS: u64 = 32;

/// Counts of durations in microseconds.
#[derive(Debug, Default, Clone)]
pub(crate) struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    max_us: u64,
}

/// The points of a histogram that people ask for, in microseconds.
#[allow(clippy::struct_field_names, reason = "the unit belongs to each name")]
#[derive(Debug, Default, Clone, Copy, Serialize)]
pub(crate) struct Quantiles {
    /// Median.
    pub p50_us: u64,
    /// 99 of 100 were faster.
    pub p99_us: u64,
    /// The slowest.
    pub max_us: u64,
}

fn bucket(us: u64) -> usize {
    let us = us.max(1);
    let power = u64::from(us.ilog2());
    let place = if power < 5 { us } else { (power - 4) * STEPS + ((us >> (power - 5)) - STEPS) };
    usize::try_from(place).expect("at most 2000 buckets")
}

fn upper_bound_us(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < STEPS {
        return bucket;
    }
    let power = bucket / STEPS + 4;
    ((bucket % STEPS + STEPS + 1) << (power - 5)) - 1
}

impl Histogram {
    /// Counts one duration.
    pub(crate) fn add(&mut self, us: u64) {
        let place = bucket(us);
        if place >= self.buckets.len() {
            self.buckets.resize(place + 1, 0);
        }
        self.buckets[place] += 1;
        self.count += 1;
        self.max_us = self.max_us.max(us);
    }

    /// Adds all of another one.
    pub(crate) fn merge(&mut self, other: &Self) {
        if other.buckets.len() > self.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.count += other.count;
        self.max_us = self.max_us.max(other.max_us);
    }

    /// Median, 99th percentile and maximum; zeros when nothing was counted.
    pub(crate) fn quantiles(&self) -> Quantiles {
        let at = |percent: u64| {
            let wanted = (self.count * percent).div_ceil(100);
            let mut seen = 0;
            let place = self.buckets.iter().position(|count| {
                seen += count;
                seen >= wanted.max(1)
            });
            place.map_or(0, upper_bound_us).min(self.max_us)
        };
        Quantiles { p50_us: at(50), p99_us: at(99), max_us: self.max_us }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_bucket_of_the_truth() {
        let mut histogram = Histogram::default();
        for us in 1..=100_000 {
            histogram.add(us);
        }
        let quantiles = histogram.quantiles();
        assert!((50_000..=51_700).contains(&quantiles.p50_us), "{quantiles:?}");
        assert!((99_000..=100_000).contains(&quantiles.p99_us), "{quantiles:?}");
    }

    #[test]
    fn every_duration_is_at_most_its_buckets_upper_bound() {
        for us in (1..5000).chain([1 << 20, (1 << 20) + 1, 1 << 33]) {
            let bound = upper_bound_us(bucket(us));
            assert!(us <= bound && bound <= us + us / 16 + 1, "{us} in a bucket up to {bound}");
        }
    }
}
