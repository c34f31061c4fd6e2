//! Settings of the broker, checked.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use super::access::{Rules, Users};
use crate::intake::QueueLimits;

pub use crate::intake::WhenFull;

/// The whole broker.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// Where clients connect, in configuration order.
    pub listeners: Vec<ListenerSettings>,
    /// Who may, and what.
    pub access: AccessSettings,
}

/// Who may connect, publish and subscribe.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AccessSettings {
    /// Users and their passwords, made by `tidegate passwd`.
    pub password_file: Option<PathBuf>,
    /// What was in it.
    pub users: Option<Arc<Users>>,
    /// Rules of who may publish and subscribe what; without it everybody may everything.
    pub acl_file: Option<PathBuf>,
    /// What was in it.
    pub rules: Option<Arc<Rules>>,
}

/// One listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerSettings {
    /// Its name, for logs and metrics.
    pub name: String,
    /// Where it listens.
    pub bind: Bind,
    /// What carries MQTT on its sockets.
    pub transport: Transport,
    /// TLS on its sockets.
    pub tls: Option<TlsSettings>,
    /// Over WebSocket: the origins whose web pages may connect, `*` for any. Empty: any, but on an anonymous listener on
    /// loopback only pages of this machine.
    pub origins: Vec<String>,
    /// Mode of the socket file, where it is a unix socket.
    pub unix_mode: u32,
    /// Whether clients may connect without a name and password.
    pub anonymous: bool,
    /// Most clients at the same time.
    pub max_connections: usize,
    /// Largest packet taken from a client, in bytes, fixed header included (MQTT 5: Maximum Packet Size).
    pub max_packet: u32,
    /// Most unacknowledged QoS 1 and 2 messages of one client (MQTT 5: Receive Maximum); at least 1.
    pub max_inflight: u16,
    /// Most subscriptions of one client.
    pub max_subscriptions: usize,
    /// Most messages that wait for one client that is away or slow; zero = no limit.
    pub max_queued_messages: u64,
    /// Most bytes of such messages; zero = no limit.
    pub max_queued_bytes: u64,
    /// What happens to a message that would exceed these.
    pub queue_when_full: WhenFull,
    /// Most messages a second that one client may publish; zero = no limit.
    pub max_publish_rate: u32,
    /// Longest keep alive of a client in seconds (MQTT 5: Server Keep Alive); zero = no limit.
    pub max_keep_alive_s: u16,
}

impl ListenerSettings {
    /// What may wait for one client whose session outlives its connection.
    pub(crate) fn queue_limits(&self) -> QueueLimits {
        QueueLimits {
            max_messages: self.max_queued_messages,
            max_bytes: self.max_queued_bytes,
            when_full: self.queue_when_full,
        }
    }

    /// A listener with the defaults of everything else.
    pub fn new(name: impl Into<String>, bind: Bind) -> Self {
        let anonymous = match &bind {
            Bind::Tcp(address) => match address.ip() {
                IpAddr::V4(ip) => ip.is_loopback(),
                IpAddr::V6(ip) => ip.is_loopback(),
            },
            Bind::Unix(_) => true,
        };
        Self {
            name: name.into(),
            bind,
            transport: Transport::Tcp,
            tls: None,
            origins: Vec::new(),
            unix_mode: DEFAULT_UNIX_MODE,
            anonymous,
            max_connections: DEFAULT_MAX_CONNECTIONS.into(),
            max_packet: DEFAULT_MAX_PACKET,
            max_inflight: DEFAULT_MAX_INFLIGHT,
            max_subscriptions: DEFAULT_MAX_SUBSCRIPTIONS.into(),
            max_queued_messages: DEFAULT_MAX_QUEUED_MESSAGES,
            max_queued_bytes: DEFAULT_MAX_QUEUED_BYTES,
            queue_when_full: DEFAULT_QUEUE_WHEN_FULL,
            max_publish_rate: DEFAULT_MAX_PUBLISH_RATE,
            max_keep_alive_s: DEFAULT_MAX_KEEP_ALIVE_S,
        }
    }
}

/// Default of a listener's `unix_mode`: the user and the group of the gateway.
pub const DEFAULT_UNIX_MODE: u32 = 0o660;
/// Default of a listener's `max_connections`.
pub const DEFAULT_MAX_CONNECTIONS: u16 = 1000;
/// Default of a listener's `max_packet`: 256 KiB.
pub const DEFAULT_MAX_PACKET: u32 = 256 << 10;
/// Default of a listener's `max_inflight`.
pub const DEFAULT_MAX_INFLIGHT: u16 = 1000;
/// Default of a listener's `max_subscriptions`.
pub const DEFAULT_MAX_SUBSCRIPTIONS: u16 = 1024;
/// Default of a listener's `max_queued_messages`, as Mosquitto's of the same name.
pub const DEFAULT_MAX_QUEUED_MESSAGES: u64 = 1000;
/// Default of a listener's `max_queued_bytes`: 8 MiB.
pub const DEFAULT_MAX_QUEUED_BYTES: u64 = 8 << 20;
/// Default of a listener's `queue_when_full`: what Mosquitto does. `reject` would let one client that is away stop others.
pub const DEFAULT_QUEUE_WHEN_FULL: WhenFull = WhenFull::DropNewest;
/// Default of a listener's `max_publish_rate`: no limit.
pub const DEFAULT_MAX_PUBLISH_RATE: u32 = 0;
/// Default of a listener's `max_keep_alive` in seconds: no limit.
pub const DEFAULT_MAX_KEEP_ALIVE_S: u16 = 0;

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bind {
    /// A TCP address (`host:port`, resolved when the configuration was read).
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

/// What carries MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// The socket itself.
    Tcp,
    /// WebSocket with the sub-protocol `mqtt` (MQTT 5, section 6).
    WebSocket,
}

/// TLS of one listener. The files are PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// The certificate, with its chain.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Who signs the certificates of clients; without it none is asked for.
    pub client_ca: Option<PathBuf>,
    /// Whether a client without a certificate is refused.
    pub require_client_cert: bool,
    /// Where in its certificate a client's name is.
    pub identity: Identity,
}

/// Where in its certificate a client's name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Identity {
    /// The common name of the subject.
    #[default]
    CommonName,
    /// The first DNS name, or else the first e-mail address or URI, of the subject's alternative names.
    AlternativeName,
}

/// How long a new connection may take until its CONNECT is complete, TLS and WebSocket handshakes included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
