//! Support: a real Mosquitto on a free loopback port, and a subscriber that sees what arrives there.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
};

use rumqttc::v5::{
    AsyncClient, Event, EventLoop, MqttOptions,
    mqttbytes::{
        QoS,
        v5::{Packet, Publish},
    },
};
use tempfile::TempDir;
use tokio::time::timeout;

use crate::gateway::{PATIENCE, number};

/// A Mosquitto process, ended by pid when dropped.
pub(crate) struct Broker {
    process: Child,
    pub(crate) port: u16,
    _dir: TempDir,
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Broker {
    /// Starts Mosquitto with these lines behind its listener's.
    pub(crate) async fn start(config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::start_in(dir, free_port(), config).await
    }

    pub(crate) async fn start_in(dir: TempDir, port: u16, config: &str) -> Self {
        let file = dir.path().join("mosquitto.conf");
        // Runs as root in containers; it must not give up the right to read its folder. No limit on queued messages would be 0, but
        // then Mosquitto 2.0.11 hangs up whenever it refuses a message.
        let text = format!("user root\nmax_queued_messages 1000000\nlistener {port} 127.0.0.1\n{config}\n");
        fs::write(&file, text).unwrap();
        let process = Command::new("mosquitto")
            .arg("-c")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto is installed");
        let broker = Self { process, port, _dir: dir };
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            assert!(tokio::time::Instant::now() < deadline, "mosquitto does not listen");
            tokio::task::yield_now().await;
        }
        broker
    }

    pub(crate) async fn anonymous() -> Self {
        Self::start("allow_anonymous true").await
    }

    pub(crate) async fn subscribe(&self, filter: &str) -> Subscriber {
        Subscriber::start(self.port, filter).await
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A local client of the broker that takes every message at QoS 2, so that whatever is doubled was doubled before.
pub(crate) struct Subscriber {
    events: EventLoop,
    client: AsyncClient,
}

impl Subscriber {
    async fn start(port: u16, filter: &str) -> Self {
        let mut options = MqttOptions::new("subscriber", "127.0.0.1", port);
        options.set_max_packet_size(Some(10 << 20));
        let (client, events) = AsyncClient::new(options, 100);
        let mut subscriber = Self { events, client };
        subscriber.client.subscribe(filter, QoS::ExactlyOnce).await.unwrap();
        while !matches!(subscriber.next_packet().await, Packet::SubAck(_)) {}
        subscriber
    }

    async fn next_packet(&mut self) -> Packet {
        loop {
            let event =
                timeout(PATIENCE, self.events.poll()).await.expect("nothing came").expect("the subscriber lives");
            if let Event::Incoming(packet) = event {
                return packet;
            }
        }
    }

    pub(crate) async fn next(&mut self) -> Publish {
        loop {
            if let Packet::Publish(publish) = self.next_packet().await {
                return publish;
            }
        }
    }

    /// The numbers in the payloads that arrive, up to and with `last`.
    pub(crate) async fn numbers_to(&mut self, last: u64) -> Vec<u64> {
        let mut numbers = Vec::new();
        loop {
            let number = number(&self.next().await);
            numbers.push(number);
            if number == last {
                return numbers;
            }
        }
    }
}

/// Each number's first arrival, in the order of arrival.
pub(crate) fn first_arrivals(numbers: &[u64]) -> Vec<u64> {
    let mut seen = std::collections::HashSet::new();
    numbers.iter().copied().filter(|number| seen.insert(*number)).collect()
}

/// Fails, in few words, unless the numbers are 1 to `last`, each once and in order.
pub(crate) fn assert_all(numbers: &[u64], range: std::ops::RangeInclusive<u64>, what: &str) {
    if numbers.iter().copied().eq(range.clone()) {
        return;
    }
    let missing: Vec<_> = range.clone().filter(|number| !numbers.contains(number)).take(9).collect();
    let first_wrong = numbers.iter().zip(range).find(|(number, wanted)| **number != *wanted);
    panic!("{what}: {} arrived, first wrong (came, due) {first_wrong:?}, missing {missing:?}", numbers.len());
}

/// Writes a file that only its owner may read, as Mosquitto wants it.
pub(crate) fn write_private(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}
