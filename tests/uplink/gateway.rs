//! Support: a store with streams and a forwarder, without the rest of the gateway.

use std::time::Duration;

use bytes::Bytes;
use smallvec::smallvec;
use tempfile::TempDir;
use tidegate::{
    forward::{self, Envelope, Forwarder, Route},
    message::{Message, QoS},
    stats::{StreamStats, UplinkStats},
    store::{self, Durability, Entry, Lane, OnRefusal, Outcome, Publish, Returns, StreamId, StreamSettings, WhenFull},
    topic::{TopicFilter, TopicName, TopicTemplate},
    uplink::{Backoff, Settings, Url, Version},
};
use tokio::time::timeout;

/// Longest wait for anything that is to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Messages given to the store at once.
const BATCH: u64 = 500;

pub(crate) struct Gateway {
    store: Option<store::Store>,
    pub(crate) handle: store::Handle,
    lane: Lane,
    returns: Returns,
    pub(crate) registry: prometheus::Registry,
    pub(crate) routes: Vec<Route>,
    forwarder: Option<Forwarder>,
    _dir: TempDir,
}

/// An uplink to a loopback port, quick to retry.
pub(crate) fn settings(port: u16) -> Settings {
    Settings {
        name: "cloud".to_owned(),
        urls: vec![url(port)],
        version: Version::V5,
        client_id: "gw".to_owned(),
        username: None,
        password_file: None,
        ca: None,
        identity: None,
        alpn: None,
        qos: QoS::AtLeastOnce,
        max_inflight: 256,
        keep_alive: Duration::from_secs(30),
        connect_timeout: Duration::from_secs(5),
        progress_timeout: Duration::from_secs(30),
        backoff: Backoff { min: Duration::from_millis(5), max: Duration::from_millis(40) },
        messages_per_s: 0,
        bytes_per_s: 0,
    }
}

pub(crate) fn url(port: u16) -> Url {
    Url { tls: false, host: "127.0.0.1".to_owned(), port }
}

pub(crate) fn message(topic: &str, payload: impl Into<Bytes>) -> Message {
    Message {
        topic: TopicName::new(topic).unwrap(),
        payload: payload.into(),
        qos: QoS::AtLeastOnce,
        retain: false,
        client: "sensor-1".into(),
        properties: None,
    }
}

impl Gateway {
    /// A gateway with these streams, each taking everything below its own name.
    pub(crate) fn new(streams: &[&str]) -> Self {
        Self::keeping(streams, Duration::ZERO)
    }

    /// The same, with streams that keep what was forwarded.
    pub(crate) fn keeping(streams: &[&str], retain_sent: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store_settings = store::Settings {
            data_dir: dir.path().join("data"),
            durability: Durability::Process,
            commit_delay: Duration::ZERO,
            max_bytes: 0,
            min_free: 0,
        };
        let stream = |name: &&str| StreamSettings {
            name: (*name).to_owned(),
            ttl: None,
            max_messages: None,
            max_bytes: None,
            when_full: WhenFull::Reject,
            retain_sent,
        };
        let route = |(index, name): (usize, &&str)| Route {
            stream: StreamId(u32::try_from(index).unwrap()),
            name: (*name).to_owned(),
            from: vec![TopicFilter::new(format!("{name}/#")).unwrap()],
            topic: TopicTemplate::parse("up/{gateway}/{topic}", "plant-7").unwrap(),
            priority: 0,
            envelope: Envelope::None,
            ttl: None,
        };
        let registry = prometheus::Registry::new();
        let streams_settings: Vec<_> = streams.iter().map(stream).collect();
        let (store, handle) = store::open(&store_settings, &streams_settings, &registry).unwrap();
        let (lane, returns) = handle.lane(OnRefusal::Report, None);
        let routes = streams.iter().enumerate().map(route).collect();
        Self { store: Some(store), handle, lane, returns, registry, routes, forwarder: None, _dir: dir }
    }

    pub(crate) fn start(&mut self, settings: Settings) {
        // Each start with its own registry, as each process has.
        self.registry = prometheus::Registry::new();
        let forwarder =
            forward::start(settings, self.routes.clone(), "plant-7", self.handle.clone(), &self.registry).unwrap();
        self.forwarder = Some(forwarder);
    }

    pub(crate) async fn stop(&mut self, grace: Duration) {
        self.forwarder.take().unwrap().stop(grace).await.unwrap();
    }

    pub(crate) fn forwarder(&self) -> &Forwarder {
        self.forwarder.as_ref().unwrap()
    }

    pub(crate) fn stats(&self) -> UplinkStats {
        self.forwarder().stats()
    }

    pub(crate) async fn publish(&mut self, stream: u32, messages: Vec<Message>) {
        let entry = |message: Message| {
            let streams = smallvec![StreamId(stream)];
            Entry::Publish(Publish {
                message,
                streams,
                packet_id: None,
                copies: Vec::new(),
                set_retained: false,
                retained_revision: 0,
                tag: 0,
            })
        };
        let bytes = messages.iter().map(|message| message.payload.len() + message.topic.as_str().len()).sum();
        let batch: Vec<_> = messages.into_iter().map(entry).collect();
        self.lane.reserve(bytes).await.unwrap().submit(batch);
        let returned = timeout(PATIENCE, self.returns.recv()).await.unwrap().unwrap();
        assert!(returned.verdicts.iter().all(|(_, outcome)| *outcome == Outcome::Accepted));
    }

    /// Messages whose payloads are these numbers.
    pub(crate) async fn publish_numbers(&mut self, stream: u32, numbers: std::ops::RangeInclusive<u64>) {
        let name = self.routes[stream as usize].name.clone();
        let mut numbers = numbers.peekable();
        while numbers.peek().is_some() {
            let batch = numbers.by_ref().take(usize::try_from(BATCH).unwrap());
            let messages = batch.map(|number| message(&format!("{name}/x"), number.to_string())).collect();
            self.publish(stream, messages).await;
        }
    }

    /// Waits until a stream has no backlog, and gives its books.
    pub(crate) async fn drained(&mut self, stream: u32) -> StreamStats {
        let mut position = self.handle.position(StreamId(stream));
        let drained = position.wait_for(|position| position.head == position.next);
        timeout(PATIENCE, drained).await.expect("the backlog goes away").unwrap();
        let books = self.books(stream);
        assert!(books.balances() && books.backlog_messages == 0, "{books:?}");
        books
    }

    pub(crate) fn books(&self, stream: u32) -> StreamStats {
        self.handle.streams().swap_remove(stream as usize)
    }

    /// Waits until the uplink's figures are as asked for.
    pub(crate) async fn until(&self, what: &str, condition: impl Fn(&UplinkStats) -> bool) -> UplinkStats {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let stats = self.stats();
            if condition(&stats) {
                return stats;
            }
            assert!(tokio::time::Instant::now() < deadline, "never {what}: {stats:?}");
            // Polling interval, not synchronisation: figures have no bell.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub(crate) async fn until_error(&self, part: &str) -> String {
        let has = |stats: &UplinkStats| stats.last_error.as_deref().is_some_and(|error| error.contains(part));
        self.until(&format!("an error with \"{part}\""), has).await.last_error.unwrap()
    }

    /// The value of a metric of the uplink that has no further label.
    pub(crate) fn gauge(&self, name: &str) -> i64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).unwrap();
        #[allow(clippy::cast_possible_truncation, reason = "a gauge of a test")]
        let value = family.get_metric()[0].get_gauge().get_value() as i64;
        value
    }

    /// `tidegate_uplink_failures_total` with this reason.
    pub(crate) fn failures(&self, reason: &str) -> u64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == "tidegate_uplink_failures_total").unwrap();
        let has = |metric: &&prometheus::proto::Metric| metric.get_label().iter().any(|label| label.value() == reason);
        let metric = family.get_metric().iter().find(has).unwrap();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a counter of a test")]
        let count = metric.get_counter().get_value() as u64;
        count
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(store) = self.store.take() {
            // The forwarder may still be reading; it ends with the store.
            let _ = store.close();
        }
    }
}

/// The number at the head of a payload.
pub(crate) fn number(publish: &rumqttc::v5::mqttbytes::v5::Publish) -> u64 {
    let text = std::str::from_utf8(&publish.payload).unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}
