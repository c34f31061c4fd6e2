//! The books of a stream as they are shown, whether the store runs or is read at rest.

use std::time::Duration;

use super::{
    books::Books,
    clock::{Boots, Now},
};
use crate::stats::StreamStats;

/// The books of a stream as they are shown, but for its limits, of which they do not know.
pub(super) fn stream_stats(
    name: &str,
    configured: bool,
    books: &Books,
    head_at: (i64, u64),
    known_boots: &Boots,
    now: Now,
) -> StreamStats {
    let backlog_messages = books.backlog_messages();
    let oldest = || Duration::from_millis(known_boots.age_ms(head_at.0, head_at.1, now));
    StreamStats {
        name: name.to_owned(),
        to: None,
        configured,
        paused: books.operated.paused,
        kept_messages: books.operated.kept.messages,
        kept_bytes: books.operated.kept.bytes,
        replayed: books.operated.replayed,
        replay_left: books.operated.replay.as_ref().map(|replay| replay.left(books.tail)),
        accepted: books.accepted,
        forwarded: books.forwarded,
        expired: books.expired,
        dropped: books.dropped.entries(),
        dead: books.dead.entries(),
        purged: books.purged,
        backlog_messages,
        backlog_bytes: books.backlog_bytes(),
        oldest_age: (backlog_messages > 0).then(oldest),
        limit_messages: None,
        limit_bytes: None,
    }
}
