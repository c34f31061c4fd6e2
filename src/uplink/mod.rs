//! Uplinks: connections to upstream systems, one folder per kind behind one small trait.
//!
//! An [`Upstream`] knows how to reach a system, a [`Session`] is one connection to it. Neither retries, waits, paces nor
//! remembers what is in flight: that is the forwarder's (`crate::forward`). What a session does is turn [`Delivery`]s into bytes,
//! move bytes both ways, and turn answers into [`Event`]s.
//!
//! # Why not rumqttc's event loop
//!
//! This is the only room that knows rumqttc, and it uses its packet types and property codec, not its `EventLoop`. Measured on
//! two cores into Mosquitto 2 (QoS 1, small payloads): the event loop, which writes and flushes each PUBLISH on its own, reached
//! 117 000 messages/s with a whole core to itself; batched writes reach 145 000 to 160 000, where Mosquitto is the limit. The event loop
//! also forgets its pending packets on CONNACK, does not read while it writes (two half-duplex ends can wait for each other for
//! ever), and drops the connection on an acknowledgement it does not expect. Here:
//!
//! - many PUBLISHes are encoded into one buffer and leave in one write;
//! - writing and reading are polled together, so acknowledgements are read while a write is pending;
//! - all acknowledgements of one read are handed over together;
//! - an unexpected acknowledgement is an event like any other, for the ledger to judge.
//!
//! Frames and the fixed part of acknowledgements are read by hand: rumqttc refuses a DISCONNECT of less than two bytes, any
//! reason code it has no name for, and a 3.1.1 CONNACK in answer to an MQTT 5 CONNECT; and it reports a property that runs over the
//! end of its packet as "more bytes needed", which would wait for ever.
//!
//! # Architecture invariant
//!
//! A session never drops what was queued and never decides that a message is done; it only reports.

mod dial;
mod error;
mod inbound;
pub mod mqtt;
mod probe;
mod settings;
mod tls;

use std::{future::Future, time::Instant};

use bytes::Bytes;

pub use self::{
    error::{Error, Step},
    inbound::*,
    probe::{Handshake, Login, Probe, ProbeId, check_files, probe},
    settings::*,
};
use crate::{
    message::{Properties, QoS},
    topic::TopicName,
};

/// Deliveries have the ids up to this one; the one beyond is the session's own, for what it asks of the upstream itself.
pub const LAST_DELIVERY_ID: u16 = u16::MAX - 1;

/// Says what is wrong with the files of TLS that an uplink needs, if it needs any; found out before it is used. Blocks on files.
pub fn check_tls(settings: &Settings) -> Result<(), Error> {
    match settings.urls.iter().find(|url| url.tls) {
        Some(url) => tls::check(settings, &url.to_string()),
        None => Ok(()),
    }
}

/// A system that messages can be sent to.
pub trait Upstream: Send + 'static {
    /// One connection to it.
    type Session: Session;

    /// Connects to the first address that works. Cancel safe: dropping the future gives up.
    ///
    /// `resume`: the caller still holds deliveries of the last session and would like to go on with it; whether that worked is
    /// [`Greeting::resumed`]. The errors are one for each address, never none.
    fn connect(&mut self, resume: bool) -> impl Future<Output = Result<Self::Session, Vec<Error>>> + Send;

    /// Whether the first address can be reached (without logging in there), to fail back to it.
    fn first_is_back(&self) -> impl Future<Output = bool> + Send + 'static;
}

/// One connection to an upstream, logged in.
pub trait Session: Send {
    /// What was agreed when the connection was made.
    fn greeting(&self) -> &Greeting;

    /// Queues a message. Returns the position in the stream of bytes behind its last byte, to compare with [`Session::written`].
    fn queue(&mut self, delivery: &Delivery<'_>) -> Result<u64, TooLarge>;

    /// Queues the second half of an exactly-once delivery (MQTT: PUBREL).
    fn queue_release(&mut self, id: u16);

    /// Queues the answer to a message that came.
    fn queue_answer(&mut self, answer: Answer);

    /// Bytes queued and not yet written.
    fn queued_bytes(&self) -> usize;

    /// Bytes handed to the operating system since the connection was made.
    fn written(&self) -> u64;

    /// Writes what is queued and reads what comes, until something was written or came. Cancel safe.
    ///
    /// `events` holds what came before an error, too.
    fn drive(&mut self, events: &mut Vec<Event>) -> impl Future<Output = Result<(), Error>> + Send;

    /// Keeps the connection alive: queues a ping when one is due, fails when the answer to the last one is overdue.
    /// Returns when to call again.
    fn keep_alive(&mut self, now: Instant) -> Result<Option<Instant>, Error>;

    /// Says good-bye and closes; bounded in time. `for_good`: the session will not be resumed.
    fn close(self, for_good: bool) -> impl Future<Output = ()> + Send;
}

/// What an upstream agreed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// Address in words, for logs.
    pub url: String,
    /// Its place among the configured addresses, from 1.
    pub address: usize,
    /// The upstream still holds the session that was asked for: deliveries go on under their old ids.
    pub resumed: bool,
    /// The upstream still holds a session of ours, with its subscriptions and the messages for it.
    pub session_present: bool,
    /// Most unacknowledged deliveries the upstream takes (MQTT: Receive Maximum).
    pub window: u16,
    /// QoS to send with: ours, or the upstream's Maximum QoS where that is less.
    pub qos: QoS,
    /// Whether the upstream keeps retained messages.
    pub retain_available: bool,
}

impl Greeting {
    /// Whether this is the first of the configured addresses.
    pub const fn is_first_url(&self) -> bool {
        self.address == 1
    }
}

/// A message on its way to a session.
#[derive(Debug, Clone, Copy)]
pub struct Delivery<'a> {
    /// Number under which it will be acknowledged; 0 at QoS 0.
    pub id: u16,
    /// How it is acknowledged.
    pub qos: QoS,
    /// Sent before under the same id.
    pub dup: bool,
    /// Retain flag.
    pub retain: bool,
    /// Topic to send it under.
    pub topic: &'a TopicName,
    /// Its bytes.
    pub payload: &'a Bytes,
    /// What is left of its message expiry interval, in seconds.
    pub expiry_s: Option<u32>,
    /// Its properties (the expiry in here is the one at acceptance, and not used).
    pub properties: Option<&'a Properties>,
    /// User properties to add.
    pub marks: &'a [(&'static str, &'a str)],
}

/// A message that is larger than the upstream or the protocol takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the packet would be {size} bytes; the upstream takes {max}")]
pub struct TooLarge {
    /// Size of the whole packet in bytes.
    pub size: usize,
    /// The limit in bytes.
    pub max: usize,
}

/// What an upstream said of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Taken, or refused (MQTT: PUBACK).
    Acknowledged(Reply),
    /// First half of an exactly-once delivery taken, or refused (MQTT: PUBREC).
    Received(Reply),
    /// Second half done (MQTT: PUBCOMP).
    Completed(Reply),
    /// Something that the upstream has for us.
    Arrived(Arrived),
}

/// The number of a delivery, and the upstream's word on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The delivery.
    pub id: u16,
    /// MQTT 5 reason code; below 0x80 is success (3.1.1: always 0).
    pub code: u8,
    /// The upstream's own words, where it gave any.
    pub text: Option<Box<str>>,
}

impl Reply {
    /// Whether the upstream will not take the delivery.
    pub const fn is_refusal(&self) -> bool {
        self.code >= 0x80
    }
}
