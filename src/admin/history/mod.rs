//! `GET /api/v1/history`: backlog and rates of every stream in the last hour.
//!
//! ```json
//! {"step_seconds": 10, "run": 2718281828, "first": 12, "streams":
//!  [{"name": "telemetry", "backlog": [0, 7, null], "in_per_s": [1.2, 3, null], "out_per_s": [1.2, 0, null], "lost": [0, 0, null]}]}
//! ```
//!
//! The lists of a stream are of one length. The first figure of each belongs to the step `first`, every other to the next step; `null`
//! is a step in which nobody looked. With `after=N` only what follows step `N` is given, so that a reader who has the hour asks for the
//! rest only. Steps are numbered from the gateway's start: where `run` is another number than before, all is new.

mod ring;

use std::time::Instant;

use axum::{
    Json, Router,
    extract::{Query, State as Shared, rejection::QueryRejection},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::{Deserialize, Serialize};

use super::{
    routes::{Failure, State, bad_query},
    views::thousandths,
};
use ring::{POINTS, Point, STEP};

pub(super) use ring::History;

#[derive(Deserialize)]
struct Behind {
    after: Option<u32>,
}

#[derive(Serialize)]
struct View {
    step_seconds: u64,
    run: u32,
    first: u32,
    streams: Vec<Stream>,
}

#[derive(Serialize)]
struct Stream {
    name: String,
    backlog: Vec<Option<u64>>,
    in_per_s: Vec<Option<f64>>,
    out_per_s: Vec<Option<f64>>,
    lost: Vec<Option<u32>>,
}

/// The route.
pub(super) fn router() -> Router<State> {
    Router::new().route("/api/v1/history", get(history))
}

async fn history(
    Shared(state): Shared<State>,
    behind: Result<Query<Behind>, QueryRejection>,
) -> Result<Response, Failure> {
    let Query(Behind { after }) = behind.map_err(bad_query)?;
    // In memory and bounded, so that no thread of its own is needed.
    let view = View::new(&mut state.history(), Instant::now(), after);
    Ok(Json(view).into_response())
}

impl View {
    fn new(history: &mut History, now: Instant, after: Option<u32>) -> Self {
        let current = history.step(now);
        let hour = u32::try_from(POINTS).unwrap_or(u32::MAX);
        // Older than an hour is not given; what comes from the future is asked by somebody who means another run.
        let after = after.filter(|after| *after < current);
        let first = after.map_or(0, |after| after + 1).max(current.saturating_sub(hour));
        let mut names: Vec<_> = history.streams().map(str::to_owned).collect();
        names.sort_unstable();
        let streams = names.into_iter().map(|name| Stream::new(history, name, first..current)).collect();
        Self { step_seconds: STEP.as_secs(), run: history.run(), first, streams }
    }
}

impl Stream {
    fn new(history: &History, name: String, steps: std::ops::Range<u32>) -> Self {
        let mut points = history.points(&name, steps.start.checked_sub(1)).peekable();
        let row: Vec<Option<Point>> = steps.map(|step| points.next_if(|point| point.step == step)).collect();
        drop(points);
        let rate = |rate: f32| thousandths(f64::from(rate));
        Self {
            name,
            backlog: row.iter().map(|point| point.map(|point| point.backlog)).collect(),
            in_per_s: row.iter().map(|point| point.map(|point| rate(point.in_per_s))).collect(),
            out_per_s: row.iter().map(|point| point.map(|point| rate(point.out_per_s))).collect(),
            lost: row.iter().map(|point| point.map(|point| point.lost)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::StreamStats;
    use std::time::Duration;

    fn sampled(seconds: impl Iterator<Item = u64>) -> (History, Instant) {
        let (mut history, begin) = (History::default(), Instant::now());
        let mut last = begin;
        for second in seconds {
            last = begin + Duration::from_secs(second);
            let stream = StreamStats { name: "s".to_owned(), accepted: second, ..StreamStats::default() };
            history.record(last, &[stream], &[]);
        }
        (history, last)
    }

    #[test]
    fn a_reader_who_has_the_hour_gets_the_rest() {
        let (mut history, now) = sampled(0..100);
        let all = View::new(&mut history, now, None);
        assert_eq!((all.first, all.streams[0].backlog.len()), (0, 9));
        let rest = View::new(&mut history, now, Some(6));
        assert_eq!((rest.first, rest.streams[0].in_per_s.clone()), (7, vec![Some(1.0); 2]));
        assert_eq!(View::new(&mut history, now, Some(8)).streams[0].backlog.len(), 0);
        assert_eq!(View::new(&mut history, now, Some(900)).streams[0].backlog.len(), 9, "another run is meant");
    }

    #[test]
    fn gaps_are_null_and_nothing_is_older_than_an_hour() {
        let (mut history, now) = sampled((0..20).chain(41..4000));
        let view = View::new(&mut history, now, None);
        assert_eq!((view.first, view.streams[0].backlog.len()), (39, POINTS));
        let (mut history, now) = sampled((0..20).chain(41..60));
        let view = View::new(&mut history, now, None);
        assert_eq!(view.streams[0].lost, [Some(0), Some(0), None, None, Some(0)]);
    }
}
