//! Every request of the document with wrong Hosts, Origins, tokens, names, queries, numbers and bodies.

use super::*;

/// All requests of the document, with the path filled in.
fn requests() -> Vec<(String, String, Value)> {
    let text = include_str!("../../src/admin/openapi.json");
    let document: Value = serde_json::from_str(text).unwrap();
    let mut requests = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        let concrete = path.replace("{name}", "telemetry").replace("{id}", "7");
        for (method, operation) in operations.as_object().unwrap() {
            requests.push((method.to_uppercase(), concrete.clone(), operation.clone()));
        }
    }
    assert!(requests.len() > 15);
    requests
}

fn is_open(path: &str) -> bool {
    path.starts_with("/health/")
}

/// Whether the answer has no end.
fn is_endless(path: &str) -> bool {
    path == "/api/v1/events"
}

/// A request without headers of its own making.
fn bare(address: SocketAddr, method: &str, path: &str, headers: &str) -> Answer {
    let text = converse(address, format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n").as_bytes());
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{method} {path}: no answer: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

#[tokio::test]
async fn a_wrong_host_is_heard_nowhere_but_at_health() {
    for token in [None, Some("s3cret")] {
        let room = room_with(Figures::default(), token);
        let address = room.address;
        client(move || {
            let mut all = requests();
            all.push(("GET".to_owned(), "/nothing/here".to_owned(), Value::Null));
            all.push(("PUT".to_owned(), "/metrics".to_owned(), Value::Null));
            for (method, path, _) in all {
                for host in
                    ["", "Host: evil.example\r\n", "Host: localhost\r\nHost: localhost\r\n", "Host: 10.0.0.9\r\n"]
                {
                    let answer = bare(address, &method, &path, &format!("{host}Authorization: Bearer s3cret\r\n"));
                    if is_open(&path) {
                        assert_eq!(answer.status, 200, "{path} {host}");
                    } else {
                        assert_eq!((answer.status, answer.error_code().as_str()), (403, "wrong-host"), "{path} {host}");
                    }
                }
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_wrong_origin_changes_nothing() {
    let room = room();
    let address = room.address;
    client(move || {
        for (method, path, _) in requests().into_iter().filter(|(method, ..)| method != "GET") {
            for origin in ["null", "https://evil.example", "http://localhost:3000", "http://localhost.evil.example"] {
                let answer = ask(address, &method, &path, &format!("Origin: {origin}\r\n"));
                assert_eq!((answer.status, answer.error_code().as_str()), (403, "wrong-origin"), "{method} {path}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_wrong_token_opens_nothing_but_health() {
    let room = room_with(Figures::default(), Some("s3cret"));
    let address = room.address;
    client(move || {
        for (method, path, operation) in requests() {
            if operation["security"].as_array().is_some_and(Vec::is_empty) {
                continue;
            }
            for token in [
                "",
                "Authorization: s3cret\r\n",
                "Authorization: Bearer s3cre\r\n",
                "Authorization: Bearer s3crett\r\n",
            ] {
                let answer = ask(address, &method, &path, token);
                assert_eq!((answer.status, answer.error_code().as_str()), (401, "unauthorized"), "{method} {path}");
                assert!(answer.head.contains("www-authenticate: bearer"), "{}", answer.head);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_parameter_that_is_not_there_is_refused_everywhere() {
    let room = room();
    let address = room.address;
    client(move || {
        assert_eq!(ask(address, "GET", "/health/live?now=1", "").status, 200, "a health check is not a typing error");
        for (method, path, operation) in requests().into_iter().filter(|(_, path, _)| !is_open(path) && path != "/") {
            for query in ["sinc=2h", "%ff=1", "=", "token=s3cret"] {
                let answer = ask(address, &method, &format!("{path}?{query}"), "");
                let good = (answer.status, answer.error_code().as_str()) == (400, "bad-query");
                assert!(good, "{method} {path}?{query}: {}", answer.body);
            }
            for parameter in operation["parameters"].as_array().into_iter().flatten().filter(|p| p["in"] == "query") {
                let name = parameter["name"].as_str().unwrap();
                for query in [format!("{name}=1&{name}=1"), format!("{name}=%ff"), format!("{name}=%")] {
                    let answer = ask(address, &method, &format!("{path}?{query}"), "");
                    assert_eq!((answer.status, answer.error_code().as_str()), (400, "bad-query"), "{path}?{query}");
                }
            }
        }
    })
    .await;
    assert!(!room.figures.paused.load(Ordering::Relaxed), "nothing was done");
}

#[tokio::test]
async fn paths_are_taken_literally() {
    let room = room();
    let address = room.address;
    client(move || {
        for (method, path, _) in requests().into_iter().filter(|(_, path, _)| path.len() > 1) {
            for odd in
                [format!("{path}/"), format!("/{path}"), path.replacen("/api", "/API", 1).replacen("/h", "/%68", 1)]
            {
                if odd == path {
                    continue;
                }
                let answer = ask(address, &method, &odd, "");
                assert!([400, 404].contains(&answer.status), "{method} {odd}: {}", answer.status);
                answer.error_code();
            }
        }
        for path in [
            "/../etc/passwd",
            "/api/v1/streams/..%2F..%2Fetc",
            "/api/v1/streams/%00",
            "/api/v1/streams/%",
            "//",
            "/%2e%2e/",
        ] {
            let answer = ask(address, "GET", path, "");
            assert!([400, 404].contains(&answer.status), "{path}: {}", answer.status);
            answer.error_code();
        }
    })
    .await;
}

/// What comes from strangers reaches a terminal or a log only as JSON has it.
#[tokio::test]
async fn an_error_repeats_what_was_said_only_in_escapes() {
    let room = room();
    let address = room.address;
    client(move || {
        for path in ["/api/v1/streams/%1b%5b2J", "/api/v1/clients/%1b%5b2J?x=%1b", "/api/v1/dead/%1b"] {
            for method in ["GET", "DELETE"] {
                let answer = ask(address, method, path, "");
                assert!(answer.body.bytes().all(|byte| byte >= b' '), "{:?}", answer.body);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn every_answer_says_that_it_is_neither_kept_nor_guessed_at() {
    let room = room();
    let address = room.address;
    client(move || {
        for (method, path, _) in requests().into_iter().filter(|(_, path, _)| !is_endless(path)) {
            let answer = ask(address, &method, &path, "");
            assert!(answer.head.contains("x-content-type-options: nosniff"), "{path}: {}", answer.head);
            assert!(answer.head.contains("cache-control: no-"), "{path}: {}", answer.head);
            assert!(!answer.head.contains("access-control-"), "{path}: {}", answer.head);
        }
    })
    .await;
}
