//! What an operator may have done: the POST and DELETE requests.

use std::{future::Future, pin::Pin};

use axum::{
    Json, Router,
    extract::{Path, State as Shared, rejection::PathRejection},
    http::StatusCode,
    middleware,
    response::{IntoResponse, Response},
    routing::post,
};

use super::{
    ANSWER_TIMEOUT, dead, gate,
    routes::{Failure, State, bad_path, stream_now},
    views,
};

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
    /// There is no such stream or dead letter.
    NotFound,
    /// It does not go with how things are.
    Conflict,
    /// There is no room.
    Full,
    /// The store has failed.
    Failed,
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        let (status, code) = match refused.why {
            Why::NotFound => (StatusCode::NOT_FOUND, "not-found"),
            Why::Conflict => (StatusCode::CONFLICT, "conflict"),
            Why::Full => (StatusCode::INSUFFICIENT_STORAGE, "full"),
            Why::Failed => (StatusCode::SERVICE_UNAVAILABLE, "store-failed"),
        };
        Self::new(status, code, refused.message)
    }
}

/// The routes of all orders.
pub(super) fn router(state: State) -> Router<State> {
    Router::new()
        .route("/api/v1/streams/{name}/pause", post(pause))
        .route("/api/v1/streams/{name}/resume", post(resume))
        .route("/api/v1/streams/{name}/purge", post(purge))
        .merge(dead::router())
        .route_layer(middleware::from_fn_with_state(state, gate::check))
}

type Name = Result<Path<String>, PathRejection>;

async fn pause(Shared(state): Shared<State>, name: Name) -> Result<Response, Failure> {
    on_stream(&state, name, |stream| Order::Pause { stream }).await
}

async fn resume(Shared(state): Shared<State>, name: Name) -> Result<Response, Failure> {
    on_stream(&state, name, |stream| Order::Resume { stream }).await
}

async fn purge(Shared(state): Shared<State>, name: Name) -> Result<Response, Failure> {
    on_stream(&state, name, |stream| Order::Purge { stream }).await
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
