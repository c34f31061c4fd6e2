//! Every bound of the broker that is not a setting, by name.

use std::time::Duration;

/// Longest client id in bytes. The specifications promise clients 23; device names are longer than that.
pub(crate) const CLIENT_ID_MAX: usize = 256;
/// Most connections of one listener that have not sent their CONNECT yet; beyond it the oldest is closed.
pub(crate) const PENDING_CONNECTS_MAX: usize = 512;
/// Most bytes of packets that connections without a CONNECT have sent, over all listeners; beyond it the oldest is closed.
pub(crate) const PENDING_BYTES: usize = 8 << 20;
/// Largest CONNECT, however large `max_packet`: the longest will payload and as much again for everything else.
pub(crate) const CONNECT_MAX: u32 = 128 << 10;
/// What a client may publish at once after a pause: the messages of so much time at its `max_publish_rate`.
pub(crate) const PUBLISH_BURST: Duration = Duration::from_secs(1);
/// A client over its rate waits so much longer than needed, to be woken less often.
pub(crate) const PUBLISH_HOLD: Duration = Duration::from_millis(50);
/// Most sessions, connected and away together.
pub(crate) const SESSIONS_MAX: usize = 100_000;
/// Sessions that give way at once when there are so many.
pub(crate) const EVICTED_AT_ONCE: usize = 64;
/// Most bytes of the filters of one session; its record in the store is written anew at each change.
pub(crate) const SESSION_FILTER_BYTES: usize = 256 << 10;
/// Most subscriptions of all sessions together, ...
pub(crate) const ALL_SUBSCRIPTIONS: usize = 500_000;
/// ... most bytes of their filters ...
pub(crate) const ALL_FILTER_BYTES: usize = 64 << 20;
/// ... and most nodes of their index, at some 600 bytes each.
pub(crate) const INDEX_NODES_MAX: usize = 200_000;
/// Most levels of a subscribed filter; the index walks them recursively. Mosquitto's limit is 201.
pub(crate) const FILTER_LEVELS_MAX: usize = 256;
/// Highest topic alias a client may use towards us.
pub(crate) const TOPIC_ALIAS_MAX: u16 = 32;
/// Most bytes of topic names behind the aliases of one client; two of the longest topics fit.
pub(crate) const TOPIC_ALIAS_BYTES: usize = 128 << 10;
/// Most messages that wait for a session whose client is away (Mosquitto's `max_queued_messages` is 1000 as well).
pub(crate) const QUEUE_AWAY_MESSAGES: usize = 1000;
/// Most messages that wait for a connected client: room for what a group commit releases at once.
pub(crate) const QUEUE_MESSAGES: usize = 10_000;
/// A publisher pauses when this many messages wait for a connected subscriber that keeps up ...
pub(crate) const QUEUE_SOFT: usize = 2000;
/// ... until no more than this many wait ...
pub(crate) const QUEUE_LOW: usize = 1000;
/// ... or it takes less than [`KEEPS_UP`] in this time; then it is slow, and nobody waits for it again before it has caught up.
pub(crate) const PATIENCE: Duration = Duration::from_millis(50);
/// Messages that a subscriber takes in [`PATIENCE`] to be worth waiting for: 10 000 a second.
pub(crate) const KEEPS_UP: u64 = 500;
/// Most messages, and most bytes, of a durable queue that are also in memory because they were put in just now.
pub(crate) const CACHE_MESSAGES: usize = 2048;
pub(crate) const CACHE_BYTES: usize = 1 << 20;
/// Most bytes that wait for one session.
pub(crate) const QUEUE_BYTES: usize = 8 << 20;
/// Most bytes that wait for all sessions together.
pub(crate) const QUEUES_BYTES: usize = 64 << 20;
/// Most messages sent to one client and not acknowledged, however large its Receive Maximum.
pub(crate) const OUTGOING_WINDOW: u16 = 1024;
/// Bytes of such messages after which no more are sent.
pub(crate) const OUTGOING_BYTES: usize = 2 << 20;
/// When that is used up, a connected client still gets this much; who is away gets nothing.
pub(crate) const QUEUE_RESERVE: usize = 64 << 10;
/// Bytes of messages that a connection reads at a time from its durable queue in the store.
pub(crate) const PAGE_BYTES: usize = 64 << 10;
/// Bytes of messages that a connection takes off its queue at a time.
pub(crate) const FETCH_BYTES: usize = 512 << 10;
/// Most retained messages.
pub(crate) const RETAINED_MESSAGES: usize = 100_000;
/// Most bytes of retained messages.
pub(crate) const RETAINED_BYTES: usize = 64 << 20;
/// Most retained messages that are looked at, and found, at a time for a new subscription; then others have their turn.
pub(crate) const RETAINED_SCAN: usize = 2000;
pub(crate) const RETAINED_PAGE: usize = 64;
/// Most deletions of retained messages that are remembered for a while.
pub(crate) const BURIED_MAX: usize = 10_000;
/// Most messages of a durable queue beside which retained messages for a new subscription are added to it.
pub(crate) const REPLAY_WAITING: u64 = 64;
/// Expired retained messages that are forgotten in one commit.
pub(crate) const FORGOTTEN_AT_ONCE: usize = 1000;
/// Delayed wills that are published side by side.
pub(crate) const WILLS_AT_ONCE: usize = 64;
/// First and smallest read buffer of a connection.
pub(crate) const READ_MIN: usize = 1024;
/// Read buffer of a connection that was silent for [`IDLE`]: a ping and a short packet fit.
pub(crate) const READ_IDLE: usize = 64;
/// Largest read buffer, unless one packet needs more.
pub(crate) const READ_MAX: usize = 64 << 10;
/// No more packets are answered and no more messages sent while this many bytes wait to be written to a client.
pub(crate) const WRITE_HIGH: usize = 64 << 10;
/// A client that takes nothing of what waits for it for this long is disconnected.
pub(crate) const WRITE_STALL: Duration = Duration::from_secs(60);
/// Most publishes of one client between arrival and acknowledgement, QoS 0 included, beside its `max_inflight`.
pub(crate) const UNDECIDED_MAX: usize = 2048;
/// Bytes of messages of one client between arrival and decision after which it is not read; one batch may exceed it.
pub(crate) const UNDECIDED_BYTES: usize = 4 << 20;
/// How long a connection that ends may take to write its last bytes.
pub(crate) const LAST_WRITE: Duration = Duration::from_secs(5);
/// Most reads of what a client had already sent on a connection that it left for another.
pub(crate) const LAST_READS: usize = 16;
/// How long the successor of a connection waits for it to hand over its session.
pub(crate) const TAKEOVER: Duration = Duration::from_secs(30);
/// How long a connection that ends waits for the store's verdict on what it submitted.
pub(crate) const LAST_VERDICTS: Duration = Duration::from_secs(20);
/// How long a connection that ends, or begins, waits for the store to write its session down, and for its will.
pub(crate) const LAST_SAVE: Duration = Duration::from_secs(20);
/// How long the last wills may take when the gateway stops.
pub(crate) const LAST_WILLS: Duration = Duration::from_secs(5);
/// Messages of the gateway's own publisher that go into the store at once.
pub(crate) const PUBLISHER_BATCH: usize = 64;
/// Wills and messages of the gateway itself that wait to be published.
pub(crate) const PUBLISHER_QUEUE: usize = 1024;
/// Buffers of a connection that was silent for this long are given back.
pub(crate) const IDLE: Duration = Duration::from_secs(10);
