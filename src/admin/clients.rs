//! The local MQTT clients over HTTP: listed, and disconnected.
//!
//! `GET /api/v1/clients` gives those that are connected; with `state=away` those that are away and have a session that waits for them, with
//! `state=all` both. Pages are in the order of the ids' bytes: `after` is the last id of the page before, `next` what to give there.
//! A list is of the moment: whoever comes or goes between two pages may be in none of them, nobody is in two.
//!
//! `DELETE /api/v1/clients/{id}` ends the connection (MQTT 5: DISCONNECT 0x98, Administrative action) and answers once that is done.
//! The will is sent, a lasting session stays and goes on collecting, and nothing keeps the client from coming back: that is what
//! passwords and access rules are for.

use axum::{
    Json, Router,
    extract::{
        Path, Query, State as Shared,
        rejection::{PathRejection, QueryRejection},
    },
    response::{IntoResponse, Response},
    routing::{delete, get},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    orders::in_time,
    routes::{Failure, State, bad_path, bad_query, page_limit},
    views::seconds,
};
use crate::stats::{ClientPage, ClientQuestion, ClientStats};

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    state: Which,
    after: Option<String>,
    limit: Option<u64>,
}

#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Which {
    #[default]
    Connected,
    Away,
    All,
}

#[derive(Serialize)]
struct View {
    id: String,
    connected: bool,
    since_seconds: f64,
    user: Option<String>,
    listener: Option<String>,
    address: Option<String>,
    version: Option<&'static str>,
    clean_start: Option<bool>,
    keep_alive_seconds: Option<u16>,
    lasting: bool,
    ends_in_seconds: Option<f64>,
    in_flight: u64,
    queued: Queued,
    subscriptions: u64,
}

#[derive(Serialize)]
struct Queued {
    messages: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct List {
    connected: u64,
    away: u64,
    clients: Vec<View>,
    /// What to give as `after` for the next page; `null` where there is none.
    next: Option<String>,
}

pub(super) fn router() -> Router<State> {
    Router::new().route("/api/v1/clients", get(list)).route("/api/v1/clients/{id}", delete(disconnect))
}

async fn list(Shared(state): Shared<State>, page: Result<Query<Page>, QueryRejection>) -> Result<Response, Failure> {
    let Query(Page { state: which, after, limit }) = page.map_err(bad_query)?;
    let question = ClientQuestion {
        connected: which != Which::Away,
        away: which != Which::Connected,
        after,
        limit: page_limit(limit)?,
    };
    let ClientPage { clients, connected, away, more } = state.ask(move |sources| sources.clients(&question)).await?;
    let clients: Vec<View> = clients.into_iter().map(View::from).collect();
    let next = clients.last().filter(|_| more).map(|last| last.id.clone());
    Ok(Json(List { connected, away, clients, next }).into_response())
}

async fn disconnect(
    Shared(state): Shared<State>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, Failure> {
    let Path(id) = id.map_err(bad_path)?;
    in_time(state.sources().disconnect(id.clone())).await?;
    Ok(Json(json!({ "id": id, "disconnected": true })).into_response())
}

impl From<ClientStats> for View {
    fn from(stats: ClientStats) -> Self {
        let connected = stats.connection.is_some();
        let connection = stats.connection.as_ref();
        Self {
            connected,
            since_seconds: seconds(stats.since),
            user: connection.map(|connection| connection.user.clone()),
            listener: connection.map(|connection| connection.listener.clone()),
            address: connection.map(|connection| connection.address.clone()),
            version: connection.map(|connection| connection.version),
            clean_start: connection.map(|connection| connection.clean_start),
            keep_alive_seconds: connection.map(|connection| connection.keep_alive_s),
            id: stats.id,
            lasting: stats.lasting,
            ends_in_seconds: stats.ends_in.map(seconds),
            in_flight: stats.in_flight,
            queued: Queued { messages: stats.queued_messages, bytes: stats.queued_bytes },
            subscriptions: stats.subscriptions,
        }
    }
}
