//! What the admin room and systemd are told: every room's own figures, brought together.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::reload::Requests;
use crate::{
    admin::{Answer, DeadQuestion, Messages, MessagesQuestion, Order, Reloading, Sources, Taken},
    broker::Broker,
    message::Message,
    stats::{
        ClientPage, ClientQuestion, DeadLetter, DeadStats, DownlinkStats, ListenerStats, Published, StoreStats,
        StreamStats, UplinkState, UplinkStats,
    },
    store,
    systemd::Pulse,
};

/// A heartbeat that stands still for so long means a part that hangs; a working one beats soon after every look at it. That of the store
/// goes on while it waits for a slow disk, up to [`store::DISK_PATIENCE`].
const STUCK: Duration = Duration::from_secs(20);

/// What a disk may take for one thing before the gateway says that it is not ready: whoever publishes waits for so long.
const SLOW_DISK: Duration = Duration::from_secs(5);

/// Something that beats while it is alive, and what was last seen of it.
pub(super) struct Heartbeat {
    name: String,
    count: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// The last new count, and when it was seen.
    seen: Mutex<(u64, Instant)>,
}

impl Heartbeat {
    /// A heartbeat that is asked for: another number whenever it has beaten.
    pub(super) fn new(name: String, count: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        let seen = Mutex::new((count(), Instant::now()));
        Self { name, count: Arc::new(count), seen }
    }

    /// For how long it has not moved, as far as anybody looked.
    fn still_for(&self, now: Instant) -> Duration {
        let count = (self.count)();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.0 != count {
            *seen = (count, now);
        }
        now.saturating_duration_since(seen.1)
    }

    /// A pulse for systemd's watchdog.
    fn pulse(&self) -> Pulse {
        Pulse { name: self.name.clone(), count: (self.count)() }
    }
}

/// The figures of all rooms.
pub(super) struct Facts {
    gateway_id: String,
    started: Instant,
    store: store::Handle,
    pub(super) broker: Arc<Broker>,
    /// Of the store.
    heartbeat: Heartbeat,
    stopping: AtomicBool,
    requests: Requests,
    parts: RwLock<Arc<Parts>>,
}

/// What a reload replaces.
pub(super) struct Parts {
    /// The uplinks that streams go to, by the names of the streams.
    pub(super) destinations: HashMap<String, String>,
    pub(super) uplinks: Vec<Box<dyn Fn() -> UplinkStats + Send + Sync>>,
    pub(super) downlinks: Box<dyn Fn() -> Vec<DownlinkStats> + Send + Sync>,
    /// Of the uplinks.
    pub(super) heartbeats: Vec<Arc<Heartbeat>>,
    /// Keys that have changed and wait for a restart.
    pub(super) restart_required: Vec<String>,
}

impl Facts {
    pub(super) fn new(
        gateway_id: String,
        store: store::Handle,
        broker: Arc<Broker>,
        requests: Requests,
        parts: Parts,
    ) -> Self {
        let heartbeat = Heartbeat::new("the store".to_owned(), store.pulse());
        let (started, stopping) = (Instant::now(), AtomicBool::new(false));
        let parts = RwLock::new(Arc::new(parts));
        Self { gateway_id, started, store, broker, heartbeat, stopping, requests, parts }
    }

    /// From now on these are the parts. The heartbeats of those that stay are as they were seen.
    pub(super) fn replace(&self, mut parts: Parts) {
        let before = self.parts();
        for beat in &mut parts.heartbeats {
            if let Some(same) = before.heartbeats.iter().find(|same| same.name == beat.name) {
                *beat = Arc::clone(same);
            }
        }
        *self.parts.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(parts);
    }

    pub(super) fn parts(&self) -> Arc<Parts> {
        Arc::clone(&self.parts.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What must move for the gateway to be alive: the store's writer and every uplink's loop.
    pub(super) fn pulses(&self) -> Vec<Pulse> {
        let parts = self.parts();
        std::iter::once(&self.heartbeat)
            .chain(parts.heartbeats.iter().map(|beat| &**beat))
            .map(Heartbeat::pulse)
            .collect()
    }

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
        let store = self.store();
        let refusing =
            store.suspended.or(store.refusing).map_or(String::new(), |why| format!(", refusing messages: {why}"));
        let parts = self.parts();
        let waiting = match parts.restart_required.join(", ") {
            keys if keys.is_empty() => String::new(),
            keys => format!(", a restart is needed for {keys}"),
        };
        format!(
            "{clients} clients, {connected} of {} uplinks connected, backlog {backlog} messages{refusing}{waiting}",
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
        let parts = self.parts();
        for stream in &mut streams {
            stream.to = parts.destinations.get(&stream.name).cloned();
        }
        streams
    }

    fn operate(&self, order: Order) -> Answer<u64> {
        super::orders::operate(&self.store, &self.gateway_id, &self.parts().destinations, order)
    }

    fn reload(&self) -> Reloading {
        self.requests.ask()
    }

    fn restart_required(&self) -> Vec<String> {
        self.parts().restart_required.clone()
    }

    fn dead(&self, question: DeadQuestion) -> Answer<Vec<DeadLetter>> {
        super::orders::dead(&self.store, question)
    }

    fn messages(&self, question: MessagesQuestion) -> Answer<Messages> {
        super::messages::read(&self.store, question)
    }

    fn import(&self, stream: String, messages: Vec<Message>, again: bool) -> Answer<Taken> {
        super::messages::import(&self.store, &self.gateway_id, stream, messages, again)
    }

    fn publish(&self, message: Message) -> Answer<Published> {
        super::clients::publish(&self.broker, &self.store, message)
    }

    fn publish_max_bytes(&self) -> usize {
        super::clients::publish_max_bytes(&self.broker)
    }

    fn clients(&self, question: &ClientQuestion) -> ClientPage {
        self.broker.clients(question)
    }

    fn disconnect(&self, client_id: String) -> Answer<()> {
        super::clients::disconnect(&self.broker, client_id)
    }

    fn dead_stats(&self) -> DeadStats {
        self.store.dead_stats()
    }

    fn store(&self) -> StoreStats {
        self.store.stats()
    }

    fn uplinks(&self) -> Vec<UplinkStats> {
        self.parts().uplinks.iter().map(|stats| stats()).collect()
    }

    fn downlinks(&self) -> Vec<DownlinkStats> {
        (self.parts().downlinks)()
    }

    fn listeners(&self) -> Vec<ListenerStats> {
        self.broker.listeners()
    }

    fn not_ready(&self) -> Vec<String> {
        let stopping = self.stopping.load(Ordering::Relaxed).then(|| "stopping".to_owned());
        let store = self.store.stats();
        let refusing = match (store.suspended, store.refusing) {
            (Some(suspended), _) => Some(suspended),
            (None, refusing) => refusing.map(|why| format!("the store refuses messages: {why}")),
        };
        let slow = store.stalled.filter(|stalled| *stalled >= SLOW_DISK).map(|stalled| {
            format!("the disk has not answered for {} s; acknowledgements wait until it does", stalled.as_secs())
        });
        stopping.into_iter().chain(refusing).chain(slow).collect()
    }

    fn not_live(&self) -> Vec<String> {
        let now = Instant::now();
        let parts = self.parts();
        let all = std::iter::once(&self.heartbeat).chain(parts.heartbeats.iter().map(|beat| &**beat));
        let stuck = all.filter(|heartbeat| heartbeat.still_for(now) >= STUCK);
        stuck.map(|heartbeat| format!("{} makes no progress", heartbeat.name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn a_heartbeat_is_missed_only_while_it_stands_still() {
        let count = Arc::new(AtomicU64::new(0));
        let heartbeat = {
            let count = Arc::clone(&count);
            Heartbeat::new("the store".to_owned(), move || count.load(Ordering::Relaxed))
        };
        let start = Instant::now();
        assert!(heartbeat.still_for(start) < STUCK);
        assert!(heartbeat.still_for(start + STUCK * 2) >= STUCK);
        count.fetch_add(1, Ordering::Relaxed);
        assert_eq!(heartbeat.still_for(start + STUCK * 3), Duration::ZERO);
        assert_eq!(heartbeat.still_for(start + STUCK * 4), STUCK);
    }
}
