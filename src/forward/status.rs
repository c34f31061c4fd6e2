//! What an uplink says of itself: state, metrics and log lines of the same facts, made in the same place.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, core::Collector};
use tracing::{debug, info, warn};

use super::suspects::{Failure, Verdict};
use crate::{
    stats::{UplinkState, UplinkStats},
    uplink,
};

/// How often the same complaint may be in the log.
const REPEAT_AFTER: Duration = Duration::from_secs(5 * 60);

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
    heartbeat: Arc<AtomicU64>,
    state: Mutex<State>,
    metrics: Metrics,
}

#[derive(Debug)]
struct State {
    phase: UplinkState,
    since: Instant,
    last_error: Option<String>,
    url: Option<String>,
    complaints: Complaints,
    unexpected: Complaints,
    held: Complaints,
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

/// Lets the same complaint through once in a while; pure.
#[derive(Debug, Default)]
struct Complaints {
    last: Option<(&'static str, Instant)>,
    held_back: u64,
}

impl Complaints {
    /// How many were held back since the last, if this one may be said.
    fn may_say(&mut self, reason: &'static str, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|(last, at)| last == reason && now < at + REPEAT_AFTER) {
            self.held_back += 1;
            return None;
        }
        self.last = Some((reason, now));
        Some(std::mem::take(&mut self.held_back))
    }
}

impl Metrics {
    fn register(name: &str, registry: &Registry) -> Result<Self, prometheus::Error> {
        let opts = |metric: &str, help: &str| Opts::new(metric, help).const_label("uplink", name);
        let buckets = prometheus::exponential_buckets(0.000_5, 2.0, 17)?;
        let ack_opts = opts("tidegate_uplink_ack_seconds", "From sending a message to its acknowledgement.");
        let metrics = Self {
            connected: IntGauge::with_opts(opts("tidegate_uplink_connected", "Whether the uplink is connected."))?,
            connects: IntCounter::with_opts(opts("tidegate_uplink_connects_total", "Connections made."))?,
            failures: IntCounterVec::new(
                opts("tidegate_uplink_failures_total", "Connections that failed or were lost."),
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
        let state = State {
            phase: UplinkState::Stopped,
            since: Instant::now(),
            last_error: None,
            url: None,
            complaints: Complaints::default(),
            unexpected: Complaints::default(),
            held: Complaints::default(),
        };
        let shared = Shared {
            name: name.to_owned(),
            connected: Arc::default(),
            heartbeat: Arc::default(),
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

    pub(super) fn heartbeat(&self) -> Arc<AtomicU64> {
        self.shared.heartbeat.clone()
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
        info!(uplink = self.name(), "uplink stopped");
    }

    pub(super) fn connected(&self, greeting: &uplink::Greeting, window: u16) {
        self.shared.metrics.connects.inc();
        self.enter(UplinkState::Connected);
        let uplink::Greeting { url, resumed, qos, address, .. } = greeting;
        self.state().url = Some(url.clone());
        self.shared.metrics.address.set(i64::try_from(*address).unwrap_or(i64::MAX));
        info!(uplink = self.name(), url, qos = qos.number(), window, resumed, "uplink connected");
    }

    /// A connection could not be made.
    pub(super) fn not_connected(&self, errors: &[uplink::Error]) {
        let text = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        for error in errors {
            self.shared.metrics.failures.with_label_values(&[error.reason()]).inc();
        }
        let reason = errors.first().map_or("closed", uplink::Error::reason);
        self.complain(reason, text, "uplink cannot connect, trying again");
    }

    /// A connection was lost. `was_good`: it had worked, so that this is news and not a complaint.
    pub(super) fn lost(&self, reason: &'static str, cause: String, was_good: bool) {
        self.shared.metrics.failures.with_label_values(&[reason]).inc();
        if was_good && reason != NO_PROGRESS && reason != PUBLISH_REFUSED {
            info!(uplink = self.name(), cause, "uplink disconnected");
            self.state().last_error = Some(cause);
        } else {
            self.complain(reason, cause, "uplink disconnected");
        }
    }

    /// The connection was closed in favour of the first address.
    pub(super) fn failing_back(&self) {
        info!(uplink = self.name(), cause = "the first address can be reached again", "uplink disconnected");
    }

    /// The connection was closed to be sent again what was left unacknowledged.
    pub(super) fn fetching_again(&self) {
        info!(uplink = self.name(), cause = "there is room again for messages that were left", "uplink disconnected");
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
        let said = self.state().unexpected.may_say("unexpected", Instant::now());
        if let Some(held_back) = said {
            warn!(uplink = self.name(), id, held_back, "the upstream acknowledged what was not in flight; ignored");
        }
    }

    /// A message was refused; what that speaks of.
    pub(super) fn refused(&self, stream: &str, seq: u64, story: &str, verdict: Verdict) {
        self.shared.metrics.failures.with_label_values(&[PUBLISH_REFUSED]).inc();
        debug!(uplink = self.name(), stream, seq, story, ?verdict, "the upstream refused a message");
        self.state().last_error = Some(story.to_owned());
    }

    /// A stream waits behind a message that the upstream does not take at the moment.
    pub(super) fn held(&self, stream: &str, seq: u64, failure: &Failure, tries: u32) {
        let (reason, story) = match failure {
            Failure::Refused { story, .. } => (PUBLISH_REFUSED, story),
            Failure::HungUp { story } => ("hung-up", story),
            Failure::Unanswered { story } => (NO_PROGRESS, story),
        };
        let said = self.state().held.may_say(reason, Instant::now());
        if let Some(held_back) = said {
            warn!(
                uplink = self.name(),
                stream,
                seq,
                reason,
                story,
                tries,
                held_back,
                "stream held: the upstream does not take its oldest message"
            );
        }
    }

    /// A message of a replay was not taken: it stays where it is, for the upstream has it already.
    pub(super) fn not_replayed(&self, stream: &str, seq: u64, reason: &'static str, detail: &str) {
        let said = self.state().unexpected.may_say(reason, Instant::now());
        if let Some(held_back) = said {
            warn!(uplink = self.name(), stream, seq, reason, detail, held_back, "a kept message was not taken again");
        }
    }

    /// A message goes to the dead letters.
    pub(super) fn dead(&self, stream: &str, seq: u64, reason: &'static str, detail: &str) {
        let said = self.state().unexpected.may_say(reason, Instant::now());
        if let Some(held_back) = said {
            warn!(uplink = self.name(), stream, seq, reason, detail, held_back, "message moved to the dead letters");
        }
    }

    fn complain(&self, reason: &'static str, cause: String, what: &'static str) {
        let mut state = self.state();
        if let Some(held_back) = state.complaints.may_say(reason, Instant::now()) {
            warn!(uplink = self.name(), reason, cause, held_back, "{what}");
        } else {
            debug!(uplink = self.name(), reason, cause, "{what}");
        }
        state.last_error = Some(cause);
    }

    fn enter(&self, to: UplinkState) {
        let is_connected = to == UplinkState::Connected;
        self.shared.connected.store(is_connected, Ordering::Relaxed);
        self.shared.metrics.connected.set(i64::from(is_connected));
        let mut state = self.state();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_complaint_is_heard_now_and_then_and_a_new_one_at_once() {
        let now = Instant::now();
        let mut complaints = Complaints::default();
        assert_eq!(complaints.may_say("dns", now), Some(0));
        assert_eq!(complaints.may_say("dns", now), None);
        assert_eq!(complaints.may_say("tcp", now), Some(1));
        assert_eq!(complaints.may_say("tcp", now + REPEAT_AFTER), Some(0));
    }

    #[test]
    fn several_uplinks_share_a_registry_and_a_name_is_taken_once() {
        let registry = Registry::new();
        let first = Status::new("a", &registry).unwrap();
        Status::new("b", &registry).unwrap();
        assert!(Status::new("a", &registry).is_err());
        first.lost(NO_PROGRESS, "because".to_owned(), true);
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        assert!(text.contains("tidegate_uplink_failures_total{reason=\"no-progress\",uplink=\"a\"} 1"), "{text}");
        assert_eq!(first.stats().last_error.as_deref(), Some("because"));
    }
}
