//! The life of the gateway: build, start, stop in order.
//!
//! ```text
//! start:  store → forwarders → broker → downlinks → admin → READY
//! stop:   not ready → close listeners → drain connections → downlinks → final commit → wait for the upstreams' acknowledgements
//!         → DISCONNECT → checkpoint and close the store → admin
//! ```
//!
//! A stop goes in the direction in which messages travel, so that what was accepted on the way out still has a road.
//! Each step has its own grace; the sum of them is below the unit's `TimeoutStopSec`. The unexpected end of any part
//! ends the program, in order, with an exit code that makes systemd start it again.

mod assembly;
mod clients;
mod facts;
mod messages;
mod meters;
mod orders;
mod reload;
mod scratch;
mod sys;

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub(crate) use self::messages::{dead_record, record};
use self::{assembly::Assembly, facts::Facts, reload::Reload};
use crate::{
    config::Config,
    forward::Forwarder,
    log, memory,
    signal::{Signal, Signals},
    systemd::Systemd,
};

/// How long clients get to have what they sent committed and acknowledged.
const DRAIN_GRACE: Duration = Duration::from_secs(10);
/// How long the last commit may take.
const COMMIT_GRACE: Duration = Duration::from_secs(20);
/// How long the last commands may take to be committed.
const DOWNLINK_GRACE: Duration = Duration::from_secs(10);
/// How long the upstreams get to acknowledge what is in flight.
const FORWARD_GRACE: Duration = Duration::from_secs(10);
/// Most worker threads: the work is spread over connections, and an edge device has few cores for much else.
const WORKERS_MAX: usize = 4;

/// Runs the gateway until a signal stops it, or until a part of it fails. `file` is what the configuration was read from,
/// as it was asked for, and is read again on SIGHUP.
pub fn run(config: &Config, file: Option<&Path>) -> anyhow::Result<()> {
    raise_open_files();
    let workers = std::thread::available_parallelism().map_or(2, usize::from).clamp(1, WORKERS_MAX);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .thread_name("gateway")
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(live(config, file))
}

async fn live(config: &Config, file: Option<&Path>) -> anyhow::Result<()> {
    let mut signals = Signals::catch().context("cannot catch signals")?;
    let mut systemd = Systemd::of_process();
    let mut assembly = Assembly::start(config, &systemd).await?;
    let stopped = CancellationToken::new();
    let facts = assembly.facts();
    systemd.ready();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        gateway = config.gateway_id,
        streams = config.streams.len(),
        uplinks = config.uplinks.len(),
        "gateway ready"
    );

    let reload_wanted = Notify::new();
    let reload = Reload::new(file, config.clone(), Arc::clone(&assembly.broker), systemd.clone());
    let pulses = assembly.pulses();
    let watch = tokio::spawn({
        let (stopped, facts) = (stopped.clone(), Arc::clone(&facts));
        async move {
            systemd.watch(pulses, || facts.status_line(), stopped).await;
            systemd
        }
    });
    let outcome = tokio::select! {
        name = stop_signal(&mut signals, &reload_wanted) => {
            log::settle();
            tracing::info!(signal = name, "stopping");
            Ok(())
        }
        never = reload.run(&reload_wanted) => match never {},
        never = memory::give_back_after_work() => match never {},
        failure = assembly.failed() => { tracing::error!(error = failure, "stopping: a part of the gateway failed"); Err(anyhow!(failure)) }
    };
    stopped.cancel();
    if let Ok(systemd) = watch.await {
        systemd.stopping();
    }
    // A second signal means now: whoever sends it has waited long enough, and what was acknowledged is on disk anyway.
    tokio::select! {
        clean = assembly.stop(&facts) => outcome.and(clean),
        name = stop_signal(&mut signals, &reload_wanted) => Err(anyhow!("ended by a second {name} before the stop was complete")),
    }
}

/// Waits for a signal that means stop; passes on that a reload is wanted. Nobody reloads any more while the gateway stops.
async fn stop_signal(signals: &mut Signals, reload: &Notify) -> &'static str {
    loop {
        match signals.next().await {
            Signal::Stop(name) => return name,
            Signal::Reload => reload.notify_one(),
        }
    }
}

/// Raises the soft limit of open files to the hard one: the usual soft limit of 1024 is less than one listener's default.
fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })
    {
        tracing::warn!(%error, current = limit.current, "cannot raise the limit of open files");
    }
}

impl Assembly {
    /// Stops every part in the direction of travel. The error says what was not clean; nothing acknowledged is lost by it.
    async fn stop(self, facts: &Facts) -> anyhow::Result<()> {
        let Self { store, handle, forwarders, downlinks, broker, admin, scratch, .. } = self;
        facts.stopping();
        broker.close_listeners();
        let cut = broker.drain(DRAIN_GRACE).await;
        if cut > 0 {
            tracing::warn!(
                connections = cut,
                "clients were cut off: not all of what they sent was acknowledged in time"
            );
        }
        // What came down and is not committed stays with its upstream.
        match tokio::time::timeout(DOWNLINK_GRACE, downlinks.stop()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the downlinks did not stop cleanly"),
            Err(_) => {
                tracing::warn!("the store did not take in time what was delivered last; it may be delivered again");
            }
        }
        let committed = handle.flush(COMMIT_GRACE).await.context("the last commit failed");
        stop_forwarders(forwarders).await;
        let closed = tokio::task::spawn_blocking(move || store.close()).await;
        let closed =
            closed.context("closing the store failed").and_then(|result| result.context("closing the store failed"));
        admin.stop().await;
        drop(scratch);
        if committed.is_ok() && closed.is_ok() {
            tracing::info!("stopped");
        }
        committed.and(closed)
    }
}

/// Stops all uplinks side by side, so that one that does not answer costs the others nothing.
async fn stop_forwarders(forwarders: Vec<Forwarder>) {
    let mut stopping = tokio::task::JoinSet::new();
    for forwarder in forwarders {
        stopping.spawn(async move {
            let uplink = forwarder.name().to_owned();
            forwarder.stop(FORWARD_GRACE).await.map_err(|error| (uplink, error))
        });
    }
    for ended in stopping.join_all().await {
        if let Err((uplink, error)) = ended {
            tracing::error!(uplink, %error, "the uplink did not stop cleanly");
        }
    }
}
