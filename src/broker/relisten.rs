//! Other listeners while the broker runs.
//!
//! A listener is known by its name, a socket by its address. Everything that can fail happens first: new sockets are bound, files of TLS
//! are read. A socket whose address is wanted again is kept, with the connections that wait in it, whoever has it then.
//!
//! | what changes | new connections | connected clients |
//! | --- | --- | --- |
//! | nothing | | |
//! | limits, TLS, transport, origins | as the new settings say | stay, on the terms on which they came |
//! | `max_connections` | at once | nobody is sent away; fewer are taken until enough have left |
//! | `anonymous` | at once | those that would not be let in any more are sent away (see `access`) |
//! | the address, or it is removed | | are sent away in order: what they sent is decided and acknowledged, MQTT 5 clients get DISCONNECT 0x8B |

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError, atomic::Ordering},
};

use prometheus::IntGaugeVec;
use tokio_util::sync::CancellationToken;

use super::{
    Bind, Broker, ListenerSettings, Settings, StartError,
    listener::{self, Bound, Listener},
    spawn,
    transport::{self, Tls},
};

/// Listeners that could begin at once. Dropping it gives the new sockets back.
#[derive(Debug, Default)]
pub struct Prepared(Vec<Candidate>);

#[derive(Debug)]
struct Candidate {
    settings: ListenerSettings,
    tls: Option<Arc<Tls>>,
    bound: Arc<Bound>,
    /// The listener that has the socket now.
    holder: Option<Arc<Listener>>,
}

impl Broker {
    /// Binds what is new and reads its files; gives all that is wrong. Nothing is accepted yet. Blocks on files.
    pub fn prepare(&self, settings: &Settings) -> Result<Prepared, Vec<StartError>> {
        let running = self.now();
        let (mut prepared, mut problems) = (Vec::new(), Vec::new());
        for settings in &settings.listeners {
            match self.candidate(settings, &running) {
                Ok(candidate) => prepared.push(candidate),
                Err(error) => problems.push(error),
            }
        }
        if problems.is_empty() { Ok(Prepared(prepared)) } else { Err(problems) }
    }

    fn candidate(&self, settings: &ListenerSettings, running: &[Arc<Listener>]) -> Result<Candidate, StartError> {
        let holder = holder(settings, running);
        let named = running.iter().find(|listener| listener.settings.name == settings.name);
        let same_tls =
            named.filter(|it| it.settings.tls == settings.tls && it.settings.transport == settings.transport);
        let tls = match (&settings.tls, same_tls) {
            (None, _) => None,
            (Some(_), Some(listener)) => listener.tls.clone(),
            (Some(tls), None) => {
                Some(Arc::new(Tls::open(settings, tls, &self.turns, &self.hub.metrics.tls_not_after)?))
            }
        };
        let bound = match holder.as_ref().and_then(|listener| listener.socket()) {
            Some(socket) => socket,
            None => Arc::new(listener::bind(settings)?),
        };
        Ok(Candidate { settings: settings.clone(), tls, bound, holder })
    }

    /// Makes prepared listeners the ones that there are. Access must know of them already.
    pub async fn apply(&self, prepared: Prepared) {
        let before = self.now();
        let after: Vec<_> = prepared.0.into_iter().map(|candidate| self.take_in(candidate)).collect();
        self.listeners.write().unwrap_or_else(PoisonError::into_inner).clone_from(&after);
        for old in before.iter().filter(|old| !after.iter().any(|new| Arc::ptr_eq(old, new))) {
            old.close();
            // Its address is free then.
            old.accepting.wait().await;
            if !after.iter().any(|new| Arc::ptr_eq(&new.places, &old.places)) {
                tracing::info!(listener = old.settings.name, bind = old.stats().bind, "no longer listening");
                old.leaving.cancel();
            }
            if !after.iter().any(|new| new.settings.name == old.settings.name) {
                // Its last clients count for themselves until they are gone.
                let _ = self.hub.metrics.connections.remove_label_values(&[&old.settings.name]);
            }
        }
        forget_dates(&self.hub.metrics.tls_not_after, &before, &after);
    }

    /// The listener of a candidate: the one that runs, where nothing has changed.
    fn take_in(&self, candidate: Candidate) -> Arc<Listener> {
        let Candidate { settings, tls, bound, holder } = candidate;
        let same = holder.as_ref().filter(|holder| holder.settings.name == settings.name);
        if let Some(same) = same {
            let is_same_tls = match (&tls, &same.tls) {
                (Some(new), Some(old)) => Arc::ptr_eq(new, old),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            if same.settings == settings && is_same_tls {
                return Arc::clone(same);
            }
            same.places.resize(settings.max_connections);
            if settings.unix_mode != same.settings.unix_mode {
                bound.set_mode(settings.unix_mode);
            }
        }
        let place = self.places.fetch_add(1, Ordering::Relaxed);
        let connected = self.hub.metrics.connections.with_label_values(&[&settings.name]);
        let listener = Listener::new(&self.hub, settings, place, tls, bound, connected);
        let listener = match same {
            Some(same) => listener.succeeding(same),
            None => listener,
        };
        let listener = Arc::new(listener);
        if same.is_none() {
            let stats = listener.stats();
            tracing::info!(listener = stats.name, bind = stats.bind, "listening");
        }
        self.accept(&listener);
        listener
    }

    /// Begins to accept.
    pub(super) fn accept(&self, listener: &Arc<Listener>) {
        let Some(socket) = listener.socket() else { return };
        let accept = listener::accept(Arc::clone(&self.hub), Arc::clone(listener), socket);
        let accept = listener.accepting.track_future(self.accepting.track_future(accept));
        spawn(&self.failing, &listener.closed, "a listener", accept);
    }

    /// Begins to look at the files of TLS.
    pub(super) fn watch_files(&self, until: &CancellationToken) {
        let listeners = Arc::clone(&self.listeners);
        let all = move || {
            let listeners = listeners.read().unwrap_or_else(PoisonError::into_inner);
            listeners.iter().filter_map(|listener| listener.tls.clone()).collect()
        };
        spawn(&self.failing, until, "the watch over TLS files", transport::watch(all, until.clone()));
    }
}

/// The listener whose socket is one for these settings. Port 0 is another port every time, so it is for the name.
fn holder(settings: &ListenerSettings, running: &[Arc<Listener>]) -> Option<Arc<Listener>> {
    let is_any_port = matches!(settings.bind, Bind::Tcp(address) if address.port() == 0);
    let mut same_place = running.iter().filter(|listener| listener.settings.bind == settings.bind);
    let same = |listener: &&Arc<Listener>| !is_any_port || listener.settings.name == settings.name;
    same_place.find(same).cloned()
}

/// Takes the dates of files away that nobody reads any more.
fn forget_dates(dates: &IntGaugeVec, before: &[Arc<Listener>], after: &[Arc<Listener>]) {
    let files = |listeners: &[Arc<Listener>]| -> BTreeSet<String> {
        let all = listeners.iter().filter_map(|listener| listener.tls.as_ref());
        all.flat_map(|tls| tls.dates()).map(|(file, _)| file).collect()
    };
    for gone in files(before).difference(&files(after)) {
        // It was there.
        let _ = dates.remove_label_values(&[gone]);
    }
}
