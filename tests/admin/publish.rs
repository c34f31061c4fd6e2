//! Publishing over HTTP: what becomes a message, what does not, and bodies that mean no good.

use super::*;

const PUBLISH: &str = "/api/v1/publish";

/// Sends a request with these headers and bytes behind them.
fn post(address: SocketAddr, path: &str, headers: &str, body: &[u8]) -> Answer {
    let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n");
    let text = converse(address, &[head.as_bytes(), body].concat());
    let text = text.strip_prefix("HTTP/1.1 100 Continue\r\n\r\n").unwrap_or(&text);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP answer: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

fn publish(address: SocketAddr, query: &str, body: &[u8]) -> Answer {
    post(address, &format!("{PUBLISH}?{query}"), &format!("Content-Length: {}\r\n", body.len()), body)
}

#[tokio::test]
async fn the_body_becomes_a_message() {
    let room = room();
    let address = room.address;
    let answers = client(move || {
        let plain = publish(address, "topic=a/b%20c%C3%A9", b"\0\xff\r\n").json();
        let loud = publish(address, "topic=a+b&qos=2&retain=true", b"").json();
        let chunked = post(
            address,
            &format!("{PUBLISH}?qos=0&topic=x"),
            "Transfer-Encoding: chunked\r\nContent-Type: text/plain\r\n",
            b"3\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: x\r\n\r\n",
        );
        let expected =
            post(address, &format!("{PUBLISH}?topic=y"), "Expect: 100-continue\r\nContent-Length: 1\r\n", b"z");
        (plain, loud, chunked.json(), expected.status)
    })
    .await;
    let expected = serde_json::json!({
        "topic": "a/b c\u{e9}", "qos": 1, "bytes": 4, "retained": false, "streams": ["telemetry"], "sessions": 2
    });
    assert_eq!(answers.0, expected);
    assert_eq!((&answers.1["topic"], &answers.1["retained"]), (&"a b".into(), &true.into()));
    assert_eq!((&answers.2["bytes"], &answers.2["qos"], answers.3), (&5.into(), &0.into(), 200));
    let published = room.figures.published.lock().unwrap();
    let message = |at: usize| {
        let Message { topic, payload, qos, retain, client, .. } = &published[at];
        (topic.as_str().to_owned(), payload.to_vec(), qos.number(), *retain, client.to_string())
    };
    assert_eq!(message(0), ("a/b c\u{e9}".to_owned(), b"\0\xff\r\n".to_vec(), 1, false, "http".to_owned()));
    assert_eq!(message(1), ("a b".to_owned(), Vec::new(), 2, true, "http".to_owned()));
    assert_eq!(message(2).1, b"abcde");
}

#[tokio::test]
async fn what_is_wrong_with_a_message_is_said_and_nothing_is_published() {
    let room = room();
    let address = room.address;
    client(move || {
        for (query, status, code) in [
            ("", 400, "bad-query"),
            ("topic=", 400, "bad-topic"),
            ("topic=a/%23", 400, "bad-topic"),
            ("topic=a/%2B/b", 400, "bad-topic"),
            // A plus sign is a blank in a query; whoever writes this means a wildcard.
            ("topic=a/+/b", 400, "bad-topic"),
            ("topic=a%00b", 400, "bad-topic"),
            ("topic=a%ff", 400, "bad-query"),
            ("topic=a%", 400, "bad-query"),
            ("topic=a&qos=3", 400, "bad-query"),
            ("topic=a&qos=one", 400, "bad-query"),
            ("topic=a&qos=-1", 400, "bad-query"),
            ("topic=a&qos=", 400, "bad-query"),
            ("topic=a&retain=yes", 400, "bad-query"),
            ("topic=a&retian=true", 400, "bad-query"),
            ("topic=a&topic=b", 400, "bad-query"),
            ("Topic=a", 400, "bad-query"),
        ] {
            let answer = publish(address, query, b"x");
            assert_eq!((answer.status, answer.error_code().as_str()), (status, code), "{query}: {}", answer.body);
        }
    })
    .await;
    assert!(room.figures.published.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_message_that_was_not_accepted_is_not_200() {
    let room = room();
    let address = room.address;
    client(move || {
        for (topic, status, code) in [
            ("full", 507, "full"),
            ("suspended", 503, "store-suspended"),
            ("stopping", 503, "stopping"),
            ("$SYS/x", 403, "reserved-topic"),
            ("stuck", 503, "timeout"),
        ] {
            let answer = publish(address, &format!("topic={topic}"), b"x");
            assert_eq!((answer.status, answer.error_code().as_str()), (status, code), "{topic}");
            assert_eq!(answer.head.contains("retry-after: 5"), status == 503, "{}", answer.head);
        }
    })
    .await;
}

#[tokio::test]
async fn a_body_has_a_largest_size_however_it_is_sent() {
    let room = room();
    let address = room.address;
    client(move || {
        let path = format!("{PUBLISH}?topic=a");
        assert_eq!(publish(address, "topic=a", &[b'x'; 1000]).status, 200);
        assert_eq!(publish(address, "topic=a", &[b'x'; 1001]).error_code(), "too-large");
        // Said beforehand, it need not even come.
        for length in ["1001", "99999999999"] {
            let answer = post(address, &path, &format!("Content-Length: {length}\r\n"), b"");
            assert_eq!((answer.status, answer.error_code().as_str()), (413, "too-large"));
            let careful = format!("Expect: 100-continue\r\nContent-Length: {length}\r\n");
            assert_eq!(post(address, &path, &careful, b"").status, 413);
        }
        // Chunks without an end.
        let mut stream = connect(address);
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        for _ in 0..100 {
            if stream.write_all(b"64\r\n0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\r\n").is_err() {
                break;
            }
        }
        let mut answer = [0; 12];
        // The room may have closed before it has read all of it.
        if stream.read_exact(&mut answer).is_ok() {
            assert_eq!(&answer, b"HTTP/1.1 413");
        }
        for broken in ["zz\r\nabc\r\n", "-1\r\nabc\r\n", "ffffffffffffffffff\r\nabc\r\n"] {
            let answer = post(address, &path, "Transfer-Encoding: chunked\r\n", broken.as_bytes());
            assert_eq!((answer.status, answer.error_code().as_str()), (400, "bad-body"), "{broken}");
        }
    })
    .await;
    assert_eq!(room.figures.published.lock().unwrap().len(), 1);
    assert_eq!(get(address, "/health/live").await.status, 200);
}

/// More than there are places, each with a body that does not come.
#[tokio::test]
async fn bodies_that_trickle_keep_nobody_out_and_are_ended() {
    let room = room();
    let address = room.address;
    let slow = client(move || {
        let head = format!("POST {PUBLISH}?topic=a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nx");
        let open = || {
            let mut stream = connect(address);
            let _ = stream.write_all(head.as_bytes());
            stream
        };
        (0..MAX_CONNECTIONS + 20).map(|_| open()).collect::<Vec<_>>()
    })
    .await;
    assert_eq!(get(address, "/health/ready").await.status, 200);
    // Busy with reading, they are idle all the same: there is room for more, too.
    assert_eq!(client(move || publish(address, "topic=b", b"y")).await.status, 200);
    let last = client(move || {
        let mut last = slow.last().unwrap();
        let mut answer = String::new();
        let _ = last.read_to_string(&mut answer);
        answer
    })
    .await;
    assert!(last.starts_with("HTTP/1.1 408") && last.contains("body-timeout"), "{last}");
    let published = room.figures.published.lock().unwrap();
    assert_eq!(published.len(), 1, "half a body is no message");
}

#[tokio::test]
async fn a_stuck_store_costs_no_more_than_the_room_for_bodies() {
    let places = admin::ALL_BODIES_BYTES / admin::BODY_BYTES_MIN;
    assert!(places > MAX_CONNECTIONS && MAX_BODY_BYTES < admin::ALL_BODIES_BYTES);
    let room = room();
    let (address, figures) = (room.address, Arc::clone(&room.figures));
    let answer = client(move || {
        // Whoever goes away leaves the message on its way behind.
        let head = format!("POST {PUBLISH}?topic=stuck HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx");
        for count in 1..=places {
            let mut stream = connect(address);
            stream.write_all(head.as_bytes()).unwrap();
            let deadline = std::time::Instant::now() + PATIENCE;
            while figures.published.lock().unwrap().len() < count {
                assert!(std::time::Instant::now() < deadline, "only {count} were taken");
                std::thread::yield_now();
            }
        }
        publish(address, "topic=b", b"y")
    })
    .await;
    assert_eq!((answer.status, answer.error_code().as_str()), (503, "busy"));
    assert!(answer.head.contains("retry-after: 5"), "{}", answer.head);
    assert_eq!(get(address, "/health/live").await.status, 200);
}
