//! The demo's upstream: an embedded rumqttd server, and the subscriber that checks what arrives there.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rumqttc::v5::{
    AsyncClient, Event, EventLoop, MqttOptions,
    mqttbytes::{
        QoS,
        v5::{Packet, Publish},
    },
};
use serde::Deserialize;
use tokio::task::JoinHandle;

use super::{Error, book::Book};

/// The subscriber's filter: all that the gateway sends, under its id.
const FILTER: &str = "demo/#";
/// rumqttd keeps this much of what was published for subscribers that are behind: 128 MiB. A demo is some 15 MB in all,
/// and 80 MB at its largest, so that nothing is ever thrown away before it was delivered: what rumqttd would lose must
/// not look like our loss.
const SEGMENT_BYTES: usize = 4 * 1024 * 1024;
const SEGMENTS: usize = 32;
/// Largest packet of the demo's upstream.
const MAX_PACKET_BYTES: usize = 256 * 1024;
/// How long rumqttd may take until it takes connections.
const START_TIMEOUT: Duration = Duration::from_secs(5);

/// The running upstream and its subscriber.
pub(super) struct Upstream {
    /// Where rumqttd listens.
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
    subscriber: JoinHandle<()>,
}

struct Shared {
    book: Mutex<Book>,
    /// The first thing that went wrong, if anything did.
    fault: Mutex<Option<String>>,
}

/// What a sensor writes into its messages.
#[derive(Deserialize)]
struct Reading {
    sensor: usize,
    n: u64,
}

impl Upstream {
    /// Starts rumqttd on a free port, in a thread of its own, and subscribes to it.
    ///
    /// rumqttd's server has no stop: it ends with the process.
    pub(super) async fn start(sensors: usize) -> Result<Self, Error> {
        let address = free_port().map_err(|e| Error::Upstream(format!("no free port: {e}")))?;
        let mut broker = rumqttd::Broker::new(config(address));
        std::thread::Builder::new()
            .name("upstream".to_owned())
            // It returns only when it could not start, and then nobody can subscribe.
            .spawn(move || drop(broker.start()))
            .map_err(|e| Error::Upstream(format!("no thread: {e}")))?;
        let shared = Arc::new(Shared { book: Mutex::new(Book::new(sensors)), fault: Mutex::default() });
        let events = tokio::time::timeout(START_TIMEOUT, subscribe(address))
            .await
            .map_err(|_| Error::Upstream("rumqttd did not start in time".to_owned()))??;
        let subscriber = tokio::spawn(check(events, Arc::clone(&shared)));
        Ok(Self { address, shared, subscriber })
    }

    /// What has arrived so far.
    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        lock(&self.shared.book)
    }

    /// What went wrong upstream, if anything did.
    pub(super) fn fault(&self) -> Option<String> {
        lock(&self.shared.fault).clone()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.subscriber.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A port that was free a moment ago. Who needs to tell others beforehand where it will listen can do no better.
pub(super) fn free_port() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

fn config(listen: SocketAddr) -> rumqttd::Config {
    let connections = rumqttd::ConnectionSettings {
        connection_timeout_ms: 5000,
        max_payload_size: MAX_PACKET_BYTES,
        max_inflight_count: 100,
        auth: None,
        external_auth: None,
        dynamic_filters: true,
    };
    let server = rumqttd::ServerSettings {
        name: "upstream".to_owned(),
        listen,
        tls: None,
        next_connection_delay_ms: 1,
        connections,
    };
    rumqttd::Config {
        router: rumqttd::RouterConfig {
            max_connections: 64,
            max_outgoing_packet_count: 200,
            max_segment_size: SEGMENT_BYTES,
            max_segment_count: SEGMENTS,
            initialized_filters: Some(vec![FILTER.to_owned()]),
            ..rumqttd::RouterConfig::default()
        },
        v5: Some(HashMap::from([("upstream".to_owned(), server)])),
        ..rumqttd::Config::default()
    }
}

/// Connects, again and again while rumqttd is starting, and returns once the subscription is confirmed.
async fn subscribe(address: SocketAddr) -> Result<EventLoop, Error> {
    let mut options = MqttOptions::new("demo-control-room", address.ip().to_string(), address.port());
    options.set_keep_alive(Duration::from_secs(30));
    loop {
        let (client, mut events) = AsyncClient::new(options.clone(), 10);
        client.subscribe(FILTER, QoS::AtLeastOnce).await.map_err(|e| Error::Upstream(e.to_string()))?;
        loop {
            match events.poll().await {
                Ok(Event::Incoming(Packet::SubAck(_))) => return Ok(events),
                Ok(_) => {}
                Err(_not_yet) => break,
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Enters every delivery into the book, until something is wrong.
async fn check(mut events: EventLoop, shared: Arc<Shared>) {
    let fault = loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::Publish(publish))) => {
                if let Err(wrong) = enter(&publish, &shared) {
                    break wrong;
                }
            }
            Ok(_) => {}
            Err(e) => break format!("the subscriber's connection to rumqttd broke: {e}"),
        }
    };
    lock(&shared.fault).get_or_insert(fault);
}

fn enter(publish: &Publish, shared: &Shared) -> Result<(), String> {
    let reading: Reading = serde_json::from_slice(&publish.payload)
        .map_err(|e| format!("a payload arrived changed ({e}): {:?}", publish.payload))?;
    let topic = format!("demo/sensors/{:02}", reading.sensor);
    if publish.topic != topic.as_bytes() {
        return Err(format!("{topic} arrived as {}", String::from_utf8_lossy(&publish.topic)));
    }
    let user = publish.properties.as_ref().map_or(&[][..], |properties| &properties.user_properties);
    let id = user.iter().find(|(name, _)| name == "tg-id").map(|(_, value)| value.as_str());
    let sequence = id.and_then(|id| id.strip_prefix("demo/telemetry/")).and_then(|sequence| sequence.parse().ok());
    let Some(sequence) = sequence else {
        return Err(format!("a message arrived without a good tg-id: {id:?}"));
    };
    lock(&shared.book).enter(reading.sensor, reading.n, sequence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rumqttc::v5::mqttbytes::v5::PublishProperties;

    /// The premise of the proof: what rumqttd acknowledges, its subscriber gets, with the properties, in order.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_rumqttd_acknowledges_arrives() {
        const COUNT: u64 = 20_000;
        let upstream = Upstream::start(1).await.unwrap();
        let mut options = MqttOptions::new("publisher", upstream.address.ip().to_string(), upstream.address.port());
        options.set_outgoing_inflight_upper_limit(500);
        let (client, mut events) = AsyncClient::new(options, 100);
        tokio::spawn(async move {
            for n in 0..COUNT {
                let properties = PublishProperties {
                    user_properties: vec![("tg-id".to_owned(), format!("demo/telemetry/{}", n + 1))],
                    ..PublishProperties::default()
                };
                let payload = format!(r#"{{"sensor":0,"n":{n},"filler":"{}"}}"#, "x".repeat(100));
                let publish =
                    client.publish_with_properties("demo/sensors/00", QoS::AtLeastOnce, false, payload, properties);
                publish.await.unwrap();
            }
            std::future::pending::<()>().await;
        });
        let mut acknowledged = 0;
        while acknowledged < COUNT {
            if let Event::Incoming(Packet::PubAck(_)) = events.poll().await.unwrap() {
                acknowledged += 1;
            }
        }
        let arrived = async {
            while upstream.fault().is_none() && upstream.book().deliveries() < COUNT {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(20), arrived).await;
        assert_eq!(upstream.fault(), None);
        assert!(in_time.is_ok(), "{} of {COUNT} arrived", upstream.book().deliveries());
        let book = upstream.book();
        assert_eq!((book.distinct(), book.out_of_order(), book.missing(0, COUNT)), (COUNT, 0, 0));
    }
}
