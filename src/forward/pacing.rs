//! Pacing: at most so many messages and bytes a second; pure, so `now` is an argument.
//!
//! Both limits are token buckets that hold [`BURST`] worth of allowance, so a quiet second is not followed by a loud one.
//! A message larger than the bucket is not refused; it spends the future, and the next one waits.

use std::time::{Duration, Instant};

use crate::bucket::Bucket;

/// Allowance that can be saved up.
const BURST: Duration = Duration::from_millis(100);

/// The limits of one uplink.
#[derive(Debug, Clone)]
pub(super) struct Pacing {
    messages: Bucket,
    bytes: Bucket,
}

impl Pacing {
    /// Limits in messages and bytes a second; 0 = no limit.
    pub(super) const fn new(messages_per_s: u64, bytes_per_s: u64) -> Self {
        Self { messages: Bucket::new(messages_per_s, BURST), bytes: Bucket::new(bytes_per_s, BURST) }
    }

    /// Takes the allowance for one message of this many bytes, or says when to ask again.
    pub(super) fn take(&mut self, now: Instant, bytes: u64) -> Result<(), Instant> {
        let (messages_at, bytes_at) = (self.messages.free_at(now), self.bytes.free_at(now));
        if let Some(at) = messages_at.max(bytes_at) {
            return Err(at);
        }
        self.messages.spend(now, 1);
        self.bytes.spend(now, bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::cast_precision_loss, reason = "rates of a test are far below 2^52")]

    use super::*;
    use proptest::prelude::*;

    /// Sends as fast as allowed and gives the times in nanoseconds and sizes of what went.
    fn run(pacing: &mut Pacing, pauses_us: &[u64], sizes: &[u64]) -> Vec<(u64, u64)> {
        let start = Instant::now();
        let mut now = start;
        let mut sent = Vec::new();
        for (pause, size) in pauses_us.iter().zip(sizes) {
            now += Duration::from_micros(*pause);
            while let Err(at) = pacing.take(now, *size) {
                assert!(at > now, "a wait must be in the future");
                now = at;
            }
            sent.push((u64::try_from((now - start).as_nanos()).unwrap(), *size));
        }
        sent
    }

    proptest! {
        #[test]
        fn no_interval_has_more_than_its_rate_and_one_burst(
            messages_per_s in 1_u64..2_000, bytes_per_s in 1_u64..1_000_000,
            steps in proptest::collection::vec((0_u64..200_000, 0_u64..5_000), 2..60),
        ) {
            let (pauses, sizes): (Vec<_>, Vec<_>) = steps.into_iter().unzip();
            let sent = run(&mut Pacing::new(messages_per_s, bytes_per_s), &pauses, &sizes);
            for first in 0..sent.len() {
                for last in first..sent.len() {
                    let seconds = (sent[last].0 - sent[first].0) as f64 / 1e9 + BURST.as_secs_f64();
                    // The last one may spend the future.
                    let count = (last - first) as f64;
                    let bytes: u64 = sent[first..last].iter().map(|(_, size)| size).sum();
                    prop_assert!(count <= seconds * messages_per_s as f64 + 1.001, "{count} in {seconds} s");
                    prop_assert!(bytes as f64 <= seconds * bytes_per_s as f64 + 1.0, "{bytes} in {seconds} s");
                }
            }
        }

        #[test]
        fn a_full_load_gets_all_of_its_rate(messages_per_s in 1_u64..5_000) {
            let count = 200;
            let sent = run(&mut Pacing::new(messages_per_s, 0), &vec![0; count], &vec![10; count]);
            let seconds = sent[count - 1].0 as f64 / 1e9;
            prop_assert!(seconds <= count as f64 / messages_per_s as f64 + 0.001);
        }
    }

    #[test]
    fn zero_is_no_limit() {
        let now = Instant::now();
        let mut pacing = Pacing::new(0, 0);
        assert!((0..100_000).all(|_| pacing.take(now, 1 << 40).is_ok()));
    }

    #[test]
    fn a_message_larger_than_the_bucket_goes_and_the_next_one_waits() {
        let now = Instant::now();
        let mut pacing = Pacing::new(0, 1_000);
        assert_eq!(pacing.take(now, 10_000), Ok(()));
        assert_eq!(pacing.take(now, 1), Err(now + Duration::from_millis(9_900)));
    }
}
