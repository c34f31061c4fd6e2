//! Support: upstreams made by hand, speaking bytes on the wire.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::BytesMut;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
};

use crate::gateway::number;

/// CONNACK of MQTT 5: accepted, no properties.
pub(crate) const ACCEPTED: &[u8] = &[0x20, 3, 0, 0, 0];

/// CONNACK of MQTT 5: accepted, Receive Maximum 1.
pub(crate) const ACCEPTED_WINDOW_1: &[u8] = &[0x20, 6, 0, 0, 3, 0x21, 0, 1];

/// One connection of a gateway.
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
    pub(crate) buffer: BytesMut,
    /// Tells the test what arrived.
    seen: mpsc::Sender<Publish>,
}

impl Peer {
    /// The next packet; `None` when the gateway has gone.
    pub(crate) async fn next(&mut self) -> Option<Packet> {
        loop {
            // The shortest DISCONNECT (MQTT 5, section 3.14.1), which rumqttc's decoder refuses.
            if self.buffer.starts_with(&[0xe0, 0]) {
                return None;
            }
            match Packet::read(&mut self.buffer, None) {
                Ok(packet) => return Some(packet),
                Err(rumqttc::v5::mqttbytes::Error::InsufficientBytes(_)) => {}
                Err(error) => panic!("the gateway sent something wrong: {error}"),
            }
            if !matches!(self.stream.read_buf(&mut self.buffer).await, Ok(1..)) {
                return None;
            }
        }
    }

    pub(crate) async fn publish(&mut self) -> Option<Publish> {
        loop {
            match self.next().await? {
                Packet::Publish(publish) => {
                    self.seen.send(publish.clone()).await.ok()?;
                    return Some(publish);
                }
                Packet::Disconnect(_) => return None,
                _ => {}
            }
        }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> Option<()> {
        self.stream.write_all(bytes).await.ok()
    }

    pub(crate) async fn acknowledge(&mut self, id: u16) -> Option<()> {
        let [high, low] = id.to_be_bytes();
        self.send(&[0x40, 2, high, low]).await
    }

    pub(crate) async fn refuse(&mut self, id: u16, code: u8) -> Option<()> {
        let [high, low] = id.to_be_bytes();
        self.send(&[0x40, 3, high, low, code]).await
    }

    /// Reads CONNECT and answers with these bytes.
    pub(crate) async fn greet(&mut self, connack: &[u8]) -> Option<()> {
        assert!(matches!(self.next().await?, Packet::Connect(..)), "a connection begins with CONNECT");
        self.send(connack).await
    }

    pub(crate) async fn acknowledge_all(mut self) -> Option<()> {
        while let Some(publish) = self.publish().await {
            self.acknowledge(publish.pkid).await?;
        }
        Some(())
    }
}

/// An upstream that treats its `n`th connection (from 0) as `behave` says.
pub(crate) struct Fake {
    pub(crate) port: u16,
    pub(crate) seen: mpsc::Receiver<Publish>,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Fake {
    pub(crate) async fn start<F, B>(behave: F) -> Self
    where
        F: Fn(usize, Peer) -> B + Send + 'static,
        B: Future<Output = Option<()>> + Send + 'static,
    {
        Self::start_on(0, behave).await
    }

    pub(crate) async fn start_on<F, B>(port: u16, behave: F) -> Self
    where
        F: Fn(usize, Peer) -> B + Send + 'static,
        B: Future<Output = Option<()>> + Send + 'static,
    {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, seen) = mpsc::channel(100_000);
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut peers = JoinSet::new();
            for number in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::Relaxed);
                let peer = Peer { stream, buffer: BytesMut::new(), seen: sender.clone() };
                peers.spawn(behave(number, peer));
            }
        });
        Self { port, seen, connections, _tasks: tasks }
    }

    /// Connections made to it so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// The payloads that have arrived so far, as numbers.
    pub(crate) fn numbers(&mut self) -> Vec<u64> {
        std::iter::from_fn(|| self.seen.try_recv().ok()).map(|publish| number(&publish)).collect()
    }
}
