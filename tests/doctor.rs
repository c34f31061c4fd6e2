//! `tidegate doctor` as a person and a script meet it: what it finds, its exit codes, that it leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by failing")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|_| panic!("no JSON: {}{}", self.stdout, self.stderr))
    }

    /// The findings whose subject has this text, as `grade: found > advice`.
    fn about(&self, subject: &str) -> Vec<String> {
        let json = self.json();
        let findings = json["findings"].as_array().unwrap().iter();
        let about = findings.filter(|finding| finding["subject"].as_str().unwrap().contains(subject));
        let text = |finding: &Value| {
            let word = |key: &str| finding[key].as_str().unwrap_or("-").to_owned();
            format!("{}: {} > {}", word("grade"), word("found"), word("advice"))
        };
        about.map(text).collect()
    }

    #[track_caller]
    fn has(&self, subject: &str, start: &str) {
        let about = self.about(subject);
        assert!(about.iter().any(|text| text.starts_with(start)), "{subject}: {about:#?}");
    }
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.arg("doctor").args(["-c", "gw.toml"]).args(arguments).current_dir(folder).env_clear();
    command.stdin(Stdio::null()).env("PATH", "/usr/bin:/bin");
    command
}

fn doctor(folder: &TempDir, arguments: &[&str]) -> Ran {
    Ran::of(command(folder.path(), arguments).output().unwrap())
}

/// A folder with this configuration, and what every one here has.
fn folder(more: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        "[gateway]\nid = \"gw\"\ndata_dir = \"data\"\n[store]\nmin_free = 0\n[admin]\nbind = \"off\"\n\
         [[listener]]\nname = \"l\"\nbind = \"127.0.0.1:0\"\n{more}"
    );
    fs::write(folder.path().join("gw.toml"), text).unwrap();
    fs::create_dir(folder.path().join("data")).unwrap();
    fs::set_permissions(folder.path().join("data"), fs::Permissions::from_mode(0o700)).unwrap();
    folder
}

fn uplink(url: &str) -> String {
    format!("[[uplink]]\nname = \"cloud\"\nurl = \"{url}\"\n[[stream]]\nname = \"s\"\nfrom = [\"#\"]\nto = \"cloud\"\n")
}

/// An upstream that reads once and says these bytes, then waits for the end; what it read.
fn upstream(answer: &'static [u8]) -> (SocketAddr, thread::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut came = vec![0; 4096];
        let count = stream.read(&mut came).unwrap();
        came.truncate(count);
        stream.write_all(answer).unwrap();
        let mut rest = Vec::new();
        // A reset is an end, too.
        let _ = stream.read_to_end(&mut rest);
        came.extend(rest);
        came
    };
    (address, thread::spawn(serve))
}

#[test]
fn the_json_has_findings_counts_and_the_figures_of_the_disk() {
    let folder = folder("");
    let ran = doctor(&folder, &["--json"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{}", ran.stdout);
    let json = ran.json();
    let findings = json["findings"].as_array().unwrap();
    let counted: u64 =
        ["ok", "note", "warning", "failed"].iter().map(|grade| json["counts"][grade].as_u64().unwrap()).sum();
    assert_eq!(counted, findings.len() as u64);
    for finding in findings {
        let keys: Vec<&str> = finding.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["advice", "check", "figures", "found", "grade", "subject"]);
    }
    for check in ["configuration", "gateway", "data", "disk", "listeners", "tls", "uplinks", "clock", "system"] {
        assert!(findings.iter().any(|finding| finding["check"] == check), "{check} is missing");
    }
    let figures = findings.iter().map(|finding| &finding["figures"]).find(|figures| !figures.is_null()).unwrap();
    assert!(figures["alone"]["messages_per_s"].as_f64().unwrap() > 0.0 && figures["synced"] == true, "{figures}");
    assert!(figures["written_bytes"].as_u64().unwrap() < 40 << 20, "{figures}");
    assert_eq!(fs::read_dir(folder.path().join("data")).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn text_fits_eighty_columns_and_ends_with_the_worst() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap();
    let folder = folder(&format!("[[listener]]\nname = \"taken\"\nbind = \"{taken}\"\n"));
    fs::set_permissions(folder.path().join("data"), fs::Permissions::from_mode(0o755)).unwrap();
    let ran = doctor(&folder, &["--only", "listeners,data"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stdout.lines().all(|line| line.chars().count() <= 80), "{}", ran.stdout);
    assert!(!ran.stdout.contains('\u{1b}') && !ran.stdout.contains("disk\n"));
    let wrong = ran.stdout.split("what is wrong\n").nth(1).unwrap();
    let lines: Vec<&str> = wrong.lines().collect();
    assert!(wrong.starts_with("  warning  data: mode 0755"), "{wrong}");
    assert!(wrong.contains(&format!("  FAILED   listener taken, {taken}: in use by ")), "{wrong}");
    assert!(lines.last().unwrap().starts_with("1 failure, "), "{wrong}");
}

#[test]
fn warnings_fail_only_where_that_is_asked_for() {
    let folder = folder("");
    fs::set_permissions(folder.path().join("data"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(doctor(&folder, &["--only", "data"]).code, Some(0));
    assert_eq!(doctor(&folder, &["--only", "data", "--strict"]).code, Some(1));
}

#[test]
fn a_refused_configuration_is_78_with_all_its_problems_and_what_can_be_seen_without_it() {
    let folder = folder("[store]\ndurabilty = 1\n[log]\nlevel = \"loud\"\n");
    let text = fs::read_to_string(folder.path().join("gw.toml")).unwrap().replacen("[store]\nmin_free = 0\n", "", 1);
    fs::write(folder.path().join("gw.toml"), text).unwrap();
    let ran = doctor(&folder, &["--json"]);
    assert_eq!(ran.code, Some(78), "{}", ran.stdout);
    ran.has("durabilty", "failed: ");
    ran.has("log.level", "failed: ");
    ran.has("system clock", "ok: ");
    assert!(ran.about("one publisher").is_empty());
    fs::write(folder.path().join("gw.toml"), b"\xff\x00garbage").unwrap();
    assert_eq!(doctor(&folder, &["--json"]).code, Some(78));
    fs::remove_file(folder.path().join("gw.toml")).unwrap();
    assert_eq!(doctor(&folder, &[]).code, Some(78));
}

#[test]
fn a_wrong_command_line_is_2() {
    let folder = folder("");
    for wrong in [["--only", "dsk"], ["--timeout", "0s"], ["--timeout", "1y"], ["--frob", "x"]] {
        let ran = doctor(&folder, &wrong);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{wrong:?}");
        assert!(ran.stderr.contains("error: "), "{}", ran.stderr);
    }
}

#[test]
fn an_upstream_that_refuses_the_login_is_told_with_its_reason() {
    let (address, _) = upstream(b"\x20\x03\x00\x86\x00");
    let ran = doctor(&folder(&uplink(&format!("mqtt://{address}"))), &["--json", "--only", "uplinks"]);
    assert_eq!(ran.code, Some(1));
    ran.has("TCP", "ok: ");
    ran.has("login", "failed: refused: bad user name or password (code 0x86) > correct `username`");
}

#[test]
fn a_probe_has_a_client_id_of_its_own_and_says_good_bye() {
    // Receive Maximum 20, Maximum QoS 0, Maximum Packet Size 1024, Retain Available 0, Server Keep Alive 5.
    let limits = b"\x20\x12\x00\x00\x0f\x21\x00\x14\x24\x00\x27\x00\x00\x04\x00\x25\x00\x13\x00\x05";
    let (address, served) = upstream(limits);
    let ran = doctor(&folder(&uplink(&format!("mqtt://{address}"))), &["--json", "--only", "uplinks"]);
    let came = served.join().unwrap();
    let text = String::from_utf8_lossy(&came);
    assert!(text.contains("gw-doctor-"), "{text:?}");
    // CONNECT with clean start, and DISCONNECT at the end.
    assert!(came[9] & 2 == 2 && came.ends_with(b"\xe0\x00"), "{came:?}");
    ran.has("login", "ok: the upstream let \"gw-doctor-");
    ran.has("limits", "note: takes 20 unacknowledged messages");
    ran.has("limits", "warning: takes QoS 0 at most");
    ran.has("limits", "warning: takes packets of 1KiB at most");
    ran.has("limits", "note: keeps no retained messages");
    ran.has("limits", "note: wants a keep alive of 5 s");
}

#[test]
fn every_way_of_not_answering_has_its_own_advice() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (web, _) = upstream(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    let urls = [
        format!("mqtt://{}", silent.local_addr().unwrap()),
        format!("mqtt://{free}"),
        format!("mqtt://{web}"),
        "mqtt://no-such-host.invalid".to_owned(),
    ];
    let listed = format!("urls = {urls:?}");
    let folder = folder(&uplink("x").replace("url = \"x\"", &listed));
    let ran = doctor(&folder, &["--json", "--only", "uplinks", "--timeout", "2s"]);
    assert_eq!(ran.code, Some(1));
    ran.has(
        &format!("{}, login", urls[0]),
        "failed: CONNECT: no answer within 2s > connected, but no answer to CONNECT",
    );
    ran.has(
        &format!("{}, TCP", urls[1]),
        "failed: no connection: Connection refused (os error 111) > the machine is there",
    );
    ran.has(&format!("{}, login", urls[2]), "failed: ");
    ran.has("no-such-host.invalid:1883, DNS", "failed: ");
}

#[test]
fn a_young_database_that_is_in_its_log_alone_is_not_called_unfinished() {
    let folder = folder("");
    let database = folder.path().join("data/tidegate.db");
    fs::create_dir_all(database.parent().unwrap()).unwrap();
    // As after a `kill -9`: the first page is there without our mark, all else in the log.
    let mut page = vec![0; 4096];
    page[..16].copy_from_slice(b"SQLite format 3\0");
    fs::write(&database, &page).unwrap();
    fs::write(folder.path().join("data/tidegate.db-wal"), [1; 8192]).unwrap();
    let look = || Ran::of(command(folder.path(), &["--only", "data", "--json"]).output().unwrap());
    look().has("tidegate.db", "note: all of it is still in its log");
    fs::remove_file(folder.path().join("data/tidegate.db-wal")).unwrap();
    look().has("tidegate.db", "note: is empty");
}

#[test]
fn a_trial_that_is_interrupted_leaves_nothing_behind() {
    let folder = folder("");
    let mut child =
        command(folder.path(), &["--only", "disk"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let data = folder.path().join("data");
    let deadline = Instant::now() + Duration::from_secs(30);
    while fs::read_dir(&data).unwrap().count() == 0 && child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "the trial does not begin");
        thread::yield_now();
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!(ran.code, Some(1));
    assert_eq!(ran.stderr, "tidegate: stopped before everything was looked at\n");
    assert_eq!(fs::read_dir(&data).unwrap().count(), 0);
}
