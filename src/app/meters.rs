//! Metrics of the gateway as a whole: what was configured, whether it is ready, until when its certificates are valid.
//!
//! All are read at a scrape. The certificates of uplinks are read from their files at most once a minute; the broker knows those of its
//! listeners and shows them under the same name. Limits are those of the configuration: 0 where there is none, so that an alert can
//! divide by what is above 0.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use prometheus::{
    Gauge, GaugeVec, IntCounter, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use super::facts::Facts;
use crate::{admin::Sources as _, broker, config::Config, log, uplink};

/// How old what is known of a certificate may be.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// All of them. Shared with the registry.
#[derive(Clone)]
pub(super) struct Meters(Arc<Inner>);

struct Inner {
    /// Not an owner: the registry must not keep the rooms.
    facts: Weak<Facts>,
    families: Families,
    /// One scrape at a time.
    certificates: Mutex<Certificates>,
}

struct Families {
    build: GaugeVec,
    ready: Gauge,
    clock: Gauge,
    refusing: Gauge,
    stalled: Gauge,
    store_limit: Gauge,
    min_free: Gauge,
    stream_info: GaugeVec,
    stream_ttl: GaugeVec,
    log_lost: IntCounter,
}

#[derive(Default)]
struct Certificates {
    files: Vec<PathBuf>,
    looked: Option<Instant>,
}

impl Families {
    fn new() -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| Gauge::new(format!("tidegate_{name}"), help);
        let by =
            |label: &str, name: &str, help: &str| GaugeVec::new(Opts::new(format!("tidegate_{name}"), help), &[label]);
        Ok(Self {
            build: by("version", "build_info", "Always 1: the version that runs.")?,
            ready: gauge("ready", "Whether the gateway takes messages: 1, or 0 with the reasons at /health/ready.")?,
            clock: gauge(
                "clock_synced",
                "Whether the clock of this machine is set: 1, or 0 where times of messages may be wrong.",
            )?,
            refusing: gauge(
                "store_refusing",
                "1 while nothing can be accepted, because the disk or the store is full.",
            )?,
            stalled: gauge(
                "store_stalled_seconds",
                "For how long the disk has not answered what it was last asked to do, in seconds; 0 while it answers.",
            )?,
            store_limit: gauge(
                "store_max_bytes",
                "Most bytes that the store may take (store.max_bytes), 0 for no limit.",
            )?,
            min_free: gauge("store_min_free_bytes", "Bytes that are left free on the file system (store.min_free).")?,
            stream_info: GaugeVec::new(
                Opts::new(
                    "tidegate_stream_info",
                    "Always 1: where the stream goes; nowhere where it is kept locally only.",
                ),
                &["stream", "uplink"],
            )?,
            stream_ttl: by("stream", "stream_ttl_seconds", "Time to live of messages in seconds, 0 for none.")?,
            log_lost: IntCounter::new("tidegate_log_lost_lines_total", "Log lines that nobody took in time.")?,
        })
    }

    fn all(&self) -> Vec<&dyn Collector> {
        let Self { build, ready, clock, refusing, stalled, store_limit, min_free, .. } = self;
        let Self { stream_info, stream_ttl, log_lost, .. } = self;
        let store: [&dyn Collector; 7] = [build, ready, clock, refusing, stalled, store_limit, min_free];
        let streams: [&dyn Collector; 3] = [stream_info, stream_ttl, log_lost];
        store.into_iter().chain(streams).collect()
    }

    fn read(&self, facts: &Facts) {
        let store = facts.store();
        self.ready.set(flag(facts.not_ready().is_empty()));
        self.clock.set(flag(facts.clock_synced()));
        self.refusing.set(flag(store.refusing.is_some() || store.suspended.is_some()));
        self.stalled.set(store.stalled.unwrap_or_default().as_secs_f64());
        self.stream_info.reset();
        for stream in facts.streams() {
            self.stream_info.with_label_values(&[&stream.name, stream.to.as_deref().unwrap_or("")]).set(1.0);
        }
        self.log_lost.inc_by(log::lost_lines().saturating_sub(self.log_lost.get()));
    }
}

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}

impl Meters {
    /// Registers them, for this configuration.
    pub(super) fn register(
        config: &Config,
        facts: &Arc<Facts>,
        registry: &Registry,
    ) -> Result<Self, prometheus::Error> {
        let families = Families::new()?;
        families.build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        let inner = Inner { facts: Arc::downgrade(facts), families, certificates: Mutex::default() };
        let meters = Self(Arc::new(inner));
        meters.configure(config);
        registry.register(Box::new(meters.clone()))?;
        Ok(meters)
    }

    /// From now on this configuration holds.
    #[expect(clippy::cast_precision_loss, reason = "a limit to look at may be rounded")]
    pub(super) fn configure(&self, config: &Config) {
        let mut certificates = self.certificates();
        let families = &self.0.families;
        families.store_limit.set(config.store.max_bytes as f64);
        families.min_free.set(config.store.min_free as f64);
        families.stream_ttl.reset();
        for stream in &config.streams {
            let ttl = stream.ttl.unwrap_or_default().as_secs_f64();
            families.stream_ttl.with_label_values(&[&stream.name]).set(ttl);
        }
        let certificate =
            |uplink: &uplink::Settings| uplink.identity.as_ref().map(|(certificate, _)| certificate.clone());
        let files = config.uplinks.iter().flat_map(|uplink| [uplink.ca.clone(), certificate(uplink)]).flatten();
        let before = std::mem::replace(&mut *certificates, Certificates { files: files.collect(), looked: None });
        // Now, so that the next scrape has them: the family is the broker's, and may be gathered before these.
        if let Some(facts) = self.0.facts.upgrade() {
            for gone in before.files.iter().filter(|file| !certificates.files.contains(file)) {
                facts.broker.forget_certificate(gone);
            }
            certificates.look(&facts);
        }
    }

    fn certificates(&self) -> MutexGuard<'_, Certificates> {
        // Whole at all times, also after a panic.
        self.0.certificates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Certificates {
    /// Shows until when they are valid. A file that cannot be read at the moment keeps what was known of it.
    fn look(&mut self, facts: &Facts) {
        if self.looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
            self.looked = Some(Instant::now());
            for file in &self.files {
                if let Some(end) = broker::certificates_end(file) {
                    facts.broker.show_certificate(file, end);
                }
            }
        }
    }
}

impl Collector for Meters {
    fn desc(&self) -> Vec<&Desc> {
        self.0.families.all().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut certificates = self.certificates();
        if let Some(facts) = self.0.facts.upgrade() {
            self.0.families.read(&facts);
            certificates.look(&facts);
        }
        self.0.families.all().into_iter().flat_map(Collector::collect).collect()
    }
}
