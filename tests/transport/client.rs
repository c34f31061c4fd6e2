//! A client that speaks bytes, over whatever stream.

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

/// Everything here happens at once or not at all; this is for slow machines.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) const PINGREQ: &[u8] = &[0xC0, 0];
pub(crate) const PINGRESP: &[u8] = &[0xD0, 0];
pub(crate) const DISCONNECT: &[u8] = &[0xE0, 0];

/// A client that speaks MQTT 3.1.1 in bytes.
pub(crate) struct Client<S>(pub(crate) S);

/// A CONNECT with a clean session.
pub(crate) fn connect(id: &str) -> Vec<u8> {
    let mut body = b"\0\x04MQTT\x04\x02\0\0".to_vec();
    text(&mut body, id);
    packet(0x10, &body)
}

pub(crate) fn publish(topic: &str, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, topic);
    body.extend(payload);
    packet(0x30, &body)
}

pub(crate) fn subscribe(filter: &str) -> Vec<u8> {
    let mut body = vec![0, 1];
    text(&mut body, filter);
    body.push(0);
    packet(0x82, &body)
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
    out.extend(text.as_bytes());
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut len = body.len();
    while len > 0x7F {
        out.push(u8::try_from(len & 0x7F).unwrap() | 0x80);
        len >>= 7;
    }
    out.push(u8::try_from(len).unwrap());
    out.extend(body);
    out
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// Connects and gets its CONNACK.
    pub(crate) async fn connected(stream: S, id: &str) -> Self {
        let mut client = Self(stream);
        client.send(&connect(id)).await;
        client.expect(&[0x20, 2, 0, 0]).await;
        client
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        let sent = async {
            self.0.write_all(bytes).await?;
            self.0.flush().await
        };
        timeout(DEADLINE, sent).await.expect("the gateway reads").unwrap();
    }

    /// The next bytes are these.
    pub(crate) async fn expect(&mut self, bytes: &[u8]) {
        let mut found = vec![0; bytes.len()];
        timeout(DEADLINE, self.0.read_exact(&mut found)).await.expect("an answer comes").unwrap();
        assert!(found == bytes, "expected {bytes:02X?}, found {found:02X?}");
    }

    /// The gateway answers a ping.
    pub(crate) async fn ping(&mut self) {
        self.send(PINGREQ).await;
        self.expect(PINGRESP).await;
    }

    pub(crate) async fn subscribe(&mut self, filter: &str) {
        self.send(&subscribe(filter)).await;
        self.expect(&[0x90, 3, 0, 1, 0]).await;
    }

    /// What comes until the connection ends, and how it ends.
    pub(crate) async fn rest(&mut self) -> (Vec<u8>, std::io::Result<usize>) {
        let mut rest = Vec::new();
        let end = timeout(DEADLINE, self.0.read_to_end(&mut rest)).await.expect("the connection is closed");
        (rest, end)
    }
}
