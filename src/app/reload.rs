//! Reload: the configuration read again on SIGHUP and on request, and the files of access as soon as they change.
//!
//! A configuration with an error in it, or one that cannot be used (a port is taken, a certificate does not fit its key), is refused whole: every
//! problem is told, in the log and to whoever asked, and everything stays as it was. A good one is applied whole; see [`change`](super::change)
//! for how, and [`plan`](super::plan) for what. What only a restart can change is named in the answer, in the log, and in the status
//! (`restart_required`), for as long as it waits.
//!
//! One reload at a time; [`REQUESTS_MAX`] wait, and further ones are told to come again. A stop does not wait for
//! reading and preparing, but for the rest, which is bounded.
//!
//! The password and ACL files are looked at every [`LOOK_INTERVAL`]. A change is taken up when it has stood still from one look to
//! the next, so that a file that somebody is writing to at the moment is not taken for whole.
//!
//! Reading happens on a thread of its own (files may be on a slow card). A crash loses nothing: the next start reads the same files.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};
use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_blocking,
};

use super::{
    assembly::Assembly,
    change::{Obstacle, Prepared},
    files::{Look, Watch},
    plan::Plan,
};
use crate::{
    admin::{Changed, NotReloaded, Problem, Reloaded, Reloading},
    beat,
    broker::{self, TlsRefused},
    config::{self, Config, Inputs, Refused, Severity},
    log,
};

/// How often the files of access are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Most reloads that wait for their turn.
const REQUESTS_MAX: usize = 8;

/// What the gateway was told to read its id from, so that a reload goes by the id that it has.
const ID_VARIABLE: &str = "TIDEGATE__GATEWAY__ID";

/// How many reloads there were, by what came of them.
#[derive(Debug, Clone)]
pub(super) struct Reloads {
    applied: IntCounter,
    refused: IntCounter,
}

impl Reloads {
    pub(super) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let help = "Reloads of the configuration, by whether it was applied or refused.";
        let counter = IntCounterVec::new(Opts::new("tidegate_reloads_total", help), &["result"])?;
        registry.register(Box::new(counter.clone()))?;
        let of = |result| counter.with_label_values(&[result]);
        Ok(Self { applied: of("applied"), refused: of("refused") })
    }

    pub(super) fn count(&self, outcome: &Result<Reloaded, NotReloaded>) {
        if outcome.is_ok() { &self.applied } else { &self.refused }.inc();
    }
}

/// Where reloads are asked for; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Requests(mpsc::Sender<Request>);

/// Somebody wants a reload.
#[derive(Debug)]
pub(super) struct Request {
    /// Who may have given up waiting; `None` for a signal.
    answer: Option<oneshot::Sender<Result<Reloaded, NotReloaded>>>,
}

/// The way for requests.
pub(super) fn requests() -> (Requests, mpsc::Receiver<Request>) {
    let (sender, receiver) = mpsc::channel(REQUESTS_MAX);
    (Requests(sender), receiver)
}

impl Requests {
    /// Asks for a reload, and for what comes of it.
    pub(super) fn ask(&self) -> Reloading {
        let (answer, answered) = oneshot::channel();
        let asked = self.0.try_send(Request { answer: Some(answer) });
        Box::pin(async move {
            match asked {
                Ok(()) => answered.await.unwrap_or(Err(NotReloaded::NotNow("the gateway is stopping"))),
                Err(mpsc::error::TrySendError::Full(_)) => {
                    Err(NotReloaded::NotNow("too many reloads wait already; try again in a moment"))
                }
                Err(mpsc::error::TrySendError::Closed(_)) => Err(NotReloaded::NotNow("the gateway is stopping")),
            }
        })
    }
}

impl Request {
    /// By a signal, which hears of nothing but what is in the log.
    pub(super) const fn signal() -> Self {
        Self { answer: None }
    }

    /// Says what came of it.
    pub(super) fn answer(self, answer: Result<Reloaded, NotReloaded>) {
        if let Some(sender) = self.answer {
            // Whoever asked may have given up waiting.
            let _ = sender.send(answer);
        }
    }
}

/// Reads again.
#[derive(Debug)]
pub(super) struct Reload {
    /// The configuration file that was asked for.
    file: Option<PathBuf>,
    watch: Watch,
    /// What is wrong with the files of access, as the log last said.
    told: Option<String>,
    /// Whether the files have been looked at before, from which a change is told.
    has_looked: bool,
}

/// A new configuration that could be used, and what is surely not meant in it.
pub(super) struct Ready {
    prepared: Prepared,
    warnings: Vec<config::Problem>,
}

impl Reload {
    pub(super) fn new(file: Option<&Path>) -> Self {
        Self { file: file.map(Path::to_owned), watch: Watch::default(), told: None, has_looked: false }
    }

    /// Waits until it is time to look at the files. Cancel safe.
    pub(super) async fn time_to_look(&mut self) {
        if std::mem::replace(&mut self.has_looked, true) {
            beat::wait(LOOK_INTERVAL).await;
        }
    }

    /// Reads the configuration and gets everything it needs; where that is not to be had, says so. Cancel safe.
    pub(super) async fn prepare(&self, assembly: &Assembly) -> Result<Ready, NotReloaded> {
        let (file, id) = (self.file.clone(), assembly.config.gateway_id.clone());
        let read = match spawn_blocking(move || read(file, id)).await {
            Ok(read) => read,
            Err(error) => Err(Refused(vec![about_nothing("", None, error.to_string())])),
        };
        let new = read.map_err(|refused| refuse(&refused.0))?;
        let warnings = new.warnings.clone();
        tell(&warnings);
        match assembly.prepare(new).await {
            Ok(prepared) => Ok(Ready { prepared, warnings }),
            Err(obstacles) => Err(refuse_for(obstacles)),
        }
    }

    /// Makes it hold, and says so. Not cancel safe. The outer error is a part that has failed.
    pub(super) async fn apply(
        &mut self,
        assembly: &mut Assembly,
        ready: Ready,
    ) -> Result<Result<Reloaded, NotReloaded>, String> {
        let began = Instant::now();
        let Ready { prepared, mut warnings } = ready;
        let plan = match assembly.apply(prepared).await? {
            Ok(plan) => plan,
            Err(obstacles) => return Ok(Err(refuse_for(obstacles))),
        };
        // They were good a moment ago. Where they are not any more those before stay in use, and whoever asked must hear of it.
        if let Err(refused) = assembly.broker.reload_tls().await {
            let warning = |refused: TlsRefused| config::Problem {
                severity: Severity::Warning,
                ..about_nothing(
                    "listener.tls",
                    Some(refused.listener.clone()),
                    format!("{refused}; the files before stay in use"),
                )
            };
            warnings.extend(refused.into_iter().map(warning));
        }
        let level = &assembly.config.log.level;
        if plan.settings.iter().any(|section| section == "[log]") && !log::set_level(level) {
            tracing::warn!(log_level = level, "reload: RUST_LOG is set and overrides the level");
        }
        tell_of(&plan, began);
        let warnings = warnings.iter().map(problem).collect();
        Ok(Ok(reloaded(plan, warnings)))
    }

    /// The files of access, where they have changed.
    pub(super) async fn changed_files(&mut self, assembly: &mut Assembly) {
        let access = assembly.config.broker.access.clone();
        let paths: Vec<PathBuf> = [&access.password_file, &access.acl_file].into_iter().flatten().cloned().collect();
        if paths.is_empty() {
            return;
        }
        let Ok(seen) = spawn_blocking(move || Look::at(paths)).await else { return };
        if !self.watch.look(seen) {
            return;
        }
        match spawn_blocking(move || config::reread_access(&access)).await {
            Ok(Ok((access, _))) if access == assembly.config.broker.access => self.told = None,
            Ok(Ok((access, warnings))) => {
                self.told = None;
                tell(&warnings);
                let settings = broker::Settings { access, ..assembly.config.broker.clone() };
                assembly.apply_access(settings.clone()).await;
                assembly.config.broker = settings;
            }
            Ok(Err(refused)) => {
                // Tried again with every look, and said once: a file that could not be read this time has not changed when it can be.
                self.watch.not_taken();
                let said = refused.to_string();
                if self.told.as_ref() != Some(&said) {
                    drop(refuse(&refused.0));
                    self.told = Some(said);
                }
            }
            Err(error) => tracing::error!(%error, "reload: reading the files of access failed"),
        }
    }
}

/// Reads the configuration, as if its gateway had this id: topics and client ids are made from it, and only a restart changes it.
fn read(file: Option<PathBuf>, id: String) -> Result<Config, Refused> {
    let mut inputs = Inputs::of_process(file);
    let new = config::load_from(&inputs)?;
    if new.gateway_id == id {
        return Ok(new);
    }
    inputs.environment.push((ID_VARIABLE.into(), id.into()));
    let as_it_is = config::load_from(&inputs)?;
    Ok(Config { gateway_id: new.gateway_id, ..as_it_is })
}

fn tell(warnings: &[config::Problem]) {
    for warning in warnings {
        tracing::warn!(problem = %warning, "configuration: surely not meant");
    }
}

fn refuse(problems: &[config::Problem]) -> NotReloaded {
    for problem in problems {
        match problem.severity {
            Severity::Error => tracing::error!(%problem, "reload"),
            Severity::Warning => tracing::warn!(%problem, "reload"),
        }
    }
    tracing::error!("reload refused: everything stays as it was");
    NotReloaded::Refused(problems.iter().map(problem).collect())
}

fn refuse_for(obstacles: Vec<Obstacle>) -> NotReloaded {
    let problems: Vec<_> =
        obstacles.into_iter().map(|Obstacle { key, name, story }| about_nothing(key, name, story)).collect();
    refuse(&problems)
}

/// A problem that no line of a file is to blame for.
fn about_nothing(key: &str, name: Option<String>, story: String) -> config::Problem {
    let (place, said, hint) = (None, None, None);
    config::Problem {
        severity: Severity::Error,
        place,
        key: key.to_owned(),
        name,
        said,
        expected: story,
        hint,
        may_pass: false,
    }
}

/// In the words of the admin room.
fn problem(problem: &config::Problem) -> Problem {
    let config::Problem { severity, place, key, name, said, expected, hint, may_pass: _ } = problem.clone();
    let severity = match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let (file, line) = place.map_or((None, None), |place| (Some(place.source), place.line));
    Problem { severity, file, line, key, name, said, expected, hint }
}

fn reloaded(plan: Plan, warnings: Vec<Problem>) -> Reloaded {
    let Plan { listeners, streams, mut uplinks, downlinks, settings, restart_required, renewed, .. } = plan;
    let also: Vec<String> = renewed.into_iter().filter(|name| !uplinks.changed.contains(name)).collect();
    uplinks.changed.extend(also);
    Reloaded { listeners, streams, uplinks, downlinks, settings, restart_required, warnings }
}

fn tell_of(plan: &Plan, began: Instant) {
    let kinds = [
        ("listeners", &plan.listeners),
        ("streams", &plan.streams),
        ("uplinks", &plan.uplinks),
        ("downlinks", &plan.downlinks),
    ];
    for (kind, Changed { added, removed, changed }) in kinds.into_iter().filter(|(_, changed)| !changed.is_empty()) {
        let (added, removed, changed) = (added.join(", "), removed.join(", "), changed.join(", "));
        tracing::info!(kind, added, removed, changed, "reloaded");
    }
    if !plan.settings.is_empty() {
        tracing::info!(sections = plan.settings.join(", "), "reloaded");
    }
    if !plan.restart_required.is_empty() {
        let keys = plan.restart_required.join(", ");
        tracing::warn!(keys, "reload: this has changed too, and takes a restart");
    }
    let (changed, took_ms) = (!plan.is_empty(), began.elapsed().as_millis());
    tracing::info!(changed, took_ms, "configuration reloaded");
}
