//! Messages carried from one gateway to another: export and import.

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

use serde_json::Value;

use super::rig::{Gateway, Ran, STREAMS, config, narrow_upstream, tidegate};

/// Lines without what changes on the way.
fn lines(text: &str) -> Vec<Value> {
    let line = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        line["sequence"].take();
        line
    };
    text.lines().map(line).collect()
}

fn other() -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("token"), "s3cret").unwrap();
    let streams = format!("{STREAMS}max_messages = 5\n");
    Gateway::start_in(folder, &config(narrow_upstream(), &streams).replace("id = \"gw\"", "id = \"other\""))
}

/// Runs a command with this standard input.
fn with_input(gateway: &Gateway, arguments: &[&str], input: &str) -> Ran {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .args(arguments)
        .args(["--admin", &gateway.admin.to_string(), "--token-file"])
        .arg(gateway.token_file())
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: done.status.code(), stdout: text(done.stdout), stderr: text(done.stderr) }
}

#[test]
fn an_export_that_lacks_what_cannot_be_read_has_the_rest_and_fails() {
    let mut gateway = Gateway::start(narrow_upstream());
    let payloads: Vec<_> = (0..200).map(|number| format!("payload {number} {}", "x".repeat(200))).collect();
    gateway.publish("b/x", &payloads.iter().map(String::as_str).collect::<Vec<_>>());
    gateway.stop();
    let database = gateway.folder.path().join("data/tidegate.db");
    let mut bytes = fs::read(&database).unwrap();
    let row = bytes.windows(12).position(|window| window == b"payload 100 ").unwrap();
    let page = row / 4096 * 4096;
    bytes[page..page + 4096].fill(0xFF);
    fs::write(&database, bytes).unwrap();
    let file = gateway.folder.path().join("b.ndjson");
    let done = tidegate(&["export", "b", "-c", &gateway.config_file(), "-o", file.to_str().unwrap()]);
    let there = fs::read_to_string(&file).unwrap().lines().count();
    assert!((150..200).contains(&there), "{there}");
    assert!(done.stderr.contains(&format!("not complete: {} cannot be read", 200 - there)), "{}", done.stderr);
    assert_eq!(done.code, Some(1), "{}", done.stdout);
}

#[test]
fn messages_are_carried_to_another_gateway_with_their_ids_and_times_and_once() {
    let mut gateway = Gateway::start(narrow_upstream());
    gateway.publish("b/x", &["1", "2", "{\"three\":3}", "four\n\u{1}"]);
    let file = gateway.folder.path().join("b.ndjson");
    let path = file.to_str().unwrap();
    let done = gateway.run(&["export", "b", "-o", path]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert_eq!(done.stderr, "");
    assert!(done.stdout.starts_with("4 messages of b (1 to 4) exported from the gateway at "), "{}", done.stdout);
    let exported = fs::read_to_string(&file).unwrap();
    assert_eq!(gateway.run(&["export", "b"]).stdout, exported, "the same to stdout");
    assert_eq!(lines(&exported)[2]["id"], "gw/b/3");
    gateway.kill();
    let resting = tidegate(&["export", "b", "-c", &gateway.config_file()]);
    assert_eq!(resting.stdout, exported, "the same of a gateway that crashed");

    let target = other();
    let imported = target.run(&["import", "b", path]);
    assert_eq!((imported.code, &*imported.stdout), (Some(0), "4 messages imported into b\n"), "{}", imported.stderr);
    assert_eq!(lines(&target.run(&["export", "b"]).stdout), lines(&exported));
    let again = target.json(&["import", "b", path]);
    assert_eq!((&again["accepted"], &again["skipped"]), (&0.into(), &4.into()));
    let b = target.stream("b");
    assert_eq!((&b["accepted"], &b["backlog"]["messages"]), (&4.into(), &4.into()));
    // No room for more than one: it stops there, and goes on there when there is.
    let full = target.run(&["import", "b", path, "--again"]);
    assert_eq!((full.code, &*full.stdout), (Some(1), ""));
    assert!(full.stderr.contains("1 messages were imported and 0 skipped before"), "{}", full.stderr);
    assert!(full.stderr.contains("line 2: the stream `b` takes no more: stream full"), "{}", full.stderr);
}

#[test]
fn a_part_is_exported_and_what_is_dead() {
    let gateway = Gateway::start(narrow_upstream());
    gateway.publish("b/x", &["1", "2", "3", "4", "5"]);
    let part = gateway.run(&["export", "b", "--from", "2", "--to", "4"]).stdout;
    assert_eq!(
        lines(&part).iter().map(|line| line["payload"].as_str().unwrap().to_owned()).collect::<Vec<_>>(),
        ["2", "3", "4"]
    );
    let large = "x".repeat(60);
    gateway.publish("a/x", &[&large, &large]);
    gateway.until("they are dead", |gateway| gateway.json(&["dead", "list"])["messages"] == 2);
    let dead = lines(&gateway.run(&["export", "a", "--dead"]).stdout);
    assert_eq!((dead.len(), &dead[1]["dead"]["reason"], &dead[1]["payload"]), (2, &"too-large".into(), &large.into()));
    assert_eq!(gateway.run(&["export", "a"]).stdout, "");
    assert_eq!(gateway.run(&["export", "b", "--from", "3", "--to", "2"]).code, Some(1));
    assert_eq!(gateway.run(&["export", "b", "--dead", "--kept"]).code, Some(2));
}

#[test]
fn nothing_of_a_bad_file_is_taken_unless_asked() {
    let gateway = Gateway::start(narrow_upstream());
    let file = gateway.folder.path().join("bad");
    let path = file.to_str().unwrap();
    let good = "{\"topic\":\"b/x\",\"payload\":\"1\"}\n";
    let text = format!(
        "{good}\n{{\"topic\":\"b/#\",\"payload\":\"\"}}\n{good}{{\"topic\":\"b\",\"paylod\":\"\"}}\nnonsense \u{1b}[2J"
    );
    fs::write(&file, &text).unwrap();
    let refused = gateway.run(&["import", "b", path]);
    assert_eq!((refused.code, &*refused.stdout), (Some(1), ""));
    for part in [
        "line 3: `topic`",
        "line 5: unknown field `paylod`",
        "line 6: ",
        "nothing was imported: 3 bad lines; --skip-bad",
    ] {
        assert!(refused.stderr.contains(part), "{part}: {}", refused.stderr);
    }
    assert!(!refused.stderr.contains('\u{1b}'));
    assert_eq!(gateway.run(&["import", "b", path, "--check"]).code, Some(1));
    assert_eq!(gateway.stream("b")["accepted"], 0);
    let ran = gateway.run(&["import", "b", path, "--skip-bad", "--json"]);
    assert!(ran.stderr.contains("line 3: `topic`"), "{}", ran.stderr);
    let taken: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&taken["accepted"], &taken["bad"], &taken["without_id"]), (&2.into(), &3.into(), &2.into()));
    // From standard input the same, batch by batch.
    let refused = with_input(&gateway, &["import", "b"], &text);
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("line 3: `topic`") && refused.stderr.contains("nothing was imported"));
    assert_eq!(
        with_input(&gateway, &["import", "b", "-"], good).stdout.lines().next(),
        Some("1 messages imported into b")
    );
    assert_eq!(gateway.stream("b")["accepted"], 3);
}

#[test]
fn what_goes_wrong_with_files_is_said() {
    let gateway = Gateway::start(narrow_upstream());
    gateway.publish("b/x", &["1"]);
    let said = |ran: &Ran, part: &str| {
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{}", ran.stderr);
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
    };
    said(&gateway.run(&["import", "b", "/nonexistent/file"]), "cannot read /nonexistent/file");
    said(&gateway.run(&["import", "b", "/tmp"]), "cannot be read");
    said(&gateway.run(&["export", "b", "-o", "/nonexistent/file"]), "cannot make a file in /nonexistent");
    said(&gateway.run(&["export", "b", "-o", "/dev/full"]), "cannot write to /dev/full: No space left");
    said(&gateway.run(&["peek", "b", "--payload", "1", "-o", "/dev/full"]), "cannot write /dev/full");
    said(&gateway.run(&["export", "none"]), "there is no stream called `none`");
    let line = gateway.folder.path().join("line");
    fs::write(&line, "{\"topic\":\"x\",\"payload\":\"\"}\n").unwrap();
    said(&gateway.run(&["import", "none", line.to_str().unwrap()]), "there is no stream called `none`");
    let admin = gateway.admin.to_string();
    said(&tidegate(&["import", "b", line.to_str().unwrap(), "--admin", &admin]), "wants a token");
    let full = format!(
        "{} export b --admin {admin} --token-file {} > /dev/full",
        env!("CARGO_BIN_EXE_tidegate"),
        gateway.token_file().display()
    );
    let done = Command::new("bash").args(["-c", &full]).output().unwrap();
    assert_eq!(done.status.code(), Some(1));
    assert!(String::from_utf8(done.stderr).unwrap().contains("cannot write to stdout: No space left"));
    // A whole file that is there stays where its successor cannot be made.
    let keep = gateway.folder.path().join("keep");
    fs::write(&keep, "old").unwrap();
    assert_eq!(gateway.run(&["export", "none", "-o", keep.to_str().unwrap()]).code, Some(1));
    assert_eq!(fs::read_to_string(&keep).unwrap(), "old");
}
