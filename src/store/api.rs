//! The words in which the rest of the gateway talks to the store.

use std::{path::PathBuf, time::Duration};

use smallvec::SmallVec;

use super::sessions::{SessionCopy, SessionId, Step};
use crate::message::Message;

/// Settings of the store, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Folder of the database, the lock and the quarantine; made with mode 0700 where it is missing.
    pub data_dir: PathBuf,
    /// What an acknowledgement survives.
    pub durability: Durability,
    /// How long a commit may wait for company while messages keep coming; zero = never.
    pub commit_delay: Duration,
    /// Most bytes the whole store may take; zero = no limit.
    pub max_bytes: u64,
    /// Bytes to leave free on the file system.
    pub min_free: u64,
}

/// What an acknowledged message survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// A power cut: every commit is synced (`synchronous=FULL` in WAL mode).
    Full,
    /// A crash of the process, not a power cut (`synchronous=OFF`; WAL writes still reach the kernel before the acknowledgement).
    Process,
}

/// Settings of one stream, as far as the store enforces them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamSettings {
    /// Its name, `[A-Za-z0-9_.-]{1,64}`.
    pub name: String,
    /// Time to live; a message older than this leaves as expired.
    pub ttl: Option<Duration>,
    /// Most messages in the backlog; `None` = no limit.
    pub max_messages: Option<u64>,
    /// Most bytes in the backlog; `None` = no limit.
    pub max_bytes: Option<u64>,
    /// What happens to a message that does not fit.
    pub when_full: WhenFull,
    /// How long forwarded messages are kept for replay; zero = not at all.
    pub retain_sent: Duration,
}

/// What a stream at its limit does with the next message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// Refuse it: the publisher keeps it and learns of it.
    Reject,
    /// Drop the oldest messages until it fits.
    DropOldest,
    /// Drop it, and count it.
    DropNewest,
}

/// A stream: its place in the list given to [`open`](super::open), or as [`Handle::configure`](super::Handle::configure) gave it. The same stream
/// keeps it for as long as the process lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u32);

/// Place of a message in its stream. Starts at 1, only grows, is never used again, also across restarts.
pub type Sequence = u64;

/// One step of a client's conversation that must be on disk before it is acknowledged.
#[derive(Debug)]
pub enum Entry {
    /// A message to store.
    Publish(Publish),
    /// PUBREL: forget this packet id (MQTT 5, section 4.3.3), so that the client may use it for a new message.
    Release {
        /// The packet identifier that the client released.
        packet_id: u16,
    },
    /// A step of the delivery to a session. All but [`Step::Received`] may be committed later than others, within a second, for
    /// nobody waits for their outcome; but in order.
    Step {
        /// Whose queue.
        session: SessionId,
        /// Which message.
        seq: Sequence,
        /// What happened.
        step: Step,
    },
    /// A message leaves one queue as delivered, by being published anew: in one transaction, or not at all.
    Handover(Box<Handover>),
}

/// See [`Entry::Handover`].
#[derive(Debug)]
pub struct Handover {
    /// The queue that it leaves ...
    pub from: SessionId,
    /// ... and its place there. Where it is not there any more nothing is published: [`Outcome::Duplicate`].
    pub seq: Sequence,
    /// What it becomes. Where that is refused it stays where it is.
    pub publish: Publish,
}

/// A message on its way into the store.
#[derive(Debug)]
pub struct Publish {
    /// What to store.
    pub message: Message,
    /// The streams that take it, each once. Empty: nothing is stored, but a QoS 2 packet id is still remembered.
    pub streams: SmallVec<[StreamId; 2]>,
    /// For QoS 2 in a session that outlives its connection: remembered in the same transaction, until [`Entry::Release`].
    pub packet_id: Option<u16>,
    /// The sessions that outlive their connections and are to get it, each once: a copy is queued for each, in the same transaction.
    pub copies: Vec<SessionCopy>,
    /// Whether it is also to be kept as (or, with an empty payload, to delete) the retained message of its topic.
    pub set_retained: bool,
    /// Set by the store where `set_retained` was accepted: grows strictly, in the order of the commits, so that of two messages
    /// retained on one topic everybody keeps the same one.
    pub retained_revision: u64,
    /// Free for the caller: comes back with the verdict untouched (packet id, whose acknowledgement this becomes, ...).
    pub tag: u32,
}

/// What became of an [`Entry`]. Made only by the store, and only after the commit that holds the entry was synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Stored in every stream that takes it (or dropped and counted, as `when_full` of a stream says).
    Accepted,
    /// A QoS 2 packet id that is already remembered: nothing was stored again, the acknowledgement is due again. For
    /// [`Entry::Handover`]: the message had left its queue before.
    Duplicate,
    /// Not stored anywhere. For [`Entry::Release`] only ever [`Refusal::DiskFull`] or [`Refusal::Suspended`]: the packet id is still remembered, so
    /// PUBCOMP must not be sent; the client releases it again after it reconnects. For [`Entry::Step`] too, and only for
    /// [`Step::Received`]: PUBREL must not be sent.
    Refused(Refusal),
    /// The packet id is free again.
    Released,
    /// The step is taken; [`Step::Received`] only now allows PUBREL.
    Stepped,
}

/// Why a message was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// A stream with `when_full = "reject"` is at its limit.
    StreamFull(StreamId),
    /// The queue of a session with `when_full = "reject"` is at its limit.
    QueueFull,
    /// The whole store is at `max_bytes`.
    StoreFull,
    /// The disk is full, or less than `min_free` is left.
    DiskFull,
    /// The disk fails otherwise, or a damaged database is being salvaged: nothing can be stored until that is over.
    Suspended,
}

impl Refusal {
    /// The word for metrics and logs.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::StreamFull(_) => "stream-full",
            Self::QueueFull => "queue-full",
            Self::StoreFull => "store-full",
            Self::DiskFull => "disk-full",
            Self::Suspended => "suspended",
        }
    }

    /// The words for people.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::StreamFull(_) => "stream full",
            Self::QueueFull => "session queue full",
            Self::StoreFull => "max_bytes reached",
            Self::DiskFull => "disk full",
            Self::Suspended => "the store is suspended",
        }
    }
}

/// What a lane wants done with what is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnRefusal {
    /// Report it as [`Outcome::Refused`] and go on with the next (MQTT 5: the client gets 0x97).
    Report,
    /// Hand it back, and everything after it, to be submitted again when there is room (MQTT 3.1.1 has no code for it).
    /// QoS 0 messages are reported, dropped and counted all the same: nobody waits for their acknowledgement.
    Hold,
}

/// What comes back on a lane for every batch, in the order in which the batches were submitted.
#[derive(Debug)]
pub struct Returned {
    /// What was decided, in the order of submission.
    pub verdicts: Vec<(Entry, Outcome)>,
    /// What was not decided and must be submitted again, in order, after [`Lane::room`](super::Lane::room); only with [`OnRefusal::Hold`].
    pub held: Vec<Entry>,
}

/// A message read back from its stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its place in the stream.
    pub seq: Sequence,
    /// Bytes it counts for in the books: topic, payload, properties, client id.
    pub bytes: u32,
    /// When it was accepted, in milliseconds since 1970 (UTC), corrected once the clock of its boot was set.
    pub accepted_unix_ms: i64,
    /// Whether the clock of its boot has been set.
    pub clock_synced: bool,
    /// Its age in milliseconds when it was read: monotonic within a boot, by wall time across boots, never negative.
    pub age_ms: u64,
    /// The message.
    pub message: Message,
}

/// Where a stream stands; changes with every commit that touches it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// The oldest message of the backlog.
    pub head: Sequence,
    /// The sequence number that the next message will get; `head == next` when the backlog is empty.
    pub next: Sequence,
}

/// Where the replay of a stream stands; `next == end` where none runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReplayPosition {
    /// The number of the replay: tells one from the next.
    pub run: u64,
    /// All before this is done.
    pub next: Sequence,
    /// Behind the last message of it.
    pub end: Sequence,
}

/// How a message left its stream on the way upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// The upstream acknowledged it (QoS 0: it was written to the connection).
    Forwarded,
    /// Its own message expiry interval, or the stream's time to live, passed before it was sent.
    Expired,
    /// It goes to the dead letters: the upstream will never take it.
    Dead {
        /// One of a closed set of words, for the metric's label: `"damaged"`, and those of the forwarder (`forward::reasons`).
        reason: &'static str,
        /// The whole story, for the operator.
        detail: String,
    },
}

/// Neighbouring messages with the same fate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The first of them.
    pub first: Sequence,
    /// The last of them.
    pub last: Sequence,
    /// What became of them. `Dead` runs are one message long.
    pub fate: Fate,
}

/// Which dead letters are asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeadFilter {
    /// This one, whole; everything else then does not matter.
    pub id: Option<u64>,
    /// Of this stream only.
    pub stream: Option<StreamId>,
    /// Behind this id.
    pub after: u64,
    /// At most so many, and never more than [`DEAD_LIST_MAX`].
    pub limit: usize,
}

/// Most dead letters that one question gives.
pub const DEAD_LIST_MAX: usize = 1000;
