//! What the numbers in an upstream's answers mean, in words for logs (MQTT 5, section 2.4; MQTT 3.1.1, section 3.2.2.3).

/// Meaning of the code of a CONNACK.
pub(in crate::uplink) const fn connack(code: u8, v5: bool) -> &'static str {
    match (code, v5) {
        (1, _) => "the upstream does not speak this protocol version",
        (2, _) => "client identifier rejected",
        (3, _) => "server unavailable",
        (4, _) => "bad user name or password",
        (5, _) => "not authorized",
        (code, true) => any(code),
        (_, false) => "unknown return code",
    }
}

/// Meaning of the reason code of a DISCONNECT.
pub(in crate::uplink) const fn disconnect(code: u8) -> &'static str {
    match code {
        0x00 => "normal disconnection",
        code => any(code),
    }
}

/// Meaning of the reason code of a PUBACK, PUBREC or PUBCOMP.
pub const fn publish(code: u8) -> &'static str {
    match code {
        0x00 => "success",
        code => any(code),
    }
}

const fn any(code: u8) -> &'static str {
    match code {
        0x04 => "disconnect with will message",
        0x10 => "no matching subscribers",
        0x80 => "unspecified error",
        0x81 => "malformed packet",
        0x82 => "protocol error",
        0x83 => "implementation specific error",
        0x84 => "unsupported protocol version",
        0x85 => "client identifier not valid",
        0x86 => "bad user name or password",
        0x87 => "not authorized",
        0x88 => "server unavailable",
        0x89 => "server busy",
        0x8a => "banned",
        0x8b => "server shutting down",
        0x8c => "bad authentication method",
        0x8d => "keep alive timeout",
        0x8e => "session taken over by another client with the same client id",
        0x8f => "topic filter invalid",
        0x90 => "topic name invalid",
        0x91 => "packet identifier in use",
        0x92 => "packet identifier not found",
        0x93 => "receive maximum exceeded",
        0x94 => "topic alias invalid",
        0x95 => "packet too large",
        0x96 => "message rate too high",
        0x97 => "quota exceeded",
        0x98 => "administrative action",
        0x99 => "payload format invalid",
        0x9a => "retain not supported",
        0x9b => "QoS not supported",
        0x9c => "use another server",
        0x9d => "server moved",
        0x9e => "shared subscriptions not supported",
        0x9f => "connection rate exceeded",
        0xa0 => "maximum connect time",
        0xa1 => "subscription identifiers not supported",
        0xa2 => "wildcard subscriptions not supported",
        _ => "unknown reason code",
    }
}
