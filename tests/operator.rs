//! The commands of an operator against a running gateway: what they do, print, and exit with.

#![allow(clippy::unwrap_used, reason = "a test says what is wrong by failing")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

/// Longest wait for anything that is to happen.
const PATIENCE: Duration = Duration::from_secs(60);

const TOKEN: &str = "s3cret";

/// A running gateway and the folder of its configuration.
struct Gateway {
    folder: TempDir,
    child: Child,
    log: mpsc::Receiver<String>,
    mqtt: SocketAddr,
    admin: SocketAddr,
}

struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// The streams of the first configuration; a message goes into the one of its first level.
const STREAMS: &str = "\
[[stream]]
name = \"a\"
from = [\"a/#\"]
to = \"cloud\"
[[stream]]
name = \"b\"
from = [\"b/#\"]
";

fn config(upstream: SocketAddr, streams: &str) -> String {
    format!(
        "[gateway]\nid = \"gw\"\ndata_dir = \"data\"\n[store]\nmin_free = 0\n[[listener]]\nname = \"l\"\nbind = \"127.0.0.1:0\"\n\
         [[uplink]]\nname = \"cloud\"\nurl = \"mqtt://{upstream}\"\n{streams}\
         [admin]\nbind = \"127.0.0.1:0\"\ntoken_file = \"token\"\n[log]\nformat = \"json\"\n"
    )
}

/// An upstream that takes packets of at most 60 bytes, and acknowledges nothing.
fn narrow_upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut sink = [0; 4096];
                // CONNECT is answered with success and Maximum Packet Size 60 (MQTT 5, section 3.2.2.3.6).
                if matches!(stream.read(&mut sink), Ok(1..)) {
                    stream.write_all(&[0x20, 8, 0, 0, 5, 0x27, 0, 0, 0, 60]).unwrap();
                }
                while matches!(stream.read(&mut sink), Ok(1..)) {}
            });
        }
    });
    address
}

impl Gateway {
    fn start(upstream: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("token"), TOKEN).unwrap();
        Self::start_in(folder, &config(upstream, STREAMS))
    }

    fn start_in(folder: TempDir, config: &str) -> Self {
        let file = folder.path().join("tidegate.toml");
        fs::write(&file, config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
        let mut child = command.args(["run", "-c"]).arg(&file).env_clear().stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (say, log) = mpsc::sync_channel(10_000);
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| say.send(line)));
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut gateway = Self { folder, child, log, mqtt: nowhere, admin: nowhere };
        gateway.mqtt = gateway.logged("listening", "bind");
        gateway.admin = gateway.logged("admin listens", "address");
        gateway
    }

    /// A field of the next line with this message, an address.
    fn logged(&self, message: &str, field: &str) -> SocketAddr {
        loop {
            let line = self.log.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("never logged: {message}"));
            let line: Value = serde_json::from_str(&line).unwrap_or_default();
            let fields = if line["fields"].is_object() { &line["fields"] } else { &line };
            if fields["message"] == message {
                return fields[field].as_str().unwrap().parse().unwrap();
            }
        }
    }

    /// Stops it in order and starts it with another configuration.
    fn restart(mut self, config: &str) -> Self {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap());
        Self::start_in(folder, config)
    }

    fn token_file(&self) -> PathBuf {
        self.folder.path().join("token")
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        let (admin, token) = (self.admin.to_string(), self.token_file().display().to_string());
        tidegate(&[arguments, &["--admin", &admin, "--token-file", &token]].concat())
    }

    /// What a command that works prints as JSON.
    fn json(&self, arguments: &[&str]) -> Value {
        let ran = self.run(&[arguments, &["--json"]].concat());
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{arguments:?}");
        serde_json::from_str(&ran.stdout).unwrap()
    }

    /// A stream as `tidegate streams` shows it.
    fn stream(&self, name: &str) -> Value {
        let streams = self.json(&["streams"])["streams"].take();
        let found = streams.as_array().unwrap().iter().find(|stream| stream["name"] == name).cloned();
        found.unwrap_or_else(|| panic!("no stream {name} in {streams}"))
    }

    /// Publishes to a topic at QoS 1 and waits for each acknowledgement (MQTT 3.1.1).
    fn publish(&self, topic: &str, payloads: &[&str]) {
        let mut stream = TcpStream::connect(self.mqtt).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01t").unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [0x20, 2, 0, 0]);
        for payload in payloads {
            let rest = 2 + topic.len() + 2 + payload.len();
            let mut packet = vec![0x32, u8::try_from(rest).unwrap(), 0, u8::try_from(topic.len()).unwrap()];
            packet.extend_from_slice(topic.as_bytes());
            packet.extend_from_slice(&[0, 1]);
            packet.extend_from_slice(payload.as_bytes());
            stream.write_all(&packet).unwrap();
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(answer, [0x40, 2, 0, 1]);
        }
    }

    /// Waits until something is so.
    fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(Instant::now() < deadline, "never: {what}");
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command with nothing of this process's environment in it.
fn tidegate(arguments: &[&str]) -> Ran {
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_tidegate")).args(arguments).env_clear().output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

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
