//! Settings of an uplink, checked.

use std::{fmt, path::PathBuf, time::Duration};

use crate::message::QoS;

/// One uplink to an MQTT broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Its name, for logs and metrics.
    pub name: String,
    /// Where to connect: tried in order, the first that works is used; never empty.
    pub urls: Vec<Url>,
    /// Protocol version.
    pub version: Version,
    /// MQTT client identifier.
    pub client_id: String,
    /// User name.
    pub username: Option<String>,
    /// File whose first line is the password; read at every connection, so that it can be changed without a restart.
    pub password_file: Option<PathBuf>,
    /// Certificate authorities to trust instead of the system's (PEM).
    pub ca: Option<PathBuf>,
    /// Client certificate (chain, PEM) and its private key (PEM): both or none.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Name of the protocol offered in the TLS handshake (ALPN, RFC 7301), for upstreams that tell clients on one port apart by it.
    pub alpn: Option<String>,
    /// QoS at which messages go upstream.
    pub qos: QoS,
    /// Most unacknowledged messages; 1..=65535. The upstream's Receive Maximum bounds it further.
    pub max_inflight: u16,
    /// Keep alive interval.
    pub keep_alive: Duration,
    /// Time for DNS, TCP, TLS and CONNACK together.
    pub connect_timeout: Duration,
    /// Longest time with messages in flight and no acknowledgement.
    pub progress_timeout: Duration,
    /// Bounds of the wait between tries: exponential, full jitter.
    pub backoff: Backoff,
    /// Most messages a second; 0 = no limit.
    pub messages_per_s: u64,
    /// Most bytes a second; 0 = no limit.
    pub bytes_per_s: u64,
}

impl Settings {
    /// Whether a connection of the one can go on as one of the other: they differ in what [`Settings::tune`] takes over, if in anything.
    pub fn is_only_tuned(&self, other: &Self) -> bool {
        let mut tuned = self.clone();
        tuned.tune(other);
        tuned == *other
    }

    /// Takes over what can change on a connection: the rate and the progress timeout.
    pub fn tune(&mut self, other: &Self) {
        let Self { messages_per_s, bytes_per_s, progress_timeout, .. } = other;
        (self.messages_per_s, self.bytes_per_s) = (*messages_per_s, *bytes_per_s);
        self.progress_timeout = *progress_timeout;
    }
}

/// Address of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// `mqtts://` rather than `mqtt://`.
    pub tls: bool,
    /// Host name or address, without brackets.
    pub host: String,
    /// Port; 1883 or 8883 where the URL named none.
    pub port: u16,
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

/// MQTT protocol version of an uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1.1: no properties, no Receive Maximum, no reason codes.
    V311,
    /// MQTT 5.
    V5,
}

/// Bounds of the wait between two tries to connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Upper bound of the first wait.
    pub min: Duration,
    /// Upper bound of every wait.
    pub max: Duration,
}
