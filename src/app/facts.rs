//! What the admin room and systemd are told: every room's own figures, brought together.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    admin::Sources,
    broker::Broker,
    stats::{ListenerStats, StoreStats, StreamStats, UplinkState, UplinkStats},
    store,
};

/// The figures of all rooms.
pub(super) struct Facts {
    pub(super) gateway_id: String,
    pub(super) started: Instant,
    pub(super) store: store::Handle,
    /// For each stream in configuration order: the uplink it goes to.
    pub(super) destinations: Vec<Option<String>>,
    pub(super) uplinks: Vec<Box<dyn Fn() -> UplinkStats + Send + Sync>>,
    pub(super) broker: Arc<Broker>,
    pub(super) stopping: AtomicBool,
}

impl Facts {
    /// From now on the gateway is not ready.
    pub(super) fn stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// One line for `systemctl status`.
    pub(super) fn status_line(&self) -> String {
        let uplinks = self.uplinks();
        let connected = uplinks.iter().filter(|uplink| uplink.state == UplinkState::Connected).count();
        let backlog: u64 = self.streams().iter().map(|stream| stream.backlog_messages).sum();
        let clients: u64 = self.listeners().iter().map(|listener| listener.connections).sum();
        let refusing = self.store().refusing.map_or(String::new(), |why| format!(", refusing messages: {why}"));
        format!(
            "{clients} clients, {connected} of {} uplinks connected, backlog {backlog} messages{refusing}",
            uplinks.len()
        )
    }
}

impl Sources for Facts {
    fn gateway_id(&self) -> String {
        self.gateway_id.clone()
    }

    fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    fn clock_synced(&self) -> bool {
        self.store.clock_synced()
    }

    fn streams(&self) -> Vec<StreamStats> {
        let mut streams = self.store.streams();
        for (stream, to) in streams.iter_mut().zip(&self.destinations) {
            stream.to.clone_from(to);
        }
        streams
    }

    fn store(&self) -> StoreStats {
        self.store.stats()
    }

    fn uplinks(&self) -> Vec<UplinkStats> {
        self.uplinks.iter().map(|stats| stats()).collect()
    }

    fn listeners(&self) -> Vec<ListenerStats> {
        self.broker.listeners()
    }

    fn not_ready(&self) -> Vec<String> {
        let stopping = self.stopping.load(Ordering::Relaxed).then(|| "stopping".to_owned());
        let refusing = self.store.stats().refusing.map(|why| format!("the store refuses messages: {why}"));
        stopping.into_iter().chain(refusing).collect()
    }

    fn not_live(&self) -> Vec<String> {
        Vec::new()
    }
}
