//! The words in which the broker talks to the store about sessions, their queues, and retained messages.

use bytes::Bytes;
use bytestring::ByteString;

use super::api::{Sequence, WhenFull};
use crate::message::{Message, QoS};

/// A session as the store knows it. Given by [`Handle::save_session`](super::Handle::save_session), never used again for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u32);

/// The first character of the names that the gateway itself has among the client ids: no client can send it (MQTT 5, section
/// 1.5.4). A *store of its own* is kept under such a name: a queue and packet ids, which are neither listed nor counted with
/// those of clients.
pub const RESERVED: char = '\0';

/// Whether this is a name of the gateway's own.
pub(super) fn is_reserved(client_id: &str) -> bool {
    client_id.starts_with(RESERVED)
}

/// What one session is to get of a message: a row of its queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionCopy {
    /// Whose queue.
    pub session: SessionId,
    /// The QoS of the delivery: 1 or 2.
    pub qos: QoS,
    /// The retain flag of the delivery.
    pub retain: bool,
    /// Subscription identifiers of the delivery (MQTT 5, section 3.3.2.3.8).
    pub subscription_ids: Option<Box<[u32]>>,
    /// Set by the store: its place in the queue. `None` where it was dropped and counted, or the session is gone.
    pub seq: Option<Sequence>,
}

/// How far the delivery of a queued message has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// QoS 2: PUBREC came. The message is no longer needed, its place in the queue is: PUBREL is due until PUBCOMP comes.
    Received,
    /// PUBACK or PUBCOMP came, or PUBREC with an error: it leaves as delivered.
    Delivered,
    /// Its message expiry interval passed before it was sent: it leaves as expired.
    Expired,
    /// It is larger than the client's Maximum Packet Size (MQTT 5, section 3.1.2.11.4): it leaves as dropped (`too-large`).
    TooLarge,
}

/// What the queue of one session may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueLimits {
    /// Most messages; 0 = no limit.
    pub max_messages: u64,
    /// Most bytes; 0 = no limit.
    pub max_bytes: u64,
    /// What happens to a message that does not fit.
    pub when_full: WhenFull,
}

/// What is remembered of a session that outlives its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRecord {
    /// The client id.
    pub client_id: ByteString,
    /// Session Expiry Interval in seconds; `u32::MAX` = never (MQTT 5, section 3.1.2.11.2).
    pub expiry_s: u32,
    /// Whatever else the broker wants to remember (subscriptions), in its own encoding.
    pub state: Bytes,
    /// QoS 2 packet ids received and not yet released; kept by lanes, ignored by [`Handle::save_session`](super::Handle::save_session).
    pub received: Vec<u16>,
    /// What its queue may hold. Lower limits than before drop nothing until the next message comes.
    pub limits: QueueLimits,
    /// The will, where one is due: survives a crash of the gateway with the session.
    pub will: Option<SessionWill>,
}

/// The will of a session (MQTT 5, section 3.1.2.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionWill {
    /// What is to be published.
    pub message: Message,
    /// Will Delay Interval in seconds.
    pub delay_s: u32,
}

/// A session as it is found when the gateway starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoredSession {
    /// Its id.
    pub id: SessionId,
    /// What was remembered.
    pub record: SessionRecord,
    /// How long the client has been away, in milliseconds; `None` where it was connected when the gateway ended. Whoever finds
    /// that says with [`Handle::session_left`](super::Handle::session_left) from when on it counts.
    pub away_ms: Option<u64>,
    /// The oldest message of its queue; `head == next` where the queue is empty.
    pub head: Sequence,
    /// The sequence number that the next message will get.
    pub next: Sequence,
    /// The last message that was ever sent to the client, as [`Handle::session_left`](super::Handle::session_left) said; `None`
    /// where the gateway ended while the client was connected: then any message may have been sent.
    pub sent: Option<Sequence>,
}

/// A queued message read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionMessage {
    /// Its place in the queue.
    pub seq: Sequence,
    /// The QoS of the delivery.
    pub qos: QoS,
    /// The retain flag of the delivery.
    pub retain: bool,
    /// Subscription identifiers of the delivery.
    pub subscription_ids: Option<Box<[u32]>>,
    /// How far it has come.
    pub stage: Stage,
}

/// How far a queued message has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// PUBACK or PUBREC has not come.
    Published {
        /// The message, with the expiry it had when it was accepted.
        message: Message,
        /// Its age in milliseconds when it was read, as of [`Stored::age_ms`](super::Stored::age_ms).
        age_ms: u64,
    },
    /// PUBREC came ([`Step::Received`]): PUBREL is due. The message itself is gone.
    Received,
}

/// The books of session queues: of one, or of all that there are and have been.
///
/// `queued = delivered + expired + dropped + purged + messages`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Messages in the queue.
    pub messages: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Messages that came.
    pub queued: u64,
    /// Left because the client acknowledged them.
    pub delivered: u64,
    /// Left because their message expiry interval passed.
    pub expired: u64,
    /// Left because their session ended.
    pub purged: u64,
    /// Dropped, by reason.
    pub dropped: Vec<(String, u64)>,
}

/// A retained message read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetainedMessage {
    /// The message, with the expiry it had when it was accepted.
    pub message: Message,
    /// Its age in milliseconds when it was read, as of [`Stored::age_ms`](super::Stored::age_ms).
    pub age_ms: u64,
    /// Its place among all retained messages, see [`Publish::retained_revision`](super::Publish::retained_revision).
    pub revision: u64,
}

impl Default for QueueLimits {
    /// No limits.
    fn default() -> Self {
        Self { max_messages: 0, max_bytes: 0, when_full: WhenFull::Reject }
    }
}

impl QueueStats {
    /// All drops, whatever the reason.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().map(|(_, count)| count).sum()
    }

    /// Whether everything that came is accounted for.
    pub fn balances(&self) -> bool {
        self.queued == self.delivered + self.expired + self.purged + self.dropped_total() + self.messages
    }
}
