//! Measures the broker with its store: acknowledged ingest, local delivery, memory of idle connections.
//!
//! `cargo bench --bench broker`. Publishers and subscribers are plain byte writers in the same process, so they take
//! their share of the same processors.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measurement prints, and stops where it cannot be made")]
#![allow(clippy::cast_precision_loss, reason = "rates need no more than 52 bits")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tidegate::{
    broker::{self, Bind, ListenerSettings},
    intake::{Intake, Rule},
    store::{self, Durability, StreamId, StreamSettings, WhenFull},
    topic::TopicFilter,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
};

const WINDOW: usize = 1000;

fn connect(id: &str) -> Vec<u8> {
    let mut packet = vec![0x10, u8::try_from(12 + id.len()).unwrap()];
    packet.extend(b"\0\x04MQTT\x04\x02\0\0\0");
    packet.push(u8::try_from(id.len()).unwrap());
    packet.extend(id.as_bytes());
    packet
}

fn publish(out: &mut Vec<u8>, topic: &str, packet_id: u16, payload: &[u8]) {
    let mut len = 4 + topic.len() + payload.len();
    out.push(0x32);
    while len > 127 {
        out.push(u8::try_from(len & 0x7F).unwrap() | 0x80);
        len >>= 7;
    }
    out.push(u8::try_from(len).unwrap());
    out.extend(u16::try_from(topic.len()).unwrap().to_be_bytes());
    out.extend(topic.as_bytes());
    out.extend(packet_id.to_be_bytes());
    out.extend(payload);
}

async fn client(address: SocketAddr, id: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(&connect(id)).await.unwrap();
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).await.unwrap();
    assert_eq!(connack, [0x20, 2, 0, 0]);
    stream
}

/// Publishes `count` messages with up to [`WINDOW`] unacknowledged, and waits for the last acknowledgement.
async fn publisher(address: SocketAddr, id: String, topic: String, size: usize, count: usize) {
    let (mut reader, mut writer) = client(address, &id).await.into_split();
    let window = Arc::new(Semaphore::new(WINDOW));
    let credit = Arc::clone(&window);
    let acks = tokio::spawn(async move {
        let mut buffer = vec![0; 16 << 10];
        let (mut seen, mut bytes) = (0, 0);
        while seen < count {
            let read = reader.read(&mut buffer).await.unwrap();
            assert!(read > 0, "the gateway closed the connection");
            bytes += read;
            let now = bytes / 4;
            credit.add_permits(now - seen);
            seen = now;
        }
    });
    let payload = vec![7; size];
    let (mut out, mut sent) = (Vec::new(), 0);
    while sent < count {
        window.acquire().await.unwrap().forget();
        let mut ready = 1;
        while ready < 100.min(count - sent) && window.try_acquire().map(tokio::sync::SemaphorePermit::forget).is_ok() {
            ready += 1;
        }
        out.clear();
        for at in 0..ready {
            publish(&mut out, &topic, u16::try_from((sent + at) % 60_000 + 1).unwrap(), &payload);
        }
        writer.write_all(&out).await.unwrap();
        sent += ready;
    }
    acks.await.unwrap();
}

/// Subscribes at QoS 1, acknowledges everything, counts.
async fn subscriber(address: SocketAddr, filter: &str, got: Arc<AtomicU64>) {
    let mut stream = client(address, "subscriber").await;
    let mut packet = vec![0x82, u8::try_from(5 + filter.len()).unwrap(), 0, 1, 0];
    packet.push(u8::try_from(filter.len()).unwrap());
    packet.extend(filter.as_bytes());
    packet.push(1);
    stream.write_all(&packet).await.unwrap();
    stream.read_exact(&mut [0; 5]).await.unwrap();
    tokio::spawn(async move {
        let mut input: Vec<u8> = Vec::new();
        let mut out = Vec::new();
        while stream.read_buf(&mut input).await.unwrap() > 0 {
            let mut at = 0;
            out.clear();
            // Every message of this measurement has a remaining length of two bytes.
            while input.len() >= at + 3 {
                let len = usize::from(input[at + 1] & 0x7F) | usize::from(input[at + 2]) << 7;
                if input.len() < at + 3 + len {
                    break;
                }
                let topic = usize::from(input[at + 4]);
                out.extend([0x40, 2, input[at + 5 + topic], input[at + 6 + topic]]);
                at += 3 + len;
            }
            input.drain(..at);
            got.fetch_add(out.len() as u64 / 4, Ordering::Relaxed);
            stream.write_all(&out).await.unwrap();
        }
    });
}

async fn ingest(address: SocketAddr, publishers: usize, size: usize, total: usize) -> f64 {
    let start = Instant::now();
    let tasks: Vec<_> = (0..publishers)
        .map(|number| {
            let topic = format!("sensors/device-{number}/temperature");
            tokio::spawn(publisher(address, format!("p{number}"), topic, size, total / publishers))
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    total as f64 / start.elapsed().as_secs_f64()
}

fn rss_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::main]
async fn main() {
    let dir = tempfile::tempdir().unwrap();
    let registry = prometheus::Registry::new();
    let settings = store::Settings {
        data_dir: dir.path().join("data"),
        durability: Durability::Full,
        commit_delay: Duration::from_millis(2),
        max_bytes: 0,
        min_free: 0,
    };
    let stream = StreamSettings {
        name: "telemetry".into(),
        ttl: None,
        max_messages: None,
        max_bytes: None,
        when_full: WhenFull::Reject,
        retain_sent: Duration::ZERO,
    };
    let (store, handle) = store::open(&settings, &[stream], &registry).unwrap();
    let from = vec![TopicFilter::new("sensors/#").unwrap()];
    let rule = Rule { stream: StreamId(0), from, except: vec![], live_only: None };
    let bind = Bind::Tcp("127.0.0.1:0".parse().unwrap());
    let listener = ListenerSettings { max_connections: 100_000, ..ListenerSettings::new("bench", bind) };
    let settings = broker::Settings { listeners: vec![listener], ..Default::default() };
    let broker = broker::start(settings, Intake::new(handle.clone(), vec![rule]), &registry).await.unwrap();
    let address: SocketAddr = broker.listeners()[0].bind.parse().unwrap();

    let before = rss_kib();
    let mut idle = Vec::new();
    for number in 0..400 {
        idle.push(client(address, &format!("idle-{number}")).await);
    }
    println!("memory per idle connection, client side included: {} KiB", rss_kib().saturating_sub(before) / 400);
    drop(idle);

    ingest(address, 1, 128, 50_000).await;
    let mut expected = 50_000;
    for (publishers, size, total) in [(1, 128, 500_000), (20, 128, 500_000), (1, 1024, 200_000), (20, 1024, 200_000)] {
        let rate = ingest(address, publishers, size, total).await;
        expected += total as u64;
        assert_eq!(handle.streams()[0].accepted, expected, "what was acknowledged is in the books");
        println!("acknowledged ingest, QoS 1, {publishers:>2} publishers, {size:>4} B: {rate:>8.0} messages/s");
    }
    let got = Arc::new(AtomicU64::new(0));
    subscriber(address, "local/#", Arc::clone(&got)).await;
    let start = Instant::now();
    publisher(address, "local".into(), "local/a".into(), 128, 500_000).await;
    while got.load(Ordering::Relaxed) < 500_000 && start.elapsed() < Duration::from_secs(30) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let rate = 500_000.0 / start.elapsed().as_secs_f64();
    println!(
        "local QoS 1 publisher -> subscriber, 128 B: {rate:>8.0} messages/s, {} of 500000 delivered",
        got.load(Ordering::Relaxed)
    );

    broker.drain(Duration::from_secs(5)).await;
    store.close().unwrap();
}
