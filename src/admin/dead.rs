//! The dead letters over HTTP: listed, shown, retried, purged.

use std::time::{Duration, SystemTime};

use axum::{
    Json, Router,
    extract::{
        Path, Query, State as Shared,
        rejection::{PathRejection, QueryRejection},
    },
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    orders::{Order, in_time},
    routes::{Failure, State, bad_path, bad_query, page_limit},
};
use crate::{
    message::Message,
    stats::{DeadLetter, DeadStats},
};

/// Which dead letters are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeadQuestion {
    /// One, whole.
    One(u64),
    /// A list, oldest first, without payloads.
    List {
        /// Of this stream only.
        stream: Option<String>,
        /// Behind this id.
        after: u64,
        /// At most so many.
        limit: usize,
    },
}

/// A dead letter; `message` only where one was asked for by its id.
#[derive(Serialize)]
pub(super) struct View {
    id: u64,
    stream: String,
    sequence: u64,
    reason: String,
    detail: String,
    died: Option<String>,
    accepted: Option<String>,
    bytes: u64,
    client: Option<String>,
    topic: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Content>,
}

/// What is in a message: `payload` where it is UTF-8, otherwise `payload_base64`.
#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "the names are those of MQTT, and a promise to scripts")]
struct Content {
    qos: u8,
    retain: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    content_type: Option<String>,
    response_topic: Option<String>,
    user_properties: Vec<(String, String)>,
}

#[derive(Serialize)]
pub(super) struct List {
    #[serde(flatten)]
    pub(super) stats: DeadStats,
    pub(super) dead: Vec<View>,
    /// What to give as `after` for the next page; `null` where there is none.
    pub(super) next: Option<u64>,
}

#[derive(Deserialize)]
struct Page {
    stream: Option<String>,
    after: Option<u64>,
    limit: Option<u64>,
}

#[derive(Deserialize)]
struct Which {
    stream: Option<String>,
    #[serde(default)]
    all: bool,
}

pub(super) fn router() -> Router<State> {
    Router::new()
        .route("/api/v1/dead", get(list).delete(purge_all))
        .route("/api/v1/dead/{id}", get(show).delete(purge))
        .route("/api/v1/dead/{id}/retry", post(retry))
}

type Id = Result<Path<u64>, PathRejection>;

async fn list(Shared(state): Shared<State>, page: Result<Query<Page>, QueryRejection>) -> Result<Response, Failure> {
    let Query(Page { stream, after, limit }) = page.map_err(bad_query)?;
    let limit = page_limit(limit)?;
    let question = DeadQuestion::List { stream, after: after.unwrap_or(0), limit };
    let letters = in_time(state.sources().dead(question)).await?;
    let next = letters.last().filter(|_| letters.len() >= limit).map(|last| last.id);
    let dead = letters.into_iter().map(View::new).collect();
    Ok(Json(List { stats: state.sources().dead_stats(), dead, next }).into_response())
}

async fn show(Shared(state): Shared<State>, id: Id) -> Result<Response, Failure> {
    let Path(id) = id.map_err(bad_path)?;
    let letter = in_time(state.sources().dead(DeadQuestion::One(id))).await?.pop();
    let letter = letter.ok_or_else(|| {
        Failure::new(
            StatusCode::NOT_FOUND,
            "not-found",
            format!("there is no dead letter {id}; GET /api/v1/dead lists them"),
        )
    })?;
    Ok(Json(View::new(letter)).into_response())
}

async fn retry(Shared(state): Shared<State>, id: Id) -> Result<Response, Failure> {
    let Path(id) = id.map_err(bad_path)?;
    order(&state, Order::RetryDead { id }).await
}

async fn purge(Shared(state): Shared<State>, id: Id) -> Result<Response, Failure> {
    let Path(id) = id.map_err(bad_path)?;
    order(&state, Order::PurgeDead { id }).await
}

async fn purge_all(
    Shared(state): Shared<State>,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<Response, Failure> {
    let Query(which) = which.map_err(bad_query)?;
    if which.stream.is_some() == which.all {
        let message = "say which: `?stream=NAME`, or `?all=true`";
        return Err(Failure::new(StatusCode::BAD_REQUEST, "bad-query", message));
    }
    order(&state, Order::PurgeAllDead { stream: which.stream }).await
}

/// Has an order carried out, and answers with how many letters it was about and how many there are now.
async fn order(state: &State, order: Order) -> Result<Response, Failure> {
    let messages = in_time(state.sources().operate(order)).await?;
    Ok(Json(json!({ "messages": messages, "dead": state.sources().dead_stats() })).into_response())
}

impl View {
    pub(super) fn new(letter: DeadLetter) -> Self {
        Self {
            id: letter.id,
            stream: letter.stream,
            sequence: letter.seq,
            reason: letter.reason,
            detail: letter.detail,
            died: letter.died_unix_ms.and_then(time),
            accepted: letter.accepted_unix_ms.and_then(time),
            bytes: letter.bytes,
            client: letter.client,
            topic: letter.topic,
            message: letter.message.map(|message| Content::new(&message)),
        }
    }
}

impl Content {
    fn new(message: &Message) -> Self {
        let properties = message.properties.as_deref();
        let text = |text: &bytestring::ByteString| text.to_string();
        let payload = std::str::from_utf8(&message.payload).ok().map(str::to_owned);
        let user = properties.map_or(&[][..], |properties| &properties.user);
        Self {
            qos: message.qos.number(),
            retain: message.retain,
            payload_base64: payload.is_none().then(|| BASE64.encode(&message.payload)),
            payload,
            content_type: properties.and_then(|properties| properties.content_type.as_ref()).map(text),
            response_topic: properties.and_then(|properties| properties.response_topic.as_ref()).map(text),
            user_properties: user.iter().map(|(name, value)| (text(name), text(value))).collect(),
        }
    }
}

fn time(unix_ms: i64) -> Option<String> {
    let since = Duration::from_millis(u64::try_from(unix_ms).ok()?);
    crate::units::rfc3339(SystemTime::UNIX_EPOCH.checked_add(since)?)
}
