//! The JSON of the API: its field names are a promise to scripts.
//!
//! Names are snake_case and end in their unit. What does not exist is `null`, never left out. Times are RFC 3339 in
//! UTC, durations are seconds with a fraction.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use serde::Serialize;

use super::{Sources, rates::Rates};
use crate::{
    stats::{DownlinkStats, ListenerStats, StoreStats, StreamStats, UplinkState, UplinkStats},
    units::rfc3339,
};

/// `/health/*`.
#[derive(Serialize)]
pub(super) struct Health {
    pub(super) reasons: Vec<String>,
}

/// `/api/v1/streams`.
#[derive(Serialize)]
pub(super) struct Streams {
    pub(super) streams: Vec<Stream>,
}

/// `/api/v1/streams/{name}`.
#[derive(Serialize)]
pub(super) struct Stream {
    name: String,
    to: Option<String>,
    accepted: u64,
    forwarded: u64,
    expired: u64,
    dropped: u64,
    dropped_by_reason: BTreeMap<String, u64>,
    dead: u64,
    dead_by_reason: BTreeMap<String, u64>,
    purged: u64,
    backlog: Backlog,
    limit: Limit,
    rate_in_per_s: f64,
    rate_out_per_s: f64,
    seconds_to_drain: Option<f64>,
    paused: bool,
    configured: bool,
    kept: Kept,
    replayed: u64,
    replay: Option<Replay>,
}

/// `POST /api/v1/streams/{name}/..`: the stream as it is now.
#[derive(Serialize)]
pub(super) struct Operated {
    #[serde(flatten)]
    pub(super) stream: Stream,
    /// How many messages it was about.
    pub(super) messages: u64,
}

#[derive(Serialize)]
struct Kept {
    messages: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct Replay {
    left: u64,
}

/// What the backlog may be at most.
#[derive(Serialize)]
struct Limit {
    messages: Option<u64>,
    bytes: Option<u64>,
    /// How much of it is taken, 0 to 1; of two limits the one that is nearer.
    used_ratio: Option<f64>,
}

#[derive(Serialize)]
struct Backlog {
    messages: u64,
    bytes: u64,
    oldest_age_seconds: Option<f64>,
}

impl Stream {
    pub(super) fn new(books: StreamStats, rates: Rates) -> Self {
        Self {
            dropped: books.dropped_total(),
            dead: books.dead_total(),
            limit: Limit {
                messages: books.limit_messages,
                bytes: books.limit_bytes,
                used_ratio: books.share_of_limit().map(thousandths),
            },
            name: books.name,
            to: books.to,
            accepted: books.accepted,
            forwarded: books.forwarded,
            expired: books.expired,
            dropped_by_reason: books.dropped.into_iter().collect(),
            dead_by_reason: books.dead.into_iter().collect(),
            purged: books.purged,
            backlog: Backlog {
                messages: books.backlog_messages,
                bytes: books.backlog_bytes,
                oldest_age_seconds: books.oldest_age.map(seconds),
            },
            rate_in_per_s: thousandths(rates.in_per_s),
            rate_out_per_s: thousandths(rates.out_per_s),
            seconds_to_drain: rates.seconds_to_drain.map(thousandths),
            paused: books.paused,
            configured: books.configured,
            kept: Kept { messages: books.kept_messages, bytes: books.kept_bytes },
            replayed: books.replayed,
            replay: books.replay_left.map(|left| Replay { left }),
        }
    }
}

/// `/api/v1/status`.
#[derive(Serialize)]
pub(super) struct Status {
    version: &'static str,
    gateway_id: String,
    uptime_seconds: f64,
    ready: bool,
    /// Keys of the configuration that have changed and wait for a restart.
    restart_required: Vec<String>,
    uplinks: Vec<Uplink>,
    downlinks: Vec<Downlink>,
    store: Store,
    listeners: Vec<ListenerStats>,
    clock: Clock,
}

#[derive(Serialize)]
struct Uplink {
    name: String,
    state: UplinkState,
    since_seconds: f64,
    last_error: Option<String>,
    in_flight: u64,
    connects: u64,
    url: Option<String>,
}

#[derive(Serialize)]
struct Downlink {
    name: String,
    from: String,
    received: u64,
    delivered: u64,
    expired: u64,
    dropped: u64,
    dropped_by_reason: BTreeMap<String, u64>,
    waiting: Waiting,
}

#[derive(Serialize)]
struct Waiting {
    messages: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct Store {
    bytes: u64,
    free_bytes: u64,
    written_bytes: u64,
    last_commit_ago_seconds: Option<f64>,
    refusing: Option<String>,
    suspended: Option<String>,
    stalled_seconds: Option<f64>,
    salvages: u64,
    lost_messages: u64,
    quarantine_bytes: u64,
    checked_ratio: Option<f64>,
    /// What somebody should look at, in words.
    alarms: Vec<String>,
}

#[derive(Serialize)]
struct Clock {
    now: Option<String>,
    synced: bool,
}

impl Status {
    /// Gathers the status. May block: see [`Sources`].
    pub(super) fn gather(sources: &dyn Sources) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            gateway_id: sources.gateway_id(),
            uptime_seconds: seconds(sources.uptime()),
            ready: sources.not_ready().is_empty(),
            restart_required: sources.restart_required(),
            uplinks: sources.uplinks().into_iter().map(Uplink::from).collect(),
            downlinks: sources.downlinks().into_iter().map(Downlink::from).collect(),
            store: sources.store().into(),
            listeners: sources.listeners(),
            clock: Clock { now: rfc3339(SystemTime::now()), synced: sources.clock_synced() },
        }
    }
}

impl From<UplinkStats> for Uplink {
    fn from(stats: UplinkStats) -> Self {
        Self {
            name: stats.name,
            state: stats.state,
            since_seconds: seconds(stats.since),
            last_error: stats.last_error,
            in_flight: stats.in_flight,
            connects: stats.connects,
            url: stats.url,
        }
    }
}

impl From<DownlinkStats> for Downlink {
    fn from(stats: DownlinkStats) -> Self {
        Self {
            name: stats.name,
            from: stats.from,
            received: stats.received,
            delivered: stats.delivered,
            expired: stats.expired,
            dropped: stats.dropped.iter().map(|(_, count)| count).sum(),
            dropped_by_reason: stats.dropped.into_iter().collect(),
            waiting: Waiting { messages: stats.waiting_messages, bytes: stats.waiting_bytes },
        }
    }
}

impl From<StoreStats> for Store {
    fn from(stats: StoreStats) -> Self {
        Self {
            alarms: alarms(&stats),
            bytes: stats.bytes,
            free_bytes: stats.free_bytes,
            written_bytes: stats.written_bytes,
            last_commit_ago_seconds: stats.last_commit_ago.map(seconds),
            refusing: stats.refusing,
            suspended: stats.suspended,
            stalled_seconds: stats.stalled.map(seconds),
            salvages: stats.salvages,
            lost_messages: stats.lost_messages,
            quarantine_bytes: stats.quarantine_bytes,
            checked_ratio: stats.checked.map(thousandths),
        }
    }
}

/// What somebody should look at, though the store may work again.
fn alarms(stats: &StoreStats) -> Vec<String> {
    let salvaged = (stats.salvages > 0).then(|| {
        format!(
            "a damaged database was salvaged, in all {} times; {} stored messages could not be read any more",
            stats.salvages, stats.lost_messages
        )
    });
    let aside = (stats.quarantine_bytes > 0).then(|| {
        format!(
            "{} bytes of databases that were set aside lie in `quarantine`; delete them by hand",
            stats.quarantine_bytes
        )
    });
    stats.suspended.clone().into_iter().chain(salvaged).chain(aside).collect()
}

/// Milliseconds are as fine as anybody wants to read.
pub(super) fn seconds(duration: Duration) -> f64 {
    thousandths(duration.as_secs_f64())
}

pub(super) fn thousandths(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
