//! What may be changed over HTTP, by whom, and what the answers are.

use super::*;

/// What a program on this machine sends.
pub(super) fn order(address: SocketAddr, method: &str, path: &str, headers: &str) -> Answer {
    let text = converse(address, format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n").as_bytes());
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP answer: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

pub(super) const HOST: &str = "Host: localhost\r\n";

#[tokio::test]
async fn orders_answer_with_the_new_state() {
    let room = room();
    let address = room.address;
    client(move || {
        let order = |name: &str, what: &str| order(address, "POST", &format!("/api/v1/streams/{name}/{what}"), HOST);
        let paused = order("telemetry", "pause");
        assert_eq!(
            (paused.status, &paused.json()["paused"], &paused.json()["name"]),
            (200, &true.into(), &"telemetry".into())
        );
        assert_eq!(order("telemetry", "resume").json()["paused"], false);
        assert_eq!(order("telemetry", "purge").json()["messages"], 160);
        assert_eq!(order("telemetry", "purge?to=7").json()["messages"], 1);
        assert_eq!(order("telemetry", "replay?since=2026-11-21T11:41:30.290%2B01:00").json()["messages"], 5);
        assert_eq!(order("telemetry", "replay?stop=true").json()["messages"], 3);
        for wrong in
            ["replay?since=yesterday", "replay?stop=perhaps", "replay?sinc=2h", "purge?all=true", "purge?to=-1"]
        {
            let answer = order("telemetry", wrong);
            assert_eq!((answer.status, answer.error_code().as_str()), (400, "bad-query"), "{wrong}");
        }
        let nobody = order("none", "purge");
        assert_eq!((nobody.status, nobody.error_code().as_str()), (404, "not-found"));
        assert_eq!(order("telemetry", "explode").status, 404);
        let get = ask(address, "GET", "/api/v1/streams/telemetry/purge", "");
        assert_eq!((get.status, get.error_code().as_str()), (405, "method-not-allowed"));
    })
    .await;
}

#[tokio::test]
async fn dead_letters_are_listed_shown_retried_and_purged() {
    let room = room();
    let address = room.address;
    client(move || {
        let list = order(address, "GET", "/api/v1/dead?limit=2&after=5", HOST).json();
        assert_eq!((&list["messages"], &list["retried"], &list["next"]), (&3.into(), &2.into(), &7.into()));
        assert_eq!((&list["dead"][0]["id"], &list["dead"][0]["died"]), (&6.into(), &"2026-11-21T10:41:30.290Z".into()));
        assert_eq!(list["dead"][0].get("message"), None);
        let one = order(address, "GET", "/api/v1/dead/7", HOST).json();
        assert_eq!((&one["message"]["payload_base64"], &one["accepted"]), (&"/w==".into(), &Value::Null));
        for (method, path, status) in [
            ("POST", "/api/v1/dead/7/retry", 200),
            ("POST", "/api/v1/dead/8/retry", 404),
            ("DELETE", "/api/v1/dead/7", 200),
            ("DELETE", "/api/v1/dead?all=true", 200),
            ("DELETE", "/api/v1/dead?stream=telemetry", 200),
            ("DELETE", "/api/v1/dead", 400),
            ("DELETE", "/api/v1/dead?stream=telemetry&all=true", 400),
            ("GET", "/api/v1/dead/8", 404),
            ("GET", "/api/v1/dead/x", 400),
            ("GET", "/api/v1/dead?limit=-1", 400),
            ("GET", "/api/v1/dead?limit=0", 400),
            ("GET", "/api/v1/dead?limit=1001", 400),
            ("DELETE", "/api/v1/dead?al=true", 400),
            ("GET", "/api/v1/dead/7/retry", 405),
        ] {
            let answer = order(address, method, path, HOST);
            assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
            if status == 200 {
                assert_eq!(answer.json()["dead"]["messages"], 3, "{method} {path}");
            } else {
                answer.error_code();
            }
        }
        // Without a token nobody may read them who could not purge them.
        for (method, path) in [("DELETE", "/api/v1/dead/7"), ("GET", "/api/v1/dead/7"), ("GET", "/api/v1/dead")] {
            assert_eq!(order(address, method, path, "Host: evil.example\r\n").status, 403, "{method} {path}");
        }
    })
    .await;
}

#[tokio::test]
async fn an_order_that_hangs_is_answered_and_holds_up_nothing() {
    let room = room();
    let address = room.address;
    let hang = || client(move || order(address, "POST", "/api/v1/streams/stuck/purge", HOST));
    let hanging: Vec<_> = (0..10).map(|_| tokio::spawn(hang())).collect();
    assert_eq!(get(address, "/api/v1/status").await.status, 200);
    for answer in hanging {
        let answer = answer.await.unwrap();
        assert_eq!((answer.status, answer.error_code().as_str()), (503, "timeout"));
    }
}

#[tokio::test]
async fn no_page_of_another_site_can_give_orders() {
    let room = room();
    let address = room.address;
    client(move || {
        for (headers, expected) in [
            ("Host: evil.example\r\n", Some("wrong-host")),
            ("", Some("wrong-host")),
            ("Host: localhost\r\nOrigin: https://evil.example\r\n", Some("wrong-origin")),
            ("Host: localhost\r\nOrigin: null\r\n", Some("wrong-origin")),
            ("Host: localhost:9883\r\nOrigin: http://localhost:9883\r\n", None),
            ("Host: 127.0.0.1:9883\r\n", None),
        ] {
            let answer = order(address, "POST", "/api/v1/streams/telemetry/pause", headers);
            match expected {
                Some(code) => assert_eq!((answer.status, answer.error_code().as_str()), (403, code), "{headers}"),
                None => assert_eq!(answer.status, 200, "{headers}"),
            }
        }
        // A page may have it read, and cannot see the answer: nothing says that it may.
        let read = ask(address, "GET", "/api/v1/streams", "Origin: https://evil.example\r\n");
        assert!(read.status == 200 && !read.head.contains("access-control"), "{}", read.head);
    })
    .await;
}

#[tokio::test]
async fn orders_need_the_token_and_the_right_host() {
    let room = room_with(Figures::default(), Some("s3cret\n"));
    let address = room.address;
    client(move || {
        let path = "/api/v1/streams/telemetry/pause";
        let token = "Authorization: Bearer s3cret\r\n";
        assert_eq!(order(address, "POST", path, HOST).status, 401);
        assert_eq!(order(address, "POST", path, &format!("Host: evil.example\r\n{token}")).status, 403);
        assert_eq!(order(address, "POST", path, &format!("{HOST}{token}")).status, 200);
    })
    .await;
}
