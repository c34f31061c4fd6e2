//! `POST /api/v1/reload`: the configuration is read again, and what came of it.

use std::{future::Future, pin::Pin, time::Duration};

use axum::{
    Json,
    extract::State as Shared,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::json;

use super::routes::{Failure, State};

/// How long the answer may take: a forwarder that is changed waits a while for its upstream.
const PATIENCE: Duration = Duration::from_secs(60);

/// What comes of a reload, later. Dropping it does not stop it.
pub type Reloading = Pin<Box<dyn Future<Output = Result<Reloaded, NotReloaded>> + Send>>;

/// What a reload has changed; names in the order of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Reloaded {
    /// Listeners.
    pub listeners: Changed,
    /// Streams.
    pub streams: Changed,
    /// Uplinks, those too whose connection was made anew because a stream or downlink of theirs has changed.
    pub uplinks: Changed,
    /// Downlinks.
    pub downlinks: Changed,
    /// Other sections that have changed and hold now, such as `[auth]`.
    pub settings: Vec<String>,
    /// Keys that have changed and wait for a restart; all else holds.
    pub restart_required: Vec<String>,
    /// What is allowed, but surely a mistake.
    pub warnings: Vec<Problem>,
}

/// What has changed of one kind of thing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Changed {
    /// New ones.
    pub added: Vec<String>,
    /// Those that are no more.
    pub removed: Vec<String>,
    /// Others than before.
    pub changed: Vec<String>,
}

/// Why nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotReloaded {
    /// All that is wrong with the new configuration, or keeps it from being used. The old one goes on.
    Refused(Vec<Problem>),
    /// Too many want a reload at the same time, or the gateway is stopping.
    NotNow(&'static str),
}

/// Something that is wrong with a configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// `error` or `warning`.
    pub severity: &'static str,
    /// The file, or `environment variable X`.
    pub file: Option<String>,
    /// Line in the file, from 1.
    pub line: Option<u32>,
    /// Path of the key; empty for a whole file.
    pub key: String,
    /// Name of the listener, uplink, stream or downlink that the key belongs to.
    pub name: Option<String>,
    /// What was written there.
    pub said: Option<String>,
    /// What is wrong with it, or what was expected.
    pub expected: String,
    /// What may have been meant.
    pub hint: Option<String>,
}

impl Changed {
    /// Whether nothing has.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.changed.is_empty()
    }
}

pub(super) async fn reload(Shared(state): Shared<State>) -> Response {
    match tokio::time::timeout(PATIENCE, state.sources().reload()).await {
        Ok(Ok(reloaded)) => Json(reloaded).into_response(),
        Ok(Err(NotReloaded::Refused(problems))) => refused(&problems),
        Ok(Err(NotReloaded::NotNow(why))) => Failure::new(StatusCode::SERVICE_UNAVAILABLE, "busy", why).into_response(),
        Err(_elapsed) => {
            let message = format!("not done within {} s; it may still be done", PATIENCE.as_secs());
            Failure::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", message).into_response()
        }
    }
}

fn refused(problems: &[Problem]) -> Response {
    let errors = problems.iter().filter(|problem| problem.severity == "error").count();
    let plural = if errors == 1 { "" } else { "s" };
    let message = format!("the configuration has {errors} error{plural}; everything stays as it was");
    let body = json!({ "error": { "code": "refused", "message": message, "problems": problems } });
    (StatusCode::UNPROCESSABLE_ENTITY, Json(body)).into_response()
}
