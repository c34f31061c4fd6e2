//! `POST /api/v1/publish`: the body becomes a message.
//!
//! # What happens to it
//!
//! It takes the road of a client's PUBLISH: every stream that matches gets it, it is queued for lasting local sessions, retained where
//! that was asked for, and passed on to local subscribers. 200 means that all of this is committed and synced, whatever `qos` says.
//!
//! | parameter | is |
//! | --- | --- |
//! | `topic` | a topic name; no wildcards, not below `$SYS` |
//! | `qos` | 0, 1 (default) or 2: what local subscribers get at most, and whether a stream with `qos0 = "live-only"` or the queue of a session that is away takes it; how it goes upstream is the uplink's business |
//! | `retain` | `true` or `false` (default); with an empty body the retained message is deleted |
//!
//! The client id (`{client}` of topic templates, `client` of dead letters) is [`CLIENT_ID`]. Access rules are not asked: whoever may use
//! `[admin]` may publish anything.
//!
//! # Bounds
//!
//! - A body is at most as large as the largest packet that any listener takes, and never more than [`MAX_BODY_BYTES`]: 413.
//! - It must be complete within [`BODY_TIMEOUT`]: 408. While it is awaited the connection counts as idle, and makes room for others.
//! - All bodies together, those on their way into the store included, take at most [`ALL_BODIES_BYTES`], each counting for at least
//!   [`BODY_BYTES_MIN`], so that a disk that hangs costs no more: 503.
//! - The store has [`PUBLISH_TIMEOUT`]. After that the answer is 503 `timeout`, and the message may still be accepted: whoever publishes it
//!   again may have it there twice. The same holds where the client itself goes away before the answer.
//!
//! # What is not accepted
//!
//! 507 `full`: a stream that rejects, a session queue that rejects, the store or the disk is full. 503 `store-suspended`: the disk
//! fails or a damaged database is being mended. 503 `stopping`. All of it is counted in `tidegate_broker_refused_total`; nothing is kept.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::{Query, Request, State as Shared, rejection::QueryRejection},
    http::{StatusCode, Uri, header::CONTENT_LENGTH},
    response::{IntoResponse, Response},
    routing::post,
};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    guests::Guest,
    routes::{Failure, State, bad_query},
};
use crate::{
    message::{Message, QoS},
    topic::TopicName,
};

/// The client id of messages that come over HTTP.
pub const CLIENT_ID: &str = "http";
/// Largest body, however large the packets that listeners take.
pub const MAX_BODY_BYTES: usize = 16 << 20;
/// Most bytes of all bodies that are read or on their way into the store.
pub const ALL_BODIES_BYTES: usize = 64 << 20;
/// What a small one counts for.
pub const BODY_BYTES_MIN: usize = 64 << 10;
/// Longest time for a body to arrive.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the store's verdict.
pub const PUBLISH_TIMEOUT: Duration = Duration::from_secs(10);

/// Room for bodies.
#[derive(Debug, Clone)]
pub(super) struct Bodies(Arc<Semaphore>);

impl Default for Bodies {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ALL_BODIES_BYTES)))
    }
}

#[derive(Deserialize)]
struct How {
    topic: Option<String>,
    qos: Option<u8>,
    #[serde(default)]
    retain: bool,
}

pub(super) fn router() -> Router<State> {
    Router::new().route("/api/v1/publish", post(publish))
}

async fn publish(
    Shared(state): Shared<State>,
    how: Result<Query<How>, QueryRejection>,
    request: Request,
) -> Result<Response, Failure> {
    let Query(how) = how.map_err(bad_query)?;
    let topic = topic(how.topic, request.uri())?;
    let qos = match how.qos {
        Some(0) => QoS::AtMostOnce,
        None | Some(1) => QoS::AtLeastOnce,
        Some(2) => QoS::ExactlyOnce,
        Some(other) => return Err(bad("bad-query", format!("`qos={other}`: expected 0, 1 or 2"))),
    };
    let max = state.sources().publish_max_bytes().min(MAX_BODY_BYTES);
    let (payload, room) = read_body(request, max, state.bodies()).await?;
    let bytes = payload.len();
    let message =
        Message { topic: topic.clone(), payload, qos, retain: how.retain, client: CLIENT_ID.into(), properties: None };
    let published = state.sources().publish(message);
    // On a task of its own: the room is taken as long as the message is in memory, also when nobody waits any more.
    let published = tokio::spawn(async move {
        let published = published.await;
        drop(room);
        published
    });
    let published = match tokio::time::timeout(PUBLISH_TIMEOUT, published).await {
        Ok(Ok(published)) => published?,
        Ok(Err(_panicked)) => {
            let message = "publishing failed; the log says where, and the message may have been accepted";
            return Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message));
        }
        Err(_elapsed) => {
            let message = format!(
                "not on disk within {} s (is the disk stuck?); it may still be accepted, so published again it may be there twice",
                PUBLISH_TIMEOUT.as_secs()
            );
            return Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", message));
        }
    };
    let answer = json!({
        "topic": topic.as_str(), "qos": qos.number(), "bytes": bytes, "retained": published.retained,
        "streams": published.streams, "sessions": published.sessions,
    });
    Ok(Json(answer).into_response())
}

fn bad(code: &'static str, message: impl Into<String>) -> Failure {
    Failure::new(StatusCode::BAD_REQUEST, code, message)
}

fn topic(topic: Option<String>, uri: &Uri) -> Result<TopicName, Failure> {
    let Some(topic) = topic else {
        return Err(bad("bad-query", "`topic` is missing: POST /api/v1/publish?topic=a/b"));
    };
    // In a query a plus sign is a blank, and whoever writes `a/+/b` means neither.
    if raw_topic(uri).is_some_and(|raw| raw.split('/').any(|level| level == "+")) {
        let message = "the topic contains a wildcard (`+`), which a topic to publish to must not; a level that is one blank is written `%20`";
        return Err(bad("bad-topic", message));
    }
    TopicName::new(topic).map_err(|error| bad("bad-topic", format!("the topic {error}")))
}

/// `topic` as it was written.
fn raw_topic(uri: &Uri) -> Option<&str> {
    uri.query()?.split('&').find_map(|pair| pair.strip_prefix("topic="))
}

/// Reads a body of at most `max` bytes, and takes the room that it needs.
async fn read_body(request: Request, max: usize, bodies: &Bodies) -> Result<(Bytes, OwnedSemaphorePermit), Failure> {
    let said = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if said.is_some_and(|said| said > max as u64) {
        return Err(too_large(max));
    }
    let guest = request.extensions().get::<Arc<Guest>>().cloned();
    let mut room = take(bodies, BODY_BYTES_MIN)?;
    // Whoever is slow makes room for others, if that is needed.
    let waiting = guest.as_ref().map(Guest::waiting);
    let read = tokio::time::timeout(BODY_TIMEOUT, collect(request.into_body(), max, bodies, &mut room)).await;
    drop(waiting);
    let late = || {
        let message = format!("the body was not complete within {} s", BODY_TIMEOUT.as_secs());
        Failure::new(StatusCode::REQUEST_TIMEOUT, "body-timeout", message)
    };
    let payload = read.map_err(|_elapsed| late())??;
    Ok((payload, room))
}

async fn collect(
    mut body: Body,
    max: usize,
    bodies: &Bodies,
    room: &mut OwnedSemaphorePermit,
) -> Result<Bytes, Failure> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| bad("bad-body", format!("the body could not be read: {error}")))?;
        // Trailers are no part of a message.
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > max {
            return Err(too_large(max));
        }
        let missing = (whole.len() + data.len()).saturating_sub(room.num_permits());
        if missing > 0 {
            room.merge(take(bodies, missing)?);
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

fn take(bodies: &Bodies, bytes: usize) -> Result<OwnedSemaphorePermit, Failure> {
    let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
    Arc::clone(&bodies.0).try_acquire_many_owned(bytes).map_err(|_full| {
        let message =
            "too many messages are on their way into the store already (is the disk stuck?); this one was not accepted";
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message)
    })
}

fn too_large(max: usize) -> Failure {
    let message = format!(
        "the body is larger than {max} bytes, which is the largest packet that a listener takes; the message was not accepted"
    );
    Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", message)
}
