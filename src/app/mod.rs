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
mod change;
mod clients;
mod facts;
mod files;
mod messages;
mod meters;
mod orders;
mod plan;
mod reload;
mod scratch;
mod sys;

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(crate) use self::messages::{dead_record, record};
use self::{
    assembly::Assembly,
    facts::Facts,
    reload::{Ready, Reload, Request},
};
use crate::{
    admin::NotReloaded,
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
    let (requests, asked) = reload::requests();
    let mut assembly = Assembly::start(config, &systemd, requests).await?;
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

    let teller = systemd.clone();
    let watch = tokio::spawn({
        let (stopped, facts) = (stopped.clone(), Arc::clone(&facts));
        async move {
            systemd.watch(|| facts.pulses(), || facts.status_line(), stopped).await;
            systemd
        }
    });
    let life = Life { signals: &mut signals, systemd: teller, asked, reload: Reload::new(file) };
    let outcome = tokio::select! {
        outcome = life.run(&mut assembly) => outcome,
        never = memory::give_back_after_work() => match never {},
    };
    stopped.cancel();
    if let Ok(systemd) = watch.await {
        systemd.stopping();
    }
    // A second signal means now: whoever sends it has waited long enough, and what was acknowledged is on disk anyway.
    tokio::select! {
        clean = assembly.stop(&facts) => outcome.and(clean),
        name = stop_signal(&mut signals) => Err(anyhow!("ended by a second {name} before the stop was complete")),
    }
}

/// Waits for a signal that means stop. Nobody reloads any more while the gateway stops.
async fn stop_signal(signals: &mut Signals) -> &'static str {
    loop {
        if let Signal::Stop(name) = signals.next().await {
            return name;
        }
    }
}

/// What happens between the start and the stop.
struct Life<'s> {
    signals: &'s mut Signals,
    systemd: Systemd,
    asked: mpsc::Receiver<Request>,
    reload: Reload,
}

/// What ends the waiting.
enum Wake {
    Signal(Signal),
    Asked(Request),
    Look,
    Failed(String),
}

impl Life<'_> {
    /// Serves until a signal stops it, or until a part fails.
    async fn run(mut self, assembly: &mut Assembly) -> anyhow::Result<()> {
        loop {
            let wake = tokio::select! {
                signal = self.signals.next() => Wake::Signal(signal),
                Some(request) = self.asked.recv() => Wake::Asked(request),
                () = self.reload.time_to_look() => Wake::Look,
                failure = assembly.failed() => Wake::Failed(failure),
            };
            let next = match wake {
                Wake::Signal(Signal::Stop(name)) => Ok(Some(name)),
                Wake::Signal(Signal::Reload) => self.reload(assembly, Request::signal()).await,
                Wake::Asked(request) => self.reload(assembly, request).await,
                Wake::Look => {
                    self.reload.changed_files(assembly).await;
                    Ok(None)
                }
                Wake::Failed(failure) => Err(failure),
            };
            match next {
                Ok(None) => {}
                Ok(Some(name)) => {
                    log::settle();
                    tracing::info!(signal = name, "stopping");
                    return Ok(());
                }
                Err(failure) => {
                    tracing::error!(error = failure, "stopping: a part of the gateway failed");
                    return Err(anyhow!(failure));
                }
            }
        }
    }

    /// Reloads, and once more where that was asked for while the files were being read. Gives the signal that stops it, or a part that has failed.
    async fn reload(&mut self, assembly: &mut Assembly, mut request: Request) -> Result<Option<&'static str>, String> {
        self.systemd.reloading();
        loop {
            let (ready, again) = match self.prepare(assembly).await {
                Ok(prepared) => prepared,
                Err(name) => return Ok(Some(name)),
            };
            let outcome = match ready {
                Ok(ready) => self.reload.apply(assembly, ready).await?,
                Err(refused) => Err(refused),
            };
            assembly.reloads.count(&outcome);
            request.answer(outcome);
            if !again {
                self.systemd.ready();
                return Ok(None);
            }
            request = Request::signal();
        }
    }

    /// Reads and prepares; also says whether another reload was asked for meanwhile. `Err` with the signal that stops it.
    async fn prepare(&mut self, assembly: &Assembly) -> Result<(Result<Ready, NotReloaded>, bool), &'static str> {
        let mut preparing = std::pin::pin!(self.reload.prepare(assembly));
        let mut again = false;
        loop {
            tokio::select! {
                ready = &mut preparing => return Ok((ready, again)),
                signal = self.signals.next() => match signal {
                    Signal::Stop(name) => return Err(name),
                    Signal::Reload => again = true,
                },
            }
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
            forwarder.stop(FORWARD_GRACE).await.map(drop).map_err(|error| (uplink, error))
        });
    }
    for ended in stopping.join_all().await {
        if let Err((uplink, error)) = ended {
            tracing::error!(uplink, %error, "the uplink did not stop cleanly");
        }
    }
}
