//! A simulated sensor: a rumqttc client that publishes at QoS 1 and remembers what was acknowledged.
//!
//! It does what a careful device does. A reading stays in its memory until the gateway has acknowledged it. When the
//! connection breaks it connects again and publishes everything unacknowledged again, oldest first, before anything
//! new. Every connection has a client of its own: rumqttc forgets what was in flight when a session is not resumed,
//! so its memory is not asked.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use rumqttc::v5;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Readings that may be unacknowledged at a time; more wait in the sensor.
const WINDOW: usize = 100;
/// How often a sensor looks whether the next reading is due.
const TICK: Duration = Duration::from_millis(5);
/// How long a sensor waits after a connection broke.
const PAUSE: Duration = Duration::from_millis(50);

/// What all sensors have done together.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Readings published at least once.
    pub(super) sent: AtomicU64,
    /// Readings acknowledged by the gateway.
    pub(super) acknowledged: AtomicU64,
}

/// One sensor.
pub(super) struct Sensor {
    pub(super) number: usize,
    pub(super) gateway: SocketAddr,
    /// MQTT 5 rather than 3.1.1.
    pub(super) version_5: bool,
    /// Readings a second.
    pub(super) per_s: f64,
    pub(super) tally: Arc<Tally>,
    /// No new readings from here on.
    pub(super) stop: CancellationToken,
}

/// What a sensor remembers between connections.
#[derive(Debug, Default)]
struct Memory {
    /// The next new reading.
    next: u64,
    /// Published and not acknowledged.
    open: BTreeSet<u64>,
}

/// What belongs to one connection.
#[derive(Debug)]
struct Flight {
    memory: Memory,
    /// Open readings of an earlier connection, to be published again first.
    again: VecDeque<u64>,
    /// Handed to the client, not yet given a packet id.
    handed: VecDeque<u64>,
    /// By packet id.
    sent: HashMap<u16, u64>,
}

/// A client of either version.
enum Client {
    V4(rumqttc::AsyncClient),
    V5(v5::AsyncClient),
}

/// The event loop of either version.
enum Events {
    V4(Box<rumqttc::EventLoop>),
    V5(Box<v5::EventLoop>),
}

/// What a sensor wants to know of an event.
enum Seen {
    Connected,
    /// A publish got this packet id; they come in the order in which they were handed over.
    Sent(u16),
    Acknowledged(u16),
    Refused,
    /// Our DISCONNECT is on the wire.
    Goodbye,
    Other,
}

impl Sensor {
    /// Publishes until told to stop, and until everything is acknowledged. Returns how many readings it published.
    pub(super) async fn run(self) -> u64 {
        let begin = Instant::now();
        let mut memory = Memory::default();
        loop {
            memory = self.connection(begin, memory).await;
            if self.stop.is_cancelled() && memory.open.is_empty() {
                return memory.next;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// One connection, from the first try to its end.
    async fn connection(&self, begin: Instant, memory: Memory) -> Memory {
        let (client, mut events) = self.client();
        let again = memory.open.iter().copied().collect();
        let flight = Mutex::new(Flight { memory, again, handed: VecDeque::new(), sent: HashMap::new() });
        let progress = Notify::new();
        // Nothing is handed over before the connection stands: what is unsent then is still simply new.
        while let Ok(seen) = events.next().await {
            if matches!(seen, Seen::Connected) {
                tokio::select! {
                    () = self.listen(&mut events, &flight, &progress) => {}
                    () = self.publish(&client, begin, &flight, &progress) => {}
                }
                break;
            }
        }
        flight.into_inner().unwrap_or_else(PoisonError::into_inner).memory
    }

    fn client(&self) -> (Client, Events) {
        let id = format!("sensor-{:02}", self.number);
        let (host, port) = (self.gateway.ip().to_string(), self.gateway.port());
        let window = u16::try_from(2 * WINDOW).expect("the window is small");
        if self.version_5 {
            let mut options = v5::MqttOptions::new(id, host, port);
            options.set_keep_alive(Duration::from_secs(10)).set_outgoing_inflight_upper_limit(window);
            let (client, events) = v5::AsyncClient::new(options, WINDOW);
            (Client::V5(client), Events::V5(Box::new(events)))
        } else {
            let mut options = rumqttc::MqttOptions::new(id, host, port);
            options.set_keep_alive(Duration::from_secs(10)).set_inflight(window);
            let (client, events) = rumqttc::AsyncClient::new(options, WINDOW);
            (Client::V4(client), Events::V4(Box::new(events)))
        }
    }

    /// Enters acknowledgements until the connection breaks.
    async fn listen(&self, events: &mut Events, flight: &Mutex<Flight>, progress: &Notify) {
        while let Ok(seen) = events.next().await {
            let mut flight = lock(flight);
            match seen {
                Seen::Sent(packet_id) => {
                    if let Some(reading) = flight.handed.pop_front() {
                        flight.sent.insert(packet_id, reading);
                    }
                }
                Seen::Acknowledged(packet_id) => {
                    if let Some(reading) = flight.sent.remove(&packet_id)
                        && flight.memory.open.remove(&reading)
                    {
                        self.tally.acknowledged.fetch_add(1, Relaxed);
                    }
                }
                // It stays open, and goes again with the next connection: end this one.
                Seen::Refused | Seen::Goodbye => return,
                Seen::Connected | Seen::Other => {}
            }
            drop(flight);
            progress.notify_one();
        }
    }

    /// Publishes what is open from before, then what is due, as far as the window allows; takes its leave when all is
    /// done. Returns only when the connection's client has ended.
    async fn publish(&self, client: &Client, begin: Instant, flight: &Mutex<Flight>, progress: &Notify) {
        loop {
            let next = self.take(begin, &mut lock(flight));
            match next {
                Some(reading) => {
                    if client.publish(self.number, reading).await.is_err() {
                        return;
                    }
                }
                None if self.stop.is_cancelled() && lock(flight).memory.open.is_empty() => {
                    client.disconnect().await;
                    // `listen` sees it go out and ends the connection.
                    std::future::pending::<()>().await;
                }
                None => {
                    let _ = tokio::time::timeout(TICK, progress.notified()).await;
                }
            }
        }
    }

    /// The next reading to publish now, entered as handed over.
    fn take(&self, begin: Instant, flight: &mut Flight) -> Option<u64> {
        if flight.handed.len() + flight.sent.len() >= WINDOW {
            return None;
        }
        let reading = if let Some(again) = flight.again.pop_front() {
            again
        } else {
            let due = begin.elapsed().as_secs_f64() * self.per_s;
            #[allow(clippy::cast_precision_loss, reason = "a demo has thousands of readings, not 2^53")]
            if self.stop.is_cancelled() || flight.memory.next as f64 >= due {
                return None;
            }
            flight.memory.next += 1;
            self.tally.sent.fetch_add(1, Relaxed);
            flight.memory.next - 1
        };
        flight.memory.open.insert(reading);
        flight.handed.push_back(reading);
        Some(reading)
    }
}

fn lock(flight: &Mutex<Flight>) -> MutexGuard<'_, Flight> {
    flight.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is measured: a slow wave, so that a person who looks at the messages sees something.
fn payload(sensor: usize, n: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "the value is only for show")]
    let celsius = 18.0 + 4.0 * (n as f64 / 500.0 + sensor as f64).sin();
    format!(r#"{{"sensor":{sensor},"n":{n},"celsius":{celsius:.3},"state":"ok","unit":"pump house {sensor:02}"}}"#)
}

impl Client {
    async fn publish(&self, sensor: usize, n: u64) -> Result<(), ()> {
        let topic = format!("sensors/{sensor:02}");
        let payload = payload(sensor, n);
        match self {
            Self::V4(client) => {
                client.publish(topic, rumqttc::QoS::AtLeastOnce, false, payload).await.map_err(|_ended| ())
            }
            Self::V5(client) => {
                client.publish(topic, v5::mqttbytes::QoS::AtLeastOnce, false, payload).await.map_err(|_ended| ())
            }
        }
    }

    async fn disconnect(&self) {
        // Everything is acknowledged: whether the goodbye is heard changes nothing.
        match self {
            Self::V4(client) => drop(client.disconnect().await),
            Self::V5(client) => drop(client.disconnect().await),
        }
    }
}

impl Events {
    /// The next event; an error when the connection could not be made or broke.
    async fn next(&mut self) -> Result<Seen, ()> {
        match self {
            Self::V4(events) => events.poll().await.map(|event| seen_v4(&event)).map_err(|_broken| ()),
            Self::V5(events) => events.poll().await.map(|event| seen_v5(&event)).map_err(|_broken| ()),
        }
    }
}

fn seen_v4(event: &rumqttc::Event) -> Seen {
    use rumqttc::{Event, Outgoing, Packet};
    match event {
        Event::Incoming(Packet::ConnAck(_)) => Seen::Connected,
        Event::Incoming(Packet::PubAck(ack)) => Seen::Acknowledged(ack.pkid),
        Event::Outgoing(Outgoing::Publish(packet_id)) => Seen::Sent(*packet_id),
        Event::Outgoing(Outgoing::Disconnect) => Seen::Goodbye,
        Event::Incoming(_) | Event::Outgoing(_) => Seen::Other,
    }
}

fn seen_v5(event: &v5::Event) -> Seen {
    use rumqttc::Outgoing;
    use v5::{
        Event,
        mqttbytes::v5::{Packet, PubAckReason},
    };
    match event {
        Event::Incoming(Packet::ConnAck(_)) => Seen::Connected,
        Event::Incoming(Packet::PubAck(ack)) => match ack.reason {
            PubAckReason::Success | PubAckReason::NoMatchingSubscribers => Seen::Acknowledged(ack.pkid),
            PubAckReason::UnspecifiedError
            | PubAckReason::ImplementationSpecificError
            | PubAckReason::NotAuthorized
            | PubAckReason::TopicNameInvalid
            | PubAckReason::PacketIdentifierInUse
            | PubAckReason::QuotaExceeded
            | PubAckReason::PayloadFormatInvalid => Seen::Refused,
        },
        Event::Outgoing(Outgoing::Publish(packet_id)) => Seen::Sent(*packet_id),
        Event::Outgoing(Outgoing::Disconnect) => Seen::Goodbye,
        Event::Incoming(_) | Event::Outgoing(_) => Seen::Other,
    }
}
