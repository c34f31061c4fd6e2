//! The admin room over real HTTP: answers, errors, the token, and clients that mean no good.
#![allow(clippy::unwrap_used, reason = "a test says what is wrong by failing")]

#[path = "admin/bad_input.rs"]
mod bad_input;
#[path = "admin/clients.rs"]
mod clients;
#[path = "admin/document.rs"]
mod document;
#[path = "admin/figures.rs"]
mod figures;
#[path = "admin/messages.rs"]
mod messages;
#[path = "admin/orders.rs"]
mod orders;
#[path = "admin/page.rs"]
mod page;
#[path = "admin/publish.rs"]
mod publish;

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use tidegate::{
    admin::{self, Admin, MAX_BODY_BYTES, MAX_CONNECTIONS, Order, Refused, Settings, Sources, StartError, Why},
    message::Message,
    stats::{
        ClientConnection, ClientPage, ClientQuestion, ClientStats, DeadLetter, DeadStats, ListenerStats, Published,
        StoreStats, StreamStats, UplinkState, UplinkStats,
    },
};

use figures::Figures;

/// Longest time that a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// A started room on a port of its own.
struct Room {
    admin: Admin,
    address: SocketAddr,
    figures: Arc<Figures>,
    registry: prometheus::Registry,
    _folder: tempfile::TempDir,
}

fn room_with(figures: Figures, token: Option<&str>) -> Room {
    let folder = tempfile::tempdir().unwrap();
    let token_file = token.map(|token| {
        let path = folder.path().join("token");
        std::fs::write(&path, token).unwrap();
        path
    });
    let settings = Settings { bind: Some(([127, 0, 0, 1], 0).into()), token_file, ..Settings::default() };
    let registry = prometheus::Registry::new();
    let figures = Arc::new(figures);
    let admin = admin::start(&settings, Arc::clone(&figures) as _, registry.clone()).unwrap();
    let address = admin.address().unwrap();
    Room { admin, address, figures, registry, _folder: folder }
}

fn room() -> Room {
    room_with(Figures::default(), None)
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        assert!(self.head.contains("application/json"), "{}", self.head);
        serde_json::from_str(&self.body).unwrap()
    }
    fn error_code(&self) -> String {
        let json = self.json();
        assert!(json["error"]["message"].as_str().unwrap().len() > 10, "{json}");
        json["error"]["code"].as_str().unwrap().to_owned()
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends bytes and reads until the connection is closed.
fn converse(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = connect(address);
    // The room may close before it has read all: that is an answer too.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset, "the connection should have ended"),
    }
    String::from_utf8_lossy(&answer).into_owned()
}

fn ask(address: SocketAddr, method: &str, path: &str, header: &str) -> Answer {
    let text = converse(
        address,
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{header}\r\n").as_bytes(),
    );
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP answer: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

/// Blocking clients on a thread of their own, so that the room runs meanwhile.
async fn client<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

async fn get(address: SocketAddr, path: &'static str) -> Answer {
    client(move || ask(address, "GET", path, "")).await
}

#[tokio::test]
async fn health_says_why_not() {
    let room = room();
    let answer = get(room.address, "/health/live").await;
    assert_eq!((answer.status, answer.json()), (200, serde_json::json!({ "reasons": [] })));
    assert_eq!(get(room.address, "/health/ready").await.status, 200);
    room.figures.not_ready.lock().unwrap().push("the disk is full".to_owned());
    let answer = get(room.address, "/health/ready").await;
    assert_eq!((answer.status, answer.json()), (503, serde_json::json!({ "reasons": ["the disk is full"] })));
}

#[tokio::test]
async fn streams_show_their_books() {
    let room = room();
    let expected = serde_json::json!({
        "name": "telemetry", "to": "cloud", "accepted": 1000, "forwarded": 800, "expired": 20,
        "dropped": 10, "dropped_by_reason": { "full-oldest": 5, "offline": 5 },
        "dead": 3, "dead_by_reason": { "too-large": 3 }, "purged": 7,
        "backlog": { "messages": 160, "bytes": 32000, "oldest_age_seconds": 12.345 },
        "limit": { "messages": 200, "bytes": null, "used_ratio": 0.8 },
        "rate_in_per_s": 0.0, "rate_out_per_s": 0.0, "seconds_to_drain": null, "paused": false, "configured": true,
        "kept": { "messages": 9, "bytes": 900 }, "replayed": 4, "replay": { "left": 5 }
    });
    assert_eq!(get(room.address, "/api/v1/streams/telemetry").await.json(), expected);
    let all = get(room.address, "/api/v1/streams").await.json();
    assert_eq!(all["streams"][0], expected);
    assert_eq!(all["streams"][1]["to"], Value::Null);
    assert_eq!(all["streams"][1]["backlog"]["oldest_age_seconds"], Value::Null);
    let odd = get(room.address, "/api/v1/streams/odd%20%22name%22%5C%0A").await;
    assert_eq!(odd.json()["accepted"], 0);
}

#[tokio::test]
async fn status_shows_the_gateway() {
    let room = room();
    let status = get(room.address, "/api/v1/status").await.json();
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(status["gateway_id"], "plant-7");
    assert_eq!(status["uptime_seconds"], 90.5);
    assert_eq!(status["uplinks"][0]["state"], "waiting");
    assert_eq!(status["uplinks"][0]["since_seconds"], 3.0);
    assert_eq!(status["uplinks"][0]["last_error"], "connection refused");
    assert_eq!(status["store"]["free_bytes"], 1_u64 << 40);
    assert_eq!(status["store"]["last_commit_ago_seconds"], 0.25);
    assert_eq!(status["listeners"][0]["connections"], 12);
    assert_eq!(status["clock"]["synced"], true);
    assert!(status["clock"]["now"].as_str().unwrap().ends_with('Z'));
}

#[tokio::test]
async fn metrics_are_prometheus_text() {
    let room = room();
    let counter = prometheus::IntCounter::new("tidegate_of_another_room_total", "Registered after the start.").unwrap();
    counter.inc_by(3);
    room.registry.register(Box::new(counter)).unwrap();
    let answer = get(room.address, "/metrics").await;
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
    let text = &answer.body;
    for line in [
        r#"tidegate_stream_accepted_total{stream="telemetry"} 1000"#,
        r#"tidegate_stream_forwarded_total{stream="telemetry"} 800"#,
        r#"tidegate_stream_expired_total{stream="telemetry"} 20"#,
        r#"tidegate_stream_purged_total{stream="telemetry"} 7"#,
        r#"tidegate_stream_dropped_total{reason="full-oldest",stream="telemetry"} 5"#,
        r#"tidegate_stream_dropped_total{reason="offline",stream="telemetry"} 5"#,
        r#"tidegate_stream_dead_total{reason="too-large",stream="telemetry"} 3"#,
        r#"tidegate_stream_backlog_messages{stream="telemetry"} 160"#,
        r#"tidegate_stream_backlog_bytes{stream="telemetry"} 32000"#,
        r#"tidegate_stream_oldest_age_seconds{stream="telemetry"} 12.345"#,
        r#"tidegate_stream_paused{stream="telemetry"} 0"#,
        r#"tidegate_stream_kept_messages{stream="telemetry"} 9"#,
        r#"tidegate_stream_kept_bytes{stream="telemetry"} 900"#,
        r#"tidegate_stream_replayed_total{stream="telemetry"} 4"#,
        r#"tidegate_stream_replay_left{stream="telemetry"} 5"#,
        r#"tidegate_stream_configured{stream="telemetry"} 1"#,
        r#"tidegate_stream_accepted_total{stream="odd \"name\"\\\n"} 0"#,
        "tidegate_of_another_room_total 3",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
    }
    assert!(text.contains("\nprocess_resident_memory_bytes "), "{text}");
    check_prometheus_text(text);
}

/// The rules of the text format (0.0.4) that a sloppy writer breaks.
fn check_prometheus_text(text: &str) {
    assert!(text.ends_with('\n'));
    let mut families = std::collections::HashSet::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(families.insert(name.to_owned()), "{name} appears twice");
            name.clone_into(&mut current);
        } else if !line.starts_with("# HELP ") {
            let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("not a sample: {line}"));
            assert!(series.starts_with(&current), "{line} is not of {current}");
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
    assert!(families.len() > 10);
}

#[tokio::test]
async fn a_second_start_with_the_same_registry_works() {
    let room = room();
    let settings = Settings { bind: Some(([127, 0, 0, 1], 0).into()), token_file: None, ..Settings::default() };
    let second = admin::start(&settings, room.figures.clone(), room.registry.clone()).unwrap();
    check_prometheus_text(&get(second.address().unwrap(), "/metrics").await.body);
    second.stop().await;
}

#[tokio::test]
async fn errors_are_json() {
    let room = room();
    for (method, path, status, code) in [
        ("GET", "/nothing", 404, "not-found"),
        ("GET", "/api/v1/nothing", 404, "not-found"),
        ("GET", "/api/v1/streams/none", 404, "no-such-stream"),
        ("GET", "/api/v1/streams/%ff", 400, "bad-path"),
        ("POST", "/api/v1/streams", 405, "method-not-allowed"),
        ("DELETE", "/health/live", 405, "method-not-allowed"),
    ] {
        let address = room.address;
        let answer = client(move || ask(address, method, path, "")).await;
        assert_eq!((answer.status, answer.error_code().as_str()), (status, code), "{method} {path}");
        if status == 405 {
            assert!(answer.head.contains("allow: get,head"), "{}", answer.head);
        }
    }
    let address = room.address;
    let head = client(move || ask(address, "HEAD", "/health/live", "")).await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[tokio::test]
async fn figures_that_panic_are_an_error_and_no_more() {
    let room = room_with(Figures { panics: true, ..Figures::default() }, None);
    for path in ["/api/v1/streams", "/metrics"] {
        let answer = get(room.address, path).await;
        assert_eq!((answer.status, answer.error_code().as_str()), (500, "internal"), "{path}");
    }
    assert_eq!(get(room.address, "/health/live").await.status, 200);
}

#[tokio::test]
async fn the_token_opens_all_and_health_is_open() {
    let room = room_with(Figures::default(), Some("s3cret\n"));
    let address = room.address;
    let status = |path: &'static str, header: &'static str| client(move || ask(address, "GET", path, header));
    for path in
        ["/metrics", "/api/v1/status", "/api/v1/streams", "/api/v1/streams/telemetry", "/api/v1/nothing", "/nothing"]
    {
        for header in ["", "Authorization: Bearer wrong\r\n", "Authorization: Basic s3cret\r\n"] {
            let answer = status(path, header).await;
            assert_eq!((answer.status, answer.error_code().as_str()), (401, "unauthorized"), "{path} {header}");
            assert!(answer.head.contains("www-authenticate: bearer"), "{}", answer.head);
        }
        let expected = if path.ends_with("nothing") { 404 } else { 200 };
        assert_eq!(status(path, "Authorization: Bearer s3cret\r\n").await.status, expected, "{path}");
    }
    assert_eq!(status("/health/live", "").await.status, 200);
    assert_eq!(status("/health/ready", "").await.status, 200);
}

#[tokio::test]
async fn the_open_network_needs_a_token() {
    let settings = Settings { bind: Some(([0, 0, 0, 0], 0).into()), token_file: None, ..Settings::default() };
    let refused = admin::start(&settings, Arc::new(Figures::default()), prometheus::Registry::new());
    assert!(matches!(refused, Err(StartError::TokenRequired(_))));
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let room = room();
    let settings = Settings { bind: Some(room.address), token_file: None, ..Settings::default() };
    let refused = admin::start(&settings, room.figures.clone(), prometheus::Registry::new()).unwrap_err();
    assert!(refused.to_string().contains(&room.address.to_string()), "{refused}");
}

#[tokio::test]
async fn off_is_a_room_without_a_door() {
    let settings = Settings { bind: None, token_file: None, ..Settings::default() };
    let admin = admin::start(&settings, Arc::new(Figures::default()), prometheus::Registry::new()).unwrap();
    assert_eq!(admin.address(), None);
    admin.stop().await;
}

#[tokio::test]
async fn garbage_is_answered_or_closed_and_hurts_nobody() {
    let room = room();
    let address = room.address;
    let long = |what: &str| format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", what.repeat(100_000)).into_bytes();
    let many = format!("GET /x HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(1000)).into_bytes();
    let mut garbage: Vec<Vec<u8>> = vec![
        b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(50),
        b"GET /x HTTP/9.9\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"GET /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nzz\r\n".to_vec(),
        b"POST /api/v1/streams HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n".to_vec(),
        vec![0; 100_000],
        long("a"),
        many,
    ];
    let mut random = 0x9e37_79b9_u32;
    for len in [1_usize, 17, 400, 20_000] {
        let mut bytes = Vec::new();
        for _ in 0..len {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            bytes.push(random.to_be_bytes()[0]);
        }
        garbage.push(bytes);
    }
    for bytes in garbage {
        let answer = client(move || {
            let mut stream = connect(address);
            let _ = stream.write_all(&bytes);
            // Half a request is not ended by the room before its time limit: end it here.
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            String::from_utf8_lossy(&answer).into_owned()
        })
        .await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
        assert_eq!(get(address, "/health/live").await.status, 200);
    }
}

#[tokio::test]
async fn a_body_that_nobody_asked_for_is_not_kept() {
    let room = room();
    let address = room.address;
    let answer = client(move || {
        let mut stream = connect(address);
        stream.write_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n").unwrap();
        // Until the room has had enough of it: it may not read all of a gigabyte.
        let block = vec![b'x'; 65_536];
        let mut sent = 0_u64;
        while sent < 1_000_000_000 {
            match stream.write(&block) {
                Ok(count) => sent += count as u64,
                Err(_) => break,
            }
        }
        sent
    })
    .await;
    assert!(answer < 100_000_000, "the room took {answer} bytes");
    assert_eq!(get(address, "/health/live").await.status, 200);
}

#[tokio::test]
async fn many_silent_connections_do_not_keep_a_health_check_out() {
    let room = room();
    let address = room.address;
    let silent = client(move || {
        let mut silent = Vec::new();
        for count in 0..3 * MAX_CONNECTIONS {
            let mut stream = connect(address);
            if count % 2 == 0 {
                stream.write_all(b"GET /api/v1/status HTTP/1.1\r\nHost: x\r\nX-Slow: ").unwrap();
            }
            silent.push(stream);
        }
        silent
    })
    .await;
    assert_eq!(get(address, "/health/ready").await.status, 200);
    // All but the newest have been let go; the first of them certainly.
    let ended = client(move || {
        let mut first = &silent[0];
        let mut rest = Vec::new();
        first.read_to_end(&mut rest).map_or(true, |_| rest.is_empty())
    })
    .await;
    assert!(ended);
}

#[tokio::test]
async fn curl_gets_along_with_it() {
    let room = room_with(Figures::default(), Some("s3cret"));
    let address = room.address;
    let output = client(move || {
        std::process::Command::new("curl")
            .args(["--silent", "--show-error", "--fail", "--oauth2-bearer", "s3cret"])
            .arg(format!("http://{address}/api/v1/streams/telemetry"))
            .arg(format!("http://{address}/api/v1/status"))
            .output()
    })
    .await;
    // Not every machine that runs the tests has curl.
    if let Ok(output) = output {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains("\"accepted\":1000"));
    }
}

#[tokio::test]
async fn stopped_means_closed() {
    let room = room();
    let address = room.address;
    assert_eq!(get(address, "/health/live").await.status, 200);
    room.admin.stop().await;
    assert!(client(move || TcpStream::connect(address)).await.is_err());
}
