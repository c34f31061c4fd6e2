//! What begins when a client is let in and ends with its task, whatever happens: its place, and what operators see of it.

use std::sync::Arc;

use prometheus::IntGauge;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::handshake::{Door, keep_alive_s};
use crate::broker::{
    clients::{Arrival, Presence},
    hub::Hub,
    listener::Listener,
    metrics::Peak,
    packet::Connect,
};

/// A client's place among the connections of its listener; given up also where its task panics.
pub(super) struct Connected {
    clients: Arc<Peak>,
    gauge: IntGauge,
    place: Option<OwnedSemaphorePermit>,
    /// Tells who waits for its end; last of all.
    _gone: DropGuard,
}

impl Connected {
    pub(super) fn enter(hub: &Hub, listener: &Listener, place: OwnedSemaphorePermit, gone: DropGuard) -> Self {
        listener.connected.inc();
        hub.metrics.clients.enter();
        let (clients, gauge) = (Arc::clone(&hub.metrics.clients), listener.connected.clone());
        Self { clients, gauge, place: Some(place), _gone: gone }
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        // First the place, so that who sees the lower number finds it free.
        self.place.take();
        self.gauge.dec();
        self.clients.leave();
    }
}

impl Door {
    /// What an operator is to see of the connection.
    pub(super) fn presence(&self, connect: &Connect, kick: &CancellationToken) -> (Arc<Presence>, DropGuard) {
        Presence::begin(Arrival {
            user: self.badge.as_ref().map(|badge| badge.principal().to_string()).unwrap_or_default(),
            listener: &self.listener.settings.name,
            address: &self.address,
            version: connect.version,
            clean_start: connect.clean_start,
            keep_alive_s: keep_alive_s(connect, self.listener.settings.max_keep_alive_s),
            kick,
        })
    }
}
