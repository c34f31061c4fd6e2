//! What an uplink says of itself: state, metrics and log lines of the same facts, made in the same place.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, core::Collector};
use tokio::sync::Notify;
use tracing::{debug, info, warn};

use super::suspects::{Failure, Verdict};
use crate::{
    stats::{DURATION_BUCKETS_S, UplinkState, UplinkStats},
    uplink,
};

/// Failures that are the forwarder's own finding.
pub(super) const NO_PROGRESS: &str = "no-progress";
/// The upstream refused messages.
pub(super) const PUBLISH_REFUSED: &str = "publish-refused";

/// Shared between the task and those who look at it; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Status {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    connected: Arc<AtomicBool>,
    heartbeat: AtomicU64,
    /// Somebody looks at the heartbeat.
    asked: Notify,
    state: Mutex<State>,
    metrics: Metrics,
}

#[derive(Debug)]
struct State {
    phase: UplinkState,
    since: Instant,
    last_error: Option<String>,
    url: Option<String>,
    /// When the last connection ended.
    lost_at: Option<Instant>,
}

#[derive(Debug)]
struct Metrics {
    connected: IntGauge,
    connects: IntCounter,
    failures: IntCounterVec,
    in_flight: IntGauge,
    address: IntGauge,
    ack_seconds: Histogram,
}

impl Metrics {
    fn register(name: &str, registry: &Registry) -> Result<Self, prometheus::Error> {
        let opts = |metric: &str, help: &str| Opts::new(metric, help).const_label("uplink", name);
        let buckets = DURATION_BUCKETS_S.to_vec();
        let ack_opts = opts("tidegate_uplink_ack_seconds", "Seconds from sending a message to its acknowledgement.");
        let metrics = Self {
            connected: IntGauge::with_opts(opts(
                "tidegate_uplink_connected",
                "Whether the uplink is connected: 1 or 0.",
            ))?,
            connects: IntCounter::with_opts(opts("tidegate_uplink_connects_total", "Connections made."))?,
            failures: IntCounterVec::new(
                opts(
                    "tidegate_uplink_failures_total",
                    "Connections that failed or were lost, and messages refused, by reason.",
                ),
                &["reason"],
            )?,
            in_flight: IntGauge::with_opts(opts("tidegate_uplink_inflight", "Messages sent and not acknowledged."))?,
            address: IntGauge::with_opts(opts(
                "tidegate_uplink_address",
                "The place in `urls` of the address in use, from 1; 0 while not connected.",
            ))?,
            ack_seconds: Histogram::with_opts(HistogramOpts { common_opts: ack_opts, buckets })?,
        };
        for reason in uplink::Error::REASONS.iter().chain([&NO_PROGRESS, &PUBLISH_REFUSED]) {
            metrics.failures.with_label_values(&[reason]);
        }
        metrics.all().into_iter().try_for_each(|metric| registry.register(metric))?;
        Ok(metrics)
    }

    fn all(&self) -> [Box<dyn Collector>; 6] {
        let Self { connected, connects, failures, in_flight, address, ack_seconds } = self;
        [
            Box::new(connected.clone()),
            Box::new(connects.clone()),
            Box::new(failures.clone()),
            Box::new(in_flight.clone()),
            Box::new(address.clone()),
            Box::new(ack_seconds.clone()),
        ]
    }
}

impl Status {
    /// The status of an uplink that is about to start. An error means that one of this name is registered already.
    pub(super) fn new(name: &str, registry: &Registry) -> Result<Self, prometheus::Error> {
        let state =
            State { phase: UplinkState::Stopped, since: Instant::now(), last_error: None, url: None, lost_at: None };
        let shared = Shared {
            name: name.to_owned(),
            connected: Arc::default(),
            heartbeat: AtomicU64::new(0),
            asked: Notify::new(),
            state: Mutex::new(state),
            metrics: Metrics::register(name, registry)?,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Takes the metrics out of a registry; one that they are not in does not mind.
    pub(super) fn unregister(&self, registry: &Registry) {
        for metric in self.shared.metrics.all() {
            if let Err(error) = registry.unregister(metric) {
                debug!(uplink = self.name(), %error, "a metric was not registered");
            }
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.shared.name
    }

    pub(super) fn flag(&self) -> Arc<AtomicBool> {
        self.shared.connected.clone()
    }

    /// Counts the turns of the loop so far, and has the task make one.
    pub(super) fn pulse(&self) -> u64 {
        self.shared.asked.notify_one();
        self.shared.heartbeat.load(Ordering::Relaxed)
    }

    /// Waits until somebody wants to know whether the task is alive. Cancel safe.
    pub(super) async fn asked(&self) {
        self.shared.asked.notified().await;
    }

    pub(super) fn stats(&self) -> UplinkStats {
        let state = self.state();
        UplinkStats {
            name: self.shared.name.clone(),
            state: state.phase,
            since: state.since.elapsed(),
            last_error: state.last_error.clone(),
            in_flight: u64::try_from(self.shared.metrics.in_flight.get()).unwrap_or(0),
            connects: self.shared.metrics.connects.get(),
            url: state.url.clone(),
        }
    }

    /// The task turned its loop.
    pub(super) fn beat(&self) {
        self.shared.heartbeat.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn connecting(&self) {
        self.enter(UplinkState::Connecting);
    }

    pub(super) fn waiting(&self) {
        self.enter(UplinkState::Waiting);
    }

    pub(super) fn stopped(&self) {
        self.enter(UplinkState::Stopped);
        info!(uplink = self.name(), state = "stopped", "uplink stopped");
    }

    /// A connection was made while so many messages were waiting.
    pub(super) fn connected(&self, greeting: &uplink::Greeting, window: u16, waiting: u64) {
        self.shared.metrics.connects.inc();
        self.enter(UplinkState::Connected);
        let uplink::Greeting { url, resumed, qos, address, .. } = greeting;
        self.shared.metrics.address.set(i64::try_from(*address).unwrap_or(i64::MAX));
        let away_s = {
            let mut state = self.state();
            state.url = Some(url.clone());
            state.lost_at.map(|at| seconds(at.elapsed()))
        };
        let qos = qos.number();
        info!(
            uplink = self.name(),
            state = "connected",
            url,
            qos,
            window,
            resumed,
            away_s,
            waiting,
            "uplink connected"
        );
    }

    /// A connection could not be made.
    pub(super) fn not_connected(&self, errors: &[uplink::Error], waiting: u64) {
        let error = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        for error in errors {
            self.shared.metrics.failures.with_label_values(&[error.reason()]).inc();
        }
        let reason = errors.first().map_or("closed", uplink::Error::reason);
        // A name server that is silent and a broker that is silent are both "timeout", and different errands.
        let step = errors.first().and_then(uplink::Error::step).map(tracing::field::display);
        let away_s = self.state().lost_at.map(|at| seconds(at.elapsed()));
        warn!(uplink = self.name(), reason, step, error, away_s, waiting, "uplink cannot connect, trying again");
        self.state().last_error = Some(error);
    }

    /// A connection was lost. `was_good`: it had worked, so that this is news and not a complaint.
    pub(super) fn lost(&self, reason: &'static str, error: String, was_good: bool, waiting: u64) {
        self.shared.metrics.failures.with_label_values(&[reason]).inc();
        let connected_s = seconds(self.state().since.elapsed());
        let (uplink, state) = (self.name(), "disconnected");
        if was_good && reason != NO_PROGRESS && reason != PUBLISH_REFUSED {
            info!(uplink, state, reason, error, connected_s, waiting, "uplink disconnected");
        } else {
            warn!(uplink, state, reason, error, connected_s, waiting, "uplink disconnected");
        }
        self.state().last_error = Some(error);
    }

    /// The connection was closed in favour of the first address.
    pub(super) fn failing_back(&self) {
        self.closed("the first address can be reached again");
    }

    /// The connection was closed to be sent again what was left unacknowledged.
    pub(super) fn fetching_again(&self) {
        self.closed("there is room again for messages that were left");
    }

    fn closed(&self, why: &'static str) {
        info!(uplink = self.name(), state = "disconnected", why, "uplink disconnected");
    }

    /// The upstream does not keep retained messages, and there is one.
    pub(super) fn retain_not_available(&self) {
        info!(uplink = self.name(), "the upstream keeps no retained messages; they are sent without the retain flag");
    }

    pub(super) fn in_flight(&self, count: usize) {
        self.shared.metrics.in_flight.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// A message was acknowledged so long after it was sent.
    pub(super) fn acknowledged(&self, after: Duration) {
        self.shared.metrics.ack_seconds.observe(after.as_secs_f64());
    }

    /// An acknowledgement that nobody waits for.
    pub(super) fn unexpected(&self, id: u16) {
        warn!(uplink = self.name(), id, "the upstream acknowledged what was not in flight; ignored");
    }

    /// A message was refused; what that speaks of.
    pub(super) fn refused(&self, stream: &str, seq: u64, story: &str, verdict: Verdict) {
        self.shared.metrics.failures.with_label_values(&[PUBLISH_REFUSED]).inc();
        debug!(uplink = self.name(), stream, seq, error = story, ?verdict, "the upstream refused a message");
        self.state().last_error = Some(story.to_owned());
    }

    /// A stream waits behind a message that the upstream does not take at the moment.
    pub(super) fn held(&self, stream: &str, seq: u64, failure: &Failure, tries: u32) {
        let (reason, story) = match failure {
            Failure::Refused { story, .. } => (PUBLISH_REFUSED, story),
            Failure::HungUp { story } => ("hung-up", story),
            Failure::Unanswered { story } => (NO_PROGRESS, story),
        };
        warn!(
            uplink = self.name(),
            stream,
            seq,
            reason,
            error = story,
            tries,
            "stream held: the upstream does not take its oldest message"
        );
    }

    /// A message of a replay was not taken: it stays where it is, for the upstream has it already.
    pub(super) fn not_replayed(&self, stream: &str, seq: u64, reason: &'static str, detail: &str) {
        warn!(uplink = self.name(), stream, seq, reason, error = detail, "a kept message was not taken again");
    }

    /// A message goes to the dead letters.
    pub(super) fn dead(&self, stream: &str, seq: u64, reason: &'static str, detail: &str) {
        warn!(uplink = self.name(), stream, seq, reason, error = detail, "message moved to the dead letters");
    }

    fn enter(&self, to: UplinkState) {
        let is_connected = to == UplinkState::Connected;
        self.shared.connected.store(is_connected, Ordering::Relaxed);
        self.shared.metrics.connected.set(i64::from(is_connected));
        let mut state = self.state();
        if state.phase == UplinkState::Connected {
            state.lost_at = Some(Instant::now());
        }
        (state.phase, state.since) = (to, Instant::now());
        if !is_connected {
            state.url = None;
            self.shared.metrics.address.set(0);
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // Every field is whole at all times, so a panic elsewhere while it was locked does no harm.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// With milliseconds, as fine as anybody wants to read.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_uplinks_share_a_registry_and_a_name_is_taken_once() {
        let registry = Registry::new();
        let first = Status::new("a", &registry).unwrap();
        Status::new("b", &registry).unwrap();
        assert!(Status::new("a", &registry).is_err());
        first.lost(NO_PROGRESS, "because".to_owned(), true, 0);
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        assert!(text.contains("tidegate_uplink_failures_total{reason=\"no-progress\",uplink=\"a\"} 1"), "{text}");
        assert_eq!(first.stats().last_error.as_deref(), Some("because"));
    }
}
