//! Stored messages over HTTP: read page by page, and imported batch by batch.
//!
//! # Reading
//!
//! `GET /api/v1/streams/{name}/messages?from=&to=&limit=&of=`: at most `limit` messages (100, and never more than [`PAGE_MESSAGES_MAX`]) and about 1 MiB,
//! oldest first, from the number `from` on (to the number `to`); `count` says how many there are in all; `next` is what to give as `from` for the next page, `null` where this was the last. `of` is `backlog`
//! (what waits), `kept` (what is kept for replay) or `dead` (the dead letters of the stream; `from` is the id of the first then). Each
//! message is an object as `export` writes it, see [`crate::record`]. A page is one short read of the store: nothing is held between pages, so that
//! nobody who reads slowly keeps the log from being moved into the database. What left meanwhile is not there, and `head` says how far that is.
//!
//! # Import
//!
//! `POST /api/v1/streams/{name}/messages`: the body is lines as `export` writes them, [`IMPORT_BYTES_MAX`] at most; all are checked before the first is
//! taken, then they are stored in one commit, and the answer comes once that is synced. Messages that were imported before are
//! passed over and counted (`?again=true` takes them all the same). Where there is no room it is answered with 507 and how far it got. One import at a time, so
//! that its memory is bounded.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{
        Path, Query, State as Shared,
        rejection::{PathRejection, QueryRejection},
    },
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::{sync::Semaphore, time::timeout};

use super::{
    ANSWER_TIMEOUT,
    orders::in_time,
    routes::{Failure, State, bad_path, bad_query},
};
use crate::{
    message::Message,
    record::{Death, Line, Record},
};

/// Messages given where no `limit` says how many.
const LIMIT: usize = 100;

/// Most messages of one page.
pub const PAGE_MESSAGES_MAX: usize = 4096;

/// Largest body of an import.
pub const IMPORT_BYTES_MAX: usize = 16 << 20;

/// Longest time in which the body of an import may come, and in which it may be stored.
const IMPORT_TIMEOUT: Duration = Duration::from_secs(30);

/// Which messages of a stream are meant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// What was accepted and has not left.
    #[default]
    Backlog,
    /// What was forwarded and is kept for replay.
    Kept,
    /// The dead letters.
    Dead,
}

/// Which messages are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessagesQuestion {
    /// The stream.
    pub stream: String,
    /// Which of its messages.
    pub part: Part,
    /// The first number, or the id of the first dead letter.
    pub from: u64,
    /// The last number; not for dead letters.
    pub to: u64,
    /// Most messages.
    pub limit: usize,
}

/// Messages of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Messages {
    /// The number of the oldest message of the backlog.
    pub head: u64,
    /// The number that the next message will get.
    pub end: u64,
    /// How many messages from `from` to `to` there are, at this moment; `None` where nobody counts them.
    pub count: Option<u64>,
    /// Oldest first.
    pub records: Vec<(Record, Option<Death>)>,
    /// Where the next page begins; `None` where this is the last.
    pub next: Option<u64>,
    /// Dead letters among them that cannot be read as messages any more.
    pub unreadable: u64,
}

/// What became of an import.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taken {
    /// Messages stored.
    pub accepted: u64,
    /// Messages passed over, because they were imported before or are still there.
    pub skipped: u64,
    /// Why it ended before the message behind those, and whether that message will never fit.
    pub stop: Option<(String, bool)>,
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    from: u64,
    to: Option<u64>,
    limit: Option<u64>,
    #[serde(default)]
    of: Part,
}

#[derive(Deserialize)]
struct How {
    #[serde(default)]
    again: bool,
}

#[derive(Serialize)]
struct View {
    stream: String,
    head: u64,
    end: u64,
    count: Option<u64>,
    messages: Vec<Line>,
    unreadable: u64,
    next: Option<u64>,
}

/// The routes, to which [`super::gate::check`] is added with those of the orders.
pub(super) fn router() -> Router<State> {
    Router::new()
        .route("/api/v1/streams/{name}/messages", get(read).post(import))
        .layer(Extension(Arc::new(Semaphore::new(1))))
}

type Name = Result<Path<String>, PathRejection>;

async fn read(
    Shared(state): Shared<State>,
    name: Name,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Response, Failure> {
    let Path(stream) = name.map_err(bad_path)?;
    let Query(Page { from, to, limit, of }) = page.map_err(bad_query)?;
    let limit = match limit {
        None => LIMIT,
        Some(limit) => {
            let fits = usize::try_from(limit).ok().filter(|limit| (1..=PAGE_MESSAGES_MAX).contains(limit));
            fits.ok_or_else(|| {
                let message = format!("`limit={limit}`: expected 1 to {PAGE_MESSAGES_MAX}");
                Failure::new(StatusCode::BAD_REQUEST, "bad-query", message)
            })?
        }
    };
    let question = MessagesQuestion { stream: stream.clone(), part: of, from, to: to.unwrap_or(u64::MAX), limit };
    let found = in_time(state.sources().messages(question)).await?;
    let own = format!("{}/{stream}", state.sources().gateway_id());
    Ok(Json(View::new(stream, &own, found)).into_response())
}

impl View {
    fn new(stream: String, own: &str, found: Messages) -> Self {
        let now_unix_ms = unix_ms(SystemTime::now());
        let line = |(record, dead): (Record, Option<Death>)| Line { dead, ..Line::new(&record, own, now_unix_ms) };
        Self {
            stream,
            head: found.head,
            end: found.end,
            count: found.count,
            messages: found.records.into_iter().map(line).collect(),
            unreadable: found.unreadable,
            next: found.next,
        }
    }
}

async fn import(
    Shared(state): Shared<State>,
    Extension(importing): Extension<Arc<Semaphore>>,
    name: Name,
    how: Result<Query<How>, QueryRejection>,
    body: Body,
) -> Result<Response, Failure> {
    let Path(stream) = name.map_err(bad_path)?;
    let Query(How { again }) = how.map_err(bad_query)?;
    let busy =
        || Failure::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "another import runs; try again when it is done");
    let turn = timeout(ANSWER_TIMEOUT, importing.acquire_owned()).await.map_err(|_| busy())?;
    let turn = turn.map_err(|_| busy())?;
    let body = timeout(IMPORT_TIMEOUT, axum::body::to_bytes(body, IMPORT_BYTES_MAX)).await;
    let body = body.map_err(|_| {
        let message = format!("the body did not come whole within {} s", IMPORT_TIMEOUT.as_secs());
        Failure::new(StatusCode::REQUEST_TIMEOUT, "timeout", message)
    })?;
    let body = body.map_err(|_| {
        let message =
            format!("the body broke off, or is larger than {IMPORT_BYTES_MAX} bytes; send fewer lines at a time");
        Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", message)
    })?;
    let parsed = tokio::task::spawn_blocking(move || messages(&body, unix_ms(SystemTime::now()))).await;
    let parsed = parsed.map_err(|_| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "see the log"))?;
    let messages = parsed.map_err(|(line, what)| {
        Failure::new(StatusCode::BAD_REQUEST, "bad-line", format!("line {line}: {what}; nothing was imported"))
    })?;
    let taking = state.sources().import(stream.clone(), messages, again);
    // On a task of its own: its turn lasts as long as the messages are in memory, also when nobody waits any more.
    let taking = tokio::spawn(async move {
        let taken = taking.await;
        drop(turn);
        taken
    });
    let taken = timeout(IMPORT_TIMEOUT, taking).await.map_err(|_| {
        let message = "not on disk in time (is the disk full or stuck?); it may still be done. The same import again \
                       passes over what is stored by then";
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", message)
    })?;
    let taken = taken.map_err(|_| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "see the log"))??;
    Ok(answer(&stream, &taken))
}

fn answer(stream: &str, taken: &Taken) -> Response {
    let Taken { accepted, skipped, stop } = taken;
    let Some((cause, never)) = stop else {
        return Json(json!({ "accepted": accepted, "skipped": skipped })).into_response();
    };
    let code = if *never { "never-fits" } else { "full" };
    let message = format!("the stream `{stream}` takes no more: {cause}");
    let body = json!({ "error": { "code": code, "message": message }, "accepted": accepted, "skipped": skipped });
    (StatusCode::INSUFFICIENT_STORAGE, Json(body)).into_response()
}

/// The messages of a body, or the number of the first bad line and what is wrong with it.
fn messages(body: &[u8], now_unix_ms: i64) -> Result<Vec<Message>, (usize, String)> {
    let lines = body.split(|byte| *byte == b'\n').zip(1..);
    let message = |(line, number): (&[u8], usize)| {
        Line::parse(line).and_then(|line| line.message(now_unix_ms)).map_err(|what| (number, what))
    };
    lines.filter(|(line, _)| !line.trim_ascii().is_empty()).map(message).collect()
}

pub(super) fn unix_ms(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
