//! Settings of forwarding, checked.

use std::time::Duration;

use crate::{
    store::StreamId,
    topic::{TopicFilter, TopicTemplate},
};

/// A stream that goes upstream.
#[derive(Debug, Clone)]
pub struct Route {
    /// The stream in the store.
    pub stream: StreamId,
    /// Its name.
    pub name: String,
    /// Its filters, as configured; the first that matches a topic gives the template its wildcards.
    pub from: Vec<TopicFilter>,
    /// The topic to send under.
    pub topic: TopicTemplate,
    /// Higher goes first on the same uplink; equals share alike; lower ones get a small share.
    pub priority: i8,
    /// How the payload is wrapped.
    pub envelope: Envelope,
    /// Time to live: what is older is settled as expired instead of being sent.
    pub ttl: Option<Duration>,
}

/// How the payloads of a stream go upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Envelope {
    /// As they are.
    None,
    /// In a JSON object with id, time, topic and client.
    Json,
}
