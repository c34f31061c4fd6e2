//! Support: a gateway that runs, and the program's commands against it.

#![allow(dead_code, reason = "not every target that is made with this needs all of it")]

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
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const TOKEN: &str = "s3cret";

/// A running gateway and the folder of its configuration.
pub(crate) struct Gateway {
    pub(crate) folder: TempDir,
    pub(crate) child: Child,
    pub(crate) log: mpsc::Receiver<String>,
    pub(crate) mqtt: SocketAddr,
    pub(crate) admin: SocketAddr,
}

pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The streams of the first configuration; a message goes into the one of its first level.
pub(crate) const STREAMS: &str = "\
[[stream]]
name = \"a\"
from = [\"a/#\"]
to = \"cloud\"
[[stream]]
name = \"b\"
from = [\"b/#\"]
";

pub(crate) fn config(upstream: SocketAddr, streams: &str) -> String {
    format!(
        "[gateway]\nid = \"gw\"\ndata_dir = \"data\"\n[store]\nmin_free = 0\n[[listener]]\nname = \"l\"\nbind = \"127.0.0.1:0\"\n\
         [[uplink]]\nname = \"cloud\"\nurl = \"mqtt://{upstream}\"\n{streams}\
         [admin]\nbind = \"127.0.0.1:0\"\ntoken_file = \"token\"\n[log]\nformat = \"json\"\n"
    )
}

/// An upstream that takes packets of at most 60 bytes, and acknowledges nothing.
pub(crate) fn narrow_upstream() -> SocketAddr {
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
    pub(crate) fn start(upstream: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("token"), TOKEN).unwrap();
        Self::start_in(folder, &config(upstream, STREAMS))
    }

    pub(crate) fn start_in(folder: TempDir, config: &str) -> Self {
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
    pub(crate) fn logged(&self, message: &str, field: &str) -> SocketAddr {
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
    pub(crate) fn restart(mut self, config: &str) -> Self {
        self.stop();
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap());
        Self::start_in(folder, config)
    }

    /// Stops it in order.
    pub(crate) fn stop(&mut self) {
        let pid = rustix::process::Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }

    /// Kills it as a crash would.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Its configuration.
    pub(crate) fn config_file(&self) -> String {
        self.folder.path().join("tidegate.toml").display().to_string()
    }

    pub(crate) fn token_file(&self) -> PathBuf {
        self.folder.path().join("token")
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        let (admin, token) = (self.admin.to_string(), self.token_file().display().to_string());
        tidegate(&[arguments, &["--admin", &admin, "--token-file", &token]].concat())
    }

    /// What a command that works prints as JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let ran = self.run(&[arguments, &["--json"]].concat());
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{arguments:?}");
        serde_json::from_str(&ran.stdout).unwrap()
    }

    /// A stream as `tidegate streams` shows it.
    pub(crate) fn stream(&self, name: &str) -> Value {
        let streams = self.json(&["streams"])["streams"].take();
        let found = streams.as_array().unwrap().iter().find(|stream| stream["name"] == name).cloned();
        found.unwrap_or_else(|| panic!("no stream {name} in {streams}"))
    }

    /// Publishes to a topic at QoS 1 and waits for each acknowledgement (MQTT 3.1.1).
    pub(crate) fn publish(&self, topic: &str, payloads: &[&str]) {
        let mut stream = TcpStream::connect(self.mqtt).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01t").unwrap();
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, [0x20, 2, 0, 0]);
        for payload in payloads {
            let rest = 2 + topic.len() + 2 + payload.len();
            let mut packet = vec![0x32];
            // Remaining Length (MQTT 3.1.1, section 2.2.3) in two bytes where one does not do.
            match rest {
                0..128 => packet.push(u8::try_from(rest).unwrap()),
                _ => packet.extend([u8::try_from(rest % 128 + 128).unwrap(), u8::try_from(rest / 128).unwrap()]),
            }
            packet.extend(u16::try_from(topic.len()).unwrap().to_be_bytes());
            packet.extend_from_slice(topic.as_bytes());
            packet.extend_from_slice(&[0, 1]);
            packet.extend_from_slice(payload.as_bytes());
            stream.write_all(&packet).unwrap();
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(answer, [0x40, 2, 0, 1]);
        }
    }

    /// Waits until something is so.
    pub(crate) fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
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

/// Runs a command with nothing of this process's environment in it, on 80 columns.
pub(crate) fn tidegate(arguments: &[&str]) -> Ran {
    run_with(arguments, &[("COLUMNS", "80")])
}

/// The same with this environment.
pub(crate) fn run_with(arguments: &[&str], environment: &[(&str, &str)]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    let Output { status, stdout, stderr } =
        command.args(arguments).env_clear().envs(environment.iter().copied()).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}
