//! The running gateway, as the commands talk to it: through `[admin]`, one request a connection.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request,
    body::Bytes,
    client::conn::http1,
    header::{AUTHORIZATION, HOST},
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpStream, time::timeout};

use super::{
    finish, print, refuse,
    reload::problems,
    words::{printable, printable_json},
};
use crate::{
    admin,
    config::{self, Refused},
    named_file::{self, Content},
};

/// Longest wait for the whole of an answer; the gateway itself gives up after 5 s.
const PATIENCE: Duration = Duration::from_secs(15);

/// The same where much is to be stored: the gateway gives up after 30 s for the lines and 30 s for the disk.
const LONG_PATIENCE: Duration = Duration::from_secs(90);

/// Largest answer: a page of dead letters, or one with its payload.
const MAX_ANSWER_BYTES: usize = 512 << 20;

/// Where the gateway is, and how to show what it says.
#[derive(Debug, Args)]
pub(super) struct Door {
    /// Configuration file of the gateway, which says where `[admin]` is [default: /etc/tidegate/tidegate.toml, if it is there]
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Address of `[admin]`; the configuration is not read then
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(super) admin: Option<SocketAddr>,
    /// File whose first line is the token [default: `token_file` of `[admin]`]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Prints the gateway's JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Why a command failed.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The configuration is refused.
    Config(Refused),
    /// Anything else.
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// Runs a command and gives its exit code.
pub(super) fn outcome(result: Result<(), Trouble>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Trouble::Config(refused)) => refuse(&refused),
        Err(Trouble::Failed(error)) => finish(Err(error)),
    }
}

/// A way to the gateway.
#[derive(Debug)]
pub(super) struct Gateway {
    address: SocketAddr,
    token: Option<String>,
}

impl Door {
    /// Finds out where the gateway is.
    pub(super) fn open(&self) -> Result<Gateway, Trouble> {
        if let Some(address) = self.admin {
            return Ok(Gateway::at(address, self.token_file.clone())?);
        }
        self.open_with(config::load_beside(self.config.as_deref()).map_err(Trouble::Config)?.admin)
    }

    /// The same, of a configuration that was read already.
    pub(super) fn open_with(&self, admin: admin::Settings) -> Result<Gateway, Trouble> {
        let token_file = self.token_file.clone().or(admin.token_file);
        Ok(Gateway::of(&admin::Settings { token_file, ..admin })?)
    }

    /// Prints an answer as JSON, or in words.
    pub(super) fn show(&self, answer: &Value, words: impl FnOnce(&Value) -> String) {
        print(&if self.json { printable_json(answer) + "\n" } else { words(answer) });
    }
}

/// What listens on every address is reached on loopback.
pub(super) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, address.port())
}

impl Gateway {
    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The gateway that these settings are of.
    pub(super) fn of(admin: &admin::Settings) -> anyhow::Result<Self> {
        let bind = admin.bind.context("the configuration has `[admin] bind = \"off\"`: there is nothing to ask")?;
        Self::at(bind, admin.token_file.clone())
    }

    fn at(address: SocketAddr, token_file: Option<PathBuf>) -> anyhow::Result<Self> {
        if address.port() == 0 {
            bail!("`[admin] bind` leaves the port to the system; say which it is with --admin");
        }
        let token = token_file.map(|file| {
            let (bytes, _) = named_file::read(&file, Content::Secret)
                .map_err(|problem| anyhow!("the token file {}: {problem}", file.display()))?;
            let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
            Ok::<_, anyhow::Error>(String::from_utf8_lossy(line.trim_ascii()).into_owned())
        });
        Ok(Self { address: reachable(address), token: token.transpose()? })
    }

    pub(super) fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.ask(&Method::GET, path)
    }

    /// The same, as it came.
    pub(super) fn get_bytes(&self, path: &str) -> anyhow::Result<Bytes> {
        let (status, body) = self.exchange(&Method::GET, path, Bytes::new(), PATIENCE)?;
        if (200..300).contains(&status) { Ok(body) } else { self.understand(status, &body).map(|_| body) }
    }

    /// Whatever it answers, refusals too, with their status.
    pub(super) fn post_lines(&self, path: &str, lines: Bytes) -> anyhow::Result<(u16, Value)> {
        let (status, body) = self.exchange(&Method::POST, path, lines, LONG_PATIENCE)?;
        match serde_json::from_slice(&body) {
            Ok(answer @ Value::Object(_)) if [200, 507].contains(&status) => Ok((status, answer)),
            Ok(_) | Err(_) => self.understand(status, &body).map(|answer| (status, answer)),
        }
    }

    /// Why it is not ready, in its words; nothing where it is.
    pub(super) fn not_ready(&self) -> anyhow::Result<Vec<String>> {
        let (_, answer) = self.answer("/health/ready")?;
        Ok(answer["reasons"].as_array().into_iter().flatten().filter_map(|why| why.as_str().map(printable)).collect())
    }

    pub(super) fn post(&self, path: &str) -> anyhow::Result<Value> {
        self.ask(&Method::POST, path)
    }

    /// The same for what may take the gateway a while.
    pub(super) fn post_patiently(&self, path: &str) -> anyhow::Result<Value> {
        let (status, body) = self.exchange(&Method::POST, path, Bytes::new(), LONG_PATIENCE)?;
        self.understand(status, &body)
    }

    pub(super) fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.ask(&Method::DELETE, path)
    }

    /// Asks and gives the JSON of the answer; what the gateway refuses is an error in its own words.
    fn ask(&self, method: &Method, path: &str) -> anyhow::Result<Value> {
        let (status, body) = self.exchange(method, path, Bytes::new(), PATIENCE)?;
        self.understand(status, &body)
    }

    /// Asks, and gives the status and JSON of the answer, whatever it is.
    pub(super) fn answer(&self, path: &str) -> anyhow::Result<(u16, Value)> {
        let (status, body) = self.exchange(&Method::GET, path, Bytes::new(), PATIENCE)?;
        Ok((status, self.json(&body)?))
    }

    fn json(&self, body: &[u8]) -> anyhow::Result<Value> {
        serde_json::from_slice(body)
            .with_context(|| format!("what listens on {} is no gateway's admin interface", self.address))
    }

    fn exchange(&self, method: &Method, path: &str, body: Bytes, patience: Duration) -> anyhow::Result<(u16, Bytes)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
        let asked = runtime.block_on(async { timeout(patience, self.converse(method, path, body)).await });
        let no_answer = || anyhow!("the gateway at {} did not answer within {} s", self.address, patience.as_secs());
        asked.map_err(|_| no_answer())?
    }

    /// The JSON of an answer; what the gateway refuses is an error in its own words.
    fn understand(&self, status: u16, body: &[u8]) -> anyhow::Result<Value> {
        let answer = self.json(body)?;
        if (200..300).contains(&status) {
            return Ok(answer);
        }
        match answer["error"]["message"].as_str() {
            Some(_) if status == 401 && self.token.is_some() => {
                bail!(
                    "the gateway at {} refuses the token: it is not the one that it read from its `token_file` when it started",
                    self.address
                )
            }
            Some(_) if status == 401 => {
                bail!("the gateway at {} wants a token: give --token-file", self.address)
            }
            Some(message) => bail!("{}{}", printable(&in_commands(message)), problems(&answer["error"])),
            None => bail!("the gateway at {} answered {status}", self.address),
        }
    }

    async fn converse(&self, method: &Method, path: &str, body: Bytes) -> anyhow::Result<(u16, Bytes)> {
        let address = self.address;
        let stream = TcpStream::connect(address).await.map_err(|error| {
            if error.kind() == ErrorKind::ConnectionRefused {
                anyhow!("no gateway runs here: nothing listens on {address} (`[admin] bind`)")
            } else {
                anyhow!("the gateway cannot be reached at {address}: {error}")
            }
        })?;
        let broken = || format!("the connection to the gateway at {address} broke");
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.with_context(broken)?;
        let connection = tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(HOST, address.to_string());
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body)).context("this cannot be asked")?;
        let response = sender.send_request(request).await.with_context(broken)?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| anyhow!("the gateway's answer cannot be read: {error}"))?.to_bytes();
        connection.abort();
        Ok((status, body))
    }
}

/// What the HTTP interface advises, as commands.
fn in_commands(message: &str) -> String {
    message
        .replace("GET /api/v1/streams lists them", "`tidegate streams` lists them")
        .replace("GET /api/v1/dead lists them", "`tidegate dead list` lists them")
}

/// A stream's name on the command line.
pub(super) fn stream_name(text: &str) -> Result<String, &'static str> {
    let known = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let is_name = (1..=64).contains(&text.len()) && text.chars().all(known);
    if is_name { Ok(text.to_owned()) } else { Err("the name of a stream is 1 to 64 of A-Z a-z 0-9 _ . -") }
}

/// A text in a query: everything but letters, digits and `-._~` encoded (RFC 3986, section 2.3).
pub(super) fn in_query(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_listens_everywhere_is_asked_on_loopback() {
        let to = |address: &str| reachable(address.parse().unwrap()).to_string();
        assert_eq!(to("0.0.0.0:9883"), "127.0.0.1:9883");
        assert_eq!(to("[::]:9883"), "[::1]:9883");
        assert_eq!(to("192.168.0.9:1"), "192.168.0.9:1");
    }

    #[test]
    fn texts_in_queries_are_encoded() {
        assert_eq!(in_query("2026-11-21T10:00:00+01:00 é"), "2026-11-21T10%3A00%3A00%2B01%3A00%20%C3%A9");
    }
}
