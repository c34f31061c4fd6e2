//! A broker on a real store, and a client that speaks bytes.

use std::{net::SocketAddr, os::unix::fs::DirBuilderExt, time::Duration};

use prometheus::Registry;
use tempfile::TempDir;
use tidegate::{
    broker::{self, AccessSettings, Bind, Broker, ListenerSettings},
    intake::{Intake, Rule},
    store::{self, Durability, Handle, Store, StreamId, StreamSettings, WhenFull},
    topic::TopicFilter,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Everything here happens at once or not at all; this is for slow machines.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// What a test wants to be different.
#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) anonymous: bool,
    pub(crate) max_connections: usize,
    pub(crate) max_packet: u32,
    pub(crate) max_inflight: u16,
    /// Filter of the stream `all`.
    pub(crate) from: &'static str,
    pub(crate) max_messages: Option<u64>,
    /// Users and rules.
    pub(crate) access: AccessSettings,
    /// Whatever else the listener is to have.
    pub(crate) tune: fn(&mut ListenerSettings),
}

impl Default for Options {
    fn default() -> Self {
        Self {
            anonymous: true,
            max_connections: 100,
            max_packet: 64 << 10,
            max_inflight: 1000,
            from: "s/#",
            max_messages: None,
            access: AccessSettings::default(),
            tune: |_| {},
        }
    }
}

pub(crate) struct Rig {
    dir: TempDir,
    options: Options,
    store: Option<Store>,
    pub(crate) handle: Handle,
    pub(crate) broker: Broker,
    pub(crate) registry: Registry,
    pub(crate) address: SocketAddr,
}

async fn open(dir: &TempDir, options: &Options) -> (Store, Handle, Broker, Registry, SocketAddr) {
    let registry = Registry::new();
    let settings = store::Settings {
        data_dir: dir.path().join("data"),
        durability: Durability::Process,
        commit_delay: Duration::ZERO,
        max_bytes: 0,
        min_free: 0,
    };
    let stream = StreamSettings {
        name: "all".into(),
        ttl: None,
        max_messages: options.max_messages,
        max_bytes: None,
        when_full: WhenFull::Reject,
        retain_sent: Duration::ZERO,
    };
    let (store, handle) = store::open(&settings, &[stream], &registry).unwrap();
    let rule = Rule {
        stream: StreamId(0),
        from: vec![TopicFilter::new(options.from).unwrap()],
        except: vec![],
        live_only: None,
    };
    let mut listener = ListenerSettings {
        anonymous: options.anonymous,
        max_connections: options.max_connections,
        max_packet: options.max_packet,
        max_inflight: options.max_inflight,
        ..ListenerSettings::new("test", Bind::Tcp("127.0.0.1:0".parse().unwrap()))
    };
    (options.tune)(&mut listener);
    let intake = Intake::new(handle.clone(), vec![rule]);
    let settings = broker::Settings { listeners: vec![listener], access: options.access.clone() };
    let broker = broker::start(settings, intake, &registry).await.unwrap();
    let address = broker.listeners()[0].bind.parse().unwrap();
    (store, handle, broker, registry, address)
}

impl Rig {
    pub(crate) async fn new() -> Self {
        Self::with(Options::default()).await
    }

    pub(crate) async fn with(options: Options) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (store, handle, broker, registry, address) = open(&dir, &options).await;
        Self { dir, options, store: Some(store), handle, broker, registry, address }
    }

    /// Cuts all connections, closes the store, and starts again on the same data.
    pub(crate) async fn restart(self) -> Self {
        self.stop_within(Duration::ZERO).await
    }

    /// Stops in order, with time for everybody, and starts again on the same data.
    pub(crate) async fn stop_and_start(self) -> Self {
        self.stop_within(DEADLINE).await
    }

    async fn stop_within(mut self, grace: Duration) -> Self {
        self.broker.drain(grace).await;
        self.store.take().unwrap().close().unwrap();
        let (store, handle, broker, registry, address) = open(&self.dir, &self.options).await;
        Self { dir: self.dir, options: self.options, store: Some(store), handle, broker, registry, address }
    }

    /// A gateway that finds what this one would leave behind if it died now.
    pub(crate) async fn after_a_crash(&self) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (self.dir.path().join("data"), dir.path().join("data"));
        std::fs::DirBuilder::new().mode(0o700).create(&to).unwrap();
        for file in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
            // The log's index is rebuilt from the log.
            if file.file_type().unwrap().is_file() && !file.file_name().to_string_lossy().ends_with("-shm") {
                std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
            }
        }
        let (store, handle, broker, registry, address) = open(&dir, &self.options).await;
        Self { dir, options: self.options.clone(), store: Some(store), handle, broker, registry, address }
    }

    pub(crate) async fn client(&self) -> Client {
        Client { stream: TcpStream::connect(self.address).await.unwrap() }
    }

    /// A connected client: `version` 4 or 5, clean.
    pub(crate) async fn connected(&self, version: u8, id: &str) -> Client {
        let mut client = self.client().await;
        client.send_bytes(&connect(version, id, 0x02, 0, &[])).await;
        client.expect_connack(version, false).await;
        client
    }

    /// Messages in the stream.
    pub(crate) fn backlog(&self) -> u64 {
        self.handle.streams()[0].backlog_messages
    }

    /// A counter or gauge, by name and label value (empty where it has no labels).
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts are small and not negative")]
    pub(crate) fn metric(&self, name: &str, label: &str) -> u64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        let metric = family.and_then(|family| {
            let has = |pairs: &[prometheus::proto::LabelPair]| {
                if label.is_empty() { pairs.is_empty() } else { pairs.iter().any(|pair| pair.value() == label) }
            };
            family.get_metric().iter().find(|metric| has(metric.get_label()))
        });
        metric.map_or(0, |metric| (metric.get_counter().get_value() + metric.get_gauge().get_value()) as u64)
    }
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let waited = timeout(DEADLINE, async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("never came true: {what}"));
}

/// A CONNECT with these flags, keep alive and (MQTT 5) properties.
pub(crate) fn connect(version: u8, id: &str, flags: u8, keep_alive: u16, properties: &[u8]) -> Vec<u8> {
    let mut body = b"\0\x04MQTT".to_vec();
    body.extend([version, flags]);
    body.extend(keep_alive.to_be_bytes());
    if version == 5 {
        body.push(u8::try_from(properties.len()).unwrap());
        body.extend(properties);
    }
    text(&mut body, id);
    packet(0x10, &body)
}

pub(crate) fn text(out: &mut Vec<u8>, text: &str) {
    out.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
    out.extend(text.as_bytes());
}

pub(crate) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut len = body.len();
    loop {
        let byte = u8::try_from(len & 0x7F).unwrap();
        len >>= 7;
        out.push(if len > 0 { byte | 0x80 } else { byte });
        if len == 0 {
            break;
        }
    }
    out.extend(body);
    out
}

/// A PUBLISH without properties.
pub(crate) fn publish(version: u8, flags: u8, topic: &str, packet_id: u16, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, topic);
    if flags & 0x06 != 0 {
        body.extend(packet_id.to_be_bytes());
    }
    if version == 5 {
        body.push(0);
    }
    body.extend(payload);
    packet(0x30 | flags, &body)
}

/// A SUBSCRIBE with one filter.
pub(crate) fn subscribe(version: u8, packet_id: u16, filter: &str, options: u8) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    if version == 5 {
        body.push(0);
    }
    text(&mut body, filter);
    body.push(options);
    packet(0x82, &body)
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// A client that speaks bytes.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
}

impl Client {
    pub(crate) async fn send(&mut self, hex: &str) {
        self.send_bytes(&unhex(hex)).await;
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        timeout(DEADLINE, self.stream.write_all(bytes)).await.expect("the gateway reads").unwrap();
    }

    /// The next packet, whole.
    pub(crate) async fn packet(&mut self) -> Vec<u8> {
        timeout(DEADLINE, self.read_packet()).await.expect("a packet comes").expect("the connection is open")
    }

    /// The next packet, whole, or why there is none.
    pub(crate) async fn read_packet(&mut self) -> std::io::Result<Vec<u8>> {
        let mut packet = vec![self.stream.read_u8().await?];
        let mut len = 0usize;
        for at in 0..4 {
            let byte = self.stream.read_u8().await?;
            packet.push(byte);
            len |= usize::from(byte & 0x7F) << (7 * at);
            if byte & 0x80 == 0 {
                break;
            }
        }
        let start = packet.len();
        packet.resize(start + len, 0);
        self.stream.read_exact(&mut packet[start..]).await?;
        Ok(packet)
    }

    /// The next packet is this one.
    pub(crate) async fn expect(&mut self, hex: &str) {
        let found = self.packet().await;
        assert_eq!(found, unhex(hex), "expected {hex}, found {found:02X?}");
    }

    pub(crate) async fn expect_bytes(&mut self, bytes: &[u8]) {
        assert_eq!(self.packet().await, bytes);
    }

    pub(crate) async fn expect_connack(&mut self, version: u8, session_present: bool) {
        let connack = self.packet().await;
        assert_eq!(connack[0], 0x20, "{connack:02X?}");
        assert_eq!(connack[2..4], [u8::from(session_present), 0], "{connack:02X?}");
        assert_eq!(connack.len() > 4, version == 5, "{connack:02X?}");
    }

    /// Nothing more comes, and the connection is closed.
    pub(crate) async fn expect_closed(&mut self) {
        let mut rest = Vec::new();
        let read = timeout(DEADLINE, self.stream.read_to_end(&mut rest)).await.expect("the connection is closed");
        // A reset is as closed as an end.
        drop(read);
        assert_eq!(rest, Vec::<u8>::new(), "{rest:02X?}");
    }

    /// The gateway answers a ping: everything before it was dealt with, and nothing else was said.
    pub(crate) async fn expect_quiet(&mut self) {
        self.send("C0 00").await;
        self.expect("D0 00").await;
    }

    pub(crate) async fn subscribe(&mut self, version: u8, filter: &str, options: u8) {
        self.send_bytes(&subscribe(version, 99, filter, options)).await;
        let suback = self.packet().await;
        assert_eq!((suback[0], *suback.last().unwrap()), (0x90, options & 3), "{suback:02X?}");
    }
}
