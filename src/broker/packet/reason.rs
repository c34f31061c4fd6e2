//! Reason codes (MQTT 5, section 2.4) and the return codes of MQTT 3.1.1.

use std::fmt;

/// A reason code of MQTT 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Reason(pub(crate) u8);

macro_rules! reasons {
    ($($name:ident = $code:literal, $text:literal;)*) => {
        impl Reason {
            $(#[doc = $text] pub(crate) const $name: Self = Self($code);)*

            /// The name the specification gives it.
            pub(crate) const fn text(self) -> &'static str {
                match self.0 {
                    $($code => $text,)*
                    _ => "unknown reason",
                }
            }
        }
    };
}

reasons! {
    SUCCESS = 0x00, "success";
    NO_SUBSCRIPTION_EXISTED = 0x11, "no subscription existed";
    MALFORMED_PACKET = 0x81, "malformed packet";
    PROTOCOL_ERROR = 0x82, "protocol error";
    IMPLEMENTATION = 0x83, "implementation specific error";
    UNSUPPORTED_VERSION = 0x84, "unsupported protocol version";
    CLIENT_ID_INVALID = 0x85, "client identifier not valid";
    BAD_CREDENTIALS = 0x86, "bad user name or password";
    NOT_AUTHORIZED = 0x87, "not authorized";
    UNAVAILABLE = 0x88, "server unavailable";
    BUSY = 0x89, "server busy";
    SHUTTING_DOWN = 0x8B, "server shutting down";
    BAD_AUTH_METHOD = 0x8C, "bad authentication method";
    KEEP_ALIVE_TIMEOUT = 0x8D, "keep alive timeout";
    TAKEN_OVER = 0x8E, "session taken over";
    FILTER_INVALID = 0x8F, "topic filter invalid";
    TOPIC_INVALID = 0x90, "topic name invalid";
    PACKET_ID_IN_USE = 0x91, "packet identifier in use";
    PACKET_ID_NOT_FOUND = 0x92, "packet identifier not found";
    RECEIVE_MAXIMUM = 0x93, "receive maximum exceeded";
    TOPIC_ALIAS_INVALID = 0x94, "topic alias invalid";
    PACKET_TOO_LARGE = 0x95, "packet too large";
    QUOTA_EXCEEDED = 0x97, "quota exceeded";
    ADMINISTRATIVE = 0x98, "administrative action";
    PAYLOAD_FORMAT = 0x99, "payload format invalid";
    CONNECTION_RATE = 0x9F, "connection rate exceeded";
}

impl Reason {
    /// Whether the code says that something failed.
    pub(crate) const fn is_error(self) -> bool {
        self.0 >= 0x80
    }

    /// The CONNACK return code of MQTT 3.1.1 (section 3.2.2.3) that says the same; `None` where there is none and the
    /// connection is closed without a word.
    pub(crate) const fn connect_return_code(self) -> Option<u8> {
        match self {
            Self::SUCCESS => Some(0),
            Self::UNSUPPORTED_VERSION => Some(1),
            Self::CLIENT_ID_INVALID => Some(2),
            Self::UNAVAILABLE | Self::BUSY | Self::CONNECTION_RATE | Self::QUOTA_EXCEEDED | Self::SHUTTING_DOWN => {
                Some(3)
            }
            Self::BAD_CREDENTIALS => Some(4),
            Self::NOT_AUTHORIZED => Some(5),
            _ => None,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (0x{:02X})", self.text(), self.0)
    }
}
