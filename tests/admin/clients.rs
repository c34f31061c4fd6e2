//! Local clients over HTTP: pages of them, and sending one away.

use super::*;

fn ids(page: &Value) -> Vec<&str> {
    page["clients"].as_array().unwrap().iter().map(|client| client["id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn clients_come_in_pages() {
    let room = room();
    let first = get(room.address, "/api/v1/clients?limit=2").await.json();
    assert_eq!((ids(&first), &first["next"]), (vec!["c01", "c03"], &"c03".into()));
    assert_eq!((&first["connected"], &first["away"]), (&5.into(), &5.into()));
    let last = get(room.address, "/api/v1/clients?limit=2&after=c07").await.json();
    assert_eq!((ids(&last), &last["next"]), (vec!["c09"], &Value::Null));
    let away = get(room.address, "/api/v1/clients?state=away").await.json();
    let expected = serde_json::json!({
        "id": "c02", "connected": false, "since_seconds": 1.5, "user": null, "listener": null, "address": null,
        "version": null, "clean_start": null, "keep_alive_seconds": null, "lasting": true, "ends_in_seconds": 60.0,
        "in_flight": 1, "queued": { "messages": 2, "bytes": 3 }, "subscriptions": 4
    });
    assert_eq!(away["clients"][0], expected);
    let all = get(room.address, "/api/v1/clients?state=all").await.json();
    assert_eq!(ids(&all).len(), 10);
    assert_eq!((&all["clients"][0]["version"], &all["clients"][0]["keep_alive_seconds"]), (&"5".into(), &60.into()));
}

#[tokio::test]
async fn a_client_is_sent_away_by_its_id_whatever_that_is() {
    let room = room();
    let address = room.address;
    client(move || {
        for (id, status, code) in [
            ("c01", 200, ""),
            ("%2Fa%20b%2B%23%0A%C3%A9%3F", 200, ""),
            ("c02", 404, "not-connected"),
            ("nobody", 404, "not-found"),
            ("a/b", 404, "not-found"),
            ("%ff", 400, "bad-path"),
            ("c01?force=true", 400, "bad-query"),
        ] {
            let answer = ask(address, "DELETE", &format!("/api/v1/clients/{id}"), "");
            assert_eq!(answer.status, status, "{id}: {}", answer.body);
            if status == 200 {
                assert_eq!(answer.json()["disconnected"], true, "{id}");
            } else {
                assert_eq!(answer.error_code(), code, "{id}");
            }
        }
    })
    .await;
}
