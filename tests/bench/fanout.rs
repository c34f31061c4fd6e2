//! Measures the two ways from a publisher to local subscribers: the broker's own fan-out, and `rumqttd::Router`.
//!
//! `cargo bench --bench fanout`. Each way runs in a process of its own, on the same work: whole messages of 128 bytes go
//! in on one thread and come out, as messages again, on a two-thread runtime, at most 4000 on their way. Then one
//! subscriber stalls while 20 000 messages are published, and 20 000 filters come and go.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measurement prints, and stops where it cannot be made")]
#![allow(clippy::cast_precision_loss, reason = "rates need no more than 52 bits")]

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tidegate::{
    broker::{
        Drops,
        fanout::{Delivery, Fanout, Options, Subscriber},
    },
    message::{Message, QoS},
    topic::{TopicFilter, TopicName},
};

const ON_THE_WAY: u64 = 4000;
const BURST: u64 = 100;
const STALLED: u64 = 20_000;
const FILTERS: u64 = 20_000;

/// One way from a publisher to subscribers.
trait Way {
    fn name(&self) -> &'static str;
    /// A new subscriber to a filter, which counts what it gets in `got` while `stall` is 0.
    fn subscribe(&mut self, filter: &str, got: Arc<AtomicU64>, stall: Arc<AtomicU64>);
    fn publish(&mut self, count: u64);
    /// Messages that were lost and counted as lost.
    fn counted_drops(&self) -> u64;
    /// A filter comes, gets a message, and goes.
    fn churn(&mut self, filter: &str);
}

fn message() -> Message {
    Message {
        topic: TopicName::new("plant/7/line/3/temperature").unwrap(),
        payload: Bytes::from(vec![7; 128]),
        qos: QoS::AtLeastOnce,
        retain: false,
        client: "bench".into(),
        properties: None,
    }
}

struct Direct {
    fanout: Arc<Fanout>,
    drops: Drops,
    message: Message,
}

const OPTIONS: Options = Options { qos: QoS::AtLeastOnce, no_local: false, retain_as_published: false, id: None };

impl Way for Direct {
    fn name(&self) -> &'static str {
        "direct"
    }

    fn subscribe(&mut self, filter: &str, got: Arc<AtomicU64>, stall: Arc<AtomicU64>) {
        let subscriber = Subscriber::new("sub".into());
        self.fanout.connect(&subscriber, u16::MAX);
        self.fanout.subscribe(&subscriber, &TopicFilter::new(filter).unwrap(), OPTIONS);
        let fanout = Arc::clone(&self.fanout);
        tokio::spawn(async move {
            let mut inbox: VecDeque<Delivery> = VecDeque::new();
            loop {
                wait_while_stalled(&stall).await;
                while fanout.take(&subscriber, 64, &mut inbox) || !inbox.is_empty() {
                    let bytes: usize = inbox.drain(..).map(|delivery| delivery.publication.message.payload.len()).sum();
                    got.fetch_add(bytes as u64 / 128, Ordering::Relaxed);
                }
                subscriber.woken().await;
            }
        });
    }

    fn publish(&mut self, count: u64) {
        let mut round = self.fanout.round(Instant::now());
        for _ in 0..count {
            round.publish(self.message.clone());
        }
    }

    fn counted_drops(&self) -> u64 {
        self.drops.total()
    }

    fn churn(&mut self, filter: &str) {
        let subscriber = Subscriber::new("sub".into());
        let topic = TopicName::new(filter).unwrap();
        let filter = TopicFilter::new(filter).unwrap();
        self.fanout.connect(&subscriber, u16::MAX);
        self.fanout.subscribe(&subscriber, &filter, OPTIONS);
        self.fanout.round(Instant::now()).publish(Message { topic, ..self.message.clone() });
        self.fanout.unsubscribe(&subscriber, &filter);
        self.fanout.clear(&subscriber);
    }
}

/// The router with small segments and one publishing link; the message travels in the payload as one block.
struct Routed {
    sender: flume_sender::Sender,
    publisher: rumqttd::local::LinkTx,
    _publisher: rumqttd::local::LinkRx,
    message: Message,
    links: u64,
}

/// The type of the router's door, which `rumqttd` does not name.
mod flume_sender {
    pub(crate) type Sender = Box<dyn Fn(&str) -> (rumqttd::local::LinkTx, rumqttd::local::LinkRx)>;
}

fn encode(message: &Message) -> Bytes {
    let mut block = BytesMut::with_capacity(message.payload.len() + 64);
    block.put_u8(message.qos.number() | u8::from(message.retain) << 2);
    for part in [message.topic.as_bytes(), message.client.as_bytes()] {
        block.put_u16(u16::try_from(part.len()).unwrap());
        block.put_slice(part);
    }
    block.put_slice(&message.payload);
    block.freeze()
}

fn decode(mut block: Bytes) -> Message {
    let bits = block.get_u8();
    let mut part = || {
        let len = usize::from(block.get_u16());
        bytestring::ByteString::try_from(block.split_to(len)).unwrap()
    };
    let (topic, client) = (TopicName::new(part()).unwrap(), part());
    let qos = QoS::from_number(bits & 3).unwrap();
    Message { topic, client, qos, retain: bits & 4 != 0, payload: block, properties: None }
}

impl Routed {
    fn new() -> Self {
        let config = rumqttd::RouterConfig {
            max_connections: 100_000,
            max_outgoing_packet_count: 10_000,
            max_segment_size: 1 << 20,
            max_segment_count: 2,
            ..rumqttd::RouterConfig::default()
        };
        let router = rumqttd::Router::new(0, config).spawn();
        let sender: flume_sender::Sender = Box::new(move |name| {
            let (tx, rx, _) = rumqttd::local::LinkBuilder::new(name, router.clone()).build().unwrap();
            (tx, rx)
        });
        let (publisher, rx) = sender("publisher");
        Self { sender, publisher, _publisher: rx, message: message(), links: 0 }
    }
}

impl Way for Routed {
    fn name(&self) -> &'static str {
        "rumqttd::Router"
    }

    fn subscribe(&mut self, filter: &str, got: Arc<AtomicU64>, stall: Arc<AtomicU64>) {
        self.links += 1;
        let (mut tx, mut rx) = (self.sender)(&format!("sub{}", self.links));
        tx.subscribe(filter).unwrap();
        tokio::spawn(async move {
            let _tx = tx;
            loop {
                wait_while_stalled(&stall).await;
                match rx.next().await {
                    Ok(Some(rumqttd::Notification::Forward(forward))) => {
                        let message = decode(forward.publish.payload);
                        got.fetch_add(message.payload.len() as u64 / 128, Ordering::Relaxed);
                    }
                    Ok(Some(rumqttd::Notification::Unschedule)) => rx.wake().await.unwrap(),
                    Ok(_) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }

    fn publish(&mut self, count: u64) {
        let topic = self.message.topic.as_bytes().clone();
        let mut buffer = self.publisher.buffer();
        for _ in 1..count {
            let publish = rumqttd::protocol::Publish::new(topic.clone(), encode(&self.message), false);
            buffer.push_back(rumqttd::protocol::Packet::Publish(publish, None));
        }
        drop(buffer);
        self.publisher.publish(topic, encode(&self.message)).unwrap();
    }

    fn counted_drops(&self) -> u64 {
        0
    }

    fn churn(&mut self, filter: &str) {
        self.publisher.subscribe(filter).unwrap();
        self.publisher.publish(filter.to_owned(), encode(&self.message)).unwrap();
        self.publisher.unsubscribe(filter).unwrap();
    }
}

async fn wait_while_stalled(stall: &AtomicU64) {
    while stall.load(Ordering::Relaxed) != 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn rss_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Publishes `count` messages, never more than [`ON_THE_WAY`] ahead of the slowest subscriber.
fn run(way: &mut dyn Way, got: &[Arc<AtomicU64>], count: u64) -> f64 {
    let before: Vec<u64> = got.iter().map(|got| got.load(Ordering::Relaxed)).collect();
    let slowest = || got.iter().zip(&before).map(|(got, before)| got.load(Ordering::Relaxed) - before).min().unwrap();
    let start = Instant::now();
    let mut sent = 0;
    while sent < count {
        if sent - slowest().min(sent) >= ON_THE_WAY {
            std::thread::yield_now();
            continue;
        }
        way.publish(BURST);
        sent += BURST;
    }
    while slowest() < count && start.elapsed() < Duration::from_secs(60) {
        std::thread::yield_now();
    }
    count as f64 / start.elapsed().as_secs_f64()
}

fn measure(mut way: Box<dyn Way>) {
    let name = way.name();
    let empty = rss_kib();
    let never = Arc::new(AtomicU64::new(0));
    let mut got = vec![Arc::new(AtomicU64::new(0))];
    way.subscribe("plant/+/line/+/temperature", Arc::clone(&got[0]), Arc::clone(&never));
    run(way.as_mut(), &got, 100_000);
    let one = run(way.as_mut(), &got, 2_000_000);
    for _ in 1..10 {
        got.push(Arc::new(AtomicU64::new(0)));
        way.subscribe("plant/+/line/+/temperature", Arc::clone(got.last().unwrap()), Arc::clone(&never));
    }
    run(way.as_mut(), &got, 50_000);
    let ten = run(way.as_mut(), &got, 300_000);
    let after = rss_kib();
    println!("{name}: 1 -> 1   {one:>10.0} messages/s");
    println!("{name}: 1 -> 10  {ten:>10.0} messages/s in, {:.0} deliveries/s", ten * 10.0);
    println!("{name}: resident memory {} KiB above empty after that", after.saturating_sub(empty));

    never.store(1, Ordering::Relaxed);
    std::thread::sleep(Duration::from_millis(50));
    let before = got[0].load(Ordering::Relaxed);
    for _ in 0..STALLED / BURST {
        way.publish(BURST);
    }
    std::thread::sleep(Duration::from_millis(500));
    never.store(0, Ordering::Relaxed);
    way.publish(1);
    std::thread::sleep(Duration::from_secs(1));
    let delivered = got[0].load(Ordering::Relaxed) - before;
    let counted = way.counted_drops() / 10;
    let silent = (STALLED + 1).saturating_sub(delivered + counted);
    println!(
        "{name}: stalled for {STALLED} messages: {delivered} delivered, {counted} counted as dropped, {silent} lost in silence"
    );

    let before = rss_kib();
    for number in 0..FILTERS {
        way.churn(&format!("churn/{number}"));
    }
    std::thread::sleep(Duration::from_secs(1));
    println!("{name}: {FILTERS} filters that came and went left {} KiB", rss_kib().saturating_sub(before));
}

fn main() {
    let way = std::env::args().nth(1);
    let way = way.filter(|way| !way.starts_with('-'));
    let Some(way) = way else {
        for way in ["direct", "router"] {
            let status = std::process::Command::new(std::env::current_exe().unwrap()).arg(way).status().unwrap();
            assert!(status.success());
        }
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let _guard = runtime.enter();
    if way == "direct" {
        let drops = Drops::unregistered();
        let fanout = Arc::new(Fanout::new(drops.clone()));
        measure(Box::new(Direct { fanout, drops, message: message() }));
    } else {
        measure(Box::new(Routed::new()));
    }
}
