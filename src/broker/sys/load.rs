//! Load averages as Mosquitto has them: units a minute, exponentially averaged over 1, 5 and 15 minutes. Pure.

use std::time::Duration;

/// The names of the averages, and the minutes they are over.
const SPANS: [(&str, f64); 3] = [("1min", 1.0), ("5min", 5.0), ("15min", 15.0)];

/// What is averaged, under the names of `$SYS/broker/load/`.
pub(super) const NAMES: [&str; 9] = [
    "messages/received",
    "messages/sent",
    "publish/dropped",
    "publish/received",
    "publish/sent",
    "bytes/received",
    "bytes/sent",
    "sockets",
    "connections",
];

/// The averages of all of [`NAMES`].
#[derive(Debug, Default)]
pub(super) struct Loads {
    last: [u64; NAMES.len()],
    averages: [[f64; SPANS.len()]; NAMES.len()],
}

impl Loads {
    /// Takes the counters as they are now, in the order of [`NAMES`], `elapsed` after the last time.
    pub(super) fn sample(&mut self, counters: [u64; NAMES.len()], elapsed: Duration) {
        let minutes = elapsed.as_secs_f64() / 60.0;
        if minutes <= 0.0 {
            return;
        }
        for ((now, last), averages) in counters.iter().zip(&mut self.last).zip(&mut self.averages) {
            #[allow(clippy::cast_precision_loss, reason = "a load to look at may be rounded")]
            let rate = now.saturating_sub(*last) as f64 / minutes;
            for (average, (_, span)) in averages.iter_mut().zip(SPANS) {
                *average = rate + (-minutes / span).exp() * (*average - rate);
            }
            *last = *now;
        }
    }

    /// Names below `$SYS/` and values.
    pub(super) fn facts(&self) -> impl Iterator<Item = (String, String)> {
        NAMES.iter().zip(&self.averages).flat_map(|(name, averages)| {
            let of = move |((span, _), average): ((&str, f64), &f64)| {
                (format!("broker/load/{name}/{span}"), format!("{average:.2}"))
            };
            SPANS.into_iter().zip(averages).map(of)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::cast_precision_loss, reason = "counts of a test are far below 2^52")]

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_steady_load_is_approached_as_mosquitto_does() {
        let mut loads = Loads::default();
        let mut total = 0;
        for _ in 0..6 {
            total += 100;
            loads.sample([total; NAMES.len()], Duration::from_secs(10));
        }
        let facts: Vec<_> = loads.facts().filter(|(name, _)| name.contains("bytes/sent")).collect();
        // 600 a minute for one minute: 600 × (1 - e^(-1/span)).
        let expected = [("1min", "379.27"), ("5min", "108.76"), ("15min", "38.70")];
        assert_eq!(facts, expected.map(|(span, load)| (format!("broker/load/bytes/sent/{span}"), load.to_owned())));
        assert_eq!(loads.facts().count(), 27);
    }

    proptest! {
        #[test]
        fn no_average_leaves_the_range_of_its_rates(steps in proptest::collection::vec((0_u64..10_000, 1_u64..60_000), 1..50)) {
            let (mut loads, mut total, mut highest) = (Loads::default(), 0, 0.0_f64);
            for (count, elapsed_ms) in steps {
                total += count;
                loads.sample([total; NAMES.len()], Duration::from_millis(elapsed_ms));
                highest = highest.max(count as f64 * 60_000.0 / elapsed_ms as f64);
                for average in loads.averages.as_flattened() {
                    prop_assert!((0.0..=highest * 1.000_001).contains(average), "{average} of at most {highest}");
                }
            }
        }
    }
}
