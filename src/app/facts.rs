//! What the admin room and systemd are told: every room's own figures, brought together.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    admin::{Answer, DeadQuestion, Messages, MessagesQuestion, Order, Sources, Taken},
    broker::Broker,
    message::Message,
    stats::{
        ClientPage, ClientQuestion, DeadLetter, DeadStats, DownlinkStats, ListenerStats, Published, StoreStats,
        StreamStats, UplinkState, UplinkStats,
    },
    store,
    systemd::Pulse,
};

/// A heartbeat that stands still for so long means a part that hangs; a working one beats at least once a second. That of the store
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
    /// A heartbeat that counts in `count`.
    pub(super) fn new(name: String, count: Arc<AtomicU64>) -> Self {
        Self::patient(name, move || count.load(Ordering::Relaxed))
    }

    /// A heartbeat that is asked for: another number whenever it has beaten.
    pub(super) fn patient(name: String, count: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
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
    pub(super) fn pulse(&self, name: &'static str) -> Pulse {
        let count = Arc::clone(&self.count);
        Pulse::new(name, move || count())
    }
}

/// The figures of all rooms.
pub(super) struct Facts {
    pub(super) gateway_id: String,
    pub(super) started: Instant,
    pub(super) store: store::Handle,
    /// For each stream in configuration order: the uplink it goes to.
    pub(super) destinations: Vec<Option<String>>,
    pub(super) uplinks: Vec<Box<dyn Fn() -> UplinkStats + Send + Sync>>,
    pub(super) downlinks: Box<dyn Fn() -> Vec<DownlinkStats> + Send + Sync>,
    pub(super) broker: Arc<Broker>,
    pub(super) heartbeats: Vec<Heartbeat>,
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
        let store = self.store();
        let refusing =
            store.suspended.or(store.refusing).map_or(String::new(), |why| format!(", refusing messages: {why}"));
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

    fn operate(&self, order: Order) -> Answer<u64> {
        super::orders::operate(&self.store, &self.gateway_id, &self.destinations, order)
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
        self.uplinks.iter().map(|stats| stats()).collect()
    }

    fn downlinks(&self) -> Vec<DownlinkStats> {
        (self.downlinks)()
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
        let stuck = self.heartbeats.iter().filter(|heartbeat| heartbeat.still_for(now) >= STUCK);
        stuck.map(|heartbeat| format!("{} makes no progress", heartbeat.name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_is_missed_only_while_it_stands_still() {
        let count = Arc::new(AtomicU64::new(0));
        let heartbeat = Heartbeat::new("the store".to_owned(), Arc::clone(&count));
        let start = Instant::now();
        assert!(heartbeat.still_for(start) < STUCK);
        assert!(heartbeat.still_for(start + STUCK * 2) >= STUCK);
        count.fetch_add(1, Ordering::Relaxed);
        assert_eq!(heartbeat.still_for(start + STUCK * 3), Duration::ZERO);
        assert_eq!(heartbeat.still_for(start + STUCK * 4), STUCK);
    }
}
