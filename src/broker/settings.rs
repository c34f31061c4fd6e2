//! Settings of the broker, checked.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// One listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerSettings {
    /// Its name, for logs and metrics.
    pub name: String,
    /// Where it listens.
    pub bind: Bind,
    /// Whether clients may connect without a name and password.
    pub anonymous: bool,
    /// Most clients at the same time.
    pub max_connections: usize,
    /// Largest packet taken from a client, in bytes, fixed header included (MQTT 5: Maximum Packet Size).
    pub max_packet: u32,
    /// Most unacknowledged QoS 1 and 2 messages of one client (MQTT 5: Receive Maximum); at least 1.
    pub max_inflight: u16,
}

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bind {
    /// A TCP address (`host:port`, resolved when the configuration was read).
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

/// How long a new connection may take until its CONNECT is complete.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
