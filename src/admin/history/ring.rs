//! The last hour of every stream, and since when uplinks are away: plain arithmetic, `now` is an argument.
//!
//! Time is cut into steps of [`STEP`], numbered from the first sample on. A stream has one [`Point`] for each step in which it was seen:
//! the largest backlog, and what came, went and was lost per second of the time that the point really covers. A step without a sample (a
//! machine that slept, a disk that was stuck) has no point, and shows as a gap and not as zero.
//!
//! Bound: [`POINTS`] points of 24 bytes for each of at most [`MAX_STREAMS`] streams, 2.2 MiB for all of them; 9 KiB for one. A stream that
//! is no longer there is forgotten. A crash forgets everything; nothing here is on disk.

#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "figures to look at may be rounded; steps since the start fit 32 bits for 1300 years"
)]

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use crate::stats::{StreamStats, UplinkState, UplinkStats};

/// The time that one point stands for.
pub(crate) const STEP: Duration = Duration::from_secs(10);
/// Points kept of a stream: one hour.
pub(crate) const POINTS: usize = 360;
/// Most streams whose history is kept; more are shown without.
pub(crate) const MAX_STREAMS: usize = 256;

/// One step of a stream.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Point {
    /// The number of the step.
    pub(crate) step: u32,
    /// Messages that expired or were dropped in it.
    pub(crate) lost: u32,
    /// The most messages that its samples saw in the backlog.
    pub(crate) backlog: u64,
    /// Messages accepted a second.
    pub(crate) in_per_s: f32,
    /// Messages forwarded a second.
    pub(crate) out_per_s: f32,
}

/// The books at one moment.
#[derive(Debug, Clone, Copy)]
struct Books {
    at: Instant,
    accepted: u64,
    forwarded: u64,
    lost: u64,
}

/// One stream: its finished points, and the step that is not over.
#[derive(Debug)]
struct Track {
    points: VecDeque<Point>,
    step: u32,
    since: Books,
    highest: u64,
}

/// An uplink that is not connected.
#[derive(Debug, Clone, Copy)]
struct Away {
    since: Instant,
}

/// What is kept.
#[derive(Debug, Default)]
pub(crate) struct History {
    run: u32,
    began: Option<Instant>,
    streams: HashMap<String, Track>,
    away: HashMap<String, Away>,
}

impl Books {
    fn of(at: Instant, stream: &StreamStats) -> Self {
        let lost = stream.expired + stream.dropped_total();
        Self { at, accepted: stream.accepted, forwarded: stream.forwarded, lost }
    }
}

impl Track {
    fn new(step: u32, since: Books, backlog: u64) -> Self {
        Self { points: VecDeque::new(), step, since, highest: backlog }
    }

    /// Ends the step that is not over where `now` is in another one.
    fn see(&mut self, step: u32, now: Books, backlog: u64) {
        if step != self.step {
            let span = now.at.saturating_duration_since(self.since.at).as_secs_f64().max(0.001);
            let per_s = |now: u64, then: u64| (now.saturating_sub(then) as f64 / span) as f32;
            if self.points.len() >= POINTS {
                self.points.pop_front();
            }
            self.points.push_back(Point {
                step: self.step,
                lost: u32::try_from(now.lost.saturating_sub(self.since.lost)).unwrap_or(u32::MAX),
                backlog: self.highest,
                in_per_s: per_s(now.accepted, self.since.accepted),
                out_per_s: per_s(now.forwarded, self.since.forwarded),
            });
            (self.step, self.since, self.highest) = (step, now, backlog);
        }
        self.highest = self.highest.max(backlog);
    }
}

impl History {
    /// An empty one; `run` tells it from those of other runs of the gateway.
    pub(crate) fn new(run: u32) -> Self {
        Self { run, ..Self::default() }
    }

    /// What tells this run of the gateway from another.
    pub(crate) fn run(&self) -> u32 {
        self.run
    }

    /// Keeps a sample of all streams and uplinks; forgets those that are no longer there.
    pub(crate) fn record(&mut self, now: Instant, streams: &[StreamStats], uplinks: &[UplinkStats]) {
        let step = self.step(now);
        self.streams.retain(|name, _| streams.iter().any(|stream| stream.name == *name));
        for stream in streams {
            let (books, backlog) = (Books::of(now, stream), stream.backlog_messages);
            if let Some(track) = self.streams.get_mut(&stream.name) {
                track.see(step, books, backlog);
            } else if self.streams.len() < MAX_STREAMS {
                self.streams.insert(stream.name.clone(), Track::new(step, books, backlog));
            }
        }
        self.away.retain(|name, _| uplinks.iter().any(|up| up.name == *name && up.state != UplinkState::Connected));
        for uplink in uplinks.iter().filter(|uplink| uplink.state != UplinkState::Connected) {
            // What it is doing now it may have been doing for longer than it has been looked at.
            let since = now.checked_sub(uplink.since).unwrap_or(now);
            self.away.entry(uplink.name.clone()).or_insert(Away { since });
        }
    }

    /// For how long an uplink has not been connected; `None` where it is, or was at the last sample.
    pub(crate) fn away(&self, now: Instant, uplink: &str) -> Option<Duration> {
        self.away.get(uplink).map(|away| now.saturating_duration_since(away.since))
    }

    /// Messages that a stream lost (expired, dropped) in the last hour, as far as its steps are over.
    pub(crate) fn lost(&self, stream: &str) -> u64 {
        self.streams.get(stream).map_or(0, |track| track.points.iter().map(|point| u64::from(point.lost)).sum())
    }

    /// The step in which `now` is.
    pub(crate) fn step(&mut self, now: Instant) -> u32 {
        let began = *self.began.get_or_insert(now);
        (now.saturating_duration_since(began).as_secs() / STEP.as_secs()) as u32
    }

    /// The points of a stream behind step `after`, oldest first.
    pub(crate) fn points(&self, stream: &str, after: Option<u32>) -> impl Iterator<Item = Point> + '_ {
        let points = self.streams.get(stream).into_iter().flat_map(|track| track.points.iter().copied());
        points.filter(move |point| after.is_none_or(|after| point.step > after))
    }

    /// The streams that have a history.
    pub(crate) fn streams(&self) -> impl Iterator<Item = &str> {
        self.streams.keys().map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(accepted: u64, forwarded: u64) -> StreamStats {
        StreamStats {
            name: "s".to_owned(),
            accepted,
            forwarded,
            backlog_messages: accepted - forwarded,
            ..StreamStats::default()
        }
    }

    fn uplink(state: UplinkState, since_s: u64) -> UplinkStats {
        UplinkStats {
            name: "cloud".to_owned(),
            state,
            since: Duration::from_secs(since_s),
            last_error: None,
            in_flight: 0,
            connects: 0,
            url: None,
        }
    }

    #[test]
    fn a_point_has_the_rates_of_its_step_and_its_highest_backlog() {
        let (mut history, begin) = (History::default(), Instant::now());
        for second in 0..=10 {
            let backlog = if second == 5 { 70 } else { 0 };
            let stream = StreamStats { backlog_messages: backlog, ..stream(100 + 3 * second, 100 + 2 * second) };
            history.record(begin + Duration::from_secs(second), &[stream], &[]);
        }
        let point = Point { step: 0, lost: 0, backlog: 70, in_per_s: 3.0, out_per_s: 2.0 };
        assert_eq!(history.points("s", None).collect::<Vec<_>>(), [point]);
        assert_eq!(history.points("s", Some(0)).count(), 0);
    }

    #[test]
    fn a_time_without_samples_is_a_gap() {
        let (mut history, begin) = (History::default(), Instant::now());
        for second in [0, 9, 65, 75] {
            history.record(begin + Duration::from_secs(second), &[stream(second, 0)], &[]);
        }
        assert_eq!(history.points("s", None).map(|point| point.step).collect::<Vec<_>>(), [0, 6]);
    }

    #[test]
    fn what_was_lost_is_summed_over_the_hour() {
        let (mut history, begin) = (History::default(), Instant::now());
        for second in 0..30 {
            let stream = StreamStats { expired: second, dead: vec![("x".to_owned(), 1)], ..stream(second, 0) };
            history.record(begin + Duration::from_secs(second), &[stream], &[]);
        }
        assert_eq!(history.lost("s"), 20, "the third step is not over, and what was there at first is old");
        assert_eq!(history.lost("other"), 0);
    }

    #[test]
    fn an_uplink_is_away_since_it_was_last_connected() {
        let (mut history, begin) = (History::default(), Instant::now());
        let at = |second| begin + Duration::from_secs(second);
        history.record(at(100), &[], &[uplink(UplinkState::Connected, 50)]);
        assert_eq!(history.away(at(100), "cloud"), None);
        for (second, state) in
            [(101, UplinkState::Waiting), (102, UplinkState::Connecting), (109, UplinkState::Waiting)]
        {
            history.record(at(second), &[], &[uplink(state, 0)]);
        }
        assert_eq!(history.away(at(110), "cloud"), Some(Duration::from_secs(9)));
        history.record(at(111), &[], &[uplink(UplinkState::Connected, 0)]);
        assert_eq!(history.away(at(112), "cloud"), None);
    }

    #[test]
    fn streams_that_are_gone_are_forgotten_and_too_many_are_not_kept() {
        let mut history = History::default();
        let many: Vec<_> =
            (0..MAX_STREAMS + 9).map(|n| StreamStats { name: n.to_string(), ..StreamStats::default() }).collect();
        history.record(Instant::now(), &many, &[]);
        assert_eq!(history.streams().count(), MAX_STREAMS);
        history.record(Instant::now(), &many[..2], &[]);
        assert_eq!(history.streams().count(), 2);
        assert!(size_of::<Point>() <= 24);
    }

    proptest! {
        #[test]
        fn it_never_grows_beyond_the_hour_and_says_only_what_json_can(
            steps in proptest::collection::vec((0u64..40_000, any::<u32>(), any::<u32>()), 1..900),
        ) {
            let (mut history, mut now) = (History::default(), Instant::now());
            for (passed_ms, accepted, backlog) in steps {
                now += Duration::from_millis(passed_ms);
                let stream = StreamStats { backlog_messages: backlog.into(), ..stream(accepted.into(), 0) };
                history.record(now, &[stream], &[]);
            }
            let points: Vec<_> = history.points("s", None).collect();
            prop_assert!(points.len() <= POINTS);
            prop_assert!(points.is_sorted_by(|a, b| a.step < b.step));
            prop_assert!(points.iter().all(|p| p.in_per_s.is_finite() && p.in_per_s >= 0.0));
        }
    }
}
