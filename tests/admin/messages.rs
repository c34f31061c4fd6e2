//! Stored messages over HTTP: read and imported, and what is wrong with a request.

use super::{
    orders::{HOST, order},
    *,
};

const PATH: &str = "/api/v1/streams/telemetry/messages";

fn post(address: SocketAddr, path: &str, headers: &str, body: &[u8]) -> Answer {
    let head = format!("POST {path} HTTP/1.1\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
    let text = converse(address, &[head.as_bytes(), body].concat());
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no HTTP answer: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

#[tokio::test]
async fn messages_are_read_page_by_page() {
    let room = room();
    let address = room.address;
    client(move || {
        let get = |query: &str| order(address, "GET", &format!("{PATH}{query}"), HOST);
        let all = get("").json();
        assert_eq!((&all["head"], &all["end"], &all["count"]), (&7.into(), &9.into(), &2.into()));
        let first = &all["messages"][0];
        assert_eq!((&first["id"], &first["time"]), (&"plant-7/telemetry/7".into(), &"2026-11-21T10:41:30.290Z".into()));
        assert_eq!((&first["payload"], &all["messages"][1]["payload_base64"]), (&"21.5".into(), &"/w==".into()));
        let page = get("?limit=1").json();
        assert_eq!((page["messages"].as_array().unwrap().len(), &page["next"]), (1, &8.into()));
        assert_eq!(get("?from=8&of=kept").json()["messages"][0]["sequence"], 8);
        assert_eq!(get("?to=7").json()["messages"].as_array().unwrap().len(), 1);
        for wrong in ["?from=-1", "?from=x", "?limit=many", "?of=nothing", "?to=99999999999999999999"] {
            let answer = get(wrong);
            assert_eq!((answer.status, answer.error_code().as_str()), (400, "bad-query"), "{wrong}");
        }
        assert_eq!(order(address, "GET", "/api/v1/streams/none/messages", HOST).status, 404);
        // They have payloads: no page of another site reads them.
        assert_eq!(order(address, "GET", PATH, "Host: evil.example\r\n").error_code(), "wrong-host");
        assert_eq!(order(address, "DELETE", PATH, HOST).error_code(), "method-not-allowed");
    })
    .await;
}

#[tokio::test]
async fn lines_are_imported_whole_or_not_at_all() {
    let room = room();
    let address = room.address;
    client(move || {
        let line = "{\"topic\":\"a\",\"payload\":\"1\"}\n";
        let three = line.repeat(3);
        let done = post(address, PATH, HOST, three.as_bytes()).json();
        assert_eq!((&done["accepted"], &done["skipped"]), (&2.into(), &1.into()));
        let again = post(address, &format!("{PATH}?again=true"), HOST, format!("\n{three}\r\n").as_bytes()).json();
        assert_eq!((&again["accepted"], &again["skipped"]), (&3.into(), &0.into()));
        let full = post(address, "/api/v1/streams/full/messages", HOST, three.as_bytes());
        assert_eq!((full.status, full.error_code().as_str(), &full.json()["accepted"]), (507, "full", &1.into()));
        for (body, what) in [
            (format!("{three}{{\"topic\":\"a/#\",\"payload\":\"\"}}"), "line 4: `topic`"),
            ("{\"topic\":\"a\"}".to_owned(), "line 1: there is neither `payload`"),
            ("\n\nnonsense".to_owned(), "line 3: "),
        ] {
            let bad = post(address, PATH, HOST, body.as_bytes());
            assert_eq!((bad.status, bad.error_code().as_str()), (400, "bad-line"), "{body}");
            assert!(bad.body.contains(what) && bad.body.contains("nothing was imported"), "{}", bad.body);
        }
        assert_eq!(post(address, "/api/v1/streams/none/messages", HOST, three.as_bytes()).status, 404);
        assert_eq!(post(address, PATH, "Host: evil.example\r\n", three.as_bytes()).error_code(), "wrong-host");
        let origin = "Host: localhost\r\nOrigin: http://evil.example\r\n";
        assert_eq!(post(address, PATH, origin, three.as_bytes()).error_code(), "wrong-origin");
        let large = vec![b' '; admin::IMPORT_BYTES_MAX + 1];
        assert_eq!(post(address, PATH, HOST, &large).status, 413);
    })
    .await;
}
