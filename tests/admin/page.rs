//! The dashboard's side of the room: the page itself, the events it follows, the last hour.

use std::{
    io::{BufRead, BufReader},
    time::Instant,
};

use super::*;

/// Someone who follows the events.
struct Follower(BufReader<TcpStream>);

impl Follower {
    /// Asks for the events; gives the status of the answer too.
    fn join(address: SocketAddr) -> (u16, Self) {
        let mut stream = connect(address);
        write!(stream, "GET /api/v1/events HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        (line.split(' ').nth(1).unwrap().parse().unwrap(), Self(reader))
    }

    /// Name and data of the next event; `None` at the end of the answer.
    fn next(&mut self) -> Option<(String, Value)> {
        let mut name = None;
        loop {
            let mut line = String::new();
            let read = self.0.read_line(&mut line).unwrap_or(0);
            if read == 0 || line == "0\r\n" {
                return None;
            }
            if let Some(said) = line.strip_prefix("event: ") {
                name = Some(said.trim().to_owned());
            }
            if let (Some(data), Some(name)) = (line.strip_prefix("data: "), &name) {
                return Some((name.clone(), serde_json::from_str(data).unwrap()));
            }
        }
    }
}

#[tokio::test]
async fn the_page_is_open_and_sealed() {
    let room = room_with(Figures::default(), Some("s3cret"));
    let address = room.address;
    let answer = client(move || ask(address, "GET", "/", "")).await;
    assert_eq!(answer.status, 200);
    for header in [
        "content-type: text/html; charset=utf-8",
        "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'",
        "require-trusted-types-for 'script'",
        "frame-ancestors 'none'",
        "x-content-type-options: nosniff",
        "referrer-policy: no-referrer",
        "cross-origin-opener-policy: same-origin",
        "cross-origin-resource-policy: same-origin",
        "cache-control: no-store",
    ] {
        assert!(answer.head.contains(header), "{header} is not in\n{}", answer.head);
    }
    assert!(!answer.body.contains("plant-7") && !answer.body.contains("telemetry"), "the page has no figures");
    for part in answer.body.split('"').filter(|part| part.starts_with("/page/")) {
        let path = part.to_owned();
        assert_eq!(client(move || ask(address, "GET", &path, "")).await.status, 200, "{part}");
    }
    for path in ["/api/v1/events", "/api/v1/history"] {
        assert_eq!(get(address, path).await.status, 401, "{path}");
    }
}

#[tokio::test]
async fn events_tell_all_that_the_page_shows() {
    let room = room();
    let address = room.address;
    let (name, event) = client(move || Follower::join(address).1.next().unwrap()).await;
    assert_eq!(name, "state");
    assert_eq!(event["status"]["gateway_id"], "plant-7");
    let document: Value = serde_json::from_str(include_str!("../../src/admin/openapi.json")).unwrap();
    let fields = |object: &Value| object.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let schemas = &document["components"]["schemas"];
    assert_eq!(fields(&event), fields(&schemas["Event"]["properties"]), "the document says what is told");
    assert_eq!(fields(&event["alarms"][0]), fields(&schemas["Alarm"]["properties"]));
    assert_eq!(event["streams"][0]["limit"]["used_ratio"], 0.8);
    assert_eq!(event["dead"]["messages"], 3);
    let alarms: Vec<_> =
        event["alarms"].as_array().unwrap().iter().map(|alarm| alarm["what"].as_str().unwrap()).collect();
    assert!(alarms.iter().any(|what| what.contains("salvaged 2 times; 7 stored messages")), "{alarms:?}");
    assert!(alarms.iter().any(|what| what.contains("takes 80 % of its limit")), "{alarms:?}");
}

#[tokio::test]
async fn figures_that_cannot_be_gathered_are_an_event_too() {
    let room = room_with(Figures { panics: true, ..Figures::default() }, None);
    let address = room.address;
    let (name, event) = client(move || Follower::join(address).1.next().unwrap()).await;
    assert_eq!(name, "trouble");
    assert!(event["message"].as_str().unwrap().contains("failed"), "{event}");
}

#[tokio::test]
async fn followers_are_bounded_share_one_gathering_and_cost_nothing_when_gone() {
    let room = room();
    let address = room.address;
    let asked = Arc::clone(&room.figures);
    client(move || {
        let mut followers: Vec<_> = (0..16).map(|_| Follower::join(address)).collect();
        assert!(followers.iter().all(|(status, _)| *status == 200));
        assert_eq!(Follower::join(address).0, 503, "one too many");
        for (_, follower) in &mut followers {
            follower.next().unwrap();
        }
        let (before, began) = (asked.store_asked.load(Ordering::Relaxed), Instant::now());
        for (_, follower) in &mut followers {
            follower.next().unwrap();
            follower.next().unwrap();
        }
        // Status and event ask once each, whoever follows.
        let gatherings = (asked.store_asked.load(Ordering::Relaxed) - before) / 2;
        assert!(gatherings <= began.elapsed().as_secs() + 2, "{gatherings} gatherings for 16 followers");
        drop(followers);
        // Whoever is gone is noticed with the next event. Then nothing is gathered any more.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let before = asked.store_asked.load(Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(2500));
            if asked.store_asked.load(Ordering::Relaxed) == before {
                break;
            }
            assert!(Instant::now() < deadline, "still gathering for nobody");
        }
        assert_eq!(Follower::join(address).0, 200, "there is room again");
    })
    .await;
}

#[tokio::test]
async fn events_end_at_the_stop_of_the_room() {
    let room = room();
    let address = room.address;
    let follower = client(move || {
        let mut follower = Follower::join(address).1;
        follower.next().unwrap();
        follower
    })
    .await;
    let began = Instant::now();
    room.admin.stop().await;
    assert!(began.elapsed() < admin::STOP_GRACE, "nobody had to be waited for");
    let mut follower = follower;
    client(move || while follower.next().is_some() {}).await;
}

#[tokio::test]
async fn a_follower_of_another_site_gets_nothing() {
    let room = room();
    let address = room.address;
    for path in ["/", "/api/v1/events", "/api/v1/history"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
        let answer = client(move || converse(address, request.as_bytes())).await;
        assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("wrong-host"), "{path}: {answer}");
    }
}

#[tokio::test]
async fn the_last_hour_is_given_by_steps() {
    let room = room();
    let address = room.address;
    let history = move |query: &str| {
        let path = format!("/api/v1/history{query}");
        client(move || {
            let text = converse(
                address,
                format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes(),
            );
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            (head[9..12].parse::<u16>().unwrap(), serde_json::from_str::<Value>(body).unwrap())
        })
    };
    let (status, answer) = history("").await;
    assert_eq!((status, &answer["step_seconds"], &answer["first"]), (200, &Value::from(10), &Value::from(0)));
    assert_eq!(history("?after=99").await.0, 200);
    for wrong in ["?after=-1", "?after=soon"] {
        let (status, answer) = history(wrong).await;
        assert_eq!((status, answer["error"]["code"].as_str()), (400, Some("bad-query")), "{wrong}");
    }
}
