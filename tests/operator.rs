//! The commands of an operator against a running gateway: what they do, print, and exit with.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by failing")]

#[path = "operator/rig.rs"]
mod rig;

use std::{fs, net::TcpListener};

use rig::{Gateway, Ran, STREAMS, config, narrow_upstream, tidegate};
use serde_json::Value;

#[test]
fn an_operator_pauses_resumes_and_purges_streams() {
    let gateway = Gateway::start(narrow_upstream());
    gateway.publish("b/x", &["1", "2", "3"]);
    let paused = gateway.run(&["pause", "b"]);
    assert_eq!((paused.code, &*paused.stdout), (Some(0), "b: backlog 3 messages, 15B; paused\n"), "{}", paused.stderr);
    let table = gateway.run(&["streams"]).stdout;
    let line = table.lines().find(|line| line.starts_with("b ")).unwrap();
    assert!(table.starts_with("STREAM") && line.ends_with("paused"), "{table}");

    let gateway = gateway.restart(&config(narrow_upstream(), STREAMS));
    assert_eq!(gateway.stream("b")["paused"], true);
    gateway.run(&["resume", "b"]);
    assert_eq!(gateway.stream("b")["paused"], false);
    let purged = gateway.run(&["purge", "b"]);
    assert_eq!((purged.code, &*purged.stdout), (Some(0), "3 messages purged\nb: backlog 0 messages, 0B; running\n"));
    let b = gateway.stream("b");
    assert_eq!((&b["accepted"], &b["purged"]), (&3.into(), &3.into()));

    let status = gateway.run(&["status"]);
    assert_eq!(status.code, Some(0));
    for part in ["gateway      gw, version", "UPLINK", "cloud", "LISTENER", "ready        yes"] {
        assert!(status.stdout.contains(part), "{part} is missing in\n{}", status.stdout);
    }
    assert_eq!(gateway.json(&["status"])["gateway_id"], "gw");
}

#[test]
fn an_operator_works_with_dead_letters() {
    let gateway = Gateway::start(narrow_upstream());
    let large = "x".repeat(60);
    gateway.publish("a/x", &[&large, &large, &large, &large]);
    gateway.until("all are dead", |gateway| gateway.json(&["dead", "list"])["messages"] == 4);
    let table = gateway.run(&["dead", "list", "--stream", "a"]).stdout;
    assert!(table.lines().count() == 7 && table.contains("too-large"), "{table}");
    let shown = gateway.run(&["dead", "show", "1"]).stdout;
    assert!(shown.contains(&large) && shown.contains("the upstream takes 60"), "{shown}");
    assert_eq!(gateway.json(&["dead", "show", "1"])["message"]["payload"], large);

    gateway.run(&["pause", "a"]);
    let retried = gateway.run(&["dead", "retry", "1", "77"]);
    assert_eq!((retried.code, &*retried.stdout), (Some(1), "1 dead letters retried\n"));
    assert!(retried.stderr.contains("tidegate: 77: there is no dead letter 77"), "{}", retried.stderr);
    assert_eq!(gateway.stream("a")["backlog"]["messages"], 1);
    let purged = gateway.run(&["dead", "purge", "2"]);
    assert_eq!((purged.code, &*purged.stdout), (Some(0), "1 dead letters purged\n"), "{}", purged.stderr);
    assert_eq!(gateway.run(&["dead", "retry", "--all"]).stdout, "2 dead letters retried\n");
    gateway.run(&["resume", "a"]);
    // They are as large as before.
    gateway.until("all are dead again", |gateway| gateway.json(&["dead", "list"])["messages"] == 3);
    assert_eq!(gateway.run(&["dead", "purge", "--stream", "a"]).stdout, "3 dead letters purged\n");
    let list = gateway.json(&["dead", "list"]);
    assert_eq!((&list["messages"], &list["retried"], &list["purged"]), (&0.into(), &3.into(), &4.into()));
    let a = gateway.stream("a");
    assert_eq!((&a["accepted"], &a["dead"], &a["backlog"]["messages"]), (&7.into(), &7.into(), &0.into()));
}

#[test]
fn a_stream_taken_out_of_the_configuration_is_shown_and_comes_back() {
    let upstream = narrow_upstream();
    let gateway = Gateway::start(upstream);
    gateway.publish("b/x", &["1", "2", "3"]);
    let gateway = gateway.restart(&config(upstream, &STREAMS.replace("\"b\"", "\"c\"")));
    let b = gateway.stream("b");
    assert_eq!((&b["configured"], &b["to"], &b["backlog"]["messages"]), (&false.into(), &Value::Null, &3.into()));
    assert_eq!(gateway.stream("c")["configured"], true);
    assert!(gateway.run(&["streams"]).stdout.contains("not configured"));
    // Its uplink is another one now, and it has the whole of what it had.
    let moved = format!("{STREAMS}to = \"cloud\"\n");
    let gateway = gateway.restart(&config(upstream, &moved));
    gateway.publish("b/x", &["4"]);
    let b = gateway.stream("b");
    assert_eq!((&b["configured"], &b["to"], &b["accepted"]), (&true.into(), &"cloud".into(), &4.into()));
    assert_eq!(gateway.stream("c")["configured"], false);
}

#[test]
fn what_goes_wrong_is_said_and_exits_with_the_right_code() {
    let gateway = Gateway::start(narrow_upstream());
    let said = |ran: &Ran, code: i32, part: &str| {
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(code), ""), "{}", ran.stderr);
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
    };
    said(&gateway.run(&["pause", "none"]), 1, "there is no stream called `none`");
    said(&gateway.run(&["dead", "show", "7"]), 1, "there is no dead letter 7");
    let admin = gateway.admin.to_string();
    said(&tidegate(&["streams", "--admin", &admin]), 1, "wants a token: give --token-file");
    let mqtt = gateway.mqtt.to_string();
    said(
        &tidegate(&["streams", "--admin", &mqtt, "--token-file", gateway.token_file().to_str().unwrap()]),
        1,
        "gateway",
    );
    said(&gateway.run(&["replay", "a", "--since", "1h"]), 1, "keeps no messages of that time");
    said(&gateway.run(&["replay", "a", "--since", "soon"]), 1, "`soon` is no time");
    said(&gateway.run(&["replay", "b", "--since", "1h"]), 1, "goes nowhere");
    said(&gateway.run(&["replay", "a", "--stop"]), 1, "no replay of the stream `a` runs");
    said(&gateway.run(&["replay", "a"]), 2, "--since");
    said(&gateway.run(&["replay", "a", "--stop", "--since", "1h"]), 2, "cannot be used with");
    said(&gateway.run(&["pause", "no/stream"]), 2, "the name of a stream");
    said(&gateway.run(&["dead", "purge"]), 2, "--all");
    said(&gateway.run(&["dead", "purge", "1", "--all"]), 2, "cannot be used with");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    said(&tidegate(&["status", "--admin", &free]), 1, &format!("no gateway runs here: nothing listens on {free}"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("t.toml");
    let file = |text: &str| {
        fs::write(&file, text).unwrap();
        file.display().to_string()
    };
    said(&tidegate(&["status", "-c", &file("[admin]\nbind = \"off\"\n")]), 1, "off");
    said(&tidegate(&["status", "-c", &file("[admin]\nbnd = \"off\"\n")]), 78, "did you mean `bind`?");
    // Where the configuration says where it is, nothing else is needed.
    let token = gateway.token_file().display().to_string();
    let right = file(&format!("[admin]\nbind = \"{admin}\"\ntoken_file = \"{token}\"\n"));
    assert_eq!(tidegate(&["streams", "-c", &right]).code, Some(0));
}
