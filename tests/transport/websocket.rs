//! MQTT in WebSocket frames, in bytes (MQTT 5, section 6; RFC 6455).

use std::sync::Arc;

use tidegate::broker::ListenerSettings;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{
    client::{Client, DEADLINE, DISCONNECT, PINGREQ, PINGRESP, connect, publish, subscribe},
    rig::{Rig, Site},
    upgrade::{request, web},
};

const CONNACK: &[u8] = &[0x20, 2, 0, 0];
const CONTINUE: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const FIN: u8 = 0x80;

/// A frame of a client.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x12, 0x34, 0x56, 0x78];
    let mut out = header(first, payload.len() as u64);
    out[1] |= 0x80;
    out.extend(mask);
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    out
}

fn header(first: u8, length: u64) -> Vec<u8> {
    match length {
        0..=125 => vec![first, length.to_be_bytes()[7]],
        126..=65_535 => [&[first, 126], &length.to_be_bytes()[6..]].concat(),
        _ => [&[first, 127], &length.to_be_bytes()[..]].concat(),
    }
}

fn binary(payload: &[u8]) -> Vec<u8> {
    frame(FIN | BINARY, payload)
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// Asks for a WebSocket and gets it.
    async fn upgraded(stream: S) -> Self {
        let mut client = Self(stream);
        client.send(request("").as_bytes()).await;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(DEADLINE, client.0.read_u8()).await.expect("an answer").unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        client
    }

    async fn web_connected(stream: S, id: &str) -> Self {
        let mut client = Self::upgraded(stream).await;
        client.send(&binary(&connect(id))).await;
        client.expect_payload(CONNACK).await;
        client
    }

    /// The next frame: first byte and payload. No frame of a server has a mask.
    async fn frame(&mut self) -> (u8, Vec<u8>) {
        let read = async {
            let (first, length) = (self.0.read_u8().await?, self.0.read_u8().await?);
            let length = match length {
                126 => usize::from(self.0.read_u16().await?),
                127 => usize::try_from(self.0.read_u64().await?).unwrap(),
                short => usize::from(short),
            };
            assert!(length < 1 << 30, "a mask");
            let mut payload = vec![0; length];
            self.0.read_exact(&mut payload).await?;
            Ok::<_, std::io::Error>((first, payload))
        };
        timeout(DEADLINE, read).await.expect("a frame comes").unwrap()
    }

    /// The next binary frames hold this together.
    async fn expect_payload(&mut self, expected: &[u8]) {
        let mut found = Vec::new();
        while found.len() < expected.len() {
            let (first, payload) = self.frame().await;
            assert_eq!(first, FIN | BINARY);
            found.extend(payload);
        }
        assert!(found == expected, "expected {expected:02X?}, found {found:02X?}");
    }

    async fn expect_frame(&mut self, first: u8, payload: &[u8]) {
        assert_eq!(self.frame().await, (first, payload.to_vec()));
    }

    async fn web_ping(&mut self) {
        self.send(&binary(PINGREQ)).await;
        self.expect_payload(PINGRESP).await;
    }
}

async fn start() -> Rig {
    Site::new().start(web()).await
}

async fn connected(rig: &Rig, id: &str) -> Client<TcpStream> {
    Client::web_connected(TcpStream::connect(rig.address).await.unwrap(), id).await
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_may_span_frames_and_frames_may_hold_many_packets() {
    let rig = start().await;
    let mut client = Client::upgraded(TcpStream::connect(rig.address).await.unwrap()).await;
    let message = publish("a/b", &[0xAB; 300]);
    let all = [connect("c"), subscribe("a/#"), message.clone(), message.clone()].concat();
    client.send(&binary(&all)).await;
    let answers = [CONNACK, &[0x90, 3, 0, 1, 0], &message, &message].concat();
    client.expect_payload(&answers).await;
    // A frame for each byte, in messages of one to three frames, with an empty one and a ping in between.
    for (index, byte) in message.iter().enumerate() {
        let first = if index % 3 == 0 { BINARY } else { CONTINUE };
        let last = if index % 3 == 2 || index + 1 == message.len() { FIN } else { 0 };
        client.send(&frame(first | last, &[*byte])).await;
        if last == 0 {
            client.send(&frame(FIN | PONG, b"unasked")).await;
            client.send(&frame(CONTINUE, b"")).await;
        } else {
            client.send(&binary(b"")).await;
        }
    }
    client.expect_payload(&message).await;
    client.web_ping().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_message_may_be_longer_than_any_packet() {
    let rig = Site::new().start(ListenerSettings { max_packet: 2048, ..web() }).await;
    let mut subscriber = connected(&rig, "subscriber").await;
    subscriber.send(&binary(&subscribe("#"))).await;
    subscriber.expect_payload(&[0x90, 3, 0, 1, 0]).await;
    let mut publisher = connected(&rig, "publisher").await;
    // All that a client had to say while it was away, as MQTT.js sends it.
    let message = publish("a", &[7; 1000]);
    let all = message.repeat(1500);
    publisher.send(&binary(&all)).await;
    subscriber.expect_payload(&all).await;
    publisher.web_ping().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_must_not_send_closes_with_the_code_for_it() {
    let rig = start().await;
    let unmasked = [header(FIN | BINARY, 2), PINGREQ.to_vec()].concat();
    let mut endless = header(FIN | BINARY, u64::MAX);
    endless[1] |= 0x80;
    endless.extend([0; 4]);
    let mut long_ping = header(FIN | PING, 126);
    long_ping[1] |= 0x80;
    long_ping.extend([0; 4]);
    let table = [
        // [MQTT-6.0.0-1]
        (frame(FIN | TEXT, PINGREQ), 1003),
        (frame(TEXT, b""), 1003),
        (unmasked, 1002),
        (endless, 1002),
        (frame(FIN | CONTINUE, PINGREQ), 1002),
        ([frame(BINARY, &PINGREQ[..1]), binary(&PINGREQ[1..])].concat(), 1002),
        (frame(FIN | 0x40 | BINARY, PINGREQ), 1002),
        (frame(FIN | 0x3, b""), 1002),
        (frame(FIN | 0xB, b""), 1002),
        (frame(PING, b""), 1002),
        (long_ping, 1002),
        (frame(FIN | CLOSE, b"x"), 1002),
        (frame(FIN | CLOSE, &[3, 0xE8, 0xFF]), 1002),
        (frame(FIN | CLOSE, &[0, 1]), 1002),
    ];
    for (count, (bytes, code)) in (1..).zip(table) {
        let mut client = connected(&rig, "c").await;
        client.send(&bytes).await;
        client.expect_frame(FIN | CLOSE, &u16::to_be_bytes(code)).await;
        client.rest().await.1.ok();
        rig.until_refused("websocket", count).await;
    }
    // Also before CONNECT.
    let mut client = Client::upgraded(TcpStream::connect(rig.address).await.unwrap()).await;
    client.send(&frame(FIN | TEXT, &connect("c"))).await;
    client.expect_frame(FIN | CLOSE, &[3, 0xEB]).await;
    rig.until_refused("websocket", 15).await;
    connected(&rig, "good").await.web_ping().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_before_an_offence_counts() {
    let rig = start().await;
    let mut watcher = connected(&rig, "watcher").await;
    watcher.send(&binary(&subscribe("#"))).await;
    watcher.expect_payload(&[0x90, 3, 0, 1, 0]).await;
    let mut client = connected(&rig, "c").await;
    let message = publish("a", b"before");
    client.send(&[binary(&message), frame(FIN | TEXT, b"x")].concat()).await;
    watcher.expect_payload(&message).await;
    client.expect_frame(FIN | CLOSE, &[3, 0xEB]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_are_answered_with_what_they_carry() {
    let rig = start().await;
    let mut client = connected(&rig, "c").await;
    for payload in [&b""[..], b"hello", &[0xFF; 125]] {
        client.send(&frame(FIN | PING, payload)).await;
        client.expect_frame(FIN | PONG, payload).await;
    }
    client.web_ping().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_is_answered_and_ends_the_connection() {
    let rig = start().await;
    for (sent, answer) in [(&b""[..], &b""[..]), (&[3, 0xE8], &[3, 0xE8]), (b"\x03\xE9going away", &[3, 0xE9])] {
        let mut client = connected(&rig, "c").await;
        client.send(&frame(FIN | CLOSE, sent)).await;
        client.expect_frame(FIN | CLOSE, answer).await;
        assert_eq!(client.rest().await.0, b"");
    }
    let mut leaving = connected(&rig, "leaving").await;
    leaving.send(&binary(DISCONNECT)).await;
    leaving.expect_frame(FIN | CLOSE, &[3, 0xE8]).await;
    let mut offending = connected(&rig, "offending").await;
    offending.send(&binary(&[0xF0, 0])).await;
    offending.expect_frame(FIN | CLOSE, &[3, 0xE8]).await;
    let mut staying = connected(&rig, "staying").await;
    let ((), cut) = tokio::join!(staying.expect_frame(FIN | CLOSE, &[3, 0xE8]), rig.broker.drain(DEADLINE));
    assert_eq!((cut, rig.refused("websocket")), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_over_tls_and_unix_sockets_too() {
    let site = Site::new();
    let tls = site.tls();
    let secure = site.start(ListenerSettings { tls: Some(tls), ..web() }).await;
    let mut config = secure.authority.trusted(None, tokio_rustls::rustls::ALL_VERSIONS);
    // As browsers do.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let tcp = TcpStream::connect(secure.address).await.unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect("localhost".try_into().unwrap(), tcp).await.unwrap();
    let mut client = Client::web_connected(stream, "c").await;
    client.web_ping().await;
    client.send(&binary(DISCONNECT)).await;
    client.expect_frame(FIN | CLOSE, &[3, 0xE8]).await;
    assert_eq!(client.rest().await.1.unwrap(), 0, "with close_notify");

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mqtt.sock");
    let bind = tidegate::broker::Bind::Unix(path.clone());
    let _rig = Site::new().start(ListenerSettings { bind, ..web() }).await;
    Client::web_connected(UnixStream::connect(&path).await.unwrap(), "c").await.web_ping().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_holds_up_nobody_and_gets_all_when_it_reads() {
    let rig = Site::new().start(ListenerSettings { max_packet: 1 << 20, ..web() }).await;
    let mut slow = connected(&rig, "slow").await;
    slow.send(&binary(&subscribe("#"))).await;
    slow.expect_payload(&[0x90, 3, 0, 1, 0]).await;
    let mut publisher = connected(&rig, "publisher").await;
    let message = publish("a", &vec![1; 1_000_000]);
    for _ in 0..6 {
        publisher.send(&binary(&message)).await;
    }
    publisher.web_ping().await;
    // More pings than any buffer would hold.
    for _ in 0..2000 {
        slow.send(&frame(FIN | PING, &[9; 125])).await;
    }
    slow.send(&binary(PINGREQ)).await;
    let (mut payload, mut pongs) = (Vec::new(), 0);
    // The answer to the ping may come between two messages.
    while payload.len() < 6 * message.len() + PINGRESP.len() {
        match slow.frame().await {
            (first, more) if first == FIN | BINARY => payload.extend(more),
            (first, _) => {
                assert_eq!(first, FIN | PONG);
                pongs += 1;
            }
        }
    }
    assert!((1..=2000).contains(&pongs), "{pongs}");
    assert_eq!(payload.windows(message.len()).filter(|window| *window == message).count(), 6);
}
