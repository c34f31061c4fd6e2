//! What can be wrong with bytes from a client, and which reason code says so.

use super::Reason;
use crate::topic::TopicError;

/// Why bytes from a client are not a packet that it may send.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum DecodeError {
    /// The bytes do not parse (MQTT 5, section 1.2 "Malformed Packet").
    #[error("malformed packet: {0}")]
    Malformed(&'static str),
    /// The bytes parse, but say what must not be said here.
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    /// More than `max_packet`.
    #[error("packet of {len} bytes; the listener takes at most {max}")]
    TooLarge {
        /// Length of the whole packet in bytes.
        len: usize,
        /// The limit in bytes.
        max: u32,
    },
    /// A topic that cannot be published to.
    #[error("the topic {0}")]
    Topic(#[from] TopicError),
    /// Topic alias 0 or above the maximum.
    #[error("topic alias {alias}; allowed are 1 to {max}")]
    TopicAlias {
        /// What the client said.
        alias: u16,
        /// The Topic Alias Maximum of the CONNACK.
        max: u16,
    },
    /// More of something than we are willing to keep.
    #[error("too many {0}")]
    Quota(&'static str),
    /// Not MQTT at all.
    #[error("the protocol name is not MQTT")]
    ProtocolName,
    /// MQTT of a version that we do not speak.
    #[error("protocol level {level} is not supported (only 3.1.1 and 5 are)")]
    Version {
        /// The level of the CONNECT.
        level: u8,
        /// Whether an answer in the form of MQTT 5 will be understood.
        answer_v5: bool,
    },
}

impl DecodeError {
    /// The reason code for CONNACK or DISCONNECT.
    pub(crate) const fn reason(&self) -> Reason {
        match self {
            Self::Malformed(_) => Reason::MALFORMED_PACKET,
            Self::Protocol(_) | Self::ProtocolName => Reason::PROTOCOL_ERROR,
            Self::TooLarge { .. } => Reason::PACKET_TOO_LARGE,
            Self::Topic(_) => Reason::TOPIC_INVALID,
            Self::TopicAlias { .. } => Reason::TOPIC_ALIAS_INVALID,
            Self::Quota(_) => Reason::QUOTA_EXCEEDED,
            Self::Version { .. } => Reason::UNSUPPORTED_VERSION,
        }
    }

    /// The word for the metric.
    pub(crate) const fn word(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::Protocol(_) => "protocol",
            Self::TooLarge { .. } => "packet-too-large",
            Self::Topic(_) => "topic",
            Self::TopicAlias { .. } => "topic-alias",
            Self::Quota(_) => "quota",
            Self::ProtocolName => "protocol-name",
            Self::Version { .. } => "version",
        }
    }
}
