//! The broker: what local MQTT clients talk to (MQTT 3.1.1 and 5 on the same port).
//!
//! [`start`] binds the listeners, restores sessions and retained messages from the store and begins to accept. Every
//! connection is one task (see `connection`); messages reach the disk through [`Intake`] and local subscribers through
//! the [`fanout`], in that order, and an acknowledgement exists only where a commit exists.
//!
//! | part | what it does |
//! | --- | --- |
//! | `packet` | the wire format, pure |
//! | `listener`, `places` | sockets, accepting, how many |
//! | `relisten` | other listeners while the broker runs |
//! | `transport` | what carries MQTT: TLS, WebSocket, unix sockets |
//! | `connection` | one client: handshake, arrivals, acknowledgements, deliveries, the end |
//! | `sessions` | who owns a client id; what outlives a connection; expiry and delayed wills |
//! | [`access`] | who may connect, publish and subscribe; reload of that |
//! | [`fanout`] | subscriptions, shared ones too, and the way to subscribers |
//! | `retained`, `publisher` | retained messages; wills |
//! | `clients` | clients as an operator sees them; sending one away; what is published over HTTP |
//! | `commands` | the door for messages that come down an uplink |
//! | `pending` | connections that have not sent their CONNECT, and the bounds on them |
//! | `metrics`, `gauges`, `sys` | what is counted, for Prometheus and as `$SYS` |
//!
//! Stopping, in the direction of travel: [`Broker::close_listeners`], then [`Broker::drain`], and after it the store.

pub mod access;
mod clients;
mod commands;
#[doc = include_str!("conformance.md")]
pub mod conformance {}
mod connection;
pub mod fanout;
mod gauges;
mod hub;
mod limits;
mod listener;
mod metrics;
mod packet;
mod pending;
mod places;
mod publisher;
mod relisten;
mod retained;
mod sessions;
mod settings;
mod sys;
mod transport;

use std::{
    future::Future,
    io,
    path::Path,
    sync::{Arc, PoisonError, RwLock, atomic::AtomicUsize},
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use clients::{Expelled, NotTaken, Taken};
pub(crate) use commands::{Kept, Locals, Look, Receipt, Report};
pub use metrics::Drops;
#[cfg(any(test, feature = "fuzzing"))]
pub use packet::fuzz;
pub use relisten::Prepared;
pub use settings::*;
pub use sys::SysFacts;
pub use transport::{
    CertificateFacts, TlsProblem, TlsRefused, certificates_end, check_tls, inspect_certificate, inspect_certificates,
};

use self::{
    access::Access, fanout::Fanout, hub::Hub, listener::Listener, metrics::Metrics, pending::Pending,
    retained::Retained, sessions::Sessions, sys::Sys, transport::Tls,
};
use crate::{
    intake::{Intake, StoreError},
    stats::ListenerStats,
};

/// Why the broker could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener's address cannot be had: in use, not ours, or not allowed.
    #[error("listener `{listener}` cannot listen on {address}: {cause}")]
    Bind {
        /// The listener's name.
        listener: String,
        /// The address it was to listen on.
        address: String,
        /// What the system says.
        cause: io::Error,
    },
    /// A listener's certificate, key or authorities cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsRefused),
    /// Sessions or retained messages could not be read.
    #[error("sessions and retained messages cannot be read from the store: {0}")]
    Store(#[from] StoreError),
    /// Passwords cannot be checked.
    #[error("access control cannot work: {0}")]
    Access(#[from] access::NoHash),
    /// The metrics exist already.
    #[error("the broker's metrics cannot be registered: {0}")]
    Metrics(#[from] prometheus::Error),
}

impl StartError {
    /// The listener that cannot be had, where it is about one.
    pub fn listener(&self) -> Option<&str> {
        match self {
            Self::Bind { listener, .. } | Self::Tls(TlsRefused { listener, .. }) => Some(listener),
            Self::Store(_) | Self::Access(_) | Self::Metrics(_) => None,
        }
    }
}

/// The running broker.
#[derive(Debug)]
pub struct Broker {
    hub: Arc<Hub>,
    /// As they are now, in configuration order.
    listeners: Arc<RwLock<Vec<Arc<Listener>>>>,
    /// The number of the next listener.
    places: AtomicUsize,
    /// Of handshakes, for all listeners.
    turns: Arc<transport::Turns>,
    /// The tasks that accept.
    accepting: TaskTracker,
    /// The task that publishes wills.
    publishing: TaskTracker,
    failing: watch::Sender<Option<String>>,
    failed: watch::Receiver<Option<String>>,
}

/// Binds all listeners, restores what the store remembers, and begins to accept.
pub async fn start(settings: Settings, intake: Intake, registry: &prometheus::Registry) -> Result<Broker, StartError> {
    let metrics = Metrics::new(registry)?;
    let access = Access::new(&settings)?;
    let turns: Arc<transport::Turns> = Arc::default();
    let mut bound = Vec::with_capacity(settings.listeners.len());
    for settings in settings.listeners {
        let open_tls = |tls| Tls::open(&settings, tls, &turns, &metrics.tls_not_after).map(Arc::new);
        let tls = settings.tls.as_ref().map(open_tls).transpose()?;
        let socket = listener::bind(&settings)?;
        bound.push((settings, tls, Arc::new(socket)));
    }
    let (publisher, messages) = mpsc::channel(limits::PUBLISHER_QUEUE);
    let fanout = Arc::new(Fanout::new(metrics.drops.clone()));
    fanout.restrict(access.has_rules());
    let hub = Arc::new(Hub {
        access,
        sessions: Sessions::new(Arc::clone(&fanout), metrics.sessions_evicted.clone()),
        fanout,
        intake,
        retained: Retained::default(),
        metrics,
        publisher,
        pending: Pending::default(),
        closed: CancellationToken::new(),
        stopping: CancellationToken::new(),
        aborted: CancellationToken::new(),
        last_call: CancellationToken::new(),
        connections: TaskTracker::new(),
        sys: Sys::new(Instant::now()),
    });
    registry.register(Box::new(gauges::Gauges::new(&hub)?))?;
    restore(&hub).await?;

    let (failing, failed) = watch::channel(None);
    let publishing = TaskTracker::new();
    publishing.close();
    let publisher = publishing.track_future(publisher::run(Arc::clone(&hub), messages));
    spawn(&failing, &hub.last_call, "the publisher of wills", publisher);
    spawn(&failing, &hub.stopping, "the sweeper of sessions", sessions::sweep(Arc::clone(&hub)));
    spawn(&failing, &hub.stopping, "the keeper of $SYS", sys::run(Arc::clone(&hub)));
    let accepting = TaskTracker::new();
    accepting.close();
    let (listeners, places) = (Arc::default(), AtomicUsize::new(bound.len()));
    let broker = Broker { hub, listeners, places, turns, accepting, publishing, failing, failed };
    broker.watch_files(&broker.hub.stopping);
    let mut listeners = Vec::with_capacity(bound.len());
    for (place, (settings, tls, socket)) in bound.into_iter().enumerate() {
        let connected = broker.hub.metrics.connections.with_label_values(&[&settings.name]);
        let listener = Arc::new(Listener::new(&broker.hub, settings, place, tls, socket, connected));
        let stats = listener.stats();
        tracing::info!(listener = stats.name, bind = stats.bind, "listening");
        broker.accept(&listener);
        listeners.push(listener);
    }
    *broker.listeners.write().unwrap_or_else(PoisonError::into_inner) = listeners;
    Ok(broker)
}

async fn restore(hub: &Hub) -> Result<(), StoreError> {
    let now = Instant::now();
    for message in hub.intake.retained().await? {
        hub.retained.restore(message, now);
    }
    for session in hub.intake.sessions().await? {
        hub.sessions.restore(session, now);
    }
    Ok(())
}

/// Starts a task that ends only after `until`; any other end, a panic too, is reported in `failing`.
fn spawn(
    failing: &watch::Sender<Option<String>>,
    until: &CancellationToken,
    name: &'static str,
    task: impl Future<Output = ()> + Send + 'static,
) {
    let (failing, until) = (failing.clone(), until.clone());
    let task = tokio::spawn(task);
    tokio::spawn(async move {
        let ended = task.await;
        if !until.is_cancelled() {
            let cause = ended.err().map_or_else(|| "it returned".to_owned(), |error| error.to_string());
            failing.send_replace(Some(format!("{name} has ended unexpectedly: {cause}")));
        }
    });
}

impl Broker {
    /// The listeners as they are now, in configuration order.
    pub fn listeners(&self) -> Vec<ListenerStats> {
        self.now().iter().map(|listener| listener.stats()).collect()
    }

    fn now(&self) -> Vec<Arc<Listener>> {
        self.listeners.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Shows in the metrics when the first certificate of a file ends that other rooms use, in seconds since 1970.
    pub fn show_certificate(&self, file: &Path, not_after: i64) {
        self.hub.metrics.tls_not_after.with_label_values(&[&file.display().to_string()]).set(not_after);
    }

    /// Takes the end of a file's certificates away that other rooms use no more, unless a listener does.
    pub fn forget_certificate(&self, file: &Path) {
        let file = file.display().to_string();
        let listeners = self.now();
        let mut used = listeners.iter().filter_map(|listener| listener.tls.as_ref()).flat_map(|tls| tls.dates());
        if !used.any(|(of, _)| of == file) {
            // It may never have been readable.
            let _ = self.hub.metrics.tls_not_after.remove_label_values(&[&file]);
        }
    }

    /// The door for messages that come from elsewhere.
    pub(crate) fn locals(&self) -> Locals {
        Locals::new(Arc::clone(&self.hub))
    }

    /// What the other rooms have to say below `$SYS/`, from now on.
    pub fn tell_sys(&self, facts: SysFacts) {
        self.hub.sys.add(facts);
    }

    /// Reads the certificates, keys and authorities of all listeners again. Connections live on; where files cannot be used
    /// those before stay in use, and the log and the result say so.
    pub async fn reload_tls(&self) -> Result<(), Vec<TlsRefused>> {
        let listeners: Vec<Arc<Tls>> = self.now().iter().filter_map(|listener| listener.tls.clone()).collect();
        let reload = move || listeners.iter().filter_map(|tls| tls.reload().err()).collect::<Vec<_>>();
        // The task fails only when the runtime ends.
        let refused = tokio::task::spawn_blocking(reload).await.unwrap_or_default();
        if refused.is_empty() { Ok(()) } else { Err(refused) }
    }

    /// Waits for the unexpected end of one of the broker's own tasks; then the process must end.
    pub async fn failed(&self) -> String {
        let mut failed = self.failed.clone();
        match failed.wait_for(Option::is_some).await.map(|cause| cause.clone()) {
            Ok(Some(cause)) => cause,
            // All tasks have ended as they should.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// From now on `access` and the listeners' `anonymous` of these settings hold, for clients that are connected as well.
    /// Takes a while with many clients. Nothing else of the settings is looked at.
    pub fn apply_access(&self, settings: &Settings) -> access::Applied {
        if settings.access.rules.is_some() {
            self.hub.fanout.restrict(true);
        }
        let applied = self.hub.access.apply(settings);
        self.hub.fanout.restrict(settings.access.rules.is_some());
        applied
    }

    /// Takes no more connections; those that exist go on.
    pub fn close_listeners(&self) {
        self.hub.closed.cancel();
        self.now().iter().for_each(|listener| listener.close());
    }

    /// Ends all connections in order: no more is read, what arrived is decided and acknowledged, MQTT 5 clients get
    /// DISCONNECT 0x8B, wills without delay are published, and those with one stay in the store with their sessions. What has not ended within `grace` is cut. Returns the number of connections that were cut.
    pub async fn drain(&self, grace: Duration) -> usize {
        self.close_listeners();
        // Sockets are closed and socket files removed; a connection accepted just now is among those that are ended.
        self.accepting.wait().await;
        self.hub.stopping.cancel();
        self.hub.connections.close();
        let cut = match tokio::time::timeout(grace, self.hub.connections.wait()).await {
            Ok(()) => 0,
            Err(_) => self.hub.connections.len(),
        };
        self.hub.aborted.cancel();
        self.hub.connections.wait().await;
        self.hub.last_call.cancel();
        if tokio::time::timeout(limits::LAST_WILLS, self.publishing.wait()).await.is_err() {
            tracing::warn!("the store did not take the last wills in time");
        }
        cut
    }
}
