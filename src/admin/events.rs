//! `GET /api/v1/events`: all that the dashboard shows, once a second, as server-sent events.
//!
//! ```text
//! event: state
//! data: {"status":{..},"streams":[..],"dead":{..},"away_seconds":{..},"commit":{..},"certificates":[..],"alarms":[..]}
//!
//! event: trouble
//! data: {"message":"the facts did not come within 5 s: is the disk stuck?"}
//! ```
//!
//! `status` and `streams` are what `/api/v1/status` and `/api/v1/streams` give; the alarms are made here, in `alarms`.
//!
//! # Bounds
//!
//! - [`MAX_FOLLOWERS`] at a time; the next one gets 503.
//! - The figures are gathered once for all followers, every [`EVERY`], and only while there is one. Nobody there: no work, no memory.
//! - One event is kept, the newest, and shared by all. A follower that reads slowly misses events; nothing is queued for it. One that takes
//!   nothing for [`SLOW`] loses its connection, and the kernel's part of it is bounded in `server`.
//! - With 20 streams an event has 10 kB. Five followers took 0.4 MiB and 0.2 % of a core then (x86-64, not optimised), none 0.
//!
//! # Stop, failure
//!
//! At the stop of the room every answer ends. Figures that cannot be gathered are an event of their own, so that a page can tell a disk that
//! is stuck from a gateway that is gone.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant, SystemTime},
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    extract::{Request, State as Shared},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::body::Frame;
use prometheus::proto::MetricFamily;
use serde::Serialize;
use serde_json::json;
use tokio::{
    sync::{Notify, watch},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;

use super::{
    Sources,
    alarms::{self, Alarm, Certificate, Flow, Picture},
    guests::HangUp,
    latency::{Buckets, Latency, Percentiles},
    routes::{Failure, State},
    views::{self, seconds, thousandths},
};
use crate::{
    stats::{DeadStats, StoreStats, StreamStats, UplinkStats},
    units::rfc3339,
};

/// Most followers at a time.
const MAX_FOLLOWERS: usize = 16;
/// The time between events.
const EVERY: Duration = Duration::from_secs(1);
/// How long a follower may take nothing before its connection is ended.
const SLOW: Duration = Duration::from_secs(20);

/// Those who follow, and what they are told.
pub(super) struct Followers {
    latest: watch::Sender<Option<Bytes>>,
    seats: Mutex<HashMap<u64, Seat>>,
    next: AtomicU64,
    joined: Notify,
    ended: CancellationToken,
}

/// One follower, as the teller sees it.
struct Seat {
    hang_up: HangUp,
    /// When it was given an event, while it has not asked for the next one.
    given: Option<Instant>,
}

/// A follower's place; given up when dropped.
struct Ticket {
    state: State,
    seat: u64,
}

/// The body of one answer. What it waits for owns all it needs, and gives it back.
struct Told {
    next: Pin<Box<dyn Future<Output = (Option<Bytes>, Follower)> + Send>>,
}

struct Follower {
    ticket: Ticket,
    news: watch::Receiver<Option<Bytes>>,
    ended: CancellationToken,
}

/// One event.
#[derive(Serialize)]
struct Event {
    status: views::Status,
    streams: Vec<views::Stream>,
    dead: DeadStats,
    /// How long each uplink that is away has been away.
    away_seconds: BTreeMap<String, f64>,
    commit: Option<Commit>,
    certificates: Vec<Ends>,
    alarms: Vec<Alarm>,
}

/// How long commits take.
#[derive(Serialize)]
struct Commit {
    p50_seconds: f64,
    p99_seconds: f64,
    commits: u64,
    window_seconds: f64,
}

#[derive(Serialize)]
struct Ends {
    file: String,
    not_after: Option<String>,
    left_seconds: i64,
}

/// What the sources said, at one moment.
struct Said {
    now: Instant,
    status: views::Status,
    streams: Vec<StreamStats>,
    uplinks: Vec<UplinkStats>,
    store: StoreStats,
    not_ready: Vec<String>,
    dead: DeadStats,
    clock_synced: bool,
    uptime: Duration,
}

/// The route.
pub(super) fn router() -> Router<State> {
    Router::new().route("/api/v1/events", get(events))
}

async fn events(Shared(state): Shared<State>, request: Request) -> Result<Response, Failure> {
    let hang_up = request.extensions().get::<HangUp>().cloned().unwrap_or_default();
    let follower = Follower::new(&state, hang_up)?;
    let body = Body::new(Told { next: Box::pin(follower.next()) });
    // Proxies that gather answers before they pass them on would hold back every event.
    Ok(([(CONTENT_TYPE.as_str(), "text/event-stream"), ("x-accel-buffering", "no")], body).into_response())
}

/// Gathers and tells as long as somebody follows; ends all answers at the stop, and never returns.
pub(super) async fn tell(state: State, stop: CancellationToken) {
    let followers = state.followers();
    let told = async {
        loop {
            followers.joined.notified().await;
            let mut latency = Latency::default();
            let mut tick = tokio::time::interval(EVERY);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while followers.any() {
                tick.tick().await;
                let event = gather(&state, &mut latency).await;
                followers.publish(Instant::now(), event);
            }
            followers.latest.send_replace(None);
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        never = told => match never {},
    }
    followers.ended.cancel();
    std::future::pending::<()>().await;
}

/// The text of the next event.
async fn gather(state: &State, latency: &mut Latency) -> String {
    let all = state.clone();
    let said = state.gather(move || (Said::gather(all.sources()), all.metrics().rooms())).await;
    let told = said.and_then(|(said, families)| {
        let event = Event::new(state, said, &families, latency);
        let broken = |error: serde_json::Error| {
            Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", format!("the figures cannot be told: {error}"))
        };
        serde_json::to_string(&event).map_err(broken)
    });
    match told {
        Ok(json) => format!("event: state\ndata: {json}\n\n"),
        Err(failure) => format!("event: trouble\ndata: {}\n\n", json!({ "message": failure.message() })),
    }
}

impl Default for Followers {
    fn default() -> Self {
        Self {
            latest: watch::Sender::new(None),
            seats: Mutex::default(),
            next: AtomicU64::new(0),
            joined: Notify::new(),
            ended: CancellationToken::new(),
        }
    }
}

impl Followers {
    fn seats(&self) -> MutexGuard<'_, HashMap<u64, Seat>> {
        // Whatever a panic left is a list of followers all the same.
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn any(&self) -> bool {
        !self.seats().is_empty()
    }

    /// Tells everybody who listens, and sends away who has not listened for long.
    fn publish(&self, now: Instant, event: String) {
        for seat in self.seats().values() {
            if seat.given.is_some_and(|given| now.saturating_duration_since(given) > SLOW) {
                seat.hang_up.now();
            }
        }
        self.latest.send_replace(Some(Bytes::from(event)));
    }

    fn mark(&self, seat: u64, given: Option<Instant>) {
        if let Some(seat) = self.seats().get_mut(&seat) {
            seat.given = given;
        }
    }
}

impl Follower {
    /// Takes a seat, if there is one.
    fn new(state: &State, hang_up: HangUp) -> Result<Self, Failure> {
        let followers = state.followers();
        let seat = followers.next.fetch_add(1, Ordering::Relaxed);
        {
            let mut seats = followers.seats();
            if seats.len() >= MAX_FOLLOWERS {
                let message = format!(
                    "{MAX_FOLLOWERS} already follow the events, and that is all there is room for; close a page that nobody looks at"
                );
                return Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, "too-many-followers", message));
            }
            seats.insert(seat, Seat { hang_up, given: None });
        }
        let mut news = followers.latest.subscribe();
        // What was told last is news to who has just come.
        news.mark_changed();
        followers.joined.notify_one();
        let ended = followers.ended.clone();
        Ok(Self { ticket: Ticket { state: state.clone(), seat }, news, ended })
    }

    /// The next event, with what waits for the one after it; `None` at the end.
    async fn next(mut self) -> (Option<Bytes>, Self) {
        self.ticket.state.followers().mark(self.ticket.seat, None);
        let told = loop {
            let changed = tokio::select! {
                () = self.ended.cancelled() => break None,
                changed = self.news.changed() => changed,
            };
            if changed.is_err() {
                break None;
            }
            let event = self.news.borrow_and_update().clone();
            if event.is_some() {
                break event;
            }
        };
        self.ticket.state.followers().mark(self.ticket.seat, Some(Instant::now()));
        (told, self)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.state.followers().seats().remove(&self.seat);
    }
}

impl HttpBody for Told {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let (told, follower) = ready!(self.next.as_mut().poll(context));
        self.next = Box::pin(follower.next());
        Poll::Ready(told.map(|event| Ok(Frame::data(event))))
    }
}

impl Said {
    /// May block: see [`Sources`].
    fn gather(sources: &dyn Sources) -> Self {
        Self {
            now: Instant::now(),
            status: views::Status::gather(sources),
            streams: sources.streams(),
            uplinks: sources.uplinks(),
            store: sources.store(),
            not_ready: sources.not_ready(),
            dead: sources.dead_stats(),
            clock_synced: sources.clock_synced(),
            uptime: sources.uptime(),
        }
    }
}

impl Event {
    fn new(state: &State, said: Said, families: &[MetricFamily], latency: &mut Latency) -> Self {
        let Said { now, status, streams, uplinks, store, not_ready, dead, clock_synced, uptime } = said;
        let commit = latency.see(now, commits(families), uptime).map(Commit::from);
        let unix_s = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let certificates = certificates(families, i64::try_from(unix_s).unwrap_or(i64::MAX));
        let (uplinks, flows): (Vec<_>, Vec<_>) = {
            let history = state.history();
            let away = |uplink: UplinkStats| {
                let away = history.away(now, &uplink.name);
                (uplink, away)
            };
            let flow = |books| Flow { books, rates: state.rates(now, books), lost_in_hour: history.lost(&books.name) };
            (uplinks.into_iter().map(away).collect(), streams.iter().map(flow).collect())
        };
        let judged: Vec<_> = certificates.iter().map(|(certificate, _)| certificate).collect();
        let alarms = alarms::judge(&Picture {
            not_ready: &not_ready,
            store: &store,
            uplinks: &uplinks,
            streams: &flows,
            dead,
            clock_synced,
            certificates: &judged,
        });
        let away = uplinks.into_iter().filter_map(|(uplink, away)| Some((uplink.name, seconds(away?))));
        let away_seconds = away.collect();
        let certificates = certificates.into_iter().map(|(certificate, not_after)| Ends {
            file: certificate.file,
            not_after,
            left_seconds: certificate.left_s,
        });
        let certificates = certificates.collect();
        let streams = streams.into_iter().map(|books| state.with_rates(now, books)).collect();
        Self { status, streams, dead, away_seconds, commit, certificates, alarms }
    }
}

impl From<Percentiles> for Commit {
    fn from(percentiles: Percentiles) -> Self {
        let tenths_of_ms = |seconds: f64| (seconds * 1e4).round() / 1e4;
        Self {
            p50_seconds: tenths_of_ms(percentiles.p50),
            p99_seconds: tenths_of_ms(percentiles.p99),
            commits: percentiles.count,
            window_seconds: thousandths(percentiles.window.as_secs_f64()),
        }
    }
}

/// The histogram of commits; empty where no room has one.
fn commits(families: &[MetricFamily]) -> Buckets {
    let family = families.iter().find(|family| family.name() == "tidegate_store_commit_seconds");
    let Some(metric) = family.and_then(|family| family.get_metric().first()) else { return Buckets::default() };
    let histogram = metric.get_histogram();
    let finite = histogram.get_bucket().iter().map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
    Buckets(finite.chain([(f64::INFINITY, histogram.get_sample_count())]).collect())
}

/// The certificates of the listeners, with the end of each.
#[expect(clippy::cast_possible_truncation, reason = "seconds since 1970, which the metric has as a floating number")]
fn certificates(families: &[MetricFamily], unix_s: i64) -> Vec<(Certificate, Option<String>)> {
    let family = families.iter().find(|family| family.name() == "tidegate_tls_not_after_seconds");
    let ends = |metric: &prometheus::proto::Metric| {
        let file = metric.get_label().first()?.value().to_owned();
        let end_s = metric.get_gauge().get_value() as i64;
        let since = Duration::from_secs(u64::try_from(end_s).ok()?);
        let not_after = SystemTime::UNIX_EPOCH.checked_add(since).and_then(rfc3339);
        Some((Certificate { file, left_s: end_s.saturating_sub(unix_s) }, not_after))
    };
    family.map_or_else(Vec::new, |family| family.get_metric().iter().filter_map(ends).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_nothing_for_long_is_sent_away_and_who_waits_is_not() {
        let (followers, begin) = (Followers::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        let hang_ups: Vec<HangUp> = (0..3).map(|_| HangUp::default()).collect();
        for ((seat, hang_up), given) in (0..).zip(&hang_ups).zip([None, Some(at(0)), Some(at(15))]) {
            followers.seats().insert(seat, Seat { hang_up: hang_up.clone(), given });
        }
        followers.publish(at(19), String::new());
        assert!(hang_ups.iter().all(|hang_up| !hang_up.is_due()));
        followers.publish(at(21), String::new());
        assert_eq!(hang_ups.iter().map(HangUp::is_due).collect::<Vec<_>>(), [false, true, false]);
        // The one that was slow has read at last.
        followers.mark(2, None);
        followers.publish(at(99), String::new());
        assert!(!hang_ups[2].is_due());
    }
}
