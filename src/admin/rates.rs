//! Rates of the streams from samples of their books: plain arithmetic, `now` is an argument.
//!
//! One sample per stream and second is kept, [`RATE_WINDOW`] back. A rate is the difference between the books now and
//! the oldest sample of the window, by the time between: it needs no smoothing constant, and is exact for what it says
//! ("in the last 10 s"). Bound: [`SAMPLES`] samples a stream, and only streams that were there at the last sample.

#![allow(
    clippy::cast_precision_loss,
    reason = "counts beyond 2^53 do not happen, and a figure to look at may be rounded"
)]

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use crate::stats::StreamStats;

/// The time over which rates are taken.
pub const RATE_WINDOW: Duration = Duration::from_secs(10);
/// The time between samples.
pub(super) const SAMPLE_EVERY: Duration = Duration::from_secs(1);
/// Most samples kept of one stream: the window, both its ends, and one for a tick that came early.
const SAMPLES: usize = 12;
/// Differences over less time than this say more about the moment than about the stream.
const SHORTEST_SPAN: Duration = Duration::from_millis(500);

/// How fast a stream moves.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Rates {
    /// Messages accepted a second.
    pub(super) in_per_s: f64,
    /// Messages forwarded a second.
    pub(super) out_per_s: f64,
    /// Seconds until the backlog is gone if things go on like this; `None` when it does not shrink.
    pub(super) seconds_to_drain: Option<f64>,
}

/// What a sample keeps of the books.
#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    accepted: u64,
    forwarded: u64,
    /// All that shrinks the backlog in the course of things. A purge does too, but says nothing about what comes next.
    left: u64,
}

impl Sample {
    fn of(at: Instant, books: &StreamStats) -> Self {
        let left = books.forwarded + books.expired + books.dropped_total() + books.dead_total();
        Self { at, accepted: books.accepted, forwarded: books.forwarded, left }
    }
}

/// The samples of all streams.
#[derive(Debug, Default)]
pub(super) struct Sampler {
    streams: HashMap<String, VecDeque<Sample>>,
}

impl Sampler {
    /// Keeps a sample of every stream, and forgets streams that are no longer there.
    pub(super) fn record(&mut self, now: Instant, books: &[StreamStats]) {
        self.streams.retain(|name, _| books.iter().any(|stream| stream.name == *name));
        for stream in books {
            let samples = self.streams.entry(stream.name.clone()).or_default();
            if samples.len() >= SAMPLES {
                samples.pop_front();
            }
            samples.push_back(Sample::of(now, stream));
        }
    }

    /// The rates of a stream whose books are `books` now.
    pub(super) fn rates(&self, now: Instant, books: &StreamStats) -> Rates {
        let idle = Rates { seconds_to_drain: (books.backlog_messages == 0).then_some(0.0), ..Rates::default() };
        let within = |sample: &&Sample| now.saturating_duration_since(sample.at) <= RATE_WINDOW + SHORTEST_SPAN;
        let Some(then) = self.streams.get(&books.name).and_then(|samples| samples.iter().find(within)) else {
            return idle;
        };
        let span = now.saturating_duration_since(then.at);
        if span < SHORTEST_SPAN {
            return idle;
        }
        let now = Sample::of(now, books);
        let per_s = |now: u64, then: u64| now.saturating_sub(then) as f64 / span.as_secs_f64();
        let shrinks_per_s = per_s(now.left, then.left) - per_s(now.accepted, then.accepted);
        let seconds_to_drain = match books.backlog_messages {
            0 => Some(0.0),
            backlog => (shrinks_per_s > 0.0).then(|| backlog as f64 / shrinks_per_s),
        };
        Rates {
            in_per_s: per_s(now.accepted, then.accepted),
            out_per_s: per_s(now.forwarded, then.forwarded),
            seconds_to_drain,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn books(accepted: u64, forwarded: u64) -> StreamStats {
        StreamStats {
            name: "s".to_owned(),
            accepted,
            forwarded,
            backlog_messages: accepted.saturating_sub(forwarded),
            ..StreamStats::default()
        }
    }

    /// Feeds a steady stream for `seconds` and returns the rates at the end.
    fn steady(seconds: u32, start: u64, in_per_s: u64, out_per_s: u64) -> Rates {
        let mut sampler = Sampler::default();
        let begin = Instant::now();
        let at = |second: u32| {
            let passed = u64::from(second);
            (begin + SAMPLE_EVERY * second, books(start + in_per_s * passed, out_per_s * passed))
        };
        for second in 0..seconds {
            let (now, books) = at(second);
            sampler.record(now, &[books]);
            assert!(sampler.streams["s"].len() <= SAMPLES);
        }
        let (now, books) = at(seconds);
        sampler.rates(now, &books)
    }

    #[test]
    fn without_history_nothing_is_claimed() {
        let sampler = Sampler::default();
        assert_eq!(sampler.rates(Instant::now(), &books(7, 0)), Rates::default());
        assert_eq!(sampler.rates(Instant::now(), &books(7, 7)).seconds_to_drain, Some(0.0));
    }

    #[test]
    fn old_samples_do_not_count_as_now() {
        let mut sampler = Sampler::default();
        let begin = Instant::now();
        sampler.record(begin, &[books(0, 0)]);
        assert_eq!(sampler.rates(begin + Duration::from_secs(60), &books(1000, 0)), Rates::default());
    }

    #[test]
    fn a_stream_that_is_gone_is_forgotten() {
        let mut sampler = Sampler::default();
        sampler.record(Instant::now(), &[books(0, 0)]);
        sampler.record(Instant::now(), &[]);
        assert!(sampler.streams.is_empty());
    }

    #[test]
    fn a_backlog_that_grows_has_no_end() {
        assert_eq!(steady(20, 0, 100, 50).seconds_to_drain, None);
    }

    proptest! {
        #[test]
        fn a_steady_stream_shows_its_rates(seconds in 1u32..100, start in 1_000_000u64..2_000_000, inward in 0u64..1000, more in 1u64..5000) {
            let rates = steady(seconds, start, inward, inward + more);
            prop_assert!((rates.in_per_s - inward as f64).abs() < 1e-6);
            prop_assert!((rates.out_per_s - (inward + more) as f64).abs() < 1e-6);
            let left = start - more * u64::from(seconds);
            let expected = left as f64 / more as f64;
            prop_assert!((rates.seconds_to_drain.unwrap() - expected).abs() < 1e-3);
        }

        #[test]
        fn no_books_give_a_figure_that_json_cannot_say(
            steps in proptest::collection::vec((0u64..20_000, any::<u32>(), any::<u32>()), 1..40),
        ) {
            let mut sampler = Sampler::default();
            let mut now = Instant::now();
            for (passed_ms, accepted, forwarded) in steps {
                now += Duration::from_millis(passed_ms);
                let books = books(u64::from(accepted), u64::from(forwarded));
                let rates = sampler.rates(now, &books);
                prop_assert!(rates.in_per_s.is_finite() && rates.in_per_s >= 0.0);
                prop_assert!(rates.out_per_s.is_finite() && rates.out_per_s >= 0.0);
                prop_assert!(rates.seconds_to_drain.is_none_or(|s| s.is_finite() && s >= 0.0));
                sampler.record(now, &[books]);
            }
        }
    }
}
