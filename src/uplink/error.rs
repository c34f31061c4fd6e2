//! What can go wrong with an uplink: which step, where, whose word.

use std::{
    fmt,
    io::{self, ErrorKind},
    path::PathBuf,
    time::Duration,
};

use super::mqtt::meaning;

/// A step on the way to a working connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Looking up the host name.
    Dns,
    /// Making the TCP connection.
    Tcp,
    /// The TLS handshake.
    Tls,
    /// CONNECT and CONNACK.
    Connect,
    /// Everything after that.
    Session,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dns => "DNS",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Connect => "CONNECT",
            Self::Session => "session",
        })
    }
}

/// Why a connection could not be made or has ended. Trying again is right for all of them: files, networks and upstreams get repaired.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of ours cannot be used: password, certificate authorities, client certificate or key.
    #[error("{url}: {what} {}: {cause}", path.display())]
    File {
        /// Address.
        url: String,
        /// What the file is.
        what: &'static str,
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// The host name has no address.
    #[error("{url}: DNS: {cause}")]
    Dns {
        /// Address.
        url: String,
        /// The resolver's word.
        cause: String,
    },
    /// No TCP connection.
    #[error("{url}: TCP: {cause}")]
    Tcp {
        /// Address.
        url: String,
        /// The operating system's word.
        cause: io::Error,
    },
    /// No TLS session: certificate, host name, version.
    #[error("{url}: TLS: {cause}")]
    Tls {
        /// Address.
        url: String,
        /// rustls' word.
        cause: String,
    },
    /// The upstream answered CONNECT with a refusal.
    #[error("{url}: refused: {} (code 0x{code:02x}){}", meaning::connack(*code, *v5), quoted(text.as_deref()))]
    Refused {
        /// Address.
        url: String,
        /// The return or reason code of the CONNACK.
        code: u8,
        /// Whether the code is one of MQTT 5.
        v5: bool,
        /// The upstream's own words.
        text: Option<String>,
    },
    /// A step took too long.
    #[error("{url}: {step}: no answer within {limit:?}")]
    Timeout {
        /// Address.
        url: String,
        /// The step that was under way.
        step: Step,
        /// The limit that passed.
        limit: Duration,
    },
    /// The upstream closed the connection without a word.
    #[error("{url}: {step}: the upstream closed the connection")]
    Closed {
        /// Address.
        url: String,
        /// The step that was under way.
        step: Step,
    },
    /// Reading or writing failed.
    #[error("{url}: {step}: {cause}")]
    Io {
        /// Address.
        url: String,
        /// The step that was under way.
        step: Step,
        /// The operating system's (or TLS') word.
        cause: io::Error,
    },
    /// The upstream sent something that MQTT does not allow.
    #[error("{url}: {step}: protocol error: {cause}")]
    Protocol {
        /// Address.
        url: String,
        /// The step that was under way.
        step: Step,
        /// What it was.
        cause: String,
    },
    /// The upstream sent DISCONNECT.
    #[error("{url}: the upstream disconnected: {} (code 0x{code:02x}){}", meaning::disconnect(*code), quoted(text.as_deref()))]
    Disconnected {
        /// Address.
        url: String,
        /// Its reason code.
        code: u8,
        /// Its own words.
        text: Option<String>,
    },
    /// The upstream does not answer pings.
    #[error("{url}: keep alive: nothing came within {limit:?} of a ping")]
    KeepAlive {
        /// Address.
        url: String,
        /// The limit that passed.
        limit: Duration,
    },
}

impl Error {
    /// Every word that [`Error::reason`] gives.
    pub const REASONS: [&'static str; 11] =
        ["file", "dns", "tcp", "tls", "refused", "timeout", "closed", "io", "protocol", "disconnect", "keep-alive"];

    /// The word for metrics: one of a closed set.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::File { .. } => "file",
            Self::Dns { .. } => "dns",
            Self::Tcp { .. } => "tcp",
            Self::Tls { .. } => "tls",
            Self::Refused { .. } => "refused",
            Self::Timeout { .. } => "timeout",
            Self::Closed { .. } => "closed",
            Self::Io { .. } => "io",
            Self::Protocol { .. } => "protocol",
            Self::Disconnected { .. } => "disconnect",
            Self::KeepAlive { .. } => "keep-alive",
        }
    }

    /// The step that failed; none where no step was begun, or all were done.
    pub const fn step(&self) -> Option<Step> {
        match self {
            Self::Dns { .. } => Some(Step::Dns),
            Self::Tcp { .. } => Some(Step::Tcp),
            Self::Tls { .. } => Some(Step::Tls),
            Self::Refused { .. } => Some(Step::Connect),
            Self::Timeout { step, .. }
            | Self::Closed { step, .. }
            | Self::Io { step, .. }
            | Self::Protocol { step, .. } => Some(*step),
            Self::File { .. } | Self::Disconnected { .. } | Self::KeepAlive { .. } => None,
        }
    }

    /// Whether somebody else has connected under the same client id: two who do that throw each other out, each time after some progress.
    pub const fn is_takeover(&self) -> bool {
        matches!(self, Self::Disconnected { code: 0x8e, .. })
    }

    /// The reason code of a DISCONNECT.
    pub const fn disconnect_code(&self) -> Option<u8> {
        match self {
            Self::Disconnected { code, .. } => Some(*code),
            Self::File { .. }
            | Self::Dns { .. }
            | Self::Tcp { .. }
            | Self::Tls { .. }
            | Self::Refused { .. }
            | Self::Timeout { .. }
            | Self::Closed { .. }
            | Self::Io { .. }
            | Self::Protocol { .. }
            | Self::KeepAlive { .. } => None,
        }
    }

    /// Whether the upstream may have ended the connection because of a message it was sent.
    ///
    /// A silent close is how MQTT 3.1.1 refuses a PUBLISH; of the DISCONNECT codes, those that speak of a packet.
    pub fn may_blame_message(&self) -> bool {
        match self {
            Self::Closed { step: Step::Session, .. } => true,
            // A network that is gone says something else: timed out, unreachable.
            Self::Io { step: Step::Session, cause, .. } => matches!(
                cause.kind(),
                ErrorKind::ConnectionReset
                    | ErrorKind::ConnectionAborted
                    | ErrorKind::BrokenPipe
                    | ErrorKind::UnexpectedEof
            ),
            Self::Disconnected { code, .. } => {
                matches!(code, 0x80 | 0x81 | 0x82 | 0x83 | 0x87 | 0x90 | 0x95 | 0x99 | 0x9a | 0x9b)
            }
            Self::File { .. }
            | Self::Dns { .. }
            | Self::Tcp { .. }
            | Self::Tls { .. }
            | Self::Refused { .. }
            | Self::Timeout { .. }
            | Self::Closed { .. }
            | Self::Io { .. }
            | Self::Protocol { .. }
            | Self::KeepAlive { .. } => false,
        }
    }
}

/// The upstream's own words, ready to be put behind ours: short, and without control characters.
fn quoted(text: Option<&str>) -> String {
    const MAX_CHARS: usize = 200;
    match text {
        None | Some("") => String::new(),
        Some(text) => {
            let clean: String = text.chars().filter(|c| !c.is_control()).take(MAX_CHARS).collect();
            format!(": \"{clean}\"")
        }
    }
}
