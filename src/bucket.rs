//! Token bucket: at most so many units a second; pure, so `now` is an argument.
//!
//! In its "theoretical arrival time" form: one instant says up to when the allowance is spent. What is not used is saved up, as much
//! as a given time brings, so a quiet second is not followed by a loud one. More units at once than the bucket holds
//! are not refused; they spend the future, and the next ones wait.

use std::time::{Duration, Instant};

/// A rate, and how much of it is used up.
#[derive(Debug, Clone)]
pub struct Bucket {
    /// Units a second; 0 = no limit.
    rate: u64,
    /// Allowance that can be saved up, as the time in which it comes in.
    burst: Duration,
    /// Up to when the allowance is spent; `None` before the first use.
    spent_until: Option<Instant>,
}

impl Bucket {
    /// A full bucket of `units_per_s` (0 = no limit) that saves up what `burst` brings.
    pub const fn new(units_per_s: u64, burst: Duration) -> Self {
        Self { rate: units_per_s, burst, spent_until: None }
    }

    /// When there is allowance again; `None` when there is some now.
    pub fn free_at(&self, now: Instant) -> Option<Instant> {
        let at = self.spent_until?;
        (at > now + self.burst).then(|| at.checked_sub(self.burst).unwrap_or(now))
    }

    /// Takes the allowance for this many units, whether there is any or not.
    pub fn spend(&mut self, now: Instant, units: u64) {
        if self.rate > 0 {
            let nanos = u128::from(units) * 1_000_000_000 / u128::from(self.rate);
            let cost = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
            let from = self.spent_until.map_or(now, |until| until.max(now));
            self.spent_until = from.checked_add(cost).or(self.spent_until);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::cast_precision_loss, reason = "rates of a test are far below 2^52")]

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_interval_has_more_than_its_rate_and_one_burst(
            rate in 1_u64..5_000, burst_ms in 1_u64..2_000, pauses_us in proptest::collection::vec(0_u64..200_000, 2..80),
        ) {
            let (start, burst) = (Instant::now(), Duration::from_millis(burst_ms));
            let (mut bucket, mut now, mut spent) = (Bucket::new(rate, burst), start, Vec::new());
            for pause in pauses_us {
                now += Duration::from_micros(pause);
                if let Some(at) = bucket.free_at(now) {
                    prop_assert!(at > now, "a wait must be in the future");
                    now = at;
                    prop_assert_eq!(bucket.free_at(now), None, "and long enough");
                }
                bucket.spend(now, 1);
                spent.push((now - start).as_secs_f64());
            }
            for first in 0..spent.len() {
                for last in first..spent.len() {
                    let seconds = spent[last] - spent[first] + burst.as_secs_f64();
                    // The last one may spend the future.
                    prop_assert!((last - first) as f64 <= seconds * rate as f64 + 1.001);
                }
            }
        }

        #[test]
        fn who_takes_all_there_is_gets_the_whole_rate(rate in 1_u64..5_000, burst_ms in 0_u64..2_000) {
            let (start, count) = (Instant::now(), 200);
            let (mut bucket, mut now) = (Bucket::new(rate, Duration::from_millis(burst_ms)), start);
            for _ in 0..count {
                now = bucket.free_at(now).unwrap_or(now);
                bucket.spend(now, 1);
            }
            prop_assert!((now - start).as_secs_f64() <= f64::from(count) / rate as f64 + 0.001);
        }
    }

    #[test]
    fn zero_is_no_limit_and_huge_amounts_do_not_overflow() {
        let now = Instant::now();
        let mut free = Bucket::new(0, Duration::ZERO);
        let mut slow = Bucket::new(1, Duration::from_secs(1));
        for _ in 0..1000 {
            free.spend(now, u64::MAX);
            slow.spend(now, u64::MAX);
        }
        assert_eq!(free.free_at(now), None);
        assert!(slow.free_at(now).is_some());
    }
}
