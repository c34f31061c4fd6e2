//! The way to a WebSocket: HTTP in bytes.

use tidegate::broker::{Bind, ListenerSettings, Transport};
use tokio::{io::AsyncReadExt as _, net::TcpStream, time::timeout};

use super::{
    client::{Client, DEADLINE, connect},
    rig::{Rig, Site, local},
};

/// The example of RFC 6455, section 1.3.
const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
const UPGRADE: &str = "HTTP/1.1\r\nHost: gw\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade";
const VERSION: &str = "Sec-WebSocket-Version: 13";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";

pub(crate) fn web() -> ListenerSettings {
    ListenerSettings { transport: Transport::WebSocket, ..local() }
}

/// A request with everything, and these lines.
pub(crate) fn request(lines: &str) -> String {
    format!("GET /mqtt {UPGRADE}\r\n{KEY}\r\n{VERSION}\r\nSec-WebSocket-Protocol: mqtt\r\n{lines}\r\n")
}

/// The head of the answer; what comes behind it stays unread.
async fn answer(rig: &Rig, request: &str) -> (String, Client<TcpStream>) {
    let mut client = rig.tcp().await;
    client.send(request.as_bytes()).await;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = timeout(DEADLINE, client.0.read_u8()).await.expect("an answer").expect("a whole answer");
        head.push(byte);
    }
    (String::from_utf8(head).unwrap(), client)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_with_the_sub_protocol_mqtt_is_answered_with_it_on_any_path() {
    let rig = Site::new().start(web()).await;
    let requests = [
        request(""),
        request("").replace("/mqtt", "/").replace("mqtt\r\n", "chat, mqtt ,mqttv3.1\r\n"),
        request("")
            .replace("/mqtt", "/a/b?token=%20#x")
            .to_lowercase()
            .replacen("get", "GET", 1)
            .replacen("http/", "HTTP/", 1)
            .replace("dghlihnhbxbszsbub25jzq==", "dGhlIHNhbXBsZSBub25jZQ=="),
        request("").replace("protocol: mqtt", "Protocol: chat\r\nSec-WebSocket-Protocol: mqtt"),
        request("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\nCookie: a=b\r\n"),
    ];
    for request in requests {
        assert_eq!(answer(&rig, &request).await.0, SWITCHED, "{request}");
    }
    assert_eq!(rig.refused("websocket"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_such_upgrade_gets_an_http_answer_and_is_counted() {
    let rig = Site::new().start(web()).await;
    let table = [
        ("GET / HTTP/1.1\r\nHost: gw\r\n\r\n".to_owned(), "426 Upgrade Required", "Upgrade: websocket\r\n"),
        (request("").replace("Upgrade: websocket", "Upgrade: h2c"), "426 Upgrade Required", "Upgrade: websocket\r\n"),
        (request("").replace("Version: 13", "Version: 8"), "426 Upgrade Required", "Sec-WebSocket-Version: 13\r\n"),
        (request("").replace(KEY, "X: y"), "400 Bad Request", ""),
        (request("").replace("Protocol: mqtt", "Protocol: mqttv3.1"), "400 Bad Request", ""),
        (request("").replace("Sec-WebSocket-Protocol: mqtt\r\n", ""), "400 Bad Request", ""),
        (request("").replacen("GET", "POST", 1), "405 Method Not Allowed", "Allow: GET\r\n"),
        (request("").replace("HTTP/1.1", "HTTP/1.0"), "505 HTTP Version Not Supported", ""),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), "400 Bad Request", ""),
        (format!("GET / HTTP/1.1\r\n{}", "X: y\r\n".repeat(200)), "400 Bad Request", ""),
        (format!("GET /{} HTTP/1.1\r\n", "x".repeat(8192)), "431 Request Header Fields Too Large", ""),
    ];
    for (count, (request, status, line)) in (1..).zip(table) {
        let (head, mut client) = answer(&rig, &request).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status}\r\n")) && head.contains(line), "{request}\n{head}");
        let close = if status.starts_with("426") { "Connection: Upgrade, close" } else { "Connection: close" };
        assert!(head.contains(close), "{head}");
        let (body, _) = client.rest().await;
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}{body:?}");
        rig.until_refused("websocket", count).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_mqtt_on_a_web_socket_listener_is_told_so_and_the_other_way_round_is_closed() {
    let rig = Site::new().start(web()).await;
    let mut client = rig.tcp().await;
    client.send(&connect("plain")).await;
    let (said, _) = client.rest().await;
    assert!(String::from_utf8(said).unwrap().starts_with("HTTP/1.1 400 "));
    let plain = Site::new().start(local()).await;
    let mut client = plain.tcp().await;
    client.send(request("").as_bytes()).await;
    assert_eq!(client.rest().await.0, b"");
    assert_eq!(plain.refused("protocol") + plain.refused("protocol-name") + plain.refused("malformed"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_byte_by_byte_is_taken_and_one_that_stops_holds_up_nobody() {
    let rig = Site::new().start(web()).await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        let mut client = rig.tcp().await;
        client.send(b"GET / HTT").await;
        silent.push(client);
    }
    let mut slow = rig.tcp().await;
    for byte in request("").bytes() {
        slow.send(&[byte]).await;
        tokio::task::yield_now().await;
    }
    slow.expect(SWITCHED.as_bytes()).await;
    drop(rig.tcp().await);
    assert_eq!(rig.refused("websocket"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_another_site_cannot_use_that_a_loopback_listener_is_anonymous() {
    let rig = Site::new().start(web()).await;
    for (count, origin) in (1..).zip(["https://evil.example", "null", "http://localhost.evil.example"]) {
        let (head, _) = answer(&rig, &request(&format!("Origin: {origin}\r\n"))).await;
        assert!(head.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{origin}: {head}");
        rig.until_refused("websocket", count).await;
    }
    let twice = "Origin: http://localhost\r\nOrigin: https://evil.example\r\n";
    assert!(answer(&rig, &request(twice)).await.0.starts_with("HTTP/1.1 403 "));
    for origin in ["http://localhost:3000", "http://127.0.0.1"] {
        assert_eq!(answer(&rig, &request(&format!("Origin: {origin}\r\n"))).await.0, SWITCHED, "{origin}");
    }
    let evil = request("Origin: https://evil.example\r\n");
    let origins = vec!["https://dash.example".to_owned()];
    let open = [
        ListenerSettings { anonymous: false, ..web() },
        ListenerSettings { origins: vec!["*".to_owned()], ..web() },
        ListenerSettings { bind: Bind::Tcp("0.0.0.0:0".parse().unwrap()), ..web() },
    ];
    for settings in open {
        let mut rig = Site::new().start(settings).await;
        rig.address.set_ip([127, 0, 0, 1].into());
        assert_eq!(answer(&rig, &evil).await.0, SWITCHED);
    }
    let rig = Site::new().start(ListenerSettings { origins, anonymous: false, ..web() }).await;
    assert!(answer(&rig, &evil).await.0.starts_with("HTTP/1.1 403 "));
    assert_eq!(answer(&rig, &request("Origin: https://dash.example\r\n")).await.0, SWITCHED);
}
