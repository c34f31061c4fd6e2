//! Clients as an operator sees them: who is connected and from where, who is away with a session that waits for it, how much
//! waits; sending one away; and messages that come over HTTP rather than from a client.
//!
//! - A connection leaves a [`Presence`] with its session for as long as it lives. What changes in it are plain numbers that the
//!   connection stores after each event, so that nobody who looks ever makes a client wait.
//! - A page is chosen among all sessions by client id, under the lock of the sessions, in one pass over them: some
//!   milliseconds for 100 000; figures are read for the chosen ones only.
//! - A client that is sent away ([`Ending::Expelled`](super::connection)) ends as one that broke the protocol does: what it submitted is
//!   decided, MQTT 5 hears DISCONNECT 0x98, its will is sent, its session lives on as long as it would have. It may come back at once; keeping it out is
//!   what passwords and rules are for.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

use smallvec::SmallVec;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Broker, packet::Version, publisher::Decision, sessions::Whereabouts, sys::is_reserved};
use crate::{
    intake::{Intake, Refusal, SessionId, StreamId},
    message::Message,
    stats::{ClientConnection, ClientPage, ClientQuestion, ClientStats},
};

/// What a connection says of itself while it lives.
#[derive(Debug)]
pub(crate) struct Presence {
    /// As access rules name it.
    pub(crate) user: String,
    pub(crate) listener: String,
    pub(crate) address: String,
    pub(crate) version: Version,
    pub(crate) clean_start: bool,
    pub(crate) keep_alive_s: u16,
    pub(crate) began: Instant,
    /// Sends the connection away.
    pub(crate) kick: CancellationToken,
    /// Cancelled when it has ended.
    pub(crate) gone: CancellationToken,
    expelled: AtomicBool,
    /// Messages sent to the client at QoS 1 and 2 and not acknowledged.
    in_flight: AtomicUsize,
    /// Messages that the connection has taken off the queue and not sent.
    fetched: AtomicUsize,
    subscriptions: AtomicUsize,
}

/// What is said of a connection that does not say it itself.
#[derive(Debug)]
pub(crate) struct Arrival<'a> {
    pub(crate) user: String,
    pub(crate) listener: &'a str,
    pub(crate) address: &'a str,
    pub(crate) version: Version,
    pub(crate) clean_start: bool,
    pub(crate) keep_alive_s: u16,
    pub(crate) kick: &'a CancellationToken,
}

impl Presence {
    /// A connection begins; it has ended when the guard is dropped.
    pub(crate) fn begin(arrival: Arrival<'_>) -> (Arc<Self>, DropGuard) {
        let gone = CancellationToken::new();
        let presence = Self {
            user: arrival.user,
            listener: arrival.listener.to_owned(),
            address: arrival.address.to_owned(),
            version: arrival.version,
            clean_start: arrival.clean_start,
            keep_alive_s: arrival.keep_alive_s,
            began: Instant::now(),
            kick: arrival.kick.clone(),
            gone: gone.clone(),
            expelled: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
            fetched: AtomicUsize::new(0),
            subscriptions: AtomicUsize::new(0),
        };
        (Arc::new(presence), gone.drop_guard())
    }

    /// What the connection has in hand now.
    pub(crate) fn note(&self, in_flight: usize, fetched: usize, subscriptions: usize) {
        self.in_flight.store(in_flight, Ordering::Relaxed);
        self.fetched.store(fetched, Ordering::Relaxed);
        self.subscriptions.store(subscriptions, Ordering::Relaxed);
    }

    /// Whether an operator sent the client away.
    pub(crate) fn is_expelled(&self) -> bool {
        self.expelled.load(Ordering::Acquire)
    }

    fn expel(&self) {
        self.expelled.store(true, Ordering::Release);
        self.kick.cancel();
    }
}

/// A session that was chosen for a page.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) client_id: String,
    /// `None` while the client is away.
    pub(crate) presence: Option<Arc<Presence>>,
    /// Since when it is away.
    pub(crate) left: Instant,
    /// When the session of a client that is away ends; `None` = never.
    pub(crate) ends: Option<Instant>,
    /// Its queue in the store.
    pub(crate) queue: Option<SessionId>,
    /// Messages that wait for it in memory, and their bytes.
    pub(crate) mailbox: (usize, usize),
    /// Subscriptions of a session whose client is away.
    pub(crate) subscriptions: usize,
}

impl Chosen {
    fn stats(self, intake: &Intake, now: Instant) -> ClientStats {
        let stored = self.queue.and_then(|session| intake.queue(session)).unwrap_or_default();
        let in_flight = self.presence.as_ref().map_or(0, |presence| presence.in_flight.load(Ordering::Relaxed)) as u64;
        let fetched = self.presence.as_ref().map_or(0, |presence| presence.fetched.load(Ordering::Relaxed));
        // What is in flight is still in a queue of the store, and has left one in memory.
        let stored_messages = stored.messages.saturating_sub(in_flight);
        let since = self.presence.as_ref().map_or(self.left, |presence| presence.began);
        let connection = self.presence.as_ref().map(|presence| ClientConnection {
            user: presence.user.clone(),
            listener: presence.listener.clone(),
            address: presence.address.clone(),
            version: match presence.version {
                Version::V311 => "3.1.1",
                Version::V5 => "5",
            },
            clean_start: presence.clean_start,
            keep_alive_s: presence.keep_alive_s,
        });
        let subscriptions = self
            .presence
            .as_ref()
            .map_or(self.subscriptions, |presence| presence.subscriptions.load(Ordering::Relaxed));
        ClientStats {
            id: self.client_id,
            since: now.saturating_duration_since(since),
            connection,
            lasting: self.queue.is_some(),
            ends_in: self.ends.map(|at| at.saturating_duration_since(now)),
            in_flight,
            queued_messages: stored_messages + (self.mailbox.0 + fetched) as u64,
            queued_bytes: stored.bytes + self.mailbox.1 as u64,
            subscriptions: subscriptions as u64,
        }
    }
}

/// What came of sending a client away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expelled {
    /// Its connection has ended.
    Gone,
    /// Its session is there, but it is not connected.
    Away,
    /// Nobody has this client id.
    Unknown,
}

/// What was done with a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The streams that took it.
    pub streams: SmallVec<[StreamId; 2]>,
    /// How many lasting sessions it was queued for.
    pub sessions: usize,
    /// Whether it is the retained message of its topic now.
    pub retained: bool,
}

/// Why a message was not published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// `$SYS` is the gateway's own.
    #[error("topics below $SYS are the gateway's own")]
    Reserved,
    /// The store has no place for it.
    #[error("{}", .0.sentence())]
    Refused(Refusal),
    /// The gateway stops and takes nothing any more.
    #[error("the gateway stops")]
    Stopping,
    /// The gateway stopped, or its store failed, while it was on its way: nobody knows whether it got there.
    #[error("the gateway stopped, or its store failed, while the message was on its way; it may have been accepted")]
    Unknown,
}

impl Broker {
    /// Publishes a message that no client sent: the same road as a client's (streams, retained messages, local sessions), whatever
    /// its QoS answered only after the commit. Access rules are not asked. Dropping the future does not call it back.
    pub async fn publish(&self, message: Message) -> Result<Taken, NotTaken> {
        if is_reserved(&message.topic) {
            self.hub.metrics.refused("sys-topic");
            return Err(NotTaken::Reserved);
        }
        if self.hub.stopping.is_cancelled() {
            return Err(NotTaken::Stopping);
        }
        match self.hub.publish(message).await {
            Some(Decision::Accepted { streams, sessions, retained }) => Ok(Taken { streams, sessions, retained }),
            Some(Decision::Refused(refusal)) => Err(NotTaken::Refused(refusal)),
            None => Err(NotTaken::Unknown),
        }
    }

    /// The largest packet that any listener takes, in bytes; `None` without listeners.
    pub fn max_packet(&self) -> Option<u32> {
        self.now().iter().map(|listener| listener.settings.max_packet).max()
    }

    /// A page of clients, by client id.
    pub fn clients(&self, question: &ClientQuestion) -> ClientPage {
        let now = Instant::now();
        let (chosen, connected, away, more) = self.hub.sessions.choose(question, now);
        let clients = chosen.into_iter().map(|chosen| chosen.stats(&self.hub.intake, now)).collect();
        ClientPage { clients, connected, away, more }
    }

    /// Disconnects a client, and waits until its connection has ended: that takes as long as the store takes to decide on what the
    /// client had sent, 25 s at the most. Dropping the future undoes nothing.
    pub async fn expel(&self, client_id: &str) -> Expelled {
        match self.hub.sessions.whereabouts(client_id) {
            None => Expelled::Unknown,
            Some(Whereabouts::Away) => Expelled::Away,
            Some(Whereabouts::Here(presence)) => {
                presence.expel();
                presence.gone.cancelled().await;
                Expelled::Gone
            }
        }
    }
}
