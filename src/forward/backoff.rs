//! How long to wait before the next try: exponential with full jitter; pure, so randomness is an argument.

use std::time::Duration;

use crate::uplink::Backoff;

/// Counts tries in vain and turns them into waits.
///
/// The upper bound doubles from `min` to `max`; the wait is anywhere between nothing and the bound, so that a thousand
/// gateways that lost their upstream at the same moment do not come back at the same moment.
#[derive(Debug, Clone)]
pub(super) struct Waits {
    bounds: Backoff,
    in_vain: u32,
}

impl Waits {
    pub(super) const fn new(bounds: Backoff) -> Self {
        Self { bounds, in_vain: 0 }
    }

    /// The wait after one more try in vain. `random`: uniform in `[0, 1)`.
    pub(super) fn next(&mut self, random: f64) -> Duration {
        let bound = self.bound();
        self.in_vain = self.in_vain.saturating_add(1);
        bound.mul_f64(random.clamp(0.0, 1.0))
    }

    /// Something was acknowledged: the next wait is a short one again. A CONNACK alone is not enough, or an upstream that accepts and
    /// drops would be hammered.
    pub(super) const fn made_progress(&mut self) {
        self.in_vain = 0;
    }

    fn bound(&self) -> Duration {
        let factor = 1_u32.checked_shl(self.in_vain).unwrap_or(u32::MAX);
        self.bounds.min.saturating_mul(factor).min(self.bounds.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn waits_stay_within_doubling_bounds(
            min_ms in 1_u64..5_000, max_ms in 1_u64..100_000, randoms in proptest::collection::vec(0.0_f64..1.0, 1..80),
        ) {
            let bounds = Backoff { min: Duration::from_millis(min_ms), max: Duration::from_millis(max_ms) };
            let mut waits = Waits::new(bounds);
            let mut bound = bounds.min.min(bounds.max);
            for random in randoms {
                let wait = waits.next(random);
                prop_assert!(wait <= bound);
                prop_assert!(wait >= bound.mul_f64(random * 0.999));
                bound = (bound * 2).min(bounds.max);
            }
            waits.made_progress();
            prop_assert!(waits.next(1.0) <= bounds.min.min(bounds.max));
        }
    }
}
