//! The wire format of MQTT 3.1.1 and 5: pure, strict and fast, without socket or clock.
//!
//! Why our own: acknowledgement is the gateway's hot path, and the codecs of the MQTT crates are written for clients,
//! which may trust their server. `rumqttc`'s refuses a DISCONNECT of zero length, does not look at reserved flags, takes
//! properties twice, and cannot say which reason code an error deserves. Here every rule that needs no session is checked
//! in one place, and every error maps to the reason code that the specification names.
//!
//! - The length of a packet is checked from its fixed header, before a byte of its body is waited for.
//! - Packets below 4 KiB are copied out of the read buffer, longer PUBLISH payloads share it: a queued message never pins
//!   more than a few times its own size.
//! - No bytes make it panic: property tests feed it random bytes and mutated packets, and a fuzzer (`fuzz`) everything else.

mod connect;
mod decode;
mod encode;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod properties;
mod reason;
#[cfg(test)]
mod tests;
mod wire;

pub(crate) use connect::{Connect, Will, decode_connect, version_of};
pub(crate) use decode::{
    Decoder, Packet, RetainHandling, Subscribe, SubscribeOptions, Unsubscribe, is_acknowledgement, is_publish,
};
pub(crate) use encode::{
    AckKind, Alias, ConnAckProperties, PublishOut, ack, connack, connack_refusal, disconnect, pingresp, refusing_ack,
    suback, suback_len, unsuback,
};
pub(crate) use error::DecodeError;
pub(crate) use reason::Reason;
pub(crate) use wire::peek;

/// The protocol versions that we speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// MQTT 3.1.1, protocol level 4.
    V311,
    /// MQTT 5, protocol level 5.
    V5,
}

/// How one client wants to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Manner {
    pub(crate) version: Version,
    /// Largest packet that it takes, in bytes.
    pub(crate) max_packet: usize,
    /// Whether it asks for Reason Strings. Section 3.1.2.11.7 lets a server send them to everybody who does not forbid it;
    /// we send them to those who ask, for most clients throw them away, and links are metered.
    pub(crate) reason_strings: bool,
}

impl Manner {
    /// Of a client that has not told us yet.
    pub(crate) const fn unknown(version: Version) -> Self {
        Self { version, max_packet: usize::MAX, reason_strings: false }
    }
}
