//! What the rooms say of themselves: plain figures that the admin room shows and the tests read.

use std::time::Duration;

use serde::Serialize;

use crate::message::Message;

/// Upper ends of the buckets of durations, in seconds: half a millisecond (flash with a capacitor) to ten seconds (a card that cleans up, a link by satellite).
pub const DURATION_BUCKETS_S: [f64; 14] =
    [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];

/// Why a stream drops messages: the words of `tidegate_stream_dropped_total{reason}`.
pub const DROP_REASONS: [&str; 6] = ["oldest", "newest", "too-large", "offline", "qos0-full", "damaged"];

/// Why messages become dead letters: the words of `tidegate_stream_dead_total{reason}`.
pub const DEAD_REASONS: [&str; 6] = ["too-large", "topic", "refused", "hung-up", "unanswered", "damaged"];

/// The books of one stream (contract, section 1): `accepted = forwarded + expired + dropped + dead + purged + backlog`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct StreamStats {
    /// The stream's name.
    pub name: String,
    /// The uplink it goes to; `None` where it is kept locally only.
    pub to: Option<String>,
    /// Whether the configuration still has it; the rows of one that it does not have stay until they are purged.
    pub configured: bool,
    /// Whether it forwards nothing new, because an operator said so.
    pub paused: bool,
    /// Forwarded messages that are kept for replay; no part of the backlog.
    pub kept_messages: u64,
    /// Their bytes.
    pub kept_bytes: u64,
    /// Messages that the upstream acknowledged again, in replays; no part of the books.
    pub replayed: u64,
    /// How many messages the replay that runs still has to send, at most; `None` where none runs.
    pub replay_left: Option<u64>,
    /// Messages entered in the books since the store was made.
    pub accepted: u64,
    /// Acknowledged by the upstream.
    pub forwarded: u64,
    /// Left because their time to live had passed.
    pub expired: u64,
    /// Left through `when_full`, by reason.
    pub dropped: Vec<(String, u64)>,
    /// Moved to the dead letters, by reason.
    pub dead: Vec<(String, u64)>,
    /// Removed by an operator.
    pub purged: u64,
    /// Accepted and not yet gone.
    pub backlog_messages: u64,
    /// Bytes of the backlog: topic, payload, properties and client id.
    pub backlog_bytes: u64,
    /// Age of the oldest message of the backlog; `None` when there is none.
    pub oldest_age: Option<Duration>,
    /// Most messages of the backlog; `None` = no limit.
    pub limit_messages: Option<u64>,
    /// Most bytes of the backlog; `None` = no limit.
    pub limit_bytes: Option<u64>,
}

impl StreamStats {
    /// Messages dropped for any reason.
    pub fn dropped_total(&self) -> u64 {
        self.dropped.iter().map(|(_, count)| count).sum()
    }

    /// Messages moved to the dead letters for any reason.
    pub fn dead_total(&self) -> u64 {
        self.dead.iter().map(|(_, count)| count).sum()
    }

    /// How much of what its limits allow the backlog takes, 1 = all of it; `None` where there is no limit.
    #[expect(clippy::cast_precision_loss, reason = "a share to look at may be rounded")]
    pub fn share_of_limit(&self) -> Option<f64> {
        let share = |part: u64, limit: Option<u64>| limit.map(|limit| part as f64 / (limit as f64).max(1.0));
        let shares = [share(self.backlog_messages, self.limit_messages), share(self.backlog_bytes, self.limit_bytes)];
        shares.into_iter().flatten().reduce(f64::max)
    }

    /// Whether the books balance (guarantee G4).
    pub fn balances(&self) -> bool {
        self.accepted
            == self.forwarded
                + self.expired
                + self.dropped_total()
                + self.dead_total()
                + self.purged
                + self.backlog_messages
    }
}

/// The books of one downlink: `received = delivered + expired + dropped + waiting`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct DownlinkStats {
    /// Its name.
    pub name: String,
    /// The uplink that it takes messages from.
    pub from: String,
    /// Messages that came and are, or were, on disk.
    pub received: u64,
    /// Taken by a local client.
    pub delivered: u64,
    /// Nobody took them within their time to live.
    pub expired: u64,
    /// Dropped, by reason.
    pub dropped: Vec<(String, u64)>,
    /// Received and not yet gone.
    pub waiting_messages: u64,
    /// Bytes of them.
    pub waiting_bytes: u64,
}

impl DownlinkStats {
    /// Whether the books balance.
    pub fn balances(&self) -> bool {
        let dropped = self.dropped.iter().map(|(_, count)| count).sum::<u64>();
        self.received == self.delivered + self.expired + dropped + self.waiting_messages
    }
}

/// The store at a glance.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct StoreStats {
    /// Bytes of live data in the database file (its pages less the free ones).
    pub bytes: u64,
    /// Bytes free on the file system that holds it.
    pub free_bytes: u64,
    /// Bytes given to the storage below since the program started, as the kernel counts them; what wears flash.
    pub written_bytes: u64,
    /// Time since the last commit; `None` before the first.
    pub last_commit_ago: Option<Duration>,
    /// Why nothing can be accepted at the moment, if so (`"disk full"`, `"max_bytes reached"`).
    pub refusing: Option<String>,
    /// What is the matter with the disk while the store is suspended, as a sentence for people.
    pub suspended: Option<String>,
    /// How long the disk has been at what it was last asked to do, while it has not answered.
    pub stalled: Option<Duration>,
    /// How often a damaged database was salvaged, ever.
    pub salvages: u64,
    /// Messages that were lost to damage, ever.
    pub lost_messages: u64,
    /// Bytes of what was set aside, damaged or replaced by a restore, and can be deleted by hand.
    pub quarantine_bytes: u64,
    /// How far the check of all that is stored has come, 0 to 1; `None` where none was needed, for the last stop was clean.
    pub checked: Option<f64>,
}

/// State of the connection to one upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UplinkState {
    /// A connection is being made.
    Connecting,
    /// CONNACK came and said yes.
    Connected,
    /// Waiting before the next try.
    Waiting,
    /// The gateway is going down, or the uplink was never started.
    Stopped,
}

/// One uplink at a glance.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UplinkStats {
    /// The uplink's name.
    pub name: String,
    /// What it is doing.
    pub state: UplinkState,
    /// For how long.
    pub since: Duration,
    /// The last failure, in one line; `None` when there never was one.
    pub last_error: Option<String>,
    /// Messages sent and not yet acknowledged.
    pub in_flight: u64,
    /// Times a connection was made.
    pub connects: u64,
    /// The address in use, while connected.
    pub url: Option<String>,
}

/// One listener at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ListenerStats {
    /// The listener's name.
    pub name: String,
    /// The address it really listens on (the port the system gave, where 0 was asked for).
    pub bind: String,
    /// Clients connected.
    pub connections: u64,
}

/// A local client at a glance: one that is connected, or one that is away and whose session waits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientStats {
    /// The client id.
    pub id: String,
    /// For how long it has been connected, or away.
    pub since: Duration,
    /// Its connection; `None` while it is away.
    pub connection: Option<ClientConnection>,
    /// Whether its session outlives its connection, and so is on disk.
    pub lasting: bool,
    /// When its session ends, where it is away and that is not never.
    pub ends_in: Option<Duration>,
    /// Messages sent to it at QoS 1 or 2 and not acknowledged.
    pub in_flight: u64,
    /// Messages that wait to be sent to it.
    pub queued_messages: u64,
    /// Bytes of what waits, of what is in flight in a lasting session too.
    pub queued_bytes: u64,
    /// How many filters it is subscribed to.
    pub subscriptions: u64,
}

/// The connection of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientConnection {
    /// Who it is to access rules: a user name, `anonymous`, `cert:NAME`.
    pub user: String,
    /// Name of the listener that it came through.
    pub listener: String,
    /// Where it comes from.
    pub address: String,
    /// Version of MQTT.
    pub version: &'static str,
    /// Whether it asked for a new session.
    pub clean_start: bool,
    /// Keep alive in seconds; zero = none.
    pub keep_alive_s: u16,
}

/// Which clients are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientQuestion {
    /// Those that are connected.
    pub connected: bool,
    /// Those that are away and have a session.
    pub away: bool,
    /// Behind this id.
    pub after: Option<String>,
    /// At most so many.
    pub limit: usize,
}

/// Clients, in the order of their ids' bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientPage {
    /// Those that were asked for.
    pub clients: Vec<ClientStats>,
    /// How many are connected in all.
    pub connected: u64,
    /// How many are away and have a session.
    pub away: u64,
    /// Whether there are more behind the last one.
    pub more: bool,
}

/// What was done with a message that an operator or a program published.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Published {
    /// The streams that took it.
    pub streams: Vec<String>,
    /// Lasting local sessions that it was queued for, on disk.
    pub sessions: u64,
    /// Whether it is the retained message of its topic now (or, empty, has deleted that).
    pub retained: bool,
}

/// All dead letters together: `buried = messages + retried + purged + dropped`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DeadStats {
    /// Those that are kept.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Put back into their streams.
    pub retried: u64,
    /// Removed by an operator.
    pub purged: u64,
    /// Dropped because there were too many.
    pub dropped: u64,
}

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its id; only grows, never used again.
    pub id: u64,
    /// The stream it was in.
    pub stream: String,
    /// Its number there.
    pub seq: u64,
    /// Why, in one word.
    pub reason: String,
    /// The whole story.
    pub detail: String,
    /// When it became a dead letter, in milliseconds since 1970; `None` where nobody knows any more.
    pub died_unix_ms: Option<i64>,
    /// When it was accepted.
    pub accepted_unix_ms: Option<i64>,
    /// Bytes it counts for.
    pub bytes: u64,
    /// The client that published it, where that can be read.
    pub client: Option<String>,
    /// The topic it was published to, where that can be read.
    pub topic: Option<String>,
    /// The message, where it was asked for and can be read.
    pub message: Option<Message>,
}
