//! Forwarding: takes messages from the streams in order, sends them through an uplink, settles them when acknowledged.
//!
//! # Constraints
//!
//! - One task for each uplink; uplinks know nothing of each other.
//! - Per uplink: 1 MiB of rows read ahead (32 KiB for each stream where there are more than 32), 128 KiB queued for
//!   the connection, `min(max_inflight, Receive Maximum)` messages in flight, 4096 more done behind one that is not.
//! - Per stream, messages are sent for the first time in sequence order (guarantee G2). Of several streams on one uplink, the higher
//!   priority goes first, equals share alike, and a lower one gets at least 1 in 32 (see `turns`).
//!
//! # The way of a message
//!
//! ```text
//! store ──rows──▶ feed ──turns──▶ letter ──▶ session ──bytes──▶ upstream
//!   ▲              (1)     (2)      (3)        │  ▲                 │
//!   └──runs── ledger ◀──────────(4)────────────┘  └──acknowledgement┘ (5)
//! ```
//!
//! 1. `feed` reads ahead in chunks while the last chunk is being sent; nothing is read twice on one connection.
//! 2. `turns` says whose turn it is, `pacing` whether it is time.
//! 3. `letter` decides whether the message is too old, and under which topic and marks it goes; `envelope` wraps it where that is asked for.
//! 4. The `ledger` notes id, stream and sequence number.
//! 5. An acknowledgement makes the message done. What is done without a gap is settled in runs, at most 100 ms or 4096 messages later.
//!
//! # What goes wrong, and what happens then
//!
//! | what | what happens |
//! | --- | --- |
//! | the connection is lost | everything in flight is sent again on the next one, oldest first; backoff with full jitter, short again only once something was acknowledged |
//! | in flight, and no acknowledgement for `progress_timeout` | reconnect, reason `no-progress` (guarantee G6) |
//! | the upstream refuses a message, or hangs up on it, or never answers it | see `suspects`: its stream is held, the others flow; dead letters once it is proven that the upstream takes others and not this one |
//! | the upstream in use is a later one of `urls`, and the first is back | see `failback`: an orderly switch; what was in flight at one server is sent again at the other, without DUP |
//! | too large for the upstream, no valid topic (also: the stream's filters have changed and the template needs them) | the dead letters, at once |
//! | an acknowledgement of nothing | ignored, and said now and then |
//! | the store is slow | reading and settling wait in tasks of their own; the loop goes on turning |
//! | the store has failed | the task ends with an error, which ends the program |
//! | the process dies | what was not settled is sent again: up to a second (4096 messages) of acknowledged messages, and what was in flight; recognisable by `tg-id` |
//!
//! A stream can be paused: then nothing new of it is sent, and what is in flight is settled. Kept messages are sent again beside all this; see `replays`.
//! Why messages become dead letters is a closed set of words: [`reasons`].
//!
//! The task turns its loop at least once a second while there is anything to do, and whenever somebody asks whether it is alive:
//! [`Forwarder::pulse`] asks, and counts the turns. So an uplink at rest does not wake up for nothing.

mod backoff;
mod connection;
mod envelope;
mod failback;
mod feed;
mod ledger;
mod letter;
mod pacing;
mod progress;
pub mod reasons;
mod replays;
mod settings;
mod status;
mod suspects;
mod task;
mod turns;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use prometheus::Registry;
use tokio::{sync::watch, task::JoinHandle};

pub use self::settings::*;
use self::{
    status::Status,
    task::{Orders, Task},
};
use crate::{
    stats::UplinkStats,
    store::{self, StoreError},
    uplink::{self, mqtt::Mqtt},
};

/// Why a forwarder ended, or could not start. None of it gets better by trying again in the same process.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The store no longer gives or takes anything.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Two uplinks of the same name.
    #[error("the metrics of uplink `{name}` cannot be registered: {cause}")]
    Metrics {
        /// The uplink.
        name: String,
        /// The registry's word.
        cause: prometheus::Error,
    },
    /// A defect in this program.
    #[error("a task of the forwarder failed: {0}")]
    Task(String),
}

/// What is shown of an uplink: state, metrics, heartbeat. It outlives its forwarder, so that an uplink which is only changed goes on
/// counting, and whoever looks at it goes on seeing it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Figures {
    status: Status,
}

/// The running forwarder of one uplink. Dropping it stops it without grace.
#[derive(Debug)]
pub struct Forwarder {
    figures: Figures,
    stop: watch::Sender<Option<Duration>>,
    tuning: watch::Sender<uplink::Settings>,
    hushed: Arc<AtomicBool>,
    task: JoinHandle<Result<uplink::Inbound, ForwardError>>,
}

impl Figures {
    /// Of an uplink that has not been there yet.
    pub fn register(name: &str, registry: &Registry) -> Result<Self, ForwardError> {
        let status =
            Status::new(name, registry).map_err(|cause| ForwardError::Metrics { name: name.to_owned(), cause })?;
        Ok(Self { status })
    }

    /// The uplink is gone: its metrics vanish.
    pub fn unregister(&self, registry: &Registry) {
        self.status.unregister(registry);
    }

    /// The uplink's name.
    pub fn name(&self) -> &str {
        self.status.name()
    }

    /// A way to ask for the uplink at a glance.
    pub fn watcher(&self) -> impl Fn() -> UplinkStats + Send + Sync + Clone + use<> {
        let status = self.status.clone();
        move || status.stats()
    }

    /// Whether the uplink is connected; changes as it does.
    pub fn connected(&self) -> Arc<AtomicBool> {
        self.status.flag()
    }

    /// Counts the turns of the loop. Every call has the task make one more, so that the next call gives another number while it is alive.
    pub fn pulse(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let status = self.status.clone();
        move || status.pulse()
    }
}

/// Starts forwarding `routes` through an uplink. Must be called within a runtime.
pub fn start(
    settings: uplink::Settings,
    routes: Vec<Route>,
    gateway_id: &str,
    store: store::Handle,
    registry: &Registry,
) -> Result<Forwarder, ForwardError> {
    start_both_ways(settings, routes, gateway_id, store, registry, uplink::inbound(Vec::new()).0)
}

/// The same, and passes on what comes down the uplink.
pub fn start_both_ways(
    settings: uplink::Settings,
    routes: Vec<Route>,
    gateway_id: &str,
    store: store::Handle,
    registry: &Registry,
    inbound: uplink::Inbound,
) -> Result<Forwarder, ForwardError> {
    let figures = Figures::register(&settings.name, registry)?;
    Ok(start_again(figures, settings, routes, gateway_id, store, inbound))
}

/// The same for an uplink that has figures already. The forwarder before it must have ended: what is in flight has one owner.
pub fn start_again(
    figures: Figures,
    settings: uplink::Settings,
    routes: Vec<Route>,
    gateway_id: &str,
    store: store::Handle,
    inbound: uplink::Inbound,
) -> Forwarder {
    let (stop, stopped) = watch::channel(None);
    let (tuning, tuned) = watch::channel(settings.clone());
    let hushed = Arc::<AtomicBool>::default();
    let orders = Orders { stop: stopped, tuning: tuned, hushed: Arc::clone(&hushed) };
    let upstream = Mqtt::new(settings.clone()).subscribing(inbound.subscriptions()).without(inbound.unwanted());
    let task = Task::new(settings, routes, gateway_id, store, figures.status.clone(), orders, inbound);
    let task = tokio::spawn(task.run(upstream));
    Forwarder { figures, stop, tuning, hushed, task }
}

impl Forwarder {
    /// The uplink's name.
    pub fn name(&self) -> &str {
        self.figures.name()
    }

    /// What is shown of the uplink.
    pub fn figures(&self) -> Figures {
        self.figures.clone()
    }

    /// The uplink at a glance.
    pub fn stats(&self) -> UplinkStats {
        self.figures.status.stats()
    }

    /// A way to ask for [`Forwarder::stats`] that outlives the forwarder.
    pub fn watcher(&self) -> impl Fn() -> UplinkStats + Send + Sync + Clone + use<> {
        self.figures.watcher()
    }

    /// Whether the uplink is connected; changes as it does.
    pub fn connected(&self) -> Arc<AtomicBool> {
        self.figures.connected()
    }

    /// See [`Figures::pulse`].
    pub fn pulse(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        self.figures.pulse()
    }

    /// From now on goes by what of these settings can change on a connection ([`uplink::Settings::tune`]).
    pub fn tune(&self, settings: uplink::Settings) {
        self.tuning.send_replace(settings);
    }

    /// From now on it sends nothing new, until it is stopped; all else goes on. For one that is to be replaced: what is accepted by other rules
    /// than its own is not its to judge.
    pub fn hush(&self) {
        self.hushed.store(true, Ordering::Release);
    }

    /// Waits until the task ends, which it does of itself only when something is wrong. Cancel safe; not to be called again once it has returned.
    pub async fn ended(&mut self) -> Result<(), ForwardError> {
        (&mut self.task).await?.map(drop)
    }

    /// Stops in order: sends nothing new, waits up to `grace` for acknowledgements of what is in flight, settles, says good-bye.
    /// When this returns, what was acknowledged is committed; whoever forwards the same streams next begins behind it.
    ///
    /// Gives back the way for what comes down, for the next forwarder of this uplink.
    pub async fn stop(self, grace: Duration) -> Result<uplink::Inbound, ForwardError> {
        self.stop.send_replace(Some(grace));
        self.task.await?
    }
}
