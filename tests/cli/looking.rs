//! Commands that only look, at a running gateway and at what a stopped one left; with their golden outputs.

use std::{fs, process::Command};

use serde_json::Value;

use super::{
    golden::{self, masked},
    rig::{Gateway, Ran, STREAMS, config, narrow_upstream, run_with, tidegate},
};

/// A gateway with something to see: a long name, payloads of all kinds, a dead letter.
fn busy() -> Gateway {
    let streams = format!("{STREAMS}[[stream]]\nname = \"{}\"\nfrom = [\"long/#\"]\nto = \"cloud\"\n", "l".repeat(60));
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("token"), "s3cret").unwrap();
    let gateway = Gateway::start_in(folder, &config(narrow_upstream(), &streams));
    gateway.publish("b/temperature", &["21.5", "{\"c\": 21.5}", "two\nlines \u{1b}[2J", &"long ".repeat(300)]);
    gateway.publish(&format!("b/{}", "t".repeat(200)), &["x"]);
    gateway.publish("a/x", &["too large for an upstream that takes 60 bytes, and so a dead letter"]);
    gateway.until("it is dead", |gateway| gateway.json(&["dead", "list"])["messages"] == 1);
    gateway
}

fn tables(gateway: &Gateway, kind: &str, run: impl Fn(&[&str]) -> Ran) {
    let folder = gateway.folder.path().display().to_string();
    for (name, arguments) in [
        ("streams", &["streams"][..]),
        ("peek", &["peek", "b"]),
        ("peek-page", &["peek", "b", "--from", "2", "-n", "2"]),
        ("peek-none", &["peek", "a"]),
        ("dead-list", &["dead", "list"]),
        ("dead-show", &["dead", "show", "1"]),
    ] {
        let ran = run(arguments);
        assert_eq!(ran.code, Some(0), "{name}: {}", ran.stderr);
        let wide = ran.stdout.lines().find(|line| line.chars().count() > 80);
        assert!(wide.is_none() || name == "dead-show", "{name}: {wide:?}");
        assert!(!ran.stdout.contains('\u{1b}'), "{name}: {}", ran.stdout);
        let said = if ran.stderr.is_empty() { String::new() } else { format!("--- stderr\n{}", ran.stderr) };
        golden::check(&format!("{kind}-{name}"), &masked(&(ran.stdout + &said), &folder));
    }
}

#[test]
fn what_is_stored_is_seen_of_a_running_and_of_a_stopped_gateway() {
    let mut gateway = busy();
    tables(&gateway, "running", |arguments| gateway.run(arguments));
    let status = gateway.run(&["status"]);
    assert!(status.stdout.lines().all(|line| line.chars().count() <= 80), "{}", status.stdout);
    let json = |arguments: &[&str], ran: Ran| -> Value {
        assert_eq!(ran.code, Some(0), "{arguments:?}: {}", ran.stderr);
        serde_json::from_str(&ran.stdout).unwrap()
    };
    let all = [
        &["streams", "--json"][..],
        &["peek", "b", "--json"],
        &["dead", "list", "--json"],
        &["dead", "show", "1", "--json"],
    ];
    let running: Vec<Value> = all.iter().map(|arguments| json(arguments, gateway.run(arguments))).collect();
    gateway.kill();
    let file = gateway.config_file();
    let resting = |arguments: &[&str]| tidegate(&[arguments, &["-c", &file]].concat());
    tables(&gateway, "stopped", resting);
    for (arguments, running) in all.iter().zip(running) {
        let mut found = json(arguments, resting(arguments));
        let mut running = running;
        for streams in [&mut found, &mut running] {
            for stream in streams["streams"].as_array_mut().into_iter().flatten() {
                // Of the moment.
                for name in ["rate_in_per_s", "rate_out_per_s", "seconds_to_drain"] {
                    stream[name].take();
                }
                stream["backlog"]["oldest_age_seconds"].take();
            }
        }
        assert_eq!(found, running, "{arguments:?}");
    }
}

#[test]
fn a_payload_comes_out_as_it_went_in() {
    let mut gateway = busy();
    assert_eq!(gateway.run(&["peek", "b", "--payload", "3"]).stdout, "two\nlines \u{1b}[2J");
    let file = gateway.folder.path().join("payload");
    let ran = gateway.run(&["peek", "b", "--payload", "1", "-o", file.to_str().unwrap()]);
    assert_eq!((ran.code, &*ran.stdout, fs::read(&file).unwrap()), (Some(0), "", b"21.5".to_vec()));
    let gone = gateway.run(&["peek", "b", "--payload", "9"]);
    assert_eq!(gone.code, Some(1));
    assert!(gone.stderr.contains("the stream `b` has no message 9"), "{}", gone.stderr);
    gateway.stop();
    let config = gateway.config_file();
    assert_eq!(tidegate(&["peek", "b", "--payload", "2", "-c", &config]).stdout, "{\"c\": 21.5}");
}

#[test]
fn colours_are_for_those_who_want_them() {
    let gateway = busy();
    let (admin, token) = (gateway.admin.to_string(), gateway.token_file().display().to_string());
    let status = |environment: &[(&str, &str)]| {
        run_with(&["status", "--admin", &admin, "--token-file", &token], environment).stdout
    };
    assert!(status(&[("CLICOLOR_FORCE", "1")]).contains("\u{1b}[32mconnected\u{1b}[0m"));
    assert!(!status(&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]).contains('\u{1b}'));
    assert!(!status(&[]).contains('\u{1b}'));
}

#[test]
fn nobody_reading_any_more_is_no_failure_of_a_table() {
    let gateway = busy();
    let line = format!(
        "{} peek b --admin {} --token-file {} | head -1; echo ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_tidegate"),
        gateway.admin,
        gateway.token_file().display()
    );
    let done = Command::new("bash").args(["-c", &line]).output().unwrap();
    let said = String::from_utf8(done.stdout).unwrap();
    assert!(said.starts_with("SEQUENCE") && said.ends_with("\n0\n"), "{said}");
    assert_eq!(String::from_utf8(done.stderr).unwrap(), "");
}

#[test]
fn what_cannot_be_looked_at_is_said() {
    let mut gateway = busy();
    let said = |name: &str, ran: &Ran, code: i32, folder: &str| {
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(code), ""), "{name}: {}", ran.stderr);
        golden::check(&format!("error-{name}"), &masked(&ran.stderr, folder));
    };
    let folder = gateway.folder.path().display().to_string();
    let data = gateway.folder.path().join("data").display().to_string();
    said("data-dir-held", &tidegate(&["streams", "--data-dir", &data]), 1, &folder);
    said("no-such-stream", &gateway.run(&["peek", "none"]), 1, &folder);
    said("bad-number", &tidegate(&["peek", "b", "-n", "0"]), 2, &folder);
    said("bad-from", &tidegate(&["peek", "b", "--from", "-1"]), 2, &folder);
    said("two-places", &tidegate(&["peek", "b", "--data-dir", "x", "--admin", "127.0.0.1:1"]), 2, &folder);
    let config = gateway.config_file();
    // Its port was given by the system, so it cannot be found.
    said("port-unknown", &tidegate(&["streams", "-c", &config]), 1, &folder);
    gateway.stop();
    said("stopped-no-such-stream", &tidegate(&["peek", "none", "-c", &config]), 1, &folder);
    said("stopped-no-such-letter", &tidegate(&["dead", "show", "77", "-c", &config]), 1, &folder);
    said("no-data", &tidegate(&["streams", "--data-dir", "/nonexistent"]), 1, &folder);
    said("stopped-whose", &tidegate(&["export", "b", "--data-dir", &data]), 1, &folder);
    let empty = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(&config).unwrap().replace("\"data\"", &format!("{:?}", empty.path()));
    let other = empty.path().join("t.toml");
    fs::write(&other, text.replace("token_file", "# token_file")).unwrap();
    said(
        "nothing-there",
        &tidegate(&["streams", "-c", other.to_str().unwrap()]),
        1,
        &empty.path().display().to_string(),
    );
    fs::write(empty.path().join("tidegate.db"), "garbage garbage garbage").unwrap();
    let empty = empty.path().display().to_string();
    said("unreadable", &tidegate(&["streams", "--data-dir", &empty]), 1, &empty);
}
