//! What an operator may have done: the POST and DELETE requests.

use std::{future::Future, pin::Pin, time::SystemTime};

use axum::{
    Json, Router,
    extract::{
        Path, Query, State as Shared,
        rejection::{PathRejection, QueryRejection},
    },
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use serde::Deserialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    ANSWER_TIMEOUT, dead, messages, reload,
    routes::{Failure, State, bad_path, bad_query, stream_now},
    views,
};
use crate::units::parse_duration;

/// What an operator asks for; streams by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Forward nothing new.
    Pause {
        /// The stream.
        stream: String,
    },
    /// Forward again.
    Resume {
        /// The stream.
        stream: String,
    },
    /// Everything in the backlog leaves as purged.
    Purge {
        /// The stream.
        stream: String,
        /// The last number that does; `u64::MAX` for all.
        to: u64,
    },
    /// Kept messages are sent again.
    Replay {
        /// The stream.
        stream: String,
        /// Those accepted from this moment on, in milliseconds since 1970 ...
        since_unix_ms: i64,
        /// ... and before this one.
        until_unix_ms: i64,
    },
    /// The replay that runs ends.
    StopReplay {
        /// The stream.
        stream: String,
    },
    /// A dead letter goes back to the end of its stream.
    RetryDead {
        /// Which.
        id: u64,
    },
    /// A dead letter is forgotten.
    PurgeDead {
        /// Which.
        id: u64,
    },
    /// All dead letters are forgotten, or those of one stream.
    PurgeAllDead {
        /// The stream.
        stream: Option<String>,
    },
}

/// What comes of it, later: how many messages it was about, or why nothing was done.
/// Dropping it undoes nothing.
pub type Answer<T> = Pin<Box<dyn Future<Output = Result<T, Refused>> + Send>>;

/// An order that was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// In which way.
    pub why: Why,
    /// The story, for the operator.
    pub message: String,
}

/// Why an order was not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// There is no such stream, dead letter or client.
    NotFound,
    /// The client has a session and is not connected.
    NotConnected,
    /// The gateway keeps that for itself.
    Reserved,
    /// It does not go with how things are.
    Conflict,
    /// There is no room.
    Full,
    /// Nothing can be stored before the disk is well again.
    Suspended,
    /// The gateway stops.
    Stopping,
    /// The store has failed.
    Failed,
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        let (status, code) = match refused.why {
            Why::NotFound => (StatusCode::NOT_FOUND, "not-found"),
            Why::NotConnected => (StatusCode::NOT_FOUND, "not-connected"),
            Why::Reserved => (StatusCode::FORBIDDEN, "reserved-topic"),
            Why::Conflict => (StatusCode::CONFLICT, "conflict"),
            Why::Full => (StatusCode::INSUFFICIENT_STORAGE, "full"),
            Why::Suspended => (StatusCode::SERVICE_UNAVAILABLE, "store-suspended"),
            Why::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
            Why::Failed => (StatusCode::SERVICE_UNAVAILABLE, "store-failed"),
        };
        Self::new(status, code, refused.message)
    }
}

/// The routes of all orders.
pub(super) fn router() -> Router<State> {
    Router::new()
        .route("/api/v1/streams/{name}/pause", post(pause))
        .route("/api/v1/streams/{name}/resume", post(resume))
        .route("/api/v1/streams/{name}/purge", post(purge))
        .route("/api/v1/streams/{name}/replay", post(replay))
        .route("/api/v1/reload", post(reload::reload))
        .merge(dead::router())
        .merge(messages::router())
}

type Name = Result<Path<String>, PathRejection>;

async fn pause(Shared(state): Shared<State>, name: Name) -> Result<Response, Failure> {
    on_stream(&state, name, |stream| Order::Pause { stream }).await
}

async fn resume(Shared(state): Shared<State>, name: Name) -> Result<Response, Failure> {
    on_stream(&state, name, |stream| Order::Resume { stream }).await
}

/// What is purged: all, or up to and with the number `to`.
#[derive(Deserialize)]
struct Upto {
    to: Option<u64>,
}

async fn purge(
    Shared(state): Shared<State>,
    name: Name,
    upto: Result<Query<Upto>, QueryRejection>,
) -> Result<Response, Failure> {
    let Query(Upto { to }) = upto.map_err(bad_query)?;
    on_stream(&state, name, |stream| Order::Purge { stream, to: to.unwrap_or(u64::MAX) }).await
}

/// What a replay is to send: messages accepted from `since` on and before `until`, each a time (RFC 3339) or how long ago (`2h`).
#[derive(Deserialize)]
struct Span {
    since: Option<String>,
    until: Option<String>,
    #[serde(default)]
    stop: bool,
}

async fn replay(
    Shared(state): Shared<State>,
    name: Name,
    span: Result<Query<Span>, QueryRejection>,
) -> Result<Response, Failure> {
    let Query(span) = span.map_err(bad_query)?;
    let moment = |text: Option<String>, unbounded| text.map_or(Ok(unbounded), |text| unix_ms(&text, SystemTime::now()));
    let (since_unix_ms, until_unix_ms) = (moment(span.since, i64::MIN)?, moment(span.until, i64::MAX)?);
    let order = |stream| {
        if span.stop { Order::StopReplay { stream } } else { Order::Replay { stream, since_unix_ms, until_unix_ms } }
    };
    on_stream(&state, name, order).await
}

/// A time in milliseconds since 1970, from RFC 3339 or from how long ago it is.
fn unix_ms(text: &str, now: SystemTime) -> Result<i64, Failure> {
    let ms = |time: OffsetDateTime| i64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok();
    let absolute = || OffsetDateTime::parse(text, &Rfc3339).ok().and_then(ms);
    let ago = || parse_duration(text).ok().and_then(|ago| ms(OffsetDateTime::from(now.checked_sub(ago)?)));
    absolute().or_else(ago).ok_or_else(|| {
        let message =
            format!("`{text}` is no time; expected one such as 2026-11-21T10:00:00Z, or how long ago, such as 2h");
        Failure::new(StatusCode::BAD_REQUEST, "bad-query", message)
    })
}

/// Has an order carried out, and answers with the stream as it is then.
async fn on_stream(state: &State, name: Name, order: impl FnOnce(String) -> Order) -> Result<Response, Failure> {
    let Path(name) = name.map_err(bad_path)?;
    let messages = in_time(state.sources().operate(order(name.clone()))).await?;
    let stream = stream_now(state, &name).await?;
    Ok(Json(views::Operated { stream, messages }).into_response())
}

/// Waits for an answer, but not for ever: a disk that is stuck or full must not hold up whoever asks.
pub(super) async fn in_time<T>(answer: Answer<T>) -> Result<T, Failure> {
    match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_elapsed) => Err(Failure::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "timeout",
            format!(
                "not on disk within {} s (is the disk full or stuck?); it may still be done",
                ANSWER_TIMEOUT.as_secs()
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn moments_are_times_or_how_long_ago() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let read = |text: &str| unix_ms(text, now).ok();
        assert_eq!(read("2026-11-21T10:41:30.290Z"), Some(1_795_257_690_290));
        assert_eq!(read("2026-11-21T11:41:30.290+01:00"), Some(1_795_257_690_290));
        assert_eq!(read("1h30m"), Some((1_000_000 - 5_400) * 1000));
        for wrong in ["", "yesterday", "2026-11-21", "5", "-2h"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
