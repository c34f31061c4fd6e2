//! Work that is done now and then is done at common moments: an idle processor then wakes up once for all of it.
//!
//! Measured (x86-64, tokio 1.54, one client, one uplink over TLS, nothing to do): 10.6 wake-ups a second where every timer counted from when
//! it was made, and the timer's wheel woke up twice for each; see `tests/bench/footprint.py` for the present figure.

use std::{sync::OnceLock, time::Duration};

use tokio::time::{Instant, sleep_until};

/// Waits for the next moment that is a multiple of `every` after the first call of the process: between no time and all of it. Cancel safe.
pub async fn wait(every: Duration) {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    let now = Instant::now();
    let first = *FIRST.get_or_init(|| now);
    sleep_until(now + until_next(now.saturating_duration_since(first), every)).await;
}

/// The time left until a multiple of `every`, so long after the first; never nothing.
fn until_next(elapsed: Duration, every: Duration) -> Duration {
    let (elapsed_ns, every_ns) = (elapsed.as_nanos(), every.as_nanos().max(1));
    let left_ns = every_ns - elapsed_ns % every_ns;
    u64::try_from(left_ns).map_or(every, Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_of_one_period_are_among_those_of_its_divisors() {
        let of = |elapsed_ms: u64, every_s: u64| {
            until_next(Duration::from_millis(elapsed_ms), Duration::from_secs(every_s)).as_millis()
        };
        assert_eq!([of(0, 5), of(1, 5), of(4_999, 5), of(5_000, 5)], [5_000, 4_999, 1, 5_000]);
        assert_eq!((12_300 + of(12_300, 10), 14_200 + of(14_200, 5), 15_000 + of(15_000, 5)), (20_000, 15_000, 20_000));
        assert_eq!(until_next(Duration::from_secs(3), Duration::ZERO), Duration::from_nanos(1));
    }
}
