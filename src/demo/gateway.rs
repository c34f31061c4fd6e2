//! The gateway under demonstration: this very program as a process of its own, with a configuration file, started,
//! asked over HTTP, and killed.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Read, Seek, SeekFrom},
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{Error, upstream::free_port};

/// How long the gateway may take until it is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take to stop in order.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one HTTP request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// Most of an answer that is read.
const MAX_ANSWER_BYTES: u64 = 1024 * 1024;
/// How much of the end of the gateway's log an error shows.
const LOG_TAIL_BYTES: u64 = 2048;

/// The gateway: its folder, its ports, and its process while it runs.
pub(super) struct Gateway {
    /// Before `folder`, so that nobody writes there any more when the folder is removed.
    process: Option<Process>,
    folder: tempfile::TempDir,
    /// Where sensors connect.
    pub(super) mqtt: SocketAddr,
    /// Where it is asked.
    admin: SocketAddr,
}

/// A running gateway process. Dropping it kills it and waits until it is gone.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the demo wants to know of the stream.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) struct StreamFigures {
    pub(super) accepted: u64,
    pub(super) forwarded: u64,
    pub(super) expired: u64,
    pub(super) dropped: u64,
    pub(super) dead: u64,
    pub(super) purged: u64,
    pub(super) backlog: BacklogFigures,
}

/// What waits in the stream.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(super) struct BacklogFigures {
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

impl Gateway {
    /// Writes the configuration into a new folder; nothing runs yet.
    pub(super) fn prepare(upstream: SocketAddr) -> Result<Self, Error> {
        let io = |what: &'static str| move |source| Error::Io { what, source };
        let folder = tempfile::Builder::new()
            .prefix("tidegate-demo-")
            .tempdir()
            .map_err(io("make a folder for the gateway's data"))?;
        let mqtt = free_port().map_err(io("find a free port"))?;
        let admin = free_port().map_err(io("find a free port"))?;
        let gateway = Self { process: None, folder, mqtt, admin };
        fs::write(gateway.config_file(), gateway.configuration(upstream))
            .map_err(io("write the gateway's configuration"))?;
        Ok(gateway)
    }

    /// The configuration, as a user would write it.
    fn configuration(&self, upstream: SocketAddr) -> String {
        let Self { mqtt, admin, .. } = self;
        let data_dir = self.data_dir();
        format!(
            r#"# Written by `tidegate demo`.
[gateway]
id = "demo"
data_dir = '{}'

[store]
durability = "full"
min_free = "16MiB"

[[listener]]
name = "sensors"
bind = "{mqtt}"

[[uplink]]
name = "upstream"
url = "mqtt://{upstream}"
version = "5"
qos = 1
backoff = {{ min = "100ms", max = "1s" }}

[[stream]]
name = "telemetry"
from = ["sensors/#"]
to = "upstream"
topic = "{{gateway}}/{{topic}}"

[admin]
bind = "{admin}"
"#,
            data_dir.display()
        )
    }

    fn config_file(&self) -> PathBuf {
        self.folder.path().join("tidegate.toml")
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("gateway.log")
    }

    /// Where the gateway keeps its messages.
    pub(super) fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Starts the process and waits until it is ready. Returns how long that took.
    pub(super) async fn start(&mut self) -> Result<Duration, Error> {
        let begin = Instant::now();
        self.process = Some(self.spawn().map_err(|source| Error::Io { what: "start the gateway", source })?);
        while begin.elapsed() < READY_TIMEOUT {
            if let Some(status) = self.exited()? {
                return Err(self.fault(format!("the gateway ended while starting ({status})")));
            }
            if self.get("/health/ready").await.is_ok() {
                return Ok(begin.elapsed());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Err(self.fault(format!("the gateway was not ready after {} s", READY_TIMEOUT.as_secs())))
    }

    fn spawn(&self) -> io::Result<Process> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_file())?;
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args([OsStr::new("run"), OsStr::new("-c"), self.config_file().as_os_str()])
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C on the terminal is for the demo, which then ends the gateway itself.
            .process_group(0);
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_ours(name)) {
            command.env_remove(name);
        }
        command.spawn().map(Process)
    }

    /// The process id, while it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.0.id())
    }

    /// `kill -9`, and waits until the process is gone.
    pub(super) fn kill(&mut self) {
        self.process = None;
    }

    /// SIGTERM, and waits for an orderly end.
    pub(super) async fn stop(&mut self) -> Result<(), Error> {
        let pid = self.pid().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM)
                .map_err(|e| Error::Io { what: "send SIGTERM to the gateway", source: e.into() })?;
        }
        let begin = Instant::now();
        while begin.elapsed() < STOP_TIMEOUT {
            match self.exited()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(self.fault(format!("the gateway did not end in order ({status})"))),
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
        Err(self.fault(format!("the gateway did not end within {} s of SIGTERM", STOP_TIMEOUT.as_secs())))
    }

    /// An error if the process has ended by itself.
    pub(super) fn check(&mut self) -> Result<(), Error> {
        match self.exited()? {
            Some(status) => Err(self.fault(format!("the gateway ended by itself ({status})"))),
            None => Ok(()),
        }
    }

    fn exited(&mut self) -> Result<Option<ExitStatus>, Error> {
        let Some(process) = &mut self.process else { return Ok(None) };
        process.0.try_wait().map_err(|source| Error::Io { what: "look after the gateway", source })
    }

    /// The books of the stream, over HTTP.
    pub(super) async fn figures(&self) -> Result<StreamFigures, Error> {
        let body = self.get("/api/v1/streams/telemetry").await.map_err(|e| self.fault(e))?;
        serde_json::from_str(&body).map_err(|e| self.fault(format!("the gateway's figures make no sense: {e}")))
    }

    /// Resident memory in bytes, as the gateway's own metrics have it; `None` where the system does not tell.
    pub(super) async fn resident_bytes(&self) -> Result<Option<u64>, Error> {
        let metrics = self.get("/metrics").await.map_err(|e| self.fault(e))?;
        let figure = metrics.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
        Ok(figure.and_then(|figure| figure.parse().ok()))
    }

    /// The body of a 200 answer.
    async fn get(&self, path: &str) -> Result<String, String> {
        let request = async {
            let mut stream = TcpStream::connect(self.admin).await?;
            let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.admin);
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.take(MAX_ANSWER_BYTES).read_to_string(&mut answer).await?;
            io::Result::Ok(answer)
        };
        let answer = tokio::time::timeout(REQUEST_TIMEOUT, request)
            .await
            .map_err(|_| format!("GET {path} was not answered within {} s", REQUEST_TIMEOUT.as_secs()))?
            .map_err(|e| format!("GET {path} failed: {e}"))?;
        match answer.split_once("\r\n\r\n") {
            Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.to_owned()),
            _ => Err(format!("GET {path} was answered with {:?}", answer.lines().next().unwrap_or_default())),
        }
    }

    /// The end of its log.
    pub(super) fn log_tail(&self) -> String {
        tail(&self.log_file())
    }

    fn fault(&self, what: impl Into<String>) -> Error {
        Error::Gateway { what: what.into(), log: self.log_tail() }
    }
}

/// Variables that would change the gateway behind the demo's back.
fn is_ours(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with("TIDEGATE__")
        || ["NOTIFY_SOCKET", "WATCHDOG_USEC", "STATE_DIRECTORY", "RUST_LOG"].contains(&&*name)
}

/// The end of a file, as far as it can be read.
fn tail(path: &Path) -> String {
    let read = || {
        let mut file = fs::File::open(path)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(LOG_TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
        io::Result::Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_else(|e| format!("(its log cannot be read: {e})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn the_configuration_is_one_that_a_user_could_write() {
        let gateway = Gateway::prepare("127.0.0.1:4711".parse().unwrap()).unwrap();
        let inputs = config::Inputs { file: Some(gateway.config_file()), ..config::Inputs::default() };
        let config = config::load_from(&inputs).unwrap();
        assert!(config.warnings.is_empty(), "{:?}", config.warnings);
        assert_eq!(config.admin.bind, Some(gateway.admin));
        assert_eq!(config.store.data_dir, gateway.data_dir());
    }
}
