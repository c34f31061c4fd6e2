//! The requests and their answers.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use axum::{
    Json, Router,
    extract::{
        Path, Request, State as Shared,
        rejection::{PathRejection, QueryRejection},
    },
    http::{
        HeaderValue, StatusCode,
        header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS},
    },
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::json;
use tokio::sync::Semaphore;

use super::{
    ANSWER_TIMEOUT, MAX_GATHERING, Sources, clients, document, events,
    gate::{self, Gate},
    history::{self, History},
    metrics::{self, Metrics},
    orders, page, publish,
    publish::Bodies,
    rates::{Rates, Sampler},
    token::Token,
    views,
};
use crate::stats::StreamStats;

/// Seconds after which trying again may help where the answer was 503.
const RETRY_AFTER_S: HeaderValue = HeaderValue::from_static("5");

/// Entries of a page where no `limit` says how many.
const PAGE: usize = 100;

/// Most entries of a page.
const PAGE_MAX: usize = 1000;

/// What all requests share.
#[derive(Clone)]
pub(super) struct State(Arc<Inner>);

struct Inner {
    sources: Arc<dyn Sources>,
    metrics: Metrics,
    token: Option<Token>,
    gate: Gate,
    sampler: Mutex<Sampler>,
    history: Mutex<History>,
    followers: events::Followers,
    gathering: Arc<Semaphore>,
    bodies: Bodies,
}

/// An answer that is not what was asked for.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Failure {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    /// What is said to people.
    pub(super) fn message(&self) -> &str {
        &self.message
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = json!({ "error": { "code": self.code, "message": self.message } });
        let mut response = (self.status, Json(body)).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(RETRY_AFTER, RETRY_AFTER_S);
        }
        response
    }
}

impl State {
    pub(super) fn new(sources: Arc<dyn Sources>, metrics: Metrics, token: Option<Token>, gate: Gate) -> Self {
        let gathering = Arc::new(Semaphore::new(MAX_GATHERING));
        Self(Arc::new(Inner {
            sources,
            metrics,
            token,
            gate,
            sampler: Mutex::default(),
            history: Mutex::new(History::new(fastrand::u32(..))),
            followers: events::Followers::default(),
            gathering,
            bodies: Bodies::default(),
        }))
    }

    /// What of the last hour is kept.
    pub(super) fn history(&self) -> MutexGuard<'_, History> {
        self.0.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those who follow the events.
    pub(super) fn followers(&self) -> &events::Followers {
        &self.0.followers
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Keeps a sample of the books for the rates.
    pub(super) fn record(&self, now: Instant, books: &[StreamStats]) {
        // Poisoned or not, samples are only figures: the next one repairs what a panic left.
        self.0.sampler.lock().unwrap_or_else(PoisonError::into_inner).record(now, books);
    }

    pub(super) fn sources(&self) -> &dyn Sources {
        &*self.0.sources
    }

    /// Room for the bodies of requests.
    pub(super) fn bodies(&self) -> &Bodies {
        &self.0.bodies
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.0.gate
    }

    pub(super) fn with_rates(&self, now: Instant, books: StreamStats) -> views::Stream {
        let rates = self.rates(now, &books);
        views::Stream::new(books, rates)
    }

    pub(super) fn rates(&self, now: Instant, books: &StreamStats) -> Rates {
        self.0.sampler.lock().unwrap_or_else(PoisonError::into_inner).rates(now, books)
    }

    /// Asks the sources on a thread that may block, within [`ANSWER_TIMEOUT`].
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&dyn Sources) -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let sources = Arc::clone(&self.0.sources);
        self.gather(move || question(&*sources)).await
    }

    /// Runs `work` on a thread that may block. The permit stays with it when nobody waits any more, so that facts that
    /// never come cost [`MAX_GATHERING`] threads and not one per request.
    pub(super) async fn gather<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let gathering = Arc::clone(&self.0.gathering);
        let answer = async move {
            let permit = gathering.acquire_owned().await.expect("the semaphore is never closed");
            tokio::task::spawn_blocking(move || {
                let result = work();
                drop(permit);
                result
            })
            .await
        };
        match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
            Ok(Ok(facts)) => Ok(facts),
            Ok(Err(_panicked)) => Err(Failure::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "gathering the facts failed; the log says where",
            )),
            Err(_elapsed) => Err(Failure::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "timeout",
                format!("the facts did not come within {} s: is the disk stuck?", ANSWER_TIMEOUT.as_secs()),
            )),
        }
    }
}

/// All routes. Health is open; everything else, also what does not exist, is behind the gate, and all but the page behind the token.
pub(super) fn router(state: State) -> Router {
    let health = Router::new()
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .method_not_allowed_fallback(wrong_method);
    let guarded = Router::new()
        .route("/metrics", get(scrape))
        .route("/api/v1/status", get(status))
        .route("/api/v1/streams", get(streams))
        .route("/api/v1/streams/{name}", get(stream))
        .merge(orders::router())
        .merge(publish::router())
        .merge(clients::router())
        .merge(events::router())
        .merge(history::router())
        .merge(document::router())
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(middleware::from_fn(document::check))
        .layer(middleware::from_fn_with_state(state.clone(), guard));
    let gated = page::router()
        .method_not_allowed_fallback(wrong_method)
        .merge(guarded)
        .layer(middleware::from_fn_with_state(state.clone(), gate::check));
    health.merge(gated).layer(middleware::from_fn(seal)).with_state(state)
}

/// Lets through who carries the token, where there is one.
async fn guard(Shared(state): Shared<State>, request: Request, next: Next) -> Response {
    let Some(token) = &state.0.token else { return next.run(request).await };
    if request.headers().get(AUTHORIZATION).is_some_and(|said| token.opens(said)) {
        return next.run(request).await;
    }
    let message = "this needs the header `Authorization: Bearer <token>` with the token of the gateway's `token_file`";
    let mut refusal = Failure::new(StatusCode::UNAUTHORIZED, "unauthorized", message).into_response();
    refusal.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"tidegate\""));
    refusal
}

/// Figures are of the moment: nobody may keep them, or take them for a page.
async fn seal(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn live(Shared(state): Shared<State>) -> Response {
    health(state.0.sources.not_live())
}

async fn ready(Shared(state): Shared<State>) -> Response {
    health(state.0.sources.not_ready())
}

fn health(reasons: Vec<String>) -> Response {
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(views::Health { reasons })).into_response()
}

async fn scrape(Shared(state): Shared<State>) -> Result<Response, Failure> {
    let all = state.clone();
    let text = state
        .gather(move || all.0.metrics.text())
        .await?
        .map_err(|e| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "metrics", e.to_string()))?;
    Ok(([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

async fn status(Shared(state): Shared<State>) -> Result<Response, Failure> {
    Ok(Json(state.ask(views::Status::gather).await?).into_response())
}

async fn streams(Shared(state): Shared<State>) -> Result<Response, Failure> {
    let (now, books) = state.ask(|sources| (Instant::now(), sources.streams())).await?;
    let streams = books.into_iter().map(|books| state.with_rates(now, books)).collect();
    Ok(Json(views::Streams { streams }).into_response())
}

async fn stream(Shared(state): Shared<State>, name: Result<Path<String>, PathRejection>) -> Result<Response, Failure> {
    let Path(name) = name.map_err(bad_path)?;
    Ok(Json(stream_now(&state, &name).await?).into_response())
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
pub(super) fn bad_query(rejection: QueryRejection) -> Failure {
    Failure::new(StatusCode::BAD_REQUEST, "bad-query", rejection.body_text())
}

/// How many entries a page has.
pub(super) fn page_limit(asked: Option<u64>) -> Result<usize, Failure> {
    match asked {
        None => Ok(PAGE),
        Some(limit) => usize::try_from(limit).ok().filter(|limit| (1..=PAGE_MAX).contains(limit)).ok_or_else(|| {
            let message = format!("`limit={limit}`: expected 1 to {PAGE_MAX}");
            Failure::new(StatusCode::BAD_REQUEST, "bad-query", message)
        }),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
pub(super) fn bad_path(rejection: PathRejection) -> Failure {
    Failure::new(StatusCode::BAD_REQUEST, "bad-path", rejection.body_text())
}

/// One stream as it is at this moment.
pub(super) async fn stream_now(state: &State, name: &str) -> Result<views::Stream, Failure> {
    let (now, books) = state.ask(|sources| (Instant::now(), sources.streams())).await?;
    let Some(books) = books.into_iter().find(|books| books.name == name) else {
        let message = format!("there is no stream called `{name}`; GET /api/v1/streams lists them");
        return Err(Failure::new(StatusCode::NOT_FOUND, "no-such-stream", message));
    };
    Ok(state.with_rates(now, books))
}

async fn not_found(request: Request) -> Failure {
    let message = format!("there is nothing at {}", request.uri().path());
    Failure::new(StatusCode::NOT_FOUND, "not-found", message)
}

async fn wrong_method(request: Request) -> Failure {
    let message = format!("{} cannot be used on {}", request.method(), request.uri().path());
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", message)
}
